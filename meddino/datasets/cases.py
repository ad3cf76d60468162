"""The cases of an extracted dataset: image, label and modality, found by patterns."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from meddino.core.errors import MeddinoError
from meddino.core.formats import is_dicom, volume_ending

EXCLUDE = "list the case under `exclude_cases`"
"""What a user can do about a case that cannot be used."""
DICOM_SUFFIXES = {".dcm", ".dicom", ".ima"}
"""Endings by which a file says that it is DICOM."""
OPENED = 8
"""Files of a folder that are opened to see whether it is one of DICOM."""
NAMED = 3
"""Files of a case that an error names."""
FURTHER = "#"
"""Between a case's identity and the number of a further series of it, from 2 on."""


class Case(NamedTuple):
    """One case.

    Attributes:
        id: its identity.
        image: a file, or a folder of DICOM files.
        label: a file; None where there is none.
        modality: as the dataset's entry says.
        others: further folders of DICOM files of the same case.
    """

    id: str
    image: Path
    label: Path | None
    modality: Literal["CT", "MR"]
    others: tuple[Path, ...] = ()

    @property
    def images(self) -> tuple[Path, ...]:
        """All that holds its image: `image` and `others`."""
        return (self.image, *self.others)

    def series(self, number: int) -> str:
        """Identity of one of its DICOM series, numbered from 1 on: the first bears the case's."""
        return self.id if number == 1 else f"{self.id}{FURTHER}{number}"


def case_of(identity: str) -> str:
    """The case that a series belongs to, by the identity that `Case.series` gave it."""
    case, _, number = identity.rpartition(FURTHER)
    return case if case and number.isdecimal() else identity


class CasePatterns(Protocol):
    """The part of a dataset's entry that finds its cases."""

    @property
    def images(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def labels(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def exclude(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def case(self) -> str: ...  # noqa: D102
    @property
    def exclude_cases(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def mr_cases(self) -> str | None: ...  # noqa: D102


def find_cases(layout: CasePatterns, root: Path) -> list[Case]:
    """All cases under `root`, sorted by identity, without junk and excluded ones.

    Raises:
        MeddinoError: no image matches, a path carries no identity, or two files claim the same one.
    """
    images = by_identity(layout, root, layout.images)
    if not images:
        raise MeddinoError(
            f"{root}: no file matches {' or '.join(layout.images)}; check that the folder holds the"
            " extracted dataset, or mend `images` of this dataset in the configuration"
        )
    labels = by_identity(layout, root, layout.labels)
    cases = []
    for identity, paths in sorted(images.items()):
        if identity in layout.exclude_cases:
            continue
        image, *others = _of_one_case(identity, paths)
        label = _of_one_case(identity, labels[identity])[0] if identity in labels else None
        modality: Literal["CT", "MR"] = "MR" if _is_mr(layout, identity) else "CT"
        cases.append(Case(identity, image, label, modality, tuple(others)))
    return cases


def matches(root: Path, patterns: Iterable[str], exclude: Sequence[str] = ()) -> Iterator[Path]:
    """Paths under `root` that match a pattern and are neither junk nor excluded, each once."""
    visited = set()
    for pattern in patterns:
        for path in root.glob(pattern):
            relative = path.relative_to(root).as_posix()
            if path in visited or is_junk(path.relative_to(root)):
                continue
            visited.add(path)
            if not any(fnmatch(relative, unwanted) for unwanted in exclude):
                yield path


def is_junk(path: Path) -> bool:
    """Whether a path is not data: macOS' resource forks, and unfinished files of this program."""
    return path.name.startswith(("._", ".tmp-")) or "__MACOSX" in path.parts


def by_identity(layout: CasePatterns, root: Path, patterns: Iterable[str]) -> dict[str, list[Path]]:
    """Files that match a pattern, or the folders of DICOM series, by the identity of their case.

    Raises:
        MeddinoError: a path carries no identity.
    """
    by_identity: dict[str, set[Path]] = defaultdict(set)
    opened: dict[Path, bool] = {}
    for match in matches(root, patterns, layout.exclude):
        path = match.parent if _is_dicom(match, opened) else match
        by_identity[_identity(layout, path.relative_to(root).as_posix(), root)].add(path)
    return {identity: sorted(paths) for identity, paths in by_identity.items()}


def _is_dicom(path: Path, opened: dict[Path, bool]) -> bool:
    """Whether a file is one of a folder of DICOM files, which have any name.

    Where its name does not tell, some files of its folder are opened, once: one that is damaged,
    or a link to nowhere, belongs to the others.
    """
    if volume_ending(path) or path.is_dir():
        return False
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    folder = path.parent
    if folder not in opened:
        opened[folder] = is_dicom(path) or any(map(is_dicom, islice(folder.iterdir(), OPENED)))
    return opened[folder]


def _identity(layout: CasePatterns, relative: str, root: Path) -> str:
    match = re.search(layout.case, relative)
    if match is None and (root / relative).is_dir():
        # A folder of DICOM files: patterns may name the separator that follows it in their paths.
        match = re.search(layout.case, f"{relative}/")
    if match is None:
        raise MeddinoError(
            f"{root / relative}: `case` of this dataset ({layout.case}) does not match its path;"
            " mend `case`, or put the file under `exclude`"
        )
    identity = "".join(part for part in match.groupdict().values() if part)
    if case_of(identity) != identity:
        raise MeddinoError(
            f"{root / relative}: `case` of this dataset matches {identity}, but names that end in"
            f" {FURTHER} and a number are kept for further series of a case; mend `case`"
        )
    return identity


def _of_one_case(identity: str, paths: list[Path]) -> list[Path]:
    """The file of a case, or its folders of DICOM files, the largest first.

    Raises:
        MeddinoError: there are several files, or no file can bear the case's name.
    """
    if "/" in identity:
        raise MeddinoError(
            f"{paths[0]}: `case` of this dataset matches {identity}, but cases name files and"
            " cannot hold a `/`; let several named groups match what lies between"
        )
    if len(paths) == 1:
        return paths
    if all(path.is_dir() for path in paths):
        return sorted(paths, key=lambda path: -sum(1 for _ in path.iterdir()))
    named = ", ".join(map(str, paths[:NAMED])) + ", ..." * (len(paths) > NAMED)
    raise MeddinoError(
        f"case {identity} has {len(paths)} files ({named}); let `case` of this dataset match what"
        " tells them apart, or put all but one under `exclude`"
    )


def _is_mr(layout: CasePatterns, identity: str) -> bool:
    return layout.mr_cases is not None and re.fullmatch(layout.mr_cases, identity) is not None
