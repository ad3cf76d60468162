"""Whether values can be those of MR, which has no scale of its own.

Limits lie between what real volumes of each kind show: ten of MR, seven of CT with and without
their offset and in 8 bits, six label maps. Some cannot be told apart and pass: PET of a head alone,
maps of a tissue's share, CT in 8 bits whose window clips nothing.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from skimage.filters import threshold_otsu

from meddino.volumes.errors import BadVolume
from meddino.volumes.hounsfield import ORIGINAL, check_values

SLICES = 32
"""Slices that are looked at, evenly over the volume."""
MIN_RANGE = 32
"""MR is stored in whole numbers; fewer steps than this would lose the image."""
EQUAL_NEIGHBOURS = 0.5
"""Share of voxels with their neighbour's value: at most 0.1 in MR, where noise sees to it, at most
0.2 in CT of 8 bits, and from 0.99 on in label maps."""
NEGATIVE = -0.1
"""How low values may reach below 0, relative to the high ones: interpolation leaves some."""
OFFSET_LOST, NARROW = (850, 1200), 0.25
"""In a CT without its offset the body lies near water, which is 1000 or 1024: its median from 975
to 1090, its quartiles apart by 0.1 to 0.18 of that. MR is as narrow at times, hardly at that
median."""
HOT = 0.03
"""Share of voxels that stand out: at least 0.04 in MR; less where PET shows organs."""
CLIPPED = 0.002
"""Share of voxels with the highest of 8 bits, from which on a window has clipped them."""


def check_mr(array: npt.NDArray[Any]) -> None:
    """Refuse values that are not plausible for MR.

    Args:
        array: (z, y, x), any number type.

    Raises:
        BadVolume: it is empty, normalised, a label map, a CT without its offset or in 8 bits, or as
            PET.
    """
    check_values(array)
    values = array[:: max(1, len(array) // SLICES)].astype(np.float32)
    low, high = float(values.min()), float(values.max())
    span = f"(values from {low:g} to {high:g})"
    if low == high:
        raise BadVolume(f"is constant: an empty image {span}", ORIGINAL)
    if _equal_neighbours(values) > EQUAL_NEIGHBOURS:
        raise BadVolume(f"is a label map, or has lost its grey values {span}", ORIGINAL)
    if high - low < MIN_RANGE:
        raise BadVolume(f"is normalised: values span less than {MIN_RANGE} {span}", ORIGINAL)
    if np.percentile(values, 5) < NEGATIVE * np.percentile(values, 99):
        raise BadVolume(f"has negative values, which MR has not {span}", ORIGINAL)
    if high == 255 and np.mean(values == high) > CLIPPED:
        raise BadVolume(f"is in 8-bit grey values, clipped by a window {span}", ORIGINAL)
    body = values[values > threshold_otsu(values)]
    if body.size < HOT * values.size:
        raise BadVolume(f"is mostly empty but for few bright voxels, as PET is {span}", ORIGINAL)
    first, median, third = np.percentile(body, (25, 50, 75))
    if OFFSET_LOST[0] < median < OFFSET_LOST[1] and third - first < NARROW * median:
        raise BadVolume(f"is a CT whose offset of -1024 was lost {span}", ORIGINAL)


def _equal_neighbours(values: npt.NDArray[np.float32]) -> float:
    """Share of voxels beside the background that have the value of their neighbour in the row."""
    levels, counts = np.unique(values, return_counts=True)
    inside = values != levels[counts.argmax()]
    pairs = inside[:, :, 1:] & inside[:, :, :-1]
    equal = pairs & (values[:, :, 1:] == values[:, :, :-1])
    return float(np.count_nonzero(equal)) / max(1, int(np.count_nonzero(pairs)))
