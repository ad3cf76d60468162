"""Charts of results: columns of tables beside the paper, cases by method, and matrices."""

from collections.abc import Sequence

import altair as alt

from meddino.report.page.charts.chart import (
    Chart,
    Row,
    colour_of,
    key,
    on_top,
    picked_opacity,
    shape_of,
    specification,
)


def column(rows: list[Row], title: str, domain: list[float]) -> Chart:
    """A table's column: this run with its interval, and the paper's value where it has one.

    Args:
        rows: `row` (label), `ours`, `low`, `high`, `paper`; None where unknown.
        title: name of the axis.
        domain: ends of the axis, the same for all columns of a table that have a unit in common.
    """
    has_paper = any(line["paper"] is not None for line in rows)
    names = ["this run", "the paper"] if has_paper else ["this run"]
    order = [line["row"] for line in rows]
    points = [
        {"row": line["row"], "series": name, "value": line[field], "low": low, "high": high}
        for line in rows
        for name, field, low, high in (
            ("this run", "ours", line["low"], line["high"]),
            ("the paper", "paper", None, None),
        )
        if line[field] is not None
    ]
    y = alt.Y("row:N", title=None, sort=order, axis=alt.Axis(labelLimit=170))
    scale = alt.Scale(domain=domain, nice=5, zero=False)
    x = alt.X("value:Q", title=title, scale=scale, axis=alt.Axis(tickCount=5))
    base = alt.Chart().encode(
        y=y, color=colour_of("series", names), opacity=picked_opacity("series")
    )
    interval = base.mark_rule(strokeWidth=2).encode(
        x=alt.X("low:Q", title=title, scale=scale), x2="high:Q"
    )
    marks = base.mark_point(filled=True, size=90, opacity=1).encode(
        x=x,
        shape=shape_of("series", names),
        tooltip=[
            alt.Tooltip("row:N", title="method"),
            alt.Tooltip("series:N", title="from"),
            alt.Tooltip("value:Q", title=title, format=".2f"),
            alt.Tooltip("low:Q", title="95 % from", format=".2f"),
            alt.Tooltip("high:Q", title="to", format=".2f"),
        ],
    )
    # A single case has no interval, and Vega complains of an axis without values.
    layers = [interval, marks] if any(p["low"] is not None for p in points) else [marks]
    chart = alt.layer(*layers, data=alt.InlineData(values=points))
    chart = chart.properties(width="container", height=30 * len(order))
    columns = [("row", "Method"), ("series", "From"), ("value", title), ("low", "95 % from")]
    describe = f"{title}, {' and '.join(names)}"
    return Chart(specification(chart, describe), names, [*columns, ("high", "to")])


def cases(methods: Sequence[str], series: Sequence[str], title: str) -> Chart:
    """A box and a strip of cases for each method; the page puts the rows in.

    Rows have `method`, `case`, `value`, and `jitter` from -1 to 1.

    Args:
        methods: names of the methods with scores on this benchmark.
        series: names of all methods, so that each has its colour everywhere.
        title: name of the axis.
    """
    names = list(methods)
    colours = alt.Scale(
        domain=names, range=[key(list(series).index(name)).colour for name in names]
    )
    y = alt.Y("method:N", title=None, sort=names, scale=alt.Scale(domain=names))
    y = y.axis(labelLimit=170)
    x = alt.X("value:Q", title=title, scale=alt.Scale(zero=False, nice=True))
    x = x.axis(tickCount=8)
    tint = alt.Color("method:N", scale=colours, legend=None)
    base = alt.Chart().encode(y=y, x=x)
    box = base.mark_boxplot(
        extent="min-max",
        size=22,
        box={"fillOpacity": 0.18, "strokeWidth": 1.5, "aria": False},
        median={"color": "var(--ink)", "aria": False},
        rule={"color": "var(--edge)", "aria": False},
    ).encode(color=tint, tooltip=alt.value(None))
    strip = base.mark_circle(size=46, yOffset=alt.expr("9 * datum.jitter"), cursor="pointer")
    strip = strip.encode(
        color=tint,
        opacity=alt.condition("datum.case === chosen", alt.value(1), alt.value(0.62)),
        size=alt.condition("datum.case === chosen", alt.value(130), alt.value(46)),
        tooltip=[
            alt.Tooltip("case:N"),
            alt.Tooltip("method:N"),
            alt.Tooltip("structure:N"),
            alt.Tooltip("value:Q", title=title, format=".1f"),
        ],
    )
    chart = alt.layer(box, strip, data=alt.NamedData(name="cases"))
    chart = chart.properties(width="container", height=38 * len(names))
    chart = chart.add_params(alt.param(name="chosen", value=""))
    return Chart(specification(chart, f"{title} of each case by method"), [], [])


