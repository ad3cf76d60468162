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

from meddino.models.device import send
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
    """What is drawn for one crop of B slices.

    Attributes:
        boxes: int64 (B, 4): top, left, height, width, in pixels.
        flips: bool (B,).
        gain: float32 (B,), factor of the intensities.
        contrast: float32 (B,), factor of their distances from the mean.
        sigma: float32 (B,), of the blur (pixels).
        inverted: bool (B,), solarised.
        noise: float32 (B, h, w), of variance 1; None without noise.
    """

    boxes: Tensor
    flips: Tensor
    gain: Tensor
    contrast: Tensor
    sigma: Tensor
    inverted: Tensor
    noise: Tensor | None

    def packed(self) -> Tensor:
        """All but the noise as one tensor, float32 (9, B), in which whole pixels are exact."""
        rows = (self.flips, self.gain, self.contrast, self.sigma, self.inverted)
        return torch.cat([self.boxes.T.float(), torch.stack([row.float() for row in rows])])

    @classmethod
    def unpacked(cls, packed: Tensor, noise: Tensor | None) -> "View":
        """Undo `packed`."""
        flips, gain, contrast, sigma, inverted = packed[4:]
        boxes = packed[:4].T.long()
        return cls(boxes, flips > 0, gain, contrast, sigma, inverted > 0, noise)


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
    kinds = [0, 1, *[LOCAL] * augmentation.local_crops]
    sides = [resolution.local_px if kind == LOCAL else resolution.global_px for kind in kinds]
    size = slices.shape[1:]
    drawn = [
        draw_view(kind, size, side, augmentation, draws)
        for kind, side in zip(kinds, sides, strict=True)
    ]
    views = _on_device(drawn, slices.device)
    hu = slices.float().clamp(*HU_RANGE)
    crops = [
        _distort(cut(hu, view.boxes, view.flips, side), view, augmentation.noise_hu)
        for view, side in zip(views, sides, strict=True)
    ]
    gram = None
    if resolution.gram_px is not None:
        plain = [cut(hu, view.boxes, view.flips, resolution.gram_px) for view in views[:LOCAL]]
        gram = as_input(torch.cat(plain))
    return Crops(as_input(torch.cat(crops[:LOCAL])), as_input(torch.cat(crops[LOCAL:])), gram)


def _on_device(views: Sequence[View], device: torch.device) -> list[View]:
    """Bring what was drawn to where the slices are, in one copy that is not waited for."""
    packed = send(torch.stack([view.packed() for view in views]), device)
    noises = [None if view.noise is None else send(view.noise, device) for view in views]
    return [View.unpacked(*pair) for pair in zip(packed, noises, strict=True)]


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
