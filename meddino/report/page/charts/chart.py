"""A chart of the report: Vega-Lite, made by Altair and drawn by the reader's browser.

Colours are names of the page's own (`var(--c1)`), so that they follow its theme and its print.
Series have no legend here: the page has one that works by keyboard, and sets the parameter `shown`.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import altair as alt

from meddino.report.style import pattern

Row = dict[str, Any]
Spec = dict[str, Any]

COLOURS = 10
"""Colours of series that the page's style defines, `--c1` on."""


class Chart(NamedTuple):
    """A chart, and the page's needs beside it.

    Attributes:
        spec: Vega-Lite.
        series: names of the series that its colours tell apart, in order.
        columns: the same numbers as a table: a field of the data and its head, for each column.
        width_px: least width; on a narrower page the reader scrolls.
    """

    spec: Spec
    series: list[str]
    columns: list[tuple[str, str]]
    width_px: int = 240


class Key(NamedTuple):
    """How a series is drawn, in its chart and in the page's legend.

    Attributes:
        colour: the page's name of it.
        dashes: lengths drawn and left out in turn (px).
        shape: an SVG path between -1 and 1.
    """

    colour: str
    dashes: list[float]
    shape: str


def key(number: int) -> Key:
    """The key of the series of that number, counted from 0."""
    dashes, _, shape = pattern(number, COLOURS)
    return Key(f"var(--c{number % COLOURS + 1})", list(dashes) or [1, 0], shape)


def whole_numbers() -> alt.Axis:
    """An axis of epochs or iterations."""
    return alt.Axis(tickCount=5, tickMinStep=1, format=",d")


def on_top() -> alt.Axis:
    """An axis of names above the columns of a matrix."""
    return alt.Axis(orient="top", labelAngle=-40, labelLimit=170, labelOverlap=False)


def colour_of(field: str, names: Sequence[str]) -> alt.Color:
    """The colours of series, by their places."""
    colours = [key(number).colour for number in range(len(names))]
    return alt.Color(f"{field}:N", scale=alt.Scale(domain=names, range=colours), legend=None)


def dashes_of(field: str, names: Sequence[str]) -> alt.StrokeDash:
    """The dashes of series, by their places."""
    dashes = [key(number).dashes for number in range(len(names))]
    return alt.StrokeDash(f"{field}:N", scale=alt.Scale(domain=names, range=dashes), legend=None)


def shape_of(field: str, names: Sequence[str]) -> alt.Shape:
    """The shapes of series, by their places."""
    shapes = [key(number).shape for number in range(len(names))]
    return alt.Shape(f"{field}:N", scale=alt.Scale(domain=names, range=shapes), legend=None)


def picked_opacity(field: str) -> Any:
    """Opaque where the page's legend picked the series, or picked none."""
    picked = f"!length(shown) || indexof(shown, datum.{field}) >= 0"
    return alt.condition(picked, alt.value(1), alt.value(0.08))


def span(values: Iterable[float | None]) -> list[float]:
    """The ends of an axis for all values, with a margin so that nothing lies on its edge."""
    known = [value for value in values if value is not None]
    low, high = min(known), max(known)
    margin = 0.04 * (high - low) or 0.04 * abs(high) or 1.0
    return [low - margin, high + margin]


def specification(chart: Any, describe: str) -> Spec:
    """The specification, without what Altair adds of its own taste."""
    chart = chart.add_params(alt.param(name="shown", value=[]))
    spec: Spec = chart.properties(description=describe).to_dict()
    spec.pop("config", None)
    return spec
