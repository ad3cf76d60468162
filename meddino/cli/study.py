"""Run the workflow with a live display: what runs, how much is done, and what went wrong."""

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from meddino.cli import snakemake
from meddino.cli.forkserver import forkserver
from meddino.cli.job_logs import last_words
from meddino.cli.lock import FolderLock, locked
from meddino.cli.snakemake import LOG, Run
from meddino.core.errors import MeddinoError
from meddino.pipeline.checks import REMARK

TAIL_LINES = 60
PRELOAD = "--preload"
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str]) -> None:
    """Run `snakemake ARGUMENTS` and show its progress; its whole log goes to logs/snakemake.log.

    With --preload, libraries are imported once and each job is forked from the process that has
    them: a study of many short jobs on this machine then takes half the time (Linux).

    Raises:
        MeddinoError: another run is under way here, a configuration is refused, a job failed (its
            last words are shown first), or a signal stopped it.
    """
    command = snakemake.command([word for word in arguments if word != PRELOAD])
    preload = PRELOAD in arguments
    starts: AbstractContextManager[dict[str, str]] = forkserver() if preload else nullcontext({})
    with locked() as lock, starts as variables:
        _run(command, lock, variables)


def _run(command: list[str], lock: FolderLock, variables: Mapping[str, str]) -> None:
    console = Console(stderr=True)
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    run = Run()
    with (
        _log() as log,
        # A group of its own: a signal reaches all jobs, and what outlives Snakemake can be found.
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PATH": _path(), **variables},
            process_group=0,
        ) as process,
        _signals_passed_on(process) as signals,
    ):
        assert process.stdout is not None
        lock.note(process.pid)
        lines = _teed(process.stdout, log, tail)
        _show(lines, run, console, planned=lambda: lock.note(process.pid))
    if signals:
        raise MeddinoError("a signal stopped the study; rerun to go on")
    if process.returncode < 0:
        raise MeddinoError(f"Snakemake was killed (signal {-process.returncode}); rerun to go on")
    if process.returncode:
        raise _failure(run, tail, console)


def _failure(run: Run, tail: Sequence[str], console: Console) -> MeddinoError:
    """Print why jobs failed, or else the end of Snakemake's log; return the error to raise."""
    refused = snakemake.refusal(tail)
    if not run.failed_logs and (reason := snakemake.our_error("\n".join(tail))):
        return MeddinoError(reason)
    if run.sbatch:
        reason = " ".join(filter(None, map(str.strip, run.sbatch)))
        return MeddinoError(
            f"SLURM refuses a job: {reason}; mend what the profile asks for, then rerun"
            f" (full log: {LOG})"
        )
    words = {last_words(rule, path): str(path) for path, rule in run.failed_logs.items()}
    lines: Iterable[str] = [w if log in w else f"{w} (see {log})" for w, log in words.items()]
    if not words:
        lines = () if run.clock_warnings or refused else tail
    text = "\n".join([*run.clock_warnings[:1], *lines])
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    if run.clock_warnings:
        return MeddinoError(
            "files are dated later than what was made of them, as by a clock that was wrong or"
            " differs between hosts; mend the clock, date those of the future anew with"
            " `find results resources -newermt now -exec touch -d now {} +`, and rerun"
        )
    if snakemake.lacks_workflow("\n".join(tail)):
        return MeddinoError(snakemake.NO_WORKFLOW)
    if refused:
        return MeddinoError(f"{refused}; free space or permit writing, then rerun")
    return MeddinoError(f"the study stopped; mend the cause and rerun (full log: {LOG})")


@contextmanager
def _signals_passed_on(process: subprocess.Popen[str]) -> Iterator[list[int]]:
    """Pass stop signals on to all jobs, end jobs that outlive Snakemake; yield the signals."""
    received: list[int] = []

    def pass_on(number: int, _: object) -> None:
        if number == signal.SIGCHLD:
            if process.poll() is None:
                return
            number = signal.SIGTERM
        else:
            received.append(number)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)

    before = {number: signal.signal(number, pass_on) for number in (*STOPS, signal.SIGCHLD)}
    try:
        yield received
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
        with suppress(OSError):  # its buffer may not fit the disk
            log.close()


def _path() -> str:
    """The search path with this interpreter first: rules call plain `python`."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def _teed(lines: Iterator[str], log: TextIO, tail: deque[str]) -> Iterator[str]:
    for line in lines:
        # A full disk must end jobs that write there, not the display.
        with suppress(OSError):
            log.write(line)
            log.flush()
        tail.append(line.rstrip())
        yield line


def _show(lines: Iterator[str], run: Run, console: Console, planned: Callable[[], None]) -> None:
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
            total, done = run.total, run.done
            run.read(line)
            if run.total and not total:
                planned()
            rule = run.jobs[-1].rule if run.jobs else "planning"
            if line.startswith(REMARK):
                console.print(line.rstrip(), markup=False, highlight=False, soft_wrap=True)
            progress.update(task, description=rule, completed=run.done, total=run.total or 1)
            if run.done == done or console.is_terminal:
                continue
            if run.done * 10 // run.total != last_tenth:
                last_tenth = run.done * 10 // run.total
                console.print(f"{run.done} of {run.total} steps done", highlight=False)
