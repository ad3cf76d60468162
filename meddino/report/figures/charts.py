"""The report's charts: Vega-Lite, made by Altair and drawn by the reader's browser.

Colours are names of the page's own (`var(--c1)`), so that they follow its theme and its print.
Series have no legend here: the page has one that works by keyboard, and sets the parameter `shown`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import pandas as pd

from meddino.report.figures.figures import LOSSES, mean

Row = dict[str, Any]
Spec = dict[str, Any]

COLOURS = 10
"""Colours of series that the page's style defines, `--c1` on; beyond them lines are dashed."""
POINTS = 120
"""Points of a line; a longer history is shown by the means of so many equal parts."""

FEW = 30
"""Points of a line up to which they are drawn as dots; of more, they only answer to the pointer."""

MEASURES: dict[str, tuple[str, dict[str, str]]] = {
    "losses": ("Loss", LOSSES),
    "signals": (
        "Cosine similarity",
        {
            "patch_similarity": "patches of a slice with each other",
            "cls_similarity": "patches with the class token",
            "patch_consistency": "patches with the Gram teacher's",
        },
    ),
    "ranks": (
        "Effective rank (RankMe)",
        {"rank_patch": "patch tokens", "rank_cls": "class tokens"},
    ),
    "gradients": (
        "Gradient norm",
        {
            "grad_norm": "backbone",
            "grad_norm_backbone": "backbone",
            "grad_norm_dino_head": "DINO head",
            "grad_norm_ibot_head": "iBOT head",
        },
    ),
    "rate": ("Learning rate", {"lr": "highest of all parameters"}),
    "speed": ("Slices per second", {"slices_per_second": "all processes"}),
}
"""Of pretraining, by key: the name of the axis, and the series with the keys of `history.jsonl`."""

EPOCHS: dict[str, tuple[str, Callable[[Row], float | None]]] = {
    "train_loss": ("Training loss", lambda line: line["train_loss"]),
    "val_loss": ("Validation loss", lambda line: line.get("val_loss")),
    "pseudo_dice": ("Pseudo Dice (%)", lambda line: 100 * mean(line["pseudo_dice"])),
    "lr": ("Learning rate", lambda line: max(line["lr"]) if line.get("lr") else None),
}
"""Of finetuning, by key: the name of the axis, and its value in a line of `history.jsonl`."""


class Chart(NamedTuple):
    """A chart and what the page needs beside it.

    Attributes:
        spec: Vega-Lite.
        series: names of what its colours tell apart, in their order.
        columns: the same numbers as a table: a field of the data and its head, for each column.
        width_px: least width; on a narrower page the reader scrolls.
    """

    spec: Spec
    series: list[str]
    columns: list[tuple[str, str]]
    width_px: int = 240


def colour(number: int) -> str:
    """The page's colour of the series of that number, counted from 0."""
    return f"var(--c{number % COLOURS + 1})"


def curves(rows: list[Row], series: Sequence[str], x: str, y: str, describe: str) -> Chart:
    """Lines over x.

    Args:
        rows: `series`, `x`, `y`.
        series: in their order; a colour belongs to the place.
        x: name of the axis.
        y: name of the axis.
        describe: the chart in a sentence, for those who do not see it.
    """
    names = list(series)
    # Vega-Lite would give dots that are not seen the opacity of their line.
    seen = 0 if len(rows) > FEW * max(1, len(names)) else 1
    point = alt.OverlayMarkDef(size=40, fillOpacity=seen, strokeOpacity=seen)
    dashes = [[1, 0] if number < COLOURS else [5, 3] for number in range(len(names))]
    chart = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_line(strokeWidth=2, point=point)
        .encode(
            x=alt.X("x:Q", title=x, scale=alt.Scale(nice=False), axis=_whole()),
            y=alt.Y("y:Q", title=y, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5)),
            color=_colour_of("series", names),
            strokeDash=alt.StrokeDash(
                "series:N", scale=alt.Scale(domain=names, range=dashes), legend=None
            ),
            opacity=_shown("series"),
            tooltip=[
                alt.Tooltip("series:N", title="what"),
                alt.Tooltip("x:Q", title=x.lower()),
                alt.Tooltip("y:Q", title=y, format=".4~g"),
            ],
        )
        .properties(width="container", height=220)
    )
    return Chart(_spec(chart, describe), names, [("series", "What"), ("x", x), ("y", y)])


def pretraining(stage: str, lines: list[Row]) -> dict[str, Chart]:
    """Charts of one stage, by the key of `MEASURES`; those without a value are left out."""
    made = {}
    for key, (axis, names) in MEASURES.items():
        rows = [
            {"series": name, **point}
            for field, name in names.items()
            for point in _thinned((line["iteration"], line.get(field)) for line in lines)
        ]
        if rows:
            series = list(dict.fromkeys(names.values()))
            describe = f"{axis} by iteration, {stage}"
            made[key] = curves(rows, series, "Iteration", axis, describe)
    return made


