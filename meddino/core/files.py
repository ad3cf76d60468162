"""Files that are either whole or absent."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from meddino.core.errors import MeddinoError, Unwritable

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
"""Errors that nothing but writing meets."""
UNWRITABLE = FULL | {errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST}
"""What a user can mend about the place that is written to; other OSErrors are bugs or bad input."""
UMASK = os.umask(0o077)  # to read it is to set it, so once, before there are threads
"""Permissions that new files do not get."""
os.umask(UMASK)
TRIAL_BYTES = 1 << 20
"""More than a full disk takes, which may have some space again once a library has cleaned up."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path` that becomes `path` when the block succeeds.

    Works for files and for folders (the block creates either at the yielded path). The temporary
    keeps the suffixes of `path`, in small letters, since writers choose a format by them, and its
    name is fixed, so that a killed run's leftover is replaced by the next one. On an error the
    temporary is removed and an existing `path` stays as it was.

    Raises:
        Unwritable: the folder cannot be made or written, or the disk is full.
    """
    with scratch(path) as temporary, writing(path, temporary):
        yield temporary
        _sync(temporary)
        _permit(temporary)
        _replace(temporary, path)


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """Yield a free name beside `path`; what the block creates there is removed at its end.

    Raises:
        Unwritable: the folder cannot be made or written.
    """
    stem, dot, suffixes = path.name.partition(".")
    temporary = path.with_name(f".tmp-{stem}{dot}{suffixes.lower()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(temporary)
    except OSError as error:
        raise unwritten(path, error.strerror) from error
    try:
        yield temporary
    finally:
        with suppress(OSError):  # which would hide the first error where all became read-only
            _remove(temporary)


@contextmanager
def writing(path: Path, place: Path) -> Iterator[None]:
    """Turn what any library raises on a full or read-only disk into one line.

    Args:
        path: what the line names.
        place: the file that is written, or a folder. Some libraries (torch, NumPy, blosc2, NRRD) do
            not say what kept them from writing, so that a trial tells.

    Raises:
        Unwritable: nothing can be written there.
    """
    try:
        yield
    except MeddinoError:
        raise
    except Exception as error:
        cause = obstacle(error) or _trial(place)
        if cause is None:
            raise
        raise unwritten(path, cause) from error


def unwritten(path: Path | str, cause: str | None) -> Unwritable:
    """The error of a file that cannot be written for a cause in the system's words."""
    return Unwritable(
        f"cannot write {path}: {cause}; free space or permit writing there, then rerun"
    )


def obstacle(error: BaseException | None) -> str | None:
    """What kept a program from writing, in the system's words; None for errors of other kinds.

    Also found behind errors that it caused, in other processes, and in messages that only quote it.
    """
    words = [os.strerror(code) for code in FULL]
    while error is not None:
        text = os.strerror(error.errno or 0) if isinstance(error, OSError) else ""
        if cause := next((cause for cause in words if cause in f"{text} {error}"), None):
            return cause
        error = error.__cause__ or error.__context__
    return None


def _trial(place: Path) -> str | None:
    """What keeps from going on writing a file, or from writing into a folder; None for nothing."""
    file = place / f".tmp-trial-{os.getpid()}" if place.is_dir() else place
    if not file.parent.is_dir():
        return None
    try:
        with file.open("ab") as handle:
            handle.write(bytes(TRIAL_BYTES))
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        return error.strerror
    finally:
        with suppress(OSError):
            file.unlink()
    return None


def _replace(temporary: Path, path: Path) -> None:
    """Move `temporary` onto `path`; a folder in the way is set aside first and then removed."""
    if not path.is_dir():
        os.replace(temporary, path)
        return
    aside = path.with_name(f".old-{path.name}")
    _remove(aside)
    os.replace(path, aside)
    os.replace(temporary, path)
    _remove(aside)


def _sync(path: Path) -> None:
    """Flush a file to disk, so that a crash after the rename cannot leave it empty."""
    if path.is_file():
        with path.open("rb") as handle:
            os.fsync(handle.fileno())


def _permit(path: Path) -> None:
    """Let those read that the umask lets: safetensors, for one, keeps its files to the owner."""
    files = path.rglob("*") if path.is_dir() else [path]
    for file in files:
        if file.is_file() and not file.is_symlink():
            mode = file.stat().st_mode
            if mode != (shared := mode | (0o666 & ~UMASK)):
                file.chmod(shared)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        # A file where a folder should be is reported by whoever wants to write, not here.
        with suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as sorted, indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def read_json(path: Path, vouched_by: Path | str = "") -> Any:
    """Read JSON.

    Args:
        path: the file.
        vouched_by: the output of the job that made it, if it is none itself: the job runs again
            only where that is missing.

    Raises:
        MeddinoError: the file is absent or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        remedy = f"delete {vouched_by} and rerun" if vouched_by else "run the stage that makes it"
        raise MeddinoError(f"{path} does not exist; {remedy}") from error
    except ValueError as error:
        raise MeddinoError(
            f"{path} is not valid JSON ({error}); delete {vouched_by or 'it'} and rerun"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_lines(path: Path, values: Iterable[Any]) -> None:
    """Write one line of JSON a value, atomically."""
    write_text(path, "".join(f"{json.dumps(v)}\n" for v in values))


def read_lines(path: Path) -> list[Any]:
    """Read what `write_lines` wrote.

    Raises:
        MeddinoError: the file is absent, or a line is not JSON.
    """
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    except FileNotFoundError as error:
        raise MeddinoError(f"{path} does not exist; run the stage that makes it") from error
    except ValueError as error:
        raise MeddinoError(f"{path} is damaged ({error}); delete it and rerun") from error


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
