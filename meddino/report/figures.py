"""The `figures` verb: what people look at first."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from meddino.core.files import read_json, read_lines, write_json
from meddino.evaluate import merge
from meddino.report import pictures
from meddino.report.options import FigureOptions
from meddino.report.style import Figure, figure

LOSSES = ("loss", "dino_global", "dino_local", "ibot", "koleo", "gram")


def run(
    options: FigureOptions,
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
        options: their look.
        scores: scores of all runs.
        pretraining: `history.jsonl` of the stages, in order.
        finetuning: `finetune/<benchmark>/<method>/fold<k>/history.jsonl`.
        predictions: `predictions/<benchmark>/<method>/fold<k>/done.json`.
        datasets: nnU-Net's raw `dataset.json` of the benchmarks, `DatasetNNN_<benchmark>`.
        probes: results of `probe`, along the chain of stages.
        output: `figures.json`, written last: a list of file, section, title, caption.
    """
    folder = output.parent
    made = [
        *pretraining_curves(options, pretraining, folder / "pretraining.png"),
        *probe_curves(options, [read_json(path) for path in probes], folder / "probe.png"),
        *finetuning_curves(options, finetuning, folder),
        *pictures.predicted(options, predictions, datasets, folder),
        *structure_scores(options, merge.read([scores]), folder),
    ]
    write_json(output, [entry._asdict() for entry in made])


def pretraining_curves(
    options: FigureOptions, histories: Sequence[Path], path: Path
) -> Iterator[Figure]:
    """Losses of each stage."""
    stages = {p.parent.name: lines for p in histories if (lines := read_lines(p))}
    if not stages:
        return
    with figure(options, path, 1, len(stages), (2.8, 2.6)) as axes:
        for axis, (stage, lines) in zip(axes.flat, stages.items(), strict=True):
            for colour, loss in zip(("#1b1f24", *options.colours), LOSSES, strict=False):
                points = [(line["iteration"], line[loss]) for line in lines if loss in line]
                if points:
                    width = 1.8 if loss == "loss" else 1.0
                    label = "total" if loss == "loss" else loss.replace("_", " ")
                    axis.plot(*zip(*points, strict=True), color=colour, lw=width, label=label)
            axis.set_title(stage)
            axis.set_xlabel("iteration")
        axes[0, 0].set_ylabel("loss")
        axes[0, -1].legend(fontsize=7)
    caption = (
        "Losses by iteration. The total is their weighted sum; KoLeo may be negative. Losses of"
        " different stages are not comparable where their crops or weights differ."
    )
    yield Figure(path.name, "Pretraining", "Losses of the stages", caption)


def probe_curves(
    options: FigureOptions, probes: Sequence[dict[str, Any]], path: Path
) -> Iterator[Figure]:
    """What each checkpoint of a chain knows of organs, a panel for every variant of CT-3M."""
    variants = [v for v in ("paper", "leak-free") if any(p["variant"] == v for p in probes)]
    if not probes:
        return
    with figure(options, path, 1, max(1, len(variants)), (4.6, 3.2)) as axes:
        for axis, variant in zip(axes.flat, variants or ["none"], strict=True):
            chain = [p for p in probes if p["variant"] in ("none", variant)]
            scores = [score for p in chain for score in p["scores"]]
            for probe, label in (("linear", "linear"), ("knn", "k-NN")):
                values = [100 * score[probe]["balanced_accuracy"] for score in scores]
                axis.plot(range(len(values)), values, "o-", ms=4, label=label)
                axis.axhline(values[0], color=axis.lines[-1].get_color(), lw=0.8, ls=":")
            axis.set_xticks(
                range(len(scores)), [s["name"] for s in scores], rotation=30, ha="right"
            )
            axis.set_title("" if len(variants) < 2 else f"CT-3M: {variant}")
        axes[0, 0].set_ylabel("balanced accuracy (%)")
        axes[0, -1].legend(fontsize=7)
    classes, patches = probes[0]["classes"], probes[0]["patches"]
    caption = (
        "Organs told from single, frozen patch tokens: a classifier learns from patches of training"
        f" cases ({patches['train']:,}) and is tested on those of validation cases"
        f" ({patches['val']:,}). Mean recall of {len(classes)} classes ({', '.join(classes)});"
        f" guessing gives {100 / len(classes):.0f} %, dotted lines the random initialisation. A"
        " stage that falls below the one before it has lost something."
    )
    yield Figure(path.name, "Pretraining", "What the frozen backbone knows of organs", caption)


