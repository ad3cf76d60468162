"""The lock of a folder: one run of the workflow at a time, cleaning up after a killed one.

Snakemake's own lock does not tell who holds it. After `kill -9` or a power loss, a person would
have to find out whether it is stale, and jobs of a dead Snakemake may still write results.
"""

import fcntl
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

import psutil

from meddino.core.errors import MeddinoError

RECORD = Path(".snakemake/meddino.lock")
LOCKS = Path(".snakemake/locks")
ENDING = (signal.SIGHUP, signal.SIGTERM, signal.SIGKILL)
"""How jobs are ended: after SIGHUP, those that wait for a job of SLURM leave it running."""
PATIENCE_S = 10.0
"""How long jobs may take to end after each of the signals."""


class FolderLock:
    """What a run records of itself, for the run after it."""

    def __init__(self, file: FileIO) -> None:
        """Take the open, locked file of the record."""
        self._file = file
        self.record: dict[str, Any] = {}

    def note(self, group: int) -> None:
        """Record Snakemake's process group, and its lock files if it has them by now.

        Only recorded lock files are removed later: others belong to a Snakemake run by hand.
        """
        self.record = {"host": socket.gethostname(), "group": group, "locks": _locks()}
        # The record is of use only after a kill: a full disk must not end a run for its sake.
        with suppress(OSError):
            self._file.truncate(0)
            self._file.write(json.dumps(self.record).encode())


@contextmanager
def locked() -> Iterator[FolderLock]:
    """Hold this folder for one run, and clean up after a killed run before, and after this one.

    Raises:
        MeddinoError: another run is under way in this folder, or nothing can be written to it.
    """
    try:
        RECORD.parent.mkdir(exist_ok=True)
        file = RECORD.open("ab+", buffering=0)
    except OSError as error:
        raise MeddinoError(
            f"cannot write {Path.cwd() / RECORD}: {error.strerror}; free space or permit writing"
            " there, then rerun"
        ) from error
    with file:
        last = _read(file)
        # On a file system without such locks, Snakemake's own lock has to suffice.
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _running(last) from error
        except OSError:
            pass
        _clean_up(last)
        lock = FolderLock(file)
        try:
            yield lock
        finally:
            _clean_up(lock.record)
            file.truncate(0)


def _clean_up(run: dict[str, Any]) -> None:
    """End the jobs of a killed run of this host and remove its lock; leave other hosts' runs."""
    if not run or run["host"] != socket.gethostname():
        return
    if run["group"] in (process.pid for process in _members(run["group"])):
        raise _running(run)
    if _end(run["group"]):
        print("ended jobs that Snakemake had left", file=sys.stderr)
    if run["locks"] and run["locks"] == _locks():
        for name in run["locks"]:
            (LOCKS / name).unlink()
        print("removed the lock of Snakemake, which was killed", file=sys.stderr)


def _end(group: int) -> bool:
    """End the processes of a group; whether there were any."""
    processes = alive = _members(group)
    for number in ENDING:
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        _, alive = psutil.wait_procs(alive, timeout=PATIENCE_S)
    return bool(processes)


def _members(group: int) -> list[psutil.Process]:
    """Processes of a group, without zombies."""
    members = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
    return members


def _running(run: dict[str, Any]) -> MeddinoError:
    who = f"process {run['group']} on {run['host']}" if run else "it has just begun"
    return MeddinoError(
        f"another run is under way in {Path.cwd()} ({who}); wait until it is done, or stop it with"
        " Ctrl-C or `kill`, then rerun"
    )


def _read(file: FileIO) -> dict[str, Any]:
    """The record of the last run; empty if it was not killed."""
    file.seek(0)
    with suppress(ValueError):
        return dict(json.loads(file.readall()))
    return {}


def _locks() -> dict[str, int]:
    """Snakemake's lock files, and when each was made (ns)."""
    return {path.name: path.stat().st_mtime_ns for path in sorted(LOCKS.glob("*.lock"))}
