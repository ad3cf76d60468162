"""The numbers of a table: means, intervals and tests of its runs, beside the paper's values."""

import json
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
from meddino.report.tables import samples
from meddino.report.tables.beyond import mark
from meddino.report.tables.metrics import METRICS
from meddino.report.tables.samples import Sample

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
        `protocol`, `ours`, `low` and `high` (95 % interval), `paper`, `difference` (from the
        paper), `compared_with` (the method whose `ours` the next ones are about), `contrast`
        (`ours` less that), `contrast_low` and `contrast_high` (95 % interval), `p` (corrected over
        all tests of the protocol), `tests` (their number), `cases`, `few` (JSON: structures with
        fewer than `statistics.FEWEST_CASES` cases, and how many), `planned_px` (empty where
        unknown); `mark` where some row is of a kind that the paper does not compare. Where methods
        were trained with several seeds, also `seeds` (of the row, on the benchmark) and `folds` (a
        training of each seed in each).
    """
    lines = pd.DataFrame(
        {**line, "planned_px": planned_px.get(benchmark, "")}
        for metric in options.table.metrics
        for benchmark in options.table.benchmarks
        for protocol in PROTOCOLS
        for line in _column_lines(options, scores, benchmark, metric, protocol)
    )
    if options.beyond:
        lines["mark"] = [mark(options, method) for method in lines["method"]]
    # A reader of a table looks at all of its tests, so that all of them are one family.
    tests = lines.groupby("protocol")["p"]
    return lines.assign(
        p=tests.transform(lambda p: statistics.holm(p.to_numpy())), tests=tests.transform("count")
    )


def _column_lines(
    options: TableOptions, scores: pd.DataFrame, benchmark: str, metric: str, protocol: str
) -> Iterator[dict[str, Any]]:
    """Lines of a column's cells, row by row; `p` is not corrected yet."""
    of_benchmark = scores[scores["benchmark"] == benchmark]
    tables = {
        method: samples.sample(of_benchmark[of_benchmark["method"] == method], metric, protocol)
        for method in options.table.rows
    }
    # The authors' script counts by protocol `paper`: their values stand beside no other.
    printed = paper_values().get(options.name, {}) if protocol == "paper" else {}
    smallest, largest = METRICS[metric].bounds
    base = options.table.compare_with
    for method, table in tables.items():
        ours = samples.mean(table)
        low, high = np.clip(samples.interval(table), smallest, largest)
        contrast = statistics.UNKNOWN
        if base is not None and method != base:
            contrast = samples.contrast(table, tables[base])
        ends = np.clip((contrast.low, contrast.high), smallest - largest, largest - smallest)
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
            "compared_with": base if base != method else None,
            "contrast": contrast.difference,
            "contrast_low": ends[0],
            "contrast_high": ends[1],
            "p": contrast.p,
            "cases": len(table.cases),
            **({} if options.seed is None else {"seeds": len(table.by_seed), "folds": table.folds}),
            "few": json.dumps(few_cases(table)),
        }


def few_cases(values: Sample) -> dict[str, int]:
    """Structures with a value in too few cases for a test, and in how many."""
    counts = values.counts()
    few = counts[(counts > 0) & (counts < statistics.FEWEST_CASES)]
    return {str(name): int(count) for name, count in few.items()}
