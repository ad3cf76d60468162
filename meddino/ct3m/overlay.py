"""One volume laid over another: slices on a common grid, and how well their detail agrees.

Detail is what is a few millimetres wide: finer, noise, kernels and compression change copies;
coarser, patients resemble each other.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_erosion, gaussian_filter, map_coordinates

from meddino.ct3m.catalogue import Catalogue
from meddino.ct3m.perceptual import Array, soft_window, to_grid

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.int32]
Look = Callable[[int], Array]

BAND = (1.0, 3.0)
"""Sigmas between which detail is, in pixels of the grid."""
RIM = 6
"""Pixels at the edge of a frame whose detail may be of the edge itself."""
BLOCK = 12
"""Side of the blocks in which detail is compared, in pixels."""
MIN_BLOCKS = 6
"""Blocks of a slice that must show detail."""
FAINT = 1e-4
"""Variance of greys in blocks without detail."""
LEAST = 0.1
"""The share of blocks that may agree less."""
FINEST = 32
"""Steps between two slices."""


class Line(NamedTuple):
    """Slices of volume b beside those of volume a: number_b = step * number_a + first."""

    step: float
    first: float

    def beside(self, a: Numbers, b: Numbers) -> tuple[Places, Places, Floats]:
        """Which slices both volumes show.

        Args:
            a: numbers of the slices of volume a, rising.
            b: those of volume b.

        Returns:
            Places in a, for each the place in b of the nearest slice, and how far off that is, in
            slices of b.
        """
        wanted = self.step * a + self.first
        margin = 0.5 * min(1.0, abs(self.step))  # half a slice of whichever has the thinner
        places = np.flatnonzero((wanted > b[0] - margin) & (wanted < b[-1] + margin))
        wanted = wanted[places]
        after = np.clip(np.searchsorted(b, wanted), 0, len(b) - 1)
        before = np.maximum(after - 1, 0)
        nearest = np.where(np.abs(b[before] - wanted) <= np.abs(b[after] - wanted), before, after)
        return places, nearest, np.abs(b[nearest] - wanted)


class Placement(NamedTuple):
    """Where a point of volume a is in volume b.

    Points are (y, x, z) in mm: from the corner of the slice, and from slice 0 as the header has it.
    """

    matrix: Floats
    """(3, 3)."""
    shift: Floats
    """(3,), in mm."""

    def raised(self, mm: float) -> "Placement":
        """The same with volume b moved along z."""
        return Placement(self.matrix, self.shift + np.array([0.0, 0.0, mm]))


class View:
    """Slices of a volume, on a grid of pixels of about `grid_mm`."""

    def __init__(self, catalogue: Catalogue, volume: int, grid_mm: float) -> None:
        """Look at a volume, given by number."""
        rows = catalogue.rows_of(volume)
        self.start, self.number = rows.start, catalogue.number[rows]
        self.spacing_mm_z = float(catalogue.volume(volume)["spacing_mm_z"])
        self._pixels, side = catalogue.pixels, catalogue.size_px
        self.extent_mm = catalogue.extent_mm(volume)
        stored_mm = (float(self.extent_mm[0]) / side, float(self.extent_mm[1]) / side)
        self._shrink, pixel_mm = to_grid((side, side), stored_mm, grid_mm)
        self.pixel_mm = np.array(pixel_mm)
        self._greys: dict[tuple[int, float], Array] = {}

    def grey(self, place: int, sigma: float = 0.0) -> Array:
        """Greys of the slice that is at a place among the volume's, smoothed."""
        key = (place, sigma)
        if key not in self._greys and sigma == 0:
            self._greys[key] = soft_window(self._shrink(self._pixels(self.start + place)))
        elif key not in self._greys:
            self._greys[key] = gaussian_filter(self.grey(place), sigma, truncate=3)
        return self._greys[key]

    def detail(self, place: int, smoothed: float = 0.0) -> Array:
        """Its detail, after smoothing by a sigma in pixels."""
        fine, coarse = (float(np.hypot(sigma, smoothed)) for sigma in BAND)
        return self.grey(place, fine) - self.grey(place, coarse)

    def points_mm(self, every: int) -> Floats:
        """Points (2, y, x) of every so manieth pixel of the grid, in mm from the corner."""
        height, width = self.grey(0).shape
        y, x = ((np.arange(0, size, every) + 0.5) for size in (height, width))
        return np.stack(np.meshgrid(y * self.pixel_mm[0], x * self.pixel_mm[1], indexing="ij"))

    def height_mm(self, place: int) -> float:
        """Height of a slice."""
        return float(self.number[place]) * self.spacing_mm_z


