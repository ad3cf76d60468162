"""The same steps on the CPU in fp32 and on the GPU in fp32 and bf16: losses and gradient norms."""

from dataclasses import replace

from gpu_checks.bench import Bench, brief_stage, exact, largest_difference
from gpu_checks.outcomes import Figures, Missed

TOLERANCES = {"fp32": 1e-4, "bf16": 5e-2}
"""Largest relative difference of a loss or gradient norm."""


def parity(bench: Bench) -> Figures:
    """Two steps, so that the second one tells of the optimiser and of the moving average."""
    exact()
    figures: Figures = {"tolerances": TOLERANCES}
    missed = []
    for backbone in ("vittiny8",) if bench.small else ("vittiny8", "vits16"):
        stage = brief_stage(bench)
        reference = bench.train(backbone, replace(stage, device="cpu"))
        for precision, tolerance in TOLERANCES.items():
            lines = bench.train(backbone, replace(stage, precision=precision))
            difference, name = max(map(largest_difference, lines, reference))
            figures[f"{backbone} {precision}"] = {"difference": difference, "of": name}
            if difference > tolerance:
                missed.append(f"{backbone} in {precision}: {name} differs by {difference:.2g}")
    if missed:
        raise Missed("; ".join(missed), figures)
    return figures
