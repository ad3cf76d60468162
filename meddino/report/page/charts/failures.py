"""Charts of failures: cases and lesions in bins, calibration, and abstention."""

from collections.abc import Sequence

import altair as alt

from meddino.report.page.charts.chart import (
    Chart,
    Row,
    colour_of,
    dashes_of,
    picked_opacity,
    shape_of,
    specification,
)

HEIGHT = 220
"""Height of the axes (px)."""
BIN_PX = 46
"""Least width of a method's place in each bin, over the number of methods (px)."""


def binned(rows: list[Row], series: Sequence[str], x: str, y: str, top: float | None) -> Chart:
    """Means of cases in bins with their intervals, methods beside each other.

    Args:
        rows: `bin` (its name), `series`, `value`, `low`, `high` (None where unknown), `cases`.
        series: names of all methods, so that each has its colour everywhere.
        x: what cases are sorted by.
        y: name of the axis.
        top: end of the axis; None fits it to the values.
    """
    names = list(series)
    order = list(dict.fromkeys(row["bin"] for row in rows))
    known = [v for row in rows for v in (row["value"], row["high"]) if v is not None]
    end = top if top is not None else 1.08 * max(known, default=1.0) or 1.0
    scale = alt.Scale(domain=[0, end], nice=False)
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        x=alt.X("bin:N", title=x, sort=order, axis=alt.Axis(labelAngle=0, labelLimit=130)),
        xOffset=alt.XOffset("series:N", sort=names, scale=alt.Scale(paddingOuter=0.6)),
        color=colour_of("series", names),
        opacity=picked_opacity("series"),
        tooltip=[
            alt.Tooltip("series:N", title="method"),
            alt.Tooltip("bin:N", title=x),
            alt.Tooltip("value:Q", title=y, format=".1f"),
            alt.Tooltip("low:Q", title="95 % from", format=".1f"),
            alt.Tooltip("high:Q", title="to", format=".1f"),
            alt.Tooltip("cases:Q", title="cases"),
        ],
    )
    value = alt.Y("value:Q", title=y, scale=scale, axis=alt.Axis(tickCount=5))
    marks = base.mark_point(filled=True, size=70).encode(y=value, shape=shape_of("series", names))
    rules = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2)
    rules = rules.encode(y=alt.Y("low:Q", title=y, scale=scale), y2="high:Q")
    # A chart without a single interval has none to draw, and Vega complains of such an axis.
    layers = [rules, marks] if any(row["low"] is not None for row in rows) else [marks]
    chart = alt.layer(*layers).properties(width="container", height=HEIGHT)
    columns = [("bin", x), ("series", "Method"), ("value", y), ("low", "95 % from")]
    columns += [("high", "to"), ("cases", "Cases")]
    width = 60 + len(order) * max(70, BIN_PX * len({row["series"] for row in rows}) // 2)
    return Chart(specification(chart, f"{y} by {x}"), names, columns, width)


def reliability(rows: list[Row], series: Sequence[str], name: str) -> Chart:
    """Share of correct voxels by their softmax, beside the diagonal of a calibrated network.

    Args:
        rows: `series`, `x` and `y` (%), `share` (% of the voxels).
        series: names of all methods.
        name: of the structure.
    """
    names = list(series)
    scale = alt.Scale(domain=[0, 100], nice=False)
    axis = alt.Axis(tickCount=5)
    ends = alt.InlineData(values=[{"x": 0, "y": 0}, {"x": 100, "y": 100}])
    diagonal = alt.Chart(ends).mark_line(strokeDash=[4, 3], color="var(--muted)", aria=False)
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        x=alt.X("x:Q", title="Softmax (%)", scale=scale, axis=axis),
        y=alt.Y("y:Q", title="Voxels that are right (%)", scale=scale, axis=axis),
        color=colour_of("series", names),
        opacity=picked_opacity("series"),
        tooltip=[
            alt.Tooltip("series:N", title="method"),
            alt.Tooltip("x:Q", title="mean softmax (%)", format=".1f"),
            alt.Tooltip("y:Q", title="right (%)", format=".1f"),
            alt.Tooltip("share:Q", title="of all voxels (%)", format=".2f"),
        ],
    )
    lines = base.mark_line(strokeWidth=2).encode(strokeDash=dashes_of("series", names))
    dots = base.mark_point(filled=True, size=45).encode(shape=shape_of("series", names))
    flat = diagonal.encode(x=alt.X("x:Q", scale=scale), y=alt.Y("y:Q", scale=scale))
    chart = alt.layer(flat, lines, dots).properties(width="container", height=HEIGHT + 40)
    columns = [("series", "Method"), ("x", "Mean softmax (%)"), ("y", "Right (%)")]
    columns.append(("share", "Of all voxels (%)"))
    describe = f"Voxels that are right by their softmax, {name}"
    return Chart(specification(chart, describe), names, columns, 280)


def abstention(rows: list[Row], orders: Sequence[str], method: str) -> Chart:
    """Mean DSC of the cases that remain, by their share.

    Args:
        rows: `series` (the order in which cases are set aside), `x` (% that remain), `y` (DSC, %).
        orders: names of the orders.
        method: its name.
    """
    names = list(orders)
    values = [row["y"] for row in rows]
    low, high = min(values), max(values)
    margin = max(0.05 * (high - low), 0.5)
    scale = alt.Scale(domain=[low - margin, high + margin], nice=False, zero=False)
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        x=alt.X("x:Q", title="Cases that remain (%)", scale=alt.Scale(domain=[0, 100])),
        y=alt.Y("y:Q", title="Mean DSC (%)", scale=scale, axis=alt.Axis(tickCount=5)),
        color=colour_of("series", names),
        opacity=picked_opacity("series"),
        tooltip=[
            alt.Tooltip("series:N", title="order"),
            alt.Tooltip("x:Q", title="remain (%)", format=".0f"),
            alt.Tooltip("y:Q", title="mean DSC (%)", format=".1f"),
        ],
    )
    lines = base.mark_line(strokeWidth=2).encode(strokeDash=dashes_of("series", names))
    few = len(rows) <= 30 * len(names)
    dots = base.mark_point(filled=True, size=40, fillOpacity=float(few), strokeOpacity=float(few))
    dots = dots.encode(shape=shape_of("series", names))
    chart = alt.layer(lines, dots).properties(width="container", height=HEIGHT)
    columns = [("series", "Order"), ("x", "Remain (%)"), ("y", "Mean DSC (%)")]
    return Chart(specification(chart, f"Mean DSC of cases that remain, {method}"), names, columns)
