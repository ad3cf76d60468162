"""NIfTI files. SimpleITK mends broken headers without a word, so that nibabel reads them.

Source: nifti1.h of the NIfTI-1 standard, on its fields and on which of two orientations counts.
"""

import io
import logging
import math
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from isal import igzip
from nibabel.spatialimages import HeaderDataError

from meddino.volumes import geometry
from meddino.volumes.errors import BadVolume
from meddino.volumes.raw import AGAIN, Raw, reason, squeeze

HEADERS, VOXELS = (".hdr", ".hdr.gz"), (".img", ".img.gz")
"""Endings of the two files of a pair."""
SUFFIXES = (".nii", ".nii.gz", *HEADERS, *VOXELS)
MAGIC = slice(344, 347)
"""Where a NIfTI-1 header says that it is one."""
SPACING_AGREEMENT = 0.01
"""Relative difference between the two voxel sizes of a header that is not worth a remark."""
DIRECTION_AGREEMENT_DEG = 1.0
"""Angle between the two orientations of a header that is not worth a remark."""
PLACE_AGREEMENT = 0.5
"""Distance between the places that they give a voxel, in voxels, that is not worth a remark."""
SCANNER = 1
"""Code of an orientation that is the scanner's; higher ones are those of a registration."""
# nibabel's log tells of its repairs; what matters of them is checked and worded below.
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL + 1)
_TO_LPS = np.array([-1.0, -1.0, 1.0])

Matrix = npt.NDArray[np.float64]


def load(path: Path) -> Raw:
    """Read a NIfTI file, or a pair of header and voxels by the name of either.

    Raises:
        BadVolume: it is damaged, is no 3-D volume, or its header gives no valid voxel size.
    """
    try:
        content, voxels = _contents(path)
        stored, header = _header(content)
        remarks = _mended_size(header)
        array = squeeze(_voxels(header, voxels))
        sizes = np.asarray(stored["pixdim"][1:4], dtype=np.float64)
        _check_sizes(sizes)
        affine, doubts = _affine(header, sizes)
    except BadVolume:
        raise
    except Exception as error:  # whatever a damaged file makes nibabel raise
        raise BadVolume(
            "cannot be read as NIfTI, it is truncated or damaged or no image at all"
            f" ({type(error).__name__}: {reason(error)})",
            AGAIN,
        ) from error
    axes = affine[:3, :3] * _TO_LPS[:, None]
    remarks += doubts + _remarks(stored, sizes, axes)
    return Raw(array.T, axes, affine[:3, 3] * _TO_LPS, remarks)


def _contents(path: Path) -> tuple[bytes, bytes]:
    """The bytes that begin with the header, and those that hold the voxels."""
    name = path.name.lower()
    if not name.endswith((*HEADERS, *VOXELS)):
        content = _unpacked(path)
        return content, content
    if name.endswith(HEADERS):
        header, voxels = path, _partner(path, HEADERS, VOXELS)
    else:
        header, voxels = _partner(path, VOXELS, HEADERS), path
    content = _unpacked(header)
    if content[MAGIC] not in (b"ni1", b"ni2") and nib.AnalyzeHeader.may_contain_header(content):
        raise BadVolume(
            "is in the Analyze format, which does not tell left from right",
            "convert the original scan to NIfTI",
        )
    return content, _unpacked(voxels)


def _partner(path: Path, own: tuple[str, ...], wanted: tuple[str, ...]) -> Path:
    """The other file of a pair, whether its ending is written in small letters or not."""
    stem = next(path.name[: -len(end)] for end in own[::-1] if path.name.lower().endswith(end))
    names = {(stem + end).lower() for end in wanted}
    for entry in sorted(path.parent.iterdir()):
        if entry.name.lower() in names and entry.is_file():
            return entry
    raise BadVolume(f"is half of a pair: {stem}{wanted[0]} is not beside it", AGAIN)


def _unpacked(path: Path) -> bytes:
    """All bytes of a file, unpacked where they are packed, whatever the file's name says.

    Unpacking to the end verifies gzip's checksum, which nibabel would leave unread. ISA-L does it
    nearly twice as fast as zlib.
    """
    content = path.read_bytes()
    return igzip.decompress(content) if content.startswith(b"\x1f\x8b") else content


def _header(content: bytes) -> tuple[nib.Nifti1Header, nib.Nifti1Header]:
    """The header without nibabel's repairs, which turn a voxel size of 0 into 1; and with them."""
    second = nib.Nifti2Header.may_contain_header(content[:540])
    kind = nib.Nifti2Header if second else nib.Nifti1Header
    with warnings.catch_warnings(action="ignore"):  # of extensions, which are not used
        stored = kind.from_fileobj(io.BytesIO(content), check=False)
    header = stored.copy()
    header.check_fix()
    return stored, header


def _mended_size(header: nib.Nifti1Header) -> tuple[str, ...]:
    """Set sizes beyond the third to 1 where they are no sizes."""
    size = header["dim"]
    empty = {axis: int(size[axis]) for axis in range(4, int(size[0]) + 1) if size[axis] < 1}
    for axis in empty:
        size[axis] = 1
    return tuple(
        f"header gives an empty dimension: size {was} of dimension {axis} is taken as 1"
        for axis, was in empty.items()
    )


