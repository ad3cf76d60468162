"""Where tests find the checkout and what lies beside it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The checkout."""
GOLDEN = ROOT / "tests" / "golden"
"""Recorded numbers of public code, and recorded plans."""
SHARED = ROOT.parent / "shared"
"""Real scans and further numbers, where there are any; tests that need them skip elsewhere."""
