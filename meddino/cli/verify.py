"""Whether results still are what their records say."""

import argparse
import os
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from meddino.core import records
from meddino.core.errors import MeddinoError
from meddino.core.files import sha256

SHOWN = 20
"""Files that are named one by one."""


@dataclass
class Findings:
    """What is as recorded, and what is not; a wrong file is named with the result it is part of."""

    intact: int = 0
    bytes: int = 0
    changed: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    unrecorded: list[str] = field(default_factory=list)


def check(folders: Iterable[Path], console: Console) -> Findings:
    """Read every file again that a record below `folders` lists as made by its verb.

    Raises:
        MeddinoError: a record cannot be read.
    """
    folders, found = list(folders), Findings()
    made: dict[str, tuple[records.Entry, str]] = {}
    raw: set[Path] = set()
    for path in sorted(path for folder in folders for path in records.find(folder)):
        record = records.read(path)
        main = record["outputs"][0]["path"]
        made |= {entry["path"]: (entry, main) for entry in record["outputs"]}
        if record["verb"] == "fetch":
            raw.add(Path(main).parent)
    for (entry, main), state in _states(list(made.values()), console):
        if state == "intact":
            found.intact += 1
            found.bytes += entry["bytes"]
        else:
            getattr(found, state)[entry["path"]] = main
    found.unrecorded = sorted(set(_files(folders, raw)) - made.keys())
    return found


def _states(
    made: list[tuple[records.Entry, str]], console: Console
) -> Iterator[tuple[tuple[records.Entry, str], str]]:
    """The state of each file, with a bar in a terminal; reading is shared among all cores."""
    columns = (TextColumn("verifying"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with (
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        task = progress.add_task("", total=sum(entry["bytes"] for entry, _ in made))
        for each, state in zip(made, pool.map(_state, (entry for entry, _ in made)), strict=True):
            progress.advance(task, each[0]["bytes"])
            yield each, state


def _state(entry: records.Entry) -> str:
    path = Path(entry["path"])
    if not path.is_file():
        return "missing"
    same = path.stat().st_size == entry["bytes"] and sha256(path) == entry["sha256"]
    return "intact" if same else "changed"


def _files(folders: Iterable[Path], raw: set[Path]) -> Iterator[str]:
    """Files that should have a record: not raw data, hidden files and what killed jobs resume."""
    for folder in folders:
        for parent, inner, names in os.walk(folder):
            here = Path(parent)
            inner[:] = [
                name
                for name in inner
                if not name.startswith(".")
                and here / name not in raw
                and not name.endswith(".incoming")
                and not (name == "runs" and (here / "tables").exists())
            ]
            yield from (records.located(here / name) for name in names if name[0] != ".")


def main(arguments: Sequence[str]) -> None:
    """Verify the results below some folders and print what is not as recorded.

    Raises:
        MeddinoError: files were changed or are missing (or, with `--strict`, have no record).
    """
    parser = argparse.ArgumentParser(prog="python -m meddino verify", description=__doc__)
    parser.add_argument(
        "folders", nargs="*", type=Path, default=[Path("results"), Path("resources")]
    )
    parser.add_argument("--strict", action="store_true", help="files without a record are errors")
    given = parser.parse_intermixed_args(arguments)
    folders = [folder for folder in given.folders if folder.is_dir()]
    if not folders:
        wanted = ", ".join(map(str, given.folders))
        raise MeddinoError(f"no folder {wanted} here; name the folders to verify")
    console = Console()
    found = check(folders, console)
    console.print(
        f"{found.intact} files ({found.bytes / 1e9:.2f} GB) are as recorded; "
        f"{len(found.changed)} changed, {len(found.missing)} missing, "
        f"{len(found.unrecorded)} without a record"
    )
    _print(found, console)
    wrong = [*found.changed, *found.missing, *(found.unrecorded if given.strict else [])]
    if wrong:
        raise MeddinoError(_remedy(found, wrong))


def _print(found: Findings, console: Console) -> None:
    states = {
        **dict.fromkeys(found.changed, "changed"),
        **dict.fromkeys(found.missing, "missing"),
        **dict.fromkeys(found.unrecorded, "no record"),
    }
    if not states:
        return
    table, shown = Table("file", "state"), Counter[str]()
    for path, state in states.items():
        shown[state] += 1
        if shown[state] <= SHOWN:
            table.add_row(path, state)
    for state, count in shown.items():
        if count > SHOWN:
            table.add_row(f"... and {count - SHOWN} more", state)
    console.print(table)


def _remedy(found: Findings, wrong: list[str]) -> str:
    named = ", ".join(wrong[:SHOWN]) + (f" and {len(wrong) - SHOWN} more" if wrong[SHOWN:] else "")
    mains = sorted({*found.changed.values(), *found.missing.values()})
    anew = " ".join(map(shlex.quote, mains[:SHOWN])) + (" ..." if mains[SHOWN:] else "")
    remedy = (
        "restore them, or make anew what they belong to and all that follows:"
        f" snakemake --profile PROFILE --forcerun {anew} -- all"
        if mains
        else "delete them and rerun, or leave `--strict` out if they are yours"
    )
    return f"{len(wrong)} files are not as recorded: {named}; {remedy}"
