"""The `submit` verb: run a verb that trains as a SLURM job of one process a GPU, and wait for it.

    python -m meddino submit --folder DIR --sbatch="--partition=gpu --gpus-per-node=8" -- VERB ...

Without flags for sbatch the verb runs here, in place of this process. With them, submitit submits
the job, and this process waits for it: it shows the job's log, cancels the job when it is
interrupted, and finds the job again when it was killed itself, by a name that follows from DIR.
Before the time limit, and when the job is preempted, the verb keeps a checkpoint; SLURM then queues
the job anew, and it goes on from there.
"""

import argparse
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from meddino.core.errors import MeddinoError, Stopped

POLL_SECONDS = (1.0, 30.0)
"""Between two questions to SLURM, at first and later: many who wait must not weigh on it."""
NOTICE_SECONDS = 300
"""Before the time limit the job is told to stop: enough for an iteration and a checkpoint."""
LEAVE_SECONDS = 600.0
"""How long a process that was told to stop waits to be ended by SLURM."""
REQUEUES = 1000
"""How often a job may reach its time limit; each time it has made progress."""
SNAKEMAKES = "meddino_"
"""How the names of the jobs begin that Snakemake's executor submits: see profiles/slurm."""
OURS = ("job-name", "output", "error", "open-mode", "requeue", "array", "wrap", "chdir")
"""Flags of sbatch that are not the user's to set."""


class Job(NamedTuple):
    """A job in SLURM's queue."""

    number: str
    folder: Path

    def log(self, task: int = 0) -> Path:
        """What a process of the job prints."""
        return self.folder / f"{self.number}_{task}_log.out"


def main(arguments: Sequence[str]) -> None:
    """Run a verb here or on the cluster.

    Raises:
        MeddinoError: SLURM cannot be reached or refuses the job, or the job failed.
        Stopped: we were interrupted; the job is cancelled.
    """
    parser = argparse.ArgumentParser(
        prog="python -m meddino submit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--folder", type=Path, required=True, metavar="PATH", help="files of the job"
    )
    parser.add_argument("--sbatch", default="", metavar="FLAGS", help="flags of sbatch, long form")
    parser.add_argument(
        "--apptainer", default="", metavar="FLAGS", help="image to run in, after flags of its own"
    )
    parser.add_argument("verb", nargs="+", help="the verb and its flags")
    given = parser.parse_args(arguments)
    command = _command(given.verb, given.apptainer)
    if not given.sbatch.strip():
        os.execvp(command[0], command)
    folder = given.folder.absolute()
    flags = Flags.parse(given.sbatch)
    job = find(folder) or submit(folder, flags, command)
    wait(job)
    shutil.rmtree(folder, ignore_errors=True)


def _command(verb: list[str], apptainer: str) -> list[str]:
    """The verb as a command, in an image as Snakemake runs its own jobs in one."""
    if not apptainer.strip():
        return [sys.executable, "-m", "meddino", *verb]
    inside = ["apptainer", "exec", "--home", str(Path.cwd()), *shlex.split(apptainer)]
    return [*inside, "python", "-m", "meddino", *verb]


class Flags(NamedTuple):
    """What a job asks of the cluster."""

    nodes: int
    tasks_per_node: int
    minutes: int
    notice: int
    others: dict[str, str | bool]

    @classmethod
    def parse(cls, text: str) -> "Flags":
        """Read flags of sbatch in their long form, such as `--gpus-per-node=8 --time=2-00:00:00`.

        Raises:
            MeddinoError: one is short, or is set by us, or there is no time limit.
        """
        found = _long_flags(text)
        if ours := sorted(set(found) & set(OURS)):
            raise MeddinoError(f"sbatch: --{ours[0]} is set by meddino; leave it out of {text!r}")
        gpus = str(found.get("gpus-per-node", "")).rpartition(":")[2]
        tasks = found.pop("ntasks-per-node", gpus or "1")
        nodes, limit = found.pop("nodes", "1"), found.pop("time", "none")
        notice = str(found.pop("signal", f"USR2@{NOTICE_SECONDS}")).rpartition("@")[2]
        try:
            return cls(int(nodes), int(tasks), _minutes(str(limit)), int(notice), found)
        except ValueError as error:
            raise MeddinoError(
                f"sbatch: cannot read {text!r}; give --time too ({error})"
            ) from error


def _long_flags(text: str) -> dict[str, str | bool]:
    found: dict[str, str | bool] = {}
    words = shlex.split(text)
    while words:
        word = words.pop(0)
        if not word.startswith("--") or len(word) < 3:
            raise MeddinoError(f"sbatch: write flags as --key=value, not {word!r}, in {text!r}")
        key, equals, value = word[2:].partition("=")
        follows = bool(words) and not words[0].startswith("-")
        found[key] = value if equals else words.pop(0) if follows else True
    return found


