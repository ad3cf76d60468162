"""The `tables` verb: one of the paper's tables, beside the paper's values."""

import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

from meddino.core.errors import MeddinoError
from meddino.core.files import atomic
from meddino.evaluate import merge
from meddino.report.options import TableOptions

PROTOCOLS = ("paper", "area")


class Column(NamedTuple):
    """A benchmark's metric."""

    benchmark: str
    metric: str


def run(options: TableOptions, *, scores: list[Path], output: Path) -> None:
    """Write one table.

    Args:
        options: rows and columns.
        scores: scores of all runs that the table shows.
        output: `<table>.csv` (a line per row, column and protocol, values in %); beside it appear
            `<table>.md` and `<table>.tex`, for people.

    Raises:
        MeddinoError: a run that the table shows has no scores.
    """
    found = merge.read(scores)
    table = pd.DataFrame(list(_lines(options, found)))
    shown = table[table["protocol"] == options.table.protocol]
    for suffix, text in (
        (".csv", table.to_csv(index=False, float_format="%.4f")),
        (".md", _markdown(options, shown)),
        (".tex", _latex(options, shown)),
    ):
        with atomic(output.with_suffix(suffix)) as temporary:
            temporary.write_text(text, encoding="utf-8")


@cache
def paper_values() -> dict[str, Any]:
    """What the paper prints: table -> method -> benchmark -> metric -> %."""
    values: dict[str, Any] = yaml.safe_load(
        Path(__file__).with_name("paper.yaml").read_text(encoding="utf-8")
    )
    return values


def mean_score(scores: pd.DataFrame, column: str) -> float:
    """Mean over cases of each structure, then over structures (section 4.1, authors' script).

    NaN are left out, as are structures without a single value.

    Args:
        scores: rows of one run.
        column: the metric.

    Returns:
        In %; NaN where there is no value at all.
    """
    return float(scores.groupby("structure")[column].mean().mean()) * 100


def _lines(options: TableOptions, scores: pd.DataFrame) -> Iterator[dict[str, Any]]:
    asked = options.table
    printed = paper_values().get(options.name, {})
    for method in asked.rows:
        for benchmark in asked.benchmarks:
            rows = scores[(scores["method"] == method) & (scores["benchmark"] == benchmark)]
            if len(rows) == 0:
                raise MeddinoError(
                    f"{options.name}: there are no scores of {method} on {benchmark}; run evaluate"
                    " for it and give its file with --scores"
                )
            published = printed.get(method, {}).get(benchmark, {})
            for metric in asked.metrics:
                for protocol in PROTOCOLS:
                    ours = mean_score(rows, f"{metric.lower()}_{protocol}")
                    paper = published.get(metric, math.nan) if protocol == "paper" else math.nan
                    yield {
                        "table": options.name,
                        "row": options.method_labels[method],
                        "method": method,
                        "data": options.method_data[method],
                        "recipe": options.recipe,
                        "benchmark": benchmark,
                        "metric": metric,
                        "protocol": protocol,
                        "ours": ours,
                        "paper": paper,
                        "difference": ours - paper,
                        "cases": rows["case"].nunique(),
                    }


def _columns(options: TableOptions) -> list[Column]:
    return [Column(b, m) for m in options.table.metrics for b in options.table.benchmarks]


def _heads(options: TableOptions) -> list[str]:
    return [f"{options.benchmark_labels[c.benchmark]} {c.metric}" for c in _columns(options)]


def _heads_left(options: TableOptions) -> list[str]:
    """Heads of the columns that describe a row; CT-3M's is there where a row has seen it."""
    return ["Method", "CT-3M"] if set(options.method_data.values()) != {"none"} else ["Method"]


def _rows(
    options: TableOptions, shown: pd.DataFrame
) -> Iterator[tuple[list[str], tuple[tuple[str, bool], ...]]]:
    """What describes a row, and its cells, for every row."""
    by_column = [_cells(options, shown, column) for column in _columns(options)]
    data = {"none": "-"} | {name: name for name in ("paper", "leak-free")}
    described = [
        [options.method_labels[method], data[options.method_data[method]]]
        for method in options.table.rows
    ]
    lefts = [texts[: len(_heads_left(options))] for texts in described]
    return zip(lefts, zip(*by_column, strict=True), strict=True)


