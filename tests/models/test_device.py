"""Which device a job gets, and that a job with GPUs never trains on a CPU in silence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from places import ROOT

from meddino.core.errors import MeddinoError
from meddino.models import device

OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build"
CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023"


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A machine without a driver, on which torch sees no GPU and nothing gives any."""
    for name in (*device.GRANTS, *device.CONTAINERS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(device, "DRIVER", tmp_path / "version")
    monkeypatch.setattr(device, "_driver_library", lambda: True)
    return monkeypatch


def refusal(name: str = "auto") -> str:
    with pytest.raises(MeddinoError) as error:
        device.choose(name)
    return str(error.value)


def test_auto_takes_a_gpu_if_there_is_one(blind: pytest.MonkeyPatch) -> None:
    assert device.choose("auto").type == "cpu"
    assert "device: cuda is asked for" in refusal("cuda")
    blind.setattr(torch.cuda, "is_available", lambda: True)
    blind.setattr(torch.cuda, "device_count", lambda: 1)
    assert device.choose("auto").type == device.choose("cuda").type == "cuda"
    assert device.choose("cpu").type == "cpu"


@pytest.mark.parametrize("name", device.GRANTS)
def test_a_job_that_was_given_gpus_and_sees_none_stops(
    blind: pytest.MonkeyPatch, name: str
) -> None:
    blind.setenv(name, "2")
    message = refusal()
    assert f"given GPUs ({name}=2)" in message and "`device: cpu`" in message
    assert refusal("cuda") == message
    assert device.choose("cpu").type == "cpu", "on purpose"


@pytest.mark.parametrize(
    "environment",
    [
        {"CUDA_VISIBLE_DEVICES": ""},
        {"CUDA_VISIBLE_DEVICES": "-1", "SLURM_JOB_GPUS": "0"},
        {"CUDA_VISIBLE_DEVICES": "NoDevFiles"},
        {"SLURM_GPUS_ON_NODE": "0"},
        {"SLURM_JOB_GPUS": "", "GPU_DEVICE_ORDINAL": "NoDevFiles"},
    ],
    ids=str,
)
def test_without_gpus_or_with_hidden_ones_it_runs_on_cpus(
    blind: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    for name, value in environment.items():
        blind.setenv(name, value)
    assert device.choose("auto").type == "cpu"


def test_a_step_that_slurm_gave_none_of_the_jobs_gpus_stops(blind: pytest.MonkeyPatch) -> None:
    blind.setenv("SLURM_JOB_GPUS", "0,1")
    blind.setenv("CUDA_VISIBLE_DEVICES", "NoDevFiles")
    assert "SLURM_JOB_GPUS=0,1" in refusal()


def test_the_reason_and_its_remedy_are_named(blind: pytest.MonkeyPatch, tmp_path: Path) -> None:
    blind.setenv("SLURM_JOB_GPUS", "0")
    (tmp_path / "version").write_text(CLOSED)
    assert "driver 535.129.03 is too old for this torch (CUDA 13.0, driver 580" in refusal()

    blind.setattr(torch.version, "cuda", "12.6")
    blind.setattr(device, "_words_of_torch", lambda: "No CUDA GPUs are available")
    assert "sees none of them: No CUDA GPUs are available; look at `nvidia-smi`" in refusal()

    blind.setenv("APPTAINER_CONTAINER", "/images/meddino.sif")
    assert "nvidia-smi" in refusal(), "with the driver's library, --nv was given"
    blind.setattr(device, "_driver_library", lambda: False)
    assert (
        "/images/meddino.sif was started without NVIDIA's driver; start it with --nv" in refusal()
    )

    blind.setattr(torch.version, "cuda", None)
    assert "was built without CUDA" in refusal() and "make setup TORCH=cuda" in refusal()


def test_versions_of_both_kernel_modules_are_read(tmp_path: Path) -> None:
    path = tmp_path / "version"
    assert device.driver_version(path) == ""
    for text, version in ((OPEN, "570.86.15"), (CLOSED, "535.129.03"), ("nothing", "")):
        path.write_text(f"{text}\nGCC version: 12.2.0\n")
        assert device.driver_version(path) == version


def test_the_locked_torch_has_a_floor() -> None:
    """The page for clusters names the driver that the lock's CUDA needs."""
    lock = (ROOT / "envs/lock-torch.txt").read_text()
    major = lock.partition("\ncuda-toolkit==")[2].partition(".")[0]
    assert major in device.FLOORS
    assert f"driver {device.FLOORS[major]}" in (ROOT / "docs/site.md").read_text()


HOLD = """
import sys, types, torch
from meddino.models import device
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 2
torch.cuda.set_device = lambda number: None
torch.cuda.get_device_properties = lambda number: types.SimpleNamespace(uuid=f"a{number}")
print(device.choose("auto"), device.choose("auto"), flush=True)
sys.stdin.read()
"""


def test_jobs_beside_each_other_take_gpus_of_their_own(tmp_path: Path) -> None:
    """Of two GPUs; one that ends, even by SIGKILL, leaves its GPU to the next."""
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}

    def start() -> tuple[subprocess.Popen[str], str]:
        job = subprocess.Popen(
            [sys.executable, "-c", HOLD],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert job.stdout is not None
        return job, job.stdout.readline().strip()

    first, device_of_first = start()
    second, device_of_second = start()
    assert (device_of_first, device_of_second) == ("cuda:0 cuda:0", "cuda:1 cuda:1")
    first.kill()
    first.communicate()
    third, device_of_third = start()
    assert device_of_third == "cuda:0 cuda:0"
    for job in (second, third):
        job.communicate("")
