"""Whether values are Hounsfield units: water 0, air -1000."""

from typing import Any

import numpy as np
import numpy.typing as npt

from meddino.volumes.errors import BadVolume

LOWEST, HIGHEST = -1024, 32767
"""Range of values kept, in HU: below is padding, above is more than int16 holds."""
BODY_HU = -500
"""Halfway between air and water: above is patient, or table."""
FAT_HU = -200
"""Every part of the body has fat, which with noise reaches below this; most scans show air."""
SOFT_TISSUE_HU = (-200, 300)
MIN_SOFT_TISSUE = 0.002
"""Smallest fraction of voxels that soft tissue fills in a scan of anything alive."""
BELOW_AIR_HU = -1150
"""Below air and its noise: padding, or no HU."""
MAX_BELOW_AIR = 0.15
"""Largest share of voxels below air that are not padding, which is of one value: interpolation
leaves up to 0.08 at its edge; a lost sense of the offset 0.22 and more (seven real scans)."""
LOOKED_AT = 32
"""Slices, evenly over the volume, in which they are counted."""
MAX_HU = 65536
"""Metal in scanners with an extended range stays below 31,000 HU."""
ORIGINAL = "take the original scan"


def check_values(array: npt.NDArray[Any]) -> None:
    """Refuse an empty or constant volume, and one with values that are no numbers.

    Raises:
        BadVolume: says which.
    """
    if array.size == 0:
        raise BadVolume("has no voxels")
    if array.dtype.kind == "f":
        bad = array.size - int(np.count_nonzero(np.isfinite(array)))
        if bad:
            raise BadVolume(f"holds {bad} values that are NaN or infinite", ORIGINAL)


def check_hu(array: npt.NDArray[Any]) -> None:
    """Refuse values that cannot be HU, however they came about.

    Raises:
        BadVolume: the image is constant, or of grey values, or its scale or offset was lost.
    """
    lowest, high = float(array.min()), float(array.max())
    span = f"(values from {lowest:g} to {high:g})"
    if lowest == high:
        raise BadVolume(f"is constant: an empty image {span}", ORIGINAL)
    low = _without_padding(array) if lowest < BELOW_AIR_HU else lowest
    if low >= 0 and high <= 255:
        raise BadVolume(f"is not in HU but in 8-bit grey values {span}", ORIGINAL)
    if low >= 0:
        raise BadVolume(
            f"is not in HU: no value below 0, the offset of -1024 was lost {span}", ORIGINAL
        )
    if low > FAT_HU:
        raise BadVolume(f"is not in HU: neither air nor fat is below {FAT_HU} {span}", ORIGINAL)
    if high > MAX_HU or lowest < -MAX_HU:
        raise BadVolume(f"is not in HU: values are beyond any scanner's range {span}", ORIGINAL)
    if _soft_voxels(array) < MIN_SOFT_TISSUE * array.size:
        raise BadVolume(
            "is not in HU, or shows no body: hardly a voxel has a value of soft tissue"
            f" ({SOFT_TISSUE_HU[0]} to {SOFT_TISSUE_HU[1]}), as after subtracting the offset twice"
            f" {span}",
            ORIGINAL,
        )
    if lowest < BELOW_AIR_HU and _below_air(array) > MAX_BELOW_AIR:
        raise BadVolume(
            "is not in HU: many voxels are darker than air, as after subtracting the offset twice"
            f" {span}",
            ORIGINAL,
        )


def _without_padding(array: npt.NDArray[Any]) -> float:
    """The lowest value that is not below air; the lowest of all where there is none."""
    parts = (image[image >= BELOW_AIR_HU] for image in array)
    return float(min((part.min() for part in parts if part.size), default=array.min()))


def _below_air(array: npt.NDArray[Any]) -> float:
    """Share of voxels below air, without those of the most frequent such value."""
    some = array[:: max(1, len(array) // LOOKED_AT)]
    counts = np.unique(some[some < BELOW_AIR_HU], return_counts=True)[1]
    return float(counts.sum() - counts.max(initial=0)) / some.size


def to_int16(array: npt.NDArray[Any]) -> npt.NDArray[np.int16]:
    """Round to whole HU; padding below -1024 becomes -1024. What is so already stays as it is.

    Slice by slice, so that no copy of the whole volume in another number type is made.
    """
    if array.dtype == np.int16 and array.min() >= LOWEST:
        return array
    result = np.empty(array.shape, np.int16)
    for target, values in zip(result, array, strict=True):
        rounded = np.rint(values) if values.dtype.kind == "f" else values
        np.clip(rounded, LOWEST, HIGHEST, out=target, casting="unsafe")
    return result


def _soft_voxels(array: npt.NDArray[Any]) -> int:
    low, high = SOFT_TISSUE_HU
    return sum(int(np.count_nonzero((image > low) & (image < high))) for image in array)
