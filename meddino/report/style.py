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


class Pattern(NamedTuple):
    """Dashes and a shape, which tell lines apart whose colours look alike to some readers.

    Attributes:
        dashes: lengths drawn and left out in turn (points); empty for an unbroken line.
        marker: Matplotlib's name of the shape.
        path: the shape as an SVG path between -1 and 1, as Vega takes it.
    """

    dashes: tuple[float, ...]
    marker: str
    path: str


PATTERNS = (
    Pattern((), "o", "M-1,0A1,1,0,1,1,1,0A1,1,0,1,1,-1,0Z"),
    Pattern((7, 3), "^", "M-1,1L0,-1L1,1Z"),
    Pattern((2, 2), "s", "M-.9,-.9H.9V.9H-.9Z"),
    Pattern((8, 2.5, 2, 2.5), "D", "M0,-1.2L1.2,0L0,1.2L-1.2,0Z"),
    Pattern((13, 3), "P", "M-.4,-1H.4V-.4H1V.4H.4V1H-.4V.4H-1V-.4H-.4Z"),
)
"""Two lines that share one must differ in colour, under protanopia and deuteranopia too."""


def pattern(number: int, colours: int) -> Pattern:
    """The pattern of a line, counted from 0; where its colour recurs, the pattern is another."""
    turn, place = divmod(number, colours)
    return PATTERNS[(place + turn) % len(PATTERNS)]


class Mark(NamedTuple):
    """How one of several lines or groups of dots is drawn.

    Attributes:
        colour: `#RRGGBB`.
        dashes: Matplotlib's style of a line.
        marker: Matplotlib's style of a dot.
        width: of a line (points); the first line is the widest, so that it shows under the others.
    """

    colour: str
    dashes: Any
    marker: str
    width: float


def marks(options: FigureOptions, count: int) -> list[Mark]:
    """A mark for each of `count` lines."""
    colours = options.colours
    distinct = []
    for number in range(count):
        dashes, marker, _ = pattern(number, len(colours))
        width = 3.0 - 1.9 * number / max(count - 1, 1)
        # Matplotlib multiplies dashes by the width of their line.
        scaled = (0, tuple(length / width for length in dashes)) if dashes else "-"
        distinct.append(Mark(colours[number % len(colours)], scaled, marker, width))
    return distinct


def legend(axis: Any, **more: Any) -> None:
    """Put a legend of what `axis` shows to the right of all panels."""
    handles, labels = axis.get_legend_handles_labels()
    look = {"fontsize": 9, "handlelength": 3.6, "labelspacing": 0.7, **more}
    drawn = axis.figure.legend(handles, labels, loc="outside right upper", **look)
    for handle in drawn.legend_handles:
        handle.set_alpha(1)  # where dots of the panels let others shine through


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
