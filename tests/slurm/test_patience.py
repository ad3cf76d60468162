"""Submissions that wait while the queue is full, with a stand-in of sbatch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from meddino.slurm.patience import INSTALLED, wait_for_queue

SBATCH = """#!/bin/sh
echo "$*" >> {folder}/asked
[ "$(wc -l < {folder}/asked)" -gt {refusals} ] && {{ cat > {folder}/script; echo 7; exit 0; }}
echo "sbatch: error: {reason}" >&2
echo "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit\
 limit, user's size and/or time limits)" >&2
exit 1
"""
SUBMIT = f"""
import subprocess
from {wait_for_queue.__module__} import wait_for_queue
wait_for_queue(0.01)
wait_for_queue(0.01)
done = subprocess.run(["sbatch", "--parsable", "a b", "/dev/stdin"], input="job", text=True)
raise SystemExit(done.returncode)
"""


def submit(folder: Path, reason: str, refusals: int) -> subprocess.CompletedProcess[str]:
    """Submit a job where sbatch refuses a number of times for a reason."""
    program = folder / "bin" / "sbatch"
    program.parent.mkdir()
    program.write_text(SBATCH.format(folder=folder, reason=reason, refusals=refusals))
    program.chmod(0o755)
    path = os.pathsep.join([str(program.parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop(INSTALLED, None)
    return subprocess.run(
        [sys.executable, "-c", SUBMIT], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "reason",
    ["QOSMaxSubmitJobPerUserLimit", "AssocMaxSubmitJobLimit", "AssocGrpSubmitJobsLimit",
     "QOSGrpSubmitJobsLimit", "QOSMaxSubmitJobPerAccountLimit"],
)  # fmt: skip
def test_a_full_queue_is_waited_for(tmp_path: Path, reason: str) -> None:
    done = submit(tmp_path, reason, refusals=3)
    assert (done.returncode, done.stdout) == (0, "7\n")
    assert done.stderr == f"SLURM takes no more jobs ({reason}): waiting until some have ended\n"
    assert (tmp_path / "asked").read_text() == "--parsable a b /dev/stdin\n" * 4
    assert (tmp_path / "script").read_text() == "job"


@pytest.mark.parametrize(
    "reason", ["invalid partition specified: cpu", "QOSMaxWallDurationPerJobLimit"]
)
def test_other_refusals_pass_as_they_are(tmp_path: Path, reason: str) -> None:
    done = submit(tmp_path, reason, refusals=1)
    assert done.returncode == 1
    assert done.stderr.startswith(f"sbatch: error: {reason}\nsbatch: error: Batch job")


def test_a_machine_without_sbatch_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    wait_for_queue()
    assert os.environ["PATH"] == "/nowhere"
