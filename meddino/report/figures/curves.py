"""Curves of training: losses of the stages, probes of the frozen backbone, and finetuning."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from meddino.core.files import read_lines
from meddino.report.figures.runs import by_benchmark
from meddino.report.options import PlotOptions
from meddino.report.style import INK, Figure, Mark, figure, legend, marks, whole_numbers

LOSSES = {
    "loss": "total",
    "dino_global": "DINO, global crops",
    "dino_local": "DINO, local crops",
    "ibot": "iBOT",
    "koleo": "KoLeo",
    "gram": "Gram",
}
DOTS = 4
"""About how many dots a line has."""


def pretraining_curves(
    options: PlotOptions, histories: Sequence[Path], path: Path
) -> Iterator[Figure]:
    """Losses of each stage."""
    stages = {p.parent.name: lines for p in histories if (lines := read_lines(p))}
    if not stages:
        return
    # The total is black, so that the losses have the same colours with and without it.
    loss_marks = [Mark(INK, "-", "o", 2.2), *marks(options.look, len(LOSSES) - 1)]
    with figure(options.look, path, 1, len(stages), (2.8, 2.6)) as axes:
        for axis, (stage, lines) in zip(axes.flat, stages.items(), strict=True):
            for mark, (loss, label) in zip(loss_marks, LOSSES.items(), strict=True):
                points = [(line["iteration"], line[loss]) for line in lines if loss in line]
                # Drawn even where a stage lacks the loss: one panel's legend serves all panels.
                _line(axis, points, mark, label)
            axis.set_title(options.source_labels.get(stage, stage))
            axis.set_xlabel("iteration")
            whole_numbers(axis)
        axes[0, 0].set_ylabel("loss")
        legend(axes[0, 0])
    caption = (
        "Losses by iteration. The total is their weighted sum; KoLeo may be negative. Losses of"
        " different stages are not comparable where their crops or weights differ."
    )
    yield Figure(path.name, "Pretraining", "Losses of the stages", caption)


def _line(axis: Any, points: Sequence[tuple[float, float]], mark: Mark, label: str) -> None:
    """Draw a line through any number of points; a single one as a dot."""
    x, y = zip(*points, strict=True) if points else ((), ())
    axis.plot(
        x,
        y,
        linestyle=mark.dashes,
        color=mark.colour,
        lw=mark.width,
        marker=mark.marker,
        # A few dots suffice to tell a line by its shape; the last one stands at its end.
        markevery=slice(len(points) - 1, None, -max(1, len(points) // DOTS)) if points else None,
        ms=5,
        label=label,
    )


PANELS = 3
"""Most panels beside each other."""


def chains(probes: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Scores of probes along the chain of checkpoints, by variant of CT-3M.

    Checkpoints that have seen no CT begin the chain of each variant; without any other variant they
    are a chain of their own.
    """
    others = dict.fromkeys(probe["variant"] for probe in probes)
    first = [variant for variant in ("paper", "leak-free") if variant in others]
    variants = [*first, *(v for v in others if v not in (*first, "none"))]
    return {
        variant: [s for p in probes if p["variant"] in ("none", variant) for s in p["scores"]]
        for variant in variants or (["none"] if probes else [])
    }


def probe_curves(
    options: PlotOptions, probes: Sequence[dict[str, Any]], path: Path
) -> Iterator[Figure]:
    """Accuracy of probes for organs by checkpoint, a panel for every variant of CT-3M."""
    if not probes:
        return
    by_variant = chains(probes)
    kinds = {"linear": ("linear", "o"), "knn": ("k-NN", "s")}
    columns = min(len(by_variant), PANELS)
    with figure(options.look, path, -(-len(by_variant) // columns), columns, (4.6, 3.2)) as axes:
        for axis in axes.flat[len(by_variant) :]:
            axis.set_axis_off()
        for axis, (variant, scores) in zip(axes.flat, by_variant.items(), strict=False):
            for probe, (label, marker) in kinds.items():
                values = [100 * score[probe]["balanced_accuracy"] for score in scores]
                axis.plot(range(len(values)), values, f"{marker}-", ms=4, label=label)
                axis.axhline(values[0], color=axis.lines[-1].get_color(), lw=0.8, ls=":")
            names = [_source(options, score["name"]) for score in scores]
            axis.set_xticks(range(len(names)), names, rotation=30, ha="right")
            axis.set_title("" if len(by_variant) < 2 else f"CT-3M: {variant}")
        axes[0, 0].set_ylabel("balanced accuracy (%)")
        legend(axes[0, 0])
    classes, patches = probes[0]["classes"], probes[0]["patches"]
    caption = (
        "Organs told from single, frozen patch tokens: a classifier learns from patches of training"
        f" cases ({patches['train']:,}) and is tested on those of validation cases"
        f" ({patches['val']:,}). Mean recall of {len(classes)} classes ({', '.join(classes)});"
        f" guessing gives {100 / len(classes):.0f} %, dotted lines the random initialisation. A"
        " stage that falls below the one before it has lost something."
    )
    yield Figure(path.name, "Pretraining", "What the frozen backbone knows of organs", caption)


def _source(options: PlotOptions, name: str) -> str:
    """The printed name of a checkpoint (`stage1@20000`), weights or a random initialisation."""
    stage, at, iteration = name.partition("@")
    label = options.source_labels.get(stage, stage)
    return f"{label}, {int(iteration):,} it." if at else label


def finetuning_curves(
    options: PlotOptions, histories: Sequence[Path], folder: Path
) -> Iterator[Figure]:
    """Loss and pseudo Dice of each method, a figure for every benchmark."""
    for benchmark, runs in by_benchmark(histories).items():
        methods = {method: read_lines(history) for method, history in runs.items()}
        path = folder / f"finetuning_{benchmark}.png"
        with figure(options.look, path, 1, 2, (4.2, 3.0)) as axes:
            _training(axes[0, 0], options, methods, lambda line: line["train_loss"])
            _training(axes[0, 1], options, methods, lambda line: 100 * mean(line["pseudo_dice"]))
            axes[0, 0].set_title("training loss")
            axes[0, 1].set_title("pseudo Dice (%)")
            legend(axes[0, 1])
        title = f"Training on {options.benchmark_labels.get(benchmark, benchmark)}"
        caption = (
            "Left: training loss. Right: nnU-Net's pseudo Dice on random validation patches, the"
            " mean over structures; it steers nothing. Lines get thinner in the order of the"
            " legend, so that those under others show."
        )
        yield Figure(path.name, "Finetuning", title, caption)


def _training(
    axis: Any,
    options: PlotOptions,
    methods: dict[str, list[Any]],
    value: Callable[[Any], float],
) -> None:
    for mark, (method, lines) in zip(
        marks(options.look, len(methods)), methods.items(), strict=True
    ):
        points = [(line["epoch"] + 1, value(line)) for line in lines]
        _line(axis, points, mark, options.method_labels.get(method, method))
    axis.set_xlabel("epoch")
    whole_numbers(axis)


def mean(values: list[float | None]) -> float:
    """The mean of all values but None; NaN of none at all."""
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if numbers else float("nan")
