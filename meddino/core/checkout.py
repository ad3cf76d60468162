"""The commit that a checkout is at."""

import subprocess
from pathlib import Path
from typing import Any


def checkout(folder: Path) -> dict[str, Any] | None:
    """Commit of the checkout that `folder` is the top of, and whether its files were edited.

    None where it is no checkout, as for an installed package, or git cannot read it.
    """
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "status", "--porcelain=v2", "--branch"]
    try:
        said = subprocess.run(
            [*command, "--untracked-files=no"], capture_output=True, text=True, check=True
        ).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return None
    commit = next(line.split()[-1] for line in said if line.startswith("# branch.oid"))
    return {"commit": commit, "dirty": any(not line.startswith("#") for line in said)}
