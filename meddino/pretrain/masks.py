"""Which patches iBOT hides: blocks, as in DINOv3, with an exact count per image."""

import math

import numpy as np
import torch
from torch import Tensor

MIN_BLOCK = 4
MIN_ASPECT = 0.3
TRIES = 10


def draw_masks(
    images: int,
    grid: tuple[int, int],
    ratio: tuple[float, float],
    probability: float,
    rng: np.random.Generator,
) -> Tensor:
    """Draw the masks of one batch.

    Of all images int(images * probability) are masked, in random places of the batch. The shares
    of hidden patches are fixed: the upper ends of equal intervals of `ratio`.

    Args:
        images: number B of global crops.
        grid: rows and columns of patches.
        ratio: lowest and highest share.
        probability: share of masked images.
        rng: source of the draws.

    Returns:
        bool (B, rows * columns).
    """
    masked = int(images * probability)
    # Fixed shares, not drawn ones: the number of hidden patches, and so the memory of a step, is
    # the same in every batch.
    shares = np.linspace(*ratio, masked + 1)[1:]
    patches = grid[0] * grid[1]
    masks = np.zeros((images, patches), bool)
    for image, share in zip(rng.permutation(images)[:masked], shares, strict=True):
        masks[image] = draw_mask(int(patches * share), grid, rng).ravel()
    return torch.from_numpy(masks)


def draw_mask(count: int, grid: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Hide exactly `count` patches: blocks until one fails to fit, then single patches.

    Returns:
        bool of shape `grid`.
    """
    mask = np.zeros(grid, bool)
    largest = grid[0] * grid[1] // 2
    while (remaining := count - int(mask.sum())) > 0:
        if not _add_block(mask, remaining, min(remaining, largest), rng):
            break
    # Single patches make the count exact, which blocks rarely do.
    hidden = int(mask.sum())
    free = np.flatnonzero(~mask)
    mask.ravel()[rng.permutation(free)[: count - hidden]] = True
    return mask


def _add_block(mask: np.ndarray, remaining: int, largest: int, rng: np.random.Generator) -> bool:
    """Try to hide one more block of at most `remaining` new patches; say whether it fitted."""
    rows, columns = mask.shape
    for _ in range(TRIES):
        area = rng.uniform(MIN_BLOCK, max(largest, MIN_BLOCK))
        aspect = math.exp(rng.uniform(math.log(MIN_ASPECT), -math.log(MIN_ASPECT)))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if not (0 < height < rows and 0 < width < columns):
            continue
        top, start = rng.integers(0, rows - height + 1), rng.integers(0, columns - width + 1)
        block = mask[top : top + height, start : start + width]
        new = height * width - int(block.sum())
        if 0 < new <= remaining:
            block[:] = True
            return True
    return False
