"""The `submit` verb: run a verb that trains as a SLURM job of one process a GPU, and wait for it.

    python -m meddino submit --folder DIR --sbatch="--partition=gpu --gpus-per-node=8" -- VERB ...

Without flags for sbatch, the verb runs here, in place of this process. With them, this process
submits a job and waits for it: it shows the job's log, and cancels the job when it is interrupted.
If it was killed itself, the same command finds the job again by its name, which follows from DIR.
Before the time limit, and when the job is preempted, the verb keeps a checkpoint; SLURM then queues
the job anew, and it goes on from there.
"""

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from meddino.slurm import queue
from meddino.slurm.flags import Flags


def main(arguments: Sequence[str]) -> None:
    """Run a verb here or on the cluster.

    Raises:
        MeddinoError: SLURM cannot be reached or refuses the job, or the job failed.
        Stopped: a signal interrupted us; the job is cancelled.
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
    options = parser.parse_args(arguments)
    command = _command(options.verb, options.apptainer)
    if not options.sbatch.strip():
        os.execvp(command[0], command)
    folder = options.folder.absolute()
    flags = Flags.parse(options.sbatch)
    job = queue.find(folder) or queue.submit(folder, flags, command)
    queue.wait(job)
    shutil.rmtree(folder, ignore_errors=True)


def _command(verb: list[str], apptainer: str) -> list[str]:
    """The verb as a command, in an image as Snakemake runs its own jobs in one."""
    if not apptainer.strip():
        return [sys.executable, "-m", "meddino", *verb]
    inside = ["apptainer", "exec", "--home", str(Path.cwd()), *shlex.split(apptainer)]
    return [*inside, "python", "-m", "meddino", *verb]
