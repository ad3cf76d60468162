"""One look for all figures."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from cycler import cycler

from meddino.core.files import atomic
from meddino.report.options import FigureOptions

matplotlib.use("Agg")

INK, MUTED, PAPER = "#1b1f24", "#6b7280", "#ffffff"
PNG_UNDATED: dict[str, Any] = {"Software": None}
PDF_UNDATED: dict[str, Any] = {"CreationDate": None, "Producer": None, "Creator": None}
"""Metadata to leave out: date and version would change the bytes from run to run."""


class Figure(NamedTuple):
    """A picture of the report."""

    file: str
    section: str
    title: str
    caption: str


@contextmanager
def figure(
    options: FigureOptions,
    path: Path,
    rows: int,
    columns: int,
    inches: tuple[float, float],
    heights: Sequence[float] | None = None,
) -> Iterator[Any]:
    """Yield axes (rows, columns) of a new figure that is saved at the end, in two formats.

    Args:
        options: resolution and colours.
        path: a PNG; a PDF of the same name, with text as text, lies beside it.
        rows: number of rows of panels.
        columns: number of columns of panels.
        inches: width and height of one panel.
        heights: heights of the rows, as shares of a panel's; 1 each by default.
    """
    import matplotlib.pyplot as plt

    settings = {
        "font.size": 9,
        "pdf.fonttype": 42,  # whole fonts, so that text can be searched and edited
        "text.parse_math": False,  # names of cases may hold dollars
        "axes.titlesize": 10,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": cycler(color=options.colours),
        "axes.grid": True,
        "grid.color": "#e5e7eb",
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "figure.facecolor": PAPER,
    }
    with matplotlib.rc_context(settings):
        drawing, axes = plt.subplots(
            rows,
            columns,
            figsize=(inches[0] * columns, inches[1] * sum(heights or [1.0] * rows)),
            height_ratios=heights,
            squeeze=False,
            layout="constrained",
        )
        yield axes
        for file, undated in ((path.with_suffix(".pdf"), PDF_UNDATED), (path, PNG_UNDATED)):
            with atomic(file) as temporary:
                drawing.savefig(
                    temporary, dpi=options.dpi, format=file.suffix[1:], metadata=undated
                )
        plt.close(drawing)


class Mark(NamedTuple):
    """How one of several lines or groups of dots is drawn.

    Attributes:
        colour: `#RRGGBB`.
        dashes: Matplotlib's style of a line.
        marker: Matplotlib's style of a dot.
        width: of a line (points); the first line is the widest, so that it shows under the others.
    """

    colour: str
    dashes: str
    marker: str
    width: float


def marks(options: FigureOptions, count: int) -> list[Mark]:
    """A mark for each of `count` lines; colours recur with other dashes and markers."""
    shapes = [("-", "o"), ("--", "^"), (":", "s"), ("-.", "D")]
    distinct = []
    for number in range(count):
        turn, place = divmod(number, len(options.colours))
        dashes, marker = shapes[turn % len(shapes)]
        width = 3.0 - 1.9 * number / max(count - 1, 1)
        distinct.append(Mark(options.colours[place], dashes, marker, width))
    return distinct


def legend(axis: Any, **more: Any) -> None:
    """Put a legend of what `axis` shows to the right of all panels."""
    handles, labels = axis.get_legend_handles_labels()
    axis.figure.legend(handles, labels, loc="outside right upper", fontsize=8, **more)


def whole_numbers(axis: Any) -> None:
    """Put whole numbers along x, for epochs and iterations."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))


def bare(axis: Any) -> None:
    """Hide ticks, frame and grid of a panel that shows a picture."""
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(False)
