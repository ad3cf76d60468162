"""One run at a time, and what a killed one leaves: its lock, and jobs that nobody waits for."""

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from places import ROOT
from processes import heed_all

from meddino.cli import lock as module
from meddino.cli.lock import LOCKS, RECORD, locked
from meddino.cli.snakemake import LOG
from meddino.core.errors import MeddinoError
from meddino.core.files import atomic

FAKE = """
import os, pathlib, subprocess, sys, time
pathlib.Path(".snakemake/locks").mkdir()
pathlib.Path(".snakemake/locks/0.output.lock").write_text("results/x")
job = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL)
pathlib.Path("job").write_text(str(job.pid))
print("total  1", flush=True)
job.wait()
"""
"""Stands for Snakemake: it locks, says how many jobs there are, and waits for one."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "PATIENCE_S", 2.0)
    return tmp_path


def lock() -> Path:
    path = LOCKS / "0.output.lock"
    path.parent.mkdir(parents=True)
    path.write_text("results/x")
    return path


def dead() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def record(group: int, host: str = "", locks: dict[str, int] | None = None) -> None:
    RECORD.parent.mkdir(exist_ok=True)
    found = module._locks() if locks is None else locks
    value = {"host": host or socket.gethostname(), "group": group, "locks": found}
    RECORD.write_text(json.dumps(value))


def test_the_second_of_two_is_told_of_the_first() -> None:
    with locked() as first:
        first.note(os.getpid())
        message = rf"another run is under way .*process {os.getpid()} on"
        with pytest.raises(MeddinoError, match=message), locked():
            pass
        first.record = {}
    with locked():
        pass


def test_the_lock_of_a_killed_run_is_removed(capsys: pytest.CaptureFixture[str]) -> None:
    stale = lock()
    record(dead())
    with locked():
        assert not stale.exists()
    assert "removed the lock" in capsys.readouterr().err


@pytest.mark.parametrize("whose", ["another", "another host's", "nobody's"])
def test_no_other_lock_is_removed(whose: str) -> None:
    """Somebody may run Snakemake by hand, here or on another host of a shared file system."""
    held = lock()
    if whose == "another":
        record(dead(), locks={"0.output.lock": 1})
    elif whose == "another host's":
        record(dead(), host="elsewhere")
    with locked():
        assert held.exists()


def test_a_run_that_lost_only_its_display_is_left_locked() -> None:
    with subprocess.Popen(["sleep", "60"], process_group=0) as process:
        record(process.pid)
        with pytest.raises(MeddinoError, match="under way"), locked():
            pass
        assert process.poll() is None
        process.kill()


def test_a_torn_record_is_no_record() -> None:
    RECORD.parent.mkdir()
    RECORD.write_text('{"host": "x", "gro')
    with locked():
        pass


def test_where_nothing_can_be_written_it_is_said() -> None:
    RECORD.parent.write_text("a file")
    with pytest.raises(MeddinoError, match=r"cannot write .*free space or permit"), locked():
        pass


def run_study(folder: Path, fake: str) -> subprocess.Popen[str]:
    """`study` with something else in the place of Snakemake."""
    (folder / "snakemake.py").write_text(fake)
    return subprocess.Popen(
        [sys.executable, "-m", "meddino", "study", "all"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_all,
    )


def until(path: Path) -> int:
    """Wait for a file; the number in it."""
    deadline = time.monotonic() + 600
    while not (path.exists() and path.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return int(path.read_text())


def gone(process: int) -> bool:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        if "\nState:\tZ" in Path(f"/proc/{process}/status").read_text():
            return True
        time.sleep(0.02)
    return False


def recorded(folder: Path) -> None:
    deadline = time.monotonic() + 600
    while "output.lock" not in (folder / RECORD).read_text() and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_the_jobs_too(folder: Path, number: int) -> None:
    process = run_study(folder, FAKE)
    job = until(folder / "job")
    process.send_signal(number)
    assert process.wait(60) == 2
    assert "a signal stopped the study; rerun to go on" in process.communicate()[1]
    assert gone(job)


def test_jobs_of_a_killed_snakemake_are_ended_and_its_lock_goes(folder: Path) -> None:
    process = run_study(folder, FAKE)
    job = until(folder / "job")
    recorded(folder)
    os.kill(json.loads((folder / RECORD).read_text())["group"], signal.SIGKILL)
    assert process.wait(60) == 2
    assert gone(job) and not list((folder / LOCKS).iterdir())


def test_jobs_that_outlive_everybody_are_ended_by_the_next_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = run_study(folder, FAKE)
    job = until(folder / "job")
    recorded(folder)
    process.kill()
    process.wait()
    snakemake = json.loads((folder / RECORD).read_text())["group"]
    os.kill(snakemake, signal.SIGKILL)
    assert gone(snakemake)
    with locked():
        assert gone(job) and not list((folder / LOCKS).iterdir())
    assert "ended jobs" in capsys.readouterr().err


def test_files_of_the_future_are_told_with_a_remedy(folder: Path) -> None:
    line = "Output a has older modification time (1) than input b (2): a clock skew problem"
    process = run_study(folder, f"print({line!r}); raise SystemExit(1)")
    error = process.communicate(timeout=600)[1]
    assert process.returncode == 2 and "older modification time" in error
    assert "find results resources -newermt now -exec touch -d now {} +" in error


BLOCK = """Error in rule {rule}:
    message: None
    jobid: 0
    log: {log} (check log file(s) for error details)
    shell:
        python -m meddino
