"""Dense features of a backbone: similarity of patches, and principal components as colours.

Colours are the first three principal components of a backbone's patch tokens (as in DINOv2 and
DINOv3). Backbones have spaces of their own, where a component's sign and order mean nothing: those
of each one are turned onto those of the first (orthogonal Procrustes), so that one colour stands
for one thing wherever two backbones agree that it is one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import orthogonal_procrustes

from meddino.models.backbones import Backbone
from meddino.report.figures.scenes import Point, Scene
from meddino.volumes.resample import linear

Array = npt.NDArray[Any]

REACH = 2.0
"""Standard deviations from the mean at which a colour channel ends."""
NEGLIGIBLE = 1e-9
"""Share of the variance below which a component is rounding, and is left out."""


def side_px(size_px: int, patch_px: int) -> int:
    """The multiple of a patch that is closest to a size (px)."""
    return max(1, round(size_px / patch_px)) * patch_px


@torch.no_grad()
def patch_tokens(
    backbone: Backbone, scene: Scene, size_px: int, device: torch.device
) -> npt.NDArray[np.float32]:
    """Patch tokens of the last block, after the last norm: (rows, columns, C).

    The image is `size_px` high and wide, to the closest multiple of the backbone's patches.
    """
    image = scene.input(side_px(size_px, backbone.vit.patch_size)).to(device)
    vit = backbone.vit.to(device)
    last = [backbone.depth - 1]
    (tokens,) = vit.get_intermediate_layers(image, n=last, reshape=True, norm=True)
    # (1, C, rows, columns) to (rows, columns, C)
    return np.ascontiguousarray(tokens[0].float().permute(1, 2, 0).cpu().numpy())


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
    """Axes along which a backbone's tokens have colours.

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

    Tokens that are few or equal have fewer; the missing axes are zero.
    """
    values = tokens.astype(np.float64)
    mean = values.mean(axis=0)
    offset = values - mean
    variances, axes = np.linalg.eigh(offset.T @ offset / len(values))
    variances, axes = variances[::-1][:3], axes[:, ::-1][:, :3]
    present = variances > NEGLIGIBLE * max(variances[0], np.finfo(float).tiny)
    # A component and its reverse are the same; this one has its largest weight above zero.
    signs = np.sign(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])])
    scaled = axes * signs * np.where(present, 1 / np.sqrt(np.where(present, variances, 1)), 0)
    return Basis(mean, np.pad(scaled, ((0, 0), (0, 3 - scaled.shape[1]))))


def consistent(maps: Sequence[Sequence[Array]], scenes: Sequence[Scene]) -> list[Basis]:
    """A basis for each backbone, all of them with the same meaning of colours.

    Args:
        maps: of each backbone, its tokens (rows, columns, C) of each scene.
        scenes: the scenes; only patches of the patient count.

    Returns:
        Principal components of each backbone's tokens; those of the second one and all that follow
        turned, or mirrored, so that their scores come closest to the first one's.
    """
    grids = [tokens.shape[:2] for tokens in maps[0]]
    masks = [scene.covered(grid) for scene, grid in zip(scenes, grids, strict=True)]
    bases: list[Basis] = []
    target: Array | None = None
    for own in maps:
        basis = principal(_inside(own, scenes))
        scores = [basis.scores(tokens) for tokens in own]
        # Patches of another size lie on another grid; those of the first backbone are compared.
        inside = [_resampled(s, grid)[m] for s, grid, m in zip(scores, grids, masks, strict=True)]
        source = np.concatenate(inside)  # (N, 3)
        target = source if target is None else target
        turn, _ = orthogonal_procrustes(source, target)
        bases.append(Basis(basis.mean, basis.axes @ turn) if bases else basis)
    return bases


def _inside(maps: Sequence[Array], scenes: Sequence[Scene]) -> Array:
    """Tokens of all patches that show the patient, (N, C)."""
    return np.concatenate([t[s.covered(t.shape[:2])] for t, s in zip(maps, scenes, strict=True)])


def _resampled(scores: Array, grid: tuple[int, ...]) -> Array:
    """Scores (rows, columns, 3) on another grid of the same image."""
    if scores.shape[:2] == grid:
        return scores
    rows, columns = (linear(n, k) for n, k in zip(scores.shape[:2], grid, strict=True))
    return np.stack(
        [(columns @ (rows @ channel).T).T for channel in np.moveaxis(scores, 2, 0)], axis=2
    )
