"""A table as Markdown and as LaTeX."""

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

from meddino.report.corpus import variant_label
from meddino.report.options import TableOptions
from meddino.report.tables.beyond import marked
from meddino.report.tables.cells import column_cells, plain, plain_contrast
from meddino.report.tables.footnotes import footnotes
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
    """The table with its heading, footnotes and remarks, in GitHub's Markdown.

    Args:
        options: rows and columns.
        lines: of its protocol, as of `results.table_lines`.
    """
    notes = _notes(options, lines)
    blocks = [_markdown_block(options, lines, metric) for metric in options.table.metrics]
    listed = "\n".join(f"- {note}" for note in notes)
    return "\n\n".join([f"## {options.table.title}", *blocks, listed]) + "\n"


def latex(options: TableOptions, lines: pd.DataFrame) -> str:
    """The same as a LaTeX table, which needs the package booktabs."""
    blocks = [_latex_block(options, lines, metric) for metric in options.table.metrics]
    return latex_table(options.table.title, _notes(options, lines), blocks)


def latex_table(title: str, notes: list[str], blocks: list[str]) -> str:
    """Blocks of rows below each other, with title and notes as their caption."""
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(title)}. {_latex(' '.join(notes))}}}",
            "\n\n\\medskip\n".join(blocks),
            r"\end{table}",
            "",
        ]
    )


def _notes(options: TableOptions, lines: pd.DataFrame) -> list[str]:
    """What stands where in these formats, and what the numbers are."""
    paper = " (the paper)" if lines["paper"].notna().any() else ""
    cells = f"This run{' [95 % interval]' if options.table.intervals else ''}{paper}"
    if options.table.compare_with is not None:
        label = options.method_labels[options.table.compare_with]
        cells += f"; below it, this run less {label} [95 % interval]"
    return [f"{cells}.", *footnotes(options, lines), *remarks(options, lines)]


def _markdown_block(options: TableOptions, lines: pd.DataFrame, metric: str) -> str:
    """The columns of a metric."""
    description, heads = _descriptive_heads(options), _heads(options, metric)
    return markdown_rows(description, heads, _rows(options, lines, metric))


def markdown_rows(description: list[str], heads: list[str], rows: list[Row]) -> str:
    """Rows below their heads: those of what describes a row, then those of its cells."""
    texts = [[*description, *map(_markdown, heads)]]
    texts += [row.styled(_markdown, "**{}**".format) for row in rows]
    first, *others = (f"| {' | '.join(row)} |" for row in texts)
    alignment = f"|{'---|' * len(description)}{'---:|' * len(heads)}"
    return "\n".join([first, alignment, *others])


def _latex_block(options: TableOptions, lines: pd.DataFrame, metric: str) -> str:
    """The columns of a metric."""
    description, heads = _descriptive_heads(options), _heads(options, metric)
    return latex_rows(description, heads, _rows(options, lines, metric))


def latex_rows(description: list[str], heads: list[str], rows: list[Row]) -> str:
    """The same as `markdown_rows` in LaTeX."""
    texts = [row.styled(_latex, r"\textbf{{{}}}".format) for row in rows]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{'l' * len(description)}{'r' * len(heads)}}}",
            r"\toprule",
            rf"{' & '.join([*description, *map(_latex, heads)])} \\",
            r"\midrule",
            *(rf"{' & '.join(row)} \\" for row in texts),
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


def _heads(options: TableOptions, metric: str) -> list[str]:
    """Heads of a metric's columns; a table whose metrics stood side by side would be too wide."""
    unit = METRICS[metric].unit
    name = metric if unit == "%" else f"{metric} ({unit})"
    return [
        f"{options.benchmark_labels[benchmark]} {name}" for benchmark in options.table.benchmarks
    ]


def _descriptive_heads(options: TableOptions) -> list[str]:
    """Heads of the columns that describe a row: what it was pretrained on where some row was."""
    return (
        ["Method", options.corpus] if set(options.method_data.values()) != {"none"} else ["Method"]
    )


def _rows(options: TableOptions, lines: pd.DataFrame, metric: str) -> list[Row]:
    """A row for each method, and below it how it compares, where the table compares it."""
    columns = [column_cells(lines, b, metric) for b in options.table.benchmarks]
    length, base = len(_descriptive_heads(options)), options.table.compare_with
    rows = []
    for method in options.table.rows:
        data = options.method_data[method]
        description = [
            marked(options, method),
            "-" if data == "none" else variant_label(options.corpus, data),
        ]
        cells = [column[method] for column in columns]
        texts = [(plain(c, interval=options.table.intervals), c.best_ours) for c in cells]
        rows.append(Row(description[:length], texts))
        if base is not None and any(cell.contrast_text for cell in cells):
            description = [f"less {options.method_labels[base]}", ""]
            contrasts = [(plain_contrast(cell), False) for cell in cells]
            rows.append(Row(description[:length], contrasts))
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
