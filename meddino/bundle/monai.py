"""A model as a MONAI bundle: metadata, an inference configuration, and a network without our code.

Bundle Specification and schema: https://docs.monai.io/en/stable/mb_specification.html. Nothing here
imports MONAI; the configuration names its transforms, and MONAI builds them.
"""

import itertools
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from meddino.bundle.program import program, save
from meddino.core.errors import MeddinoError
from meddino.core.files import atomic, write_json
from meddino.finetune.model import Model
from meddino.finetune.options import Prediction

SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)
MONAI = "1.6.1"
"""The version that the bundle is tested with; `envs/lock.txt` has it."""
AXES = "SPL"
"""Where the axes of nnU-Net's arrays (z, y, x) of volumes in LPS lead to."""
ENDS = [["L", "R"], ["P", "A"], ["I", "S"]]
"""Where the axes of a NIfTI begin and end; MONAI's former default."""
SIGMA = 0.125
"""Width of the Gaussian that weights a window, relative to the window (nnU-Net)."""
DIFFERENCES = (
    "Windows begin at other places where the overlap does not divide the image.",
    "Splines treat the border of the image a little differently.",
    "Logits are resampled in 3-D at once, and those of the whole volume are held in memory.",
    "Files are read as they are: no repair of HU, and no refusal of what is not CT.",
)
"""What the MONAI configuration does otherwise than nnU-Net and `segment`; the card prints it."""


def write_bundle(model: Model, about: dict[str, Any], folder: Path) -> None:
    """Write `configs/` and `models/`.

    Args:
        model: the trained network, on a CPU.
        about: what `metadata.json` says of the model and its makers, beside what follows from it.
        folder: the root of the bundle.

    Raises:
        MeddinoError: the network or its preprocessing cannot be expressed.
    """
    if model.volumetric:
        raise MeddinoError(
            "this network sees volumes, and bundles are of networks that see slices; nnU-Net's own"
            " commands run it (docs/nnunet.md)"
        )
    contents = {"metadata": metadata(model, about), "inference": inference(model)}
    for name, content in contents.items():
        write_json(folder / "configs" / f"{name}.json", content)
    script = program(model.network, _patch(model))
    # `load_net_with_metadata` reads them from the program, should that travel alone.
    extra = {f"{n}.json": (folder / f"configs/{n}.json").read_bytes() for n in contents}
    with atomic(folder / "models" / "model.ts") as temporary:
        save(script, temporary, extra)
    with atomic(folder / "models" / "model.pt") as temporary:
        torch.save(dict(script.state_dict()), temporary)


def metadata(model: Model, about: dict[str, Any]) -> dict[str, Any]:
    """The contents of `metadata.json`, valid by MONAI's schema of 2024-07-25."""
    names = sorted(model.dataset_json["labels"].items(), key=lambda item: item[1])
    channels = {str(value): name for name, value in names}
    patch = list(_patch(model))
    tensor = {"type": "image", "spatial_shape": patch, "dtype": "float32", "is_patch_data": True}
    return {
        "schema": SCHEMA,
        "monai_version": MONAI,
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {"nibabel": version("nibabel"), "scipy": version("scipy")},
        "network_data_format": {
            "inputs": {
                "image": {
                    **tensor,
                    "format": "hounsfield" if model.channel == "CT" else "magnitude",
                    "modality": model.channel,
                    "num_channels": 1,
                    "value_range": [],
                    "channel_def": {"0": "image"},
                }
            },
            "outputs": {
                "pred": {
                    **tensor,
                    "format": "labels",
                    "num_channels": len(names),
                    "value_range": [],
                    "channel_def": channels,
                }
            },
        },
        **about,
    }


