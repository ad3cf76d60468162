"""A trained model that segments volumes: loaded once, called on each volume."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from nnunetv2.inference.export_prediction import (
    convert_predicted_logits_to_segmentation_with_correct_shape as export,
)
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

from meddino.core.errors import MeddinoError
from meddino.finetune.failures import explained
from meddino.finetune.model import Model, load
from meddino.finetune.nnunet import quiet
from meddino.finetune.options import Prediction
from meddino.finetune.precision import autocast_to
from meddino.finetune.settings import read_settings
from meddino.models.device import choose
from meddino.volumes import reader

SLAB = 4
"""Slices whose logits each resampling thread holds in memory at a time."""
MAX_THREADS = 4

Progress = Callable[[int, int], None]
Watch = Callable[[tuple[slice, ...], torch.Tensor], None]
"""Takes a box (z, y, x) of a volume, and the logits of its voxels (classes, z, y, x)."""


def _silent(done: int, total: int) -> None:
    pass


class Segmenter:
    """Segments volumes with nnU-Net's preprocessing and sliding window.

    A network that sees single slices finishes a volume slab by slab. The labels equal those that
    nnU-Net gives for the volume at once, without the logits of all slices in memory: 16 classes of
    200 slices of 896 x 896 pixels would take 5 GB, and resampling them several times that. A
    network that sees volumes needs all of them, as in nnU-Net.
    """

    def __init__(self, model: Path | str, prediction: Prediction | None = None) -> None:
        """Load a model.

        Args:
            model: `model.safetensors` with `model.json` beside it, or the folder of both.
            prediction: sliding window and device; nnU-Net's defaults where None.

        Raises:
            MeddinoError: there is no model, it is damaged, or there is no such device.
        """
        with quiet():
            self.model = load(Path(model))
            self._predictor = _predictor(self.model, prediction or Prediction())

    @property
    def labels(self) -> dict[str, int]:
        """Structure -> its value in the segmentations; background is 0."""
        return dict(self.model.dataset_json["labels"])

    def __call__(self, path: Path | str, progress: Progress = _silent) -> sitk.Image:
        """Segment a volume.

        Args:
            path: a file (NIfTI, MetaImage, NRRD, ...) or the folder of a DICOM series.
            progress: called with the number of finished slices, and of all slices.

        Returns:
            uint8 labels on the grid of the file: its origin, spacing, direction, order of voxels.

        Raises:
            MeddinoError: the volume cannot be read or is not what the model was trained on, or
                memory does not suffice.
        """
        return self.label(self.read(Path(path)), str(path), progress)

    def label(self, volume: reader.Volume, name: str, progress: Progress = _silent) -> sitk.Image:
        """Segment a volume that `read` has read; the same as a call with its path.

        Raises:
            MeddinoError: memory does not suffice; says so of `name`.
        """
        # NIfTI, from which the model learned, stores spacing in single precision.
        spacing = tuple(float(np.float32(mm)) for mm in volume.spacing_mm)
        size = " x ".join(map(str, volume.array.shape))
        remedy = "free some memory, use --device cpu instead of a GPU, or crop the volume"
        with explained(f"{name} has {size} voxels: {remedy}"):
            return volume.as_stored(self.segment(volume.array, spacing, progress))

    def segment(
        self,
        voxels: npt.NDArray[Any],
        spacing_mm: tuple[float, ...],
        progress: Progress = _silent,
        watch: Watch | None = None,
    ) -> npt.NDArray[np.uint8]:
        """Segment an array in the orientation of the model's training data.

        Args:
            voxels: (z, y, x) from foot to head, front to back, right to left; HU for CT.
            spacing_mm: (z, y, x).
            progress: called with the number of finished slices, and of all slices.
            watch: called with the logits on the grid of `voxels`, box after box from several
                threads; what lies in no box is background for certain.

        Returns:
            uint8 labels, (z, y, x).
        """
        model = self.model
        with quiet():
            data, _, facts = DefaultPreprocessor(verbose=False).run_case_npy(
                voxels[None],
                None,
                {"spacing": list(spacing_mm)},
                model.plans,
                model.configuration,
                model.dataset_json,
            )
            if model.volumetric:
                return self._whole(data, facts, progress, watch)
            result = np.zeros(facts["shape_before_cropping"], np.uint8)
            box = tuple(slice(*ends) for ends in facts["bbox_used_for_cropping"])
            self._fill(result[box], data, facts["spacing"], progress, watch and _moved(watch, box))
        return result

    def _whole(
        self,
        data: npt.NDArray[np.float32],
        facts: dict[str, Any],
        progress: Progress,
        watch: Watch | None,
    ) -> npt.NDArray[np.uint8]:
        """Predict a volume with a network that sees volumes.

        Args:
            data: float32 (1, z, y, x) in the order of the plans' axes, normalised and resampled.
            facts: nnU-Net's properties of the volume.
            progress: called with the share of windows that are done, in slices, and all slices.
            watch: called once, with the logarithms of the softmax of the whole volume.

        Returns:
            uint8 labels, (z, y, x) of the volume before it was cropped.
        """
        model, slices = self.model, facts["shape_before_cropping"][0]

        def show(share: float) -> None:
            progress(int(share * slices), slices)

        with _windows(self._predictor, data.shape[1:], show):
            logits = self._predictor.predict_sliding_window_return_logits(torch.from_numpy(data))
        labels = model.plans.get_label_manager(model.dataset_json)
        threads = min(MAX_THREADS, torch.get_num_threads())
        probable = watch is not None
        made = export(
            logits.cpu(), model.plans, model.configuration, labels, facts, probable, threads
        )
        if watch is None:
            return np.ascontiguousarray(made, np.uint8)
        segmentation, probabilities = made
        box = tuple(slice(0, side) for side in segmentation.shape)
        watch(box, torch.as_tensor(probabilities).log())
        return np.ascontiguousarray(segmentation, np.uint8)

    def _fill(
        self,
        result: npt.NDArray[np.uint8],
        data: npt.NDArray[np.float32],
        spacing_mm: list[float],
        progress: Progress,
        watch: Watch | None,
    ) -> None:
        """Predict slab after slab, while threads resample those already predicted.

        Args:
            result: uint8 (z, y, x) on the grid of the cropped volume; filled in place.
            data: float32 (1, z, height, width), normalised and resampled in plane.
            spacing_mm: (z, y, x) of `result`.
            progress: called with the number of finished slices, and of all slices.
            watch: called with boxes of `result` and their logits.
        """
        count = len(result)
        threads = min(MAX_THREADS, torch.get_num_threads())
        waiting: deque[Any] = deque()
        with ThreadPoolExecutor(threads) as pool:
            for start in range(0, count, SLAB):
                slab = np.ascontiguousarray(data[:, start : start + SLAB])  # (1, <= SLAB, H, W)
                logits = self._predictor.predict_sliding_window_return_logits(
                    torch.from_numpy(slab)
                ).cpu()  # (classes, <= SLAB, H, W)
                place = slice(start, min(start + SLAB, count))
                waiting.append(pool.submit(self._finish, result, place, logits, spacing_mm, watch))
                # Bounds memory: at most one slab of logits for each thread, and one waiting.
                if len(waiting) > threads:
                    waiting.popleft().result()
                progress(min(start + SLAB, count), count)
            for slab in waiting:
                slab.result()

    def _finish(
        self,
        result: npt.NDArray[np.uint8],
        place: slice,
        logits: torch.Tensor,
        spacing_mm: list[float],
        watch: Watch | None,
    ) -> None:
        """Resample logits (classes, z, y, x) to the grid of some slices; choose the labels."""
        configuration, plans = self.model.configuration, self.model.plans
        target = result[place]
        resampled = configuration.resampling_fn_probabilities(
            logits, target.shape, [spacing_mm[0], *configuration.spacing], spacing_mm
        )
        labels = plans.get_label_manager(self.model.dataset_json)
        target[:] = np.asarray(labels.convert_logits_to_segmentation(resampled))
        if watch is not None:
            watch(
                (place, *(slice(0, side) for side in target.shape[1:])), torch.as_tensor(resampled)
            )

    def read(self, path: Path) -> reader.Volume:
        """Read a volume as `convert` reads it for training; its `remarks` say what is doubtful.

        Raises:
            MeddinoError: it cannot be read or is not what the model was trained on.
        """
        channel = self.model.channel.upper()
        try:
            if "CT" not in channel:
                return reader.read(path, hu=False)
            return reader.read(path) if channel == "CT" else reader.read_ct_or_mr(path)
        except reader.BadVolume as error:
            reason = error.advised("leave it out")
            raise MeddinoError(f"{path} (for a model of {channel}): {reason}") from error


def _moved(watch: Watch, box: tuple[slice, ...]) -> Watch:
    """Call `watch` with boxes of the whole volume, for boxes within `box` of it."""

    def moved(inner: tuple[slice, ...], logits: torch.Tensor) -> None:
        sides = zip(box, inner, strict=True)
        watch(tuple(slice(a.start + b.start, a.start + b.stop) for a, b in sides), logits)

    return moved


@contextmanager
def _windows(
    predictor: nnUNetPredictor, shape: tuple[int, ...], on_share: Callable[[float], None]
) -> Iterator[None]:
    """Call with the share of passes through the network that are done, at every pass.

    Args:
        predictor: whose network is counted.
        shape: of the volume that it predicts.
        on_share: takes a number from 0 to 1.
    """
    patch = predictor.configuration_manager.patch_size
    padded = tuple(map(max, shape, patch))
    mirrored = 2 ** len(predictor.allowed_mirroring_axes or ()) if predictor.use_mirroring else 1
    passes = mirrored * len(predictor._internal_get_sliding_window_slicers(padded))
    done = 0

    def count(*_: Any) -> None:
        nonlocal done
        done += 1
        on_share(min(1.0, done / passes))

    handle = predictor.network.register_forward_hook(count)
    try:
        yield
    finally:
        handle.remove()


def _predictor(model: Model, prediction: Prediction) -> nnUNetPredictor:
    device = choose(prediction.device)
    autocast_to(read_settings(model.plans.plans).method, device)
    predictor = nnUNetPredictor(
        tile_step_size=prediction.step,
        use_gaussian=prediction.gaussian,
        # A model that was trained without mirroring has no axes to mirror.
        use_mirroring=prediction.tta and bool(model.mirror_axes),
        perform_everything_on_device=device.type == "cuda",
        device=device,
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
