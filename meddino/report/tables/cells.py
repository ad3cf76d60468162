"""The cells of a table: which one is the best of its column, and how its numbers are written.

Markdown, LaTeX and the report take both from here.
"""

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from meddino.evaluate.statistics import FEWEST_CASES
from meddino.report.tables.metrics import METRICS

NUMBERS = (
    *("ours", "low", "high", "paper", "difference"),
    *("contrast", "contrast_low", "contrast_high", "p"),
)
"""Columns of a table's lines that a cell shows; `low` and `high` are ends of intervals."""


@dataclass(frozen=True)
class Cell:
    """A method's result in one column: numbers, None where there is none, and their texts.

    `difference` is to the paper, `contrast` to the row that the table compares with.
    """

    metric: str
    cases: int
    ours: float | None
    low: float | None
    high: float | None
    paper: float | None
    difference: float | None
    contrast: float | None
    contrast_low: float | None
    contrast_high: float | None
    p: float | None
    best_ours: bool
    best_paper: bool

    @property
    def ours_text(self) -> str:
        """This run's value; with its sign where the metric may be negative."""
        return "" if self.ours is None else f"{self.ours:{'+' if self.metric == 'VD' else ''}.2f}"

    @property
    def paper_text(self) -> str:
        """The paper's value."""
        return "" if self.paper is None else f"{self.paper:.2f}"

    @property
    def difference_text(self) -> str:
        """This run less the paper, with its sign."""
        return "" if self.difference is None else f"{self.difference:+.2f}"

    @property
    def interval_texts(self) -> tuple[str, str] | None:
        """Both ends of the interval."""
        if self.low is None or self.high is None:
            return None
        return f"{self.low:.1f}", f"{self.high:.1f}"

    @property
    def contrast_text(self) -> str:
        """This row less the one it is compared with, with its sign."""
        return "" if self.contrast is None else f"{self.contrast:+.2f}"

    @property
    def contrast_interval_texts(self) -> tuple[str, str] | None:
        """Both ends of the interval of the contrast, with their signs."""
        if self.contrast_low is None or self.contrast_high is None:
            return None
        return f"{self.contrast_low:+.1f}", f"{self.contrast_high:+.1f}"

    @property
    def p_text(self) -> str:
        """What follows the letter p."""
        if self.p is None:
            return ""
        return "< 0.001" if self.p < 0.001 else f"= {self.p:.3f}"


def column_cells(lines: pd.DataFrame, benchmark: str, metric: str) -> dict[str, Cell]:
    """The cells of a column by method, in the order of the lines.

    Args:
        lines: of one table and one protocol, with the columns of `results.table_lines`.
        benchmark: its key.
        metric: a key of `METRICS`.
    """
    column = lines[(lines["benchmark"] == benchmark) & (lines["metric"] == metric)]
    rank = METRICS[metric].rank
    best = {key: column[key].map(rank).min() for key in ("ours", "paper")}
    return {
        line["method"]: Cell(
            metric=metric,
            cases=int(line["cases"]),
            **{key: number(line[key]) for key in NUMBERS},
            # A value that is missing is NaN, which equals nothing.
            # Few cases do not tell which method is the best.
            best_ours=rank(line["ours"]) == best["ours"] and line["cases"] >= FEWEST_CASES,
            best_paper=rank(line["paper"]) == best["paper"],
        )
        for line in column.drop_duplicates("method").to_dict("records")
    }


def number(value: Any) -> float | None:
    """A number of a data frame; None for NaN, which JSON lacks."""
    return None if math.isnan(value) else float(value)


def plain(cell: Cell, *, interval: bool) -> str:
    """A cell in one line: this run, its interval, and the paper.

    Args:
        cell: what it shows.
        interval: whether the interval is wanted.
    """
    if cell.cases == 0:
        return f"not run ({cell.paper_text})" if cell.paper_text else "not run"
    if cell.ours is None:
        return "-"
    text = cell.ours_text
    if interval and cell.interval_texts:
        text += f" [{', '.join(cell.interval_texts)}]"
    if cell.paper_text:
        text += f" ({cell.paper_text})"
    return text


def plain_contrast(cell: Cell) -> str:
    """How a cell compares, in one line: the difference, its interval, and p if there is a test."""
    text = cell.contrast_text
    if cell.contrast_interval_texts:
        text += f" [{', '.join(cell.contrast_interval_texts)}]"
    if cell.p_text:
        text += f", p {cell.p_text}"
    return text
