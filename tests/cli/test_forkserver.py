"""Jobs that are forked from a process with all libraries: the same as any other."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from processes import heed_all

from meddino.cli.forkserver import ADDRESS, forkserver

MEDDINO = [sys.executable, "-m", "meddino"]


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    with forkserver() as variables:
        yield variables


def run(variables: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MEDDINO, *words], env={**os.environ, **variables}, capture_output=True, text=True
    )


def children(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task").iterdir()
    return [int(number) for task in tasks for number in (task / "children").read_text().split()]


def state(process: int) -> str:
    """One letter of proc(5), Z for one that has ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


def wait_until(condition: Callable[[], object]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come about within 30 s")


@pytest.mark.parametrize("words", [["leaves", "--help"], ["nonsense"], ["leaves", "--count"]])
def test_a_fork_prints_and_ends_as_a_process_does(server: dict[str, str], words: list[str]) -> None:
    forked, other = run(server, *words), run({}, *words)
    assert (forked.returncode, forked.stdout, forked.stderr) == (
        other.returncode,
        other.stdout,
        other.stderr,
    )


def test_a_job_may_turn_into_another(server: dict[str, str], tmp_path: Path) -> None:
    """As `submit` does, where it runs its verb here."""
    words = ["submit", "--folder", str(tmp_path / "job"), "--", "nonsense"]
    done = run(server, *words)
    assert done.returncode == 2 and "no verb 'nonsense'" in done.stderr


def test_results_and_records_are_the_same(server: dict[str, str], tmp_path: Path) -> None:
    for name, variables in (("forked", server), ("other", {})):
        options = ["--options", '{"count": 2, "size_px": 16}']
        done = run(variables, "leaves", *options, "--output", f"{name}/index.16.parquet")
        assert done.returncode == 0, done.stderr
    names = [sorted(p.name for p in (tmp_path / name).iterdir()) for name in ("forked", "other")]
    assert names[0] == names[1]
    shards = [(tmp_path / name / "index.16.parquet").read_bytes() for name in ("forked", "other")]
    assert shards[0] == shards[1]


def test_folder_environment_threads_and_imports_are_those_of_the_job(
    server: dict[str, str], tmp_path: Path
) -> None:
    """Options from a file of the working directory; the rest from within the fork."""
    from meddino.cli import forkserver

    (tmp_path / "config.yaml").write_text("leaves: {cuont: 3}")
    done = run(server, "leaves", "--size", "16", "--output", "a/index.16.parquet")
    assert done.returncode == 2 and "cuont" in done.stderr
    # A verb of its own would be needed to see more, so that this looks at the function itself.
    script = """
import os, threadpoolctl, torch
from meddino.cli.forkserver import _fresh_state
os.environ["OMP_NUM_THREADS"] = "3"
_fresh_state()
print(torch.get_num_threads(), {pool["num_threads"] for pool in threadpoolctl.threadpool_info()})
"""
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert printed.stdout == "3 {3}\n", printed.stderr
    assert forkserver.hand_over([]) is None, "no server, no fork"


class Endless(NamedTuple):
    """A job that reads a pipe which nobody writes to."""

    server: int
    job: subprocess.Popen[str]
    fork: int


@pytest.fixture
def endless(server: dict[str, str], tmp_path: Path) -> Iterator[Endless]:
    if sys.platform != "linux":
        pytest.skip("/proc is Linux's")
    os.mkfifo(tmp_path / "pipe.yaml")
    words = ["leaves", "--size", "16", "--config", "pipe.yaml", "--output", "a/index.16.parquet"]
    job = subprocess.Popen(
        [*MEDDINO, *words],
        env={**os.environ, **server},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_all,
    )
    (process,) = [
        child
        for child in children(os.getpid())
        if server[ADDRESS] in Path(f"/proc/{child}/cmdline").read_text()  # other tests have theirs
    ]
    wait_until(lambda: children(process))
    (fork,) = children(process)
    wait_until(lambda: state(fork) == "S")
    assert job.stderr is not None
    yield Endless(process, job, fork)
    job.kill()
    job.wait()
    job.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_a_job_ends_its_fork(endless: Endless, number: signal.Signals) -> None:
    endless.job.send_signal(number)
    assert endless.job.wait() == -number
    wait_until(lambda: state(endless.fork) == "Z")
    assert state(endless.server) != "Z", "the server goes on"


def test_a_job_of_another_environment_is_no_business_of_the_server(
    server: dict[str, str], tmp_path: Path
) -> None:
    done = run({**server, "SLURM_JOB_ID": "7"}, "nonsense")
    assert done.returncode == 2 and "no verb 'nonsense'" in done.stderr
    done = run({ADDRESS: str(tmp_path / "nowhere")}, "nonsense")
    assert done.returncode == 2 and "no verb 'nonsense'" in done.stderr


def test_forks_end_with_a_server_that_is_killed(endless: Endless) -> None:
    """The last one: there is no server after it."""
    os.kill(endless.server, signal.SIGKILL)
    assert endless.job.wait() == 1
    assert endless.job.stderr is not None and "was killed; rerun" in endless.job.stderr.read()
    wait_until(lambda: state(endless.fork) == "Z")