def _minutes(text: str) -> int:
    """SLURM's ways to write a time, `minutes[:seconds]` or `[days-]hours[:minutes[:seconds]]`."""
    days, dash, clock = text.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if len(parts) < 3:
        parts = [*parts, 0, 0][:3] if dash else [0, *parts, 0][:3]
    hours, minutes, seconds = parts
    return max(1, int(days or 0) * 1440 + hours * 60 + minutes + (seconds + 59) // 60)


# ---- in the queue ----------------------------------------------------------------------------


def name(folder: Path) -> str:
    """The job's name: equal for the same work in the same place, and no other."""
    return f"meddino-{folder.stem}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"


def find(folder: Path) -> Job | None:
    """The job of this folder that waits or runs, where an earlier process has submitted one."""
    answer = _ask("squeue", "--noheader", "--format=%i", f"--name={name(folder)}")
    if answer.returncode:
        raise MeddinoError(f"SLURM does not answer ({answer.stderr.strip()}); rerun when it does")
    for number in answer.stdout.split():
        _say(f"found SLURM job {number} ({name(folder)}) and wait for it")
        return Job(number, folder)
    return None


def submit(folder: Path, flags: Flags, command: list[str]) -> Job:
    """Submit a job.

    Raises:
        MeddinoError: SLURM refuses it.
    """
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    shutil.rmtree(folder, ignore_errors=True)  # of a job that failed
    executor = SlurmExecutor(folder, max_num_timeout=REQUEUES)
    cores = flags.others.get("cpus-per-task")
    executor.update_parameters(
        job_name=name(folder),
        nodes=flags.nodes,
        ntasks_per_node=flags.tasks_per_node,
        signal_delay_s=flags.notice,
        stderr_to_stdout=True,
        # One process that failed would leave the others waiting. srun does not take over cores.
        srun_args=["--kill-on-bad-exit=1", *([f"--cpus-per-task={cores}"] if cores else [])],
        time=flags.minutes,
        additional_parameters={"requeue": True, **flags.others},
    )
    try:
        number = executor.submit(Work(command)).job_id
    except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError) as error:
        # A busy controller may answer too late, and have the job all the same.
        if found := find(folder):
            return found
        raise MeddinoError(f"SLURM refuses the job: {error}; mend the flags of sbatch") from error
    _say(f"submitted SLURM job {number} ({name(folder)})")
    return Job(number, folder)


def wait(job: Job) -> None:
    """Wait for a job, and show its log and its state.

    Raises:
        MeddinoError: the job failed.
        Stopped: we were interrupted; the job is cancelled, unless only the terminal was closed.
    """
    shown, told, ended, pause = 0, "", "", POLL_SECONDS[0]
    with _interruptible():
        try:
            while not ended:
                state = _state(job)
                shown = _relay(job.log(), shown)
                if state and state != told:
                    _say(f"SLURM job {job.number}: {state}")
                    told = state
                ended = _end(job, state)
                if not ended:
                    time.sleep(pause)
                    pause = min(1.2 * pause, POLL_SECONDS[1])
        except _Interrupted as interrupt:
            _leave(job, interrupt.number)
    _relay(job.log(), shown)
    if ended != "COMPLETED":
        raise MeddinoError(
            f"SLURM job {job.number} ended as {ended}, as its log above or in {job.folder} may"
            f" explain; rerun to go on from what it kept{_last_words(job)}"
        )


def cancel_leftovers() -> None:
    """Cancel what Snakemake's executor has submitted from this folder before it was killed.

    Snakemake does not know these jobs any more, and would run the same beside them. Its lock says
    that no other Snakemake works here, so that there is nobody whom they belong to. Jobs of this
    module are left alone: they are found again.
    """
    if shutil.which("squeue") is None:
        return
    here = str(Path.cwd())

    def left() -> list[str]:
        answer = _ask("squeue", "--noheader", "--me", "--format=%i %j %Z")
        fields = [line.split(maxsplit=2) for line in answer.stdout.splitlines()]
        return [f[0] for f in fields if f[1].startswith(SNAKEMAKES) and f[2:] == [here]]

    if numbers := left():
        _say(f"cancelling SLURM jobs {', '.join(numbers)}: a Snakemake that was killed left them")
        _ask("scancel", *numbers)
        end = time.monotonic() + LEAVE_SECONDS
        while left() and time.monotonic() < end:
            time.sleep(1)


def _state(job: Job) -> str:
    """State and reason in SLURM's words; empty where it does not answer, GONE where it forgot."""
    answer = _ask("squeue", "--noheader", "--states=all", "--format=%T %r", f"--jobs={job.number}")
    if answer.returncode:
        return "GONE" if "Invalid job id" in answer.stderr else ""
    return answer.stdout.strip().replace(" None", "") or "GONE"


