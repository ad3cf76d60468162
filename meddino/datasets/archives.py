"""Archives of strangers, unpacked without trusting them."""

import gzip
import os
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from meddino.core import receipts
from meddino.core.errors import MeddinoError
from meddino.datasets.extras import client

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z")
MAX_RATIO = 200
"""An archive that unpacks to more than this many times its size is a bomb: CT gives 2 to 10, and
label maps, which are nearly all zeros, come beside their images."""
HARMLESS_BYTES = 1 << 30
"""No archive that unpacks to less is taken for a bomb."""
DAMAGES = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError)
ENTRY_BYTES = 4096
"""What each entry counts beside its bytes: an empty file takes a block of the disk as well."""


Wanted = Callable[[str], bool]
"""Whether a member of this name is unpacked."""
OURS = (".fetch", ".fetched.json", receipts.RAW)
"""What `fetch` keeps in a dataset's folder."""


class DamagedArchive(MeddinoError):
    """An archive that is not what it should be: to be fetched again, not looked at again."""


class Allowance:
    """How much an archive may unpack to; charged for each entry before it is written."""

    def __init__(self, archive: Path) -> None:
        """Grant an archive what its own size warrants."""
        self._archive = archive
        self._left = max(HARMLESS_BYTES, MAX_RATIO * archive.stat().st_size)

    def charge(self, size_bytes: int) -> None:
        """Count one entry of this size.

        Raises:
            MeddinoError: the allowance is used up.
        """
        self._left -= size_bytes + ENTRY_BYTES
        if self._left < 0:
            raise _unsafe(
                self._archive,
                f"it unpacks to more than {MAX_RATIO} times its size, as bombs do",
            )


def is_archive(name: str) -> bool:
    """Whether a file of this name is unpacked; others are kept as they are."""
    return name.lower().endswith(SUFFIXES)


def everything(_name: str) -> bool:
    """All members."""
    return True


def unpack(archive: Path, folder: Path, wanted: Wanted = everything) -> list[str]:
    """Unpack an archive into a new folder and list the files, relative to it, sorted.

    Args:
        archive: a .zip, .tar, .tar.gz, .tgz or .7z file.
        folder: created; what a killed run left there is removed first.
        wanted: whether a member is unpacked, by its name; the names of all are checked.

    Raises:
        DamagedArchive: the archive is damaged, cut off, or no archive at all.
        MeddinoError: it is encrypted, unpacks to far more than its size, or holds an absolute path,
            '..', a link or a device; or it is a .7z and py7zr is not installed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    undo = {".zip": _unpack_zip, ".7z": _unpack_7z}.get(archive.suffix.lower(), _unpack_tar)
    try:
        undo(archive, folder, Allowance(archive), wanted)
    except DAMAGES as error:
        raise _damaged(archive, error) from error
    except NotImplementedError as error:
        # Windows packs large zips with Deflate64, which Python cannot undo.
        raise MeddinoError(
            f"{archive} cannot be unpacked by Python ({error}); unpack it with 7-Zip and give the"
            " folder as `folder` of this dataset in the configuration"
        ) from error
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    )


def merge(folder: Path, root: Path) -> None:
    """Move all files of a folder into another, over files of the same name; remove the first."""
    for path in sorted(folder.rglob("*")):
        target = root / path.relative_to(folder)
        if path.is_dir() and not path.is_symlink():
            target.mkdir(parents=True, exist_ok=True)
        else:
            os.replace(path, target)
    shutil.rmtree(folder)


def _unpack_zip(archive: Path, folder: Path, allowance: Allowance, wanted: Wanted) -> None:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            _check_name(archive, member.filename)
            if member.flag_bits & 0x1:
                raise _encrypted(archive)
            if not wanted(member.filename):
                continue
            # zipfile stops at the size that is announced, so it is the one to charge.
            allowance.charge(member.file_size)
            # Links are stored as small files that hold their target: zipfile never makes links.
            file.extract(member, folder)


def _unpack_tar(archive: Path, folder: Path, allowance: Allowance, wanted: Wanted) -> None:
    """Unpack files and folders by hand: Python 3.11.2, still common, has no extraction filters."""
    with tarfile.open(archive) as file:
        for member in file:
            _check_name(archive, member.name)
            if not (member.isdir() or member.isreg()):
                raise _unsafe(archive, f"{member.name!r} is a link or a device, not a file")
            if not wanted(member.name.removeprefix("./")):
                continue
            allowance.charge(member.size)
            target = folder / PurePosixPath(member.name)
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            source = file.extractfile(member)
            assert source is not None, "a regular file has contents"
            target.parent.mkdir(parents=True, exist_ok=True)
            with source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy)


def _unpack_7z(archive: Path, folder: Path, allowance: Allowance, wanted: Wanted) -> None:
    py7zr = client("py7zr", "7z", f"{archive.name}, a 7z archive,")
    try:
        with py7zr.SevenZipFile(archive) as file:
            if file.needs_password():
                raise _encrypted(archive)
            names = []
            for member in file.list():
                _check_name(archive, member.filename)
                if member.is_symlink:
                    raise _unsafe(archive, f"{member.filename!r} is a link, not a file")
                if not wanted(member.filename):
                    continue
                names.append(member.filename)
                allowance.charge(member.uncompressed)
            if names:
                file.extract(folder, targets=names)
    except py7zr.exceptions.UnsupportedCompressionMethodError as error:
        raise NotImplementedError(str(error)) from error
    except py7zr.exceptions.ArchiveError as error:
        raise _damaged(archive, error) from error


def strays(name: str) -> bool:
    """Whether a name leads out of a dataset's folder, here or on Windows, or to `fetch`'s records.

    Records name files that a rerun removes: a forged one could name any.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    outside = path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", name)
    return bool(outside) or any(part.lower() in OURS for part in path.parts[:1])


def _check_name(archive: Path, member: str) -> None:
    if strays(member):
        raise _unsafe(archive, f"{member!r} would be outside the folder, or among its records")


def _damaged(archive: Path, error: Exception) -> DamagedArchive:
    with archive.open("rb") as file:
        page = file.read(64).lstrip().startswith(b"<")
    what = "a web page: a login, or a spent quota" if page else f"damaged or cut off ({error})"
    return DamagedArchive(f"{archive} is {what}; rerun to fetch it again, or replace it by hand")


def _encrypted(archive: Path) -> MeddinoError:
    return MeddinoError(
        f"{archive} is encrypted; unpack it with its owners' password and give the folder as"
        " `folder` of this dataset in the configuration"
    )


def _unsafe(archive: Path, why: str) -> MeddinoError:
    return MeddinoError(
        f"{archive} is not safe to unpack: {why}; compare it with its owners' checksum, or unpack"
        " it yourself and give the folder as `folder` of this dataset in the configuration"
    )
