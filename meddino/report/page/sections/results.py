"""The section of tables: each of the paper's tables, and a chart of each of its columns."""

from typing import Any

import pandas as pd

from meddino.report.options import ReportOptions, TableOptions
from meddino.report.page.charts.chart import Chart, span
from meddino.report.page.charts.results import column
from meddino.report.page.names import benchmark_label
from meddino.report.tables.beyond import mark
from meddino.report.tables.cells import column_cells, number
from meddino.report.tables.footnotes import footnotes
from meddino.report.tables.metrics import METRICS
from meddino.report.tables.remarks import remarks

COLUMNS = 4
"""Most columns beside each other; a table of more is divided by metric."""


def table_section(options: ReportOptions, lines: pd.DataFrame) -> dict[str, Any]:
    """One table: its title, the row it compares with, footnotes, remarks, and blocks by protocol.

    Args:
        options: names, and the tables of the study.
        lines: of one table, as in its CSV file.
    """
    name = str(lines["table"].iloc[0])
    table = next((table for table in options.tables if table.name == name), None)
    protocol = table.table.protocol if table else "paper"
    blocks = {
        key: _blocks(options, table, part) for key, part in lines.groupby("protocol", sort=False)
    }
    printed = lines[lines["protocol"] == protocol]
    return {
        "name": name,
        "title": table.table.title if table else name,
        "shown": blocks.pop(protocol),
        "others": blocks,
        "base": table.method_labels.get(table.table.compare_with or "") if table else None,
        "footnotes": footnotes(table, printed) if table else [],
        "remarks": remarks(table, printed) if table else [],
        "metrics": lines["metric"].drop_duplicates().tolist(),
        "benchmarks": [
            (key, benchmark_label(options, key))
            for key in lines["benchmark"].drop_duplicates().tolist()
        ],
    }


def _blocks(
    options: ReportOptions, table: TableOptions | None, lines: pd.DataFrame
) -> list[dict[str, Any]]:
    """The lines of one protocol as blocks that fit the page."""
    if len(lines[["metric", "benchmark"]].drop_duplicates()) > COLUMNS:
        return [_block(options, table, part) for _, part in lines.groupby("metric", sort=False)]
    return [_block(options, table, lines)]


def _block(
    options: ReportOptions, table: TableOptions | None, lines: pd.DataFrame
) -> dict[str, Any]:
    """Groups of columns, and rows of label, mark, variant of CT-3M, and cells."""
    units = lines.groupby("metric", sort=False)["unit"].first()
    pairs = lines[["metric", "benchmark"]].drop_duplicates().values.tolist()
    columns = [column_cells(lines, benchmark, metric) for metric, benchmark in pairs]
    rows = [
        {
            "label": row["row"],
            "mark": mark(table, row["method"]) if table else "",
            "data": row["data"],
            "cells": [column[row["method"]] for column in columns],
        }
        for row in lines.drop_duplicates("method").to_dict("records")
    ]
    groups = [
        (f"{metric} ({unit})", [benchmark_label(options, b) for m, b in pairs if m == metric])
        for metric, unit in units.items()
    ]
    return {
        "groups": groups,
        "lines": rows,
        "seen": bool((lines["data"] != "none").any()),
        "paper": bool(lines["paper"].notna().any()),
    }


def table_charts(lines: pd.DataFrame) -> dict[str, Chart]:
    """A chart of each column of each table, by `table/<table>/<benchmark>/<metric>`.

    Columns without a single value have none. Those of a table that have a unit in common share
    their axis, so that benchmarks can be compared.

    Args:
        lines: of all tables, as in their CSV files.
    """
    printed = lines[lines["protocol"] == "paper"]
    shown = printed[printed[["ours", "paper"]].notna().any(axis=1)]
    charts = {}
    for (table, unit), part in shown.groupby(["table", "unit"], sort=False):
        domain = _domain(part)
        for (benchmark, metric), _ in part.groupby(["benchmark", "metric"], sort=False):
            rows = _dots(printed, {"table": table, "benchmark": benchmark, "metric": metric})
            charts[f"table/{table}/{benchmark}/{metric}"] = column(
                rows, f"{metric} ({unit})", domain
            )
    return charts


def _domain(lines: pd.DataFrame) -> list[float]:
    """The ends of an axis for all values of lines, within those that their metrics can have."""
    low, high = span(map(number, lines[["ours", "low", "high", "paper"]].to_numpy().ravel()))
    lowest, highest = zip(*(METRICS[m].bounds for m in lines["metric"].unique()), strict=True)
    return [max(low, min(lowest)), min(high, max(highest))]


def _dots(lines: pd.DataFrame, column_of: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a column's chart: label, this run with its interval, and the paper."""
    chosen = lines[(lines[list(column_of)] == pd.Series(column_of)).all(axis=1)]
    return [
        {"row": line["row"], **{k: number(line[k]) for k in ("ours", "low", "high", "paper")}}
        for line in chosen.to_dict("records")
    ]
