"""What a step shows to the networks: everything random in it, drawn from seeds of its own.

A draw follows from the stage's seed, the iteration and the group's number in the step, never from
what a process has drawn before, so that neither a restart nor the number of processes changes it.
"""

import numpy as np
import torch
from torch import Tensor

from meddino.pretrain.crops import Crops, Draws, multi_crop
from meddino.pretrain.engine import GLOBAL_CROPS
from meddino.pretrain.masks import draw_masks
from meddino.pretrain.options import Resolution, StageOptions

# The random streams of an iteration, by the third number of their seeds. Masks are told from the
# resolution by the number of the group, which follows.
CROPS, NETWORK, RESOLUTION, MASKS = 0, 1, 2, 2


def mixed_seed(numbers: list[int]) -> int:
    """One 63-bit seed from several numbers: torch, unlike NumPy, takes no list."""
    words = np.random.SeedSequence(numbers).generate_state(2, np.uint32)
    return int(words[0]) << 31 | int(words[1]) >> 1


def draw_resolution(stage: StageOptions, iteration: int) -> Resolution:
    """Draw the kind of a batch by the stage's shares: one for the whole step, as in DINOv3."""
    rng = np.random.default_rng([stage.seed, iteration, RESOLUTION])
    shares = np.array([resolution.ratio for resolution in stage.resolutions])
    return stage.resolutions[int(np.searchsorted(np.cumsum(shares / shares.sum()), rng.random()))]


def draw_views(
    slices: Tensor,
    groups: range,
    *,
    stage: StageOptions,
    iteration: int,
    resolution: Resolution,
    patch_px: int,
) -> tuple[Crops, Tensor]:
    """Draw crops and masks of some of a step's groups.

    Args:
        slices: int16 (B, S, S) in HU, on the device that crops are cut on.
        groups: numbers of the groups in the step; B / len(groups) slices belong to each.
        stage: seed, augmentation, masking.
        iteration: from 0.
        resolution: sizes of the crops.
        patch_px: side of a patch (px).

    Returns:
        Crops of B slices, and bool masks (2B, patches of a global crop) on the CPU.
    """
    seeds = [mixed_seed([stage.seed, iteration, CROPS, group]) for group in groups]
    crops = multi_crop(slices, resolution, stage.augmentation, Draws(seeds, len(slices)))
    side = resolution.global_px // patch_px
    masks = [
        draw_masks(
            GLOBAL_CROPS * stage.group,
            (side, side),
            stage.masking.ratio,
            stage.masking.probability,
            np.random.default_rng([stage.seed, iteration, MASKS, group]),
        ).unflatten(0, (GLOBAL_CROPS, stage.group))
        for group in groups
    ]
    # Crops come crop-major: crop 0 of all groups, then crop 1.
    return crops, torch.cat(masks, dim=1).flatten(0, 1)
