"""A team of processes: one of them fails, or they do not see the same."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from full_disk import full_after

from meddino.core.errors import MeddinoError, Stopped
from meddino.models import checkpoints, distributed
from meddino.models.distributed import Team, launch

LONGEST_S = 60
"""What a team may take to end when one of it has failed."""


def fail(team: Team, how: str, folder: Path) -> None:
    """End the second process in some way, while the others wait for it."""
    with distributed.on_signals(lambda *_: None):  # as training does
        if team.rank != 1:
            team.wait()
            return
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "full disk":
            content = {"weights": torch.zeros(1000)}
            with full_after(1000), checkpoints.writer() as writer:
                writer.start(partial(checkpoints.write, folder / "000001.pth", content))
        if how == "signal":
            raise Stopped("a checkpoint is kept")
        raise ValueError("a mistake of ours")


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("killed", MeddinoError, "a training process died: process 1 .*SIGKILL"),
        (
            "full disk",
            MeddinoError,
            "training process 1 of 3: cannot write .*000001.pth.*free space",
        ),
        ("mistake", MeddinoError, "a training process died: process 1 terminated with exit code 1"),
        ("signal", Stopped, "^a checkpoint is kept"),
    ],
)
def test_a_team_ends_soon_when_one_of_it_has_failed(
    how: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    began = time.monotonic()
    with pytest.raises(error, match=message):
        launch(fail, "cpu", 3, how, tmp_path)
    assert time.monotonic() - began < LONGEST_S
    assert not [path for path in tmp_path.iterdir() if path.is_file()]


def differ(team: Team, folder: Path) -> None:
    checkpoints.agreed(folder / str(team.rank), team)


def test_processes_that_see_different_checkpoints_do_not_go_on(tmp_path: Path) -> None:
    for rank, iterations in enumerate([(1, 2), (1,)]):
        for iteration in iterations:
            checkpoints.save(tmp_path / str(rank), iteration, {"iteration": iteration})
    with pytest.raises(MeddinoError, match=r"not the same for all processes: 2 \(0\), 1 \(1\)"):
        launch(differ, "cpu", 2, tmp_path)


@pytest.mark.parametrize(("gpus", "device"), [(8, "cuda:5"), (1, "cuda:0")])
def test_a_process_takes_the_gpu_that_its_launcher_shows(
    gpus: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several GPUs the one of LOCAL_RANK; where a task sees one alone, that one."""
    joined: list[dict[str, object]] = []
    monkeypatch.setenv("LOCAL_RANK", "5")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **named: joined.append(named))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    with distributed._joined(torch.device("cuda"), "env://", 13, 16) as team:
        assert str(team.device) == device
    assert str(joined[0]["device_id"]) == device
