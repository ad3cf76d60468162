"""The section of transfer: a table and dot plots for each pair of benchmarks."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from meddino.report.page.charts.chart import Chart, Row, span
from meddino.report.page.charts.transfer import SERIES, dumbbells
from meddino.report.page.inputs import read_object
from meddino.report.tables.metrics import METRICS
from meddino.report.tables.transfer_formats import Estimate, columns

KEYS = ("title", "protocol", "metrics", "methods", "notes", "pairs", "lines", "means")
"""What the file of the table holds, as far as the page needs it."""
FIELDS = {"in-domain": "in_domain", "transferred": "transferred"}
"""Series of the charts, and their fields."""


def section(path: Path | None) -> dict[str, Any] | None:
    """The section; None where the study has no transfer.

    Args:
        path: `transfer.json`.

    Raises:
        MeddinoError: the file is missing or damaged.
    """
    if path is None:
        return None
    content = read_object(path, *KEYS)
    content["pairs"] = [
        {
            **pair,
            "tables": {
                protocol: [_table(content, pair, metric, protocol) for metric in content["metrics"]]
                for protocol in _protocols(content)
            },
            "structures": [_structures(content, pair, metric) for metric in content["metrics"]],
        }
        for pair in content["pairs"]
    ]
    return content


def _protocols(content: dict[str, Any]) -> list[str]:
    """The protocol that is shown, then the other ones."""
    names = dict.fromkeys(line["protocol"] for line in content["lines"])
    return [content["protocol"], *(name for name in names if name != content["protocol"])]


def _table(
    content: dict[str, Any], pair: dict[str, Any], metric: str, protocol: str
) -> dict[str, Any]:
    """Heads and rows of a metric: label, variant of CT-3M, and texts of each number."""
    shown = columns(pair, content["compared_with"])
    lines = [*_of(content["lines"], pair, metric=metric, protocol=protocol)]
    return {
        "metric": metric,
        "heads": [head[:1].upper() + head[1:] for *_, head in shown],
        "seen": any(line["data"] != "none" for line in lines),
        "cases": max((line["cases"] for line in lines), default=0),
        "rows": [
            {
                "label": line["row"],
                "data": line["data"],
                "cells": [
                    (line[name], *Estimate.of(line, name, p).texts(signed=name == "contrast"))
                    for name, p, _ in shown
                ],
            }
            for line in lines
        ],
    }


def _structures(content: dict[str, Any], pair: dict[str, Any], metric: str) -> dict[str, Any]:
    """Structures of a pair, and for each its means by method."""
    means = [*_of(content["means"], pair, metric=metric, protocol=content["protocol"])]
    by_structure: dict[str, list[dict[str, Any]]] = {}
    for line in means:
        by_structure.setdefault(line["structure"], []).append(line)
    return {"metric": metric, "rows": by_structure}


def _of(lines: Iterable[Row], pair: dict[str, Any], **wanted: str) -> Iterator[Row]:
    """Lines of a pair."""
    wanted |= {"train": pair["train"], "test": pair["test"]}
    return (line for line in lines if all(line[key] == value for key, value in wanted.items()))


def charts(content: dict[str, Any] | None) -> dict[str, Chart]:
    """Charts of methods and of structures: `transfer/<train>/<test>/<metric>`, and below `parts`.

    Args:
        content: as `section` gives it.
    """
    if content is None:
        return {}
    drawn = {}
    for pair in content["pairs"]:
        for metric in content["metrics"]:
            wanted = {"metric": metric, "protocol": content["protocol"]}
            key = f"{pair['train']}/{pair['test']}/{metric}"
            axis = f"{metric} ({METRICS[metric].unit})"
            rows = [_row(line, "row") for line in _of(content["lines"], pair, **wanted)]
            drawn[f"transfer/{key}"] = dumbbells(rows, ("Method", axis), _domain(rows, metric))
            means = [*_of(content["means"], pair, **wanted)]
            domain = _domain([_row(line, "structure") for line in means], metric)
            for method, _ in content["methods"]:
                rows = [_row(line, "structure") for line in means if line["method"] == method]
                drawn[f"transfer/parts/{key}/{method}"] = dumbbells(
                    rows, ("Structure", axis), domain
                )
    return drawn


def _row(line: Row, name: str) -> Row:
    """A row of a chart, with intervals where the line has some; of two digits."""
    row: dict[str, float | None] = {}
    for series in SERIES:
        field = FIELDS[series]
        ends = {f"{series} {end}": line.get(f"{field}_{end}") for end in ("low", "high")}
        row |= {series: line[field], **ends}
    rounded = {key: None if value is None else round(value, 2) for key, value in row.items()}
    return {"row": line[name], **rounded}


def _domain(rows: Iterable[Row], metric: str) -> list[float]:
    """The ends of an axis for all values, within those that the metric can have."""
    values = [value for row in rows for key, value in row.items() if key != "row"]
    low, high = span(values)
    return [max(low, METRICS[metric].bounds[0]), min(high, METRICS[metric].bounds[1])]
