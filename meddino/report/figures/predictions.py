"""Predictions beside the reference: the best, the median and the worst case of a benchmark."""

from collections.abc import Iterator, Sequence
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import SimpleITK as sitk

from meddino.core.files import read_json
from meddino.core.nnunet import benchmark_of
from meddino.report.figures import layers
from meddino.report.figures.runs import by_benchmark
from meddino.report.options import PlotOptions
from meddino.report.pixels import body, grey
from meddino.report.style import MUTED, Figure, bare, figure
from meddino.volumes import reader

OPACITY = 0.45
MARGIN = 0.03
"""Margin around the body, as a share of the image."""
PANELS_A_ROW = 7
"""Most panels in a row; a case of more takes several rows."""
PANEL = (1.75, 1.75)
"""Width and height of a panel (inches)."""
GAP = 0.08
"""Space below the panels of a case, as a share of a panel."""
LETTERS = 24
"""Longest title of a panel in one line."""

Labels = npt.NDArray[Any]


class Chosen(NamedTuple):
    """A case that stands for others.

    Attributes:
        rank: best, median or worst.
        case: its name.
        mean: DSC in %, the mean over structures, then over methods.
        by_method: DSC in % of each method, the mean over structures.
    """

    rank: str
    case: str
    mean: float
    by_method: dict[str, float]


def predicted(
    options: PlotOptions,
    predictions: Sequence[Path],
    datasets: Sequence[Path],
    scores: pd.DataFrame,
    folder: Path,
) -> Iterator[Figure]:
    """Draw three cases of every benchmark: image, reference, and each method.

    Args:
        options: names, window, colours.
        predictions: `.../<benchmark>/<method>/fold<k>/done.json`.
        datasets: `.../DatasetNNN_<benchmark>/dataset.json`.
        scores: scores of all runs, by which cases are chosen.
        folder: gets `predictions_<benchmark>.png`, and PDF.
    """
    runs = by_benchmark(predictions)
    for dataset in datasets:
        benchmark = benchmark_of(dataset)
        if benchmark in runs:
            shared = set.intersection(
                *(set(read_json(path)["cases"]) for path in runs[benchmark].values())
            )
            rows = scores[(scores["benchmark"] == benchmark) & scores["case"].isin(shared)]
            if chosen := choose(rows, list(runs[benchmark])):
                yield _figure(options, benchmark, runs[benchmark], dataset, chosen, folder)


