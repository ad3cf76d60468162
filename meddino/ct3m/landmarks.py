"""Landmarks of a slice: places that a copy shows too, each with a code of what lies around it.

A landmark is a blob of some millimetres. Its code tells the signs of a few frequencies of the rings
around it, along them and across, counted from the direction in which they are brightest. So a copy
has the same landmarks with the same codes wherever its frame ends, however it is turned or
mirrored, whatever its matrix and contrast; positions, directions and which of the two is mirrored
then tell how they lie to each other. Keypoints of this kind are those of D. G. Lowe (IJCV, 2004),
and L. Chauvin et al. (NeuroImage, 2020) found repeated scans of brains by such.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.fft import dct, rfft
from scipy.ndimage import gaussian_filter, map_coordinates, maximum_filter

from meddino.ct3m.perceptual import Array, soft_window, to_grid

LANDMARK = np.dtype([("code", "<u8"), ("y", "<u2"), ("x", "<u2"), ("turn", "<i2")])
"""`y` and `x` in steps of POSITION_MM from the frame's corner, `turn` in steps of TURN radians from
x towards y."""
POSITION_MM, TURN = 1 / 16, np.pi / 2**15
MIRRORED = np.uint64(1 << 63)
"""Bit of a code that says that the neighbourhood was mirrored for it."""

COARSE = np.uint64(1 << 62)
"""Bit of a code that says that it is of the coarser of GRIDS_MM."""

EVERY_MM = 4.0
"""Slices that lie closer to each other show the same landmarks."""
GRIDS_MM = (4.0, 8.0)
"""Landmarks are sought on the first, below which noise, kernels and matrices differ, and on the
second, for copies that are blurred beyond that. What follows is in pixels of the grid."""
PER_GRID = 24
"""How many are kept, the strongest: a crop keeps those that it does not cut off."""
BLOB = (1.4, 2.3)
"""Sigmas whose difference finds blobs; the rings are read at the finer."""
RINGS = np.arange(1.5, 9.1, 1.5)
ANGLES = 16
RING_WEIGHTS = np.exp(-(((RINGS - 4.5) / 5) ** 2)).astype(np.float32)
"""What rings count where the direction is sought: the innermost shakes, the outermost is far."""
MARGIN = 10
"""Nearer to the edge of the frame a neighbourhood is not whole."""
LONGEST = 10.0
"""Blobs so many times longer than wide are edges, along which a place says nothing."""
SIGNS = (
    *((0, across, 0) for across in (1, 2, 3, 4)),
    *((0, across, 1) for across in (1, 2, 3)),
    *((1, across, 1) for across in (0, 1, 2, 3)),
    *((part, across, along) for part in (0, 1) for along in (2, 3, 4, 5) for across in range(4)),
)
"""What a code holds: real (0) or imaginary part (1) of frequencies across the rings and along."""


def landmarks(image: npt.NDArray[Any], spacing_mm: tuple[float, float]) -> npt.NDArray[np.void]:
    """Find the landmarks of a slice.

    Args:
        image: (y, x) in HU, of any matrix.
        spacing_mm: of its pixels, (y, x).

    Returns:
        LANDMARK (n,), n at most PER_GRID for each of GRIDS_MM, the strongest of each first.
    """
    levels = []
    for grid_mm in GRIDS_MM:
        shrink, spacing_mm = to_grid(image.shape, spacing_mm, grid_mm)
        image = shrink(image)
        levels.append(_on_grid(image, np.array(spacing_mm)))
    levels[1]["code"] |= COARSE
    return np.concatenate(levels)


def _on_grid(image: Array, pixel_mm: npt.NDArray[np.float64]) -> npt.NDArray[np.void]:
    """Landmarks of a slice on its grid: LANDMARK (n,)."""
    fine, coarse = (gaussian_filter(soft_window(image), sigma) for sigma in BLOB)
    places = _peaks(fine - coarse)
    waves, turn, mirrored = _upright(_rings(fine, places))
    result = np.zeros(len(places), LANDMARK)
    result["code"] = _codes(waves) | np.where(mirrored, MIRRORED, np.uint64(0))
    position = np.rint((places + 0.5) * pixel_mm / POSITION_MM)
    result["y"], result["x"] = np.clip(position, 0, 2**16 - 1).T
    result["turn"] = np.rint(turn / TURN).astype(np.int64)  # half a turn wraps around
    return result


def _peaks(blobs: Array) -> npt.NDArray[np.float64]:
    """Places of the strongest peaks, bright or dark: (n, 2), y and x in pixels."""
    strength, inside = np.zeros_like(blobs), slice(MARGIN, -MARGIN)
    strength[inside, inside] = np.abs(blobs)[inside, inside]
    y, x = np.nonzero((strength > 0) & (strength == maximum_filter(strength, 5)))
    around = blobs[y + np.arange(-1, 2)[:, None, None], x + np.arange(-1, 2)[:, None]]
    middle = around[1, 1]
    bend_y, bend_x = around[[0, 1], [1, 0]] - 2 * middle + around[[2, 1], [1, 2]]
    twist = (around[0, 0] + around[2, 2] - around[0, 2] - around[2, 0]) / 4
    round_ = (bend_y + bend_x) ** 2 * LONGEST < (LONGEST + 1) ** 2 * (bend_y * bend_x - twist**2)
    (chosen,) = np.nonzero(round_)
    chosen = chosen[np.argsort(-np.abs(middle[chosen]), kind="stable")][:PER_GRID]
    # Between pixels, where a parabola has its peak.
    slope = (around[[0, 1], [1, 0]] - around[[2, 1], [1, 2]])[:, chosen] / 2
    bend = np.stack([bend_y, bend_x])[:, chosen]
    return (np.stack([y, x])[:, chosen] + np.clip(slope / bend, -0.5, 0.5)).T.astype(np.float64)


def _rings(grey: Array, places: npt.NDArray[np.float64]) -> npt.NDArray[np.complex64]:
    """Frequencies along each ring around each place: (n, rings, waves)."""
    angle = np.arange(ANGLES) * (2 * np.pi / ANGLES)
    step = RINGS[:, None, None] * np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    where = np.moveaxis(places[:, None, None] + step, -1, 0)
    values = map_coordinates(grey, where, order=1, mode="nearest")
    waves: npt.NDArray[np.complex64] = rfft(values, axis=-1)[..., : max(w for *_, w in SIGNS) + 1]
    return waves


def _upright(
    waves: npt.NDArray[np.complex64],
) -> tuple[npt.NDArray[np.complex64], Array, npt.NDArray[np.bool_]]:
    """Turn each neighbourhood until it is brightest along x, and mirror it if it then needs to be.

    Returns:
        The frequencies afterwards, the angle from x to where it was brightest, and whether it was
        mirrored.
    """
    first = np.einsum("r,nr->n", RING_WEIGHTS, waves[:, :, 1])
    turn = np.angle(first.conj())
    turned = waves * np.exp(1j * turn[:, None, None] * np.arange(waves.shape[2]))
    mirrored = np.einsum("r,nr->n", RING_WEIGHTS, turned[:, :, 2]).imag < 0
    return np.where(mirrored[:, None, None], turned.conj(), turned), turn, mirrored


def _codes(waves: npt.NDArray[np.complex64]) -> npt.NDArray[np.uint64]:
    """Signs of SIGNS, one bit each."""
    parts = np.stack([waves.real, waves.imag], axis=1)
    bits = np.zeros((len(waves), 64), np.uint8)
    bits[:, : len(SIGNS)] = dct(parts, axis=2)[:, *np.array(SIGNS).T] > 0
    return np.packbits(bits, axis=1, bitorder="little").view("<u8")[:, 0]
