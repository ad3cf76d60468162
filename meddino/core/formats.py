"""What kind of file something is: volumes by their names, DICOM by its content."""

import os
from collections.abc import Iterator
from pathlib import Path

VOLUMES = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".nhdr", ".hdr")
"""Name endings of volumes, in small letters. Of a pair (`.hdr` and `.img`) the header counts."""
DICOMDIR = "DICOMDIR"
"""The table of contents of a medium: DICOM without an image."""
_HEAD = 132
_FIRST_GROUPS = (2, 8)
"""Groups of elements that a DICOM file without preamble can begin with."""


def volume_ending(path: Path) -> str | None:
    """The ending by which a file's name says that it is a volume, as in `VOLUMES`; else None."""
    name = path.name.lower()
    return next((ending for ending in VOLUMES if name.endswith(ending)), None)


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, whatever its name: its first bytes tell.

    A table of contents (DICOMDIR) is none, nor is what cannot be opened, as a link to nowhere.
    """
    if path.name.upper() == DICOMDIR or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    return head[128:] == b"DICM" or _begins_with_element(head)


def _begins_with_element(head: bytes) -> bool:
    """Whether bytes begin as DICOM does that lacks its preamble: with an element of a low group."""
    if len(head) < _HEAD:
        return False
    named = head[4:6].isalpha() and head[4:6].isupper()
    for order in ("little", "big"):
        if int.from_bytes(head[:2], order) in _FIRST_GROUPS:
            short = order == "little" and int.from_bytes(head[4:8], "little") <= _HEAD
            return named or short
    return False


def dicom_folders(root: Path) -> Iterator[Path]:
    """Folders that hold DICOM files, `root` among them, in order of their names.

    Links to folders are followed. Reads the first bytes of one file of each such folder.
    """
    visited: set[str] = set()
    for folder, below, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        below[:] = [] if real in visited else sorted(b for b in below if not b.startswith("."))
        if real not in visited and any(
            is_dicom(Path(folder, name)) for name in sorted(names) if not name.startswith(".")
        ):
            yield Path(folder)
        visited.add(real)