def choose(rows: pd.DataFrame, methods: Sequence[str]) -> list[Chosen]:
    """The best, the median and the worst case by DSC; fewer where there are fewer than three.

    A case counts by the mean over structures that are scored, then over methods. Of an even number
    of cases, the median is the worse one of the two in the middle; equal cases go by name.

    Args:
        rows: scores of the cases of a benchmark.
        methods: methods that count.
    """
    counted = rows[rows["method"].isin(methods)]
    means = counted.groupby(["case", "method"])["dsc_paper"].mean().unstack("method") * 100
    means = means.dropna(how="all")
    ranking = means.mean(axis=1).sort_index().sort_values(ascending=False, kind="stable")
    places = {0: "best", len(ranking) // 2: "median", len(ranking) - 1: "worst"}
    if len(ranking) < 3:
        places = dict(zip(range(len(ranking)), ("best", "worst"), strict=False))
    return [
        Chosen(rank, case, float(ranking[case]), _floats(means.loc[case]))
        for place, rank in places.items()
        for case in [str(ranking.index[place])]
    ]


def _floats(values: Any) -> dict[str, float]:
    return {str(key): float(value) for key, value in values.items()}


class _Benchmark(NamedTuple):
    """A benchmark's files, and how its predictions are drawn."""

    options: PlotOptions
    dataset: Path
    description: dict[str, Any]
    """Contents of `dataset`."""
    runs: dict[str, Path]
    """Method -> `done.json`, beside its segmentations."""
    colours: npt.NDArray[np.float32]
    """RGB from 0 to 1 of each label: (largest label + 1, 3)."""


def _figure(
    options: PlotOptions,
    benchmark: str,
    runs: dict[str, Path],
    dataset: Path,
    chosen: list[Chosen],
    folder: Path,
) -> Figure:
    """Draw a benchmark's chosen cases below each other."""
    description = read_json(dataset)
    structures = {value: name for name, value in description["labels"].items() if value}
    structures = dict(sorted(structures.items()))
    colour_of = layers.colours(options.look.colours, list(structures.values()))
    colours = np.zeros((max(structures) + 1, 3), np.float32)
    for value, name in structures.items():
        colours[value] = [part / 255 for part in layers.rgb(colour_of[name])]
    drawing = _Benchmark(options, dataset, description, runs, colours)
    path = folder / f"predictions_{benchmark}.png"
    lines = ceil((2 + len(runs)) / PANELS_A_ROW)
    columns = ceil((2 + len(runs)) / lines)
    visible: set[int] = set()
    heights = [*[1.0] * lines, GAP] * len(chosen)
    with figure(options.look, path, len(heights), columns, PANEL, heights) as axes:
        for case, rows in zip(chosen, np.split(axes, len(chosen)), strict=True):
            visible |= _draw_case(rows[:-1].ravel(), drawing, case)
            for axis in rows[-1]:
                axis.set_axis_off()
        _legend(axes[0, 0].figure, {v: n for v, n in structures.items() if v in visible}, colours)
    ranks = "; ".join(f"{c.rank}, {c.case}: {c.mean:.1f} %" for c in chosen)
    title = f"Predictions, {options.benchmark_labels.get(benchmark, benchmark)}"
    seed = "" if options.seed is None else f" Trainings with seed {options.seed}."
    caption = (
        "Validation cases by DSC (the mean over structures, then over methods) - "
        f"{ranks}. Numbers are each method's DSC (%) on the whole case. Slices are those where the"
        " reference shows most structures, and of these most labelled voxels; the patient's right"
        f" is on the left.{seed}"
    )
    return Figure(path.name, "Evaluation", title, caption)


def _draw_case(panels: Any, drawing: _Benchmark, chosen: Chosen) -> set[int]:
    """Draw one case's image, reference and predictions; return the labels that are visible."""
    image, reference = layers.read_case(drawing.dataset, drawing.description, chosen.case)
    number = layers.telling_slice(sitk.GetArrayViewFromImage(reference))
    spacing = image.GetSpacing()
    pixels = sitk.GetArrayFromImage(image)[number]
    # MR, which has no negative values, has no threshold of air either.
    window = _around(body(pixels)) if pixels.min() < 0 else (slice(None), slice(None))
    shades = grey(pixels, drawing.options.look.window_hu)[window]
    rgb = np.repeat(shades[..., None], 3, axis=2)  # (y, x, 3)
    aspect = spacing[1] / spacing[0]
    # Rows run to the back and columns to the patient's left, as a radiologist looks at them.
    panels[0].imshow(rgb, aspect=aspect)
    panels[0].set_title(chosen.case, fontsize=8, color=MUTED)
    panels[0].set_ylabel(f"{chosen.rank}\n{chosen.mean:.1f} %", fontsize=9)
    labels = {"reference": reference} | {
        method: reader.read_made(done.with_name(f"{chosen.case}.nii.gz"), done)
        for method, done in drawing.runs.items()
    }
    visible: set[int] = set()
    for axis, (name, label) in zip(panels[1:], labels.items(), strict=False):
        values = sitk.GetArrayViewFromImage(label)[number][window]
        _overlay(axis, rgb, values, drawing.colours, aspect)
        axis.set_title(_title(drawing.options, name, chosen), fontsize=7.5)
        visible |= set(np.unique(values).tolist())
    for axis in panels:
        bare(axis)
    for axis in panels[1 + len(labels) :]:
        axis.set_axis_off()
    return visible


def _title(options: PlotOptions, name: str, chosen: Chosen) -> str:
    """The head of a panel: a method and its DSC, in two lines where it is long."""
    words = [options.method_labels.get(name, name)]
    if (score := chosen.by_method.get(name)) is not None:
        words.append("-" if np.isnan(score) else f"{score:.1f}")
    long = len("  ".join(words)) > LETTERS
    return ("\n" if long else "  ").join(words)


def _around(mask: npt.NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns that show a region and a margin."""
    ranges = []
    for axis, length in enumerate(mask.shape):
        occupied = np.flatnonzero(mask.any(axis=1 - axis))
        margin = round(MARGIN * length)
        ranges.append(slice(max(int(occupied[0]) - margin, 0), int(occupied[-1]) + 1 + margin))
    return ranges[0], ranges[1]


def _overlay(
    axis: Any, rgb: Labels, values: Labels, colours: npt.NDArray[np.float32], aspect: float
) -> None:
    """Show labels over the image: their area lightly, their border in full."""
    # A model may predict labels that the dataset lacks; they take the last colour.
    colour = colours[np.minimum(values, len(colours) - 1)]
    over = (values > 0)[..., None] * OPACITY
    axis.imshow(rgb * (1 - over) + colour * over, aspect=aspect)
    for value in np.unique(values[values > 0]):
        border = colours[min(int(value), len(colours) - 1)]
        axis.contour(values == value, levels=[0.5], colors=[tuple(border)], linewidths=0.8)


def _legend(drawing: Any, structures: dict[int, str], colours: npt.NDArray[np.float32]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=tuple(colours[value]), label=name) for value, name in structures.items()]
    size = {"fontsize": 9, "handlelength": 1.4, "handleheight": 1.4}
    drawing.legend(handles=handles, loc="outside lower center", ncols=6, **size)
