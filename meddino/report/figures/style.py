"""One look for all figures."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import numpy.typing as npt
from cycler import cycler
from scipy import ndimage

from meddino.core.files import atomic
from meddino.report.options import FigureOptions
from meddino.volumes.hounsfield import BODY_HU

matplotlib.use("Agg")

INK, MUTED, PAPER = "#1b1f24", "#6b7280", "#ffffff"
PNG_UNDATED: dict[str, Any] = {"Software": None}
PDF_UNDATED: dict[str, Any] = {"CreationDate": None, "Producer": None, "Creator": None}
"""What is left out: date and version would change the bytes from run to run."""


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
        rows: of panels.
        columns: of panels.
        inches: width and height of one panel.
        heights: of the rows, as shares of a panel's; 1 if not given.
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
        made, axes = plt.subplots(
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
                made.savefig(temporary, dpi=options.dpi, format=file.suffix[1:], metadata=undated)
        plt.close(made)


class Mark(NamedTuple):
    """What tells one of several lines or groups of dots: more of them than there are colours."""

    colour: str
    dashes: str
    marker: str
    width: float
    """Of a line (points): the first is the widest, so that those under others are seen."""


def marks(options: FigureOptions, count: int) -> list[Mark]:
    """A mark for each of `count` lines; colours come back with other dashes and markers."""
    shapes = [("-", "o"), ("--", "^"), (":", "s"), ("-.", "D")]
    found = []
    for number in range(count):
        turn, place = divmod(number, len(options.colours))
        dashes, marker = shapes[turn % len(shapes)]
        width = 3.0 - 1.9 * number / max(count - 1, 1)
        found.append(Mark(options.colours[place], dashes, marker, width))
    return found


def legend(axis: Any, **more: Any) -> None:
    """Name what the panel `axis` shows, to the right of all panels."""
    handles, labels = axis.get_legend_handles_labels()
    axis.figure.legend(handles, labels, loc="outside right upper", fontsize=8, **more)


def whole_numbers(axis: Any) -> None:
    """Count along x, as epochs and iterations are counted."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))


def body(hu: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Where the patient is on a slice: the largest connected region above -500 HU, without holes.

    Everywhere, where nothing is above.
    """
    inside = hu > BODY_HU
    if not inside.any():
        return np.ones(hu.shape, bool)
    regions, _ = ndimage.label(inside)
    largest = int(np.bincount(regions[inside]).argmax())
    return np.asarray(ndimage.binary_fill_holes(regions == largest))


def grey(hu: npt.NDArray[Any], window: tuple[float, float]) -> npt.NDArray[np.float32]:
    """Grey values from 0 to 1 of a window (centre, width) in HU; robust to MR, which has none."""
    centre, width = window
    if hu.min() >= 0:  # MR: no scale of its own
        low, high = np.percentile(hu, (1, 99.5))
        centre, width = (low + high) / 2, max(high - low, 1e-6)
    return np.clip((hu.astype(np.float32) - (centre - width / 2)) / width, 0, 1)


def bare(axis: Any) -> None:
    """Hide ticks, frame and grid of a panel that shows a picture."""
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(False)
