"""The `predict` verb: segment cases of a benchmark with nnU-Net's sliding window."""

from pathlib import Path

import SimpleITK as sitk

from meddino.core.errors import MeddinoError
from meddino.core.files import read_json, write_json
from meddino.core.progress import track
from meddino.finetune.failures import explained
from meddino.finetune.options import PredictOptions
from meddino.finetune.segmenter import Segmenter
from meddino.volumes import writer
from meddino.volumes.reader import read_made


@explained("take a GPU with more memory, prediction.device: cpu, or a job with more memory")
def run(options: PredictOptions, *, model: Path, dataset: Path, output: Path) -> None:
    """Segment the validation cases of one fold, or all cases.

    Args:
        options: the fold and the sliding window.
        model: `model.safetensors`, from `finetune`, on this benchmark or another one: it brings its
            own preprocessing, normalisation and labels.
        dataset: nnU-Net's raw `dataset.json`, from `convert`.
        output: `done.json`, written last with the list of cases; beside it appears one
            `<case>.nii.gz` (uint8) a case, on the grid of its reference label.

    Raises:
        MeddinoError: the split has no such fold, memory does not suffice, or a segmentation cannot
            be written.
    """
    files = read_json(dataset)["dataset"]
    cases = list(files) if options.fold is None else _validation(dataset, options.fold)
    segmenter = Segmenter(model, options.prediction)
    for case in track(cases, f"{output.parent.name}: segmenting", len(cases)):
        # No checks: `convert` has oriented the image and put its label on the same grid.
        image = read_made(dataset.parent / files[case]["images"][0], dataset)
        voxels = sitk.GetArrayViewFromImage(image)
        segmentation = sitk.GetImageFromArray(segmenter.segment(voxels, image.GetSpacing()[::-1]))
        segmentation.CopyInformation(image)
        writer.write(segmentation, output.parent / f"{case}.nii.gz")
    write_json(output, {"cases": cases, "fold": options.fold})


def _validation(dataset: Path, fold: int) -> list[str]:
    splits: list[dict[str, list[str]]] = read_json(dataset.parent / "splits_final.json", dataset)
    if fold >= len(splits):
        raise MeddinoError(f"fold is {fold}, but the split has folds 0 to {len(splits) - 1}")
    return splits[fold]["val"]