class Overlay:
    """Volume b laid over volume a."""

    def __init__(self, a: View, b: View, placement: Placement) -> None:
        """Lay b over a as the placement says."""
        self.a, self.b, self.placement = a, b, placement
        self._points: dict[int, Floats] = {}

    def over(self, look: Look, place: int, every: int, above_mm: float = 0.0) -> Array:
        """What b shows where a slice of a is, on every so manieth pixel of a's grid.

        Args:
            look: what is shown of a slice of b, given by its place.
            place: of the slice of a.
            every: step between pixels.
            above_mm: how far above the slice of a.

        Returns:
            (y, x), interpolated linearly; NaN beyond b.
        """
        if every not in self._points:
            self._points[every] = self.a.points_mm(every)
        matrix, shift = self.placement
        start = shift + matrix[:, 2] * (self.a.height_mm(place) + above_mm)
        points = np.einsum("ij,jyx->iyx", matrix[:, :2], self._points[every])
        y, x, z = points + start[:, None, None]
        number = z / self.b.spacing_mm_z
        inside = (number > self.b.number[0] - 0.5) & (number < self.b.number[-1] + 0.5)
        where = np.interp(number, self.b.number, np.arange(len(self.b.number)))
        where = np.rint(where * FINEST) / FINEST  # not two slices where nearly all is of one
        low, high = int(np.floor(where.min())), int(np.ceil(where.max()))
        slices = np.stack([look(k) for k in range(low, high + 1)])
        at = (where - low, y / self.b.pixel_mm[0] - 0.5, x / self.b.pixel_mm[1] - 0.5)
        moved: Array = map_coordinates(slices, at, order=1, cval=np.nan)
        moved[~inside] = np.nan
        return moved

    def agreement(self, place: int) -> float:
        """Correlation of the detail of a slice of a with that of b as a whole."""
        a, b = self.a.detail(place)[::2, ::2], self.over(self.b.detail, place, 2)
        inside = np.isfinite(b)
        if not inside.any():
            return 0.0
        a, b = a[inside], b[inside]
        return float(np.mean(a * b) / np.sqrt(np.mean(a * a) * np.mean(b * b) + FAINT**2))

    def least(self, place: int, smooth: tuple[float, float]) -> float:
        """Correlation of the detail of a slice of a with that of b in the block where it is least.

        Nearly least: LEAST of the blocks may agree less. Of the blocks, the half that shows most
        counts: in the others noise may prevail.

        Args:
            place: of the slice of a.
            smooth: by how much a and b are smoothed before.

        Returns:
            -1 to 1; NaN where too little is shown.
        """
        a = self.a.detail(place, smooth[0])
        b = self.over(lambda k: self.b.detail(k, smooth[1]), place, 1)
        inside = binary_erosion(np.isfinite(b), iterations=RIM)
        a, b = np.where(inside, a, 0), np.where(inside, b, 0)
        whole = _blocks(inside.astype(np.float32)) > 0.5
        aa, bb, ab = (_blocks(product)[whole] for product in (a * a, b * b, a * b))
        strength = np.sqrt(aa * bb)
        if np.count_nonzero(strength > FAINT) < MIN_BLOCKS:
            return float("nan")
        strong = strength >= max(FAINT, float(np.median(strength)))
        return float(np.quantile(ab[strong] / strength[strong], LEAST))


def _blocks(image: Array) -> Array:
    """Means over blocks, without those that the far edges cut: (y, x) to (y / BLOCK, x / BLOCK)."""
    height, width = (size // BLOCK for size in image.shape)
    cut = image[: height * BLOCK, : width * BLOCK]
    means: Array = cut.reshape(height, BLOCK, width, BLOCK).mean(axis=(1, 3))
    return means
