"""DICOM: which series of a folder are volumes, and their voxels in order of position."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from meddino.volumes import stack
from meddino.volumes.errors import BadVolume
from meddino.volumes.headers import Frame
from meddino.volumes.pixels import read_values
from meddino.volumes.raw import AGAIN, Raw, reason
from meddino.volumes.series import Series, Survey, survey

LISTED = 5
"""Series that a remark names one by one."""


@dataclass(frozen=True)
class Content:
    """What folders hold that may be volumes.

    Attributes:
        series: the longest first.
        left: series that can be none, or are of another modality.
        remarks: on files that were left.
    """

    series: tuple[Series, ...]
    left: tuple[Series, ...]
    remarks: tuple[str, ...]

    def further(self, chosen: Series, used: Sequence[Series] = ()) -> tuple[str, ...]:
        """A remark on the series that are left for the sake of a chosen one, if there are any.

        Args:
            chosen: the series that is read.
            used: others that are.
        """
        series = [s for s in (*self.series, *self.left) if s is not chosen and s not in used]
        if not series:
            return ()
        listed = ", ".join(f"{one}: {one.why_not(chosen)}" for one in series[:LISTED])
        more = f", and {len(series) - LISTED} more" if len(series) > LISTED else ""
        return (f"further series are left: {listed}{more}",)


def find(paths: Sequence[Path], modalities: Collection[str] | None) -> Content:
    """Find the series of DICOM files that may be volumes of some modalities.

    Args:
        paths: files or folders (see `series.survey`).
        modalities: such as CT, None for any; what does not say its own is taken for any.

    Raises:
        BadVolume: there is none, or there are scans of several patients in several folders.
    """
    whole = survey(paths)
    wanted = [s for s in whole.series if modalities is None or s.modality in ("", *modalities)]
    usable = [s for s in wanted if not s.fault]
    if not usable:
        raise _nothing(whole, wanted, modalities or ())
    _check_patients(usable)
    left = tuple(s for s in whole.series if s not in usable)
    return Content(tuple(usable), left, whole.remarks())


def _nothing(whole: Survey, wanted: list[Series], modalities: Collection[str]) -> BadVolume:
    """Say why there is no volume."""
    if any(s.fault == "without position" for s in wanted):
        return BadVolume(
            "DICOM files lack position, orientation or pixel spacing", "get the original series"
        )
    if wanted:
        return BadVolume(
            f"holds no slices, only images that are none ({wanted[0]}: {wanted[0].fault})",
            "name the folder of a series of slices",
        )
    if whole.series:
        expected = " or ".join(sorted(modalities))
        kinds = ", ".join(sorted({s.modality for s in whole.series}))
        return BadVolume(
            f"DICOM series is of modality {kinds}, not {expected}", f"take a series of {expected}"
        )
    remarks = f" ({', '.join(whole.remarks())})" if whole.remarks() else ""
    return BadVolume(f"folder holds no readable DICOM series{remarks}", AGAIN)


def _check_patients(series: list[Series]) -> None:
    """Refuse several patients: which of them is meant, nobody can guess."""
    folders = {s.frames[0].patient: s.frames[0].path.parent for s in reversed(series)}
    folders.pop("", None)
    if len(folders) > 1 and len(set(folders.values())) > 1:
        names = sorted(folder.as_posix() for folder in folders.values())
        raise BadVolume(
            f"holds DICOM of {len(folders)} patients, such as {names[0]} and {names[1]}",
            "name the folder of one",
        )


def load(series: Series) -> Raw:
    """Read the voxels of a series, its slices in order of position.

    Raises:
        BadVolume: no image can be decoded, or slices are missing, repeated or shifted.
    """
    frames = stack.in_order(series.frames)
    array, faults = _values(frames)
    whole = [i for i, frame in enumerate(frames) if frame.path not in faults]
    remarks: tuple[str, ...] = ()
    if faults:
        path, fault = next(iter(faults.items()))
        if not whole:
            raise BadVolume(f"images cannot be decoded, such as {path.name} ({fault})", AGAIN)
        remarks = (f"damaged files are left: {len(faults)}, such as {path.name} ({fault})",)
        array, frames = array[whole], [frames[i] for i in whole]
    axes, origin, uneven = stack.grid(frames)
    return Raw(array, axes, origin, remarks + uneven, series.modality or None)


def _values(frames: Sequence[Frame]) -> tuple[npt.NDArray[Any], dict[Path, str]]:
    """Values of all images, (slices, rows, columns), and what is wrong with which file."""
    array: npt.NDArray[Any] = np.zeros(0, np.int16)
    faults: dict[Path, str] = {}
    places: dict[Path, list[int]] = defaultdict(list)
    for place, frame in enumerate(frames):
        places[frame.path].append(place)
    for path, own in places.items():
        own.sort(key=lambda place: frames[place].number)
        try:
            for place, values in zip(own, read_values([frames[i] for i in own]), strict=True):
                if array.size == 0:  # not before: a broken header may claim any size
                    array = np.zeros((len(frames), *values.shape), values.dtype)
                elif values.dtype != array.dtype:
                    array = array.astype(np.result_type(array, values), copy=False)
                array[place] = values
        except MemoryError:
            raise
        except Exception as error:  # whatever damaged pixels make their decoder raise
            faults[path] = reason(error)
    return array, faults
