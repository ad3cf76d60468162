"""A fingerprint of a slice that copies share, whatever their file format and orientation."""

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from meddino.ct3m.shards import FREQUENCIES
from meddino.volumes.resample import linear

SHRUNK_PX = 32
"""Side that a slice is shrunk to first, whatever its matrix and spacing."""
HU_RANGE = (-1000, 1000)
"""Beyond, copies differ: by padding, and by how metal is cut off."""


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


def contrast(fingerprints: npt.NDArray[np.int16]) -> npt.NDArray[np.float64]:
    """How much there is to see, whatever the mean, in HU: (n, FREQUENCIES**2) to float64 (n,)."""
    norms: npt.NDArray[np.float64] = np.sqrt(
        np.square(fingerprints[:, 1:].astype(np.float64)).sum(axis=1)
    )
    return norms


def lowest(count: int) -> npt.NDArray[np.int64]:
    """Places in a fingerprint of its `count` lowest frequencies, lowest first: int64 (count,)."""
    y, x = np.divmod(np.arange(FREQUENCIES**2), FREQUENCIES)
    return np.lexsort((y, x + y))[:count]


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
