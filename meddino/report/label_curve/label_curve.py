"""The `label_curve` verb: scores by the number of training cases, and how many a method needs."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from meddino.core.errors import MeddinoError
from meddino.core.files import atomic, read_json, write_json
from meddino.core.nnunet import benchmark_of
from meddino.core.subsets import share_of
from meddino.evaluate import statistics
from meddino.evaluate.scores import read_scores
from meddino.report.label_curve.options import ALL, LabelCurveOptions, method_on
from meddino.report.label_curve.reach import needed
from meddino.report.tables.cells import number
from meddino.report.tables.metrics import METRICS
from meddino.report.tables.samples import case_values

METRIC, PROTOCOL = "DSC", "paper"


def run(
    options: LabelCurveOptions, *, scores: list[Path], splits: list[Path], output: Path
) -> None:
    """Write the curves and what follows from them.

    Args:
        options: methods, benchmarks and shares of the cases.
        scores: scores of the curve's runs, from `evaluate`.
        splits: `DatasetNNN_<benchmark>/splits_final.json` of each benchmark.
        output: `label_curve.json`: `points` (mean DSC in %, its 95 % interval, by `benchmark`,
            `method` and `percent`) and `needed` (how many cases a `method` needs for the `score`
            that the `other` has with all). Beside it the same as `points.csv` and `needed.csv`.

    Raises:
        MeddinoError: a file is damaged, or scores or the split of a run are missing.
    """
    rows = read_scores(scores)
    points: list[dict[str, Any]] = []
    comparisons: list[dict[str, Any]] = []
    for benchmark in options.benchmarks:
        counts = training_cases(options, _split(splits, benchmark))
        tables = {
            (method, percent): _values(rows, benchmark, method_on(method, percent))
            for method in options.methods
            for percent in options.percent
        }
        points += _points(options, benchmark, counts, tables)
        comparisons += _comparisons(options, benchmark, counts, tables)
    listed = {"methods", "method_labels", "benchmarks", "benchmark_labels"}
    names = options.model_dump(mode="json", include=listed)
    for name, lines in (("points", points), ("needed", comparisons)):
        with atomic(output.with_name(f"{name}.csv")) as temporary:
            pd.DataFrame(lines).to_csv(temporary, index=False)
    write_json(output, {**names, "metric": METRIC, "points": points, "needed": comparisons})
    print(f"{len(points)} points, {len(comparisons)} comparisons", file=sys.stderr)


def training_cases(options: LabelCurveOptions, split: list[dict[str, list[str]]]) -> list[float]:
    """How many cases are trained on at each share: the mean over folds, which differ by a case."""
    sizes = [len(split[fold]["train"]) for fold in options.folds]
    return [
        float(np.mean([share_of(size, percent) for size in sizes])) for percent in options.percent
    ]


def _split(splits: list[Path], benchmark: str) -> list[dict[str, list[str]]]:
    for path in splits:
        if benchmark_of(path) == benchmark:
            split: list[dict[str, list[str]]] = read_json(path)
            return split
    raise MeddinoError(f"there is no split of {benchmark}; give its splits_final.json to --splits")


def _values(rows: pd.DataFrame, benchmark: str, method: str) -> pd.DataFrame:
    """DSC (%), validation cases by structures, of one run in all of its folds."""
    chosen = rows[(rows["benchmark"] == benchmark) & (rows["method"] == method)]
    if len(chosen) == 0:
        raise MeddinoError(f"there are no scores of {method} on {benchmark}; run it, or leave it")
    return case_values(chosen, METRIC, PROTOCOL)


Tables = dict[tuple[str, int], pd.DataFrame]
"""DSC (%) by method and share of the cases (%)."""


def _points(
    options: LabelCurveOptions, benchmark: str, counts: list[float], tables: Tables
) -> Iterator[dict[str, Any]]:
    for method in options.methods:
        for percent, cases in zip(options.percent, counts, strict=True):
            values = tables[method, percent].to_numpy()
            low, high = np.clip(statistics.interval(values), *METRICS[METRIC].bounds)
            yield {
                "benchmark": benchmark,
                "method": method,
                "percent": percent,
                "training_cases": cases,
                "score": number(statistics.mean(values)),
                "low": number(low),
                "high": number(high),
                "validation_cases": len(values),
            }


def _comparisons(
    options: LabelCurveOptions, benchmark: str, counts: list[float], tables: Tables
) -> Iterator[dict[str, Any]]:
    for method in options.methods:
        curve = [tables[method, percent] for percent in options.percent]
        for other in options.methods:
            if other == method:
                continue
            target = tables[other, ALL]
            reaches = needed(counts, curve, target)
            yield {
                "benchmark": benchmark,
                "method": method,
                "other": other,
                "score": number(statistics.mean(target.to_numpy())),
                "all_cases": counts[-1],
                **{
                    f"{name}_{field}": value
                    for name, reach in zip(reaches._fields, reaches, strict=True)
                    for field, value in reach._asdict().items()
                },
            }
