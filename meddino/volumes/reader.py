"""Reading CT volumes: any format, one canonical orientation, HU, and no silent surprises."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from isal import igzip, isal_zlib

from meddino.core.errors import MeddinoError
from meddino.core.formats import DICOMDIR, is_dicom
from meddino.volumes import dicom, geometry, nifti
from meddino.volumes.errors import BadVolume
from meddino.volumes.hounsfield import check_hu, check_values, to_int16
from meddino.volumes.magnetic import check_mr
from meddino.volumes.raw import AGAIN, Raw, from_image, refusing
from meddino.volumes.series import Series

__all__ = [
    "BadVolume",
    "Volume",
    "check_made",
    "label_values",
    "read",
    "read_all",
    "read_ct_or_mr",
    "read_label",
    "read_made",
]

GRID_TOLERANCE = 0.1
"""How far the voxels of a label may lie from its image's, in voxels."""
ONTO_IMAGE = "resample it onto the image"

ROUNDED = 1e-3
"""How far values of a label may be from whole numbers, as after a resampling."""

# tuple[Any] since isal's stubs call its error an instance.
DAMAGES: tuple[Any, ...] = (OSError, EOFError, isal_zlib.IsalError)
PIECE_BYTES = 1 << 24
"""How much of a volume is unpacked at a time where only its checksum matters."""

Vector = tuple[float, float, float]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a file lie.

    Attributes:
        axes: (3, 3); columns are the steps from voxel to voxel along i, j, k, in mm, LPS.
        origin_mm: (3,), centre of the first voxel, LPS.
    """

    axes: npt.NDArray[np.float64]
    origin_mm: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Volume:
    """A volume whose axes run, as nearly as can be, foot to head, front to back, right to left.

    Attributes:
        array: (z, y, x); int16 HU for CT, float32 for MR, unsigned for labels.
        spacing_mm: (z, y, x).
        origin_mm: centre of the first voxel, (x, y, z) in LPS.
        direction: (3, 3); columns are the unit vectors of the axes x, y, z in LPS. A rotation.
        oblique_deg: angle between the slices and the axial plane.
        remarks: what was mended or looks suspect, in words; what stands before a colon is its kind.
        stored: the grid as the file has it; None for a volume of another origin.
        modality: CT or MR; None where neither the file nor its reader says.
    """

    array: npt.NDArray[Any]
    spacing_mm: Vector
    origin_mm: Vector
    direction: npt.NDArray[np.float64]
    oblique_deg: float
    remarks: tuple[str, ...] = ()
    stored: Grid | None = None
    modality: str | None = None

    def image(self) -> sitk.Image:
        """The same volume for SimpleITK."""
        return _image(self.array, np.array(self.spacing_mm[::-1]), self.direction, self.origin_mm)

    def as_stored(self, array: npt.NDArray[Any]) -> sitk.Image:
        """Values (z, y, x) of this volume's voxels, on the grid of the file that it was read from.

        Raises:
            ValueError: the volume was not read from a file.
        """
        if self.stored is None:
            raise ValueError("a volume that was not read from a file has no stored grid")
        sizes = np.linalg.norm(self.stored.axes, axis=0)
        values = np.ascontiguousarray(geometry.restore(array, self.stored.axes))
        return _image(values, sizes, self.stored.axes / sizes, self.stored.origin_mm)

    def points_mm(self, indices: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Where voxels are: (3, n) indices (z, y, x) to (3, n) points (x, y, z) in mm, LPS."""
        steps = self.direction * np.array(self.spacing_mm[::-1])
        return np.asarray(self.origin_mm)[:, None] + steps @ indices[::-1]


def read(path: Path, *, hu: bool = True) -> Volume:
    """Read a CT (or MR) volume; of a folder of several DICOM series, the longest.

    Args:
        path: a file (NIfTI, MetaImage, NRRD, DICOM, ...) or a folder of DICOM files. Of a folder
            without DICOM files of its own, those below are read.
        hu: whether values must be HU. If so they are rounded to int16, and padding (-2000, -3024)
            becomes -1024; otherwise they stay as they are, in float32. DICOM must say that it is
            CT, or else MR.

    Raises:
        BadVolume: it cannot be read or cannot be trusted; the message says why and what to do.
    """
    with refusing():
        raw, left = _load(path, ("CT",) if hu else ("MR",))
        return _with(left, _checked(raw, hu=hu))


