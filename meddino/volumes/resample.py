"""Resizing of slices: one sparse matrix per axis, made once per shape and spacing."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array


@dataclass(frozen=True)
class Resizer:
    """Resamples slices of one shape to a spacing, and then resizes them to a square."""

    rows: Any
    """Sparse float32 (size, height)."""
    columns: Any
    """Sparse float32 (size, width)."""

    @classmethod
    def of(
        cls,
        shape: tuple[int, int],
        spacing_mm: tuple[float, float],
        *,
        target_mm: float,
        size_px: int,
    ) -> "Resizer":
        """Prepare for slices of `shape` (height, width) with pixels of `spacing_mm` (y, x)."""
        rows, columns = (
            through(length, length * spacing / target_mm, size_px)
            for length, spacing in zip(shape, spacing_mm, strict=True)
        )
        return cls(rows, columns)

    def __call__(self, image: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Resize one slice: any number type (height, width) to float32 (size, size).

        Sums run in a fixed order whatever the number of threads, unlike in BLAS: equal slices
        become equal bytes.
        """
        by_rows = (self.rows @ _padded(image))[:, : image.shape[1]]
        by_both = (self.columns @ _padded(by_rows.T))[:, : len(by_rows)]
        return np.ascontiguousarray(by_both.T)


PAD = 16
"""Columns beside an image. Without them rows often lie a power of two apart, which share few lines
of the cache: transposing then takes five times as long."""


def _padded(image: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    padded = np.zeros((image.shape[0], image.shape[1] + PAD), np.float32)
    padded[:, : image.shape[1]] = image
    return padded


@lru_cache(maxsize=64)
def through(length: int, resampled: float, size_px: int) -> Any:
    """The matrix that resamples to `resampled` pixels (rounded) and then resizes to `size_px`.

    The paper (3.2) does one after the other. Both are linear, so that their product does both at
    once, with the blur of both and without rounding in between.

    Returns:
        Sparse float32 (size_px, length); each row adds up to 1.
    """
    between = max(1, round(resampled))
    return csr_array(linear(between, size_px) @ linear(length, between), dtype=np.float32)


def linear(length: int, size: int) -> Any:
    """The matrix of linear interpolation, antialiased: the filter widens as the image shrinks.

    Both grids cover the same extent, edge to edge. Weights are cut off at the edges and normalised;
    elsewhere ramps stay exact ramps.

    Returns:
        Sparse float64 (size, length); each row adds up to 1.
    """
    scale = length / size
    reach = max(1.0, scale)
    centres = (np.arange(size) + 0.5) * scale - 0.5
    taps = np.arange(int(np.ceil(2 * reach)) + 1)
    columns = np.floor(centres - reach)[:, None].astype(np.int64) + taps
    weights = np.maximum(0.0, 1.0 - np.abs(columns - centres[:, None]) / reach)
    beyond = (weights > 0) & ((columns < 0) | (columns >= length))
    weights[beyond] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    weights[~beyond.any(axis=1)] *= _tilt(weights, columns, centres)[~beyond.any(axis=1)]
    rows = np.repeat(np.arange(size), len(taps))
    inside = weights.ravel() != 0
    places = (rows[inside], columns.ravel()[inside])
    return csr_array((weights.ravel()[inside], places), shape=(size, length))


def _tilt(
    weights: npt.NDArray[np.float64],
    columns: npt.NDArray[np.int64],
    centres: npt.NDArray[np.floating[Any]],
) -> npt.NDArray[np.float64]:
    """Factors that put the centre of mass of each row's weights onto the row's centre.

    A widened filter, sampled at whole pixels, misses it by up to 0.2 pixels, and details would
    wobble from pixel to pixel.
    """
    mass = (weights * columns).sum(axis=1, keepdims=True)
    offsets = columns - mass
    spread = (weights * offsets**2).sum(axis=1, keepdims=True)
    # A row with one weight is on its centre already.
    return 1.0 + (centres[:, None] - mass) * offsets / np.where(spread > 1e-9, spread, 1.0)
