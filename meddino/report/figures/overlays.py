"""The `overlays` verb: a benchmark's cases as small pictures, for the report to show on a click."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import SimpleITK as sitk

from meddino.core.files import atomic, read_json, write_json
from meddino.core.progress import track
from meddino.evaluate.scores import read_scores
from meddino.report.figures import layers
from meddino.report.options import OverlayOptions
from meddino.volumes import reader


def run(
    options: OverlayOptions,
    *,
    dataset: Path,
    predictions: list[Path],
    scores: list[Path],
    output: Path,
) -> None:
    """Draw one slice of each chosen case: image, reference, and every method's prediction.

    Args:
        options: size of the pictures, and how many cases are drawn.
        dataset: nnU-Net's raw `dataset.json` of the benchmark, beside its images and labels.
        predictions: `.../<method>/fold<k>/done.json` of its runs, beside the segmentations.
        scores: scores of its runs, by which cases are chosen.
        output: `index.json`, beside the pictures: `scored` (number of cases), `structures` (name
            and colour), and the slice and the files of each case drawn.

    Raises:
        MeddinoError: no run has scores, or a file is missing or damaged.
    """
    description = read_json(dataset)
    labels = {name: value for name, value in description["labels"].items() if value}
    colours = layers.colours(options.colours, sorted(labels, key=labels.__getitem__))
    all_scores = read_scores(scores)
    chosen = spread(all_scores, options.cases_per_benchmark)
    _clear(output.parent)
    cases = [
        _case(
            options,
            number,
            case,
            layers.read_case(dataset, description, case),
            dict(_predicted(predictions, case)),
            {labels[name]: colour for name, colour in colours.items()},
            output.parent,
        )
        for number, case in enumerate(
            track(chosen, f"{dataset.parent.name}: overlays", len(chosen))
        )
    ]
    structures = [{"name": name, "colour": colour} for name, colour in colours.items()]
    scored = int(all_scores["case"].nunique())
    write_json(output, {"scored": scored, "structures": structures, "cases": cases})


def spread(scores: pd.DataFrame, most: int) -> list[str]:
    """Names of the cases to draw: all, or `most` of them, spread evenly from worst to best.

    Cases are ordered by their DSC, the mean over structures and methods; nobody picks them. Without
    a single DSC they are in the order of their names.

    Args:
        scores: rows of `evaluate`.
        most: largest number of cases, at least one.
    """
    means = scores.groupby("case")["dsc_paper"].mean()
    ordered = means.reset_index().sort_values(["dsc_paper", "case"])["case"].tolist()
    places = np.linspace(0, len(ordered) - 1, min(most, len(ordered))).round().astype(int)
    return sorted(str(ordered[place]) for place in places)


def _clear(folder: Path) -> None:
    """Remove pictures of an earlier run, which may have drawn more cases."""
    for suffix in (".webp", ".png"):
        for path in folder.glob(f"*{suffix}"):
            path.unlink()


def _predicted(predictions: list[Path], case: str) -> Iterator[tuple[str, Path]]:
    """Each method with the `done.json` of the fold in which it predicted a case."""
    for done in predictions:
        if case in read_json(done)["cases"]:
            yield done.parts[-3], done


def _case(
    options: OverlayOptions,
    number: int,
    case: str,
    volume: tuple[sitk.Image, sitk.Image],
    predicted: dict[str, Path],
    colour_of: dict[int, str],
    folder: Path,
) -> dict[str, Any]:
    """Draw one case into files named by its number, since names of cases come from strangers."""
    image, reference = volume
    labels = sitk.GetArrayViewFromImage(reference)
    z = layers.telling_slice(labels)
    spacing = (image.GetSpacing()[1], image.GetSpacing()[0])
    size = layers.fitted((labels.shape[1], labels.shape[2]), spacing, options.size_px)

    def layer(values: npt.NDArray[Any]) -> bytes:
        return layers.layer(values, colour_of, size)

    hu = sitk.GetArrayViewFromImage(image)[z]
    pictures = {
        "image": layers.image(hu, options.window_hu, size),
        "reference": layer(labels[z]),
    }
    for method, done in predicted.items():
        prediction = reader.read_made(done.with_name(f"{case}.nii.gz"), done)
        pictures[f"method.{method}"] = layer(sitk.GetArrayViewFromImage(prediction)[z])
    names = {key: f"{number:04d}.{key}{layers.SUFFIX}" for key in pictures}
    for key, content in pictures.items():
        with atomic(folder / names[key]) as temporary:
            temporary.write_bytes(content)
    return {
        "case": case,
        "slice": z + 1,
        "slices": int(labels.shape[0]),
        "size_px": size,
        "image": names["image"],
        "reference": names["reference"],
        "methods": {method: names[f"method.{method}"] for method in predicted},
    }
