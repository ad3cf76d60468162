"""One orientation for all volumes, and voxel grids that can be trusted."""

from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt

from meddino.volumes.errors import BadVolume
from meddino.volumes.raw import Raw

SPACING_RANGE_MM = (0.05, 20.0)
SLICE_SPACING_MAX_MM = 50.0
MIN_SIDE_PX = 16
"""Fewer pixels than this along rows or columns cannot be an axial slice."""
EXACT = 1e-3
"""Rounding of directions that is normal, as the largest error of a unit vector's component."""
MENDED = 0.03
"""Errors up to this, about 2 degrees, come from rounding in other programs and are mended."""

MEND = "mend the header from the original scan"

Matrix = npt.NDArray[np.float64]


def orient(raw: Raw) -> Raw:
    """Turn a volume so that i, j, k run to the patient's left, back and head.

    Axes are swapped and reversed, never resampled: of the 48 ways the one is taken whose axes
    come closest to LPS.

    Raises:
        BadVolume: the steps between voxels are not three different directions.
    """
    order, reverse = _turn(raw.axes)
    axes, origin = raw.axes[:, order].copy(), raw.origin_mm.copy()
    array = raw.array.transpose(_numpy_order(order))
    for axis in reverse:
        origin += axes[:, axis] * (array.shape[2 - axis] - 1)
        axes[:, axis] *= -1
        array = np.flip(array, 2 - axis)
    return replace(raw, array=array, axes=axes, origin_mm=origin)


def restore(array: npt.NDArray[Any], axes: Matrix) -> npt.NDArray[Any]:
    """Undo `orient`: an array (z, y, x) in the order of voxels of a file whose steps are `axes`."""
    order, reverse = _turn(axes)
    turned = np.flip(array, tuple(2 - axis for axis in reverse))
    return turned.transpose(np.argsort(_numpy_order(order)))


def _turn(axes: Matrix) -> tuple[list[int], list[int]]:
    """Which stored axes become x, y and z, and which of x, y and z then run backwards."""
    lengths = np.linalg.norm(axes, axis=0)
    if not np.isfinite(axes).all() or not (lengths > 0).all():
        raise BadVolume("spacing is zero, or no number", MEND)
    cosines = axes / lengths
    order = max(permutations(range(3)), key=lambda o: sum(abs(cosines[x, o[x]]) for x in range(3)))
    return list(order), [x for x in range(3) if axes[x, order[x]] < 0]


def _numpy_order(order: list[int]) -> list[int]:
    """An order of x, y and z for NumPy's axes, which are (k, j, i): the other way round."""
    return [2 - axis for axis in reversed(order)]


def split(axes: Matrix) -> tuple[Matrix, Matrix, tuple[str, ...]]:
    """Split steps into voxel size and rotation.

    Args:
        axes: (3, 3); columns are steps in mm, of a volume that `orient` has turned.

    Returns:
        Voxel size (3,) in mm along x, y, z; the nearest rotation, (3, 3); remarks.

    Raises:
        BadVolume: the size is absurd, or the axes are not at right angles.
    """
    sizes = np.linalg.norm(axes, axis=0)
    low, high = SPACING_RANGE_MM
    if sizes.min() < low or sizes[:2].max() > high or sizes[2] > SLICE_SPACING_MAX_MM:
        listed = " x ".join(f"{size:g}" for size in sizes)
        raise BadVolume(
            f"spacing of {listed} mm is absurd (allowed: {low} to {high}, between slices to"
            f" {SLICE_SPACING_MAX_MM})",
            MEND,
        )
    directions = axes / sizes
    rotation, error = from_rotation(directions)
    if error > MENDED or np.linalg.det(rotation) < 0:
        cosines = directions.T @ directions
        worst = float(np.degrees(np.arcsin(min(1.0, np.abs(cosines - np.eye(3)).max()))))
        raise BadVolume(
            f"axes are sheared, not orthonormal: {worst:.1f} degrees from right angles, as with a"
            " tilted gantry",
            "resample the scan onto a rectangular grid",
        )
    if error > EXACT:
        return sizes, rotation, ("axes were not quite at right angles: nearest rotation is used",)
    return sizes, rotation, ()


def from_rotation(directions: Matrix) -> tuple[Matrix, float]:
    """The rotation (or its mirror image) next to unit vectors, and how far they are from it.

    Args:
        directions: (3, 3); columns are unit vectors.

    Returns:
        (3, 3), and the largest difference of a component.
    """
    u, _, vt = np.linalg.svd(directions)
    rotation = u @ vt
    return rotation, float(np.abs(rotation - directions).max())


def oblique_deg(rotation: Matrix) -> float:
    """Angle in degrees between slices and the axial plane."""
    return float(np.degrees(np.arccos(np.clip(rotation[2, 2], -1.0, 1.0))))


def check_sides(array: npt.NDArray[Any]) -> None:
    """Refuse slices (y, x) that are too small.

    Raises:
        BadVolume: says how small.
    """
    if min(array.shape[1:]) < MIN_SIDE_PX:
        raise BadVolume(
            f"axial slices are only {array.shape[1]} x {array.shape[2]} pixels (at least"
            f" {MIN_SIDE_PX} each way): a localiser or a fragment"
        )
