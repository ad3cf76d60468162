"""The `lesions` verb: every lesion of the reference and of a prediction, and which ones meet."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk
from scipy import ndimage

from meddino.core.errors import MeddinoError
from meddino.core.files import atomic, read_json
from meddino.core.progress import track
from meddino.evaluate.failures import components
from meddino.evaluate.failures.options import LesionsOptions
from meddino.volumes.reader import read_made

COLUMNS = {
    **dict.fromkeys(("benchmark", "method", "case", "structure", "side"), "str"),
    **dict.fromkeys(("fold", "voxels", "shared_voxels"), "int64"),
    **dict.fromkeys(("ml", "diameter_mm", "iou"), "float64"),
}
"""Columns of the file and their types, which hold also where there is no lesion."""


def run(options: LesionsOptions, *, predictions: Path, dataset: Path, output: Path) -> None:
    """List the lesions of one run: connected components of each structure, by 26 neighbours.

    A row of the output has benchmark, method, fold, case, structure, and

    - `side`: `reference` or `predicted`;
    - `voxels`, `ml`, and `diameter_mm` of a ball of the same volume;
    - `shared_voxels`: those that any lesion of the other side has as well;
    - `iou`: with the lesion of the other side that it is matched with, one to one and from
      `options.iou` on; 0 without one.

    Args:
        options: the run's names, the structures, and the least IoU of a match.
        predictions: `done.json` of `predict`, beside the segmentations.
        dataset: nnU-Net's raw `dataset.json`, beside the reference labels.
        output: the Parquet file.

    Raises:
        MeddinoError: the benchmark has no such structure, or a file is missing or damaged.
    """
    labels = read_json(dataset)["labels"]
    if missing := [name for name in options.structures if name not in labels]:
        raise MeddinoError(f"{dataset} has no structure {missing[0]!r}; mend `failures.lesions`")
    cases = read_json(predictions)["cases"]
    keys = {"benchmark": options.benchmark, "method": options.method, "fold": options.fold}
    rows = [
        {**keys, "case": case, **lesion}
        for case in track(cases, f"{options.benchmark}: lesions of {options.method}", len(cases))
        for lesion in _of_case(
            read_made(dataset.parent / f"labelsTr/{case}.nii.gz", dataset),
            read_made(predictions.with_name(f"{case}.nii.gz"), predictions),
            {name: labels[name] for name in options.structures},
            options.iou,
        )
    ]
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    with atomic(output) as temporary:
        table.to_parquet(temporary, index=False, write_page_checksum=True)


def _of_case(
    reference: sitk.Image, predicted: sitk.Image, labels: dict[str, int], least_iou: float
) -> Iterator[dict[str, Any]]:
    """The lesions of one case, without the keys of the run."""
    voxel_ml = float(np.prod(reference.GetSpacing())) / 1000
    maps = [sitk.GetArrayViewFromImage(image) for image in (reference, predicted)]
    for structure, label in labels.items():
        masks = [array == label for array in maps]
        # Components need only the box around both, a small part of the volume.
        boxes = ndimage.find_objects((masks[0] | masks[1]).astype(np.uint8))
        if not boxes:
            continue
        lesions = components.overlap(*(mask[boxes[0]] for mask in masks))
        iou = components.matched(lesions.iou, least_iou)
        for side, voxels, axis in (
            ("reference", lesions.reference, 1),
            ("predicted", lesions.predicted, 0),
        ):
            sizes = voxels * voxel_ml
            columns = {
                "voxels": voxels,
                "ml": sizes,
                "diameter_mm": components.diameter_mm(sizes),
                "shared_voxels": lesions.shared.sum(axis=axis),
                "iou": iou.max(axis=axis, initial=0.0),
            }
            for values in zip(*columns.values(), strict=True):
                yield {
                    "structure": structure,
                    "side": side,
                    **dict(zip(columns, values, strict=True)),
                }
