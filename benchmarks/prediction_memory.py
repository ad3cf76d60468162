"""Segmenting a volume: `segment` and nnU-Net's predictor with its defaults, same network.

    python benchmarks/prediction_memory.py [--method meddinov3] [--size-px 896] [--slices 120]

The volume is a phantom of 512 x 512 pixels a slice, the network has random weights and 16 classes.
Each runs in a process of its own, which loads the model, reads the file, segments and writes.
nnU-Net's starts further processes to read and to write, as `nnUNetv2_predict` does. Seconds are of
all that but the start of Python; memory is the peak of the largest process. Labels are compared.
`--network conv` replaces the network by a single convolution: what is left is memory and the time
of everything else, which a CPU can measure at full size.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from phantoms import scanned

from meddino.finetune import model
from meddino.finetune.networks import build_network
from meddino.finetune.nnunet import quiet
from meddino.finetune.options import Prediction
from meddino.finetune.segmenter import Segmenter
from meddino.finetune.settings import Settings, write_settings
from meddino.models.architectures import ARCHITECTURES, named
from meddino.models.device import choose
from meddino.study.model import load as load_study

STUDY = load_study([Path(__file__).parents[1] / "config.yaml"])
CLASSES, IMAGE_PX = 16, 512
SIDES = ("segment", "nnU-Net")
UNET = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_stages": 7,
        "features_per_stage": [32, 64, 128, 256, 512, 512, 512],
        "conv_op": "torch.nn.modules.conv.Conv2d",
        "kernel_sizes": [[3, 3]] * 7,
        "strides": [[1, 1], *[[2, 2]] * 6],
        "n_conv_per_stage": [2] * 7,
        "n_conv_per_stage_decoder": [2] * 6,
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "nonlin"],
}
"""nnU-Net's usual plan of slices of 512 pixels."""


def main() -> None:
    """Make a volume and a model, run both sides, compare and print the table."""
    given = _arguments()
    if given.side:
        _measure(given)
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
        folder = Path(scratch)
        _write(folder, given)
        print(
            f"{given.network or given.method}, {given.size_px} px, {given.slices} slices of"
            f" {IMAGE_PX} px, {CLASSES} classes, {choose(given.device)}\n"
        )
        print("| | seconds | peak memory | peak memory of the GPU |")
        print("|---|---:|---:|---:|")
        for side in given.sides:
            command = [sys.executable, __file__, *sys.argv[1:], "--side", side, "--folder", scratch]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            print(
                f"| {side} | {found['seconds']:.1f} | {found['gib']:.1f} GiB |"
                f" {found['gpu_gib']:.1f} GiB |",
                flush=True,
            )
        if set(given.sides) == set(SIDES):
            ours, theirs = (
                sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{side}.nii.gz")))
                for side in SIDES
            )
            print(f"\nequal labels: {np.array_equal(ours, theirs)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", default="meddinov3", choices=list(STUDY.methods))
    parser.add_argument("--backbone", choices=list(ARCHITECTURES), help="instead of the method's")
    parser.add_argument("--network", choices=("conv",), help="instead of the method's")
    parser.add_argument("--size-px", type=int, default=896)
    parser.add_argument("--slices", type=int, default=120)
    parser.add_argument("--tta", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--folder", type=Path, help="where the data go (default: a temporary one)")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args()


def _plans(size_px: int, spacing_mm: float, settings: Settings) -> dict[str, Any]:
    """nnU-Net's plans for slices of `IMAGE_PX` that fill the network's input."""
    kind, order = "resample_data_or_seg_to_shape", {"is_seg": False, "order_z": 0}
    keys = {
        "data": {"order": 3},
        "seg": {"order": 1, "is_seg": True},
        "probabilities": {"order": 1},
    }
    configuration: dict[str, Any] = {
        "patch_size": [size_px] * 2,
        "spacing": [spacing_mm * IMAGE_PX / size_px] * 2,
        "batch_size": 2,
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "architecture": UNET,
        "preprocessor_name": "DefaultPreprocessor",
    }
    for key, changes in keys.items():
        configuration[f"resampling_fn_{key}"] = kind
        configuration[f"resampling_fn_{key}_kwargs"] = {
            **order,
            **changes,
            "force_separate_z": None,
        }
    values = {"mean": 50.0, "std": 100.0, "percentile_00_5": -200.0, "percentile_99_5": 300.0}
    plans = {
        "plans_name": "nnUNetPlans",
        "dataset_name": "Dataset999_bench",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": values},
        "configurations": {"2d": configuration},
    }
    write_settings(plans, settings)
    return plans


def _network(settings: Settings, configuration: Any, given: argparse.Namespace) -> Any:
    torch.manual_seed(0)
    if given.network == "conv":
        return torch.nn.Conv2d(1, CLASSES, 1)
    return build_network(settings, configuration, CLASSES, False)


def _write(folder: Path, given: argparse.Namespace) -> None:
    """A phantom as NIfTI, and a model as `finetune` stores it."""
    scan = scanned(IMAGE_PX, given.slices, np.random.default_rng(0))
    image = sitk.GetImageFromArray(scan.image)
    image.SetSpacing(scan.spacing[::-1])
    sitk.WriteImage(image, str(folder / "case_0000.nii.gz"))
    method = (
        STUDY.methods[given.method]
        .alone()
        .model_copy(update={"weights": None, "configuration": "2d"})
    )
    if given.backbone:
        depth, count = named(given.backbone).depth, len(method.blocks)
        blocks = [depth * (i + 1) // count - 1 for i in range(count)]
        method = method.model_copy(update={"backbone": given.backbone, "blocks": blocks})
    settings = Settings(method=method, training=STUDY.training)
    manager = PlansManager(_plans(given.size_px, scan.spacing[1], settings))
    names = {"background": 0, **{f"structure {i}": i for i in range(1, CLASSES)}}
    trainer = SimpleNamespace(
        configure_rotation_dummyDA_mirroring_and_inital_patch_size=lambda: None,
        dataset_json={"channel_names": {"0": "CT"}, "labels": names, "file_ending": ".nii.gz"},
        plans_manager=manager,
        configuration_name="2d",
        fold=0,
        inference_allowed_mirroring_axes=(0, 1),
        network=_network(settings, manager.get_configuration("2d"), given),
    )
    model.save(trainer, folder / "model.safetensors")


def _measure(given: argparse.Namespace) -> None:
    """One side, in its own process."""

    def build(settings: Settings, configuration: Any, *_: Any) -> Any:
        return _network(settings, configuration, given)

    start = time.perf_counter()
    source, target = (given.folder / name for name in ("case_0000.nii.gz", f"{given.side}.nii.gz"))
    with mock.patch.object(model, "build_network", build):
        options = Prediction(tta=given.tta, device=given.device)
        segmenter = Segmenter(given.folder, options)
    if given.side == "segment":
        sitk.WriteImage(segmenter(source), str(target), useCompression=True)
    else:
        predictor = segmenter._predictor
        # Its own loading would have put the weights here, to copy into the network for each case.
        predictor.list_of_parameters = [predictor.network.state_dict()]
        with quiet():
            predictor.predict_from_files([[str(source)]], [str(target)[: -len(".nii.gz")]])
    seconds = time.perf_counter() - start
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peak = max(resource.getrusage(kind).ru_maxrss for kind in kinds) / 2**20
    gpu = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
    print(json.dumps({"seconds": seconds, "gib": peak, "gpu_gib": gpu}))


if __name__ == "__main__":
    main()
