"""The cases of an extracted dataset: image, label and modality, found by patterns."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from meddino.core.errors import MeddinoError

EXCLUDE = "list the case under `exclude_cases`"
"""What a user can do about a case that cannot be used."""
DICOM_SUFFIXES = {".dcm", ".dicom", ".ima", ""}


class Case(NamedTuple):
    """One case. `image` is a file, or the folder of one DICOM series."""

    id: str
    image: Path
    label: Path | None
    modality: Literal["CT", "MR"]


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
    return [
        Case(
            id=identity,
            image=_the_one(identity, paths),
            label=_the_one(identity, labels[identity]) if identity in labels else None,
            modality="MR" if _is_mr(layout, identity) else "CT",
        )
        for identity, paths in sorted(images.items())
        if identity not in layout.exclude_cases
    ]


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
    for match in matches(root, patterns, layout.exclude):
        path = match.parent if _is_dicom(match) else match
        by_identity[_identity(layout, path.relative_to(root).as_posix(), root)].add(path)
    return {identity: sorted(paths) for identity, paths in by_identity.items()}


def _is_dicom(path: Path) -> bool:
    return path.suffix.lower() in DICOM_SUFFIXES and path.is_file()


def _identity(layout: CasePatterns, relative: str, root: Path) -> str:
    match = re.search(layout.case, relative)
    if match is None:
        raise MeddinoError(
            f"{root / relative}: `case` of this dataset ({layout.case}) does not match its path;"
            " mend `case`, or put the file under `exclude`"
        )
    return "".join(part for part in match.groupdict().values() if part)


def _the_one(identity: str, paths: list[Path]) -> Path:
    """The path of a case. Of several DICOM series the longest: the others are localisers."""
    if len(paths) == 1:
        return paths[0]
    if all(path.is_dir() for path in paths):
        return max(paths, key=lambda path: sum(1 for _ in path.iterdir()))
    raise MeddinoError(
        f"case {identity} has several files ({', '.join(map(str, paths))}); put all but one under"
        " `exclude` of this dataset in the configuration"
    )


def _is_mr(layout: CasePatterns, identity: str) -> bool:
    return layout.mr_cases is not None and re.fullmatch(layout.mr_cases, identity) is not None
