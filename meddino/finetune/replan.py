"""The `replan` verb: nnU-Net's plans of volumes, or of a ResEnc preset, beside those of `plan`."""

import shutil
import sys
from pathlib import Path
from typing import Any

from meddino.core.errors import MeddinoError
from meddino.core.files import read_json, scratch, write_json
from meddino.finetune.nnunet import folders, quiet
from meddino.finetune.options import ReplanOptions, Volumes
from meddino.finetune.plan import FINGERPRINT, override_slices, set_stages, summary
from meddino.finetune.presets import SLICES, planner_of

EDGE = 4
"""Least side of nnU-Net's coarsest features."""


def run(options: ReplanOptions, *, dataset: Path, plans: Path, output: Path) -> None:
    """Plan one configuration of a benchmark from the fingerprint that `plan` took.

    Args:
        options: the preset, its configuration, and what to override.
        dataset: nnU-Net's raw `DatasetNNN_x/dataset.json`, from `convert`.
        plans: `DatasetNNN_x/nnUNetPlans.json`, from `plan`, beside the fingerprint.
        output: the plans, beside `plans`, with this configuration alone. They equal those of
            nnU-Net's own command but for their name, which is that of the file. Slices are
            axial; volumes are turned as nnU-Net turns them, the coarsest axis first.

    Raises:
        MeddinoError: a file of `convert` or `plan` is missing, or the overrides do not fit.
    """
    fingerprint = plans.with_name(FINGERPRINT)
    read_json(fingerprint, plans)
    name = dataset.parent.name
    with scratch(output.parent / f"planning.{output.stem}") as folder:
        (folder / name).mkdir(parents=True)
        shutil.copyfile(fingerprint, folder / name / FINGERPRINT)
        with quiet(), folders(raw=dataset.parent.parent, preprocessed=folder):
            planned = _plan(name, options)
    configuration = planned["configurations"][options.configuration]
    if options.configuration == SLICES:
        override_slices(configuration, options.planning)
    elif options.planning.volumes is not None:
        _override(configuration, options.planning.volumes)
    planned["plans_name"] = output.stem
    write_json(output, planned)
    print(f"{output.stem}, {options.configuration}: {summary(configuration)}", file=sys.stderr)


def _plan(name: str, options: ReplanOptions) -> dict[str, Any]:
    from meddino.finetune.planner import planner_class

    planner, volumes = planner_of(options.preset), options.planning.volumes
    memory_gb = planner.gpu_memory_gb
    plans: dict[str, Any] = planner_class(options.preset, options.configuration)(
        name,
        gpu_memory_target_in_gb=memory_gb if options.preset else options.planning.gpu_memory_gb,
        # nnU-Net names preprocessed arrays by it, which presets share with the default planner.
        plans_name=planner.plans,
        overwrite_target_spacing=volumes and volumes.spacing_mm,
        suppress_transpose=options.configuration == SLICES,
    ).plan_experiment()
    return plans


def _override(configuration: dict[str, Any], volumes: Volumes) -> None:
    """Give `3d_fullres` another input and other stages; nnU-Net's rule divides them, axis by axis.

    Raises:
        MeddinoError: the input has fewer stages than there are features, or its sides do not halve.
    """
    from nnunetv2.experiment_planning.experiment_planners.network_topology import (
        get_pool_and_conv_props,
    )

    patch = [int(side) for side in volumes.patch_px or configuration["patch_size"]]
    network = configuration["architecture"]["arch_kwargs"]
    _, strides, kernels, whole, _ = get_pool_and_conv_props(
        configuration["spacing"], patch, EDGE, 999999
    )
    features = volumes.features_per_stage or network["features_per_stage"][: len(strides)]
    if [*map(int, whole)] != patch:
        sides = ", ".join(str(int(side)) for side in whole)
        raise MeddinoError(
            f"planning.volumes.patch_px: {patch} cannot be halved as often as nnU-Net would; the"
            f" next that can is [{sides}]"
        )
    if len(features) > len(strides):
        raise MeddinoError(
            f"planning.volumes.features_per_stage: {len(features)} stages, but nnU-Net gives an"
            f" input of {patch} voxels {len(strides)}; name fewer, or a larger patch_px"
        )
    stages = slice(len(features))
    if volumes.patch_px or volumes.features_per_stage:
        configuration["patch_size"] = patch
        set_stages(network, features, [*map(list, kernels[stages])], [*map(list, strides[stages])])
    if volumes.batch_size is not None:
        configuration["batch_size"] = volumes.batch_size
