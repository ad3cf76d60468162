"""One place that decides which files of a folder are which DICOM series."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from meddino.core.formats import dicom_folders, is_dicom
from meddino.volumes.headers import Damaged, Frame, NoImage, read_frames
from meddino.volumes.pixels import read_values
from meddino.volumes.raw import reason
from meddino.volumes.stack import along, regular

SUFFIXES = (".dcm", ".dicom", ".ima")
"""Files whose name says that they are DICOM."""
SAME_DIRECTION = 5e-3
"""Difference of direction cosines that is rounding: a third of a degree."""
SAME_SPACING = 1e-3
"""Relative difference of pixel spacing that is rounding."""


@dataclass(frozen=True)
class Series:
    """Images that together are one scan: of one series, size, spacing, orientation and kind."""

    frames: tuple[Frame, ...]

    @property
    def modality(self) -> str:
        """As CT; empty where the files do not say."""
        return self.frames[0].modality

    @property
    def fault(self) -> str:
        """Why it can be no volume, in a word; empty if it may be one."""
        first = self.frames[0]
        if first.colour:
            return "colour"
        if first.localiser:
            return "localiser"
        return "" if first.placed else "without position"

    def why_not(self, chosen: "Series") -> str:
        """Why another series is read and this one is not, in a word."""
        own, other = self.frames[0], chosen.frames[0]
        if own.modality != other.modality:
            return own.modality or "modality unknown"
        if self.fault:
            return self.fault
        if own.series == other.series:
            if own.kind != other.kind:
                return "other image type"
            if own.size != other.size:
                return "other size"
            if not _alike(own, other):
                return "other direction or spacing"
        return "shorter" if len(self.frames) < len(chosen.frames) else "no longer"

    def __str__(self) -> str:
        """For people: number, description and length."""
        count = len(self.frames)
        return f"{self.frames[0].title} ({count} slice{'s' * (count != 1)})"


@dataclass
class Survey:
    """What folders of DICOM files hold.

    Attributes:
        series: all images, the longest series first.
        damaged: names of files that ought to hold images -> what is wrong with them.
        missing: names of links that lead nowhere.
        copies: names of files that repeat an image.
        objects: kind of objects without an image -> how many.
    """

    series: list[Series] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)
    objects: Counter[str] = field(default_factory=Counter)

    def remarks(self) -> tuple[str, ...]:
        """What was left that is no series of its own."""
        remarks = []
        if self.damaged:
            name, fault = next(iter(self.damaged.items()))
            remarks.append(f"damaged files are left: {len(self.damaged)}, such as {name} ({fault})")
        if self.missing:
            number, name = len(self.missing), self.missing[0]
            remarks.append(f"links lead nowhere: {number} files are missing, such as {name}")
        if self.copies:
            number = len(self.copies)
            remarks.append(f"copies of slices are left: {number}, such as {self.copies[0]}")
        if self.objects:
            listed = ", ".join(f"{count} {kind}" for kind, count in sorted(self.objects.items()))
            remarks.append(f"objects without an image are left: {listed}")
        return tuple(remarks)


def survey(paths: Sequence[Path]) -> Survey:
    """Read the headers of DICOM files and put them in order.

    Args:
        paths: files, and folders of files of any name. Of a folder without DICOM of its own, as of
            a medium with its DICOMDIR, all folders below are searched.
    """
    result = Survey()
    frames: list[Frame] = []
    for file, name in _files(paths, result):
        try:
            frames += read_frames(file)
        except NoImage as error:
            result.objects[str(error)] += 1
        except Damaged as error:
            result.damaged[name] = str(error)
        except MemoryError:
            raise
        except Exception as error:  # whatever a damaged file makes its reader raise
            result.damaged[name] = f"{type(error).__name__}: {reason(error)}"
    for group in _grouped(frames):
        whole = _without_copies(group, result)
        result.series += [Series(tuple(part)) for part in _parts(whole)]
    result.series.sort(key=_rank)
    return result


def _rank(series: Series) -> tuple[int, str, Path, int]:
    first = series.frames[0]
    return -len(series.frames), first.series, first.path, first.number


def _files(paths: Sequence[Path], result: Survey) -> Iterator[tuple[Path, str]]:
    """DICOM files, each with its name for people; what should be one and is not is noted."""
    for path in paths:
        if not path.is_dir():
            yield path, path.name
            continue
        for folder in _folders(path):
            entries = sorted(e for e in folder.iterdir() if not e.name.startswith("."))
            files = [entry for entry in entries if is_dicom(entry)]
            patterns = {_pattern(file) for file in files}
            for entry in entries:
                name = entry.relative_to(path).as_posix()
                if entry in files:
                    yield entry, name
                elif entry.is_symlink() and not entry.exists():
                    result.missing.append(name)
                elif entry.is_file() and (
                    _pattern(entry) in patterns or entry.name.lower().endswith(SUFFIXES)
                ):
                    result.damaged[name] = "it is no DICOM"


def _folders(path: Path) -> list[Path]:
    """The folder itself, or those below that hold DICOM."""
    first = next(dicom_folders(path), path)
    return [path] if first == path else list(dicom_folders(path))


def _pattern(path: Path) -> str:
    """What the names of one series' files have in common: all but the numbers."""
    return re.sub(r"\d+", "0", path.name.lower())


