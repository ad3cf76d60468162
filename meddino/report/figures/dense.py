"""Dense features: images as backbones see them, similarity of patches, and colours for features.

Colours are the first three principal components of a backbone's patch tokens (as in DINOv2 and
DINOv3). Backbones have spaces of their own, where a component's sign and order mean nothing: those
of each one are turned onto those of the first (orthogonal Procrustes), so that one colour stands
for one thing wherever two backbones agree that it is one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from scipy import ndimage
from scipy.linalg import orthogonal_procrustes

from meddino.core.errors import MeddinoError
from meddino.models.backbones import Backbone
from meddino.pretrain.crops import normalise
from meddino.report.figures.style import body, grey
from meddino.volumes import reader
from meddino.volumes.hounsfield import BODY_HU
from meddino.volumes.resample import Resizer, linear

Array = npt.NDArray[Any]
Point = tuple[float, float]
"""Where something is: shares of the height from the top and of the width from the left."""

PICTURES = (".png", ".jpg", ".jpeg")
"""Ends of the names of images that are no CT."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""By which pictures are standardised, as DINOv3's pretraining on photographs did."""
SPACING_MM = 0.45
"""In-plane spacing that slices of CT are resampled to before they are resized (paper, 3.2)."""
REACH = 2.0
"""Standard deviations from the mean at which a colour channel ends."""
NEGLIGIBLE = 1e-9
"""Share of the variance below which a component is rounding, and is left out."""


