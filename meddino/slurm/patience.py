"""Submissions that wait while a user's or a group's share of the queue is full.

Sites limit how many jobs one may have in the queue. sbatch then refuses, and neither Snakemake's
executor nor submitit tries again: a study would fail because it is large. `wait_for_queue` puts an
`sbatch` of ours before SLURM's own, for this process and those that it starts.

As a program (`python patience.py SBATCH PAUSE NOTICES ARGUMENTS`) this is that sbatch. It needs
nothing but Python, since it starts once for every job.
"""

import atexit
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

PAUSE_SECONDS = 30.0
"""Between two tries."""
FULL = re.compile(r"\b(?:QOS|Assoc)(?:Max|Grp)SubmitJob\w*")
"""SLURM's reasons (`squeue --help` calls them reason codes) that pass when earlier jobs end."""
INSTALLED = "MEDDINO_PATIENT_SBATCH"
"""Environment variable: the folder of our sbatch."""


def wait_for_queue(pause_s: float = PAUSE_SECONDS) -> None:
    """Have sbatch wait while the queue is full; say so on this process's standard error.

    Does nothing on a machine without sbatch, or where it was done before.
    """
    sbatch = shutil.which("sbatch")
    if sbatch is None or Path(os.environ.get(INSTALLED, "")) == Path(sbatch).parent:
        return
    folder = tempfile.mkdtemp(prefix="meddino-sbatch-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    words = [sys.executable, __file__, sbatch, str(pause_s), f"/proc/{os.getpid()}/fd/2"]
    program = Path(folder) / "sbatch"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    program.chmod(0o755)
    os.environ[INSTALLED] = folder
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"


def main(sbatch: str, pause_s: float, notices: str, arguments: list[str]) -> int:
    """Run sbatch until it does not refuse because the queue is full; return its status."""
    script = sys.stdin.buffer.read() if "/dev/stdin" in arguments else None
    noticed = False
    while True:
        answer = subprocess.run(
            [sbatch, *arguments], input=script, capture_output=True, check=False
        )
        full = FULL.search(answer.stderr.decode(errors="replace"))
        if answer.returncode == 0 or not full:
            sys.stdout.buffer.write(answer.stdout)
            sys.stderr.buffer.write(answer.stderr)
            return answer.returncode
        if not noticed:
            _notice(notices, f"SLURM takes no more jobs ({full[0]}): waiting until some have ended")
        noticed = True
        time.sleep(pause_s)


def _notice(path: str, line: str) -> None:
    """Tell people, not the program that reads our output."""
    with suppress(OSError), open(path, "a", encoding="utf-8") as file:
        print(line, file=file)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2]), sys.argv[3], sys.argv[4:]))