def _grouped(frames: Iterable[Frame]) -> Iterator[list[Frame]]:
    """Images that have all in common that slices of one scan have."""
    groups: dict[tuple[object, ...], list[list[Frame]]] = defaultdict(list)
    for frame in frames:
        exact = (
            frame.series, frame.modality, frame.kind, frame.stack, frame.size, frame.colour,
            frame.placed,
        )  # fmt: skip
        alike = (group for group in groups[exact] if _alike(group[0], frame))
        group = next(alike, None)
        if group is None:
            groups[exact].append([frame])
        else:
            group.append(frame)
    for several in groups.values():
        yield from several


def _alike(a: Frame, b: Frame) -> bool:
    """Whether two images have the same directions and pixels, as far as numbers can be trusted."""
    if not a.placed or not b.placed:
        return True
    turned = np.abs(np.array(a.orientation) - np.array(b.orientation)).max()
    scaled = np.abs(np.array(a.spacing_mm) / np.array(b.spacing_mm) - 1).max()
    return bool(turned <= SAME_DIRECTION and scaled <= SAME_SPACING)


def _without_copies(frames: list[Frame], result: Survey) -> list[Frame]:
    """Drop images that repeat another: of the same place and values, told apart by nothing."""
    unique: dict[tuple[object, ...], Frame] = {}
    repeated = []
    for frame in frames:
        first = unique.setdefault((frame.position, frame.telling), frame)
        if frame.placed and first is not frame:
            # One image that differs shows that the others are no copies either.
            if not _equal(first, frame):
                return frames
            repeated.append(frame)
    result.copies += [frame.path.name for frame in repeated]
    return [frame for frame in frames if frame not in repeated]


def _equal(a: Frame, b: Frame) -> bool:
    try:
        first, second = (next(read_values([frame])) for frame in (a, b))
    except Exception:  # a damaged file is told when its series is read
        return False
    return np.array_equal(first, second)


def _parts(frames: list[Frame]) -> list[list[Frame]]:
    """Split images that lie among each other: phases, echoes, or acquisitions of one series.

    A split is taken if it makes sense of the places: its parts overlap, and each is evenly spaced.
    """
    if len(frames) < 2 or not frames[0].placed or regular(frames):
        return [frames]
    count = len(frames[0].telling)
    for chosen in (*((i,) for i in range(count)), tuple(range(count))):
        parts: dict[tuple[str, ...], list[Frame]] = defaultdict(list)
        for frame in frames:
            parts[tuple(frame.telling[i] for i in chosen)].append(frame)
        split = list(parts.values())
        if 1 < len(split) <= len(frames) // 2 and all(map(regular, split)) and _overlap(split):
            return split
    return [frames]


def _overlap(parts: list[list[Frame]]) -> bool:
    """Whether each part covers heights of another one."""
    ends = [(float(heights.min()), float(heights.max())) for heights in map(along, parts)]
    return all(
        any(other is not own and own[0] <= other[1] and other[0] <= own[1] for other in ends)
        for own in ends
    )
