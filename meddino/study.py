"""Run the workflow with a live display: what runs, how much is done, and what went wrong."""

import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from meddino.core.errors import MeddinoError

LOG = Path("logs/snakemake.log")
_RULE = re.compile(r"^(?:local)?rule (\w+):")
_DONE = re.compile(r"^(\d+) of (\d+) steps")
_TOTAL = re.compile(r"^total\s+(\d+)$")
TAIL_LINES = 60


def main(arguments: Sequence[str]) -> None:
    """Run `snakemake ARGUMENTS` and show its progress; its whole log goes to logs/snakemake.log.

    Raises:
        MeddinoError: Snakemake failed; the end of its log is shown first.
    """
    console = Console(stderr=True)
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    LOG.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "snakemake", *arguments]
    environment = {**os.environ, "PATH": _path()}
    with (
        LOG.open("w", encoding="utf-8") as log,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        ) as process,
    ):
        assert process.stdout is not None
        _show(_teed(process.stdout, log, tail), console)
    if process.returncode:
        console.print("\n".join(tail), markup=False, highlight=False)
        raise MeddinoError(f"the study stopped; mend the cause and rerun (full log: {LOG})")


def _path() -> str:
    """The search path with this interpreter first: rules call plain `python`."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def _teed(lines: Iterator[str], log: Iterator[str], tail: deque[str]) -> Iterator[str]:
    for line in lines:
        log.write(line)  # type: ignore[attr-defined]
        tail.append(line.rstrip())
        yield line


def _show(lines: Iterator[str], console: Console) -> None:
    """Follow Snakemake's log: a bar in a terminal, a line per finished tenth elsewhere."""
    columns = (
        TextColumn("{task.description:24}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
        TimeElapsedColumn(),
    )
    last_tenth = -1
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("planning", total=1)
        for line in lines:
            if match := _TOTAL.match(line):
                progress.update(task, total=int(match[1]))
            elif match := _RULE.match(line):
                progress.update(task, description=match[1])
            elif match := _DONE.match(line):
                done, total = int(match[1]), int(match[2])
                progress.update(task, completed=done, total=total)
                if not console.is_terminal and done * 10 // total != last_tenth:
                    last_tenth = done * 10 // total
                    console.print(f"{done} of {total} steps done", highlight=False)
