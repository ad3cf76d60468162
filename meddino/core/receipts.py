"""Receipts of data that was freed on purpose: what lay there, and when it went.

A receipt is written before anything is deleted, so that no deletion is without one.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from meddino.core import records
from meddino.core.errors import MeddinoError
from meddino.core.files import read_json, write_json
from meddino.core.words import some

PATTERN = ".freed*.json"
NAMED = 5
"""Data that a line names."""
RAW = ".freed.json"
"""The receipt of a dataset's files, in the folder where they lay."""


def of_arrays(marker: Path) -> Path:
    """Where the receipt of preprocessed arrays lies, by the marker of their configuration."""
    return marker.with_name(f".freed.{marker.name}")


def write(path: Path, what: str, files: Iterable[dict[str, Any]], **more: Any) -> None:
    """Write a receipt: what it is of, the date, and each file's path, bytes, and what is known."""
    listed = sorted(files, key=lambda file: str(file["path"]))
    write_json(
        path,
        {
            "what": what,
            "freed": datetime.now(UTC).isoformat(timespec="seconds"),
            "bytes": sum(file["bytes"] for file in listed),
            "files": listed,
            **more,
        },
    )


def read(path: Path) -> dict[str, Any]:
    """Read a receipt.

    Raises:
        MeddinoError: it is none.
    """
    receipt = read_json(path)
    if not isinstance(receipt, dict) or not {"what", "freed", "files"} <= receipt.keys():
        raise MeddinoError(f"{path} is not a receipt of freed data; delete it")
    return receipt


def find(folders: Iterable[Path]) -> Iterator[Path]:
    """All receipts below some folders, sorted."""
    for folder in folders:
        yield from sorted(
            path for path in folder.rglob(PATTERN) if not path.name.endswith(records.SUFFIX)
        )


def described(path: Path) -> dict[str, Any]:
    """A file for a receipt: its path as records have it, and its size."""
    return {"path": records.located(path), "bytes": path.lstat().st_size}


def freed(paths: Iterable[Path]) -> dict[str, str]:
    """Files that receipts list and that are gone: path -> the receipt that says so."""
    return {
        file["path"]: str(path)
        for path in paths
        for file in read(path)["files"]
        if not os.path.lexists(file["path"])
    }


def left(paths: Iterable[Path]) -> dict[str, str]:
    """Files that lie there since before their receipt was written: path -> the receipt.

    Their deletion was cut short. Those that are younger came back, as for a later job.
    """
    leftovers = {}
    for path in paths:
        receipt = read(path)
        moment = datetime.fromisoformat(receipt["freed"]).timestamp()
        for file in receipt["files"]:
            with suppress(FileNotFoundError):
                if os.lstat(file["path"]).st_mtime < moment:
                    leftovers[file["path"]] = str(path)
    return leftovers


def summary(paths: Iterable[Path]) -> str:
    """How much receipts say was freed, of what, and where they lie; empty without any."""
    listed = [(path, read(path)) for path in paths]
    if not listed:
        return ""
    size_gb = sum(receipt["bytes"] for _, receipt in listed) / 1e9
    what = list(dict.fromkeys(receipt["what"] for _, receipt in listed))
    return (
        f"Freed on purpose: {some(what, NAMED)}, {size_gb:,.3g} GB, by {len(listed)} receipts"
        f" such as {listed[0][0]}; a job that needs them brings them back."
    )
