"""Jobs in SLURM's queue: find, submit, wait for and cancel them."""

import hashlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from meddino.core.errors import MeddinoError, Stopped
from meddino.slurm.flags import Flags
from meddino.slurm.job import LEAVE_SECONDS, Work
from meddino.slurm.patience import wait_for_queue

POLL_SECONDS = (1.0, 30.0)
"""Between two questions to SLURM, at first and later: many who wait must not weigh on it."""
REQUEUES = 1000
"""How often a job may reach its time limit; each time it has made progress."""
SNAKEMAKES = "meddino_"
"""How the names of the jobs begin that Snakemake's executor submits: see profiles/slurm."""
ENDS = (
    "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL",
    "DEADLINE",
)  # fmt: skip
"""States of SLURM in which a job is over."""


class Job(NamedTuple):
    """A job in SLURM's queue."""

    number: str
    folder: Path

    def log(self, task: int = 0) -> Path:
        """What a process of the job prints."""
        return self.folder / f"{self.number}_{task}_log.out"


def job_name(folder: Path) -> str:
    """The job's name: equal for the same work in the same folder, and for nothing else."""
    return f"meddino-{folder.stem}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"


def find(folder: Path) -> Job | None:
    """The job of this folder that waits or runs, where an earlier process has submitted one."""
    answer = _ask("squeue", "--noheader", "--format=%i", f"--name={job_name(folder)}")
    if answer.returncode:
        raise MeddinoError(f"SLURM does not answer ({answer.stderr.strip()}); rerun when it does")
    for number in answer.stdout.split():
        _say(f"found SLURM job {number} ({job_name(folder)}) and wait for it")
        return Job(number, folder)
    return None


def submit(folder: Path, flags: Flags, command: list[str]) -> Job:
    """Submit a job; waits while the queue takes no more of this user's or group's.

    Raises:
        MeddinoError: SLURM refuses it.
    """
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    wait_for_queue()
    shutil.rmtree(folder, ignore_errors=True)  # of a job that failed
    executor = SlurmExecutor(folder, max_num_timeout=REQUEUES)
    cores = flags.others.get("cpus-per-task")
    executor.update_parameters(
        job_name=job_name(folder),
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
        if job := find(folder):
            return job
        raise MeddinoError(f"SLURM refuses the job: {error}; mend the flags of sbatch") from error
    _say(f"submitted SLURM job {number} ({job_name(folder)})")
    return Job(number, folder)


def wait(job: Job) -> None:
    """Wait for a job, and show its log and its state.

    Raises:
        MeddinoError: the job failed.
        Stopped: a signal interrupted us; the job is cancelled, unless the terminal was closed.
    """
    position, last_state, ended, pause = 0, "", "", POLL_SECONDS[0]
    with _interruptible():
        try:
            while not ended:
                state = _state(job)
                position = _relay(job.log(), position)
                if state and state != last_state:
                    _say(f"SLURM job {job.number}: {state}")
                    last_state = state
                ended = _end(job, state)
                if not ended:
                    time.sleep(pause)
                    pause = min(1.2 * pause, POLL_SECONDS[1])
        except _Interrupted as interrupt:
            _leave(job, interrupt.number)
    _relay(job.log(), position)
    if ended != "COMPLETED":
        raise MeddinoError(
            f"SLURM job {job.number} ended as {ended}, as its log above or in {job.folder} may"
            f" explain; rerun to go on from what it kept{_last_words(job)}"
        )


def cancel_leftovers() -> None:
    """Cancel the jobs that a killed Snakemake submitted from this folder by its own executor.

    Snakemake has forgotten these jobs and would run the same work beside them. It holds the lock of
    this folder, so that no other Snakemake owns them. Jobs of `submit` are kept: `find` finds them.
    """
    if shutil.which("squeue") is None:
        return
    folder = str(Path.cwd())

    def leftovers() -> list[str]:
        answer = _ask("squeue", "--noheader", "--me", "--format=%i %j %Z")
        fields = [line.split(maxsplit=2) for line in answer.stdout.splitlines()]
        return [f[0] for f in fields if f[1].startswith(SNAKEMAKES) and f[2:] == [folder]]

    if numbers := leftovers():
        _say(f"cancelling SLURM jobs {', '.join(numbers)}: a Snakemake that was killed left them")
        _ask("scancel", *numbers)
        end = time.monotonic() + LEAVE_SECONDS
        while leftovers() and time.monotonic() < end:
            time.sleep(1)


def _state(job: Job) -> str:
    """State and reason in SLURM's words; empty without an answer, GONE for a forgotten job."""
    answer = _ask("squeue", "--noheader", "--states=all", "--format=%T %r", f"--jobs={job.number}")
    if answer.returncode:
        return "GONE" if "Invalid job id" in answer.stderr else ""
    return answer.stdout.strip().replace(" None", "") or "GONE"


def _end(job: Job, state: str) -> str:
    """How a job ended; empty while it has not."""
    word = state.partition(" ")[0]
    if word == "GONE":  # SLURM forgets old jobs, and all jobs when its controller loses its state
        return _result(job)
    return word if word in ENDS else ""


def _result(job: Job) -> str:
    """How the first process ended, by the result that it wrote."""
    from submitit.core.utils import JobPaths, pickle_load

    path = JobPaths(job.folder, job_id=job.number, task_id=0).result_pickle
    with suppress(OSError, EOFError):
        return "COMPLETED" if pickle_load(path)[0] == "success" else "FAILED"
    return "lost: SLURM does not know it, and it left no result"


def _last_words(job: Job) -> str:
    """The ends of the logs of the other processes, one of which may have failed first."""
    ends = ""
    for path in sorted(job.folder.glob(f"{job.number}_*_log.out")):
        if path != job.log():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-2:]
            ends += "".join(f"\n  {path.name}: {line[:300]}" for line in lines)
    return ends and f"; its other processes said:{ends}\n"


class _Interrupted(Exception):
    def __init__(self, number: int) -> None:
        self.number = number


@contextmanager
def _interruptible() -> Iterator[None]:
    """In the block, turn signals that would end us into `_Interrupted`, unless they are ignored."""

    def interrupt(number: int, _: Any) -> NoReturn:
        raise _Interrupted(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # `nohup` ignores SIGHUP, so that we go on without a terminal.
    handled = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(job: Job, number: int) -> NoReturn:
    """End because of a signal, and cancel the job unless the signal is a closed terminal's."""
    if number == signal.SIGHUP:
        raise Stopped(f"SLURM job {job.number} goes on; the same command finds it again")
    _ask("scancel", job.number)
    raise Stopped(f"SLURM job {job.number} is cancelled; rerun to go on from its last checkpoint")


def _ask(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of SLURM; one that takes too long counts as failed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    except FileNotFoundError as error:
        raise MeddinoError(
            f"{command[0]} is not here: submit from a host of the cluster, or leave --sbatch empty"
        ) from error
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", "no answer in two minutes")


def _relay(log: Path, position: int) -> int:
    """Print a log from a position (bytes) on; return where it ends."""
    with suppress(FileNotFoundError), log.open("rb") as handle:
        handle.seek(position)
        added = handle.read()
        sys.stderr.write(added.decode("utf-8", errors="replace"))
        sys.stderr.flush()
        return position + len(added)
    return position


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
