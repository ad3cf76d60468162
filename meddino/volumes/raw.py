"""A volume as its file has it, before it is oriented and checked."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from meddino.core.errors import MeddinoError
from meddino.volumes.errors import BadVolume

# ITK warns in C++, straight to stderr; what matters of it is checked here and worded there.
sitk.ProcessObject.SetGlobalWarningDisplay(False)

AGAIN = "fetch the file again"
"""Remedy for files that arrived damaged."""


@dataclass(frozen=True)
class Raw:
    """A volume as stored.

    Attributes:
        array: (k, j, i), any number type.
        axes: (3, 3); columns are the steps from voxel to voxel along i, j, k, in mm, LPS.
        origin_mm: (3,), centre of the first voxel, LPS.
        remarks: what looks suspect, in words.
        modality: as DICOM has it, such as CT; None where the file does not say.
    """

    array: npt.NDArray[Any]
    axes: npt.NDArray[np.float64]
    origin_mm: npt.NDArray[np.float64]
    remarks: tuple[str, ...] = ()
    modality: str | None = None


def squeeze(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Drop axes of length 1 beyond the third of an array in file order (i, j, k, ...).

    Raises:
        BadVolume: it is no scalar 3-D volume.
    """
    if array.dtype.fields is not None or array.dtype.kind not in "biuf":
        raise BadVolume(
            f"voxels are of type {array.dtype}, not single numbers: a colour or vector image"
        )
    if array.ndim < 3 or any(size > 1 for size in array.shape[3:]):
        raise BadVolume(
            f"is {array.ndim}-D ({' x '.join(map(str, array.shape))}), not a 3-D volume",
            "split it into 3-D volumes",
        )
    return array.reshape(array.shape[:3], order="A")


def from_image(image: sitk.Image, remarks: tuple[str, ...] = ()) -> Raw:
    """Take over an image that SimpleITK has read."""
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise BadVolume("has several values per voxel: a colour or vector image")
    dimension = image.GetDimension()
    array = squeeze(sitk.GetArrayFromImage(image).T).T
    direction = np.array(image.GetDirection()).reshape(dimension, dimension)[:3, :3]
    spacing = np.array(image.GetSpacing()[:3])
    return Raw(array, direction * spacing, np.array(image.GetOrigin()[:3]), remarks)


@contextmanager
def refusing() -> Iterator[None]:
    """The one place where whatever a reader raises for a damaged file becomes `BadVolume`.

    Raises:
        BadVolume: the block raised something; one line says what.
        MeddinoError: memory does not suffice, which is no fault of the file.
    """
    try:
        yield
    except (BadVolume, MeddinoError):
        raise
    except MemoryError as error:
        raise MeddinoError(
            "a volume needs more memory than there is; give the job more, or leave the volume out"
        ) from error
    except Exception as error:
        raise BadVolume(
            "cannot be read, it is truncated or damaged or no image at all"
            f" ({type(error).__name__}: {reason(error)})",
            AGAIN,
        ) from error


def reason(error: Exception) -> str:
    """The telling part of a reader's message: its last line, without C++ file names."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = lines[-1] if lines else type(error).__name__
    return last.split("): ")[-1].rstrip(".")
