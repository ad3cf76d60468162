"""The values of DICOM images, compressed or not: decoded, rid of foreign bits, and rescaled."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import FileDataset
from pydicom.pixels.utils import iter_pixels

from meddino.volumes import codecs
from meddino.volumes.headers import Damaged, Frame


def read_values(frames: Sequence[Frame]) -> Iterator[npt.NDArray[Any]]:
    """Read images of one file: rescaled values, (rows, columns), as CT's are HU.

    Whole numbers stay whole: int16 where all that the file could store fits, else int32. Others
    become float64.

    Args:
        frames: of one file, their numbers ascending.

    Raises:
        Damaged: pixels are missing, or do not have the shape that the header gives.
    """
    expected = list(frames)
    with warnings.catch_warnings(action="ignore"):
        dataset = _open(frames[0].path)
        for number, stored in enumerate(_stored(dataset)):
            if not expected:
                return
            if number != expected[0].number:
                continue
            frame = expected.pop(0)
            if stored.shape != frame.size:
                raise Damaged(f"its pixels have the shape {stored.shape}, not {frame.size}")
            yield _rescaled(stored, frame, _ends(stored.dtype, dataset))
    if expected:
        raise Damaged(f"its image {expected[0].number + 1} is missing")


def _open(path: Path) -> FileDataset:
    """A file, completed by what may be left out where there is no choice."""
    dataset = pydicom.dcmread(path, force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:  # a file without preamble
        implicit, little = dataset.original_encoding
        little_endian = pydicom.uid.ExplicitVRLittleEndian, pydicom.uid.ImplicitVRLittleEndian
        dataset.file_meta.TransferSyntaxUID = (
            little_endian[bool(implicit)] if little else pydicom.uid.ExplicitVRBigEndian
        )
    for name, value in (
        ("SamplesPerPixel", 1),
        ("PhotometricInterpretation", "MONOCHROME2"),
        ("PixelRepresentation", 0),
        ("BitsStored", dataset.get("BitsAllocated")),
    ):
        if dataset.get(name) is None:
            setattr(dataset, name, value)
    return dataset


def _stored(dataset: FileDataset) -> Iterator[npt.NDArray[Any]]:
    """Stored values of each image, without the bits that are not theirs, as of overlays."""
    syntax = dataset.file_meta.TransferSyntaxUID
    plain = not syntax.is_compressed and "PixelData" in dataset
    images = iter_pixels(
        dataset,
        raw=True,
        decoding_plugin=codecs.NAME if codecs.is_available(syntax) else "pydicom",
        allow_excess_frames=False,
        correct_unused_bits=not plain,
    )
    if not plain:  # decoders give the values alone
        yield from images
        return
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    high = dataset.get("HighBit")
    high = stored - 1 if high is None else int(high)
    if not 0 < stored <= high + 1 <= allocated:
        raise Damaged(f"its bits contradict each other ({stored} up to bit {high} of {allocated})")
    for image in images:
        if stored < allocated:
            np.left_shift(image, allocated - 1 - high, out=image)
            np.right_shift(image, allocated - stored, out=image)  # keeps the sign
        yield image


def _ends(kind: np.dtype[Any], dataset: FileDataset) -> tuple[int, int] | None:
    """Lowest and highest value that can be stored; None for other than whole numbers."""
    if kind.kind not in "iu":
        return None
    bits = min(8 * kind.itemsize, int(dataset.BitsStored))
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if kind.kind == "i" else (0, (1 << bits) - 1)


def _rescaled(
    stored: npt.NDArray[Any], frame: Frame, ends: tuple[int, int] | None
) -> npt.NDArray[Any]:
    if ends is not None and frame.slope.is_integer() and frame.intercept.is_integer():
        slope, intercept = int(frame.slope), int(frame.intercept)
        low, high = sorted(slope * end + intercept for end in ends)
        for kind in (np.int16, np.int32):
            limits = np.iinfo(kind)
            if limits.min <= low and high <= limits.max:
                # Whatever wraps around on the way is back in range at the end.
                values: npt.NDArray[Any] = stored.astype(kind)
                values *= kind(slope)
                values += kind(intercept)
                return values
    return stored * frame.slope + frame.intercept
