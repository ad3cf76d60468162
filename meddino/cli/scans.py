"""What has become of scans in folders of a person's own since `fetch` has listed them."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from meddino.core import records
from meddino.core.errors import MeddinoError
from meddino.core.files import read_json
from meddino.datasets.listing import Listing, Stamp
from meddino.datasets.options import FolderLayout

NAMED = 5
"""Scans that a line names."""


def states(manifest: Path) -> dict[str, str]:
    """Files of a folder that are not as a manifest lists them: changed, missing or new.

    Args:
        manifest: what `fetch` has written; its record lies beside it.

    Returns:
        Path -> state; nothing of a dataset that is downloaded, or that was never fetched.

    Raises:
        MeddinoError: the manifest or its record is damaged.
    """
    record = records.record_path(manifest)
    options = records.read(record)["options"] if record.is_file() else {}
    if "layout" not in options or not manifest.is_file():
        return {}
    content = read_json(manifest)
    root, name = Path(content["root"]), f"datasets.{options['dataset_name']}"
    before = {entry["file"]: Stamp(entry["bytes"], entry["mtime_ns"]) for entry in content["files"]}
    try:
        now = Listing(FolderLayout(**options["layout"]), root, name).files(options["part"])
    except MeddinoError:  # the folder is gone, or all images in it
        now = {}
    changed = [file for file in before.keys() & now.keys() if before[file] != now[file]]
    differing = {
        **dict.fromkeys(changed, "changed"),
        **dict.fromkeys(before.keys() - now.keys(), "missing"),
        **dict.fromkeys(now.keys() - before.keys(), "new"),
    }
    return {str(root / file): state for file, state in sorted(differing.items())}


def summary(files: Mapping[str, str]) -> str:
    """Counts of states, and some files by name."""
    counts = ", ".join(f"{count} {state}" for state, count in Counter(files.values()).items())
    names = ", ".join([*files][:NAMED]) + (", ..." if len(files) > NAMED else "")
    return f"{counts} since they were listed: {names}"
