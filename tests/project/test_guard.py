"""The guard of tests/conftest.py: a session in which a test changes the study here fails."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

CHANGES = {
    "rewritten": 'path.write_text("{\\"dsc\\": 0.9}")',
    "touched": "os.utime(path)",
    "removed": "path.unlink()",
    "added": 'path.with_suffix(".new").write_text("")',
}


def session(folder: Path, line: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run one test, which executes `line`, in a checkout that holds a result."""
    (folder / "tests").mkdir()
    (folder / "results").mkdir()
    (folder / "results/scores.json").write_text('{"dsc": 0.8}')
    os.utime(folder / "results/scores.json", (0, 0))
    for name in ("conftest.py", "places.py"):
        shutil.copy(ROOT / "tests" / name, folder / "tests")
    (folder / "tests/test_one.py").write_text(
        "import os\nfrom places import ROOT\n\n\ndef test_one():\n"
        f'    path = ROOT / "results/scores.json"\n    {line}\n'
    )
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *flags, "tests"],
        cwd=folder,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_checkouts_study_fails_the_session(change: str, tmp_path: Path) -> None:
    done = session(tmp_path, CHANGES[change])
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    assert "1 passed" in done.stdout, "the test itself does not fail"
    assert f"changed {tmp_path}/results/scores" in done.stdout


def test_a_change_is_noticed_where_workers_share_the_tests(tmp_path: Path) -> None:
    pytest.importorskip("xdist")
    done = session(tmp_path, CHANGES["touched"], "--numprocesses=1")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    assert f"changed {tmp_path}/results/scores.json" in done.stdout


def test_a_session_that_only_reads_succeeds(tmp_path: Path) -> None:
    done = session(tmp_path, "assert path.read_text()")
    assert done.returncode == pytest.ExitCode.OK, done.stdout + done.stderr
    assert "changed" not in done.stdout
