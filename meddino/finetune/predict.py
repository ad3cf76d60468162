"""The `predict` verb: segment the validation cases of a fold with nnU-Net's sliding window."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.export_prediction import (
    convert_predicted_logits_to_segmentation_with_correct_shape as to_segmentation,
)
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

from meddino.core.errors import MeddinoError
from meddino.core.files import atomic, read_json, write_json
from meddino.core.progress import track
from meddino.finetune.failures import explained
from meddino.finetune.model import Model, load
from meddino.finetune.nnunet import quiet
from meddino.finetune.options import Prediction, PredictOptions
from meddino.models.device import choose


@explained("take a GPU with more memory, prediction.device: cpu, or a job with more memory")
def run(options: PredictOptions, *, model: Path, dataset: Path, output: Path) -> None:
    """Segment the validation cases of one fold.

    Args:
        options: the fold and the sliding window.
        model: `model.safetensors`, from `finetune`.
        dataset: nnU-Net's raw `dataset.json`, from `convert`.
        output: `done.json`, written last with the list of cases; beside it appears one
            `<case>.nii.gz` (uint8) a case, on the grid of its reference label.

    Raises:
        MeddinoError: the split has no such fold, or memory does not suffice.
    """
    splits = read_json(dataset.parent / "splits_final.json")
    if options.fold >= len(splits):
        raise MeddinoError(
            f"fold is {options.fold}, but the split has folds 0 to {len(splits) - 1}"
        )
    cases = splits[options.fold]["val"]
    files = read_json(dataset)["dataset"]
    with quiet():
        loaded = load(model)
        predictor = _predictor(loaded, options.prediction)
        for case in track(cases, f"{output.parent.name}: segmenting", len(cases)):
            image = dataset.parent / files[case]["images"][0]
            _segment(loaded, predictor, image, output.parent / f"{case}.nii.gz")
    write_json(output, {"cases": cases, "fold": options.fold})


def _predictor(model: Model, prediction: Prediction) -> nnUNetPredictor:
    where = choose(prediction.device)
    predictor = nnUNetPredictor(
        tile_step_size=prediction.step,
        use_gaussian=prediction.gaussian,
        use_mirroring=prediction.tta,
        perform_everything_on_device=where.type == "cuda",
        device=where,
        allow_tqdm=False,
    )
    predictor.manual_initialization(
        model.network,
        model.plans,
        model.configuration,
        None,
        model.dataset_json,
        type(model).__name__,
        model.mirror_axes,
    )
    return predictor


def _segment(model: Model, predictor: nnUNetPredictor, image: Path, output: Path) -> None:
    """Segment one volume.

    The image is on the grid of its label (`convert` sees to that), so nnU-Net's way back through
    resampling and cropping ends there.
    """
    reader: Any = SimpleITKIO()
    voxels, properties = reader.read_images([str(image)])
    data, _, properties = DefaultPreprocessor(verbose=False).run_case_npy(
        voxels, None, properties, model.plans, model.configuration, model.dataset_json
    )
    logits = predictor.predict_sliding_window_return_logits(
        torch.from_numpy(np.ascontiguousarray(data))
    )
    labels = model.plans.get_label_manager(model.dataset_json)
    segmentation = to_segmentation(
        logits.cpu(),
        model.plans,
        model.configuration,
        labels,
        properties,
        num_threads_torch=torch.get_num_threads(),
    )
    with atomic(output) as temporary:
        reader.write_seg(segmentation, str(temporary), properties)
