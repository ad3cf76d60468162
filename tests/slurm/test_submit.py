"""Submitting training: flags, waiting, and (on a real SLURM: `make slurm-test`) faults."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from places import ROOT

from meddino.core.errors import MeddinoError, Stopped
from meddino.core.state import open_state
from meddino.models import loading
from meddino.slurm import queue, submit
from meddino.slurm.flags import Flags
from meddino.slurm.queue import Job

slurm = pytest.mark.skipif(
    "MEDDINO_TEST_SLURM" not in os.environ, reason="no test SLURM: see make slurm-test"
)


# ---- without SLURM -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("90:30", 91), ("2:00:00", 120), ("1-0", 1440), ("2-12:30", 3630), ("0:30", 1)],
)
def test_times_are_read_as_slurm_reads_them(text: str, minutes: int) -> None:
    assert Flags.parse(f"--time={text}").minutes == minutes


def test_a_process_for_each_gpu_of_each_node() -> None:
    flags = Flags.parse(
        "--partition gpu --nodes=2 --gpus-per-node=a100:4 --exclusive --mem=9G --time 5"
    )
    assert (flags.nodes, flags.tasks_per_node, flags.minutes) == (2, 4, 5)
    wanted = {"partition": "gpu", "gpus-per-node": "a100:4", "exclusive": True, "mem": "9G"}
    assert flags.others == wanted
    assert Flags.parse("--gpus-per-node=4 --ntasks-per-node=1 --time=5").tasks_per_node == 1
    assert Flags.parse("--signal=USR2@40 --time=5").notice == 40


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("-p gpu", "'-p'"),
        ("--job-name=x", "--job-name"),
        ("--time=soon", "soon"),
        ("--mem=1G", "--time"),
        ("gpu", "gpu"),
    ],
)
def test_flags_that_we_cannot_use_are_named(text: str, named: str) -> None:
    with pytest.raises(MeddinoError, match=named):
        Flags.parse(text)


def test_the_name_of_a_job_follows_from_its_folder_alone() -> None:
    one, two = Path("/study/runs/stage1-abc.job"), Path("/other/runs/stage1-abc.job")
    assert queue.job_name(one) == queue.job_name(one) != queue.job_name(two)
    assert queue.job_name(one).startswith("meddino-stage1-abc-")


def test_without_flags_the_verb_runs_here_and_ends_as_it_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "meddino", "submit", "--folder", str(tmp_path / "job")]
    done = subprocess.run(
        [*command, "--sbatch=", "--", "--version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.split()[0]) == (0, "meddino")
    wrong = subprocess.run([*command, "--", "pretrain", "--options", "{}"], capture_output=True)
    assert wrong.returncode == 2 and not (tmp_path / "job").exists()


def test_without_slurm_flags_are_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MeddinoError, match=r"squeue is not here.*leave --sbatch empty"):
        submit.main(["--folder", str(tmp_path / "job"), "--sbatch=--time=5", "--", "x"])


def _fake(folder: Path, monkeypatch: pytest.MonkeyPatch, **programs: str) -> None:
    """Programs of SLURM that only say something, first on the search path."""
    for name, body in programs.items():
        program = folder / name
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("body", "state"),
    [
        ("echo RUNNING None", "RUNNING"),
        ("echo PENDING Resources", "PENDING Resources"),
        ("echo slurm_load_jobs error: Invalid job id specified >&2; exit 1", "GONE"),
        ("echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1", ""),
    ],
)
def test_a_silent_controller_is_not_a_lost_job(
    body: str, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake(tmp_path, monkeypatch, squeue=body)
    job = Job("7", tmp_path)
    assert queue._state(job) == state
    assert queue._end(job, state).partition(":")[0] == ("lost" if state == "GONE" else "")


def test_a_job_that_left_no_trace_is_an_error_and_one_that_did_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from submitit.core.utils import cloudpickle_dump

    _fake(tmp_path, monkeypatch, squeue="echo Invalid job id specified >&2; exit 1")
    with pytest.raises(MeddinoError, match="SLURM job 7 ended as lost"):
        queue.wait(Job("7", tmp_path))
    cloudpickle_dump(("success", None), tmp_path / "7_0_result.pkl")
    queue.wait(Job("7", tmp_path))


def test_where_slurm_does_not_answer_nothing_is_submitted_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake(tmp_path, monkeypatch, squeue="echo down >&2; exit 1", sbatch=f"touch {tmp_path}/sent")
    with pytest.raises(MeddinoError, match="SLURM does not answer"):
        submit.main(["--folder", str(tmp_path / "job"), "--sbatch=--time=5", "--", "x"])
    assert not (tmp_path / "sent").exists()


def test_a_job_without_the_gpus_that_it_was_given_fails_for_good(tmp_path: Path) -> None:
    """SLURM requeues what was told to stop; a process that exits by itself fails the job."""
    from meddino.pipeline.options import options_json
    from meddino.study.model import load

    study = load([ROOT / "config.yaml"])
    options = options_json(study, "probe", source=next(iter(study.pretrain.stages)))
    files = [word for name in ("dataset", "splits", "output") for word in (f"--{name}", name)]
    verb = ["probe", "--options", options, *files]
    script = (
        "import sys\nfrom unittest import mock\nfrom meddino.slurm.job import Work\n"
        "with mock.patch('submitit.helpers.TorchDistributedEnvironment'):\n"
        "    Work([sys.executable, '-m', 'meddino', *sys.argv[1:]])()\n"
    )
    # Without devices for this step, torch sees no GPU on any machine.
    granted = {**os.environ, "SLURM_JOB_GPUS": "0", "CUDA_VISIBLE_DEVICES": "NoDevFiles"}
    command = [sys.executable, "-c", script, *verb, "--checkpoints"]
    done = subprocess.run(command, env=granted, capture_output=True, text=True, timeout=120)
    assert done.returncode == MeddinoError.status != Stopped.status
    assert "meddino probe: this job was given GPUs (SLURM_JOB_GPUS=0)" in done.stderr


def test_studies_of_the_test_slurm_whose_gpus_are_none_run_on_cpus() -> None:
    from meddino.study.model import load

    layers = ["config.yaml", "profiles/demo/study.yaml", "profiles/demo/short.yaml"]
    study = load([ROOT / name for name in [*layers, "tests/slurm/study.yaml"]])
    parts = [study.training, study.prediction, study.probe, study.features]
    assert {part.device for part in [*parts, *study.pretrain.stages.values()]} == {"cpu"}


# ---- on a real SLURM ---------------------------------------------------------------------------

FLAGS = "--partition=gpu --nodes=2 --gpus-per-node=1 --cpus-per-task=1 --mem=3G --time=10"
CHECKPOINT_EVERY = 10


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A verb that trains for a while: its options and inputs."""
    from meddino.pipeline.options import options_json, select
    from meddino.pretrain import leaves
    from meddino.study.model import load

    folder = tmp_path_factory.mktemp("leaves")
    files = ("config.yaml", "profiles/demo/study.yaml", "tests/slurm/study.yaml")
    study = load([ROOT / name for name in files])
    index = folder / "index.64.parquet"
    leaves.run(select(study, "leaves", size="64"), output=index)
    options = json.loads(options_json(study, "pretrain", stage="natural"))
    options["stage"] |= {"iterations": 200, "snapshots": [200], "log_every": 10}
    options["stage"] |= {"checkpoint_every": CHECKPOINT_EVERY}
    return ["pretrain", "--options", json.dumps(options), "--index", str(index)]


