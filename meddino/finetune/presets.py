"""nnU-Net's plans beside the paper's `2d`: volumes, and the networks of its ResEnc presets.

The paper compares 2D networks alone. Of each preset nnU-Net plans one network for slices and one
for volumes (nnU-Net 2.8.1, documentation/resenc_presets.md). Their volumes are preprocessed alike,
so that a preset differs in its input, batch and network, and not in its data.
"""

from typing import Literal, NamedTuple

Preset = Literal["resenc_m", "resenc_l", "resenc_xl"]
SLICES, VOLUMES = "2d", "3d_fullres"
"""nnU-Net's configurations at full resolution."""
PAPER_PLANS = "nnUNetPlans"
"""Name of the plans of slices for the methods of the paper."""


class Planner(NamedTuple):
    """A planner of nnU-Net."""

    kind: str
    """Its class."""
    plans: str
    """Name of its plans."""
    gpu_memory_gb: float
    """GPU memory that it plans for."""


DEFAULT = Planner("ExperimentPlanner", PAPER_PLANS, 8)
PLANNERS: dict[Preset, Planner] = {
    "resenc_m": Planner("nnUNetPlannerResEncM", "nnUNetResEncUNetMPlans", 8),
    "resenc_l": Planner("nnUNetPlannerResEncL", "nnUNetResEncUNetLPlans", 24),
    "resenc_xl": Planner("nnUNetPlannerResEncXL", "nnUNetResEncUNetXLPlans", 40),
}


def planner_of(preset: Preset | None) -> Planner:
    """nnU-Net's planner of a preset; its default one for None."""
    return DEFAULT if preset is None else PLANNERS[preset]


def plans_name(preset: Preset | None, configuration: str) -> str:
    """Name of the plans that hold a configuration of a preset.

    Slices and volumes have plans apart, since plans have one order of axes: slices are axial, as in
    the paper, while volumes are turned as nnU-Net turns them, the coarsest axis first.
    """
    volumes = configuration == VOLUMES
    if preset is None and not volumes:
        return PAPER_PLANS
    return f"{planner_of(preset).plans}_{'3d' if volumes else '2d'}"
