"""Charts of training: histories of pretraining and finetuning, and probes by checkpoint."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import altair as alt
import numpy as np

from meddino.report.figures.curves import LOSSES, mean
from meddino.report.page.charts.chart import (
    COLOURS,
    Chart,
    Row,
    colour_of,
    picked_opacity,
    specification,
    whole_numbers,
)

POINTS = 120
"""Most points of a line; a longer history is drawn as the means of so many equal parts."""

FEW = 30
"""Most points of a line that are drawn as dots; others appear under the pointer."""

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


def curves(rows: list[Row], series: Sequence[str], x: str, y: str, describe: str) -> Chart:
    """Lines over x.

    Args:
        rows: `series`, `x`, `y`.
        series: in their order; a colour belongs to the place.
        x: name of the axis.
        y: name of the axis.
        describe: the chart in a sentence, for screen readers.
    """
    names = list(series)
    # Both opacities are set, since Vega-Lite gives dots without their own that of the line.
    opacity = 0 if len(rows) > FEW * max(1, len(names)) else 1
    point = alt.OverlayMarkDef(size=40, fillOpacity=opacity, strokeOpacity=opacity)
    dashes = [[1, 0] if number < COLOURS else [5, 3] for number in range(len(names))]
    chart = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_line(strokeWidth=2, point=point)
        .encode(
            x=alt.X("x:Q", title=x, scale=alt.Scale(nice=False), axis=whole_numbers()),
            y=alt.Y("y:Q", title=y, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5)),
            color=colour_of("series", names),
            strokeDash=alt.StrokeDash(
                "series:N", scale=alt.Scale(domain=names, range=dashes), legend=None
            ),
            opacity=picked_opacity("series"),
            tooltip=[
                alt.Tooltip("series:N", title="what"),
                alt.Tooltip("x:Q", title=x.lower()),
                alt.Tooltip("y:Q", title=y, format=".4~g"),
            ],
        )
        .properties(width="container", height=220)
    )
    return Chart(specification(chart, describe), names, [("series", "What"), ("x", x), ("y", y)])


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
        {"checkpoint": entry["checkpoint"], "series": name, "y": entry[key]}
        for entry in chain
        for name, key in zip(names, ("linear", "knn"), strict=True)
    ]
    order = [entry["checkpoint"] for entry in chain]
    y = alt.Y("y:Q", title="Balanced accuracy (%)", scale=alt.Scale(zero=False))
    lines = (
        alt.Chart()
        .mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=60, filled=True))
        .encode(
            x=alt.X("checkpoint:N", title=None, sort=order, axis=alt.Axis(labelAngle=-30)),
            y=y,
            color=colour_of("series", names),
            opacity=picked_opacity("series"),
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
    return Chart(specification(chart, "Accuracy of probes by checkpoint"), names, columns)


def _thinned(points: Iterable[tuple[int, float | None]]) -> list[Row]:
    """Points as rows `x` and `y` of five digits; many points as the means of `POINTS` parts."""
    finite = [point for point in points if point[1] is not None and np.isfinite(point[1])]
    parts = np.array_split(np.array(finite, dtype=np.float64), min(POINTS, len(finite)) or 1)
    means = [part.mean(axis=0) for part in parts if len(part)]
    return [{"x": round(float(x)), "y": float(f"{y:.5g}")} for x, y in means]
