"""Surfaces of segmentations, and the distances between them.

Two ways of counting a surface, since the field has both and their numbers differ by several points:
voxels of the edge (MONAI, the authors' script), and elements with their area (DeepMind's
surface-distance, nnU-Net's challenges).

Neither needs a distance for every voxel: most elements of a surface lie on or near the other one.
Each element is compared with its neighbourhood, nearest voxels first, until the metrics are
settled; a KD-tree measures the few distances beyond it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes, mesh_surface_area

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Spacing = tuple[float, float, float]

NEIGHBOURS = 500
"""Voxels around each element that are searched for the other surface before a KD-tree is built."""
SHARE = 0.95
"""Share of a surface within its 95th percentile."""
ROUNDING = 1e-9
"""More than sums of shares are rounded by."""


@dataclass(frozen=True)
class Surface:
    """How much of one surface lies how far from the other.

    Attributes:
        distance: to the other surface, ascending (mm), (N,).
        area: of the elements at each distance, (N,): mm2, or their number where voxels are counted.
        total: area of all elements, including those beyond the largest distance.
    """

    distance: Floats
    area: Floats
    total: float


def nsd(reference: Surface, predicted: Surface, tolerance_mm: float) -> float:
    """Normalised surface dice: the share of both surfaces within the tolerance of the other.

    Returns:
        From 0 to 1; NaN where both surfaces are empty.
    """
    total = reference.total + predicted.total
    near = sum(float(s.area[s.distance <= tolerance_mm].sum()) for s in (reference, predicted))
    return near / total if total > 0 else float("nan")


def hd95(reference: Surface, predicted: Surface) -> float:
    """The larger of the two directions' 95th percentile (mm); NaN if one surface is empty.

    As in DeepMind's surface-distance, elements count by their area. MONAI counts edge voxels
    equally and interpolates between them, so its numbers differ.
    """
    if reference.total == 0 or predicted.total == 0:
        return float("nan")
    return max(map(_percentile, (reference, predicted)))


def _percentile(surface: Surface) -> float:
    share = np.cumsum(surface.area) / surface.total
    # Sums in another order round otherwise, which must not decide where a share is just SHARE.
    place = int(np.searchsorted(share, SHARE - ROUNDING))
    return float(surface.distance[min(place, len(share) - 1)])


class Pair:
    """Two masks of one structure, with a margin as wide as the neighbourhoods that are searched.

    Masks are flattened, so that the step to a neighbour is one number, the same for all voxels.
    The margin keeps such steps from leaving the array or wrapping around to the next row.
    """

    def __init__(self, reference: Mask, predicted: Mask, spacing_mm: Floats) -> None:
        """Copy the masks into the margin, which counts as outside.

        Args:
            reference: (z, y, x).
            predicted: (z, y, x).
            spacing_mm: (z, y, x).
        """
        depth, height, width = (float(value) for value in spacing_mm)
        self.spacing_mm: Spacing = depth, height, width
        reach = np.max([offsets.max(axis=0) for _, offsets in shells(self.spacing_mm)], axis=0)
        margin = reach + 1  # (3,) voxels; one more for the cubes of `area_surfaces`
        self.shape = tuple(int(n) for n in np.array(reference.shape) + 2 * margin)
        # From a voxel to the next along z, y and x in the flattened masks.
        self.steps = np.array([self.shape[1] * self.shape[2], self.shape[2], 1])
        inner = tuple(slice(m, m + n) for m, n in zip(margin, reference.shape, strict=True))
        self.masks = []
        for mask in (reference, predicted):
            padded = np.zeros(self.shape, bool)
            padded[inner] = mask
            self.masks.append(padded.ravel())  # (V,)

    def voxel_surfaces(self, tolerance_mm: float) -> tuple[Surface, Surface]:
        """Edge voxels of both masks: those with a face neighbour outside, as in MONAI.

        Args:
            tolerance_mm: the surfaces hold all distances up to it.
        """
        edges = []
        for mask in self.masks:
            core = mask.copy()
            for step in self.steps:
                core[step:] &= mask[:-step]
                core[:-step] &= mask[step:]
            edges.append(np.flatnonzero(mask ^ core))
        return self._between(edges, [np.ones(len(edge)) for edge in edges], tolerance_mm, share=0.0)

    def area_surfaces(self, tolerance_mm: float) -> tuple[Surface, Surface]:
        """Elements of both masks, one for each cube of 2x2x2 voxels that a surface crosses.

        Args:
            tolerance_mm: the surfaces hold all distances up to it, and to the 95th percentile.
        """
        table = areas(self.spacing_mm)
        elements, element_areas = [], []
        for mask in self.masks:
            any_inside = all_inside = mask
            for step in self.steps:
                any_inside = any_inside[:-step] | any_inside[step:]
                all_inside = all_inside[:-step] & all_inside[step:]
            cubes = np.flatnonzero(any_inside ^ all_inside)  # (N,) by their first corner
            # Which of its eight corners are inside, a bit for each, as in `areas`.
            code = np.zeros(len(cubes), np.uint8)
            for bit, corner in enumerate(product((0, 1), repeat=3)):
                code |= mask[cubes + self.steps @ corner].astype(np.uint8) << bit
            elements.append(cubes)
            element_areas.append(table[code])
        return self._between(elements, element_areas, tolerance_mm, SHARE)

    def _between(
        self, elements: list[Integers], areas: list[Floats], tolerance_mm: float, share: float
    ) -> tuple[Surface, Surface]:
        first, second = (
            self._surface(source, area, target, tolerance_mm, share)
            for source, area, target in zip(elements, areas, elements[::-1], strict=True)
        )
        return first, second

    def _surface(
        self, source: Integers, area: Floats, target: Integers, tolerance_mm: float, share: float
    ) -> Surface:
        """Measure from one surface to the other: up to a tolerance and up to a share of the area.

        Args:
            source: elements that are measured from, (N,), indices into the flattened masks.
            area: their areas, (N,).
            target: elements of the other surface, (M,).
            tolerance_mm: all distances up to it are measured.
            share: of the total area; distances are measured until it is reached.
        """
        total, measured = float(area.sum()), 0.0
        bands: list[tuple[float, float]] = []
        for mm, band_area in self._by_distance(source, area, target):
            if mm > tolerance_mm and measured >= share * total:
                break
            bands.append((mm, band_area))
            measured += band_area
        distances, areas_at = np.array(bands).reshape(-1, 2).T
        return Surface(distances, areas_at, total)

    def _by_distance(
        self, source: Integers, area: Floats, target: Integers
    ) -> Iterator[tuple[float, float]]:
        """Distances (mm) to the target, ascending, each with the area of the source elements."""
        if len(target) == 0:
            return
        on_target = np.zeros(len(self.masks[0]), bool)  # (V,)
        on_target[target] = True
        for mm, offsets in shells(self.spacing_mm):
            if len(source) == 0:
                return
            hit = np.logical_or.reduce(
                [on_target[source + step] for step in offsets @ self.steps]
            )  # (N,)
            yield mm, float(area[hit].sum())
            source, area = source[~hit], area[~hit]
        if len(source) > 0:
            distance = self._beyond_shells(source, target)
            order = np.argsort(distance)
            yield from zip(distance[order].tolist(), area[order].tolist(), strict=True)

    def _beyond_shells(self, source: Integers, target: Integers) -> Floats:
        """Distance (mm) of each source element to the nearest target element, by a KD-tree."""
        points, others = (  # (N, 3) and (M, 3) voxels
            np.stack(np.unravel_index(elements, self.shape), 1) for elements in (source, target)
        )
        # Unbalanced trees build faster and answer slower, which pays: few elements are this far.
        tree = cKDTree(others * self.spacing_mm, 64, compact_nodes=False, balanced_tree=False)
        _, nearest = tree.query(points * self.spacing_mm)
        # From whole numbers of voxels, so that an element at the tolerance is not rounded past it.
        return _length(points - others[nearest], self.spacing_mm)


def _length(voxels: Integers, spacing_mm: Spacing) -> Floats:
    """Lengths (mm) of vectors (N, 3) in voxels."""
    return np.sqrt(((voxels * np.array(spacing_mm)) ** 2).sum(axis=-1))


@cache
def shells(spacing_mm: Spacing) -> list[tuple[float, Integers]]:
    """Distances (mm) to neighbours, ascending, each with the offsets (N, 3) of those neighbours.

    Offsets are in voxels; the first is that of the voxel itself. Together they fill a ball of about
    `NEIGHBOURS` voxels.
    """
    mm = np.array(spacing_mm)
    radius = (3 / (4 * np.pi) * NEIGHBOURS * mm.prod()) ** (1 / 3)
    half = np.ceil(radius / mm).astype(int)  # (3,) voxels
    ball = np.indices(2 * half + 1).reshape(3, -1).T - half  # (N, 3)
    length = _length(ball, spacing_mm)
    ball, length = ball[length <= radius], length[length <= radius]
    order = np.argsort(length, kind="stable")
    distances, starts = np.unique(length[order], return_index=True)
    return list(zip(distances.tolist(), np.split(ball[order], starts[1:]), strict=True))


@cache
def areas(spacing_mm: Spacing) -> Floats:
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
