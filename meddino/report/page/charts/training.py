"""Charts of training: histories of pretraining and finetuning, and probes by checkpoint."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import altair as alt
import numpy as np

from meddino.report.figures.curves import LOSSES, mean
from meddino.report.page.charts.chart import (
    Chart,
    Row,
    colour_of,
    dashes_of,
    picked_opacity,
    shape_of,
    span,
    specification,
    whole_numbers,
)

POINTS = 120
"""Most points of a line; a longer history is drawn as the means of so many equal parts."""

FEW = 30
"""Most points of a line that are drawn as dots; others appear under the pointer."""

HEIGHT = 240
"""Height of the axes (px)."""
LINE, LETTER, LEADER, LONGEST = 13, 6, 22, 165
"""Height of a line's name, width of a letter, length of the rule that leads to a name, and the
longest name (px)."""
AXES = 190
"""Least width of the axes (px)."""

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
"""Charts of a stage: key -> name of the axis, and keys of `history.jsonl` with their names."""

EPOCHS: dict[str, tuple[str, Callable[[Row], float | None]]] = {
    "train_loss": ("Training loss", lambda line: line["train_loss"]),
    "val_loss": ("Validation loss", lambda line: line.get("val_loss")),
    "pseudo_dice": ("Pseudo Dice (%)", lambda line: 100 * mean(line["pseudo_dice"])),
    "lr": ("Learning rate", lambda line: max(line["lr"]) if line.get("lr") else None),
}
"""Charts of finetuning: key -> name of the axis, and its value in a line of `history.jsonl`."""


def curves(
    rows: list[Row],
    series: Sequence[str],
    x: str,
    y: str,
    describe: str,
    ticks: Sequence[float] = (),
) -> Chart:
    """Lines over x, each with its name at its end.

    Args:
        rows: `series`, `x`, `y`; or also `low` and `high`, ends of intervals that are drawn at each
            point, None where there is none.
        series: in their order; a colour belongs to the place.
        x: name of the axis.
        y: name of the axis.
        describe: the chart in a sentence, for screen readers.
        ticks: places of x that are marked, for a logarithmic axis; without any it is linear.
    """
    names = list(series)
    known = [row for row in rows if row.get("low") is not None]
    domain = span(row[key] for key in ("y", "low", "high") for row in rows if key in row)
    along = alt.X("x:Q", title=x, scale=alt.Scale(nice=False), axis=whole_numbers())
    if ticks:
        scale = alt.Scale(type="log", nice=False, padding=10)
        along = along.scale(scale).axis(alt.Axis(values=list(ticks), format="~g", grid=False))
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        x=along,
        y=alt.Y("y:Q", title=y, scale=_fixed(domain), axis=alt.Axis(tickCount=5)),
        color=colour_of("series", names),
        opacity=picked_opacity("series"),
        tooltip=[
            alt.Tooltip("series:N", title="what"),
            alt.Tooltip("x:Q", title=x.lower()),
            alt.Tooltip("y:Q", title=y, format=".4~g"),
        ],
    )
    lines = base.mark_line(strokeWidth=2).encode(strokeDash=dashes_of("series", names))
    # Beyond a few, dots appear under the pointer alone.
    shown = 0 if len(rows) > FEW * max(1, len(names)) else 1
    dots = base.mark_point(filled=True, size=45, fillOpacity=shown, strokeOpacity=shown)
    dots = dots.encode(shape=shape_of("series", names))
    named, room = _named_ends(rows, names, along, domain)
    intervals = _intervals(known, names, along, domain) if known else []
    chart = alt.layer(*intervals, lines, dots, *named)
    chart = chart.properties(width="container", height=HEIGHT)
    columns = [("series", "What"), ("x", x), ("y", y)]
    columns += [("low", "95 % from"), ("high", "to")] if known else []
    return Chart(specification(chart, describe), names, columns, AXES + room)


def _intervals(
    rows: list[Row], names: Sequence[str], along: alt.X, domain: list[float]
) -> list[alt.Chart]:
    """A layer with a bar from `low` to `high` at each point.

    Series stand a little beside each other, so that their bars do not hide each other.
    """
    bars = []
    for name in names:
        part = [row for row in rows if row["series"] == name]
        offset = 4 * (names.index(name) - (len(names) - 1) / 2)
        base = alt.Chart(alt.InlineData(values=part)).encode(
            x=along, color=colour_of("series", names), opacity=picked_opacity("series")
        )
        bar = base.mark_rule(strokeWidth=1.5, xOffset=offset, aria=False)
        low = alt.Y("low:Q", scale=_fixed(domain))
        bars += [bar.encode(y=low, y2="high")] if part else []
    return bars


def _fixed(domain: list[float]) -> alt.Scale:
    """The scale of an axis with these ends."""
    return alt.Scale(domain=domain, nice=False, zero=False)


def _named_ends(
    rows: list[Row], names: Sequence[str], along: alt.X, domain: list[float]
) -> tuple[list[alt.Chart], int]:
    """Layers that name each line at its end, and the room right of the axes that they need (px).

    Args:
        rows: `series`, `x` (a number, or a name along the axis), `y`, each line's in order.
        names: all series.
        along: the axis of x.
        domain: ends of the axis of y.
    """
    ends = list({row["series"]: dict(row) for row in rows}.values())
    low, high = domain
    per_px = (high - low) / HEIGHT
    places = _spread([(high - end["y"]) / per_px for end in ends])
    for end, place in zip(ends, places, strict=True):
        end["label_y"] = high - place * per_px
    longest = max(len(end["series"]) for end in ends)
    room = min(LETTER * longest, LONGEST) + LEADER + 8
    base = alt.Chart(alt.InlineData(values=ends)).encode(
        x=along, color=colour_of("series", names), opacity=picked_opacity("series")
    )
    at_label = alt.Y("label_y:Q", scale=_fixed(domain))
    leaders = base.mark_rule(xOffset=4, x2Offset=LEADER, aria=False).encode(
        x2="x", y=alt.Y("y:Q", scale=_fixed(domain)), y2="label_y"
    )
    dots = base.mark_point(filled=True, size=70, opacity=1, aria=False)
    dots = dots.encode(y=alt.Y("y:Q", scale=_fixed(domain)), shape=shape_of("series", names))
    texts = base.mark_text(
        align="left", dx=LEADER + 3, fontSize=11, limit=LONGEST, aria=False
    ).encode(y=at_label, text="series:N", color=alt.value("var(--ink)"))
    return [leaders, dots, texts], room


def _spread(places: list[float]) -> list[float]:
    """Places of names (px from the top) that keep `LINE` apart, each as near as can be to its own.

    Names that would overlap stand around their common middle, within the chart.
    """
    order = sorted(range(len(places)), key=places.__getitem__)
    groups: list[tuple[float, int]] = []  # the middle of a group, and its number of names
    for index in order:
        middle, count = _inside(places[index], 1), 1
        while groups and middle - groups[-1][0] < (count + groups[-1][1]) * LINE / 2:
            before, more = groups.pop()
            middle = (middle * count + before * more) / (count + more)
            count += more
            middle = _inside(middle, count)
        groups.append((middle, count))
    tops = [middle + (n - (count - 1) / 2) * LINE for middle, count in groups for n in range(count)]
    placed = dict(zip(order, tops, strict=True))
    return [placed[index] for index in range(len(places))]


def _inside(middle: float, count: int) -> float:
    """The middle of a group of names, moved so that the group lies within the chart."""
    half = count * LINE / 2
    return max(min(middle, HEIGHT - half), half)


def pretraining(stage: str, lines: list[Row]) -> dict[str, Chart]:
    """Charts of one stage by key of `MEASURES`; measures without a value have none."""
    charts = {}
    for key, (axis, names) in MEASURES.items():
        rows = [
            {"series": name, **point}
            for field, name in names.items()
            for point in _thinned((line["iteration"], line.get(field)) for line in lines)
        ]
        if rows:
            series = list(dict.fromkeys(names.values()))
            describe = f"{axis} by iteration, {stage}"
            charts[key] = curves(rows, series, "Iteration", axis, describe)
    return charts


def finetuning(
    benchmark: str, runs: Mapping[str, list[Row]], series: Sequence[str]
) -> dict[str, Chart]:
    """Charts of one benchmark's runs, by the key of `EPOCHS`.

    Args:
        benchmark: its name.
        runs: name of a method -> lines of its history.
        series: names of all methods, so that each has its colour everywhere.
    """
    charts = {}
    for key, (axis, value) in EPOCHS.items():
        rows = [
            {"series": name, **point}
            for name, lines in runs.items()
            for point in _thinned((line["epoch"] + 1, value(line)) for line in lines)
        ]
        if rows:
            charts[key] = curves(rows, series, "Epoch", axis, f"{axis} by epoch on {benchmark}")
    return charts


def probes(chain: list[Row], classes: int) -> Chart:
    """Accuracy of probes for organs, along a chain of checkpoints.

    Args:
        chain: `checkpoint` (its name), and `linear` and `knn` (balanced accuracy, %).
        classes: number of classes, among which a guess chooses.
    """
    names = ["linear", "k-NN"]
    rows = [
        {"x": entry["checkpoint"], "series": name, "y": entry[field]}
        for name, field in zip(names, ("linear", "knn"), strict=True)
        for entry in chain
    ]
    order = [entry["checkpoint"] for entry in chain]
    guess = round(100 / classes, 3)
    domain = span([guess, *(row["y"] for row in rows)])
    y = alt.Y("y:Q", title="Balanced accuracy (%)", scale=_fixed(domain))
    along = alt.X("x:N", title=None, sort=order, axis=alt.Axis(labelAngle=-30))
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        x=along,
        y=y,
        color=colour_of("series", names),
        opacity=picked_opacity("series"),
        tooltip=[
            alt.Tooltip("series:N", title="probe"),
            alt.Tooltip("x:N", title="checkpoint"),
            alt.Tooltip("y:Q", title="balanced accuracy (%)", format=".1f"),
        ],
    )
    lines = base.mark_line(strokeWidth=2).encode(strokeDash=dashes_of("series", names))
    dots = base.mark_point(filled=True, size=70).encode(shape=shape_of("series", names))
    rule = alt.Chart(alt.InlineData(values=[{"y": guess}])).mark_rule(
        strokeDash=[4, 3], color="var(--muted)"
    )
    named, room = _named_ends(rows, names, along, domain)
    chart = alt.layer(rule.encode(y=y), lines, dots, *named)
    chart = chart.properties(width="container", height=HEIGHT)
    columns = [("x", "Checkpoint"), ("series", "Probe"), ("y", "Balanced accuracy (%)")]
    describe = "Accuracy of probes by checkpoint"
    return Chart(specification(chart, describe), names, columns, 2 * AXES + room)


def _thinned(points: Iterable[tuple[int, float | None]]) -> list[Row]:
    """Points as rows `x` and `y` of five digits; many points as the means of `POINTS` parts."""
    finite = [point for point in points if point[1] is not None and np.isfinite(point[1])]
    parts = np.array_split(np.array(finite, dtype=np.float64), min(POINTS, len(finite)) or 1)
    means = [part.mean(axis=0) for part in parts if len(part)]
    return [{"x": round(float(x)), "y": float(f"{y:.5g}")} for x, y in means]
