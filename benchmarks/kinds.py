"""Kinds of copies: what is done to a scan that is published again, and what is no copy of it.

Each takes and gives an array (z, y, x) in HU and its spacing (z, y, x) in mm.
"""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

Scan = tuple[npt.NDArray[Any], tuple[float, float, float]]
Kind = Callable[[npt.NDArray[Any], tuple[float, float, float]], Scan]
AIR = -1024


def changed(kind: Kind, scan: Scan) -> Scan:
    """What becomes of a scan, in whole HU."""
    array, spacing = kind(*scan)
    return np.clip(np.rint(array), -1024, 3071).astype(np.int16), spacing


def values(change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Kind:
    """A change of values alone."""
    return lambda array, spacing: (change(array.astype(np.float32)), spacing)


def both(first: Kind, second: Kind) -> Kind:
    """One after the other."""
    return lambda array, spacing: second(*first(array, spacing))


# ---- values ---------------------------------------------------------------------------------


def noise(hu: float) -> Kind:
    return values(lambda a: a + np.random.default_rng(7).normal(0, hu, a.shape))


def blur(sigma_px: float, along_z: float = 0.0) -> Kind:
    return values(lambda a: ndimage.gaussian_filter(a, (along_z, sigma_px, sigma_px)))


def sharpen(amount: float) -> Kind:
    return values(lambda a: a + amount * (a - ndimage.gaussian_filter(a, (0, 1, 1))))


def gamma(power: float, low: int = -1024, high: int = 3071) -> Kind:
    return values(
        lambda a: ((a.clip(low, high) - low) / (high - low)) ** power * (high - low) + low
    )


def window(low: int, high: int) -> Kind:
    return values(lambda a: a.clip(low, high))


def offset(hu: float) -> Kind:
    return values(lambda a: a + hu)


def jpeg2000(rate: float) -> Kind:
    return values(lambda a: np.stack([_jpeg2000(image, rate) for image in a]))


def _jpeg2000(image: npt.NDArray[Any], rate: float) -> npt.NDArray[Any]:
    """A slice through lossy JPEG 2000, so many times smaller than its 16 bits a pixel."""
    file = io.BytesIO()
    stored = Image.fromarray((image + 1024).clip(0, 65535).astype(np.uint16))
    stored.save(file, "JPEG2000", irreversible=True, quality_mode="rates", quality_layers=[rate])
    return np.asarray(Image.open(file)).astype(np.float32) - 1024


def without_table(array: npt.NDArray[Any], spacing: tuple[float, float, float]) -> Scan:
    """Nothing but the largest body of each slice."""
    result = np.full_like(array, AIR)
    for image, kept in zip(array, result, strict=True):
        labels, count = ndimage.label(ndimage.binary_opening(image > -500, iterations=2))
        if count:
            largest = labels == np.bincount(labels.ravel())[1:].argmax() + 1
            body = ndimage.binary_fill_holes(ndimage.binary_dilation(largest, iterations=3))
            kept[body] = image[body]
    return result, spacing


# ---- places ---------------------------------------------------------------------------------


def crop(pixels: int) -> Kind:
    return lambda array, spacing: (array[:, pixels:-pixels, pixels:-pixels], spacing)


def pad(*sides: tuple[int, int]) -> Kind:
    return lambda array, spacing: (np.pad(array, ((0, 0), *sides), constant_values=AIR), spacing)


def square(array: npt.NDArray[Any], spacing: tuple[float, float, float]) -> Scan:
    """Padded to a square, or by a quarter where it is one."""
    _, height, width = array.shape
    side = max(height, width) + (height == width) * height // 4
    sides = [((side - n) // 2, side - n - (side - n) // 2) for n in (height, width)]
    return pad(*(sides if height != width else (sides[0], (0, 0))))(array, spacing)


def shift(pixels: float) -> Kind:
    return lambda array, spacing: (
        ndimage.shift(array.astype(np.float32), (0, pixels, pixels), order=1, cval=AIR),
        spacing,
    )


def rotate(degrees: float, axes: tuple[int, int] = (1, 2)) -> Kind:
    def turn(array: npt.NDArray[Any], spacing: tuple[float, float, float]) -> Scan:
        # In mm: the pixels of a tilted slice are not square.
        turned = ndimage.affine_transform(
            array.astype(np.float32), *_rotation(array.shape, spacing, degrees, axes), order=1,
            cval=AIR,
        )  # fmt: skip
        return turned, spacing

    return turn


def _rotation(
    shape: tuple[int, ...], spacing: tuple[float, ...], degrees: float, axes: tuple[int, int]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Matrix and offset, in voxels, of a rotation about the centre."""
    i, j = axes
    matrix, angle = np.eye(3), np.deg2rad(degrees)
    matrix[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
    matrix *= np.array(spacing) / np.array(spacing)[:, None]
    centre = (np.array(shape) - 1) / 2
    return matrix, centre - matrix @ centre


def flip(*axes: int) -> Kind:
    return lambda array, spacing: (np.flip(array, axes), spacing)


# ---- grids ----------------------------------------------------------------------------------


def zoom(z: float, y: float, x: float) -> Kind:
    """Resampled linearly to so many times the voxels."""

    def resample(array: npt.NDArray[Any], spacing: tuple[float, float, float]) -> Scan:
        fine = ndimage.zoom(
            array.astype(np.float32), (z, y, x), order=1, grid_mode=True, mode="nearest"
        )
        mm = (s * n / m for s, n, m in zip(spacing, array.shape, fine.shape, strict=True))
        return fine, tuple(mm)

    return resample


def isotropic(mm: float) -> Kind:
    return lambda array, spacing: zoom(*(s / mm for s in spacing))(array, spacing)


def every(step: int, first: int = 0) -> Kind:
    return lambda array, spacing: (array[first::step], (spacing[0] * step, *spacing[1:]))


def part(start: float, stop: float) -> Kind:
    """From one share of the slices to another."""
    return lambda array, spacing: (
        array[int(start * len(array)) : int(np.ceil(stop * len(array)))],
        spacing,
    )


def spacing_lost(array: npt.NDArray[Any], spacing: tuple[float, float, float]) -> Scan:
    del spacing
    return array, (1.0, 1.0, 1.0)


# ---- what is no copy ------------------------------------------------------------------------


def another_scan(moved_mm: float, seed: int, noise_hu: float = 15.0) -> Kind:
    """The same patient once more: lain down differently, moved within, and with new noise.

    `moved_mm` is how far tissue has moved, as root mean square along each axis, in waves of about
    80 mm.
    """

    def again(array: npt.NDArray[Any], spacing: tuple[float, float, float]) -> Scan:
        rng = np.random.default_rng(seed)
        where = np.stack(np.meshgrid(*map(np.arange, array.shape), indexing="ij")).astype(float)
        for axis, mm in enumerate(spacing):
            wave = rng.standard_normal(array.shape)
            wave = ndimage.gaussian_filter(wave, [32 / s for s in spacing], mode="wrap")
            where[axis] += moved_mm * wave / wave.std() / mm
        moved = ndimage.map_coordinates(array.astype(np.float32), where, order=1, mode="nearest")
        moved = ndimage.shift(moved, (0, 3 / spacing[1], -3 / spacing[2]), order=1, mode="nearest")
        grain = ndimage.gaussian_filter(rng.standard_normal(array.shape), (0, 0.6, 0.6))
        return rotate(1.5)(moved + noise_hu * grain / grain.std(), spacing)

    return again


KINDS: dict[str, Kind] = {
    "noise of 40 HU": noise(40),
    "blurred, sigma 1 px": blur(1),
    "blurred, sigma 2 px": blur(2),
    "sharpened": sharpen(1),
    "JPEG 2000, rate 20": jpeg2000(20),
    "in plane to 50 %": zoom(1, 0.5, 0.5),
    "in plane to 77 %": zoom(1, 0.77, 0.77),
    "in plane to 150 %": zoom(1, 1.5, 1.5),
    "resampled to 1.5 mm isotropic": isotropic(1.5),
    "cropped in plane by 5 px a side": crop(5),
    "padded by 8 px": pad((8, 8), (8, 8)),
    "padded to a square": square,
    "shifted in plane by 1 px": shift(1),
    "shifted in plane by 3 px": shift(3),
    "rotated by 2 degrees": rotate(2),
    "rotated by 5 degrees": rotate(5),
    "every second slice": every(2),
    "offset of +24 HU": offset(24),
    "gamma 0.9": gamma(0.9),
    "table removed": without_table,
    "mirrored from left to right": flip(2),
    "slices in reverse order": flip(0),
    "slices 30 to 70 %": part(0.3, 0.7),
    "spacing lost (1 mm)": spacing_lost,
}
"""What public data sets do to each other's scans."""
FURTHER: dict[str, Kind] = {
    "cropped by 2 px": crop(2),
    "cropped by 12 px": crop(12),
    "cropped by 20 px": crop(20),
    "padded on one side by 31 px": pad((0, 31), (0, 0)),
    "shifted by 6.5 px": shift(6.5),
    "shifted by 10 px": shift(10),
    "rotated by 1 degree": rotate(1),
    "rotated by 8 degrees": rotate(-8),
    "rotated by 30 degrees": rotate(30),
    "rotated by 90 degrees": lambda array, spacing: (
        np.rot90(array, axes=(1, 2)),
        (spacing[0], spacing[2], spacing[1]),
    ),
    "tilted by 2 degrees": rotate(2, (0, 1)),
    "tilted by 5 degrees": rotate(5, (0, 1)),
    "gamma 0.8": gamma(0.8),
    "gamma 1.2": gamma(1.2),
    "gamma 0.9 of -1000 to 1000 HU": gamma(0.9, -1000, 1000),
    "offset of -60 HU": offset(-60),
    "values -200 to 300 HU": window(-200, 300),
    "values -1000 to 400 HU": window(-1000, 400),
    "noise of 80 HU": noise(80),
    "blurred, sigma 3 px": blur(3),
    "blurred, sigma 1 voxel, along z too": blur(1, 1),
    "blurred, sigma 2 voxels, along z too": blur(2, 2),
    "sharpened twice as much": sharpen(2),
    "JPEG 2000, rate 10": jpeg2000(10),
    "JPEG 2000, rate 40": jpeg2000(40),
    "in plane to 33 %": zoom(1, 0.33, 0.33),
    "in plane to 90 % and 70 %": zoom(1, 0.9, 0.7),
    "resampled to 3 mm isotropic": isotropic(3),
    "along z to 70 %": zoom(0.7, 1, 1),
    "every third slice": every(3, 1),
    "mirrored along all axes": flip(0, 1, 2),
    "cropped by 8 px and rotated by 3 degrees": both(crop(8), rotate(3)),
    "cropped by 10 px and resampled to 1.5 mm": both(crop(10), isotropic(1.5)),
    "rotated by 4 degrees, without table": both(rotate(4), without_table),
    "noise of 25 HU after a blur of 1.5 px": both(blur(1.5), noise(25)),
    "mirrored and shifted by 4 px": both(flip(2), shift(4)),
    "every second slice, gamma 0.85": both(every(2), gamma(0.85)),
    "values -200 to 300 HU, padded by 20 px": both(window(-200, 300), pad((20, 20), (20, 20))),
    "in plane to 77 %, noise of 40 HU": both(zoom(1, 0.77, 0.77), noise(40)),
    "in plane to 50 %, JPEG 2000, rate 20": both(zoom(1, 0.5, 0.5), jpeg2000(20)),
    "reversed, offset of +24 HU": both(flip(0), offset(24)),
    "spacing lost, cropped by 5 px": both(crop(5), spacing_lost),
}
"""Other strengths, other kinds, and pairs of kinds."""
