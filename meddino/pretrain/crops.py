"""Multi-crop augmentation of CT slices: batched, in plain torch, on whatever device they are on.

Random-resized crops are two matrix products, one a side, whose rows hold antialiased bicubic
weights: thousands of differing crops in one call, exactly those of cropping and resizing each.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
SHARP = 1e-3
"""Sigma of a blur that changes nothing."""
LOCAL = 2
"""Number of global crops, and of the kind of a local one."""


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


@dataclass(frozen=True)
class View:
    """What is drawn for one or several crops of B slices: n, crop 0 of all slices, then crop 1.

    Attributes:
        boxes: int64 (n, 4): top, left, height, width, in pixels.
        flips: bool (n,).
        gain: float32 (n,), factor of the intensities.
        contrast: float32 (n,), factor of their distances from the mean.
        sigma: float32 (n,), of the blur (pixels).
        inverted: bool (n,), solarised.
        noise: float32 (n, h, w), of variance 1; None without noise.
    """

    boxes: Tensor
    flips: Tensor
    gain: Tensor
    contrast: Tensor
    sigma: Tensor
    inverted: Tensor
    noise: Tensor | None

    @classmethod
    def joined(cls, views: "Sequence[View]") -> "View":
        """Crops of the same size as one, whose work on a GPU is then that of one, too."""

        def column(name: str) -> Tensor:
            return torch.cat([getattr(view, name) for view in views])

        return cls(
            column("boxes"),
            column("flips"),
            column("gain"),
            column("contrast"),
            column("sigma"),
            column("inverted"),
            None if views[0].noise is None else column("noise"),
        )


class Views(NamedTuple):
    """What is drawn for all crops of B slices."""

    globals: View
    """Of 2B crops."""
    locals: View
    """Of nB crops."""


def multi_crop(
    slices: Tensor, resolution: Resolution, augmentation: Augmentation, draws: Draws
) -> Crops:
    """Draw, cut and distort all crops of a batch.

    Args:
        slices: int16 (B, S, S) in HU.
        resolution: sizes.
        augmentation: how crops are drawn and distorted.
        draws: source of everything random, for B slices.
    """
    views = draw_views(slices.shape[1:], resolution, augmentation, draws)
    return cut_views(slices, views, resolution, augmentation)


def draw_views(
    size: torch.Size, resolution: Resolution, augmentation: Augmentation, draws: Draws
) -> Views:
    """Draw all crops of a batch of slices of `size`, rows and columns; on the CPU."""
    whole = [draw_view(x, size, resolution.global_px, augmentation, draws) for x in range(LOCAL)]
    parts = [
        draw_view(LOCAL, size, resolution.local_px, augmentation, draws)
        for _ in range(augmentation.local_crops)
    ]
    return Views(View.joined(whole), View.joined(parts))


def cut_views(
    slices: Tensor, views: Views, resolution: Resolution, augmentation: Augmentation
) -> Crops:
    """Cut and distort all crops of slices, int16 (B, S, S) in HU, where they are."""
    hu = slices.float().clamp(*HU_RANGE)
    sides = (resolution.global_px, resolution.local_px)
    global_crops, local_crops = (
        _distort(cut(hu, view.boxes, view.flips, side), view, augmentation.noise_hu)
        for view, side in zip(views, sides, strict=True)
    )
    gram = None
    if resolution.gram_px is not None:
        plain = cut(hu, views.globals.boxes, views.globals.flips, resolution.gram_px)
        gram = as_input(plain)
    return Crops(as_input(global_crops), as_input(local_crops), gram)


def draw_view(kind: int, size: torch.Size, side: int, a: Augmentation, draws: Draws) -> View:
    """Draw one crop of each slice.

    Args:
        kind: 0 and 1 are the global crops, LOCAL is a local one: they are distorted differently.
        size: rows and columns of the slices.
        side: of the crop (px).
        a: how crops are drawn and distorted.
        draws: source of everything random.
    """
    boxes = draw_boxes(size, a.local_scale if kind == LOCAL else a.global_scale, draws)
    flips = (draws.uniform() < 0.5) & a.flip
    chosen = draws.uniform() < a.intensity_probability
    brightness = draws.uniform(1 - a.brightness, 1 + a.brightness)
    contrast = draws.uniform(1 - a.contrast, 1 + a.contrast)
    blurred = draws.uniform() < a.blur_probability[kind]
    sigma = draws.uniform(*a.blur_sigma)
    inverted = torch.zeros_like(flips)
    if kind == 1 and a.solarize_probability > 0:
        inverted = draws.uniform() < a.solarize_probability
    return View(
        boxes,
        flips,
        gain=torch.where(chosen, brightness, 1.0),
        contrast=torch.where(chosen, contrast, 1.0),
        sigma=torch.where(blurred, sigma, SHARP),
        inverted=inverted,
        noise=draws.normal(side, side) if a.noise_hu > 0 else None,
    )


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
    """Crop and resize each slice by boxes of its own.

    Args:
        hu: (B, S, S).
        boxes: int64 (nB, 4): those of the first crops of all slices, of the second, and so on.
        flips: bool (nB,).
        size: of the crops (px).

    Returns:
        (nB, size, size).
    """
    rows, columns = hu.shape[1:]
    crops = len(boxes) // len(hu)
    vertical = resize_weights(boxes[:, 0], boxes[:, 2], rows, size)
    horizontal = resize_weights(boxes[:, 1], boxes[:, 3], columns, size)
    horizontal = torch.where(flips[:, None, None], horizontal.flip(1), horizontal)
    # One product for all crops of a slice, which would be copied for each of them otherwise.
    vertical = vertical.unflatten(0, (crops, -1)).transpose(0, 1).flatten(1, 2)  # (B, n*size, S)
    bands = (vertical @ hu).unflatten(1, (crops, -1)).transpose(0, 1).flatten(0, 1)
    return bands @ horizontal.transpose(1, 2)


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


def _distort(crops: Tensor, view: View, noise_hu: float) -> Tensor:
    """Change intensities, blur, solarise and add noise: (B, h, w) in HU."""
    low, high = HU_RANGE
    unit = (crops - low) / (high - low) * view.gain[:, None, None]
    mean = unit.mean(dim=(1, 2), keepdim=True)
    unit = ((unit - mean) * view.contrast[:, None, None] + mean).clamp(0, 1)
    unit = _blur(unit, view.sigma)
    bright = view.inverted[:, None, None] & (unit >= 0.5)
    hu = torch.where(bright, 1 - unit, unit) * (high - low) + low
    return hu if view.noise is None else hu + noise_hu * view.noise


def _blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image (B, h, w) by its own Gaussian of `sigma` (B,) pixels."""
    offsets = torch.arange(-BLUR_REACH, BLUR_REACH + 1, device=images.device)
    kernel = torch.exp(-(offsets**2) / (2 * sigma[:, None] ** 2))
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    padded = F.pad(images[None], (BLUR_REACH,) * 4, mode="reflect")
    count = len(images)
    padded = F.conv2d(padded, kernel[:, None, :, None], groups=count)
    return F.conv2d(padded, kernel[:, None, None, :], groups=count)[0]