def inference(model: Model) -> dict[str, Any]:
    """The contents of `inference.json`: nnU-Net's preprocessing and sliding window by MONAI."""
    return {
        "imports": ["$import glob", "$import monai", "$import numpy", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/segmentations'",
        "datalist": "$sorted(glob.glob(@dataset_dir + '/*.nii*'))",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": {
            "_target_": "torch.jit.load",
            "f": "$@bundle_root + '/models/model.ts'",
            "map_location": "@device",
        },
        "network": "$@network_def.to(@device).eval()",
        "spacing": list(map(float, model.configuration.spacing)),
        "preprocessing": {"_target_": "Compose", "transforms": _preprocessing(model)},
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': path} for path in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "num_workers": 0,
        },
        "inferer": {
            "_target_": "SliceInferer",
            "roi_size": list(_patch(model)),
            "spatial_dim": 0,
            "sw_batch_size": 1,
            "overlap": 1 - Prediction().step,
            "mode": "gaussian",
            "sigma_scale": SIGMA,
        },
        "mirrorings": _mirrorings(model),
        "mirrored": "$torch.no_grad()(lambda x: sum(torch.flip(@network(torch.flip(x, axes)), axes)"
        " for axes in @mirrorings) / len(@mirrorings))",
        "segment": "$lambda case: @postprocessing({**case,"
        " 'pred': @inferer(case['image'][None].to(@device), @mirrored)[0]})",
        "postprocessing": {"_target_": "Compose", "transforms": _postprocessing()},
        "run": ["$[@segment(case) for case in @dataset]"],
    }


def _preprocessing(model: Model) -> list[dict[str, Any]]:
    """MONAI's transforms for what nnU-Net's `DefaultPreprocessor` does to a slice-wise network."""
    order = model.plans.transpose_forward
    axes = "".join(AXES[axis] for axis in order)
    return [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "CopyItemsd", "keys": "image", "names": "source"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": axes, "labels": ENDS},
        {
            "_target_": "CropForegroundd",
            "keys": "image",
            "source_key": "image",
            "select_fn": "$lambda x: x != 0",
            "allow_smaller": True,
        },
        _normalisation(model),
        {"_target_": "Lambdad", "keys": "image", "func": _resampling()},
        {"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float32"},
    ]


def _normalisation(model: Model) -> dict[str, Any]:
    """The transform of nnU-Net's scheme.

    Raises:
        MeddinoError: the plans have a scheme that is not among the study's.
    """
    (scheme,) = model.configuration.normalization_schemes
    if scheme == "CTNormalization":
        bounds = model.plans.foreground_intensity_properties_per_channel["0"]
        low, high = bounds["percentile_00_5"], bounds["percentile_99_5"]
        mean, deviation = bounds["mean"], max(bounds["std"], 1e-8)
        return {
            "_target_": "ScaleIntensityRanged",
            "keys": "image",
            "a_min": low,
            "a_max": high,
            "b_min": (low - mean) / deviation,
            "b_max": (high - mean) / deviation,
            "clip": True,
        }
    if scheme == "ZScoreNormalization":
        (inside,) = model.configuration.use_mask_for_norm
        return {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": bool(inside)}
    raise MeddinoError(f"a MONAI bundle of a model with {scheme} is not implemented")


def _resampling() -> str:
    """MONAI's `Spacing` in plane, with nnU-Net's rule for the size.

    nnU-Net rounds the size and then spreads that many voxels over the same extent, so the spacing
    is that of the plans only nearly; MONAI alone would shift voxels by up to half of one.
    """
    return (
        "$lambda image: monai.transforms.Spacing([-1.0, *("
        "size * mm / round(size * mm / wanted) for size, mm, wanted in"
        " zip(image.shape[2:], image.pixdim[1:].tolist(), @spacing))],"
        " mode=3, padding_mode='nearest', scale_extent=True)(image)"
    )


def _mirrorings(model: Model) -> list[list[int]]:
    """Axes of (B, C, H, W) that are flipped together, over which nnU-Net averages the logits."""
    axes = [axis + 2 for axis in model.mirror_axes]
    counts = range(len(axes) + 1)
    return [list(some) for count in counts for some in itertools.combinations(axes, count)]


def _postprocessing() -> list[dict[str, Any]]:
    """Logits back to the grid of the file, and labels of them.

    Outside of what was cropped all logits are 0, and the first label is that of background.
    """
    return [
        {
            "_target_": "ResampleToMatchd",
            "keys": "pred",
            "key_dst": "source",
            "mode": "bilinear",
            "padding_mode": "zeros",
        },
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
        {
            "_target_": "SaveImaged",
            "keys": "pred",
            "output_dir": "@output_dir",
            "output_postfix": "seg",
            "output_dtype": "$numpy.uint8",
            "separate_folder": False,
        },
    ]


def _patch(model: Model) -> tuple[int, int]:
    height, width = model.configuration.patch_size
    return int(height), int(width)
