"""What came of the checks, as Markdown for RESULTS.md."""

from collections.abc import Iterator
from typing import Any

SPEED = {
    "slices_per_second": "slices/s",
    "tflops": "TFLOP/s",
    "mfu": "share of peak",
    "memory_gb": "memory, GB",
    "micro_batch": "slices at once",
    "warmup_seconds": "first steps, s",
    "graphs": "graphs",
    "graph_breaks": "breaks",
    "recompilations": "compiled again",
    "given_up": "given up",
}
"""Columns of the table of stages."""
BRIEF = 90
"""Letters of a reason that one line has room for."""


def brief(outcome: dict[str, Any]) -> str:
    """One line on a check."""
    reason = outcome.get("reason") or outcome.get("error", "")
    *_, last = reason.strip().splitlines() or [""]
    spent = f"{outcome['status']}, {outcome['seconds']:.0f} s"
    return f"{spent}: {last[:BRIEF]}" if last else spent


def tables(report: dict[str, Any]) -> str:
    """A table of the stages' speed, and one of all other figures."""
    checks = report["checks"]
    stages = [c for c in checks if "slices_per_second" in c.get("figures", {}) and _staged(c)]
    lines = [f"meddino {report['meddino']}, {report['commit']}{_dry(report)}", ""]
    if stages:
        lines += _table(["stage", *SPEED.values()], map(_speed_row, stages))
    rest = [check for check in checks if check not in stages]
    return "\n".join([*lines, *_table(["check", "outcome", "figures"], map(_row, rest))])


def _staged(check: dict[str, Any]) -> bool:
    return str(check["name"]).startswith("stage") and check["status"] == "ok"


def _dry(report: dict[str, Any]) -> str:
    return ", dry run on a CPU: its figures mean nothing" if report["dry_run"] else ""


def _table(headings: list[str], rows: Any) -> Iterator[str]:
    yield f"| {' | '.join(headings)} |"
    yield f"|{'---|' * len(headings)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"
    yield ""


def _speed_row(check: dict[str, Any]) -> list[str]:
    figures = check["figures"]
    return [check["name"], *(_value(figures.get(key, "-")) for key in SPEED)]


def _row(check: dict[str, Any]) -> list[str]:
    reason = check.get("reason") or check.get("error", "").strip()
    *_, last = reason.splitlines() or [""]
    figures = "; ".join(f"{key} {_value(x)}" for key, x in check.get("figures", {}).items())
    return [check["name"], f"{check['status']}{': ' * bool(last)}{last}", figures or "-"]


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return f"({', '.join(f'{key} {_value(x)}' for key, x in value.items())})"
    if isinstance(value, list):
        return ", ".join(map(_value, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
