"""The figure of the comparison of backbones: DSC over operations, and over the probe."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from meddino.report.style import MUTED, Figure, figure
from meddino.report.tables.options import BackbonesOptions

PANEL_IN = (4.6, 3.6)
"""Width and height of a panel (inches)."""
LETTER, LINE = 5.6, 12.0
"""Width of a letter and height of a line of a name (px of a screen)."""
REACH = 7.0
"""Distance of a name from its point (px)."""
AXES = {
    "gflop": ("GFLOP of one input", True),
    "probe_linear": ("linear probe of the frozen ViT (%)", False),
}
"""What DSC is drawn over: field of a row -> title of the axis, and whether it is logarithmic."""


class Side(NamedTuple):
    """Where a name stands beside its point.

    Attributes:
        align: which end of the name is at the point: left, right or center.
        dx: of that end to the right of the point (px).
        dy: of the name's middle above the point (px).
    """

    align: Literal["left", "right", "center"]
    dx: float
    dy: float


SIDES = (
    Side("left", REACH, 0),
    Side("right", -REACH, 0),
    Side("center", 0, LINE),
    Side("center", 0, -LINE),
    Side("left", REACH, LINE),
    Side("left", REACH, -LINE),
    Side("right", -REACH, LINE),
    Side("right", -REACH, -LINE),
)
"""Places for a name, the better ones first."""


def sides(
    points: Sequence[tuple[float, float]], names: Sequence[str], frame: tuple[float, float]
) -> list[Side]:
    """Choose for each point where its name stands, so that names hide neither points nor names.

    Args:
        points: to the right of and above the lower left corner of the frame (px).
        names: one a point.
        frame: width and height of the frame (px).

    Returns:
        For each point the first side on which nothing is hidden, or the one where least is.
    """
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    chosen = []
    for number, (point, name) in enumerate(zip(points, names, strict=True)):
        others = [box for place, box in enumerate(taken) if place != number]
        boxes = [_box(point, side, LETTER * len(name)) for side in SIDES]
        costs = [_hidden(box, others) + _outside(box, frame) for box in boxes]
        best = costs.index(min(costs))
        chosen.append(SIDES[best])
        taken.append(boxes[best])
    return chosen


Box = tuple[float, float, float, float]


def _box(point: tuple[float, float], side: Side, width: float) -> Box:
    """The place of a name: left, lower, right and upper end."""
    start = {"left": 0.0, "right": -width, "center": -width / 2}[side.align]
    left, middle = point[0] + side.dx + start, point[1] + side.dy
    return left, middle - LINE / 2, left + width, middle + LINE / 2


def _hidden(box: Box, others: Sequence[Box]) -> float:
    """The area of a box that others share (px**2)."""
    left, low, right, high = box
    return sum(
        max(0.0, min(right, r) - max(left, le)) * max(0.0, min(high, h) - max(low, lo))
        for le, lo, r, h in others
    )


def _outside(box: Box, frame: tuple[float, float]) -> float:
    """A price for what of a box lies outside the frame (px**2)."""
    left, low, right, high = box
    width = max(0.0, -left) + max(0.0, right - frame[0])
    height = max(0.0, -low) + max(0.0, high - frame[1])
    return 4 * LINE * width + 40 * LINE * height


def draw(options: BackbonesOptions, rows: list[dict[str, Any]], folder: Path) -> Iterator[Figure]:
    """Draw a figure of each benchmark into a folder: panels of `AXES`, as far as there are values.

    Args:
        options: names and look.
        rows: as the verb writes them.
        folder: where it goes, as PNG and PDF.
    """
    for benchmark, label in options.benchmarks.items():
        part = [row for row in rows if row["benchmark"] == benchmark and row["dsc"] is not None]
        panels = {key: [row for row in part if row[key] is not None] for key in AXES}
        panels = {key: points for key, points in panels.items() if points}
        if not panels:
            continue
        path = folder / f"backbones_{benchmark}.png"
        with figure(options.look, path, 1, len(panels), PANEL_IN) as axes:
            for axis, (key, points) in zip(axes.flat, panels.items(), strict=True):
                _panel(axis, key, points)
            axes[0, 0].set_ylabel("DSC (%)")
        caption = (
            f"DSC on {label} after finetuning, with its 95 % interval over cases, over what one"
            " input costs"
        )
        caption += (
            f", and over what a linear probe tells of organs of {options.probe_benchmark} before"
            " finetuning."
            if "probe_linear" in panels
            else "."
        )
        yield Figure(path.name, "Backbones", f"{options.title}: {label}", caption)


def _logarithmic(axis: Any) -> None:
    """Make the axis of x logarithmic, with plain numbers at 1, 2 and 5 times powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _panel(axis: Any, key: str, rows: list[dict[str, Any]]) -> None:
    title, logarithmic = AXES[key]
    axis.set_xlabel(title)
    if logarithmic:
        _logarithmic(axis)
    for row in rows:
        if row["low"] is not None:
            axis.plot([row[key]] * 2, [row["low"], row["high"]], color=MUTED, lw=1, zorder=1)
    x, y = [row[key] for row in rows], [row["dsc"] for row in rows]
    axis.plot(x, y, "o", ms=5, ls="")
    axis.margins(x=0.12)
    box = axis.get_window_extent()
    scale = 72 / axis.figure.dpi  # from dots to the points of a name's font
    frame = (box.width * scale, box.height * scale)
    axis.autoscale_view()
    places = [
        ((left - box.x0) * scale, (low - box.y0) * scale)
        for left, low in axis.transData.transform(list(zip(x, y, strict=True)))
    ]
    names = [row["label"] for row in rows]
    for row, side in zip(rows, sides(places, names, frame), strict=True):
        axis.annotate(
            row["label"],
            (row[key], row["dsc"]),
            (side.dx, side.dy),
            textcoords="offset points",
            ha=side.align,
            va="center",
            fontsize=8,
        )