def _end(job: Job, state: str) -> str:
    """How a job ended; empty while it has not."""
    word = state.partition(" ")[0]
    if word == "GONE":  # by age, or with a controller that lost its memory
        return _result(job)
    over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
    return word if word in (*over, "BOOT_FAIL", "DEADLINE") else ""


def _result(job: Job) -> str:
    """What the first process left of itself."""
    from submitit.core.utils import JobPaths, pickle_load

    path = JobPaths(job.folder, job_id=job.number, task_id=0).result_pickle
    with suppress(OSError, EOFError):
        return "COMPLETED" if pickle_load(path)[0] == "success" else "FAILED"
    return "lost: SLURM does not know it, and it left no result"


def _last_words(job: Job) -> str:
    """The ends of the logs of the other processes, one of which may have failed first."""
    said = ""
    for path in sorted(job.folder.glob(f"{job.number}_*_log.out")):
        if path != job.log():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-2:]
            said += "".join(f"\n  {path.name}: {line[:300]}" for line in lines)
    return said and f"; its other processes said:{said}\n"


class _Interrupted(Exception):
    def __init__(self, number: int) -> None:
        self.number = number


@contextmanager
def _interruptible() -> Iterator[None]:
    """Raise signals that would end us as `_Interrupted` in the block; `nohup` ignores one."""

    def interrupt(number: int, _: Any) -> NoReturn:
        raise _Interrupted(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    heeded = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(job: Job, number: int) -> NoReturn:
    """End because of a signal: without the job where the terminal was closed, else with it."""
    if number == signal.SIGHUP:
        raise Stopped(f"SLURM job {job.number} goes on; the same command finds it again")
    _ask("scancel", job.number)
    raise Stopped(f"SLURM job {job.number} is cancelled; rerun to go on from its last checkpoint")


def _ask(*command: str) -> subprocess.CompletedProcess[str]:
    """Ask SLURM; one that cannot be asked is one that does not answer."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    except FileNotFoundError as error:
        raise MeddinoError(
            f"{command[0]} is not here: submit from a host of the cluster, or leave --sbatch empty"
        ) from error
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", "no answer in two minutes")


def _relay(log: Path, shown: int) -> int:
    """Print what was added to a log."""
    with suppress(FileNotFoundError), log.open("rb") as handle:
        handle.seek(shown)
        added = handle.read()
        sys.stderr.write(added.decode("utf-8", errors="replace"))
        sys.stderr.flush()
        return shown + len(added)
    return shown


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ---- in the job ------------------------------------------------------------------------------


class Work:
    """What each process of the job does. submitit calls it, and `checkpoint` when time is up."""

    def __init__(self, command: list[str]) -> None:
        """Take the command that each process runs."""
        self.command = command
        self.code: int | None = None
        self.told = False
        self.kill: Callable[[int], None] = lambda number: None

    def __call__(self) -> None:
        """Run the verb to its end."""
        from submitit.helpers import TorchDistributedEnvironment

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        # SLURM sends SIGUSR2 to all processes of a job: those that do not know it yet shall live.
        quiet = partial(signal.signal, signal.SIGUSR2, signal.SIG_IGN)
        child = subprocess.Popen(self.command, preexec_fn=quiet)
        self.kill = child.send_signal
        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, partial(self._pass_on, signal.getsignal(number)))
        # In a thread: a signal's handler, which must wait too, interrupts the main one anywhere.
        threading.Thread(target=lambda: setattr(self, "code", child.wait()), daemon=True).start()
        with suppress(_Finished):
            while self.code is None:
                time.sleep(0.1)
            if self.code == Stopped.status or (self.code and self.told):
                # SLURM, which has said so, also decides what comes next: an end or a new start. Who
                # leaves before that is taken for one that has failed.
                time.sleep(LEAVE_SECONDS)
            if self.code:
                sys.exit(self.code)  # it has said why

    def checkpoint(self) -> Any:
        """Stop the verb, and return what is to be queued: the same again.

        Raises:
            _Finished: it came to its end at this moment.
        """
        from submitit.helpers import DelayedSubmission

        while self.code is None:
            self.kill(signal.SIGUSR2)  # again and again: it may not listen yet
            time.sleep(1)
        if self.code == 0:
            raise _Finished
        return DelayedSubmission(Work(self.command))

    def _pass_on(self, submitits: Any, number: int, frame: Any) -> None:
        """Tell the verb, as SLURM may have told this process alone; then do as submitit does."""
        self.told = True
        self.kill(number)
        submitits(number, frame)


class _Finished(Exception):
    """The verb came to its end while it was told to stop."""