"""


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("epoch 1\nmeddino evaluate: x.nii.gz is damaged; delete it\n", "evaluate: x.nii.gz is"),
        ("Traceback (most recent call last):\n  x\nKeyError: 'y'\n", "evaluate failed: KeyError"),
        ("epoch 1: loss 2\n", "evaluate was killed.*memory.*epoch 1: loss 2"),
        ("", "evaluate was killed.*last words: none"),
    ],
)
def test_why_a_job_failed_is_said_in_its_own_words(folder: Path, log: str, said: str) -> None:
    (folder / "e.log").write_text(log)
    block = BLOCK.format(rule="evaluate", log="e.log")
    code = f"print({block!r}); raise SystemExit(1)"
    process = run_study(folder, code)
    error = process.communicate(timeout=600)[1]
    assert process.returncode == 2 and "mend the cause and rerun" in error
    assert re.search(said, error) and "jobid" not in error
    assert LOG.read_text().strip() == block.strip()


SBATCH = """Error in rule fetch:
    message: SLURM sbatch failed. The error message was {words}
    sbatch call:
        sbatch --parsable --job-name meddino_1 -p cpu
    jobid: 3
    log: logs/fetch/mine.log (check log file(s) for error details)
Trying to restart job 3.
"""


@pytest.mark.parametrize(
    "words",
    [
        "'sbatch: error: invalid partition specified: cpu\nsbatch: error: Batch job failed'.",
        "'Your account is over its limit, says the site's own plugin\n'.",
        "'sbatch: error: Unable to contact slurm controller'.",
    ],
)
def test_why_slurm_refuses_a_job_is_said_in_its_own_words(folder: Path, words: str) -> None:
    block = 3 * SBATCH.format(words=words)
    process = run_study(folder, f"print({block!r}); raise SystemExit(1)")
    error = process.communicate(timeout=600)[1]
    assert process.returncode == 2 and "killed" not in error and len(error.splitlines()) == 1
    assert "SLURM refuses a job: " + " ".join(words[1:-2].split("\n")).strip() + ";" in error


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (
            "OSError: [Errno 28] No space left on device",
            "device .in the working folder, or in /a b",
        ),
        (
            "OSError: [Errno 30] Read-only file system: '.snakemake/x'",
            "system: '.snakemake/x'; free",
        ),
    ],
)
def test_what_the_system_refuses_snakemake_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, refusal: str, said: str
) -> None:
    monkeypatch.setenv("TMPDIR", "/a b")
    lines = ["Traceback (most recent call last):", '  File "pulp.py"', refusal, ""]
    process = run_study(folder, f"print({chr(10).join(lines)!r}); raise SystemExit(1)")
    error = process.communicate(timeout=600)[1]
    assert process.returncode == 2 and "free space or permit writing, then rerun" in error
    assert re.search(said, error) and "Traceback" not in error


def test_a_disk_that_becomes_read_only_while_writing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.json"

    def refuse(self: Path, missing_ok: bool = False) -> None:
        if self.exists():
            raise OSError(errno.EROFS, "Read-only file system", str(self))
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "unlink", refuse)
    named = r"cannot write .*out\.json: Read-only file system"
    with pytest.raises(MeddinoError, match=named), atomic(output) as temporary:
        temporary.touch()
        raise OSError(errno.EROFS, "Read-only file system", str(temporary))
