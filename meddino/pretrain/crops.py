"""Multi-crop augmentation of CT slices: batched, in plain torch, on whatever device they are on.

Random-resized crops are two matrix products, one a side, whose rows hold antialiased bicubic
weights: thousands of differing crops in one call, exactly those of cropping and resizing each.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from meddino.pretrain.options import Augmentation, Resolution

HU_RANGE = (-1000.0, 1000.0)
"""Values are clamped to this range (authors' release)."""
HU_MEAN, HU_STD = 65.1084213256836, 178.01663208007812
"""Values are then standardised by these (authors' release)."""
BICUBIC = -0.5
"""Slope of the kernel that antialiased resizing uses everywhere."""
BLUR_REACH = 4
"""Pixels to each side that the blur sees (DINOv3: kernel of 9)."""


@dataclass(frozen=True)
class Crops:
    """What student and teachers see of B slices: crop 0 of all slices, then crop 1, and so on.

    Attributes:
        globals: float32 (2B, 3, g, g).
        locals: float32 (nB, 3, l, l).
        gram: float32 (2B, 3, h, h), the global crops without distortion; None without Gram teacher.
    """

    globals: Tensor
    locals: Tensor
    gram: Tensor | None


def normalise(hu: Tensor) -> Tensor:
    """Standardise HU as the released model's input: any shape, to float32."""
    return (hu.float().clamp(*HU_RANGE) - HU_MEAN) / HU_STD


def as_input(hu: Tensor) -> Tensor:
    """Slices as a ViT takes them: any number type (B, h, w) in HU to float32 (B, 3, h, w).

    The three channels are one and the same memory.
    """
    return normalise(hu)[:, None].expand(-1, 3, -1, -1)


class Draws:
    """Random numbers for slices, group after group, each group's from a seed of its own.

    So the numbers of a slice depend on its group, and not on what else this process works on. They
    are drawn on the CPU, since generators of GPUs give other numbers.
    """

    def __init__(self, seeds: Sequence[int], group: int, share: slice = slice(None)) -> None:
        """Prepare for groups of `group` slices, one a seed; `share` of all these is asked for."""
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._group, self._share = group, share

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """A number from [low, high) for each slice: float32 (count,)."""
        parts = [torch.rand(self._group, generator=g) for g in self._generators]
        return torch.cat(parts)[self._share] * (high - low) + low

    def normal(self, *shape: int) -> Tensor:
        """Gaussian noise for each slice: float32 (count, *shape)."""
        parts = [torch.randn(self._group, *shape, generator=g) for g in self._generators]
        return torch.cat(parts)[self._share]


def multi_crop(
    slices: Tensor, resolution: Resolution, augmentation: Augmentation, draws: Draws
) -> Crops:
    """Cut and distort all crops of a batch.

    Args:
        slices: int16 (B, S, S) in HU.
        resolution: sizes.
        augmentation: how crops are drawn and distorted.
        draws: source of everything random, for B slices.
    """
    hu = slices.float().clamp(*HU_RANGE)

    def region(scale: tuple[float, float]) -> tuple[Tensor, Tensor]:
        boxes = draw_boxes(hu.shape[1:], scale, draws)
        return boxes.to(hu.device), _flips(augmentation, draws).to(hu.device)

    globals_, gram = [], []
    for view in range(2):
        box = region(augmentation.global_scale)
        crop = cut(hu, *box, resolution.global_px)
        globals_.append(_distort(crop, view, augmentation, draws))
        if resolution.gram_px is not None:
            gram.append(cut(hu, *box, resolution.gram_px))
    locals_ = []
    for _ in range(augmentation.local_crops):
        crop = cut(hu, *region(augmentation.local_scale), resolution.local_px)
        locals_.append(_distort(crop, 2, augmentation, draws))
    return Crops(
        as_input(torch.cat(globals_)),
        as_input(torch.cat(locals_)),
        as_input(torch.cat(gram)) if gram else None,
    )


def _flips(augmentation: Augmentation, draws: Draws) -> Tensor:
    return (draws.uniform() < 0.5) & augmentation.flip


def draw_boxes(size: torch.Size, scale: tuple[float, float], draws: Draws) -> Tensor:
    """Draw boxes of a share of the area and an aspect from 3/4 to 4/3, in whole pixels.

    Returns:
        int64 (count, 4): top, left, height, width.
    """
    rows, columns = size
    area = draws.uniform(*scale) * rows * columns
    reach = math.log(4 / 3)
    aspect = draws.uniform(-reach, reach).exp()
    height = (area / aspect).sqrt().round().clamp(1, rows)
    width = (area * aspect).sqrt().round().clamp(1, columns)
    top = (draws.uniform() * (rows - height + 1)).floor()
    left = (draws.uniform() * (columns - width + 1)).floor()
    return torch.stack([top, left, height, width], dim=1).long()


def cut(hu: Tensor, boxes: Tensor, flips: Tensor, size: int) -> Tensor:
    """Crop and resize each slice by its own box: (B, S, S) to (B, size, size)."""
    rows, columns = hu.shape[1:]
    vertical = resize_weights(boxes[:, 0], boxes[:, 2], rows, size)
    horizontal = resize_weights(boxes[:, 1], boxes[:, 3], columns, size)
    horizontal = torch.where(flips[:, None, None], horizontal.flip(1), horizontal)
    return vertical @ hu @ horizontal.transpose(1, 2)


def resize_weights(start: Tensor, length: Tensor, size_in: int, size_out: int) -> Tensor:
    """Antialiased bicubic weights of one side.

    Args:
        start: first pixel of each crop, int64 (B,).
        length: pixels of each crop, int64 (B,).
        size_in: pixels of the slice.
        size_out: pixels of the result.

    Returns:
        float32 (B, size_out, size_in); each row sums to 1 and is zero outside the crop.
    """
    scale = (length.float() / size_out)[:, None, None]
    out, pixel = (torch.arange(n, device=start.device) + 0.5 for n in (size_out, size_in))
    centre = out[None, :, None] * scale + start[:, None, None]
    weights = _bicubic((pixel - centre).abs() / scale.clamp(min=1))
    first, last = start[:, None, None], (start + length)[:, None, None]
    weights = weights * ((pixel > first) & (pixel < last))
    return weights / weights.sum(dim=-1, keepdim=True)


def _bicubic(x: Tensor) -> Tensor:
    """Keys' kernel of non-negative distances."""
    near = ((BICUBIC + 2) * x - (BICUBIC + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * BICUBIC - 4 * BICUBIC
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _distort(crops: Tensor, view: int, a: Augmentation, draws: Draws) -> Tensor:
    """Change intensities, blur, solarise and add noise: (B, h, w) in HU; `view` 2 is local."""
    device = crops.device
    low, high = HU_RANGE
    unit = (crops - low) / (high - low)
    chosen = draws.uniform() < a.intensity_probability
    brightness = draws.uniform(1 - a.brightness, 1 + a.brightness)
    contrast = draws.uniform(1 - a.contrast, 1 + a.contrast)
    gain = torch.where(chosen, brightness, 1.0).to(device)[:, None, None]
    spread = torch.where(chosen, contrast, 1.0).to(device)[:, None, None]
    unit = unit * gain
    mean = unit.mean(dim=(1, 2), keepdim=True)
    unit = ((unit - mean) * spread + mean).clamp(0, 1)
    blurred = draws.uniform() < a.blur_probability[view]
    sigma = draws.uniform(*a.blur_sigma)
    unit = _blur(unit, torch.where(blurred, sigma, 1e-3).to(device))
    if view == 1 and a.solarize_probability > 0:
        inverted = draws.uniform() < a.solarize_probability
        bright = inverted.to(device)[:, None, None] & (unit >= 0.5)
        unit = torch.where(bright, 1 - unit, unit)
    hu = unit * (high - low) + low
    if a.noise_hu > 0:
        hu = hu + a.noise_hu * draws.normal(*hu.shape[1:]).to(device)
    return hu


def _blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image (B, h, w) by its own Gaussian of `sigma` (B,) pixels."""
    offsets = torch.arange(-BLUR_REACH, BLUR_REACH + 1, device=images.device)
    kernel = torch.exp(-(offsets**2) / (2 * sigma[:, None] ** 2))
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    padded = F.pad(images[None], (BLUR_REACH,) * 4, mode="reflect")
    count = len(images)
    padded = F.conv2d(padded, kernel[:, None, :, None], groups=count)
    return F.conv2d(padded, kernel[:, None, None, :], groups=count)[0]
