"""The `tables` verb: one of the paper's tables, beside the paper's values."""

import math
import sys
from collections.abc import Callable, Iterator
from functools import cache
from operator import neg, pos
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml

from meddino.core.errors import MeddinoError
from meddino.core.files import atomic
from meddino.evaluate import statistics
from meddino.evaluate.scores import read_scores
from meddino.report.options import TableOptions

PROTOCOLS = ("paper", "area")


class Metric(NamedTuple):
    """A metric: its column in the scores, its unit, and what is better, as a key for `min`."""

    column: str
    unit: str
    rank: Callable[[float], float]


METRICS = {
    "DSC": Metric("dsc_{protocol}", "%", neg),
    "NSD": Metric("nsd_{protocol}", "%", neg),
    "HD95": Metric("hd95_mm", "mm", pos),
    "VD": Metric("volume_difference_ml", "ml", abs),
}


class Column(NamedTuple):
    """A benchmark's metric."""

    benchmark: str
    metric: str


def run(options: TableOptions, *, scores: list[Path], output: Path) -> None:
    """Write one table.

    Args:
        options: rows and columns.
        scores: scores of the runs that the table shows; runs without are shown as missing.
        output: `<table>.csv` (a line per row, column and protocol: `ours`, its 95 % interval from
            `low` to `high`, the paper's value, and Holm's `p`); beside it appear `<table>.md` and
            `<table>.tex`, for people.

    Raises:
        MeddinoError: there are no scores of any of them.
    """
    found = read_scores(scores)
    _check(options, found)
    table = pd.DataFrame(list(_lines(options, found)))
    shown = table[table["protocol"] == options.table.protocol]
    for suffix, text in (
        (".csv", table.to_csv(index=False, float_format="%.6g")),
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


def _check(options: TableOptions, scores: pd.DataFrame) -> None:
    """Say what is missing; refuse scores that show nothing.

    Raises:
        MeddinoError: none of the runs, or not all of the metrics are there.
    """
    asked = [(b, m) for m in options.table.rows for b in options.table.benchmarks]
    known = set(zip(scores["benchmark"], scores["method"], strict=True))
    missing = [run for run in asked if run not in known]
    if len(missing) == len(asked):
        raise MeddinoError(
            f"{options.name}: there are no scores of any run that it shows; run evaluate and give"
            " its files with --scores"
        )
    for metric in options.table.metrics:
        if (name := METRICS[metric].column.format(protocol="paper")) not in scores:
            raise MeddinoError(f"{options.name}: the scores hold no {name}; run evaluate again")
    for benchmark, method in missing:
        print(f"{options.name}: {method} on {benchmark} is missing: not run", file=sys.stderr)


def _lines(options: TableOptions, scores: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for column in _columns(options):
        for protocol in PROTOCOLS:
            yield from _column(options, scores, column, protocol)


def _column(
    options: TableOptions, scores: pd.DataFrame, column: Column, protocol: str
) -> Iterator[dict[str, Any]]:
    """Lines of a column's cells, row by row."""
    methods = options.table.rows
    benchmark, metric = column
    here = scores[scores["benchmark"] == benchmark]
    values = [case_values(here[here["method"] == m], metric, protocol) for m in methods]
    printed = paper_values().get(options.name, {}) if protocol == "paper" else {}
    p_values = _p_values(options, values)
    for method, found, p in zip(methods, values, p_values, strict=True):
        ours, (low, high) = float(found.mean().mean()), statistics.interval(found.to_numpy())
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
            "cases": len(found),
        }


def case_values(scores: pd.DataFrame, metric: str, protocol: str) -> pd.DataFrame:
    """A metric in the unit of the tables, cases by structures; NaN where a protocol counts nothing.

    Their mean over cases, then over structures is what the tables show (section 4.1, authors'
    script): NaN are left out, as are structures without a single value.

    Args:
        scores: rows of one run, or none.
        metric: a key of `METRICS`.
        protocol: `paper` or `area`.
    """
    name, unit, _ = METRICS[metric]
    column = name.format(protocol=protocol)
    # What a protocol leaves out of the DSC, it leaves out of volumes, too.
    counted = scores[column].where(scores[f"dsc_{protocol}"].notna())
    values = counted * 100 if unit == "%" else counted
    table = scores.assign(value=values)
    return table.pivot(index=["fold", "case"], columns="structure", values="value")


def _p_values(options: TableOptions, values: list[pd.DataFrame]) -> list[float]:
    """The p of each row against the one it is compared with, corrected for the number of rows."""
    base = options.table.compare_with
    if base is None:
        return [math.nan] * len(values)
    other = values[options.table.rows.index(base)]
    found = [
        math.nan
        if method == base
        else statistics.wilcoxon(*(t.to_numpy() for t in own.align(other, join="inner")))
        for method, own in zip(options.table.rows, values, strict=True)
    ]
    return statistics.holm(np.array(found)).tolist()


def _columns(options: TableOptions) -> list[Column]:
    return [Column(b, m) for m in options.table.metrics for b in options.table.benchmarks]


def _heads(options: TableOptions) -> list[str]:
    units = {name: "" if m.unit == "%" else f" ({m.unit})" for name, m in METRICS.items()}
    return [
        f"{options.benchmark_labels[c.benchmark]} {c.metric}{units[c.metric]}"
        for c in _columns(options)
    ]


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
    here = (shown["benchmark"] == column.benchmark) & (shown["metric"] == column.metric)
    picked = shown[here].drop_duplicates("method").set_index("method")
    rank = METRICS[column.metric].rank
    best = picked["ours"].map(rank).min()
    return [
        (_cell(options, picked.loc[method]), rank(picked["ours"][method]) == best)
        for method in options.table.rows
    ]


def _cell(options: TableOptions, line: Any) -> str:
    """This run, its interval, the paper and the difference, and p, as far as there are any."""
    if line["cases"] == 0:
        return "not run" if math.isnan(line["paper"]) else f"not run ({line['paper']:.2f})"
    if math.isnan(line["ours"]):
        return "-"
    text = f"{line['ours']:{'+' if line['metric'] == 'VD' else ''}.2f}"
    if options.table.intervals and not math.isnan(line["low"]):
        text += f" [{line['low']:.2f}, {line['high']:.2f}]"
    if not math.isnan(line["paper"]):
        text += f" ({line['paper']:.2f}, {line['difference']:+.2f})"
    if not math.isnan(line["p"]):
        text += ", p < 0.001" if line["p"] < 0.001 else f", p = {line['p']:.3f}"
    return text


def footnote(options: TableOptions, shown: pd.DataFrame) -> str:
    """What the numbers of a table are, in sentences; `shown` are the lines of its protocol."""
    cases = shown.groupby("benchmark", sort=False)["cases"].max()
    counts = ", ".join(f"{options.benchmark_labels[str(b)]} {n}" for b, n in cases.items())
    metrics = options.table.metrics
    protocol = {
        "paper": "a structure that the reference lacks is left out",
        "area": "a structure predicted where the reference lacks it counts as 0",
    }
    name = options.table.protocol
    shares = " and ".join(metric for metric in metrics if METRICS[metric].unit == "%")
    variants = {
        "paper": "CT-3M paper: pretraining saw all test images, as the authors' did.",
        "leak-free": "CT-3M leak-free: it saw no validation case and no copy of one.",
    }
    parts = {
        "This run (the paper, the difference).": True,
        f"{shares} in %.": bool(shares),
        f"Protocol {name}: mean over cases, then over structures; {protocol[name]}.": True,
        _within(options): "NSD" in metrics,
        "HD95 by area, where both have the structure.": "HD95" in metrics,
        "VD: predicted less reference volume, the mean with its sign.": "VD" in metrics,
        **_uncertainty(options),
        **{text: variant in options.method_data.values() for variant, text in variants.items()},
        _recipe(options): True,
        f"Cases: {counts}.": True,
    }
    return " ".join(text for text, asked in parts.items() if asked)


def _uncertainty(options: TableOptions) -> dict[str, bool]:
    """What is said of intervals and p, and whether it applies."""
    base = options.table.compare_with
    label = options.method_labels[base] if base else ""
    return {
        f"In brackets: 95 % bootstrap interval over cases ({statistics.DRAWS:,} draws); the paper"
        " has none.": options.table.intervals,
        f"p: paired Wilcoxon test of cases against {label}, corrected (Holm) within a column; the"
        " paper has none.": base is not None,
    }


def _within(options: TableOptions) -> str:
    """How the NSD counts surfaces, and within which distances."""
    if options.table.protocol == "paper":
        return f"NSD by edge voxels within {options.tolerance_mm:g} mm."
    own = []
    for benchmark in options.table.benchmarks:
        by_mm: dict[float, list[str]] = {}
        for structure, mm in options.tolerances_mm.get(benchmark, {}).items():
            by_mm.setdefault(mm, []).append(structure)
        groups = [f"{', '.join(names)} {mm:g} mm" for mm, names in sorted(by_mm.items())]
        if groups:
            own.append(f"{options.benchmark_labels[benchmark]}: {'; '.join(groups)}")
    but = f" ({'. '.join(own)})" if own else ""
    return f"NSD by area within {options.tolerance_mm:g} mm{' but for some' if own else ''}{but}."


def _recipe(options: TableOptions) -> str:
    """Which recipe ran, and for which rows the other one has other values."""
    labels = options.method_labels
    # Labels have commas of their own.
    changes = ", ".join(
        f"{key} ({'; '.join(labels[method] for method in methods)})"
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
    return f"## {options.table.title}\n\n{body}\n\n{footnote(options, shown)}\n"


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
            rf"\caption{{{_escape(options.table.title)}. {_escape(footnote(options, shown))}}}",
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


_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
}


def _escape(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(_SPECIAL.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)
