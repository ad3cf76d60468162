"""Pictures of a slice: the image in grey, and labels as a transparent layer of colours over it."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from PIL import Image, features

from meddino.core.errors import MeddinoError
from meddino.report.pixels import grey
from meddino.volumes import reader

SUFFIX = ".webp" if features.check("webp") else ".png"
"""Ending of the files: WebP takes a fifth (images) to a half (layers) of PNG's bytes."""
QUALITY = 60
"""Of the grey image; layers of labels are stored without loss."""
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


def image(hu: npt.NDArray[Any], window: tuple[float, float], size: tuple[int, int]) -> bytes:
    """A slice in grey, encoded.

    Args:
        hu: (y, x), HU, or the values of an MR slice.
        window: centre and width (HU).
        size: (width, height) of the picture, px.
    """
    pixels = np.round(grey(hu, window) * 255).astype(np.uint8)
    return encoded(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR), QUALITY)


def layer(labels: npt.NDArray[Any], colour_of: Mapping[int, str], size: tuple[int, int]) -> bytes:
    """Labels as opaque colours on a transparent ground, encoded without loss.

    Args:
        labels: (y, x).
        colour_of: value -> `#rrggbb`; other values stay transparent.
        size: (width, height) of the picture, px.
    """
    pixels = np.zeros((*labels.shape, 4), np.uint8)  # (y, x, RGBA)
    for value, colour in colour_of.items():
        pixels[labels == value] = [*rgb(colour), 255]
    return encoded(Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST), None)


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