def structures(means: list[Row], methods: Sequence[str], title: str, better: str) -> Chart:
    """Means of structures by method, shaded.

    Args:
        means: `structure`, its `label`, `method`, `value` (None: nothing to count).
        methods: their names, in order.
        title: of the values.
        better: `high` or `low`: which end is darker.
    """
    rows = [entry for entry in means if entry["value"] is not None]
    order = list(dict.fromkeys(entry["label"] for entry in means))
    base = alt.Chart().encode(
        x=alt.X("method:N", title=None, sort=list(methods), axis=on_top()),
        y=alt.Y("label:N", title=None, sort=order, axis=alt.Axis(labelLimit=170)),
        tooltip=[
            alt.Tooltip("label:N", title="structure"),
            alt.Tooltip("method:N"),
            alt.Tooltip("value:Q", title=title, format=".1f"),
        ],
    )
    shade = _shade("value:Q", alt.Scale(zero=False, reverse=better == "low"))
    columns = [("label", "Structure"), ("method", "Method")]
    return _matrix(base, rows, (len(order), len(methods)), shade, ".1f", title, columns)


def overlap(names: Sequence[str], counts: Sequence[Sequence[int]]) -> Chart | None:
    """Copies between datasets; None where there is none.

    Args:
        names: of the datasets.
        counts: for each, its number of volumes, and those with a copy in each dataset.
    """
    rows = [
        {"dataset": name, "other": other, "value": copies, "share": copies / max(total, 1)}
        for name, (total, *others) in zip(names, counts, strict=True)
        for other, copies in zip(names, others, strict=True)
        if copies
    ]
    if not rows:
        return None
    order = list(names)
    scale = alt.Scale(domain=order)
    base = alt.Chart().encode(
        x=alt.X("other:N", title="has a copy in", scale=scale, axis=on_top()),
        y=alt.Y("dataset:N", title=None, scale=scale, axis=alt.Axis(labelLimit=170)),
        tooltip=[
            alt.Tooltip("dataset:N", title="volumes of"),
            alt.Tooltip("other:N", title="with a copy in"),
            alt.Tooltip("value:Q", title="volumes"),
            alt.Tooltip("share:Q", title="share of its volumes", format=".0%"),
        ],
    )
    shade = _shade("share:Q", alt.Scale(domain=[0, 1]))
    columns = [("dataset", "Volumes of"), ("other", "with a copy in")]
    return _matrix(base, rows, (len(order), len(order)), shade, ",d", "Volumes", columns)


def _matrix(
    base: alt.Chart,
    rows: list[Row],
    size: tuple[int, int],
    shade: alt.FillOpacity,
    form: str,
    title: str,
    columns: list[tuple[str, str]],
) -> Chart:
    """Shaded cells with their numbers, `size` of them down and across.

    Ink and shade keep their contrast in both themes.
    """
    cells = base.mark_rect(fill="var(--shade)").encode(fillOpacity=shade)
    text = base.mark_text(fontSize=11, fill="var(--ink)").encode(
        text=alt.Text("value:Q", format=form)
    )
    chart = alt.layer(cells, text, data=alt.InlineData(values=rows))
    chart = chart.properties(width="container", height=26 * size[0])
    return Chart(specification(chart, title), [], [*columns, ("value", title)], 190 + 40 * size[1])


def _shade(field: str, scale: alt.Scale) -> alt.FillOpacity:
    scale = scale.copy()
    scale.range = [0.06, 1]
    return alt.FillOpacity(field, scale=scale, legend=None)
