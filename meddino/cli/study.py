"""Run the workflow with a live display: what runs, how much is done, and what went wrong."""

import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from meddino.cli import status
from meddino.cli.alone import Alone, alone
from meddino.core import layers
from meddino.core.errors import MeddinoError

LOG = Path("logs/snakemake.log")
_RULE = re.compile(r"^(?:local)?rule (\w+):")
_DONE = re.compile(r"^(\d+) of (\d+) steps")
_TOTAL = re.compile(r"^total\s+(\d+)$")
_ERROR = re.compile(r"^Error in rule (\w+):")
_LOGFILE = re.compile(r"^    log: (.+?)(?: \(check log file|$)")
TAIL_LINES = 60
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str]) -> None:
    """Run `snakemake ARGUMENTS` and show its progress; its whole log goes to logs/snakemake.log.

    Raises:
        MeddinoError: another run is under way here, a configuration is refused, a job failed (its
            last words are shown first), or it was told to stop.
    """
    # Snakemake would run what some of them hold.
    layers.read([path for path in arguments if path.endswith((".yaml", ".yml"))])
    with alone() as run:
        _run(arguments, run)


def _run(arguments: Sequence[str], run: Alone) -> None:
    console = Console(stderr=True)
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    failed: dict[Path, str] = {}
    skewed: list[str] = []
    command = [sys.executable, "-m", "snakemake", *arguments]
    environment = {**os.environ, "PATH": _path()}
    with (
        _log() as log,
        # A group of its own: a signal reaches all jobs, and what outlives Snakemake can be found.
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            process_group=0,
        ) as process,
        _watched(process) as stopped,
    ):
        assert process.stdout is not None
        run.note(process.pid)
        lines = _failing(_teed(process.stdout, log, tail), failed, skewed)
        _show(lines, console, planned=lambda: run.note(process.pid))
    if stopped:
        raise MeddinoError("the study was told to stop; rerun to go on")
    if process.returncode < 0:
        raise MeddinoError(f"Snakemake was killed (signal {-process.returncode}); rerun to go on")
    if process.returncode:
        refused = refusal(tail)
        said = {last_words(rule, path): None for path, rule in failed.items()} or tail
        console.print(
            "\n".join([*skewed[:1], *(() if (skewed or refused) and not failed else said)]),
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        if skewed:
            raise MeddinoError(
                "files are dated later than what was made of them, as by a clock that was wrong or"
                " differs between hosts; mend the clock, date those of the future anew with"
                " `find results resources -newermt now -exec touch -d now {} +`, and rerun"
            )
        if status.lacks_workflow("\n".join(tail)):
            raise MeddinoError(status.NO_WORKFLOW)
        if refused:
            raise MeddinoError(f"{refused}; free space or permit writing, then rerun")
        raise MeddinoError(f"the study stopped; mend the cause and rerun (full log: {LOG})")


def _failing(lines: Iterator[str], failed: dict[Path, str], skewed: list[str]) -> Iterator[str]:
    """Note logs and rules of jobs that fail, and complaints of clocks."""
    rule = None
    for line in lines:
        if match := _ERROR.match(line):
            rule = match[1]
        elif rule and (match := _LOGFILE.match(line)):
            failed[Path(match[1])], rule = rule, None
        elif "clock skew" in line:
            skewed.append(line.strip())
        yield line


def last_words(rule: str, log: Path) -> str:
    """Why a job failed, in its own words, or that it had none."""
    lines = [x for x in log.read_text(errors="replace").splitlines() if x] if log.exists() else []
    last = lines[-1] if lines else "none"
    begins = [number for number, line in enumerate(lines) if line.startswith("meddino ")]
    if begins:
        return " ".join(lines[begins[-1] :])
    if any(line.startswith("Traceback") for line in lines):
        return f"{rule} failed: {last} (see {log})"
    return (
        f"{rule} was killed, as by the kernel where memory, or space on a disk, is short; its"
        f" last words: {last} (see {log})"
    )


def refusal(said: Iterable[str]) -> str:
    """What the system refused Snakemake itself, or nothing; without a file, where that writes."""
    words = [line.strip() for line in said if line.startswith("OSError: [Errno ")]
    if not words or "'" in words[-1]:
        return words[-1] if words else ""
    return f"{words[-1]} (in the working folder, or in {os.environ.get('TMPDIR', '/tmp')})"


@contextmanager
def _watched(process: subprocess.Popen[str]) -> Iterator[list[int]]:
    """Pass signals to stop on to all jobs; end those that outlive Snakemake; yield what came."""
    came: list[int] = []

    def pass_on(number: int, _: object) -> None:
        if number == signal.SIGCHLD:
            if process.poll() is None:
                return
            number = signal.SIGTERM
        else:
            came.append(number)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)

    before = {number: signal.signal(number, pass_on) for number in (*STOPS, signal.SIGCHLD)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _log() -> Iterator[TextIO]:
    try:
        LOG.parent.mkdir(exist_ok=True)
        log = LOG.open("w", encoding="utf-8")
    except OSError as error:
        raise MeddinoError(
            f"cannot write {LOG}: {error.strerror}; free space or permit writing there, then rerun"
        ) from error
    try:
        yield log
    finally:
        with suppress(OSError):  # what is left in its buffer may not fit the disk
            log.close()


def _path() -> str:
    """The search path with this interpreter first: rules call plain `python`."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def _teed(lines: Iterator[str], log: TextIO, tail: deque[str]) -> Iterator[str]:
    for line in lines:
        # A full disk ends the jobs that it concerns, not the display.
        with suppress(OSError):
            log.write(line)
            log.flush()
        tail.append(line.rstrip())
        yield line


def _show(lines: Iterator[str], console: Console, planned: Callable[[], None]) -> None:
    """Follow Snakemake's log: a bar in a terminal, a line per finished tenth elsewhere.

    `planned` is called when the jobs are counted: Snakemake has its lock by then.
    """
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
                planned()
                progress.update(task, total=int(match[1]))
            elif match := _RULE.match(line):
                progress.update(task, description=match[1])
            elif match := _DONE.match(line):
                done, total = int(match[1]), int(match[2])
                progress.update(task, completed=done, total=total)
                if not console.is_terminal and done * 10 // total != last_tenth:
                    last_tenth = done * 10 // total
                    console.print(f"{done} of {total} steps done", highlight=False)
