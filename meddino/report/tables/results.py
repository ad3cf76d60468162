"""The numbers of a table: means, intervals and tests of its runs, beside the paper's values."""

import math
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from meddino.evaluate import statistics
from meddino.report.options import TableOptions
from meddino.report.tables.metrics import METRICS

PROTOCOLS = ("paper", "area")


@cache
def paper_values() -> dict[str, Any]:
    """What the paper prints: table -> method -> benchmark -> metric -> %."""
    values: dict[str, Any] = yaml.safe_load(
        Path(__file__).with_name("paper.yaml").read_text(encoding="utf-8")
    )
    return values


def table_lines(
    options: TableOptions, scores: pd.DataFrame, planned_px: Mapping[str, str]
) -> pd.DataFrame:
    """All numbers of a table: a line for each row, column and protocol.

    Args:
        options: rows and columns.
        scores: rows of `evaluate`; methods without any get lines with 0 cases.
        planned_px: benchmark -> input of `2d` that nnU-Net planned, such as `640 x 640`.

    Returns:
        Columns `table`, `row` (label), `method`, `data`, `recipe`, `benchmark`, `metric`, `unit`,
        `protocol`, `ours`, `low` and `high` (95 % interval), `paper`, `difference`, `p`, `cases`,
        `planned_px` (empty where unknown).
    """
    return pd.DataFrame(
        {**line, "planned_px": planned_px.get(benchmark, "")}
        for metric in options.table.metrics
        for benchmark in options.table.benchmarks
        for protocol in PROTOCOLS
        for line in _column_lines(options, scores, benchmark, metric, protocol)
    )


def _column_lines(
    options: TableOptions, scores: pd.DataFrame, benchmark: str, metric: str, protocol: str
) -> Iterator[dict[str, Any]]:
    """Lines of a column's cells, row by row."""
    methods = options.table.rows
    of_benchmark = scores[scores["benchmark"] == benchmark]
    values = [
        case_values(of_benchmark[of_benchmark["method"] == method], metric, protocol)
        for method in methods
    ]
    # The authors' script counts by protocol `paper`: their values stand beside no other.
    printed = paper_values().get(options.name, {}) if protocol == "paper" else {}
    p_values = _p_values(options, values)
    for method, table, p in zip(methods, values, p_values, strict=True):
        ours, (low, high) = float(table.mean().mean()), statistics.interval(table.to_numpy())
        paper = printed.get(method, {}).get(benchmark, {}).get(metric, math.nan)
        yield {
            "table": options.name,
            "row": options.method_labels[method],
            "method": method,
            "data": options.method_data[method],
            "recipe": options.recipe,
            "benchmark": benchmark,
            "metric": metric,
            "unit": METRICS[metric].unit,
            "protocol": protocol,
            "ours": ours,
            "low": low,
            "high": high,
            "paper": paper,
            "difference": ours - paper,
            "p": p,
            "cases": len(table),
        }


def case_values(scores: pd.DataFrame, metric: str, protocol: str) -> pd.DataFrame:
    """A metric in the unit of the tables, cases by structures; NaN where a protocol counts nothing.

    The tables show their mean over cases, then over structures (section 4.1, authors' script): NaN
    are left out, as are structures without a single value.

    Args:
        scores: rows of one run, or none.
        metric: a key of `METRICS`.
        protocol: `paper` or `area`.
    """
    name, unit, _ = METRICS[metric]
    column = name.format(protocol=protocol)
    # HD95 and volumes have no protocols of their own: they count where the DSC does.
    counted = scores[column].where(scores[f"dsc_{protocol}"].notna())
    values = counted * 100 if unit == "%" else counted
    table = scores.assign(value=values)
    return table.pivot(index=["fold", "case"], columns="structure", values="value")


def _p_values(options: TableOptions, values: list[pd.DataFrame]) -> list[float]:
    """The p of each row against the one it is compared with, corrected for the number of rows."""
    base = options.table.compare_with
    if base is None:
        return [math.nan] * len(values)
    reference = values[options.table.rows.index(base)]
    uncorrected = [
        math.nan
        if method == base
        else statistics.wilcoxon(
            *(table.to_numpy() for table in own.align(reference, join="inner"))
        )
        for method, own in zip(options.table.rows, values, strict=True)
    ]
    return statistics.holm(np.array(uncorrected)).tolist()
