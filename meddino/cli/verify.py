"""The `verify` verb: compare results with their records.

Every file is read again, and its size and SHA-256 are compared with those that its verb recorded.
Of scans in a folder of yours, sizes and dates are compared with those that `fetch` listed.
"""

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

from meddino.cli import scans
from meddino.core import receipts, records
from meddino.core.errors import MeddinoError
from meddino.core.files import sha256
from meddino.core.parallel import granted
from meddino.core.words import some

SHOWN = 20
"""Files that are named one by one."""


@dataclass
class Findings:
    """Counts of intact files, and the others by name, each with the result to which it belongs."""

    intact: int = 0
    bytes: int = 0
    changed: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    unrecorded: list[str] = field(default_factory=list)
    freed: dict[str, str] = field(default_factory=dict)
    """Files that were deleted on purpose, and those whose deletion was cut short, by receipt."""
    left: dict[str, str] = field(default_factory=dict)
    scans: dict[str, str] = field(default_factory=dict)
    """What has become of files in folders of yours: changed, missing or new."""


def check(folders: Iterable[Path], console: Console) -> Findings:
    """Read every file again that a record below `folders` lists as made by its verb.

    Raises:
        MeddinoError: a record cannot be read.
    """
    folders, findings = list(folders), Findings()
    recorded: dict[str, tuple[records.Entry, str]] = {}
    raw: set[Path] = set()
    for path in sorted(path for folder in folders for path in records.find(folder)):
        record = records.read(path)
        main = record["outputs"][0]["path"]
        recorded |= {entry["path"]: (entry, main) for entry in record["outputs"]}
        if record["verb"] == "fetch":
            raw.add(Path(main).parent)
            findings.scans |= scans.states(Path(main))
    slips = list(receipts.find(folders))
    freed, findings.left = receipts.freed(slips), receipts.left(slips)
    for (entry, main), state in _states(list(recorded.values()), console):
        if state == "missing" and entry["path"] in freed:
            findings.freed[entry["path"]] = freed[entry["path"]]
        elif state == "intact":
            findings.intact += 1
            findings.bytes += entry["bytes"]
        else:
            getattr(findings, state)[entry["path"]] = main
    findings.unrecorded = sorted(set(_files(folders, raw)) - recorded.keys())
    return findings


def _states(
    recorded: list[tuple[records.Entry, str]], console: Console
) -> Iterator[tuple[tuple[records.Entry, str], str]]:
    """The state of each file, with a bar in a terminal; reading is shared among all cores."""
    columns = (TextColumn("verifying"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with (
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
        ThreadPoolExecutor(granted()) as pool,
    ):
        task = progress.add_task("", total=sum(entry["bytes"] for entry, _ in recorded))
        for file, state in zip(
            recorded, pool.map(_state, (entry for entry, _ in recorded)), strict=True
        ):
            progress.advance(task, file[0]["bytes"])
            yield file, state


def _state(entry: records.Entry) -> str:
    path = Path(entry["path"])
    if not path.is_file():
        return "missing"
    same = path.stat().st_size == entry["bytes"] and sha256(path) == entry["sha256"]
    return "intact" if same else "changed"


def _files(folders: Iterable[Path], raw: set[Path]) -> Iterator[str]:
    """Files that need a record: all but raw data, hidden files, and states of killed jobs."""
    for folder in folders:
        for parent, inner, names in os.walk(folder):
            folder_path = Path(parent)
            inner[:] = [
                name
                for name in inner
                if not name.startswith(".")
                and folder_path / name not in raw
                and not name.endswith(".incoming")
                and not (name == "runs" and (folder_path / "tables").exists())
            ]
            yield from (records.located(folder_path / name) for name in names if name[0] != ".")


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
    options = parser.parse_intermixed_args(arguments)
    folders = [folder for folder in options.folders if folder.is_dir()]
    if not folders:
        names = ", ".join(map(str, options.folders))
        raise MeddinoError(f"no folder {names} here; name the folders to verify")
    console = Console()
    findings = check(folders, console)
    console.print(
        f"{findings.intact} files ({findings.bytes / 1e9:.2f} GB) are as recorded; "
        f"{len(findings.changed)} changed, {len(findings.missing)} missing, "
        f"{len(findings.unrecorded)} without a record"
    )
    if findings.freed:
        console.print(receipts.summary(dict.fromkeys(map(Path, findings.freed.values()))))
    _print(findings, console)
    bad = [*findings.changed, *findings.missing, *(findings.unrecorded if options.strict else [])]
    if bad:
        raise MeddinoError(_remedy(findings, bad))
    if findings.left:
        slip = next(iter(findings.left.values()))
        raise MeddinoError(
            f"{len(findings.left)} files that were freed by {slip} and others lie there still, such"
            f" as {next(iter(findings.left))}: delete them"
        )
    if findings.scans:
        raise MeddinoError(
            f"scans in folders of yours: {scans.summary(findings.scans)}; rerun the study, which"
            " makes anew what depends on them, or restore them"
        )


def _print(findings: Findings, console: Console) -> None:
    states = {
        **dict.fromkeys(findings.changed, "changed"),
        **dict.fromkeys(findings.missing, "missing"),
        **dict.fromkeys(findings.unrecorded, "no record"),
        **findings.scans,
    }
    if not states:
        return
    table, printed = Table("file", "state"), Counter[str]()
    for path, state in states.items():
        printed[state] += 1
        if printed[state] <= SHOWN:
            table.add_row(path, state)
    for state, count in printed.items():
        if count > SHOWN:
            table.add_row(f"... and {count - SHOWN} more", state)
    console.print(table)


def _remedy(findings: Findings, bad: list[str]) -> str:
    mains = sorted({*findings.changed.values(), *findings.missing.values()})
    anew = " ".join(map(shlex.quote, mains[:SHOWN])) + (" ..." if mains[SHOWN:] else "")
    remedy = (
        "restore them, or make anew what they belong to and all that follows:"
        f" snakemake --profile PROFILE --forcerun {anew} -- all"
        if mains
        else "delete them and rerun, or leave `--strict` out if they are yours"
    )
    return f"{len(bad)} files are not as recorded: {some(bad, SHOWN)}; {remedy}"
