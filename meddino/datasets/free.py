"""The `free` verb: delete what `fetch` has downloaded, once nothing reads it any more."""

import os
import sys
from contextlib import suppress
from pathlib import Path

from meddino.core import receipts
from meddino.core.errors import MeddinoError
from meddino.core.files import read_json
from meddino.datasets.archives import strays
from meddino.datasets.fetch import Record, incoming_folder
from meddino.datasets.options import FreeOptions
from meddino.datasets.sources import LOCAL, local_path

MANIFEST = ".fetched.json"


def run(options: FreeOptions, *, output: Path) -> None:
    """Delete the files that `fetch` has put into a folder, by its own records of them.

    Nothing else is touched: neither other files of the folder, nor `<dataset>.incoming`, nor a
    folder of yours, for which `fetch` keeps no records. Files that no program could download again
    stay, and are named. If the job is killed, run it again; `fetch` brings everything back.

    Args:
        options: which dataset, for messages.
        output: the receipt, `<folder>/.freed.json`, written before anything is deleted: `files`
            (path and bytes of each deleted file), `origin` (name, address, SHA-256 and bytes of
            each download that they came from), `kept` (downloads that stay), `freed` (the date).

    Raises:
        MeddinoError: the folder is one of yours, or a record names a file outside of the folder.
    """
    root, name = output.parent, options.dataset_name
    manifest = root / MANIFEST
    if manifest.exists() and read_json(manifest).get("root") != ".":
        raise MeddinoError(f"{manifest} is of a folder of yours, which is never deleted")
    paths = sorted((root / ".fetch" / "records").glob("**/*.json"))
    if not paths and not manifest.exists():
        raise MeddinoError(f"{root}: `fetch` has recorded nothing here; nothing is deleted")
    listed = {path: Record(**read_json(path)) for path in paths}
    kept = {path: record for path, record in listed.items() if not _replaceable(record, root)}
    gone = {path: record for path, record in listed.items() if path not in kept}
    # All is checked before the first file goes.
    members = {path: _members(record, root, path) for path, record in gone.items()}
    files = [file for group in members.values() for file in group if file.is_file()]
    receipts.write(
        output,
        f"downloads of {name}",
        [receipts.described(file) for file in (manifest, *files) if file.exists()],
        origin=[_origin(record) for record in gone.values()],
        kept=[_origin(record) for record in kept.values()],
    )
    manifest.unlink(missing_ok=True)
    for path, group in members.items():
        for file in group:
            file.unlink(missing_ok=True)
        path.unlink()
    _remove_empty(root)
    if kept:
        named = ", ".join(record.file for record in kept.values())
        print(
            f"{name}: what came out of {named} stays, since no program could get it again; put the"
            f" archive into {incoming_folder(root)} to have it freed, or delete it by hand",
            file=sys.stderr,
        )


def _replaceable(record: Record, root: Path) -> bool:
    """Whether `fetch` can bring a file again without a person."""
    if (incoming_folder(root) / record.file).is_file():
        return True
    if record.url.startswith(LOCAL):
        return local_path(record.url).is_file()
    return not record.url.startswith("manual:")


def _members(record: Record, root: Path, path: Path) -> list[Path]:
    """What came out of a download.

    Raises:
        MeddinoError: the record names a file elsewhere, as a forged one could, or a link leads out.
    """
    files = [root / member for member in record.members]
    for member, file in zip(record.members, files, strict=True):
        if strays(member) or not file.parent.resolve().is_relative_to(root.resolve()):
            raise MeddinoError(f"{path} names {member!r}, outside of {root}; nothing is deleted")
    return files


def _origin(record: Record) -> dict[str, object]:
    names = ("file", "url", "sha256", "bytes")
    return {name: getattr(record, name) for name in names}


def _remove_empty(root: Path) -> None:
    """Remove folders that are empty now, but `root` itself."""
    for folder, _, _ in os.walk(root, topdown=False):
        if Path(folder) != root:
            with suppress(OSError):  # it is not empty
                Path(folder).rmdir()