def read_all(
    paths: Sequence[Path], *, hu: bool = True, min_slices: int = 1, pick_one: bool = False
) -> Iterator[Volume | BadVolume]:
    """Read all volumes of a case, one after the other: every DICOM series, the longest first.

    Args:
        paths: one file, or folders of DICOM files.
        hu: as for `read`.
        min_slices: shorter series are left, with a remark, unless it is the longest.
        pick_one: whether one of them will be used: its remarks then name the others.

    Yields:
        Volumes; in place of one that cannot be trusted the reason, so that the others go on.
    """
    if not _is_dicom(paths[0]):
        yield _or_reason(lambda: read(paths[0], hu=hu))
        return
    content = _or_reason(lambda: dicom.find(paths, ("CT",) if hu else ("MR",)))
    if isinstance(content, BadVolume):
        yield content
        return
    longest, *others = content.series
    chosen = [longest, *(s for s in others if len(s.frames) >= min_slices)]
    on_files = content.remarks
    for series in chosen:
        remarks = on_files
        if pick_one or series is longest:
            remarks += content.further(series, () if pick_one else chosen)
        volume = _or_reason(partial(_read_series, series, remarks, hu=hu))
        if isinstance(volume, Volume) and not pick_one:
            on_files = ()  # said once
        yield volume


def read_ct_or_mr(path: Path) -> Volume:
    """Read a volume that may be either: DICOM by its modality, other files by their values.

    Values that can be HU are taken for CT; others for MR, with a remark, if they can be that.

    Args:
        path: a file or a folder of DICOM files, as for `read`.

    Raises:
        BadVolume: it cannot be read, or is neither.
    """
    with refusing():
        raw, left = _load(path, ("CT", "MR"))
        if raw.modality is not None:
            return _with(left, _checked(raw, hu=raw.modality == "CT"))
        try:
            return _with(left, replace(_checked(raw, hu=True), modality="CT"))
        except BadVolume as error:
            no_ct = error
        volume = replace(_checked(raw, hu=False), modality="MR")
        try:
            check_mr(volume.array)
        except BadVolume as error:
            raise BadVolume(
                f"as CT: {no_ct.problem}. As MR: {error.problem}", no_ct.remedy
            ) from error
        return _with((*left, f"taken as MR: {no_ct.problem}"), volume)


def read_label(path: Path, like: Volume) -> Volume:
    """Read a segmentation that lies on the grid of `like`.

    Returns:
        Labels as uint8, or uint16 where values exceed 255.

    Raises:
        BadVolume: unreadable, not whole numbers, or on another grid.
    """
    with refusing():
        raw, _ = _load(path, None)
        check_values(raw.array)
        volume = _canonical(raw)
    _check_grid(volume, like)
    array, remarks = _whole_numbers(volume.array)
    return replace(volume, array=np.ascontiguousarray(array), remarks=volume.remarks + remarks)


def label_values(path: Path) -> list[int]:
    """The values that occur in a segmentation, wherever its image lies.

    Raises:
        BadVolume: unreadable, or not whole numbers.
    """
    with refusing():
        raw, _ = _load(path, None)
        check_values(raw.array)
    array, _ = _whole_numbers(raw.array)
    occurs = np.zeros(int(array.max()) + 1, dtype=bool)
    for part in array:  # sorting, as of np.unique, would take ten times as long
        occurs[part] = True
    return [int(value) for value in np.flatnonzero(occurs)]


