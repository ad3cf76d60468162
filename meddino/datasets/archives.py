"""Archives of strangers, unpacked without trusting them."""

import os
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from meddino.core.errors import MeddinoError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")


def is_archive(name: str) -> bool:
    """Whether a file of this name is unpacked; others (.7z among them) are kept as they are."""
    return name.lower().endswith(SUFFIXES)


def unpack(archive: Path, folder: Path) -> list[str]:
    """Unpack an archive into a new folder and list the files, relative to it, sorted.

    Args:
        archive: a .zip, .tar, .tar.gz or .tgz file.
        folder: created; what a killed run left there is removed first.

    Raises:
        MeddinoError: the archive is damaged, encrypted, or holds an absolute path, '..', or in a
            tar a link or a device.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        if archive.name.lower().endswith(".zip"):
            _unpack_zip(archive, folder)
        else:
            _unpack_tar(archive, folder)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise MeddinoError(
            f"{archive} is damaged or cut off ({error}); delete it and fetch it again"
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


def _unpack_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            name = PurePosixPath(member.filename.replace("\\", "/"))
            if name.is_absolute() or ".." in name.parts or ":" in name.as_posix():
                raise _unsafe(archive, f"{member.filename!r} would be outside the folder")
            if member.flag_bits & 0x1:
                raise MeddinoError(
                    f"{archive} is encrypted; unpack it with its owners' password and give the"
                    " folder as `folder` of this dataset in the configuration"
                )
            # Links are stored as small files that hold their target: zipfile never makes links.
            file.extract(member, folder)


def _unpack_tar(archive: Path, folder: Path) -> None:
    """Unpack files and folders by hand: Python 3.11.2, still common, has no extraction filters."""
    with tarfile.open(archive) as file:
        for member in file:
            name = PurePosixPath(member.name)
            if name.is_absolute() or ".." in name.parts:
                raise _unsafe(archive, f"{member.name!r} would be outside the folder")
            target = folder / name
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            source = file.extractfile(member) if member.isreg() else None
            if source is None:
                raise _unsafe(archive, f"{member.name!r} is a link or a device, not a file")
            target.parent.mkdir(parents=True, exist_ok=True)
            with source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy)


def _unsafe(archive: Path, why: str) -> MeddinoError:
    return MeddinoError(
        f"{archive} is not safe to unpack: {why}; compare it with its owners' checksum, or unpack"
        " it yourself and give the folder as `folder` of this dataset in the configuration"
    )
