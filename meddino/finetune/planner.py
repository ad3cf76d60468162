"""nnU-Net's planner without the 3D configurations, which the study never trains."""

from typing import Any

from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
    ExperimentPlanner,
)


class SlicePlanner(ExperimentPlanner):  # type: ignore[misc]
    """Plans `2d` as nnU-Net does, and returns the plans without writing them."""

    def get_plans_for_configuration(
        self, spacing: Any, median_shape: Any, *arguments: Any
    ) -> dict[str, Any]:
        """Plan a configuration; 3D ones get only the keys that the planner itself reads."""
        if len(spacing) == 3:
            return {"spacing": spacing, "patch_size": median_shape}
        plan: dict[str, Any] = super().get_plans_for_configuration(
            spacing, median_shape, *arguments
        )
        return plan

    def save_plans(self, plans: dict[str, Any]) -> None:
        """Make the plans storable as JSON; the caller adds configurations and writes them."""
        from nnunetv2.utilities.json_export import recursive_fix_for_json_export

        del plans["configurations"]["3d_fullres"]
        # nnU-Net looks the planner up by this name, and would not find this subclass.
        plans["experiment_planner_used"] = ExperimentPlanner.__name__
        recursive_fix_for_json_export(plans)