def finetuning_curves(
    options: FigureOptions, histories: Sequence[Path], folder: Path
) -> Iterator[Figure]:
    """Loss and pseudo Dice of each method, a figure for every benchmark."""
    for benchmark, runs in pictures.by_benchmark(histories).items():
        methods = {method: read_lines(history) for method, history in runs.items()}
        path = folder / f"finetuning_{benchmark}.png"
        with figure(options, path, 1, 2, (4.2, 3.0)) as axes:
            _plot(axes[0, 0], methods, "training loss", lambda line: line["train_loss"])
            _plot(axes[0, 1], methods, "pseudo Dice", lambda line: _mean(line["pseudo_dice"]))
            axes[0, 1].legend(fontsize=7)
        caption = (
            "Left: training loss. Right: nnU-Net's pseudo Dice on random validation patches, the"
            " mean over structures; it steers nothing."
        )
        yield Figure(path.name, "Finetuning", f"Training on {benchmark}", caption)


def structure_scores(
    options: FigureOptions, scores: pd.DataFrame, folder: Path
) -> Iterator[Figure]:
    """DSC of every case by structure and method, a figure for every benchmark."""
    for benchmark, rows in scores.groupby("benchmark", sort=False):
        names = rows.sort_values("label")["structure"].drop_duplicates().tolist()
        methods = rows["method"].drop_duplicates().tolist()
        path = folder / f"scores_{benchmark}.png"
        width = max(4.0, 0.13 * len(names) * (len(methods) + 2))
        with figure(options, path, 1, 1, (min(width, 14.0), 3.2)) as axes:
            _strips(axes[0, 0], rows, names, methods)
        caption = "A dot is a case, a bar the mean; cases without the structure are left out."
        yield Figure(path.name, "Evaluation", f"DSC by structure, {benchmark}", caption)


def _strips(axis: Any, rows: pd.DataFrame, names: list[str], methods: list[str]) -> None:
    step = 0.8 / len(methods)
    for number, method in enumerate(methods):
        for place, structure in enumerate(names):
            chosen = (rows["method"] == method) & (rows["structure"] == structure)
            values = rows.loc[chosen, "dsc_paper"].dropna().to_numpy() * 100
            x = place - 0.4 + (number + 0.5) * step
            line = axis.plot(
                np.full(len(values), x),
                values,
                "o",
                ms=2.2,
                alpha=0.55,
                color=f"C{number}",
                label=method if place == 0 else None,
            )
            if len(values):
                axis.hlines(values.mean(), x - step / 2, x + step / 2, color=line[0].get_color())
    axis.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=7)
    axis.set_ylim(-3, 103)
    axis.set_ylabel("DSC (%)")
    axis.grid(axis="x", visible=False)
    axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), markerscale=2)


def _plot(
    axis: Any, methods: dict[str, list[Any]], name: str, value: Callable[[Any], float]
) -> None:
    for number, (method, lines) in enumerate(methods.items()):
        style = "-" if number < 8 else "--"
        points = [(line["epoch"] + 1, value(line)) for line in lines]
        axis.plot(*(zip(*points, strict=True) if points else ([], [])), style, label=method)
    axis.set_xlabel("epoch")
    axis.set_title(name)


def _mean(values: list[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else float("nan")
