"""Pictures of slices: images in grey, maps of their labels, and both in one."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from PIL import Image, features
from scipy import ndimage

from meddino.core.errors import MeddinoError
from meddino.report.pixels import grey
from meddino.volumes import reader

SUFFIX = ".webp" if features.check("webp") else ".png"
"""Ending of the files: WebP takes a fifth (images) to a half (labels) of PNG's bytes."""
QUALITY = 60
"""Of the grey image; maps of labels are stored without loss."""
OPACITY = 0.45
"""Of structures over a slice; their borders are opaque."""
LIGHTER = (0.0, 0.5, 0.75)
"""A palette that is too short is repeated, each time nearer to white by so much."""


def colours(palette: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """A colour `#rrggbb` for each structure.

    Args:
        palette: colours `#RRGGBB`.
        names: structures, in the order of their labels.
    """
    base = [np.array(rgb(colour)) for colour in palette]
    shades = [colour + (255 - colour) * share for share in LIGHTER for colour in base]
    texts = ["#" + "".join(f"{round(float(part)):02x}" for part in shade) for shade in shades]
    return {name: texts[number % len(texts)] for number, name in enumerate(names)}


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue of `#RRGGBB`, from 0 to 255."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue


def read_case(
    dataset: Path, description: dict[str, Any], case: str
) -> tuple[sitk.Image, sitk.Image]:
    """A case's image and reference.

    Args:
        dataset: nnU-Net's raw `dataset.json`, beside its images and labels.
        description: the contents of that file.
        case: name of the case.

    Raises:
        MeddinoError: there is no such case, or a file is missing or damaged.
    """
    try:
        files = description["dataset"][case]
    except KeyError as error:
        raise MeddinoError(
            f"{dataset} has no case {case!r}, which was scored; run convert and what follows again"
        ) from error
    image, reference = (
        reader.read_made(dataset.parent / name, dataset)
        for name in (files["images"][0], files["label"])
    )
    return image, reference


def telling_slice(labels: npt.NDArray[Any]) -> int:
    """The slice with most structures, and of these the first one with most labelled voxels.

    The middle slice of a volume without labels.

    Args:
        labels: (z, y, x), 0 is background.
    """
    structures = [len(np.unique(plane[plane != 0])) for plane in labels]
    voxels = [int(np.count_nonzero(plane)) for plane in labels]
    if not any(voxels):
        return len(labels) // 2
    return max(range(len(labels)), key=lambda z: (structures[z], voxels[z], -z))


def shown_slices(labels: npt.NDArray[Any], most: int) -> list[int]:
    """At most so many slices, the telling one and others evenly over those that hold structures.

    Args:
        labels: (z, y, x), 0 is background.
        most: largest number of slices, at least one.

    Returns:
        Their numbers from the feet up, from 0 on.
    """
    telling = telling_slice(labels)
    holding = np.flatnonzero(labels.any(axis=(1, 2)))
    if most == 1 or not len(holding):
        return [telling]
    count = min(most, int(holding[-1] - holding[0]) + 1)
    even = np.linspace(holding[0], holding[-1], count).round().astype(int)
    even[np.abs(even - telling).argmin()] = telling
    return sorted({int(z) for z in even})


def images(hu: npt.NDArray[Any], window: tuple[float, float], size: tuple[int, int]) -> bytes:
    """Slices in grey, one below the other, encoded.

    Args:
        hu: (n, y, x), HU, or the values of MR slices.
        window: centre and width (HU).
        size: (width, height) of the picture of a slice, px.
    """
    pixels = np.round(grey(hu, window) * 255).astype(np.uint8)
    return encoded(_stacked(pixels, size, Image.Resampling.BILINEAR), QUALITY)


def label_maps(labels: npt.NDArray[Any], values: Sequence[int], size: tuple[int, int]) -> bytes:
    """Slices of labels, one below the other, encoded without loss.

    Args:
        labels: (n, y, x).
        values: a label for each structure; a pixel of the picture is the structure's place among
            them, counted from 1, and 0 where there is none.
        size: (width, height) of the picture of a slice, px.
    """
    pixels = np.zeros(labels.shape, np.uint8)
    for place, value in enumerate(values, 1):
        pixels[labels == value] = place
    return encoded(_stacked(pixels, size, Image.Resampling.NEAREST), None)


def _stacked(
    pixels: npt.NDArray[np.uint8], size: tuple[int, int], how: Image.Resampling
) -> Image.Image:
    """One picture of all slices (n, y, x), resized, from top to bottom."""
    planes = [np.asarray(Image.fromarray(plane).resize(size, how)) for plane in pixels]
    return Image.fromarray(np.concatenate(planes))


def overlaid(
    image: Image.Image, labels: Image.Image, colours: Sequence[str], side_px: int
) -> Image.Image:
    """A slice with its structures as the report's first screen shows them, in RGB.

    Args:
        image: a slice in grey.
        labels: a slice of `label_maps`, of the same size.
        colours: `#rrggbb` of each structure.
        side_px: the longer side of the result.
    """
    scale = side_px / max(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    shades = np.asarray(image.convert("L").resize(size, Image.Resampling.BICUBIC))
    places = np.asarray(labels.convert("L").resize(size, Image.Resampling.NEAREST))
    palette = np.array([(0, 0, 0), *map(rgb, colours)], np.float32)
    deep = ndimage.grey_erosion(places, size=3) == ndimage.grey_dilation(places, size=3)
    opacity = np.where(deep, OPACITY, 1.0)[..., None] * (places > 0)[..., None]
    mixed = shades[..., None] * (1 - opacity) + palette[places] * opacity
    return Image.fromarray(mixed.round().astype(np.uint8))


def fitted(
    shape: tuple[int, int], spacing_mm: tuple[float, float], side_px: int
) -> tuple[int, int]:
    """(width, height) in px of a picture that shows a slice undistorted, its longer side `side_px`.

    Args:
        shape: (y, x) of the slice.
        spacing_mm: (y, x) of its pixels.
        side_px: the longer side.
    """
    height, width = (count * step for count, step in zip(shape, spacing_mm, strict=True))
    scale = side_px / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def encoded(picture: Image.Image, quality: int | None) -> bytes:
    """The bytes of a picture's file, which ends in `SUFFIX`; lossless if `quality` is None."""
    buffer = io.BytesIO()
    if SUFFIX == ".png":
        picture.save(buffer, "PNG", optimize=True)
    elif quality is None:
        picture.save(buffer, "WEBP", lossless=True, quality=100, method=4)
    else:
        picture.save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue()
