"""Charts of transfer: for each method or structure, both models and the way between them."""

from collections.abc import Sequence

import altair as alt

from meddino.report.page.charts.chart import (
    Chart,
    Row,
    colour_of,
    picked_opacity,
    shape_of,
    specification,
)

SERIES = ("in-domain", "transferred")
"""Models that were trained on the tested benchmark, and on the other one."""
APART = 5
"""How far the two models of a row with intervals are drawn from its middle (px)."""


def dumbbells(rows: Sequence[Row], heads: tuple[str, str], domain: list[float]) -> Chart:
    """Two points a row, joined by a line, with their intervals where they have any.

    Args:
        rows: `row` (label), and for each of `SERIES` its value, None where unknown; for methods
            also `<series> low` and `<series> high`.
        heads: what a row is (method or structure), and the name of the axis.
        domain: ends of the axis.
    """
    what, title = heads
    names = [*SERIES]  # also where one is absent, so that the other keeps its colour
    points = [
        {"row": row["row"], "series": name, "value": row[name]}
        | {end: row.get(f"{name} {end}") for end in ("low", "high")}
        for row in rows
        for name in names
        if row[name] is not None
    ]
    order = [row["row"] for row in rows]
    y = alt.Y("row:N", title=None, sort=order, axis=alt.Axis(labelLimit=170))
    scale = alt.Scale(domain=domain, nice=5, zero=False)
    x = alt.X("value:Q", title=title, scale=scale, axis=alt.Axis(tickCount=5))
    way = alt.Chart().mark_line(color="var(--edge)", strokeWidth=1).encode(y=y, x=x, detail="row:N")
    base = alt.Chart().encode(
        y=y, color=colour_of("series", names), opacity=picked_opacity("series")
    )
    has_ends = any(point["low"] is not None for point in points)
    # Intervals of the two models would hide each other on one line.
    apart = alt.expr(f"datum.series === '{SERIES[0]}' ? -{APART} : {APART}") if has_ends else 0
    interval = base.mark_rule(strokeWidth=2, yOffset=apart).encode(
        x=alt.X("low:Q", title=title, scale=scale), x2="high:Q"
    )
    marks = base.mark_point(filled=True, size=90, opacity=1, yOffset=apart).encode(
        x=x,
        shape=shape_of("series", names),
        tooltip=[
            alt.Tooltip("row:N", title=what.lower()),
            alt.Tooltip("series:N", title="model"),
            alt.Tooltip("value:Q", title=title, format=".2f"),
        ],
    )
    layers = [interval, marks] if has_ends else [way, marks]
    chart = alt.layer(*layers, data=alt.InlineData(values=points))
    chart = chart.properties(width="container", height=(34 if has_ends else 22) * len(order))
    columns = [("row", what), ("series", "Model"), ("value", title)]
    columns += [("low", "95 % from"), ("high", "to")] if has_ends else []
    describe = f"{title} by {what.lower()}, {' and '.join(names)}"
    return Chart(specification(chart, describe), names, columns)
