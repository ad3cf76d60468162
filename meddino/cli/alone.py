"""One run of the workflow at a time in a folder, and what a killed one left is put away.

Snakemake's own lock says only that it is there. After `kill -9` or a power loss a person would have
to find out whether it still means something, and jobs of a Snakemake that is dead may still write.
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


class Alone:
    """What the only run of a folder writes down of itself, for the run after it."""

    def __init__(self, file: FileIO) -> None:
        """Keep the open, locked record."""
        self._file = file
        self.record: dict[str, Any] = {}

    def note(self, group: int) -> None:
        """Write down Snakemake's process group, and its lock if it has it by now.

        No other lock is ever removed: it may be that of somebody who runs Snakemake by hand.
        """
        self.record = {"host": socket.gethostname(), "group": group, "locks": _locks()}
        # A full disk ends the jobs that it concerns; this record is of use only after a kill.
        with suppress(OSError):
            self._file.truncate(0)
            self._file.write(json.dumps(self.record).encode())


@contextmanager
def alone() -> Iterator[Alone]:
    """Hold this folder for one run; put away what one that was killed, or this one, has left.

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
        # Where a file system knows no such locks, Snakemake's own has to do.
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _running(last) from error
        except OSError:
            pass
        _put_away(last)
        this = Alone(file)
        try:
            yield this
        finally:
            _put_away(this.record)
            file.truncate(0)


def _put_away(run: dict[str, Any]) -> None:
    """End jobs and remove the lock of a killed run on this host; of others nothing is known."""
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
    """End what is left of a process group; whether there was anything."""
    left = there = _members(group)
    for number in ENDING:
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        _, left = psutil.wait_procs(left, timeout=PATIENCE_S)
    return bool(there)


def _members(group: int) -> list[psutil.Process]:
    """Processes of a group, without those that are dead and not yet taken note of."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


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
