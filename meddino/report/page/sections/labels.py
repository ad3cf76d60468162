"""The section of the label curve: scores by the number of training cases, and how many suffice."""

from pathlib import Path
from typing import Any

from meddino.report.options import ReportOptions
from meddino.report.page.charts.chart import Chart
from meddino.report.page.charts.training import curves
from meddino.report.page.inputs import read_object
from meddino.report.page.names import ordered_methods

Curve = dict[str, Any]
"""The content of `label_curve.json`."""


def read(path: Path | None) -> Curve | None:
    """The curves of all benchmarks; None without a file.

    Raises:
        MeddinoError: the file is missing or damaged.
    """
    names = ("methods", "method_labels", "benchmarks", "benchmark_labels")
    keys = (*names, "metric", "points", "needed")
    return None if path is None else read_object(path, *keys)


def charts(options: ReportOptions, curve: Curve | None) -> dict[str, Chart]:
    """A chart of each benchmark, by `label_curve/<benchmark>`."""
    if curve is None:
        return {}
    drawn = {}
    labels = curve["method_labels"]
    for benchmark in curve["benchmarks"]:
        points = _of(curve["points"], benchmark)
        rows = [
            {
                "series": labels[point["method"]],
                "x": point["training_cases"],
                "y": _rounded(point["score"]),
                "low": _rounded(point["low"]),
                "high": _rounded(point["high"]),
            }
            for point in points
            if point["score"] is not None
        ]
        if rows:
            metric = f"{curve['metric']} (%)"
            drawn[f"label_curve/{benchmark}"] = curves(
                rows,
                [labels[method] for method in ordered_methods(options, curve["methods"])],
                "Training cases",
                metric,
                f"{metric} by number of training cases on {curve['benchmark_labels'][benchmark]}",
                ticks=sorted({row["x"] for row in rows}),
            )
    return drawn


def section(curve: Curve | None) -> dict[str, Any] | None:
    """What the section prints: for each benchmark its points and its comparisons, as texts."""
    if curve is None:
        return None
    return {
        "metric": curve["metric"],
        "methods": [curve["method_labels"][method] for method in curve["methods"]],
        "benchmarks": [
            {
                "key": key,
                "label": curve["benchmark_labels"][key],
                "rows": _rows(curve, key),
                "needed": [_needed(curve, line) for line in _of(curve["needed"], key)],
                "cases": max(point["validation_cases"] for point in _of(curve["points"], key)),
            }
            for key in curve["benchmarks"]
        ],
    }


def _of(lines: list[dict[str, Any]], benchmark: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["benchmark"] == benchmark]


def _rows(curve: Curve, benchmark: str) -> list[dict[str, Any]]:
    """A row for each share of the cases, with the points of all methods in their order."""
    points = _of(curve["points"], benchmark)
    return [
        {
            "percent": percent,
            "cases": next(p["training_cases"] for p in points if p["percent"] == percent),
            "points": [
                next(p for p in points if (p["method"], p["percent"]) == (method, percent))
                for method in curve["methods"]
            ],
        }
        for percent in dict.fromkeys(point["percent"] for point in points)
    ]


def _needed(curve: Curve, line: dict[str, Any]) -> dict[str, Any]:
    """One comparison: who needs how many cases for whose score."""
    return {
        "method": curve["method_labels"][line["method"]],
        "other": curve["method_labels"][line["other"]],
        "score": line["score"],
        "all": line["all_cases"],
        "cases": line["estimate_cases"],
        "text": reach_text(line, "estimate"),
        "low": reach_text(line, "low"),
        "high": reach_text(line, "high"),
    }


def reach_text(line: dict[str, Any], which: str) -> str:
    """A number of cases as printed; `which` is `estimate`, `low` or `high`.

    Args:
        line: a comparison of `label_curve.json`.
        which: of it.
    """
    outcome, cases = line[f"{which}_outcome"], line[f"{which}_cases"]
    if outcome == "between":
        share = 100 * cases / line["all_cases"]
        return f"{cases:.1f} ({share:.0f} %)"
    return f"{cases:g} or fewer" if outcome == "fewest" else str(outcome)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
