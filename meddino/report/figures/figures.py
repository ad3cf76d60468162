"""The `figures` verb: what people look at first."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from meddino.core.files import read_json, read_lines, write_json
from meddino.evaluate.scores import read_scores
from meddino.report.figures import pictures
from meddino.report.figures.style import INK, Figure, Mark, figure, legend, marks, whole_numbers
from meddino.report.options import PlotOptions

LOSSES = {
    "loss": "total",
    "dino_global": "DINO, global crops",
    "dino_local": "DINO, local crops",
    "ibot": "iBOT",
    "koleo": "KoLeo",
    "gram": "Gram",
}


def run(
    options: PlotOptions,
    *,
    scores: Path,
    pretraining: list[Path],
    finetuning: list[Path],
    predictions: list[Path],
    datasets: list[Path],
    probes: list[Path],
    output: Path,
) -> None:
    """Draw all figures.

    Args:
        options: their look, and names of what they show.
        scores: scores of all runs.
        pretraining: `history.jsonl` of the stages, in order.
        finetuning: `finetune/<benchmark>/<method>/fold<k>/history.jsonl`.
        predictions: `predictions/<benchmark>/<method>/fold<k>/done.json`.
        datasets: nnU-Net's raw `dataset.json` of the benchmarks, `DatasetNNN_<benchmark>`.
        probes: results of `probe`, along the chain of stages.
        output: `figures.json`, written last: a list of file, section, title, caption.
    """
    folder = output.parent
    scored = read_scores([scores])
    made = [
        *pretraining_curves(options, pretraining, folder / "pretraining.png"),
        *probe_curves(options, [read_json(path) for path in probes], folder / "probe.png"),
        *finetuning_curves(options, finetuning, folder),
        *pictures.predicted(options, predictions, datasets, scored, folder),
        *structure_scores(options, scored, predictions, folder),
    ]
    write_json(output, [entry._asdict() for entry in made])


def pretraining_curves(
    options: PlotOptions, histories: Sequence[Path], path: Path
) -> Iterator[Figure]:
    """Losses of each stage."""
    stages = {p.parent.name: lines for p in histories if (lines := read_lines(p))}
    if not stages:
        return
    shown = marks(options.look, len(LOSSES) - 1)
    shown.insert(0, Mark(INK, "-", "o", 2.2))
    with figure(options.look, path, 1, len(stages), (2.8, 2.6)) as axes:
        for axis, (stage, lines) in zip(axes.flat, stages.items(), strict=True):
            for mark, (loss, label) in zip(shown, LOSSES.items(), strict=True):
                points = [(line["iteration"], line[loss]) for line in lines if loss in line]
                # Also where a stage has no such loss: the legend is of one panel, for all.
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
    """Draw a line through points, of which there may be one or none."""
    x, y = zip(*points, strict=True) if points else ((), ())
    dots = mark.marker if len(points) == 1 else None
    axis.plot(x, y, mark.dashes, color=mark.colour, lw=mark.width, marker=dots, ms=4, label=label)


def chains(probes: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Scores of probes along the chain of checkpoints, by variant of CT-3M.

    What has seen no CT begins the chain of each variant; without any other it is one of its own.
    """
    variants = [v for v in ("paper", "leak-free") if any(p["variant"] == v for p in probes)]
    return {
        variant: [s for p in probes if p["variant"] in ("none", variant) for s in p["scores"]]
        for variant in variants or (["none"] if probes else [])
    }


def probe_curves(
    options: PlotOptions, probes: Sequence[dict[str, Any]], path: Path
) -> Iterator[Figure]:
    """What each checkpoint of a chain knows of organs, a panel for every variant of CT-3M."""
    if not probes:
        return
    by_variant = chains(probes)
    kinds = {"linear": ("linear", "o"), "knn": ("k-NN", "s")}
    with figure(options.look, path, 1, len(by_variant), (4.6, 3.2)) as axes:
        for axis, (variant, scores) in zip(axes.flat, by_variant.items(), strict=True):
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
    """`stage1@20000`, weights or a random initialisation, as printed."""
    stage, at, iteration = name.partition("@")
    label = options.source_labels.get(stage, stage)
    return f"{label}, {int(iteration):,} it." if at else label


def finetuning_curves(
    options: PlotOptions, histories: Sequence[Path], folder: Path
) -> Iterator[Figure]:
    """Loss and pseudo Dice of each method, a figure for every benchmark."""
    for benchmark, runs in pictures.by_benchmark(histories).items():
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


def structure_scores(
    options: PlotOptions, scores: pd.DataFrame, predictions: Sequence[Path], folder: Path
) -> Iterator[Figure]:
    """DSC of every case by structure and method, a figure for every benchmark.

    Methods are in the order of `predictions`.
    """
    order = pictures.by_benchmark(predictions)
    for key, rows in scores.groupby("benchmark", sort=False):
        benchmark = str(key)
        names = rows.sort_values("label")["structure"].drop_duplicates().tolist()
        scored = set(rows["method"])
        methods = [method for method in order[benchmark] if method in scored]
        path = folder / f"scores_{benchmark}.png"
        width = max(4.0, 0.13 * len(names) * (len(methods) + 2))
        with figure(options.look, path, 1, 1, (min(width, 14.0), 3.2)) as axes:
            _strips(axes[0, 0], options, rows, names, methods)
        title = f"DSC by structure, {options.benchmark_labels.get(benchmark, benchmark)}"
        caption = "A dot is a case, a bar the mean; cases without the structure are left out."
        yield Figure(path.name, "Evaluation", title, caption)


def _strips(
    axis: Any, options: PlotOptions, rows: pd.DataFrame, names: list[str], methods: list[str]
) -> None:
    step = 0.8 / len(methods)
    for number, (method, mark) in enumerate(
        zip(methods, marks(options.look, len(methods)), strict=True)
    ):
        for place, structure in enumerate(names):
            chosen = (rows["method"] == method) & (rows["structure"] == structure)
            values = rows.loc[chosen, "dsc_paper"].dropna().to_numpy() * 100
            x = place - 0.4 + (number + 0.5) * step
            label = options.method_labels.get(method, method) if place == 0 else None
            axis.plot(
                np.full(len(values), x),
                values,
                mark.marker,
                ms=2.4,
                mew=0,
                alpha=0.6,
                color=mark.colour,
                label=label,
            )
            if len(values):
                axis.hlines(values.mean(), x - step / 2, x + step / 2, color=mark.colour, lw=1.6)
    axis.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=8)
    axis.set_ylim(-3, 103)
    axis.set_ylabel("DSC (%)")
    axis.grid(axis="x", visible=False)
    legend(axis, markerscale=2.5)


def mean(values: list[float | None]) -> float:
    """Of the values that are known; NaN where none is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else float("nan")