def _cells(options: TableOptions, shown: pd.DataFrame, column: Column) -> list[tuple[str, bool]]:
    """Text of a column's cells, row by row, and whether ours is its best."""
    picked = shown[
        (shown["benchmark"] == column.benchmark) & (shown["metric"] == column.metric)
    ].set_index("method")
    best = picked["ours"].max()
    cells = []
    for method in options.table.rows:
        ours, paper, difference = (
            picked[name].astype(float).to_dict()[method] for name in ("ours", "paper", "difference")
        )
        beside = "" if math.isnan(paper) else f" ({paper:.2f}, {difference:+.2f})"
        number = "-" if math.isnan(ours) else f"{ours:.2f}"
        cells.append((f"{number}{beside}", ours == best))
    return cells


def _footnote(options: TableOptions, shown: pd.DataFrame) -> str:
    cases = shown.drop_duplicates("benchmark").set_index("benchmark")["cases"]
    counts = ", ".join(f"{options.benchmark_labels[str(b)]} {n}" for b, n in cases.items())
    absent, counted = {
        "paper": ("a structure that the reference lacks is left out", "edge voxels"),
        "area": ("a structure predicted where the reference lacks it counts as 0", "area"),
    }[options.table.protocol]
    nsd = f" NSD by {counted} within {options.tolerance_mm:g} mm."
    variants = {
        "paper": " CT-3M paper: pretraining saw all test images, as the authors' did.",
        "leak-free": " CT-3M leak-free: it saw no validation case and no copy of one.",
    }
    seen = "".join(text for name, text in variants.items() if name in options.method_data.values())
    return (
        "This run (the paper, the difference), in %. Mean over cases, then over structures; "
        f"{absent}.{nsd if 'NSD' in options.table.metrics else ''}{seen}"
        f" {_recipe(options)} Cases: {counts}."
    )


def _recipe(options: TableOptions) -> str:
    """Which recipe ran, and for which rows the other one has other values."""
    labels = options.method_labels
    changes = "; ".join(
        f"{key} ({', '.join(labels[method] for method in methods)})"
        for key, methods in options.recipe_changes.items()
    )
    here, there = {
        "controlled": ("rows differ as they say, in nothing else", "the authors' code differs"),
        "official": ("rows as in the authors' code", "`controlled` differs"),
    }[options.recipe]
    return f"Recipe {options.recipe}: {here}{f'; {there} in {changes}' if changes else ''}."


def _markdown(options: TableOptions, shown: pd.DataFrame) -> str:
    heads = [_in_cell(head) for head in _heads(options)]
    left = _heads_left(options)
    lines = [f"| {' | '.join([*left, *heads])} |", f"|{'---|' * len(left)}{'---:|' * len(heads)}"]
    for described, cells in _rows(options, shown):
        texts = [f"**{text}**" if best else text for text, best in cells]
        lines.append(f"| {' | '.join([*map(_in_cell, described), *texts])} |")
    body = "\n".join(lines)
    return f"## {options.table.title}\n\n{body}\n\n{_footnote(options, shown)}\n"


def _in_cell(text: str) -> str:
    """Text as a cell of a Markdown table holds it."""
    return text.replace("|", r"\|")


def _latex(options: TableOptions, shown: pd.DataFrame) -> str:
    heads, left = [_escape(head) for head in _heads(options)], _heads_left(options)
    rows = []
    for described, cells in _rows(options, shown):
        texts = [rf"\textbf{{{_escape(t)}}}" if best else _escape(t) for t, best in cells]
        rows.append(rf"{' & '.join([*map(_escape, described), *texts])} \\")
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escape(options.table.title)}. {_escape(_footnote(options, shown))}}}",
            rf"\begin{{tabular}}{{{'l' * len(left)}{'r' * len(heads)}}}",
            r"\toprule",
            rf"{' & '.join([*left, *heads])} \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


_SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def _escape(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(_SPECIAL.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)
