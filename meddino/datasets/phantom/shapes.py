"""Implicit surfaces in millimetres: what organs are built from.

A shape answers, for every voxel of a grid, the approximate signed distance to its surface in mm,
negative inside. Shapes combine with `|` (smooth union), `&` (intersection) and `-` (difference).
Coordinates follow DICOM (LPS): x to the patient's left, y to the back, z to the head.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Triple = tuple[float, float, float]
Box = tuple[slice, slice, slice]

FAR = np.float32(1e3)
BLEND_MM = 6.0
WARP_MARGIN_MM = 12.0


@dataclass(frozen=True)
class Grid:
    """Voxel centres of a volume or of a part of it.

    Attributes:
        axes: nominal z, y and x of slices, rows and columns, ascending (mm).
        x: patient x of every voxel after the patient's own deformation, [z, y, x] (mm).
        y: the same for y.
        z: the same for z.
    """

    axes: tuple[Array, Array, Array]
    x: Array
    y: Array
    z: Array

    def box(self, low: Triple, high: Triple) -> Box:
        """Index ranges that hold all points from `low` to `high` (x, y, z), deformed or not."""
        ends = zip(self.axes, reversed(low), reversed(high), strict=True)
        z, y, x = (
            slice(
                int(np.searchsorted(axis, start - WARP_MARGIN_MM)),
                int(np.searchsorted(axis, stop + WARP_MARGIN_MM)),
            )
            for axis, start, stop in ends
        )
        return z, y, x

    def crop(self, box: Box) -> "Grid":
        """The part of the grid in index ranges, as views."""
        z, y, x = (axis[part] for axis, part in zip(self.axes, box, strict=True))
        return Grid((z, y, x), self.x[box], self.y[box], self.z[box])


@dataclass(frozen=True)
class Shape:
    """A solid: its signed distance on a grid, and a box outside of which it is absent."""

    distance: Callable[[Grid], Array]
    low: Triple
    high: Triple

    def __or__(self, other: "Shape") -> "Shape":
        """Union whose seam is rounded over `BLEND_MM`."""

        def distance(grid: Grid) -> Array:
            a, b = self.distance(grid), other.distance(grid)
            overlap = np.maximum(BLEND_MM - np.abs(a - b), 0)
            blended: Array = np.minimum(a, b) - overlap * overlap * np.float32(0.25 / BLEND_MM)
            return blended

        low, high = _spread(self.low, other.low, min), _spread(self.high, other.high, max)
        return Shape(distance, low, high)

    def __and__(self, other: "Shape") -> "Shape":
        """Intersection."""
        low, high = _spread(self.low, other.low, max), _spread(self.high, other.high, min)
        return Shape(lambda g: np.maximum(self.distance(g), other.distance(g)), low, high)

    def __sub__(self, other: "Shape") -> "Shape":
        """What remains of this shape outside the other."""
        return Shape(
            lambda g: np.maximum(self.distance(g), -other.distance(g)), self.low, self.high
        )

    def grown(self, mm: float) -> "Shape":
        """The shape with its surface moved outwards by `mm` (inwards where negative)."""
        margin = max(mm, 0.0)
        low = (self.low[0] - margin, self.low[1] - margin, self.low[2] - margin)
        high = (self.high[0] + margin, self.high[1] + margin, self.high[2] + margin)
        return Shape(lambda g: self.distance(g) - np.float32(mm), low, high)


def _spread(a: Triple, b: Triple, pick: Callable[[float, float], float]) -> Triple:
    return pick(a[0], b[0]), pick(a[1], b[1]), pick(a[2], b[2])


def everywhere(distance: Callable[[Grid], Array]) -> Shape:
    """A shape without bounds, such as a half-space."""
    return Shape(distance, (-1e4, -1e4, -1e4), (1e4, 1e4, 1e4))


def ellipsoid(centre: Triple, radii: Triple, turn: float = 0.0, tilt: float = 0.0) -> Shape:
    """An ellipsoid.

    Args:
        centre: x, y, z (mm).
        radii: half-axes along x, y, z before rotation (mm).
        turn: rotation about the head axis, from x towards y (radians).
        tilt: rotation in the coronal plane, from x towards z (radians), before the turn.
    """

    def distance(grid: Grid) -> Array:
        x, y, z = grid.x - centre[0], grid.y - centre[1], grid.z - centre[2]
        if turn:
            x, y = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        if tilt:
            x, z = x * np.cos(tilt) + z * np.sin(tilt), z * np.cos(tilt) - x * np.sin(tilt)
        x, y, z = x / radii[0], y / radii[1], z / radii[2]
        x2, y2, z2 = x * x, y * y, z * z
        level = np.sqrt(x2 + y2 + z2)
        # First-order distance: the level function over the length of its gradient.
        slope = np.sqrt(x2 / radii[0] ** 2 + y2 / radii[1] ** 2 + z2 / radii[2] ** 2) + 1e-6
        first_order: Array = (level * (level - 1) / slope).astype(np.float32)
        return first_order

    reach = max(radii) if turn or tilt else None
    ex, ey, ez = (reach or radii[0]), (reach or radii[1]), (reach or radii[2])
    return Shape(
        distance,
        (centre[0] - ex, centre[1] - ey, centre[2] - ez),
        (centre[0] + ex, centre[1] + ey, centre[2] + ez),
    )


def column(centre: tuple[float, float], radii: tuple[float, float], square: float = 0.0) -> Shape:
    """An endless column along z with an elliptical to squarish outline.

    Args:
        centre: x, y (mm).
        radii: half-width and half-depth (mm).
        square: 0 is an ellipse, 1 a squircle (superellipse of exponent 4).
    """
    cross = np.float32(2.0 * (1.0 - square))

    def distance(grid: Grid) -> Array:
        x, y = grid.x - np.float32(centre[0]), grid.y - np.float32(centre[1])
        x2, y2 = x * x, y * y
        u, v = x2 * np.float32(radii[0] ** -2), y2 * np.float32(radii[1] ** -2)
        level = np.sqrt(np.sqrt(u * u + v * v + cross * u * v))
        radial: Array = np.sqrt(x2 + y2) * (1 - 1 / np.maximum(level, np.float32(1e-3)))
        return radial

    low = (centre[0] - radii[0], centre[1] - radii[1], -1e4)
    return Shape(distance, low, (centre[0] + radii[0], centre[1] + radii[1], 1e4))


def tube(points: Sequence[Triple], radii: Sequence[float], steps: int = 4) -> Shape:
    """A round tube along a smooth curve.

    Args:
        points: knots of the curve, x, y, z (mm).
        radii: radius at every knot (mm).
        steps: straight pieces between two knots.
    """
    knots = np.column_stack([np.asarray(points, float), np.asarray(radii, float)])
    curve = _catmull_rom(knots, steps) if len(knots) > 2 else knots
    widest = float(curve[:, 3].max())
    low = tuple(float(v) for v in curve[:, :3].min(0) - widest)
    high = tuple(float(v) for v in curve[:, :3].max(0) + widest)

    def distance(grid: Grid) -> Array:
        nearest = np.full(grid.x.shape, FAR, np.float32)
        for start, stop in pairwise(curve):
            reach = max(start[3], stop[3]) + 2 * BLEND_MM
            ends = np.stack([start[:3], stop[:3]])
            box = grid.box(tuple(ends.min(0) - reach), tuple(ends.max(0) + reach))
            part = grid.crop(box)
            if part.x.size:
                nearest[box] = np.minimum(nearest[box], _capsule(part, start, stop))
        return nearest

    return Shape(distance, (low[0], low[1], low[2]), (high[0], high[1], high[2]))


def _capsule(grid: Grid, start: NDArray[np.float64], stop: NDArray[np.float64]) -> Array:
    way = (stop[:3] - start[:3]).astype(np.float32)
    first = start[:3].astype(np.float32)
    x, y, z = grid.x - first[0], grid.y - first[1], grid.z - first[2]
    along = (x * way[0] + y * way[1] + z * way[2]) / np.float32(max(float(way @ way), 1e-6))
    along = np.clip(along, 0, 1)
    x, y, z = x - along * way[0], y - along * way[1], z - along * way[2]
    radius = np.float32(start[3]) + np.float32(stop[3] - start[3]) * along
    distance: Array = np.sqrt(x * x + y * y + z * z) - radius
    return distance


def _catmull_rom(knots: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
    """Points on the curve through all knots; the ends are extended by mirroring."""
    padded = np.vstack([2 * knots[0] - knots[1], knots, 2 * knots[-1] - knots[-2]])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    pieces = [
        b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
        for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False)
    ]
    return np.vstack([*pieces, knots[-1:]])