def _whole_numbers(array: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """Labels as uint8, or uint16 where values exceed 255; and a remark where they are rounded.

    Raises:
        BadVolume: they are not whole numbers.
    """
    remarks: tuple[str, ...] = ()
    whole, rounding = array, 0.0
    if array.dtype.kind == "f":
        whole = np.rint(array)
        rounding = float(np.abs(whole - array).max())
        if 0 < rounding <= ROUNDED:
            remarks = (f"label values are rounded: they are up to {rounding:.1g} off whole ones",)
    low, high = array.min(), array.max()
    if rounding > ROUNDED or whole.min() < 0 or whole.max() > 65535:
        raise BadVolume(
            f"label holds values that are not whole numbers from 0 on ({low:g} to {high:g}), as an"
            " image does",
            "mend `labels` of this dataset",
        )
    return whole.astype(np.uint8 if whole.max() <= 255 else np.uint16), remarks


def read_labelled(image: Path, label: Path) -> tuple[Volume, npt.NDArray[Any]]:
    """Read a converted case: its volume, and its labels on the volume's grid.

    Raises:
        MeddinoError: one of the two cannot be used.
    """
    path = image
    try:
        volume = read(path)
        path = label
        return volume, read_label(path, volume).array
    except BadVolume as error:
        raise MeddinoError(f"{path}: {error}") from error


def check_made(path: Path, marker: Path) -> None:
    """Refuse a volume (`.nii.gz`) that an earlier stage made and that is not whole any more.

    ITK, and so nnU-Net, reads what is cut off or damaged as far as it goes, and the rest as zeros,
    without a word. gzip's checksum tells.

    Args:
        path: the volume.
        marker: the file that vouches for it; a rerun without that makes both anew.

    Raises:
        MeddinoError: it is missing, cut off or damaged.
    """
    try:
        with igzip.open(path) as file:
            while file.read(PIECE_BYTES):
                pass
    except DAMAGES as error:
        raise MeddinoError(
            f"{path} is missing, cut off or damaged ({error}); delete {marker} and rerun"
        ) from error


def read_made(path: Path, marker: Path) -> sitk.Image:
    """Read a volume that an earlier stage made.

    Raises:
        MeddinoError: it is missing or not whole (see `check_made`).
    """
    check_made(path, marker)
    return sitk.ReadImage(str(path))


def _is_dicom(path: Path) -> bool:
    return path.is_dir() or is_dicom(path)


def _load(path: Path, modalities: Sequence[str] | None) -> tuple[Raw, tuple[str, ...]]:
    """A file's voxels as they are, or those of a folder's longest series; remarks on the rest."""
    if path.name.upper() == DICOMDIR and path.is_file():
        path = path.parent  # the medium that it is the table of contents of
    if not _is_dicom(path):
        return _load_file(path), ()
    content = dicom.find([path], modalities)
    remarks = content.remarks + content.further(content.series[0])
    return dicom.load(content.series[0]), remarks


def _load_file(path: Path) -> Raw:
    """Read a file of another format than DICOM, as it is."""
    if not path.is_file():
        raise BadVolume("does not exist, or is a link to nowhere", AGAIN)
    if path.stat().st_size == 0:
        raise BadVolume("is an empty file", AGAIN)
    if path.name.lower().endswith(nifti.SUFFIXES):
        return nifti.load(path)
    return from_image(sitk.ReadImage(str(path)))


def _checked(raw: Raw, *, hu: bool) -> Volume:
    """A volume in canonical orientation whose grid and values can be trusted."""
    check_values(raw.array)
    volume = _canonical(raw)
    geometry.check_sides(volume.array)
    if hu:
        check_hu(volume.array)
        array: npt.NDArray[Any] = to_int16(volume.array)
    else:
        array = volume.array.astype(np.float32)
    return replace(volume, array=np.ascontiguousarray(array))


def _read_series(series: Series, remarks: tuple[str, ...], *, hu: bool) -> Volume:
    return _with(remarks, _checked(dicom.load(series), hu=hu))


def _with(remarks: tuple[str, ...], volume: Volume) -> Volume:
    return replace(volume, remarks=remarks + volume.remarks)


def _or_reason(reading: Callable[[], Result]) -> Result | BadVolume:
    """What a reader gives, or why it gives nothing."""
    try:
        with refusing():
            return reading()
    except BadVolume as error:
        return error


def _canonical(raw: Raw) -> Volume:
    """Turn a volume into canonical orientation, with a grid that is checked."""
    turned = geometry.orient(raw)
    sizes, rotation, remarks = geometry.split(turned.axes)
    if np.allclose(np.abs(raw.axes), np.eye(3), atol=1e-6):
        remarks += ("spacing is 1 x 1 x 1 mm, as where a header was lost: may be wrong",)
    x, y, z = (float(value) for value in turned.origin_mm)
    return Volume(
        array=turned.array,
        spacing_mm=(float(sizes[2]), float(sizes[1]), float(sizes[0])),
        origin_mm=(x, y, z),
        direction=rotation,
        oblique_deg=geometry.oblique_deg(rotation),
        remarks=turned.remarks + remarks,
        stored=Grid(raw.axes, raw.origin_mm),
        modality=raw.modality,
    )


def _image(
    array: npt.NDArray[Any],
    sizes: npt.NDArray[np.float64],
    direction: npt.NDArray[np.float64],
    origin: Any,
) -> sitk.Image:
    """An array (k, j, i) as an image; sizes (mm) and columns of `direction` are along i, j, k."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(sizes.tolist())
    image.SetOrigin([float(mm) for mm in origin])
    image.SetDirection(direction.ravel().tolist())
    return image


def _check_grid(label: Volume, image: Volume) -> None:
    """Refuse a label whose corner voxels are not where the image's are."""
    if label.array.shape != image.array.shape:
        shapes = " and ".join(" x ".join(map(str, volume.array.shape)) for volume in (label, image))
        raise BadVolume(f"label lies on another grid than its image ({shapes} voxels)", ONTO_IMAGE)
    last = np.array(image.array.shape) - 1
    corners = np.array(np.meshgrid(*((0, end) for end in last))).reshape(3, -1)
    apart = np.linalg.norm(label.points_mm(corners) - image.points_mm(corners), axis=0).max()
    if apart > GRID_TOLERANCE * min(image.spacing_mm):
        raise BadVolume(
            f"label lies on another grid than its image (voxels are up to {apart:.1f} mm apart)",
            ONTO_IMAGE,
        )