def finetuning(
    benchmark: str, runs: Mapping[str, list[Row]], series: Sequence[str]
) -> dict[str, Chart]:
    """Charts of one benchmark's runs, by the key of `EPOCHS`.

    Args:
        benchmark: its name.
        runs: name of a method -> lines of its history.
        series: names of all methods, so that each has its colour everywhere.
    """
    made = {}
    for key, (axis, value) in EPOCHS.items():
        rows = [
            {"series": name, **point}
            for name, lines in runs.items()
            for point in _thinned((line["epoch"] + 1, value(line)) for line in lines)
        ]
        if rows:
            made[key] = curves(rows, series, "Epoch", axis, f"{axis} by epoch on {benchmark}")
    return made


def probes(chain: list[Row], classes: int) -> Chart:
    """What frozen backbones know of organs, along a chain of checkpoints.

    Args:
        chain: `checkpoint` (its name), and `linear` and `knn` (balanced accuracy, %).
        classes: how many guessing would have to choose from.
    """
    names = ["linear", "k-NN"]
    rows = [
        {"checkpoint": each["checkpoint"], "series": name, "y": each[key]}
        for each in chain
        for name, key in zip(names, ("linear", "knn"), strict=True)
    ]
    order = [each["checkpoint"] for each in chain]
    y = alt.Y("y:Q", title="Balanced accuracy (%)", scale=alt.Scale(zero=False))
    lines = (
        alt.Chart()
        .mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=60, filled=True))
        .encode(
            x=alt.X("checkpoint:N", title=None, sort=order, axis=alt.Axis(labelAngle=-30)),
            y=y,
            color=_colour_of("series", names),
            opacity=_shown("series"),
            tooltip=[
                alt.Tooltip("series:N", title="probe"),
                alt.Tooltip("checkpoint:N"),
                alt.Tooltip("y:Q", title="balanced accuracy (%)", format=".1f"),
            ],
        )
    )
    guess = alt.Chart(alt.InlineData(values=[{"y": round(100 / classes, 3)}]))
    rule = guess.mark_rule(strokeDash=[4, 3], color="var(--muted)").encode(y=y)
    chart = alt.layer(rule, lines, data=alt.InlineData(values=rows))
    chart = chart.properties(width="container", height=260)
    columns = [("checkpoint", "Checkpoint"), ("series", "Probe"), ("y", "Balanced accuracy (%)")]
    return Chart(_spec(chart, "Accuracy of probes by checkpoint"), names, columns)


