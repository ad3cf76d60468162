"""Scores by structure: every case of every method as a dot."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from meddino.evaluate.scores import SEED, over_trainings
from meddino.report.figures.runs import by_benchmark
from meddino.report.options import PlotOptions
from meddino.report.style import Figure, figure, legend, marks


def structure_scores(
    options: PlotOptions, scores: pd.DataFrame, predictions: Sequence[Path], folder: Path
) -> Iterator[Figure]:
    """DSC of every case by structure and method, a figure for every benchmark.

    Methods are in the order of `predictions`. Benchmarks of more structures get wider figures. Of
    several trainings, a case has the mean.
    """
    seeds = ", the mean over its trainings" if SEED in scores else ""
    scores = over_trainings(scores)
    order = by_benchmark(predictions)
    for key, rows in scores.groupby("benchmark", sort=False):
        benchmark = str(key)
        names = rows.sort_values("label")["structure"].drop_duplicates().tolist()
        scored = set(rows["method"])
        methods = [method for method in order[benchmark] if method in scored]
        path = folder / f"scores_{benchmark}.png"
        width = max(4.0, 0.13 * len(names) * (len(methods) + 2))
        with figure(options.look, path, 1, 1, (min(width, 14.0), 3.2)) as axes:
            _strips(axes[0, 0], options, rows, names, methods)
        title = f"DSC by structure, {options.benchmark_labels.get(benchmark, benchmark)}"
        caption = (
            f"A dot is a case{seeds}, a bar the mean; cases without the structure are left out."
        )
        yield Figure(path.name, "Evaluation", title, caption)


def _strips(
    axis: Any, options: PlotOptions, rows: pd.DataFrame, names: list[str], methods: list[str]
) -> None:
    step = 0.8 / len(methods)
    for number, (method, mark) in enumerate(
        zip(methods, marks(options.look, len(methods)), strict=True)
    ):
        for place, structure in enumerate(names):
            chosen = (rows["method"] == method) & (rows["structure"] == structure)
            values = rows.loc[chosen, "dsc_paper"].dropna().to_numpy() * 100
            x = place - 0.4 + (number + 0.5) * step
            label = options.method_labels.get(method, method) if place == 0 else None
            axis.plot(
                np.full(len(values), x),
                values,
                mark.marker,
                ms=3.2,
                mew=0,
                alpha=0.6,
                color=mark.colour,
                label=label,
            )
            if len(values):
                axis.hlines(values.mean(), x - step / 2, x + step / 2, color=mark.colour, lw=1.6)
    axis.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=8)
    axis.set_ylim(-3, 103)
    axis.set_ylabel("DSC (%)")
    axis.grid(axis="x", visible=False)
    legend(axis, markerscale=2.5)
