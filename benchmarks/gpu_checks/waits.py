"""How often a step waits for the GPU, and where: each wait leaves it idle for a moment."""

import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from gpu_checks.bench import Bench, brief_stage
from gpu_checks.outcomes import Figures, Missed, Skip

MOST = 2
"""Waits of a step that are meant: its losses come to the CPU, where they are looked at."""
STEPS = (4, 12)
"""Iterations of a short and of a longer training: what they differ by is that of the steps."""
ROOT = Path(__file__).parents[2]
WARNING = "synchronizing CUDA operation"


def waits(bench: Bench) -> Figures:
    """Count what torch warns of, in all of two trainings, and take the difference."""
    if not bench.gpu:
        raise Skip("no GPU: CUDA counts the waits")
    bench.train("vits16", brief_stage(bench))  # what happens once, such as choosing kernels
    counts = []
    for iterations in STEPS:
        with counted() as places:
            torch.cuda.set_sync_debug_mode("warn")
            try:
                bench.train("vits16", brief_stage(bench, iterations=iterations))
            finally:
                torch.cuda.set_sync_debug_mode("default")
        counts.append(places)
    figures = per_step(*counts, steps=STEPS[1] - STEPS[0])
    if figures["waits_a_step"] > MOST:
        raise Missed(f"{figures['waits_a_step']:g} waits a step, not {MOST}", figures)
    return figures


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count warnings of waits by the project's line that waits."""
    places: Counter[str] = Counter()

    def note(message: Any, category: Any, file: str, line: int, *_: Any) -> None:
        if WARNING in str(message):
            places[_place(file, line)] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        yield places


def _place(file: str, line: int) -> str:
    """The innermost line of the package on the way there, or else the line itself."""
    package = ROOT / "meddino"
    for frame in reversed(traceback.extract_stack()):
        if Path(frame.filename).is_relative_to(package):
            return f"{Path(frame.filename).relative_to(ROOT)}:{frame.lineno}"
    return f"{Path(file).name}:{line}"


def per_step(short: Counter[str], long: Counter[str], *, steps: int) -> Figures:
    """What the longer training has more, for each of its further steps."""
    more = {place: (long[place] - short[place]) / steps for place in long}
    lines = {place: count for place, count in sorted(more.items()) if count > 0}
    return {"waits_a_step": sum(lines.values()), "lines": lines, "most": MOST}
