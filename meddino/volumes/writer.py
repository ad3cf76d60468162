"""The one place that writes volumes: whole, read back and compared before they get their names."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from nibabel.spatialimages import HeaderDataError

from meddino.core.errors import MeddinoError
from meddino.core.files import atomic
from meddino.core.formats import volume_ending
from meddino.volumes import nifti
from meddino.volumes.errors import BadVolume
from meddino.volumes.raw import Raw, from_image, reason, refusing

WRITTEN = (".nii.gz", ".nii", ".mha", ".nrrd")
"""Formats of a single file, so that no half of a volume is ever left."""
CLOSE_MM = 0.01
"""How far a voxel may lie from where it belongs, for what a format rounds."""
SQUARE = 1e-6
"""Axes that are at right angles but for rounding, as the largest cosine between two of them."""
STDERR = 2
LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])


def check_format(path: Path) -> None:
    """Refuse a file whose format is not written.

    Raises:
        MeddinoError: says which ones are.
    """
    if volume_ending(path) not in WRITTEN:
        raise MeddinoError(f"{path}: this format is not written; use {', '.join(WRITTEN)}")


def check_grid(image: sitk.Image, path: Path) -> None:
    """Refuse a grid that the format of `path` cannot hold; before the voxels are worked out.

    Args:
        image: any voxels, of which only the grid matters.
        path: the file that will be written.

    Raises:
        BadVolume: its voxels would lie elsewhere, or there are too many in a row.
    """
    if volume_ending(path) not in nifti.SUFFIXES:
        return  # the others are text in full precision
    raw = from_image(image)
    try:
        affine = _header(raw).get_sform()
    except HeaderDataError as error:
        raise BadVolume(f"NIfTI cannot hold it: {reason(error)}", "write .mha or .nrrd") from error
    axes, origin = affine[:3, :3] * LPS_TO_RAS[:, None], affine[:3, 3] * LPS_TO_RAS
    if (apart := _apart(raw, axes, origin)) > CLOSE_MM:
        raise BadVolume(
            f"NIfTI cannot hold its grid: voxels would lie {apart:.2g} mm away, since its numbers"
            " have seven digits",
            "write .mha or .nrrd",
        )


def write(image: sitk.Image, path: Path, *, level: int = -1) -> None:
    """Write a volume on its very grid, also one that is sheared.

    Args:
        image: scalar voxels on any grid. `Volume.as_stored` gives one on the grid of a file.
        path: the file; its ending, in any letters, says the format.
        level: of compression, from 1 to 9, for rectangular grids; -1 is the writer's own.

    Raises:
        Unwritable: the folder cannot be made or written, or the disk is full.
        MeddinoError: the format is not written, does not hold the grid, or the file that was read
            back is another one. Nothing is left at `path` then but what was there before.
    """
    check_format(path)
    try:
        check_grid(image, path)
        with atomic(path) as temporary:
            raw = from_image(image)
            if _by_nibabel(image, temporary):
                nib.save(nib.Nifti1Image(raw.array.T, None, _header(raw)), temporary)
            else:
                with _silence():
                    sitk.WriteImage(image, str(temporary), volume_ending(path) != ".nii", level)
            with refusing():
                _compare(raw, _read(temporary))
    except (BadVolume, RuntimeError) as error:
        raise MeddinoError(f"cannot write {path}: {reason(error)}") from error


def _by_nibabel(image: sitk.Image, path: Path) -> bool:
    """Whether SimpleITK would move the voxels: it puts axes of NIfTI at right angles."""
    if volume_ending(path) not in nifti.SUFFIXES:
        return False
    direction = np.array(image.GetDirection()).reshape(3, 3)
    return bool(np.abs(direction.T @ direction - np.eye(3)).max() > SQUARE)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep C libraries of ITK from printing what goes wrong: the error that is raised says it."""
    before = os.dup(STDERR)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), STDERR)
    try:
        yield
    finally:
        os.dup2(before, STDERR)
        os.close(before)


def _header(raw: Raw) -> nib.Nifti1Header:
    """A header of a grid's numbers; only its sform, since a qform holds no shear."""
    header = nib.Nifti1Header()
    header.set_data_dtype(raw.array.dtype)
    header.set_data_shape(raw.array.shape[::-1])
    header.set_zooms(np.linalg.norm(raw.axes, axis=0))
    affine = np.eye(4)
    affine[:3, :3] = raw.axes * LPS_TO_RAS[:, None]
    affine[:3, 3] = raw.origin_mm * LPS_TO_RAS
    header.set_sform(affine, code="scanner")
    header.set_xyzt_units("mm")
    return header


def _read(path: Path) -> Raw:
    if volume_ending(path) in nifti.SUFFIXES:
        return nifti.load(path)
    return from_image(sitk.ReadImage(str(path)))


def _compare(written: Raw, read: Raw) -> None:
    """Refuse a file that differs from what was to be written.

    Raises:
        BadVolume: says what differs.
    """
    if not np.array_equal(written.array, read.array):
        raise BadVolume("other voxels were read back than were written")
    if (apart := _apart(written, read.axes, read.origin_mm)) > CLOSE_MM:
        raise BadVolume(f"voxels were read back {apart:.2g} mm from where they were written")


def _apart(raw: Raw, axes: npt.NDArray[np.float64], origin: npt.NDArray[np.float64]) -> float:
    """How far, in mm, voxels lie from those of another grid; corners are the farthest."""
    last = np.array(raw.array.shape[::-1]) - 1
    corners = np.array(np.meshgrid(*((0, end) for end in last))).reshape(3, -1)
    moved = (raw.axes - axes) @ corners + (raw.origin_mm - origin)[:, None]
    return float(np.linalg.norm(moved, axis=0).max())
