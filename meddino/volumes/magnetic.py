"""Whether values can be those of MR, which has no scale of its own."""

from typing import Any

import numpy as np
import numpy.typing as npt
from skimage.filters import threshold_otsu

from meddino.volumes.errors import BadVolume
from meddino.volumes.hounsfield import ORIGINAL

SLICES = 32
"""Slices that are looked at, evenly over the volume."""
EQUAL_NEIGHBOURS = 0.5
"""In a label map most voxels have their neighbour's value, in an image few: noise sees to that."""
NARROW = 0.2
"""Quartiles of the body's values, relative to their median, are nearer to each other than this in
a CT whose offset was lost (all tissues lie from 900 to 1100), and further apart in MR."""
HOT = 0.03
"""In PET fewer voxels than this stand out from the rest; in MR the body does."""


def check_mr(array: npt.NDArray[Any]) -> None:
    """Refuse values that are not plausible for MR.

    Args:
        array: (z, y, x), any number type.

    Raises:
        BadVolume: they look like a label map, a CT without its offset, PET, or like nothing.
    """
    step = max(1, len(array) // SLICES)
    values = array[::step].astype(np.float32)
    low, high = float(values.min()), float(values.max())
    span = f"(values from {low:g} to {high:g})"
    if low == high:
        raise BadVolume(f"is constant: an empty image {span}", ORIGINAL)
    background = np.bincount(np.unique(values, return_inverse=True)[1].ravel()).argmax()
    rest = values != np.unique(values)[background]
    inside = rest[:, :, 1:] & rest[:, :, :-1]
    same = (values[:, :, 1:] == values[:, :, :-1]) & inside
    if same.sum() > EQUAL_NEIGHBOURS * inside.sum():
        raise BadVolume(f"is a label map, or lost its grey values {span}", "take the image itself")
    body = values[values > threshold_otsu(values)]
    if body.size < HOT * values.size:
        raise BadVolume(
            f"few voxels stand out from the rest, as in PET {span}", "take the CT or MR"
        )
    first, median, third = np.percentile(body, (25, 50, 75))
    if third - first < NARROW * (median - low):
        raise BadVolume(
            f"is a CT whose offset was lost: tissues differ little from each other {span}", ORIGINAL
        )
