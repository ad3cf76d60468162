"""Folders of DICOM series, through GDCM."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from meddino.volumes.errors import BadVolume
from meddino.volumes.raw import AGAIN, Raw, from_image, reason

EVEN = 0.01
"""Relative difference of gaps between slices that is rounding."""
UNEVEN = 0.1
"""Relative difference of gaps from which on slices are missing or repeated."""
POSITION, ORIENTATION, MODALITY = "0020|0032", "0020|0037", "0008|0060"


def load(folder: Path, modality: str | None) -> Raw:
    """Read the longest series of a folder, its slices in order of position.

    Args:
        folder: where the files are.
        modality: what the files must say they are, or None.

    Raises:
        BadVolume: there is no series, a file is damaged, or slices are missing or repeated.
    """
    files, remarks = _longest_series(folder)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    reader.MetaDataDictionaryArrayUpdateOn()
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise BadVolume(f"DICOM series cannot be read ({reason(error)})", AGAIN) from error
    if modality is not None:
        _check_modality(reader, modality)
    raw = from_image(image, remarks)
    if len(files) == 1:
        return raw
    positions = np.array([_numbers(reader, i, POSITION, 3) for i in range(len(files))])
    step, uneven = _step(positions, np.array(_numbers(reader, 0, ORIENTATION, 6)))
    # ITK makes slices orthogonal to the step, whatever the gantry's tilt; the positions tell.
    axes = np.column_stack([raw.axes[:, 0], raw.axes[:, 1], step])
    return Raw(raw.array, axes, positions[0], remarks + uneven)


def _longest_series(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    """Files of the series with most of them, in order, and remarks on what is left."""
    series = sorted(sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)))
    if not series:
        raise BadVolume("folder holds no readable DICOM series", AGAIN)
    files = [list(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), s)) for s in series]
    longest = max(files, key=len)
    remarks = []
    if len(series) > 1:
        others = sum(map(len, files)) - len(longest)
        remarks.append(f"longest of {len(series)} series is used; {others} files of others are not")
    # GDCM passes over damaged files in silence. Inside a series they leave a gap; at its ends
    # nothing but this remark tells.
    readable = {Path(name).name for names in files for name in names}
    unreadable = sorted(path.name for path in folder.iterdir() if path.name not in readable)
    unreadable = [name for name in unreadable if _claims_dicom(folder / name)]
    if unreadable:
        remarks.append(
            f"{len(unreadable)} DICOM files hold no readable image, such as {unreadable[0]}"
        )
    return longest, tuple(remarks)


def _claims_dicom(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as handle:
        return handle.read(132)[128:] == b"DICM"


def _check_modality(reader: sitk.ImageSeriesReader, expected: str) -> None:
    if not reader.HasMetaDataKey(0, MODALITY):
        return
    modality = reader.GetMetaData(0, MODALITY).strip()
    if modality and modality != expected:
        raise BadVolume(
            f"DICOM series is of modality {modality}, not {expected}",
            f"take the series of the {expected}",
        )


def _numbers(reader: sitk.ImageSeriesReader, index: int, key: str, count: int) -> list[float]:
    """A DICOM element of decimal strings; not every file has what a CT must have."""
    text = reader.GetMetaData(index, key) if reader.HasMetaDataKey(index, key) else ""
    try:
        numbers = [float(part) for part in text.split("\\")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise BadVolume(
            f"DICOM files lack position or orientation ({key})", "get the original series"
        )
    return numbers


def _step(
    positions: npt.NDArray[np.float64], orientation: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], tuple[str, ...]]:
    """Step from slice to slice in mm, LPS, and a remark where gaps differ a little."""
    normal = np.cross(orientation[:3], orientation[3:])
    gaps = np.abs(np.diff(positions @ normal))
    usual = float(np.median(gaps))
    deviation = float(np.abs(gaps - usual).max())
    span = f"from {gaps.min():.2f} to {gaps.max():.2f} mm"
    if deviation > UNEVEN * usual or usual == 0:
        raise BadVolume(
            f"gaps between slices are uneven ({span}): slices are missing or repeated",
            "fetch the series again",
        )
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    if deviation > EVEN * usual:
        return step, (f"gaps between slices differ slightly ({span}); their mean is used",)
    return step, ()
