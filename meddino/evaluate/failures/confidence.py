"""The `confidence` verb: what the softmax of a run's cases says, as histograms.

A second pass over the validation cases: a full softmax of 16 classes would take 100 times the space
of the labels, so that `predict` keeps none, and what it has predicted stays as it is.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import SimpleITK as sitk
import torch

from meddino.core.files import atomic, read_json
from meddino.core.progress import track
from meddino.evaluate.failures import calibration
from meddino.evaluate.failures.certainty import LISTS
from meddino.evaluate.failures.options import ConfidenceOptions
from meddino.finetune.failures import explained
from meddino.finetune.segmenter import Segmenter
from meddino.volumes.reader import read_made

Labels = npt.NDArray[np.uint8]


@explained("take a GPU with more memory, prediction.device: cpu, or a job with more memory")
def run(
    options: ConfidenceOptions, *, model: Path, dataset: Path, predictions: Path, output: Path
) -> None:
    """Predict the validation cases of one fold once more, and keep sums over their softmax.

    The softmax is that of the averaged logits on the grid of the reference, from which nnU-Net
    chooses the labels. A row of the output has `case`, `label`, `structure`, and

    - `count`, `correct`, `confidence`: for each bin of the structure's softmax its voxels, those
      that the reference has in the structure, and the sum of their softmax
      (`meddino.evaluate.failures.calibration` says which voxels count);
    - `mass`, `predicted_mass`: sum of the softmax over all voxels, and over those predicted to be
      of the structure, `predicted_voxels`;
    - `changed_voxels`: those of the case whose label is not that of `predict`. Another kind of GPU
      rounds differently, and so there may be a few.

    Args:
        options: the fold, the bins and the sliding window.
        model: `model.safetensors`, from `finetune`.
        dataset: nnU-Net's raw `dataset.json`, beside images and reference labels.
        predictions: `done.json` of `predict`, beside the segmentations.
        output: the Parquet file.

    Raises:
        MeddinoError: a file is missing or damaged, or memory does not suffice.
    """
    cases, description = read_json(predictions)["cases"], read_json(dataset)
    segmenter = Segmenter(model, options.prediction)
    rows: list[dict[str, Any]] = []
    for case in track(cases, f"{output.parent.name}: confidence", len(cases)):
        files = description["dataset"][case]
        image, reference = (
            read_made(dataset.parent / name, dataset)
            for name in (files["images"][0], files["label"])
        )
        voxels, truth = map(sitk.GetArrayViewFromImage, (image, reference))
        sums = Sums(truth, len(segmenter.labels) - 1, options.bins)
        labels = segmenter.segment(voxels, image.GetSpacing()[::-1], watch=sums.add)
        before = read_made(predictions.with_name(f"{case}.nii.gz"), predictions)
        changed = int(np.count_nonzero(labels != sitk.GetArrayViewFromImage(before)))
        for name, label in segmenter.labels.items():
            if label:
                keys = {"case": case, "label": label, "structure": name, "changed_voxels": changed}
                rows.append({**keys, **sums.of(label)})
    with atomic(output) as temporary:
        pd.DataFrame(rows).to_parquet(temporary, index=False, write_page_checksum=True)


class Sums:
    """Sums over the softmax of one case, box by box."""

    def __init__(self, reference: npt.NDArray[Any], structures: int, bins: int) -> None:
        """Begin with nothing.

        Args:
            reference: labels (z, y, x).
            structures: their labels are 1 to this number.
            bins: of the softmax.
        """
        self._reference = reference
        self._structures = structures
        self._bins = bins
        # Sums of boxes are added up in the order of the boxes, not of the threads.
        self._boxes: dict[int, list[dict[str, Any]]] = {}

    def add(self, box: tuple[slice, ...], logits: torch.Tensor) -> None:
        """Take the logits (classes, z, y, x) of a box of the volume."""
        logits = logits.float()
        predicted = logits.argmax(0).numpy()
        softmax = logits.softmax(0).numpy()
        truth = self._reference[box]
        self._boxes[box[0].start] = [
            self._structure(softmax[label], predicted == label, truth == label)
            for label in range(1, self._structures + 1)
        ]

    def _structure(
        self,
        softmax: npt.NDArray[np.float32],
        predicted: npt.NDArray[np.bool_],
        truth: npt.NDArray[np.bool_],
    ) -> dict[str, Any]:
        parts = calibration.histogram(softmax, truth, self._bins)
        return {
            **dict(zip(LISTS, parts, strict=True)),
            "mass": softmax.sum(dtype=np.float64),
            "predicted_mass": softmax[predicted].sum(dtype=np.float64),
            "predicted_voxels": np.count_nonzero(predicted),
        }

    def of(self, label: int) -> dict[str, Any]:
        """The sums of a structure: lists for the histogram, numbers for the rest."""
        boxes = [self._boxes[start][label - 1] for start in sorted(self._boxes)]
        return {
            **{key: np.sum([box[key] for box in boxes], axis=0).tolist() for key in LISTS},
            **{key: float(sum(box[key] for box in boxes)) for key in ("mass", "predicted_mass")},
            "predicted_voxels": int(sum(box["predicted_voxels"] for box in boxes)),
        }
