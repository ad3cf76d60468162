"""Surfaces of segmentations, and the distances between them.

Two ways of counting a surface, since the field has both and their numbers differ by several points:
voxels of the edge (MONAI, the authors' script), and elements with their area (DeepMind's
surface-distance, nnU-Net's challenges).
"""

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.measure import marching_cubes, mesh_surface_area

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Surface:
    """Elements of one surface.

    Attributes:
        distance: of each element to the other surface (mm); infinite where that is empty.
        area: of each element: 1 where voxels are counted, mm2 otherwise.
    """

    distance: Floats
    area: Floats


def nsd(reference: Surface, predicted: Surface, tolerance_mm: float) -> float:
    """Normalised surface dice: the share of both surfaces within the tolerance of the other.

    Returns:
        From 0 to 1; NaN where both surfaces are empty.
    """
    total = float(reference.area.sum() + predicted.area.sum())
    near = sum(float(s.area[s.distance <= tolerance_mm].sum()) for s in (reference, predicted))
    return near / total if total > 0 else float("nan")


def hd95(reference: Surface, predicted: Surface) -> float:
    """The larger of the two directions' 95th percentile (mm); NaN if one surface is empty.

    As DeepMind's surface-distance: elements count by their area. MONAI weighs edge voxels alike and
    interpolates between them, so its numbers differ.
    """
    if len(reference.distance) == 0 or len(predicted.distance) == 0:
        return float("nan")
    return max(_percentile(surface, 0.95) for surface in (reference, predicted))


def _percentile(surface: Surface, share: float) -> float:
    order = np.argsort(surface.distance)
    reached = np.cumsum(surface.area[order]) / surface.area.sum()
    last = len(order) - 1
    return float(surface.distance[order[min(int(np.searchsorted(reached, share)), last)]])


def voxel_surfaces(reference: Mask, predicted: Mask, spacing_mm: Floats) -> tuple[Surface, Surface]:
    """Edge voxels of both masks: those with a neighbour (by a face) outside.

    What lies beyond the picture counts as outside, as for MONAI.

    Args:
        reference: (z, y, x).
        predicted: (z, y, x).
        spacing_mm: (z, y, x).
    """
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (reference, predicted)]
    ones = [np.ones(int(edge.sum())) for edge in edges]
    return _between(edges, ones, spacing_mm)


def area_surfaces(reference: Mask, predicted: Mask, spacing_mm: Floats) -> tuple[Surface, Surface]:
    """Surface elements of both masks, one for each cube of 2x2x2 voxels that a surface crosses.

    Args:
        reference: (z, y, x).
        predicted: (z, y, x).
        spacing_mm: (z, y, x).
    """
    codes = [_codes(mask) for mask in (reference, predicted)]
    edges = [(code > 0) & (code < 255) for code in codes]
    table = areas(tuple(float(value) for value in spacing_mm))
    return _between(
        edges, [table[code[edge]] for code, edge in zip(codes, edges, strict=True)], spacing_mm
    )


def _between(edges: list[Mask], areas: list[Floats], spacing_mm: Floats) -> tuple[Surface, Surface]:
    first, second = (
        Surface(np.asarray(_distance_to(other, spacing_mm)[edge]), area)
        for edge, other, area in zip(edges, edges[::-1], areas, strict=True)
    )
    return first, second


def _distance_to(edge: Mask, spacing_mm: Floats) -> Floats:
    """Distance of every voxel to the nearest one of an edge (mm); infinite where there is none."""
    if not edge.any():
        return np.full(edge.shape, np.inf)
    distance: Floats = ndimage.distance_transform_edt(~edge, sampling=spacing_mm)
    return distance


def _codes(mask: Mask) -> npt.NDArray[np.uint8]:
    """For every corner between voxels, which of its eight voxels are inside, as one byte."""
    padded = np.pad(mask, 1)
    shape = tuple(size - 1 for size in padded.shape)
    code = np.zeros(shape, np.uint8)
    for bit, (z, y, x) in enumerate(product((0, 1), repeat=3)):
        part = padded[z : z + shape[0], y : y + shape[1], x : x + shape[2]]
        code |= part.astype(np.uint8) << bit
    return code


@cache
def areas(spacing_mm: tuple[float, float, float]) -> Floats:
    """Area (mm2) of the surface within a cube of 2x2x2 voxel centres, for each of 256 codes.

    The surface is that of marching cubes (Lorensen), with cuts midway between a voxel inside and
    one outside. Equal to the table of DeepMind's surface-distance.
    """
    table = np.zeros(256)
    for code in range(1, 255):
        # A structure and what surrounds it share one surface, so the rarer kind of corner is cut
        # off: the meshing alone would treat them differently where corners touch by a diagonal.
        cut = code if code.bit_count() <= 4 else 255 - code
        corners = np.array([cut >> bit & 1 for bit in range(8)], float).reshape(2, 2, 2)
        mesh = marching_cubes(corners, 0.5, spacing=spacing_mm, method="lorensen")
        table[code] = mesh_surface_area(*mesh[:2])
    table.setflags(write=False)
    return table
