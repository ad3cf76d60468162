"""What trainings logged, read back as TensorBoard reads it."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import heed_all
from test_finetune import dataset, finetune, method, plans, preprocessed, raw  # noqa: F401
from test_pretrain import index, options  # noqa: F401

from meddino.__main__ import main
from meddino.cli import tensorboard
from meddino.core.errors import MeddinoError
from meddino.pretrain import pretrain

needed = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Curves of a run: name -> steps and values."""
    events = needed.EventAccumulator(str(folder))
    events.Reload()
    names = events.Tags()["scalars"]
    return {name: [(each.step, each.value) for each in events.Scalars(name)] for name in names}


def test_stages_and_finetunings_are_shown(
    index: Path,  # noqa: F811
    preprocessed: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    history = Path("results/pretrain/stage1/history.jsonl")
    pretrain.run(options(), index=index, state=Path("state"), output=history)
    run = Path("results/finetune/blobs/nnunet/fold0")
    finetune(run, preprocessed, method("unet"))
    assert main(["tensorboard"]) == 0
    curves = read(Path("logs/tensorboard/pretrain/stage1"))
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    assert curves["train/loss"] == [
        (line["iteration"], pytest.approx(line["loss"], rel=1e-6)) for line in lines
    ]
    assert {"train/ibot", "train/lr", "train/slices_per_second"} <= curves.keys()
    curves = read(Path("logs/tensorboard") / run.relative_to("results"))
    (line,) = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert curves["train/train_loss"] == [(0, pytest.approx(line["train_loss"], rel=1e-6))]
    assert curves["lr/0"] == [(0, pytest.approx(line["lr"][0], rel=1e-6))]
    shown = [value is not None for value in line["pseudo_dice"]]
    assert [f"pseudo_dice/{n}" in curves for n in range(len(shown))] == shown


def test_a_stage_that_runs_is_read_from_its_log(
    index: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    capfd.readouterr()
    pretrain.run(
        options(), index=index, state=tmp_path / "state", output=tmp_path / "history.jsonl"
    )
    log = Path("logs/pretrain/stage1.log")
    log.parent.mkdir(parents=True)
    log.write_text(capfd.readouterr().err)
    assert main(["tensorboard"]) == 0
    lines = [json.loads(line) for line in Path("history.jsonl").read_text().splitlines()]
    curves = read(Path("logs/tensorboard/pretrain/stage1"))
    assert curves["train/loss"] == [
        (line["iteration"], pytest.approx(line["loss"], rel=1e-3)) for line in lines
    ]
    assert len(lines) == 6 and "train/grad_norm_backbone" in curves


def write_history(folder: Path, losses: list[float]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"iteration": n, "loss": loss}) for n, loss in enumerate(losses, 1)]
    (folder / "history.jsonl").write_text("\n".join(lines) + "\n")


def test_lines_are_added_once_and_a_new_run_takes_the_place_of_the_old(tmp_path: Path) -> None:
    results, out = tmp_path / "results", tmp_path / "out"
    board = tensorboard.Board(out)
    write_history(results / "pretrain/s", [3.0, 2.0])
    board.show(dict(tensorboard.histories(results)))
    write_history(results / "pretrain/s", [3.0, 2.0, 1.0])
    board.show(dict(tensorboard.histories(results)))
    assert read(out / "pretrain/s")["train/loss"] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    write_history(results / "pretrain/s", [5.0])
    board.show(dict(tensorboard.histories(results)))
    assert read(out / "pretrain/s")["train/loss"] == [(1, 5.0)]
    assert main(["tensorboard", str(results), "--output", str(out)]) == 0
    assert read(out / "pretrain/s")["train/loss"] == [(1, 5.0)], "again, not twice"


def test_nothing_but_event_files_is_replaced(tmp_path: Path) -> None:
    write_history(tmp_path / "pretrain/s", [1.0])
    assert main(["tensorboard", str(tmp_path), "--output", str(tmp_path)]) == 0
    assert main(["tensorboard", str(tmp_path), "--output", str(tmp_path)]) == 0
    assert (tmp_path / "pretrain/s/history.jsonl").exists()
    assert len(list((tmp_path / "pretrain/s").iterdir())) == 2


def test_it_goes_on_until_it_is_interrupted(tmp_path: Path) -> None:
    write_history(tmp_path / "results/pretrain/s", [1.0])
    command = [sys.executable, "-m", "meddino", "tensorboard", "--every", "0.1"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, preexec_fn=heed_all
    )
    try:
        assert process.stdout is not None and "1 runs" in process.stdout.readline()
        write_history(tmp_path / "results/pretrain/s", [1.0, 0.5])
        run, deadline = tmp_path / "logs/tensorboard/pretrain/s", time.monotonic() + 600
        while len(read(run)["train/loss"]) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    assert read(run)["train/loss"] == [(1, 1.0), (2, 0.5)]


def test_nothing_to_show_and_no_tensorboard_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["tensorboard", "absent"]) == 2
    assert "no training has logged" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MeddinoError, match=r"pip install 'meddino\[tensorboard\]'"):
        tensorboard.Board(tmp_path)
