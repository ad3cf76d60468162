"""A disk that is full, without rights to make one: no file may grow beyond a size."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SHARES = (0.02, 0.5, 0.95)
"""Parts of a file after which the disk is full."""
CAUSE = "File too large"
"""What the system says then; of a disk, it says that no space is left."""


@contextmanager
def full_after(size_bytes: float) -> Iterator[None]:
    """Let this process, and those that it starts, write no file beyond a size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(size_bytes), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones too."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
