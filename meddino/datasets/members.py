"""Which members of an archive are unpacked: what the patterns of its dataset's entry can read."""

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase

from meddino.core.formats import VOLUMES
from meddino.datasets.listing import DETACHED

WHOLE = tuple(ending for ending in VOLUMES if ending not in DETACHED)
"""Endings of volumes that are one file."""


TERMS = ("license", "licence", "readme", "copying")
"""How the names of files begin that say what may be done with the data: they go with it."""


def readable(patterns: Iterable[str]) -> Callable[[str], bool]:
    """A test whether a dataset with these patterns may read a file.

    It may read what matches a pattern as `Path.glob` has it, and all that lies in a folder that
    matches. Where a pattern may stand for slices of DICOM, or for a header whose voxels lie in
    another file, it may read whatever lies beside a match and is no volume of its own. Licences and
    readmes stay with the data.

    Args:
        patterns: relative to the dataset's folder, with `/` between the parts.

    Returns:
        A function of a file's path below that folder, also with `/`.
    """
    split = [pattern.split("/") for pattern in patterns]

    def test(name: str) -> bool:
        parts = name.split("/")
        if parts[-1].lower().startswith(TERMS):
            return True
        alone = name.lower().endswith(WHOLE)
        return any(
            _matches(parts, pattern)
            or (not alone and not pattern[-1].endswith(WHOLE) and _beside(parts, pattern))
            for pattern in split
        )

    return test


def _beside(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    return _matches([*parts[:-1], ""], [*pattern[:-1], ""])


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path, or a folder above it, matches; `**` stands for any number of folders."""
    if not pattern:
        return True
    if not parts:
        return False
    if pattern[0] == "**":
        return _matches(parts, pattern[1:]) or _matches(parts[1:], pattern)
    return fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