def _command(folder: Path, verb: list[str], flags: str = FLAGS) -> list[str]:
    files = ["--state", str(folder / "state"), "--output", str(folder / "history.jsonl")]
    start = [sys.executable, "-m", "meddino", "submit", "--folder", str(folder / "state.job")]
    return [*start, f"--sbatch={flags}", "--", *verb, *files]


def _start(folder: Path, verb: list[str], flags: str = FLAGS) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(_command(folder, verb, flags), stderr=log, start_new_session=True)


def _until(true: Any, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.2)


def _said(folder: Path) -> str:
    return (folder / "log").read_text() if (folder / "log").exists() else ""


def _job(folder: Path) -> str:
    """The number of the job, once it has kept a checkpoint."""
    _until(lambda: list((folder / "state").glob("checkpoint-*.pt")))
    return _said(folder).partition("SLURM job ")[2].split()[0]


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return loading.read(folder / "000200.pth")["student"]


def _equal(folder: Path, undisturbed: Path) -> None:
    one, two = _weights(folder), _weights(undisturbed)
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[key]) for key, value in one.items())
    assert not (folder / "state.job").exists()


@pytest.fixture(scope="module")
def undisturbed(stage: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    process = _start(folder, stage)
    assert process.wait() == 0, _said(folder)
    assert "iteration 200" in _said(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "run"
    subprocess.run(["scancel", f"--name={queue.job_name(tmp_path / 'run' / 'state.job')}"])


@slurm
def test_two_nodes_give_what_two_processes_give(
    stage: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    options = json.loads(stage[2])
    options["stage"]["processes"] = 2
    verb = [*stage[:2], json.dumps(options), *stage[3:]]
    command = _command(tmp_path, verb, flags="")
    assert subprocess.run(command, capture_output=True).returncode == 0
    _equal(tmp_path, undisturbed)


@slurm
def test_at_the_time_limit_it_keeps_a_checkpoint_and_is_queued_anew(
    stage: list[str], undisturbed: Path, folder: Path
) -> None:
    process = _start(folder, stage, f"{FLAGS} --signal=USR2@45")
    number = _job(folder)
    limit = ["scontrol", "update", f"JobId={number}"]
    minutes = 1 + int(subprocess.check_output(["squeue", "-hj", number, "-o%M"]).split(b":")[-2])
    # SLURM looks at limits twice a minute: no time shall pass for training until then.
    subprocess.run(["scancel", "--signal=STOP", number], check=True)
    subprocess.run([*limit, f"TimeLimit={minutes}"], check=True)
    _until(lambda: "Requeued job" in _said(folder))
    subprocess.run([*limit, "TimeLimit=10"], check=True)
    assert process.wait() == 0, _said(folder)
    assert "SIGUSR2: stopping" in _said(folder) and "resumed at iteration" in _said(folder)
    assert _said(folder).count("submitted SLURM job") == 1
    _equal(folder, undisturbed)


@slurm
@pytest.mark.parametrize("how", ["scontrol requeue {}", "scancel --signal=USR2 {}"])
def test_requeued_by_an_administrator_or_preempted_it_goes_on(
    how: str, stage: list[str], undisturbed: Path, folder: Path
) -> None:
    process = _start(folder, stage)
    subprocess.run(how.format(_job(folder)).split(), check=True)
    assert process.wait() == 0, _said(folder)
    assert "resumed at iteration" in _said(folder)
    assert _said(folder).count("submitted SLURM job") == 1
    _equal(folder, undisturbed)


@slurm
def test_a_node_that_goes_down_costs_what_came_after_the_last_checkpoint(
    stage: list[str], undisturbed: Path, folder: Path
) -> None:
    process = _start(folder, stage)
    _job(folder)
    for state in ("down", "resume"):
        update = ["scontrol", "update", "NodeName=n2", f"State={state}", "Reason=test"]
        subprocess.run(update, check=False)  # it may be back by itself
        time.sleep(1)
    assert process.wait() == 0, _said(folder)
    assert "resumed at iteration" in _said(folder)
    _equal(folder, undisturbed)


@slurm
def test_who_waits_may_be_killed_and_finds_the_job_again(
    stage: list[str], undisturbed: Path, folder: Path
) -> None:
    process = _start(folder, stage)
    number = _job(folder)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    again = _start(folder, stage)
    assert again.wait() == 0, _said(folder)
    assert f"found SLURM job {number}" in _said(folder)
    assert _said(folder).count("submitted SLURM job") == 1
    assert "resumed" not in _said(folder)
    _equal(folder, undisturbed)


@slurm
def test_a_job_that_ended_while_nobody_waited_is_not_run_again(
    stage: list[str], undisturbed: Path, folder: Path
) -> None:
    process = _start(folder, stage)
    number = _job(folder)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    _until(lambda: queue._state(Job(number, folder / "state.job")).startswith("COMPLETED"))
    for output in folder.glob("*.pth"):  # as Snakemake does with what it takes for half done
        output.unlink()
    (folder / "history.jsonl").unlink()
    assert _start(folder, stage).wait() == 0, _said(folder)
    assert "resumed at iteration 200" in _said(folder)
    _equal(folder, undisturbed)


@slurm
def test_an_interrupt_cancels_the_job_and_a_rerun_goes_on(
    stage: list[str], undisturbed: Path, folder: Path
) -> None:
    process = _start(folder, stage)
    number = _job(folder)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75
    assert f"SLURM job {number} is cancelled; rerun to go on" in _said(folder)
    _until(lambda: queue._state(Job(number, folder / "state.job")).startswith("CANCELLED"))
    assert _start(folder, stage).wait() == 0, _said(folder)
    assert "resumed at iteration" in _said(folder)
    _equal(folder, undisturbed)


@slurm
def test_a_failing_process_ends_the_job_and_says_why(stage: list[str], folder: Path) -> None:
    options = json.loads(stage[2])
    options["stage"]["batch_size"] = 7
    process = _start(folder, [*stage[:2], json.dumps(options), *stage[3:]])
    assert process.wait() == 2
    assert "a batch of 7 slices cannot be shared by 2 processes" in _said(folder)
    assert "Traceback" not in _said(folder)


@slurm
def test_a_partition_that_is_none_is_refused_in_slurms_words(
    stage: list[str], folder: Path
) -> None:
    process = _start(folder, stage, "--partition=nowhere --time=5")
    assert process.wait() == 2
    assert "mend the flags of sbatch" in _said(folder) and "nvalid partition" in _said(folder)


def test_a_state_is_kept_for_equal_inputs_only(tmp_path: Path) -> None:
    source, state = tmp_path / "in", tmp_path / "state"
    source.write_text("a")
    open_state(state, {"in": source}, {"lr": 1})
    (state / "checkpoint").touch()
    open_state(state, {"in": source}, {"lr": 1})
    assert (state / "checkpoint").exists()
    source.write_text("b")
    open_state(state, {"in": source}, {"lr": 1})
    assert not (state / "checkpoint").exists()
