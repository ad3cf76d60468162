"""The files of a folder dataset with their sizes and dates, which tell whether it has changed.

Nothing is opened: the workflow lists folders on every start, also on file systems of a network.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from functools import cached_property
from glob import escape
from itertools import chain
from pathlib import Path
from typing import NamedTuple, NoReturn

from meddino.core.errors import MeddinoError
from meddino.core.formats import VOLUMES, volume_ending
from meddino.datasets.cases import by_identity, is_junk
from meddino.datasets.options import FolderLayout, Part

DETACHED = (".mhd", ".nhdr", ".hdr")
"""Headers whose voxels lie in another file of the same name."""
SLICES = (".dcm", ".dicom", ".ima")
"""How the names of files end that surely are slices of DICOM."""
THREADS, AT_A_TIME = 16, 256
"""Threads, and paths for each at a time: answers of a network take long, but come many at once."""


class Stamp(NamedTuple):
    """Size of a file, and when it was last written (ns since 1970); -1 for a link to nowhere."""

    bytes: int
    mtime_ns: int


Stamps = dict[str, Stamp]
"""Files by their paths below the dataset's folder."""


class Listing:
    """The files of a dataset in a folder of its own, as they are when they are asked for first."""

    def __init__(self, layout: FolderLayout, root: Path, source: str) -> None:
        """List a folder.

        Args:
            layout: which files are images and labels, and of which case.
            root: the folder.
            source: key of the dataset in the configuration, such as `datasets.mine`.

        Raises:
            MeddinoError: the folder is absent, no image is there, or a path carries no identity.
        """
        self._root, self._layout = root, layout
        _check(root, source)
        images = by_identity(layout, root, layout.images)
        labels = by_identity(layout, root, layout.labels)
        if not images:
            raise MeddinoError(_no_image(root, layout, source))
        labelled = sorted(images.keys() & labels.keys())
        self._matched: dict[Part, set[Path]] = {
            "images": set(chain(*images.values())),
            "labelled": set(chain(*(images[case] + labels[case] for case in labelled))),
        }
        self._all = sorted(set(chain(*images.values(), *labels.values())))

    @cached_property
    def _files(self) -> dict[Path, Stamps]:
        """The files that each matched path stands for."""
        paths = self._all
        shares = [paths[start : start + AT_A_TIME] for start in range(0, len(paths), AT_A_TIME)]
        with ThreadPoolExecutor(THREADS) as pool:
            stamps = chain(*pool.map(lambda share: [*map(_stamps, share)], shares))
            return dict(zip(paths, stamps, strict=True))

    def files(self, part: Part) -> Stamps:
        """The files that patterns find, and those that belong to them, by path below the folder."""
        start = len(f"{self._root}{os.sep}")
        stamps = (self._files[path] for path in self._matched[part])
        return {name[start:]: stamp for files in stamps for name, stamp in files.items()}

    def digest(self, part: Part) -> str:
        """A digest of names, sizes and dates: another one after any change to these files."""
        lines = (f"{name}\0{b}\0{ns}" for name, (b, ns) in sorted(self.files(part).items()))
        return hashlib.sha256("\0".join(lines).encode(errors="surrogateescape")).hexdigest()[:16]

    def unmatched(self) -> list[str]:
        """Files that surely are images, sorted, which no pattern finds and `exclude` does not name.

        Raises:
            MeddinoError: a folder below this one cannot be read.
        """
        matched = set(chain(*self._files.values()))
        others = (path for path in _volumes(self._root) if str(path) not in matched)
        names = sorted(path.relative_to(self._root).as_posix() for path in others)
        return [n for n in names if not any(fnmatch(n, p) for p in self._layout.exclude)]


def _check(root: Path, source: str) -> None:
    try:
        with os.scandir(root):
            return
    except OSError as error:
        raise MeddinoError(
            f"{source}.folder: {root} cannot be read ({error.strerror}); mount it, or mend the path"
        ) from error


def _no_image(root: Path, layout: FolderLayout, source: str) -> str:
    """Name the patterns that find nothing, and what the folder holds instead."""
    names = [path.relative_to(root).as_posix() for path in _volumes(root)]
    example = (
        f"it holds {len(names)} other images, such as {min(names)}" if names else "it has none"
    )
    return (
        f"{source}.images: no file under {root} matches {' or '.join(layout.images)}"
        f" ({example}); mend `images`, or `folder`"
    )


def _is_detached(path: Path) -> bool:
    return path.suffix.lower() in DETACHED


def _volumes(root: Path) -> Iterator[Path]:
    """All files below a folder whose names are those of volumes, or of slices of DICOM."""
    entered = set()
    for folder, inner, names in os.walk(root, onerror=_refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in entered:  # by way of a link that leads up
            inner.clear()
            continue
        entered.add(real)
        for name in names:
            path = Path(folder, name)
            if name.lower().endswith((*VOLUMES, *SLICES)) and not is_junk(path.relative_to(root)):
                yield path


def _refuse(error: OSError) -> NoReturn:
    raise MeddinoError(
        f"{error.filename} cannot be read ({error.strerror}); permit reading there, or name another"
        " folder"
    ) from error


def _stamps(matched: Path) -> Stamps:
    """The files that a path stands for: a series' slices, and voxels that lie beside a header."""
    try:
        status = matched.stat()
        if stat.S_ISDIR(status.st_mode):
            with os.scandir(matched) as entries:
                slices = [entry for entry in entries if not volume_ending(Path(entry.name))]
            return {entry.path: _stamp(entry) for entry in slices if not entry.is_dir()}
    except OSError:  # whoever reads it says so
        return {str(matched): Stamp(-1, -1)}
    beside = matched.parent.glob(f"{escape(matched.stem)}.*") if _is_detached(matched) else ()
    others = {str(path): _stamp(path) for path in beside}
    return {**others, str(matched): Stamp(status.st_size, status.st_mtime_ns)}


def _stamp(file: Path | os.DirEntry[str]) -> Stamp:
    try:
        status = file.stat()
    except OSError:
        return Stamp(-1, -1)
    return Stamp(status.st_size, status.st_mtime_ns)