@dataclass(frozen=True)
class Scene:
    """An image to look at.

    Attributes:
        values: float32 (channels, height, width): one of HU, or three from 0 to 255.
        spacing_mm: of pixels, (y, x); equal for pictures.
        target_mm: spacing that it is resampled to before it is resized.
    """

    values: npt.NDArray[np.float32]
    spacing_mm: tuple[float, float] = (1.0, 1.0)
    target_mm: float = 1.0

    @property
    def ct(self) -> bool:
        """Whether values are HU."""
        return len(self.values) == 1

    @property
    def aspect(self) -> float:
        """Height of a pixel over its width."""
        return self.spacing_mm[0] / self.spacing_mm[1]

    @cached_property
    def body(self) -> npt.NDArray[np.bool_]:
        """Where the patient is; everywhere in a picture."""
        return body(self.values[0]) if self.ct else np.ones(self.values.shape[1:], bool)

    def input(self, size_px: int) -> torch.Tensor:
        """The image as backbones take it: stretched to a square, float32 (1, 3, size, size)."""
        shape: tuple[int, int] = self.values.shape[1:]
        resizer = Resizer.of(shape, self.spacing_mm, target_mm=self.target_mm, size_px=size_px)
        resized = torch.from_numpy(np.stack([resizer(channel) for channel in self.values]))
        if self.ct:
            return normalise(resized.round())[None].expand(-1, 3, -1, -1)
        mean, std = (torch.tensor(x)[:, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD))
        return ((resized / 255 - mean) / std)[None]

    def shown(self, window_hu: tuple[float, float]) -> npt.NDArray[np.float32]:
        """RGB from 0 to 1, (height, width, 3), CT in a window (centre, width)."""
        if self.ct:
            return np.repeat(grey(self.values[0], window_hu)[..., None], 3, axis=2)
        return np.ascontiguousarray(self.values.transpose(1, 2, 0)) / np.float32(255)

    def covered(self, grid: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """Which patches of a grid (rows, columns) show the patient on half of them or more.

        All, where none does.
        """
        rows, columns = (linear(n, k) for n, k in zip(self.body.shape, grid, strict=True))
        share = columns @ (rows @ self.body.astype(np.float64)).T
        found = share.T >= 0.5
        return np.asarray(found if found.any() else ~found)

    def centre(self) -> Point:
        """The pixel of the body that is closest to its centre of mass."""
        return innermost(self.body, deepest=False)


def innermost(mask: npt.NDArray[np.bool_], *, deepest: bool = True) -> Point:
    """A point that stands for a region: the one farthest from its border, or its middle."""
    inside = np.argwhere(mask)
    if deepest:
        depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
        row, column = np.unravel_index(int(depth.argmax()), mask.shape)
    else:
        away = ((inside - inside.mean(axis=0)) ** 2).sum(axis=1)
        row, column = inside[int(away.argmin())]
    return (float(row) + 0.5) / mask.shape[0], (float(column) + 0.5) / mask.shape[1]


def read_scene(path: Path, slice_number: int | None = None) -> Scene:
    """Read a picture, or a slice of a CT volume.

    Args:
        path: PNG or JPEG; or a volume (NIfTI, MetaImage, NRRD, the folder of a DICOM series).
        slice_number: counted from the feet, from 0 on; None for the slice with most body.

    Raises:
        MeddinoError: it cannot be read, is not in HU, or has no such slice.
    """
    if path.suffix.lower() in PICTURES:
        return Scene(_read_picture(path))
    try:
        volume = reader.read(path)
    except reader.BadVolume as error:
        raise MeddinoError(f"{path}: {error}") from error
    count = len(volume.array)
    if slice_number is None:
        slice_number = int(np.argmax([np.count_nonzero(each > BODY_HU) for each in volume.array]))
    elif not 0 <= slice_number < count:
        raise MeddinoError(
            f"{path} has slices 0 to {count - 1}, from the feet on, not {slice_number}"
        )
    values = volume.array[slice_number][None].astype(np.float32)
    _, y, x = volume.spacing_mm
    return Scene(values, (y, x), SPACING_MM)


def _read_picture(path: Path) -> npt.NDArray[np.float32]:
    """RGB of 8 bits or what amounts to it, (3, height, width)."""
    if not path.is_file():
        raise MeddinoError(f"{path} does not exist; name a picture or a volume")
    try:
        pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    except RuntimeError as error:
        raise MeddinoError(
            f"{path} cannot be read as a picture, it is truncated or damaged; make it again"
        ) from error
    top = np.iinfo(pixels.dtype).max
    channels = pixels[..., None] if pixels.ndim == 2 else pixels
    if channels.shape[-1] < 3:  # grey, maybe with transparency
        channels = np.repeat(channels[..., :1], 3, axis=2)
    values = np.moveaxis(channels[..., :3], 2, 0).astype(np.float32) * (255 / top)
    return np.ascontiguousarray(values)


def side_px(size_px: int, patch_px: int) -> int:
    """The multiple of a patch that is closest to a size (px)."""
    return max(1, round(size_px / patch_px)) * patch_px


@torch.no_grad()
def features(
    backbone: Backbone, scene: Scene, size_px: int, device: torch.device
) -> npt.NDArray[np.float32]:
    """Patch tokens of the last block, after the last norm: (rows, columns, C).

    The image is `size_px` high and wide, to the closest multiple of the backbone's patches.
    """
    image = scene.input(side_px(size_px, backbone.vit.patch_size)).to(device)
    vit = backbone.vit.to(device)
    (found,) = vit.get_intermediate_layers(image, n=[backbone.depth - 1], reshape=True, norm=True)
    return np.ascontiguousarray(found[0].float().permute(1, 2, 0).cpu().numpy())


def patch_at(point: Point, grid: tuple[int, int]) -> tuple[int, int]:
    """Row and column of the patch that a point lies in."""
    row, column = (min(int(p * n), n - 1) for p, n in zip(point, grid, strict=True))
    return row, column


def similarity(tokens: Array, patch: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Cosine of a patch's token with every one's, from -1 to 1: (rows, columns)."""
    unit = tokens / np.maximum(np.linalg.norm(tokens, axis=-1, keepdims=True), 1e-12)
    return np.clip(unit @ unit[patch], -1, 1).astype(np.float32)


@dataclass(frozen=True)
class Basis:
    """Where the colours of a backbone's tokens come from.

    Attributes:
        mean: (C,), which is grey.
        axes: (C, 3); a token's offset times these is its colour, in standard deviations.
    """

    mean: Array
    axes: Array

    def scores(self, tokens: Array) -> Array:
        """Standard deviations from the mean along the three axes, (..., 3)."""
        return (tokens.astype(np.float64) - self.mean) @ self.axes

    def colours(self, tokens: Array) -> npt.NDArray[np.float32]:
        """RGB from 0 to 1, (..., 3); grey is the mean, REACH deviations end a channel."""
        return np.clip(0.5 + self.scores(tokens) / (2 * REACH), 0, 1).astype(np.float32)


def principal(tokens: Array) -> Basis:
    """The first three principal components of tokens (N, C), each scaled to variance 1.

    One that the tokens do not have, since they are few or equal, is zero.
    """
    values = tokens.astype(np.float64)
    mean = values.mean(axis=0)
    offset = values - mean
    variances, axes = np.linalg.eigh(offset.T @ offset / len(values))
    variances, axes = variances[::-1][:3], axes[:, ::-1][:, :3]
    there = variances > NEGLIGIBLE * max(variances[0], np.finfo(float).tiny)
    # A component and its reverse are the same; this one has its largest weight above zero.
    signs = np.sign(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])])
    scaled = axes * signs * np.where(there, 1 / np.sqrt(np.where(there, variances, 1)), 0)
    return Basis(mean, np.pad(scaled, ((0, 0), (0, 3 - scaled.shape[1]))))


def consistent(maps: Sequence[Sequence[Array]], scenes: Sequence[Scene]) -> list[Basis]:
    """A basis for each backbone, all of them with the same meaning of colours.

    Args:
        maps: of each backbone, its tokens (rows, columns, C) of each scene.
        scenes: what they show; only patches of the patient count.

    Returns:
        Principal components of each backbone's tokens; those of the second one and all that follow
        turned, or mirrored, so that their scores come closest to the first one's.
    """
    grids = [tokens.shape[:2] for tokens in maps[0]]
    masks = [scene.covered(grid) for scene, grid in zip(scenes, grids, strict=True)]
    found: list[Basis] = []
    wanted: Array | None = None
    for own in maps:
        basis = principal(_inside(own, scenes))
        scores = [basis.scores(tokens) for tokens in own]
        here = [_resampled(s, grid)[m] for s, grid, m in zip(scores, grids, masks, strict=True)]
        seen = np.concatenate(here)
        wanted = seen if wanted is None else wanted
        turn, _ = orthogonal_procrustes(seen, wanted)
        found.append(Basis(basis.mean, basis.axes @ turn) if found else basis)
    return found


def _inside(maps: Sequence[Array], scenes: Sequence[Scene]) -> Array:
    """Tokens of all patches that show the patient, (N, C)."""
    return np.concatenate([t[s.covered(t.shape[:2])] for t, s in zip(maps, scenes, strict=True)])


def _resampled(scores: Array, grid: tuple[int, ...]) -> Array:
    """Scores (rows, columns, 3) on another grid of the same image."""
    if scores.shape[:2] == grid:
        return scores
    rows, columns = (linear(n, k) for n, k in zip(scores.shape[:2], grid, strict=True))
    return np.stack([(columns @ (rows @ each).T).T for each in np.moveaxis(scores, 2, 0)], axis=2)