def against_paper(rows: list[Row], title: str) -> Chart:
    """A table's column: this run with its interval, and the paper's value.

    Args:
        rows: `row` (label), `ours`, `low`, `high`, `paper`; None where unknown.
        title: name of the axis.
    """
    names = ["this run", "the paper"]
    order = [each["row"] for each in rows]
    points = [
        {"row": each["row"], "series": name, "value": each[key], "low": low, "high": high}
        for each in rows
        for name, key, low, high in (
            (names[0], "ours", each["low"], each["high"]),
            (names[1], "paper", None, None),
        )
        if each[key] is not None
    ]
    y = alt.Y("row:N", title=None, sort=order, axis=alt.Axis(labelLimit=170))
    x = alt.X("value:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5))
    base = alt.Chart().encode(y=y, color=_colour_of("series", names), opacity=_shown("series"))
    interval = base.mark_rule(strokeWidth=2).encode(
        x=alt.X("low:Q", title=title, scale=alt.Scale(zero=False)), x2="high:Q"
    )
    marks = base.mark_point(filled=True, size=90, opacity=1).encode(
        x=x,
        shape=alt.Shape(
            "series:N", scale=alt.Scale(domain=names, range=["circle", "diamond"]), legend=None
        ),
        tooltip=[
            alt.Tooltip("row:N", title="method"),
            alt.Tooltip("series:N", title="from"),
            alt.Tooltip("value:Q", title=title, format=".2f"),
            alt.Tooltip("low:Q", title="95 % from", format=".2f"),
            alt.Tooltip("high:Q", title="to", format=".2f"),
        ],
    )
    # Of a single case there is no interval, and an axis of nothing makes Vega complain.
    layers = [interval, marks] if any(p["low"] is not None for p in points) else [marks]
    chart = alt.layer(*layers, data=alt.InlineData(values=points))
    chart = chart.properties(width="container", height=30 * len(order))
    columns = [("row", "Method"), ("series", "From"), ("value", title), ("low", "95 % from")]
    return Chart(
        _spec(chart, f"{title}, this run and the paper"), names, [*columns, ("high", "to")]
    )


def cases(methods: Sequence[str], series: Sequence[str], title: str) -> Chart:
    """A box and a strip of cases for each method; the page puts the rows in.

    Rows have `method`, `case`, `value`, and `jitter` from -1 to 1.

    Args:
        methods: names of those with scores here.
        series: names of all methods, so that each has its colour everywhere.
        title: name of the axis.
    """
    names = list(methods)
    colours = alt.Scale(domain=names, range=[colour(list(series).index(name)) for name in names])
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
    return Chart(_spec(chart, f"{title} of each case by method"), [], [])


def structures(means: list[Row], methods: Sequence[str], title: str, better: str) -> Chart:
    """Means of structures by method, shaded.

    Args:
        means: `structure`, `method`, `value` (None: nothing to count).
        methods: their names, in order.
        title: of the values.
        better: `high` or `low`: which end is darker.
    """
    rows = [each for each in means if each["value"] is not None]
    order = list(dict.fromkeys(each["structure"] for each in means))
    base = alt.Chart().encode(
        x=alt.X("method:N", title=None, sort=list(methods), axis=_on_top()),
        y=alt.Y("structure:N", title=None, sort=order, axis=alt.Axis(labelLimit=170)),
        tooltip=[
            alt.Tooltip("structure:N"),
            alt.Tooltip("method:N"),
            alt.Tooltip("value:Q", title=title, format=".1f"),
        ],
    )
    shade = _shade("value:Q", alt.Scale(zero=False, reverse=better == "low"))
    columns = [("structure", "Structure"), ("method", "Method")]
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
        x=alt.X("other:N", title="has a copy in", scale=scale, axis=_on_top()),
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
    return Chart(_spec(chart, title), [], [*columns, ("value", title)], 190 + 40 * size[1])


def _shade(field: str, scale: alt.Scale) -> alt.FillOpacity:
    scale = scale.copy()
    scale.range = [0.06, 1]
    return alt.FillOpacity(field, scale=scale, legend=None)


def _whole() -> alt.Axis:
    return alt.Axis(tickCount=5, tickMinStep=1, format=",d")


def _on_top() -> alt.Axis:
    return alt.Axis(orient="top", labelAngle=-40, labelLimit=170, labelOverlap=False)


def _colour_of(field: str, names: list[str]) -> alt.Color:
    colours = [colour(number) for number in range(len(names))]
    return alt.Color(f"{field}:N", scale=alt.Scale(domain=names, range=colours), legend=None)


def _shown(field: str) -> Any:
    """Opaque where the page's legend picked the series, or picked none."""
    picked = f"!length(shown) || indexof(shown, datum.{field}) >= 0"
    return alt.condition(picked, alt.value(1), alt.value(0.08))


def _spec(chart: Any, describe: str) -> Spec:
    """The specification, without what Altair adds of its own taste."""
    chart = chart.add_params(alt.param(name="shown", value=[]))
    made: Spec = chart.properties(description=describe).to_dict()
    made.pop("config", None)
    return made


def _thinned(points: Iterable[tuple[int, float | None]]) -> list[Row]:
    """Points as rows; of many, the means of equal parts, and of few digits."""
    known = [point for point in points if point[1] is not None and np.isfinite(point[1])]
    parts = np.array_split(np.array(known, dtype=np.float64), min(POINTS, len(known)) or 1)
    means = [part.mean(axis=0) for part in parts if len(part)]
    return [{"x": round(float(x)), "y": float(f"{y:.5g}")} for x, y in means]


def case_scores(scores: pd.DataFrame, columns: Mapping[str, tuple[str, float]]) -> Row:
    """A benchmark's scores, small enough to stand in the page.

    Args:
        scores: rows of one benchmark.
        columns: metric -> its column, and what it is multiplied with.

    Returns:
        `cases`, `structures`, `methods` (keys), and `values`: metric -> method -> structure -> a
        value of each case, None where nothing was counted.
    """
    ordered = scores.sort_values("label")
    names = ordered["structure"].drop_duplicates().tolist()
    found = sorted(scores["case"].unique().tolist())
    methods = scores["method"].drop_duplicates().tolist()
    values = {}
    for metric, (column, factor) in columns.items():
        table = scores.pivot(index=["method", "structure"], columns="case", values=column)
        values[metric] = [
            [
                _numbers(table.loc[(method, name)].reindex(found) * factor)
                if (method, name) in table.index
                else [None] * len(found)
                for name in names
            ]
            for method in methods
        ]
    return {"cases": found, "structures": names, "methods": methods, "values": values}


def _numbers(values: pd.Series) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 2) for value in values]
