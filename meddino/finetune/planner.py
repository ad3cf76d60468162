"""nnU-Net's planners for what the study trains: one configuration, returned and not written."""

from typing import Any

from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner
from nnunetv2.experiment_planning.experiment_planners.residual_unets import (
    residual_encoder_unet_planners,
)

from meddino.finetune.presets import SLICES, VOLUMES, Preset, planner_of


def planner_class(preset: Preset | None, configuration: str) -> type[Any]:
    """The planner of a preset for one configuration; its `plan_experiment` returns the plans.

    Args:
        preset: nnU-Net's ResEnc preset; None for the default planner.
        configuration: `2d` or `3d_fullres`.
    """
    home = default_experiment_planner if preset is None else residual_encoder_unet_planners
    kind = planner_of(preset).kind
    part = _Slices if configuration == SLICES else _Volumes
    return type(part.__name__, (part, vars(home)[kind]), {"kind": kind})


class _Unwritten:
    """Returns plans with one configuration, under the name of nnU-Net's own planner."""

    configuration, kind = "", ""

    def save_plans(self, plans: dict[str, Any]) -> None:
        """Make the plans storable as JSON; the caller adds configurations and writes them."""
        from nnunetv2.utilities.json_export import recursive_fix_for_json_export

        planned = plans["configurations"]
        for name in set(planned) - {self.configuration}:
            del planned[name]
        # nnU-Net looks the planner up by this name, and would not find this subclass.
        plans["experiment_planner_used"] = self.kind
        recursive_fix_for_json_export(plans)


class _Slices(_Unwritten):
    """Plans `2d` as nnU-Net does."""

    configuration = SLICES

    def get_plans_for_configuration(
        self, spacing: Any, median_shape: Any, *arguments: Any
    ) -> dict[str, Any]:
        """Plan a configuration; 3D ones get only the keys that the planner itself reads."""
        if len(spacing) == 3:
            return {"spacing": spacing, "patch_size": median_shape}
        return _planned(super(), spacing, median_shape, *arguments)


class _Volumes(_Unwritten):
    """Plans `3d_fullres` as nnU-Net does, which plans `3d_lowres` to know whether that differs."""

    configuration = VOLUMES

    def get_plans_for_configuration(
        self, spacing: Any, median_shape: Any, *arguments: Any
    ) -> dict[str, Any]:
        """Plan a configuration; that of slices stays empty."""
        if len(spacing) == 2:
            return {}
        return _planned(super(), spacing, median_shape, *arguments)


def _planned(planner: Any, *arguments: Any) -> dict[str, Any]:
    plan: dict[str, Any] = planner.get_plans_for_configuration(*arguments)
    return plan
