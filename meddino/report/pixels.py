"""Slices of CT as pixels: grey values of a window, and the region of the patient."""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from meddino.volumes.hounsfield import BODY_HU


def body(hu: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """The patient on a slice: the largest connected region above -500 HU, with its holes filled.

    The table and the clothes are separate regions, and lungs are holes. Where nothing is above the
    threshold, the whole slice counts.

    Args:
        hu: (y, x), HU.

    Returns:
        bool (y, x).
    """
    inside = hu > BODY_HU
    if not inside.any():
        return np.ones(hu.shape, bool)
    regions, _ = ndimage.label(inside)
    largest = int(np.bincount(regions[inside]).argmax())
    return np.asarray(ndimage.binary_fill_holes(regions == largest))


def grey(hu: npt.NDArray[Any], window: tuple[float, float]) -> npt.NDArray[np.float32]:
    """Grey values from 0 to 1 of a window.

    MR has no scale of its own: values without a negative one are windowed by their percentiles.

    Args:
        hu: (y, x), HU, or the values of an MR slice.
        window: centre and width (HU).

    Returns:
        float32 (y, x).
    """
    centre, width = window
    if hu.min() >= 0:
        low, high = np.percentile(hu, (1, 99.5))
        centre, width = (low + high) / 2, max(high - low, 1e-6)
    return np.clip((hu.astype(np.float32) - (centre - width / 2)) / width, 0, 1)
