"""The `evaluate` verb: DSC, NSD, HD95 and volumes of every case and structure of one run."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import SimpleITK as sitk
from scipy import ndimage

from meddino.core.errors import MeddinoError
from meddino.core.files import atomic, read_json
from meddino.core.progress import track
from meddino.evaluate import surface
from meddino.evaluate.options import EvaluateOptions
from meddino.evaluate.surface import Floats, Mask
from meddino.volumes import reader

NAN = float("nan")


def run(options: EvaluateOptions, *, predictions: Path, dataset: Path, output: Path) -> None:
    """Score the predictions of one run.

    A row of the output has benchmark, method, fold, the seed where the options name one, case,
    label, structure, and

    - `dsc_paper`, `nsd_paper`: protocol of the authors' script: NSD by edge voxels; NaN where the
      reference lacks the structure, even if it is predicted;
    - `dsc_area`, `nsd_area`: NSD by area; 0 where a structure is predicted that the reference
      lacks, NaN where both lack it;
    - `hd95_mm`: NaN unless both have the structure;
    - `reference_ml`, `predicted_ml`, and `volume_difference_ml`: predicted minus reference.

    Args:
        options: the run's names, and the tolerances of the NSD (mm).
        predictions: `done.json` of `predict`, beside the segmentations.
        dataset: nnU-Net's raw `dataset.json`, beside the reference labels.
        output: the Parquet file.

    Raises:
        MeddinoError: there are no cases, or a segmentation is missing or lies on another grid than
            its reference.
    """
    cases = read_json(predictions)["cases"]
    if not cases:
        raise MeddinoError(
            f"{predictions} names no cases, so fold {options.fold} of {options.benchmark} has none"
            " to score; give the benchmark more cases or fewer folds"
        )
    labels = {k: v for k, v in read_json(dataset)["labels"].items() if v != 0}
    rows: list[dict[str, Any]] = []
    for case in track(cases, f"{options.benchmark}: scoring {options.method}", len(cases)):
        predicted, reference = read_case(predictions, dataset, case)
        run_keys: dict[str, Any] = {
            "benchmark": options.benchmark,
            "method": options.method,
            "fold": options.fold,
        }
        if options.seed is not None:
            run_keys["seed"] = options.seed
        for structure, scores in score_case(reference, predicted, labels, options).items():
            case_keys = {"case": case, "label": labels[structure], "structure": structure}
            rows.append({**run_keys, **case_keys, **scores})
    with atomic(output) as temporary:
        pd.DataFrame(rows).to_parquet(temporary, index=False, write_page_checksum=True)


def read_case(predictions: Path, dataset: Path, case: str) -> tuple[sitk.Image, sitk.Image]:
    """The predicted and the reference labels of a case, on the same grid.

    Args:
        predictions: `done.json` of `predict`, beside the segmentations.
        dataset: nnU-Net's raw `dataset.json`, beside the reference labels.
        case: its name.

    Raises:
        MeddinoError: a segmentation is missing or lies on another grid than its reference.
    """
    predicted, reference = (
        reader.read_made(path.parent / name, path)
        for path, name in (
            (predictions, f"{case}.nii.gz"),
            (dataset, f"labelsTr/{case}.nii.gz"),
        )
    )
    _check_grid(predicted, reference, predictions.parent / f"{case}.nii.gz")
    return predicted, reference


def _check_grid(predicted: sitk.Image, reference: sitk.Image, path: Path) -> None:
    same = predicted.GetSize() == reference.GetSize() and all(
        np.allclose(first, second, atol=1e-3)  # NIfTI stores geometry in single precision
        for first, second in (
            (predicted.GetSpacing(), reference.GetSpacing()),
            (predicted.GetOrigin(), reference.GetOrigin()),
            (predicted.GetDirection(), reference.GetDirection()),
        )
    )
    if not same:
        raise MeddinoError(f"{path} lies on another grid than its reference; run predict again")


def score_case(
    reference: sitk.Image, predicted: sitk.Image, labels: dict[str, int], options: EvaluateOptions
) -> dict[str, dict[str, float]]:
    """Score one case.

    Args:
        reference: labels.
        predicted: labels on the same grid.
        labels: structure -> label.
        options: the tolerances of the NSD (mm).

    Returns:
        Structure -> the metrics' columns of `run`.
    """
    spacing = np.array(reference.GetSpacing()[::-1])
    highest = max(labels.values())
    maps = [
        _as_labels(sitk.GetArrayViewFromImage(image), highest)  # (z, y, x)
        for image in (reference, predicted)
    ]
    boxes = [ndimage.find_objects(array, highest) for array in maps]
    default = options.evaluation.tolerance_mm
    scores = {}
    for structure, label in labels.items():
        # Distances need only the box of the structure, a small part of the volume.
        box = _around([boxes_of_map[label - 1] for boxes_of_map in boxes])
        masks = [array[box] == label for array in maps]  # (z, y, x) of the box
        by_area = options.tolerances_mm.get(structure, default)
        scores[structure] = score(masks[0], masks[1], spacing, default, by_area)
    return scores


def _as_labels(array: npt.NDArray[Any], highest: int) -> npt.NDArray[Any]:
    """Convert to the smallest unsigned type for `highest`; 0 where a value does not fit it."""
    dtype = np.min_scalar_type(highest)
    if array.dtype == dtype:
        return array
    labels = array.astype(dtype)
    labels[labels != array] = 0
    return labels


def _around(boxes: list[tuple[slice, ...] | None]) -> tuple[slice, ...]:
    """The smallest box that holds all boxes; an empty one if all are None."""
    present = [box for box in boxes if box is not None]
    if not present:
        return (slice(0),) * 3
    return tuple(
        slice(min(side.start for side in sides), max(side.stop for side in sides))
        for sides in zip(*present, strict=True)
    )


def score(
    reference: Mask, predicted: Mask, spacing_mm: Floats, tolerance_mm: float, by_area_mm: float
) -> dict[str, float]:
    """Score one structure.

    Args:
        reference: (z, y, x); everything beyond the array counts as outside.
        predicted: (z, y, x).
        spacing_mm: (z, y, x).
        tolerance_mm: of the NSD by edge voxels.
        by_area_mm: tolerance of the NSD by area.

    Returns:
        The metrics' columns of `run`.
    """
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    counts = [int(np.count_nonzero(mask)) for mask in (reference, predicted)]
    volumes_ml = {
        "reference_ml": counts[0] * voxel_ml,
        "predicted_ml": counts[1] * voxel_ml,
        "volume_difference_ml": (counts[1] - counts[0]) * voxel_ml,
    }
    if not any(counts):
        names = ("dsc_paper", "nsd_paper", "dsc_area", "nsd_area", "hd95_mm")
        return {**dict.fromkeys(names, NAN), **volumes_ml}
    dsc = 2 * int(np.count_nonzero(reference & predicted)) / sum(counts)
    pair = surface.Pair(reference, predicted, spacing_mm)
    by_area = pair.area_surfaces(by_area_mm)
    # The authors' script skips structures that the reference lacks: false positives cost nothing.
    in_reference = counts[0] > 0
    return {
        "dsc_paper": dsc if in_reference else NAN,
        "nsd_paper": surface.nsd(*pair.voxel_surfaces(tolerance_mm), tolerance_mm)
        if in_reference
        else NAN,
        "dsc_area": dsc,
        "nsd_area": surface.nsd(*by_area, by_area_mm),
        "hd95_mm": surface.hd95(*by_area),
        **volumes_ml,
    }