def _voxels(header: nib.Nifti1Header, content: bytes) -> npt.NDArray[Any]:
    """The scaled values: where nothing scales them a view of the file's bytes, not a copy."""
    shape, kind = header.get_data_shape(), header.get_data_dtype()
    start = int(header.get_data_offset())
    slope, inter = _scale(header)
    if start < 0:
        raise ValueError(f"voxels begin {-start} bytes before the file")
    needed = start + math.prod(shape) * kind.itemsize
    if needed > len(content):
        # Before memory is asked for, as much as a broken header claims.
        raise EOFError(f"{needed} bytes expected, {len(content)} bytes found")
    array: npt.NDArray[Any] = np.ndarray(shape, kind, content, offset=start, order="F")
    if slope == 1 and inter == 0:
        return array
    # float32 holds all whole numbers of CT, and takes half the memory of nibabel's float64.
    scaled = array.astype(np.float32, order="K")
    scaled *= np.float32(slope)
    scaled += np.float32(inter)
    return scaled


def _scale(header: nib.Nifti1Header) -> tuple[float, float]:
    """Slope and intercept of values; a slope of 0 or none at all scales nothing."""
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if not math.isfinite(slope) or slope == 0:
        return 1.0, 0.0
    if not math.isfinite(inter):
        raise BadVolume(
            f"header gives an intercept (scl_inter) of {inter} beside a slope (scl_slope) of"
            f" {slope:g}: what the values are is unknown",
            "set scl_inter as in the original scan, to 0 where the stored values are HU",
        )
    return slope, inter


def _affine(
    header: nib.Nifti1Header, sizes: npt.NDArray[np.float64]
) -> tuple[Matrix, tuple[str, ...]]:
    """The orientation that counts, RAS, and remarks: sform before qform, as the standard advises.

    A registration to another image or to an atlas may leave an sform that is sheared or stretched;
    where qform is the scanner's own grid, that is taken.
    """
    sform, qform = _coded(header, "sform"), _coded(header, "qform")
    if sform is None or qform is None:
        known = qform if sform is None else sform
        if known is None and (header["sform_code"] > 0 or header["qform_code"] > 0):
            raise BadVolume(
                "header gives an orientation (sform, qform) of no numbers", geometry.MEND
            )
        return header.get_base_affine() if known is None else known, _unusable(header, sform)
    if _shear(sform) > geometry.MENDED >= _shear(qform):
        return qform, ("sform is no grid at right angles: qform is used, check the orientation",)
    registered = int(header["sform_code"]) > SCANNER == int(header["qform_code"])
    if registered and _stretch(sform, sizes) > SPACING_AGREEMENT >= _stretch(qform, sizes):
        return qform, ("sform is stretched, as by a registration: qform, the scanner's, is used",)
    return sform, _disagreement(sform, qform, header.get_data_shape()[:3])


def _unusable(header: nib.Nifti1Header, sform: Matrix | None) -> tuple[str, ...]:
    """A remark where an sform that is in use is no orientation, so that qform takes its place."""
    lost = sform is None and int(header["sform_code"]) > 0
    return ("sform is of no numbers: qform is used, check the orientation",) if lost else ()


def _coded(header: nib.Nifti1Header, name: str) -> Matrix | None:
    """One of the two orientations of a header; None where it is not in use, or no orientation."""
    try:
        affine, code = getattr(header, f"get_{name}")(coded=True)
    except HeaderDataError:  # a quaternion that is none
        return None
    usable = affine is not None and code > 0 and np.isfinite(affine).all()
    return np.asarray(affine, dtype=np.float64) if usable else None


def _lengths(affine: Matrix) -> npt.NDArray[np.float64]:
    return np.linalg.norm(affine[:3, :3], axis=0)


def _shear(affine: Matrix) -> float:
    """How far axes are from right angles (`geometry.from_rotation`); infinite for no axes."""
    lengths = _lengths(affine)
    return geometry.from_rotation(affine[:3, :3] / lengths)[1] if lengths.all() else math.inf


def _stretch(affine: Matrix, sizes: npt.NDArray[np.float64]) -> float:
    return float(np.abs(_lengths(affine) / sizes - 1).max())


def _disagreement(sform: Matrix, qform: Matrix, shape: tuple[int, ...]) -> tuple[str, ...]:
    """A remark where two orientations of one header do not agree; sform is used."""
    codes = ["".join(nib.aff2axcodes(affine)) for affine in (sform, qform)]
    if codes[0] != codes[1]:
        both = f"sform {codes[0]}, qform {codes[1]}"
        return (f"header gives two orientations: {both}; sform is used, check left and right",)
    cosines = [affine[:3, :3] / _lengths(affine) for affine in (sform, qform)]
    between = np.clip((cosines[0] * cosines[1]).sum(axis=0), -1, 1)
    turned = float(np.degrees(np.arccos(between)).max())
    if turned > DIRECTION_AGREEMENT_DEG:
        return (f"header gives two orientations: {turned:.1f} degrees apart; sform is used",)
    corners = np.array(np.meshgrid(*((0, size - 1) for size in shape))).reshape(3, -1)
    apart = (sform - qform)[:3] @ np.vstack([corners, np.ones(8)])
    distance = float(np.linalg.norm(apart, axis=0).max())
    if distance > PLACE_AGREEMENT * _lengths(sform).min():
        return (f"header gives two places: up to {distance:.1f} mm apart; sform is used",)
    return ()


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
        remarks.append(f"header gives two spacings: {both} mm; the second, of its affine, is used")
    return tuple(remarks)
