"""The section of backbones: pretrained ViTs beside each other, with their sizes and terms."""

from pathlib import Path
from typing import Any

from meddino.report.page import inputs
from meddino.report.page.charts.backbones import named_points
from meddino.report.page.charts.chart import Chart, Row
from meddino.report.tables.backbones_picture import AXES
from meddino.report.tables.backbones_text import millions, text

KEYS = ("title", "benchmarks", "rows", "notes")
"""Keys of the comparison that the page shows."""


def read(path: Path | None) -> dict[str, Any] | None:
    """The content of `backbones.json`; None without a file.

    Raises:
        MeddinoError: the file is missing or damaged.
    """
    return None if path is None else inputs.read_object(path, *KEYS)


def figures(path: Path | None) -> list[Path]:
    """The list of pictures beside the comparison, if there is one."""
    return [] if path is None else [path.with_name("figures.json")]


def charts(content: dict[str, Any] | None) -> dict[str, Chart]:
    """Charts by `backbones/<benchmark>/<field>`: DSC over a field of `AXES`."""
    if content is None:
        return {}
    return {
        f"backbones/{benchmark}/{field}": named_points(points, title, logarithmic)
        for benchmark in content["benchmarks"]
        for field, (title, logarithmic) in AXES.items()
        if (points := _points(content["rows"], benchmark, field))
    }


def _points(rows: list[dict[str, Any]], benchmark: str, field: str) -> list[Row]:
    """DSC of a benchmark over a field, of the rows that have both."""
    return [
        {key: row[key] for key in ("label", "dsc", "low", "high")} | {"x": row[field]}
        for row in rows
        if row["benchmark"] == benchmark and None not in (row["dsc"], row[field])
    ]


def section(content: dict[str, Any] | None) -> dict[str, Any] | None:
    """What the template shows: lines of each benchmark, and of licences and sources."""
    if content is None:
        return None
    rows = content["rows"]
    return {
        "title": content["title"],
        "benchmarks": [
            {
                "label": label,
                "lines": [_line(row) for row in rows if row["benchmark"] == benchmark],
                "charts": [
                    (f"backbones/{benchmark}/{field}", f"{label}: DSC over {title}")
                    for field, (title, _) in AXES.items()
                    if _points(rows, benchmark, field)
                ],
            }
            for benchmark, label in content["benchmarks"].items()
        ],
        "terms": list({row["method"]: row for row in rows}.values()),
        "notes": content["notes"],
    }


def _line(row: dict[str, Any]) -> dict[str, Any]:
    cells = [
        {"value": row[field], "text": text(row[field], form), "interval": None}
        for field, form in (
            ("dsc", ".2f"), ("probe_linear", ".1f"), ("probe_knn", ".1f"),
            ("backbone_parameters", ""), ("parameters", ""),
            ("backbone_gflop", ".4g"), ("gflop", ".4g"),
        )
    ]  # fmt: skip
    for cell in cells[3:5]:
        cell["text"] = millions(cell["value"])
    if row["low"] is not None:
        cells[0]["interval"] = [f"{row['low']:.1f}", f"{row['high']:.1f}"]
    sides = " x ".join(map(str, row["input_px"]))
    return {"label": row["label"], "cells": cells, "input": sides}
