"""Folders that a killed job resumes from, and that never outlive the inputs they were made from."""

import shutil
import sys
from pathlib import Path
from typing import Any

from meddino.core.files import read_json, sha256, write_json


def open_state(state: Path, inputs: dict[str, Path | None], options: Any) -> None:
    """Make `state` a folder to resume from; empty it if inputs or options are not those of before.

    The folder's name already carries a digest of the options. The inputs are compared by content,
    since a checkpoint or an index may have been made anew under the same name.

    Args:
        state: the folder; created where absent.
        inputs: name -> file that the job reads (None for one that it does without).
        options: anything that JSON can hold and that the job's result depends on.
    """
    hashes = {name: sha256(path) for name, path in inputs.items() if path is not None}
    identity = {"inputs": hashes, "options": options}
    record = state / "identity.json"
    if state.exists() and (not record.exists() or read_json(record) != identity):
        if any(state.iterdir()):
            print(
                f"starting anew: {state} was left by other inputs, options or another version",
                file=sys.stderr,
                flush=True,
            )
        shutil.rmtree(state)
    state.mkdir(parents=True, exist_ok=True)
    write_json(record, identity)
