"""Options of the procedural CT phantom (the workflow loads this module: nothing heavy here)."""

from typing import Literal

from pydantic import Field

from meddino.core.options import Options

LayoutName = Literal["amos22", "btcv", "kits23", "lits", "msd_spleen", "pancreas_ct"]


class Phantom(Options):
    """How much of one dataset's phantom to make."""

    cases: int = Field(12, ge=1, le=200)
    """Number of patients; in `amos22` every sixth of them is an MR case."""
    size_px: int = Field(160, ge=48, le=1024)
    """In-plane matrix, pixels a side."""
    slices: int = Field(40, ge=16, le=600)
    """Number of axial slices of a volume."""
    noise_hu: float = Field(14.0, ge=0, le=100)
    """Standard deviation of the noise of a typical case, HU at the patient's centre; the cases
    spread around it from 0.6 to 1.5 times."""
    seed: int = Field(0, ge=0)
    """Seed of everything drawn: anatomy, lesions, scanner, noise."""


class PhantomOptions(Phantom):
    """What `phantom` needs to make one dataset."""

    dataset: LayoutName
    """Dataset whose raw layout, label map and habits (orientation, padding) are imitated."""
