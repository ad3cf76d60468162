"""One place that puts slices in order and checks that they are equally far from each other."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from meddino.volumes.errors import BadVolume
from meddino.volumes.headers import Frame

EVEN = 0.01
"""Relative difference of gaps between slices that is rounding."""
UNEVEN = 0.1
"""Relative difference of gaps from which on slices are missing or repeated."""
SHIFTED = 1.0
"""Pixels by which a slice may lie beside the line through the others."""

Vector = npt.NDArray[np.float64]


def along(frames: Sequence[Frame]) -> Vector:
    """Heights of slices above the origin along their common normal, mm: (n,)."""
    normal = _normal(frames[0])
    return np.array([frame.position for frame in frames], dtype=np.float64) @ normal


def in_order(frames: Sequence[Frame]) -> list[Frame]:
    """Slices of one orientation by their place, upwards along rows x columns."""
    heights = along(frames)
    ranks = sorted(range(len(frames)), key=lambda i: (heights[i], frames[i].path, frames[i].number))
    return [frames[rank] for rank in ranks]


def regular(frames: Sequence[Frame]) -> bool:
    """Whether slices, in any order, are equally far from each other."""
    return len(frames) > 1 and _uneven(np.diff(np.sort(along(frames)))) <= UNEVEN


def grid(frames: Sequence[Frame]) -> tuple[Vector, Vector, tuple[str, ...]]:
    """Where the voxels of slices lie that are in order.

    Returns:
        Steps, (3, 3), whose columns lead along columns, rows and slices in mm, LPS; the centre of
        the first voxel, (3,); remarks.

    Raises:
        BadVolume: slices are missing, repeated, or shifted against each other.
    """
    first = frames[0]
    assert first.orientation is not None and first.spacing_mm is not None, "checked before"
    across, down = (_unit(first.orientation[i : i + 3]) for i in (0, 3))
    rows_mm, columns_mm = first.spacing_mm
    origin, step, remarks = _line(frames, min(rows_mm, columns_mm))
    return np.column_stack([across * columns_mm, down * rows_mm, step]), origin, remarks


def _line(frames: Sequence[Frame], pixel_mm: float) -> tuple[Vector, Vector, tuple[str, ...]]:
    """Place of the first slice, step to the next, and remarks."""
    normal = _normal(frames[0])
    positions = np.array([frame.position for frame in frames], dtype=np.float64)
    if len(frames) == 1:
        remark = "a single slice: the folder of its series holds the whole scan"
        return positions[0], normal * (frames[0].gap_mm or 1.0), (remark,)
    gaps = np.diff(positions @ normal)
    deviation = _uneven(gaps)
    span = f"from {gaps.min():.2f} to {gaps.max():.2f} mm"
    if deviation > UNEVEN:
        raise BadVolume(
            f"gaps between slices are uneven ({span}): slices are missing or repeated",
            "fetch the series again",
        )
    first, step = positions[0], (positions[-1] - positions[0]) / (len(positions) - 1)
    remarks: tuple[str, ...] = ()
    if deviation > EVEN:
        step, first = np.polyfit(np.arange(len(positions)), positions, 1)
        remarks = (f"gaps between slices differ slightly: {span}; an even grid is fitted",)
    beside = positions - first - np.outer(np.arange(len(positions)), step)
    beside -= np.outer(beside @ normal, normal)
    shift = float(np.linalg.norm(beside, axis=1).max())
    if shift > SHIFTED * pixel_mm:
        raise BadVolume(
            f"slices are shifted against each other by up to {shift:.1f} mm within their planes",
            "resample the series onto one grid",
        )
    return first, step, remarks


def _uneven(gaps: npt.NDArray[Any]) -> float:
    """Largest deviation of gaps from the usual one, relative to that."""
    usual = float(np.median(gaps))
    return float(np.abs(gaps - usual).max()) / usual if usual > 0 else np.inf


def _normal(frame: Frame) -> Vector:
    assert frame.orientation is not None, "checked before"
    return np.cross(_unit(frame.orientation[:3]), _unit(frame.orientation[3:]))


def _unit(vector: Sequence[float]) -> Vector:
    values = np.asarray(vector, dtype=np.float64)
    return values / np.linalg.norm(values)
