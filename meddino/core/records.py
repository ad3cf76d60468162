"""Records of results: what a verb made, of what, with which code, when and where.

A record lies beside the verb's main output, as `.<name>.provenance.json`, so that it goes wherever
the result goes and needs no database. Files of one folder may have records of several verbs.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from meddino.core.errors import MeddinoError
from meddino.core.files import read_json, sha256

SUFFIX = ".provenance.json"
Entry = dict[str, Any]
"""A file of a record: `path` (relative to the working directory where it lies below it), `sha256`,
`bytes`, and, of outputs, `mtime_ns`."""


def record_path(output: Path) -> Path:
    """Where the record of a verb's main output lies."""
    return output.with_name(f".{output.name.lstrip('.')}{SUFFIX}")


def find(folder: Path) -> Iterator[Path]:
    """All records below a folder."""
    return folder.rglob(f".*{SUFFIX}")


def read(path: Path) -> dict[str, Any]:
    """Read a record.

    Raises:
        MeddinoError: it is no record.
    """
    record = read_json(path)
    if not isinstance(record, dict) or not {"verb", "inputs", "outputs"} <= record.keys():
        raise MeddinoError(f"{path} is not a record of meddino; delete it, and rerun its stage")
    return record


def located(path: Path) -> str:
    """A path as records have it: no machine's name for the study's folder."""
    relative = Path(os.path.relpath(path))
    return str(path if ".." in relative.parts else relative)


def entry(path: Path) -> Entry:
    """Describe a file by its contents."""
    before = path.stat()
    description = {"path": located(path), "sha256": sha256(path), "bytes": before.st_size}
    return {**description, "mtime_ns": before.st_mtime_ns}


def listed(folders: Iterable[Path]) -> dict[str, Entry]:
    """Outputs that the records in some folders list, by path; each names its `record`.

    One that is damaged, or that a job beside this one has just removed, is as none.
    """
    outputs = {}
    for folder in folders:
        for path in sorted(folder.glob(f".*{SUFFIX}")):
            with suppress(MeddinoError):
                for output in read(path)["outputs"]:
                    outputs[output["path"]] = {**output, "record": str(path)}
    return outputs


def untouched(output: Entry) -> bool:
    """Whether a file has the size and time that its record says, and so need not be read again."""
    now = Path(output["path"]).stat()
    return (output["bytes"], output["mtime_ns"]) == (now.st_size, now.st_mtime_ns)


def lineage(results: Iterable[Path]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Follow results back to where everything came from.

    Returns:
        Records by the path that they lie at, and files without a record, both sorted.
    """
    records: dict[str, dict[str, Any]] = {}
    without: set[str] = set()
    folders: dict[Path, dict[str, Entry]] = {}
    queue = list(results)
    while queue:
        path = queue.pop()
        if path.parent not in folders:
            folders[path.parent] = listed([path.parent])
        output = folders[path.parent].get(located(path))
        if output is None:
            without.add(located(path))
        elif output["record"] not in records:
            record = records[output["record"]] = read(Path(output["record"]))
            queue.extend(Path(e["path"]) for group in record["inputs"].values() for e in group)
    return dict(sorted(records.items())), sorted(without)
