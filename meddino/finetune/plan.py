"""The `plan` verb: nnU-Net's fingerprint and plans of a benchmark, for slices only."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from meddino.core.files import atomic, read_json, scratch, write_json
from meddino.core.nnunet import benchmark_of
from meddino.finetune.nnunet import check_raw, folders, quiet
from meddino.finetune.options import Configuration, Planning, PlanOptions
from meddino.finetune.presets import PAPER_PLANS, SLICES

FINGERPRINT = "dataset_fingerprint.json"
RESIDUAL_BLOCKS = [1, 3, 4, 6]
"""Blocks of nnU-Net's residual encoder by stage; further stages have as many as the last."""


def run(options: PlanOptions, *, dataset: Path, output: Path) -> None:
    """Plan one benchmark.

    Args:
        options: what to override, and which configurations to add.
        dataset: nnU-Net's raw `DatasetNNN_x/dataset.json`, from `convert`.
        output: `DatasetNNN_x/nnUNetPlans.json`; beside it appear the fingerprint, `dataset.json`
            (with paths to the raw volumes) and `splits_final.json`.

    Raises:
        MeddinoError: a file of `convert` is missing or truncated.
    """
    check_raw(dataset, options.planning.num_processes)
    raw, target = dataset.parent, output.parent
    # nnU-Net writes its fingerprint bit by bit, so that it works in a folder of its own.
    with scratch(target / "planning") as folder, atomic(target / FINGERPRINT) as fingerprint:
        with quiet(), folders(raw=raw.parent, preprocessed=folder):
            plans = _plan(raw.name, options.planning)
        shutil.copyfile(folder / raw.name / FINGERPRINT, fingerprint)
    configure(plans, options.planning)
    write_json(target / "dataset.json", _located(read_json(dataset), raw, target))
    write_json(target / "splits_final.json", read_json(raw / "splits_final.json"))
    write_json(output, plans)
    for name, configuration in plans["configurations"].items():
        print(f"{name}: {summary(configuration)}", file=sys.stderr)
    benchmark = benchmark_of(output)
    remark = other_input(benchmark, plans, options.planning)
    if remark is not None:
        print(remark, file=sys.stderr)


def _plan(name: str, planning: Planning) -> dict[str, Any]:
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
        DatasetFingerprintExtractor,
    )

    from meddino.finetune.nnunet_patches import pools
    from meddino.finetune.planner import planner_class

    with pools(planning.num_processes):
        extractor = DatasetFingerprintExtractor(name, planning.num_processes)
        extractor.show_progress_bar = False
        extractor.num_foreground_voxels_for_intensitystats = planning.foreground_samples
        extractor.run(overwrite_existing=True)
    planner = planner_class(None, SLICES)(
        name,
        gpu_memory_target_in_gb=planning.gpu_memory_gb,
        plans_name=PAPER_PLANS,
        # The paper segments axial slices. nnU-Net would slice along the axis of the coarsest
        # spacing, which in a few data sets is another one.
        suppress_transpose=True,
    )
    plans: dict[str, Any] = planner.plan_experiment()
    return plans


def configure(plans: dict[str, Any], planning: Planning) -> None:
    """Apply the overrides to `2d` and add the high-resolution configurations, in place."""
    override_slices(plans["configurations"]["2d"], planning)
    for name, extra in planning.configurations.items():
        base = plans["configurations"]["2d"]
        plans["configurations"][name] = finer(base, name, extra, PAPER_PLANS)


def override_slices(base: dict[str, Any], planning: Planning) -> None:
    """Apply the overrides to a configuration `2d`, of any preset, in place."""
    if planning.spacing_mm is not None:
        _respace(base, planning.spacing_mm)
    if planning.patch_px is not None:
        base["patch_size"] = [planning.patch_px] * 2
    if planning.batch_size is not None:
        base["batch_size"] = planning.batch_size
    if planning.features_per_stage is not None:
        _resize(base["architecture"]["arch_kwargs"], planning.features_per_stage)


