"""Surfaces of segmentations, and the distances between them.

Two ways of counting a surface, since the field has both and their numbers differ by several points:
voxels of the edge (MONAI, the authors' script), and elements with their area (DeepMind's
surface-distance, nnU-Net's challenges).

Neither needs a distance for every voxel: most elements of a surface lie on or near the other one.
Each element looks for the other surface in its neighbourhood, nearest voxels first, until the
metrics are settled; a KD-tree finds what is farther.
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
"""Voxels around each element where the other surface is looked for, before a KD-tree is built."""
SHARE = 0.95
"""Share of a surface within its 95th percentile."""


@dataclass(frozen=True)
class Surface:
    """How much of one surface lies how far from the other.

    Attributes:
        distance: to the other surface, ascending (mm).
        area: of the elements at each distance; their number where voxels are counted, else mm2.
        total: area of all elements, also of those farther than anybody asked for.
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

    As DeepMind's surface-distance: elements count by their area. MONAI weighs edge voxels alike and
    interpolates between them, so its numbers differ.
    """
    if reference.total == 0 or predicted.total == 0:
        return float("nan")
    return max(map(_percentile, (reference, predicted)))


def _percentile(surface: Surface) -> float:
    reached = np.cumsum(surface.area) / surface.total
    last = len(reached) - 1
    return float(surface.distance[min(int(np.searchsorted(reached, SHARE)), last)])


class Pair:
    """Two masks of one structure, in a margin that no neighbourhood of theirs leaves.

    Voxels are counted through the whole picture, so that a step to a neighbour is one number.
    """

    def __init__(self, reference: Mask, predicted: Mask, spacing_mm: Floats) -> None:
        """Copy masks (z, y, x) into the margin; what lies beyond the picture counts as outside."""
        depth, height, width = (float(value) for value in spacing_mm)
        self.spacing_mm: Spacing = depth, height, width
        margin = np.max([near.max(axis=0) for _, near in shells(self.spacing_mm)], axis=0) + 1
        self.shape = tuple(int(n) for n in np.array(reference.shape) + 2 * margin)
        self.steps = np.array([self.shape[1] * self.shape[2], self.shape[2], 1])
        inner = tuple(slice(m, m + n) for m, n in zip(margin, reference.shape, strict=True))
        self.masks = []
        for mask in (reference, predicted):
            padded = np.zeros(self.shape, bool)
            padded[inner] = mask
            self.masks.append(padded.ravel())

    def voxel_surfaces(self, tolerance_mm: float) -> tuple[Surface, Surface]:
        """Edge voxels of both masks: those with a neighbour (by a face) outside, as for MONAI.

        Args:
            tolerance_mm: distances are known that far.
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
            tolerance_mm: distances are known that far, and up to the 95th percentile.
        """
        table = areas(self.spacing_mm)
        crossed, weights = [], []
        for mask in self.masks:
            some = every = mask
            for step in self.steps:
                some, every = some[:-step] | some[step:], every[:-step] & every[step:]
            cubes = np.flatnonzero(some ^ every)
            code = np.zeros(len(cubes), np.uint8)
            for bit, corner in enumerate(product((0, 1), repeat=3)):
                code |= mask[cubes + self.steps @ corner].astype(np.uint8) << bit
            crossed.append(cubes)
            weights.append(table[code])
        return self._between(crossed, weights, tolerance_mm, SHARE)

    def _between(
        self, elements: list[Integers], areas: list[Floats], tolerance_mm: float, share: float
    ) -> tuple[Surface, Surface]:
        first, second = (
            self._surface(ours, area, theirs, tolerance_mm, share)
            for ours, area, theirs in zip(elements, areas, elements[::-1], strict=True)
        )
        return first, second

    def _surface(
        self, ours: Integers, area: Floats, theirs: Integers, tolerance_mm: float, share: float
    ) -> Surface:
        """Distances of elements to others: all up to a tolerance, and up to a share of the area."""
        total, reached = float(area.sum()), 0.0
        found: list[tuple[float, float]] = []
        for mm, part in self._by_distance(ours, area, theirs):
            if mm > tolerance_mm and reached >= share * total:
                break
            found.append((mm, part))
            reached += part
        distance, parts = np.array(found).reshape(-1, 2).T
        return Surface(distance, parts, total)

    def _by_distance(
        self, ours: Integers, area: Floats, theirs: Integers
    ) -> Iterator[tuple[float, float]]:
        """Distances (mm) of elements to others, ascending, each with the area that lies there."""
        if len(theirs) == 0:
            return
        there = np.zeros(len(self.masks[0]), bool)
        there[theirs] = True
        for mm, neighbours in shells(self.spacing_mm):
            if len(ours) == 0:
                return
            steps = neighbours @ self.steps
            hit = np.logical_or.reduce([there[ours + step] for step in steps])
            yield mm, float(area[hit].sum())
            ours, area = ours[~hit], area[~hit]
        if len(ours) > 0:
            distance = self._far(ours, theirs)
            order = np.argsort(distance)
            yield from zip(distance[order].tolist(), area[order].tolist(), strict=True)

    def _far(self, ours: Integers, theirs: Integers) -> Floats:
        """Distance (mm) of each element to the nearest of the others, by a KD-tree."""
        places, others = (np.stack(np.unravel_index(e, self.shape), 1) for e in (ours, theirs))
        # Quick to build rather than to ask: few elements are far.
        tree = cKDTree(others * self.spacing_mm, 64, compact_nodes=False, balanced_tree=False)
        _, nearest = tree.query(places * self.spacing_mm)
        # From whole numbers of voxels, so that an element at the tolerance is not rounded past it.
        return _length(places - others[nearest], self.spacing_mm)


def _length(voxels: Integers, spacing_mm: Spacing) -> Floats:
    return np.sqrt(((voxels * np.array(spacing_mm)) ** 2).sum(axis=-1))


@cache
def shells(spacing_mm: Spacing) -> list[tuple[float, Integers]]:
    """Distances (mm) to neighbours, ascending, each with the neighbours there, (N, 3) in voxels.

    The first is the voxel itself. All together fill a ball of about `NEIGHBOURS` voxels.
    """
    mm = np.array(spacing_mm)
    radius = (3 / (4 * np.pi) * NEIGHBOURS * mm.prod()) ** (1 / 3)
    half = np.ceil(radius / mm).astype(int)
    ball = np.indices(2 * half + 1).reshape(3, -1).T - half
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
