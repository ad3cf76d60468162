"""The volumes that a person means who names files and folders."""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from meddino.core.errors import MeddinoError
from meddino.core.formats import DICOMDIR, VOLUMES, is_dicom, volume_ending

RECORD = "labels.json"
"""Describes the segmentations of a folder; of a single file, after the file's name and a dot."""
DICOM_ENDINGS = (".dcm", ".dicom", ".ima")
LABELS = re.compile(
    r"(?<![a-z])(labels?|seg(s|mentations?)?|masks?|derivatives)(tr|ts|va)?(?![a-z])", re.I
)
"""What names of label maps, and of their folders, say in public data sets."""
NAMED, BELOW, OWN = (
    "label maps by their names",
    "below folders that hold volumes themselves",
    "segmentations of an earlier run",
)
NOWHERE = "its content is not on this machine; get it (`git annex get`, `dvc pull`, a new download)"


@dataclass
class Inputs:
    """What is found.

    Attributes:
        volumes: files, and folders of DICOM series, in order.
        left: files that are no inputs by what their names or places say, by the reason.
        missing: files, and folders with files, that are links to nowhere; and what that means.
    """

    volumes: list[Path] = field(default_factory=list)
    left: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))
    missing: dict[Path, str] = field(default_factory=dict)

    def remarks(self) -> Iterator[str]:
        """What is left, a line a reason."""
        for reason, paths in self.left.items():
            yield (
                f"left: {len(paths)} files, {reason}, such as {paths[0]}; name them, or their"
                " folder, to have them too"
            )


class _Folder(NamedTuple):
    """A folder below one that was named, and what its place says of its volumes."""

    path: Path
    files: list[Path]
    reason: str | None


def find(paths: Iterable[Path], output: Path | None = None) -> Inputs:
    """Find volumes: the files themselves, those in folders at any depth, and DICOM series.

    A file that is named is always taken, and so are those right in a folder that is named. Label
    maps, by their names, are left, and so are volumes (not DICOM) below a folder that has some.

    Args:
        paths: files and folders.
        output: where results go, which is no input.

    Raises:
        MeddinoError: a path does not exist, or holds no volume.
    """
    inputs = Inputs()
    for path in paths:
        before = len(inputs.volumes) + len(inputs.missing)
        if path.name.upper() == DICOMDIR and path.is_file():
            path = path.parent
        if path.is_file():
            inputs.volumes.append(path)
        elif path.is_dir():
            for folder in _walk(path, output):
                _sort(folder, output, inputs)
        elif path.is_symlink():
            inputs.missing[path] = f"is a link to nowhere: {NOWHERE}"
        else:
            raise MeddinoError(f"{path} does not exist; name a volume or a folder")
        if len(inputs.volumes) + len(inputs.missing) == before:
            raise MeddinoError(
                f"{path} holds neither volumes ({', '.join(VOLUMES)}) nor DICOM files"
                + "".join(f"; {remark}" for remark in inputs.remarks())
            )
    inputs.volumes = list(dict.fromkeys(inputs.volumes))
    return inputs


def _walk(root: Path, output: Path | None) -> Iterator[_Folder]:
    """All folders from `root` on, by name; links are followed, hidden ones and `output` are not."""
    visited = set() if output is None else {os.path.realpath(output)} - {os.path.realpath(root)}
    reasons: dict[str, str | None] = {str(root): None}
    for folder, below, names in os.walk(root, followlinks=True):
        if os.path.realpath(folder) in visited:
            below.clear()
            continue
        visited.add(os.path.realpath(folder))
        below[:] = sorted(name for name in below if not name.startswith("."))
        files = [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
        reason = reasons[folder]
        yield _Folder(Path(folder), files, reason)
        holds = any(volume_ending(file) for file in files)
        for name in below:
            named = NAMED if LABELS.search(name) else None
            reasons[os.path.join(folder, name)] = reason or named or (BELOW if holds else None)


def _sort(folder: _Folder, output: Path | None, inputs: Inputs) -> None:
    """Put the files of a folder where they belong."""
    own = _segmented(folder)
    result = None if output is None else os.path.abspath(output)
    files = [file for file in folder.files if os.path.abspath(file) != result]
    volumes = [file for file in files if volume_ending(file)]
    images = [file for file in volumes if not LABELS.search(file.name)]
    for file in volumes:
        reason = OWN if file.name in own else folder.reason
        if reason is None and images and file not in images:
            reason = NAMED
        if reason is not None:
            inputs.left[reason].append(file)
        elif file.exists():
            inputs.volumes.append(file)
        else:
            inputs.missing[file] = f"is a link to nowhere: {NOWHERE}"
    others = [file for file in files if file not in volumes]
    gone = [file.name for file in others if not file.exists()]
    dicom = any(map(is_dicom, others))
    if gone and (dicom or not volumes):
        links = f"holds {len(gone)} links to nowhere, such as {gone[0]}"
        inputs.missing[folder.path] = f"{links}: {NOWHERE}"
    elif dicom:
        inputs.volumes.append(folder.path)


def _segmented(folder: _Folder) -> set[str]:
    """Files that an earlier run of `segment` has written into a folder, by its records."""
    names: set[str] = set()
    for file in folder.files:
        if file.name == RECORD or file.name.endswith(f".{RECORD}"):
            with suppress(OSError, ValueError, KeyError, TypeError):
                names.update(json.loads(file.read_text(encoding="utf-8"))["volumes"])
    return names


def names(volumes: Sequence[Path]) -> dict[Path, str]:
    """Name volumes after their files or folders; where these recur, after the folders that differ.

    Raises:
        MeddinoError: two would have one name, as where nothing but the ending tells them apart.
    """
    groups: dict[str, list[Path]] = defaultdict(list)
    for volume in volumes:
        groups[_parts(volume)[-1]].append(volume)
    named: dict[str, Path] = {}
    for stem, group in groups.items():
        parts = [_parts(volume) for volume in group]
        first, last = _shared(parts), _shared([path[::-1] for path in parts])
        if first + last >= min(map(len, parts)):  # one lies beside a folder of the other
            last = 0
        for volume, path in zip(group, parts, strict=True):
            differing = path[first : len(path) - last] if len(group) > 1 else []
            name = "_".join(differing) or stem
            if name in named:
                raise MeddinoError(
                    f"two inputs are called {name}: {named[name]} and {volume}; segment them one by"
                    " one"
                )
            named[name] = volume
    return {volume: name for name, volume in named.items()}


def _shared(paths: Sequence[Sequence[str]]) -> int:
    """How many parts all paths begin with."""
    together = zip(*paths, strict=False)
    return sum(1 for _ in takewhile(lambda parts: len(set(parts)) == 1, together))


def _parts(path: Path) -> list[str]:
    """Folders and name of a volume, without its ending; of links as they are, not their targets."""
    *folders, name = os.path.abspath(path).split(os.sep)
    ending = volume_ending(path) or next((e for e in DICOM_ENDINGS if name.lower().endswith(e)), "")
    return [*folders, name if path.is_dir() else name[: len(name) - len(ending)] or name]
