"""The `overlays` verb: slices of a benchmark's cases as small pictures, for the report to show."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk

from meddino.core.files import atomic, read_json, write_json
from meddino.core.progress import track
from meddino.evaluate.scores import read_scores
from meddino.report.figures import layers
from meddino.report.options import OverlayOptions
from meddino.volumes import reader

METHOD = "method."
"""How the key of a method's picture begins."""


def run(
    options: OverlayOptions,
    *,
    dataset: Path,
    predictions: list[Path],
    scores: list[Path],
    output: Path,
) -> None:
    """Draw slices of each chosen case: image, reference, and every method's prediction.

    The best, the median and the worst case have several slices, the others their telling one.

    Args:
        options: size of the pictures, and how many cases and slices are drawn.
        dataset: nnU-Net's raw `dataset.json` of the benchmark, beside its images and labels.
        predictions: `.../<method>/fold<k>/done.json` of its runs, beside the segmentations.
        scores: scores of its runs, by which cases are chosen.
        output: `index.json`, beside the pictures: `scored` (number of cases), `structures` (name
            and colour, in the order of `layers.label_maps`), and the slices and the files of each
            case drawn.

    Raises:
        MeddinoError: no run has scores, or a file is missing or damaged.
    """
    description = read_json(dataset)
    labels = {name: value for name, value in description["labels"].items() if value}
    colours = layers.colours(options.colours, sorted(labels, key=labels.__getitem__))
    ranking = ranked(read_scores(scores))
    ranks = {ranking[place]: rank for rank, place in _places(len(ranking)).items()}
    chosen = spread(ranking, options.cases_per_benchmark)
    clear(output.parent)
    cases = [
        {
            "case": case,
            "rank": ranks.get(case),
            **_case(
                options,
                layers.read_case(dataset, description, case),
                _predicted(predictions, case),
                [labels[name] for name in colours],
                options.slices_per_case if case in ranks else 1,
                # Names of cases come from strangers.
                output.parent / f"{number:04d}",
            ),
        }
        for number, case in enumerate(
            track(chosen, f"{dataset.parent.name}: overlays", len(chosen))
        )
    ]
    structures = [{"name": name, "colour": colour} for name, colour in colours.items()]
    write_json(output, {"scored": len(ranking), "structures": structures, "cases": cases})


def ranked(scores: pd.DataFrame) -> list[str]:
    """Names of the cases from worst to best by DSC, the mean over structures and methods.

    Without a single DSC they are in the order of their names.

    Args:
        scores: rows of `evaluate`.
    """
    means = scores.groupby("case")["dsc_paper"].mean().reset_index()
    return [str(case) for case in means.sort_values(["dsc_paper", "case"])["case"]]


def _places(count: int) -> dict[str, int]:
    """Places of the cases that stand for others; of an even number, the worse one is the median."""
    return {"worst": 0, "best": count - 1, "median": (count - 1) // 2}


def spread(ranking: list[str], most: int) -> list[str]:
    """Names of the cases to draw: all, or `most` of them, spread evenly from worst to best.

    Args:
        ranking: cases from worst to best.
        most: largest number of cases, at least one.
    """
    places = np.linspace(0, len(ranking) - 1, min(most, len(ranking))).round().astype(int)
    return sorted(ranking[place] for place in places)


def clear(folder: Path) -> None:
    """Remove pictures of an earlier run, which may have drawn more cases."""
    for suffix in (".webp", ".png"):
        for path in folder.glob(f"*{suffix}"):
            path.unlink()


def _predicted(predictions: list[Path], case: str) -> Iterator[tuple[str, sitk.Image]]:
    """Each method with its segmentation of a case, from the fold in which it predicted it."""
    for done in predictions:
        if case in read_json(done)["cases"]:
            yield done.parts[-3], reader.read_made(done.with_name(f"{case}.nii.gz"), done)


def _case(
    options: OverlayOptions,
    volume: tuple[sitk.Image, sitk.Image],
    predicted: Iterator[tuple[str, sitk.Image]],
    values: list[int],
    most: int,
    stem: Path,
) -> dict[str, Any]:
    """Draw at most so many slices of a case into files whose names begin with `stem`."""
    image, reference = volume
    labels = sitk.GetArrayViewFromImage(reference)
    shown = layers.shown_slices(labels, most)
    spacing = (image.GetSpacing()[1], image.GetSpacing()[0])
    size = layers.fitted((labels.shape[1], labels.shape[2]), spacing, options.size_px)
    pictures = {
        "image": layers.images(sitk.GetArrayViewFromImage(image)[shown], options.window_hu, size),
        "reference": layers.label_maps(labels[shown], values, size),
    }
    for method, prediction in predicted:
        planes = sitk.GetArrayViewFromImage(prediction)[shown]
        pictures[METHOD + method] = layers.label_maps(planes, values, size)
    names = {key: f"{stem.name}.{key}{layers.SUFFIX}" for key in pictures}
    for key, content in pictures.items():
        with atomic(stem.with_name(names[key])) as temporary:
            temporary.write_bytes(content)
    return {
        "shown": [z + 1 for z in shown],
        "first": shown.index(layers.telling_slice(labels)),
        "slices": int(labels.shape[0]),
        "size_px": size,
        "image": names.pop("image"),
        "reference": names.pop("reference"),
        "methods": {key.removeprefix(METHOD): name for key, name in names.items()},
    }
