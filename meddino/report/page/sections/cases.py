"""The section of cases: scores of cases and structures, and pictures of each case."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from meddino.evaluate.scores import SEED
from meddino.evaluate.statistics import FEWEST_CASES
from meddino.report.options import ReportOptions
from meddino.report.page.charts import results
from meddino.report.page.charts.chart import Chart
from meddino.report.page.inputs import (
    AXES,
    MEDIA,
    SCORE_COLUMNS,
    data_uri,
    read_object,
    read_picture,
)
from meddino.report.page.names import benchmark_label, method_labels, ordered_methods
from meddino.report.tables.cells import number


def counts(options: ReportOptions, scores: pd.DataFrame) -> dict[str, Any]:
    """Numbers of `models`, `cases` (by benchmark) and `scores`, and names of `methods`."""
    run = [name for name in ("benchmark", "method", "fold", SEED) if name in scores]
    cases = scores.drop_duplicates(["benchmark", "case"]).groupby("benchmark", sort=False).size()
    return {
        "models": len(scores[run].drop_duplicates()),
        "methods": method_labels(options, scores["method"]),
        "cases": {str(name): int(count) for name, count in cases.items()},
        "scores": len(scores),
    }


def scores_by_benchmark(options: ReportOptions, scores: pd.DataFrame) -> dict[str, Any]:
    """The data of the charts of cases: for each benchmark `case_scores`, with printed names."""
    return {
        str(benchmark): _benchmark_scores(options, str(benchmark), part)
        for benchmark, part in scores.groupby("benchmark", sort=False)
    }


def _benchmark_scores(
    options: ReportOptions, benchmark: str, scores: pd.DataFrame
) -> dict[str, Any]:
    places = {name: place for place, name in enumerate(ordered_methods(options, scores["method"]))}
    ordered = scores.assign(place=scores["method"].map(places)).sort_values("place", kind="stable")
    content = case_scores(ordered)
    labels = [options.methods.get(method, method) for method in content["methods"]]
    return {**content, "labels": labels, "label": benchmark_label(options, benchmark)}


def case_scores(scores: pd.DataFrame) -> dict[str, Any]:
    """A benchmark's scores, small enough to stand in the page.

    Args:
        scores: rows of one benchmark.

    Returns:
        `cases`, `structures`, `methods` (keys), and `values`: metric -> method -> structure -> a
        value of each case, None where nothing was counted.
    """
    structures = scores.sort_values("label")["structure"].drop_duplicates().tolist()
    cases = sorted(scores["case"].unique().tolist())
    methods = scores["method"].drop_duplicates().tolist()
    values = {}
    for metric, (column, factor) in SCORE_COLUMNS.items():
        table = scores.pivot(index=["method", "structure"], columns="case", values=column)
        values[metric] = [
            [
                _rounded(table.loc[(method, name)].reindex(cases) * factor)
                if (method, name) in table.index
                else [None] * len(cases)
                for name in structures
            ]
            for method in methods
        ]
    return {"cases": cases, "structures": structures, "methods": methods, "values": values}


def _rounded(values: pd.Series) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 2) for value in values]


def case_charts(options: ReportOptions, scores: pd.DataFrame) -> dict[str, Chart]:
    """Two charts for each benchmark and metric: `cases/...` and `structures/...`."""
    series = method_labels(options, scores["method"])
    charts = {}
    for benchmark, part in scores.groupby("benchmark", sort=False):
        methods = method_labels(options, part["method"])
        for metric, (column, factor) in SCORE_COLUMNS.items():
            key = f"{benchmark}/{metric}"
            charts[f"cases/{key}"] = results.cases(methods, series, AXES[metric])
            better = "low" if metric == "HD95" else "high"
            means = _structure_means(options, part.assign(value=part[column] * factor))
            charts[f"structures/{key}"] = results.structures(means, methods, AXES[metric], better)
    return charts


def _structure_means(options: ReportOptions, scores: pd.DataFrame) -> list[dict[str, Any]]:
    """Means of the column `value` by structure and method, with printed names.

    The `label` of a structure says so where all of its means are of few cases.
    """
    ordered = scores.sort_values("label", kind="stable")
    values = ordered.groupby(["structure", "method"], sort=False)["value"]
    means = values.agg(["mean", "count"]).reset_index()
    cases = means.groupby("structure")["count"].max()
    few = {name: f"{name} (n = {n})" for name, n in cases.items() if 0 < n < FEWEST_CASES}
    return [
        {
            "structure": row["structure"],
            "label": few.get(row["structure"], row["structure"]),
            "method": options.methods.get(row["method"], row["method"]),
            "value": number(round(row["mean"], 2)),
        }
        for row in means.to_dict("records")
    ]


def structure_rows(options: ReportOptions, scores: pd.DataFrame) -> list[dict[str, Any]]:
    """Mean of each structure, for every run, and the number of cases whose DSC is counted.

    Names are the printed ones; a mean is None where nothing was counted.
    """
    columns = [column for column, _ in SCORE_COLUMNS.values()]
    keys = ["benchmark", "structure", "method"]
    groups = scores.groupby(keys, sort=False)
    means = groups[columns].mean().assign(cases=groups[columns[0]].count()).reset_index()
    return [
        {
            "benchmark": benchmark_label(options, row["benchmark"]),
            "structure": row["structure"],
            "method": options.methods.get(row["method"], row["method"]),
            "cases": row["cases"],
            "values": [number(row[column] * factor) for column, factor in SCORE_COLUMNS.values()],
        }
        for row in means.to_dict("records")
    ]


def case_pictures(path: Path) -> dict[str, Any]:
    """The cases of a benchmark with their pictures inside.

    Args:
        path: `overlays/<benchmark>/index.json`, beside the pictures.

    Raises:
        MeddinoError: the file is damaged, or a picture is missing.
    """
    index = read_object(path, "cases", "structures")

    def uri(name: str) -> str:
        return data_uri(read_picture(path.parent / name, path), MEDIA[Path(name).suffix])

    for case in index["cases"]:
        case |= {key: uri(case[key]) for key in ("image", "reference")}
        case["methods"] = {method: uri(name) for method, name in case["methods"].items()}
    return index
