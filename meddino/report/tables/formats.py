"""A table as Markdown and as LaTeX."""

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

from meddino.report.corpus import variant_label
from meddino.report.options import TableOptions
from meddino.report.tables.cells import column_cells, plain
from meddino.report.tables.footnote import footnote
from meddino.report.tables.metrics import METRICS
from meddino.report.tables.remarks import remarks

Style = Callable[[str], str]
"""Turns a text into one of the format, such as its bold form."""


class Row(NamedTuple):
    """A row of texts: what describes it, then its cells, each with whether it is the best."""

    description: list[str]
    cells: list[tuple[str, bool]]

    def styled(self, escape: Style, bold: Style) -> list[str]:
        """All texts of the row in a format, the best cells bold."""
        cells = [bold(escape(text)) if best else escape(text) for text, best in self.cells]
        return [*map(escape, self.description), *cells]


def markdown(options: TableOptions, lines: pd.DataFrame) -> str:
    """The table with its heading, footnote and remarks, in GitHub's Markdown.

    Args:
        options: rows and columns.
        lines: of its protocol, as of `results.table_lines`.
    """
    description, heads = _descriptive_heads(options), _heads(options)
    texts = [[*description, *map(_markdown, heads)]]
    texts += [row.styled(_markdown, "**{}**".format) for row in _rows(options, lines)]
    first, *others = (f"| {' | '.join(row)} |" for row in texts)
    alignment = f"|{'---|' * len(description)}{'---:|' * len(heads)}"
    body = "\n".join([first, alignment, *others])
    notes = "\n\n".join([footnote(options, lines), *remarks(options, lines)])
    return f"## {options.table.title}\n\n{body}\n\n{notes}\n"


def latex(options: TableOptions, lines: pd.DataFrame) -> str:
    """The same as a LaTeX table, which needs the package booktabs."""
    description, heads = _descriptive_heads(options), _heads(options)
    notes = " ".join([footnote(options, lines), *remarks(options, lines)])
    caption = f"{_latex(options.table.title)}. {_latex(notes)}"
    rows = [row.styled(_latex, r"\textbf{{{}}}".format) for row in _rows(options, lines)]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\begin{{tabular}}{{{'l' * len(description)}{'r' * len(heads)}}}",
            r"\toprule",
            rf"{' & '.join([*description, *map(_latex, heads)])} \\",
            r"\midrule",
            *(rf"{' & '.join(row)} \\" for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _columns(options: TableOptions) -> list[tuple[str, str]]:
    """Benchmark and metric of each column."""
    return [(b, metric) for metric in options.table.metrics for b in options.table.benchmarks]


def _heads(options: TableOptions) -> list[str]:
    units = {name: "" if m.unit == "%" else f" ({m.unit})" for name, m in METRICS.items()}
    return [
        f"{options.benchmark_labels[benchmark]} {metric}{units[metric]}"
        for benchmark, metric in _columns(options)
    ]


def _descriptive_heads(options: TableOptions) -> list[str]:
    """Heads of the columns that describe a row: what it was pretrained on where some row was."""
    return (
        ["Method", options.corpus] if set(options.method_data.values()) != {"none"} else ["Method"]
    )


def _rows(options: TableOptions, lines: pd.DataFrame) -> list[Row]:
    columns = [column_cells(lines, *column) for column in _columns(options)]
    length = len(_descriptive_heads(options))
    rows = []
    for method in options.table.rows:
        data = options.method_data[method]
        description = [
            options.method_labels[method],
            "-" if data == "none" else variant_label(options.corpus, data),
        ]
        cells = [
            (plain(column[method], interval=options.table.intervals), column[method].best_ours)
            for column in columns
        ]
        rows.append(Row(description[:length], cells))
    return rows


def _markdown(text: str) -> str:
    """Text as a cell of a Markdown table holds it."""
    return text.replace("|", r"\|")


_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
}


def _latex(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(_SPECIAL.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)
