"""What a step shows to the networks: everything random in it, drawn from seeds of its own.

A draw follows from the stage's seed, the iteration, and the group's number or the slice's place in
the step, never from what a process has drawn before. So neither a restart, nor the number of
processes, nor the parts that they work in change it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from meddino.models.architectures import Architecture
from meddino.models.vit import Branch, Noise, kept_images
from meddino.pretrain.crops import Draws, Views, cut_views, draw_views
from meddino.pretrain.engine import GLOBAL_CROPS, Hidden, Part
from meddino.pretrain.masks import draw_masks
from meddino.pretrain.options import Resolution, StageOptions

# The random streams of an iteration, by the third number of their seeds.
CROPS, NETWORK, MASKS, RESOLUTION = range(4)


def mixed_seed(numbers: list[int]) -> int:
    """One 63-bit seed from several numbers: torch, unlike NumPy, takes no list."""
    words = np.random.SeedSequence(numbers).generate_state(2, np.uint32)
    return int(words[0]) << 31 | int(words[1]) >> 1


def draw_resolution(stage: StageOptions, iteration: int) -> Resolution:
    """Draw the kind of a batch by the stage's shares: one for the whole step, as in DINOv3."""
    rng = np.random.default_rng([stage.seed, iteration, RESOLUTION])
    shares = np.array([resolution.ratio for resolution in stage.resolutions])
    return stage.resolutions[int(np.searchsorted(np.cumsum(shares / shares.sum()), rng.random()))]


@dataclass(frozen=True)
class Drawn:
    """Slices of a part of a step, and all that is random in it."""

    slices: Tensor
    """Int16 (B, S, S) in HU."""
    views: Views
    hidden: Hidden
    noise: Sequence[Noise]
    """Of global and of local crops."""

    def part(self, stage: StageOptions, resolution: Resolution) -> Part:
        """Cut the crops, on the device that the slices are on."""
        crops = cut_views(self.slices, self.views, resolution, stage.augmentation)
        return Part(crops, self.hidden, self.noise)


def draw_part(
    slices: Tensor,
    first: int,
    *,
    stage: StageOptions,
    iteration: int,
    resolution: Resolution,
    architecture: Architecture,
) -> Drawn:
    """Draw all that is random in a part of a step.

    It is drawn on the CPU, and so is what follows from it in number: a GPU would be waited for.

    Args:
        slices: int16 (B, S, S) in HU; whole groups, or a share of one.
        first: place of the first of them among the step's slices.
        stage: seed, augmentation, masking, drop path.
        iteration: from 0.
        resolution: sizes of the crops.
        architecture: of the student.
    """
    groups = range(first // stage.group, -(-(first + len(slices)) // stage.group))
    begin = first - groups.start * stage.group
    share = slice(begin, begin + len(slices))
    seeds = [mixed_seed([stage.seed, iteration, CROPS, group]) for group in groups]
    draws = Draws(seeds, stage.group, share)
    side = resolution.global_px // architecture.patch_size
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
    places = range(first, first + len(slices))
    return Drawn(
        slices,
        draw_views(slices.shape[1:], resolution, stage.augmentation, draws),
        # Crops come crop-major: crop 0 of all groups, then crop 1.
        Hidden.of(torch.cat(masks, dim=1)[:, share].flatten(0, 1)),
        noise=[
            draw_noise(stage, iteration, entry, depth=architecture.depth, slices=places)
            for entry in range(2)
        ],
    )


def draw_noise(
    stage: StageOptions,
    iteration: int,
    entry: int,
    *,
    depth: int,
    slices: range,
) -> Noise:
    """Draw drop path and rotary augmentation for the whole step, and take the share of a part.

    Drawn for a part alone, the rate of drop path would not hold: of two images at a rate of 0.2,
    one would be left out.

    Args:
        stage: seed, batch size, rates.
        iteration: from 0.
        entry: 0 for global crops, 1 for local ones.
        depth: blocks of the student.
        slices: places of the part's slices in the step.
    """
    crops = (GLOBAL_CROPS, stage.augmentation.local_crops)[entry]
    seed = mixed_seed([stage.seed, iteration, NETWORK, entry])
    generator = torch.Generator().manual_seed(seed)

    branches = rescale = None
    if stage.drop_path > 0:
        images = crops * stage.batch_size
        count = kept_images(images, stage.drop_path)
        kept = [
            _places(torch.randperm(images, generator=generator)[:count], crops, images, slices)
            for _ in range(2 * depth)
        ]
        branches = _branches(kept, images / count)
    if stage.rope_rescale is not None:
        reach = math.log(stage.rope_rescale)
        rescale = ((torch.rand(depth, generator=generator) * 2 - 1) * reach).exp()
    return Noise(branches, rescale)


def _places(kept: Tensor, crops: int, images: int, slices: range) -> Tensor:
    """Of the step's images, int64 (kept,), those of a part, by their places in the part."""
    mask = torch.zeros(images, dtype=torch.bool)
    mask[kept] = True
    mine = mask.unflatten(0, (crops, -1))[:, slices.start : slices.stop]  # (crops, B)
    return mine.flatten().nonzero().flatten()


def _branches(kept: list[Tensor], scale: float) -> list[tuple[Branch, Branch]]:
    """Attention and MLP of each block, from the places of the images of either, in turn.

    A branch that no image takes would leave its weights without a gradient, for which DDP waits
    in vain: the first image then takes it, and counts for nothing.
    """
    none = torch.zeros(1, dtype=torch.int64)
    branches = [Branch(x, scale) if len(x) else Branch(none, 0.0) for x in kept]
    return list(zip(branches[::2], branches[1::2], strict=True))