def finer(base: dict[str, Any], name: str, extra: Configuration, plans_name: str) -> dict[str, Any]:
    """A configuration that shows the field of view of `base`, which is `2d`, in more pixels."""
    scales = [size / extra.patch_px for size in base["patch_size"]]
    return {
        "inherits_from": "2d",
        # A folder of its own: nnU-Net would silently reuse arrays of another spacing.
        "data_identifier": f"{plans_name}_{name}",
        "patch_size": [extra.patch_px] * 2,
        "spacing": [mm * scale for mm, scale in zip(base["spacing"], scales, strict=True)],
        "batch_size": extra.batch_size or base["batch_size"],
    }


def other_input(benchmark: str, plans: dict[str, Any], planning: Planning) -> str | None:
    """Say in one line where the planned input of `2d` is not the one that the paper states.

    nnU-Net plans the input from the median shape of the volumes and the GPU memory, so that other
    volumes, another version of nnU-Net or an override lead to other inputs and other figures.

    Args:
        benchmark: its key.
        plans: nnU-Net's plans, overrides included.
        planning: names the paper's input.

    Returns:
        None where they agree, or where the paper states none.
    """
    side = planning.paper_patch_px.get(benchmark)
    height, width = plans["configurations"]["2d"]["patch_size"]
    if side is None or (height, width) == (side, side):
        return None
    return (
        f"{benchmark}: the input of 2d is {height} x {width} px, but the paper states {side} x"
        f" {side} px, so its figures are of another input; planning.patch_px: {side} sets it"
    )


def _respace(base: dict[str, Any], spacing_mm: float) -> None:
    shape = base["median_image_size_in_voxels"]
    base["median_image_size_in_voxels"] = [
        round(size * mm / spacing_mm) for size, mm in zip(shape, base["spacing"], strict=True)
    ]
    base["spacing"] = [spacing_mm] * 2


def _resize(network: dict[str, Any], features: list[int]) -> None:
    """Give nnU-Net's U-Net the stages of `features`, each half the resolution of the one before."""
    stages = len(features)
    set_stages(network, features, [[3, 3]] * stages, [[1, 1], *[[2, 2]] * (stages - 1)])


def set_stages(
    network: dict[str, Any], features: list[int], kernels: list[Any], strides: list[Any]
) -> None:
    """Give nnU-Net's U-Net other stages, in place.

    Args:
        network: its arguments, of the plain U-Net or of a residual encoder.
        features: channels of the stages.
        kernels: sides of their kernels, axis by axis.
        strides: strides of their first convolutions, axis by axis.
    """
    stages = len(features)
    convolutions = {"n_conv_per_stage": 2, "n_conv_per_stage_decoder": 2}
    if "n_blocks_per_stage" in network:
        network["n_blocks_per_stage"] = [*RESIDUAL_BLOCKS, *RESIDUAL_BLOCKS[-1:] * stages][:stages]
        convolutions = {"n_conv_per_stage_decoder": 1}
    network.update(
        n_stages=stages, features_per_stage=features, kernel_sizes=kernels, strides=strides
    )
    for key, count in convolutions.items():
        network[key] = [count] * (stages - key.endswith("decoder"))


def _located(content: dict[str, Any], raw: Path, target: Path) -> dict[str, Any]:
    """Point the cases of dataset.json to the raw files, so that `preprocess` finds them.

    Relative paths keep a moved results folder valid.
    """
    relative = os.path.relpath(raw, target)
    content["dataset"] = {
        case: {
            "images": [os.path.join(relative, path) for path in files["images"]],
            "label": os.path.join(relative, files["label"]),
        }
        for case, files in content["dataset"].items()
    }
    return content


def summary(configuration: dict[str, Any]) -> str:
    """Describe a configuration on one line."""
    spacing = ", ".join(f"{mm:.3g}" for mm in configuration["spacing"])
    side = " x ".join(map(str, configuration["patch_size"]))
    return f"{side} px at {spacing} mm, batch {configuration['batch_size']}"
