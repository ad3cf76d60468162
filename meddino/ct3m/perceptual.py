"""What copies of a slice share: a fingerprint of its frame, and greys whatever the contrast."""

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from meddino.ct3m.shards import FREQUENCIES
from meddino.volumes.hounsfield import BODY_HU
from meddino.volumes.resample import Resizer, linear, through

Array = npt.NDArray[np.float32]

SHRUNK_PX = 32
"""Side that a slice is shrunk to first, whatever its matrix and spacing."""
HU_RANGE = (-1000, 1000)
"""Beyond, copies differ: by padding, and by how metal is cut off."""
BANDS, VALUES, STEP_HU = 4, 32, 24
"""A key is so many of the lowest frequencies in steps of so many HU."""
MIN_CONTRAST_HU = 50.0
"""Slices with less to see, whatever the mean, have no keys. Real ones have 150 or more."""
MIN_SPREAD_HU = 40.0
"""Narrower windows would show noise alone."""


def fingerprint(image: npt.NDArray[Any]) -> npt.NDArray[np.int16]:
    """The lowest frequencies of a slice, blind to mirroring.

    Mirroring an axis changes the sign of that axis' odd cosines and of nothing else. So the
    absolute value is kept of all coefficients with an odd frequency, and the others as they are.

    Args:
        image: (y, x) in HU, of any matrix: the whole field of view counts.

    Returns:
        int16 (FREQUENCIES**2,), amplitudes in HU, row by row of (y, x) frequencies.
    """
    height, width = image.shape
    by_rows = _shrink(height) @ np.clip(image, *HU_RANGE).astype(np.float32)
    shrunk = (_shrink(width) @ np.ascontiguousarray(by_rows.T)).T
    # No matrix products: the order of BLAS' sums depends on the number of threads.
    amplitudes = np.einsum("uj,vj->uv", np.einsum("ui,ij->uj", _cosines(), shrunk), _cosines())
    even = np.arange(FREQUENCIES) % 2 == 0
    blind = np.where(even[:, None] & even, amplitudes, np.abs(amplitudes))
    return np.rint(blind).astype(np.int16).ravel()


def keys(fingerprints: npt.NDArray[np.int16]) -> npt.NDArray[np.uint64]:
    """Numbers that copies share: the lowest frequencies in steps.

    Where a value lies close to the edge of a step, copies may fall on both sides of it; bands have
    their edges at different values.

    Args:
        fingerprints: int16 (n, FREQUENCIES**2).

    Returns:
        uint64 (n, BANDS); 0 for slices that show next to nothing, which would match everything.
    """
    y, x = np.divmod(np.arange(FREQUENCIES**2), FREQUENCIES)
    lowest = fingerprints[:, np.lexsort((y, x + y))[:VALUES]].astype(np.int64)
    result = np.zeros((len(lowest), BANDS), np.uint64)
    for band in range(BANDS):
        raw = np.random.PCG64(band).random_raw(2 * VALUES)
        steps = ((lowest + (raw[:VALUES] % STEP_HU).astype(np.int64)) // STEP_HU).astype(np.uint64)
        result[:, band] = (steps * (raw[VALUES:] | np.uint64(1))).sum(axis=1)  # overflow: a hash
    norms = np.linalg.norm(fingerprints[:, 1:].astype(np.float64), axis=1)
    result[norms < MIN_CONTRAST_HU] = 0
    return result


def soft_window(image: Array) -> Array:
    """Greys from -1 to 1, about alike whatever the window, offset and gamma of a copy.

    Window and level are those of the body's own values, and greys level off beyond.

    Args:
        image: (y, x) in HU.
    """
    body = image[image > BODY_HU]
    if len(body) == 0:
        return np.zeros_like(image)
    ranks = [int(share * (len(body) - 1)) for share in (0.2, 0.5, 0.8)]
    low, middle, high = np.partition(body, ranks)[ranks]
    greys: Array = np.tanh((image - middle) / max(high - low, MIN_SPREAD_HU))
    return greys


def to_grid(
    shape: tuple[int, ...], spacing_mm: tuple[float, float], grid_mm: float
) -> tuple[Resizer, tuple[float, float]]:
    """What resamples slices to pixels of about `grid_mm`, and their exact spacing (y, x) in mm.

    Args:
        shape: of the slices, (y, x).
        spacing_mm: of their pixels, (y, x).
        grid_mm: wanted spacing; the frame holds a whole number of pixels.
    """
    extents_mm = [length * mm for length, mm in zip(shape, spacing_mm, strict=True)]
    sizes = [max(1, round(extent / grid_mm)) for extent in extents_mm]
    rows, columns = (through(length, n, n) for length, n in zip(shape, sizes, strict=True))
    return Resizer(rows, columns), (extents_mm[0] / sizes[0], extents_mm[1] / sizes[1])


@lru_cache(maxsize=64)
def _shrink(length: int) -> Any:
    return linear(length, SHRUNK_PX).astype(np.float32)


@lru_cache(maxsize=1)
def _cosines() -> npt.NDArray[np.float64]:
    """The first cosines of the DCT-II, for amplitudes in HU: (FREQUENCIES, SHRUNK_PX)."""
    place = (np.arange(SHRUNK_PX) + 0.5) * np.pi / SHRUNK_PX
    waves = np.cos(np.arange(FREQUENCIES)[:, None] * place) / SHRUNK_PX
    waves[1:] *= np.sqrt(2.0)
    return waves
