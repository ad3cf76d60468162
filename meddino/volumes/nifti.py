"""NIfTI files. SimpleITK mends broken headers without a word, so that nibabel reads them."""

import io
import logging
import math
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from isal import igzip, isal_zlib
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from meddino.volumes.errors import BadVolume
from meddino.volumes.raw import AGAIN, Raw, reason, squeeze

SUFFIXES = (".nii", ".nii.gz")
SPACING_AGREEMENT = 0.01
"""Relative difference between the two voxel sizes of a header that is not worth a remark."""
# What nibabel raises for files that are cut short, damaged, or something else altogether;
# tuple[Any] since isal's stubs call its error an instance.
_UNREADABLE: tuple[Any, ...] = (
    ImageFileError, HeaderDataError, WrapStructError, OSError, EOFError, isal_zlib.IsalError,
    ValueError, OverflowError,
)  # fmt: skip
# nibabel's log tells of its repairs; what matters of them is checked and worded below.
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL + 1)
_TO_LPS = np.array([-1.0, -1.0, 1.0])


def load(path: Path) -> Raw:
    """Read a NIfTI file.

    Raises:
        BadVolume: it is damaged, is no 3-D volume, or its header gives no valid voxel size.
    """
    try:
        content = _unpacked(path)
        image, stored = _open(content)
        array = _voxels(image, content)
    except _UNREADABLE as error:
        raise BadVolume(
            f"cannot be read as NIfTI, it is truncated or damaged or no image at all"
            f" ({type(error).__name__}: {reason(error)})",
            AGAIN,
        ) from error
    array = squeeze(array)
    sizes = np.asarray(stored["pixdim"][1:4], dtype=np.float64)
    _check_sizes(sizes)
    axes = image.affine[:3, :3] * _TO_LPS[:, None]
    remarks = _remarks(stored, sizes, axes)
    return Raw(array.T, axes, image.affine[:3, 3] * _TO_LPS, remarks)


def _unpacked(path: Path) -> bytes:
    """All bytes of a file, unpacked where they are packed, whatever the file's name says.

    Unpacking to the end verifies gzip's checksum, which nibabel would leave unread. ISA-L does it
    nearly twice as fast as zlib.
    """
    content = path.read_bytes()
    return igzip.decompress(content) if content.startswith(b"\x1f\x8b") else content


def _open(content: bytes) -> tuple[nib.Nifti1Image, nib.Nifti1Header]:
    """The image, and its header without nibabel's repairs: they turn a voxel size of 0 into 1."""
    second = nib.Nifti2Header.may_contain_header(content[:540])
    kind = nib.Nifti2Image if second else nib.Nifti1Image
    with warnings.catch_warnings(action="ignore"):  # of extensions, which are not used
        stored = kind.header_class.from_fileobj(io.BytesIO(content), check=False)
        image = kind.from_bytes(content)
    start = image.dataobj.offset
    if start < 0:
        raise ValueError(f"voxels begin {-start} bytes before the file")
    needed = start + math.prod(image.shape) * image.get_data_dtype().itemsize
    if needed > len(content):
        # Before nibabel asks for as much memory as a broken header claims.
        raise EOFError(f"{needed} bytes expected, {len(content)} bytes found")
    return image, stored


def _voxels(image: nib.Nifti1Image, content: bytes) -> npt.NDArray[Any]:
    """The scaled values: where nothing scales them a view of the file's bytes, not a copy."""
    proxy = image.dataobj
    array: npt.NDArray[Any] = np.ndarray(
        proxy.shape, proxy.dtype, content, offset=proxy.offset, order="F"
    )
    if proxy.slope == 1 and proxy.inter == 0:
        return array
    # float32 holds all whole numbers of CT, and takes half the memory of nibabel's float64.
    scaled = array.astype(np.float32, order="K")
    scaled *= np.float32(proxy.slope)
    scaled += np.float32(proxy.inter)
    return scaled


def _check_sizes(sizes: npt.NDArray[np.float64]) -> None:
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):
        listed = " x ".join(f"{size:g}" for size in sizes)
        raise BadVolume(
            f"header gives a spacing (pixdim) of {listed} mm, which is zero, negative or no number",
            "take the spacing from the original scan and mend the header",
        )


def _remarks(
    stored: nib.Nifti1Header, sizes: npt.NDArray[np.float64], axes: npt.NDArray[np.float64]
) -> tuple[str, ...]:
    remarks = []
    if int(stored["sform_code"]) == 0 and int(stored["qform_code"]) == 0:
        remarks.append("header gives no orientation: taken as right to left, back to front, up")
    lengths = np.linalg.norm(axes, axis=0)
    if np.abs(lengths / sizes - 1).max() > SPACING_AGREEMENT:
        both = " and ".join(" x ".join(f"{x:.3g}" for x in triple) for triple in (sizes, lengths))
        remarks.append(f"header gives two spacings, {both} mm: the second, of its affine, is used")
    if np.allclose(lengths, 1.0, atol=1e-6) and np.allclose(np.abs(axes), np.eye(3), atol=1e-6):
        remarks.append("spacing is 1 x 1 x 1 mm, as where a header was lost: may be wrong")
    return tuple(remarks)
