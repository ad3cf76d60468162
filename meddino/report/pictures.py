"""Predictions beside the reference, slice by slice."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from meddino.core.files import read_json
from meddino.ct3m import volumes
from meddino.report.options import FigureOptions
from meddino.report.style import MUTED, Figure, bare, figure, grey

OPACITY = 0.45


def by_benchmark(paths: Sequence[Path]) -> dict[str, dict[str, Path]]:
    """Files of runs, `.../<benchmark>/<method>/fold<k>/<file>`, by benchmark and method.

    Of several folds the first is taken.
    """
    runs: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in paths:
        benchmark, method = path.parts[-4:-2]
        runs[benchmark].setdefault(method, path)
    return dict(runs)


def predicted(
    options: FigureOptions, predictions: Sequence[Path], datasets: Sequence[Path], folder: Path
) -> Iterator[Figure]:
    """Draw a few cases of every benchmark: image, reference, and each method.

    Args:
        options: number of cases, window, colours.
        predictions: `.../<benchmark>/<method>/fold<k>/done.json`.
        datasets: `.../DatasetNNN_<benchmark>/dataset.json`.
        folder: where the figures go.
    """
    runs = by_benchmark(predictions)
    for dataset in datasets:
        benchmark = dataset.parent.name.partition("_")[2]
        if benchmark in runs:
            yield _benchmark(options, benchmark, runs[benchmark], dataset, folder)


def _benchmark(
    options: FigureOptions, benchmark: str, runs: dict[str, Path], dataset: Path, folder: Path
) -> Figure:
    description = read_json(dataset)
    colours = _palette(options, max(description["labels"].values()))
    shared = set.intersection(*(set(read_json(path)["cases"]) for path in runs.values()))
    cases = sorted(shared)[: options.cases_per_run]
    path = folder / f"predictions_{benchmark}.png"
    with figure(options, path, len(cases), 2 + len(runs), (1.7, 1.8)) as axes:
        for row, case in zip(axes, cases, strict=True):
            files = description["dataset"][case]
            image, reference = (
                volumes.read_made(dataset.parent / name, dataset)
                for name in (files["images"][0], files["label"])
            )
            labels = {"reference": reference} | {
                method: volumes.read_made(done.with_name(f"{case}.nii.gz"), done)
                for method, done in runs.items()
            }
            _row(row, options, case, image, labels, colours)
    caption = (
        "Each row is a validation case, at the slice where the reference has most labelled voxels;"
        " the patient's right is on the left. Methods: " + ", ".join(runs) + "."
    )
    return Figure(path.name, "Evaluation", f"Predictions, {benchmark}", caption)


def _row(
    axes: Any,
    options: FigureOptions,
    case: str,
    image: sitk.Image,
    labels: dict[str, sitk.Image],
    colours: npt.NDArray[np.float32],
) -> None:
    reference = sitk.GetArrayViewFromImage(labels["reference"])
    number = int(np.argmax((reference > 0).sum(axis=(1, 2))))
    spacing = image.GetSpacing()
    shown = grey(sitk.GetArrayViewFromImage(image)[number], options.window_hu)
    rgb = np.repeat(shown[..., None], 3, axis=2)
    aspect = spacing[1] / spacing[0]
    # Rows run to the back and columns to the patient's left, as a radiologist looks at them.
    axes[0].imshow(rgb, aspect=aspect)
    axes[0].set_title(case, fontsize=7, color=MUTED)
    for axis, (name, label) in zip(axes[1:], labels.items(), strict=True):
        values = sitk.GetArrayViewFromImage(label)[number]
        colour = colours[np.minimum(values, len(colours) - 1)]
        over = (values > 0)[..., None] * OPACITY
        axis.imshow(rgb * (1 - over) + colour * over, aspect=aspect)
        axis.set_title(name, fontsize=7)
    for axis in axes:
        bare(axis)


def _palette(options: FigureOptions, labels: int) -> npt.NDArray[np.float32]:
    """Colour of every label, RGB from 0 to 1; the palette is repeated, lighter, where too short."""
    base = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in options.colours]) / 255
    rounds = [base + (1 - base) * share for share in (0.0, 0.5)]
    tiled = np.resize(np.concatenate(rounds), (labels, 3))
    return np.concatenate([np.zeros((1, 3)), tiled]).astype(np.float32)
