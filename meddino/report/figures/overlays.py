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
from meddino.report.figures import overlay
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
    """Draw one slice of each shown case: the image, the reference, and every method's prediction.

    Args:
        options: size of the pictures, and how many cases are shown.
        dataset: nnU-Net's raw `dataset.json` of the benchmark, beside its images and labels.
        predictions: `.../<method>/fold<k>/done.json` of its runs, beside the segmentations.
        scores: their scores, which say what cases are shown.
        output: `index.json`, beside the pictures: `scored` (number of cases), `structures` (name
            and colour), and of each shown case its slice and its files.

    Raises:
        MeddinoError: no run has scores, or a file is missing or damaged.
    """
    description = read_json(dataset)
    labels = {name: value for name, value in description["labels"].items() if value}
    colours = overlay.colours(options.colours, sorted(labels, key=labels.__getitem__))
    found = read_scores(scores)
    shown = spread(found, options.cases_per_benchmark)
    _clear(output.parent)
    cases = [
        _case(
            options,
            number,
            case,
            overlay.read_case(dataset, description, case),
            dict(_predicted(predictions, case)),
            {labels[name]: colour for name, colour in colours.items()},
            output.parent,
        )
        for number, case in enumerate(track(shown, f"{dataset.parent.name}: overlays", len(shown)))
    ]
    structures = [{"name": name, "colour": colour} for name, colour in colours.items()]
    scored = int(found["case"].nunique())
    write_json(output, {"scored": scored, "structures": structures, "cases": cases})


def spread(scores: pd.DataFrame, most: int) -> list[str]:
    """Cases to show, by name: all, or as many as allowed, spread evenly from worst to best.

    Cases are ordered by their DSC, the mean over structures and methods; nobody picks them. Of a
    benchmark without a single DSC they are in the order of their names.

    Args:
        scores: rows of `evaluate`.
        most: how many may be shown, at least one.
    """
    means = scores.groupby("case")["dsc_paper"].mean()
    ordered = means.reset_index().sort_values(["dsc_paper", "case"])["case"].tolist()
    places = np.linspace(0, len(ordered) - 1, min(most, len(ordered))).round().astype(int)
    return sorted(str(ordered[place]) for place in places)


def _clear(folder: Path) -> None:
    """Remove pictures of an earlier run, which may have shown more cases."""
    for suffix in (".webp", ".png"):
        for path in folder.glob(f"*{suffix}"):
            path.unlink()


def _predicted(predictions: list[Path], case: str) -> Iterator[tuple[str, Path]]:
    """Methods, and the folder's `done.json` of the fold in which each has predicted a case."""
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
    """Draw one case; names of files are numbers, since those of cases come from strangers."""
    image, reference = volume
    labels = sitk.GetArrayViewFromImage(reference)
    at = overlay.telling_slice(labels)
    spacing = (image.GetSpacing()[1], image.GetSpacing()[0])
    size = overlay.fitted((labels.shape[1], labels.shape[2]), spacing, options.size_px)

    def layer(values: npt.NDArray[Any]) -> bytes:
        return overlay.layer(values, colour_of, size)

    hu = sitk.GetArrayViewFromImage(image)[at]
    pictures = {
        "image": overlay.image(hu, options.window_hu, size),
        "reference": layer(labels[at]),
    }
    for method, done in predicted.items():
        read = reader.read_made(done.with_name(f"{case}.nii.gz"), done)
        pictures[f"method.{method}"] = layer(sitk.GetArrayViewFromImage(read)[at])
    names = {key: f"{number:04d}.{key}{overlay.SUFFIX}" for key in pictures}
    for key, content in pictures.items():
        with atomic(folder / names[key]) as temporary:
            temporary.write_bytes(content)
    return {
        "case": case,
        "slice": at + 1,
        "slices": int(labels.shape[0]),
        "size_px": size,
        "image": names["image"],
        "reference": names["reference"],
        "methods": {method: names[f"method.{method}"] for method in predicted},
    }
