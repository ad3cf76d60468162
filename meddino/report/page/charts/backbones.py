"""Charts of backbones: DSC over what a ViT costs, or knows while it is frozen."""

import math
from collections.abc import Callable

import altair as alt

from meddino.report.page.charts.chart import Chart, Row, specification
from meddino.report.tables.backbones_picture import sides

WIDTH, HEIGHT = 380, 280
"""Least width and height within the axes (px), for which names are placed."""
MARGIN = 0.14
"""Share of an axis left free at each end, for names."""


def named_points(rows: list[Row], title: str, logarithmic: bool) -> Chart:
    """Points with their names and the intervals of DSC.

    Args:
        rows: `label`, `x`, `dsc`, `low` and `high` (None where unknown).
        title: name of the axis of x.
        logarithmic: whether this axis is.
    """
    scaled: Callable[[float], float] = math.log if logarithmic else float
    left, right = _ends([scaled(row["x"]) for row in rows], MARGIN)
    intervals = [row[key] for row in rows for key in ("low", "high") if row[key] is not None]
    bottom, top = _ends([*intervals, *(row["dsc"] for row in rows)], 0.06)
    points = [
        (
            WIDTH * (scaled(row["x"]) - left) / (right - left),
            HEIGHT * (row["dsc"] - bottom) / (top - bottom),
        )
        for row in rows
    ]
    names = [row["label"] for row in rows]
    places = sides(points, names, (WIDTH, HEIGHT))
    domain = [math.exp(left), math.exp(right)] if logarithmic else [left, right]
    x_scale = alt.Scale(type="log" if logarithmic else "linear", domain=domain, nice=False)
    x = alt.X("x:Q", title=title, scale=x_scale)
    x = x.axis(tickCount=5, format="~g")
    scale = alt.Scale(domain=[bottom, top], nice=False, zero=False)
    y = alt.Y("dsc:Q", title="DSC (%)", scale=scale)
    base = alt.Chart(alt.InlineData(values=rows)).encode(x=x)
    layers = []
    if intervals:
        rule = base.mark_rule(color="var(--muted)", aria=False)
        low = alt.Y("low:Q", title="DSC (%)", scale=scale)
        layers.append(rule.encode(y=low, y2="high:Q"))
    tips = [
        alt.Tooltip("label:N", title="backbone"),
        alt.Tooltip("x:Q", title=title, format=".4~g"),
    ]
    tips += [alt.Tooltip("dsc:Q", title="DSC (%)", format=".2f")]
    tips += [alt.Tooltip("low:Q", title="95 % from", format=".1f")]
    tips += [alt.Tooltip("high:Q", title="to", format=".1f")]
    dots = base.mark_point(filled=True, size=70, opacity=1, color="var(--c1)")
    layers.append(dots.encode(y=y, tooltip=tips))
    for row, side in zip(rows, places, strict=True):
        name = alt.Chart(alt.InlineData(values=[row])).mark_text(
            align=side.align, dx=side.dx, dy=-side.dy, fontSize=11, aria=False
        )
        layers.append(name.encode(x=x, y=y, text="label:N", color=alt.value("var(--ink)")))
    chart = alt.layer(*layers).properties(width="container", height=HEIGHT)
    columns = [("label", "Backbone"), ("x", title), ("dsc", "DSC (%)"), ("low", "95 % from")]
    describe = f"DSC of each backbone over {title}"
    return Chart(specification(chart, describe), [], [*columns, ("high", "to")], WIDTH + 60)


def _ends(values: list[float], share: float) -> tuple[float, float]:
    """The ends of an axis for all values, with a share of it free at both ends."""
    low, high = min(values), max(values)
    free = share * (high - low) or 0.1 * abs(high) or 1.0
    return low - free, high + free
