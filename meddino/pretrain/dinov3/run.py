"""A stage run by the public trainer: its files written, its processes started, its results read."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from meddino.core.errors import MeddinoError
from meddino.core.files import write_json
from meddino.models.architectures import Architecture
from meddino.models.distributed import on_signals
from meddino.pretrain.checkpoint import Source, architecture_of
from meddino.pretrain.dinov3 import convert, launch
from meddino.pretrain.dinov3.config import refusals, trainer_config
from meddino.pretrain.dinov3.dataset import describe
from meddino.pretrain.options import PretrainOptions

NAMES = {
    "loss": "total_loss",
    "dino_global": "dino_global_crops_loss",
    "dino_local": "dino_local_crops_loss",
    "koleo": "koleo_loss",
    "ibot": "ibot_loss",
    "gram": "gram_loss",
    "lr": "lr",
    "grad_norm": "backbone_grad_norm",
    "seconds": "iter_time",
}
"""Our names of the trainer's metrics, medians over up to 20 iterations (seconds: a mean)."""


def train(
    options: PretrainOptions,
    index: Path,
    sources: Mapping[str, Source | None],
    state: Path,
    output: Path,
) -> list[dict[str, Any]]:
    """Run a stage, or what is left of it, and write its snapshots beside `output`.

    Args:
        options: the stage.
        index: index of the slices.
        sources: `init` and `gram_teacher`, read and checked.
        state: folder of everything that the trainer reads and writes.
        output: where the history will be.

    Returns:
        The lines of the history.

    Raises:
        MeddinoError: there is no GPU or no trainer, the stage asks for what it cannot do, a
            checkpoint does not fit, or the trainer failed.
    """
    gpus, stage, state = _check(options), options.stage, state.resolve()
    architecture = _prepare(options, index, sources, state, gpus)
    checkpoints = state / "trainer" / "ckpt"
    _keep(checkpoints, stage.snapshots)
    if not (checkpoints / str(stage.iterations - 1)).exists():
        _launch(_command(state, gpus, stage.seed))
    meta = {
        "stage": options.name,
        "backbone": options.backbone,
        "norm_eps": architecture.norm_eps,
        "origin": {key: source and source.origin() for key, source in sources.items()},
        "engine": options.engine,
    }
    for iteration in stage.snapshots:
        convert.write_snapshot(
            output.with_name(f"{iteration:06d}.pth"),
            _checkpoint(checkpoints, iteration),
            architecture,
            stage,
            {**meta, "iteration": iteration},
        )
    return history(state / "trainer" / "training_metrics.json", stage.log_every)


def _prepare(
    options: PretrainOptions,
    index: Path,
    sources: Mapping[str, Source | None],
    state: Path,
    gpus: int,
) -> Architecture:
    """Write all that the trainer reads; return the architecture of the ViTs."""
    stage, init, gram = options.stage, sources["init"], sources["gram_teacher"]
    source = "random weights" if init is None else str(init.path)
    content = None if init is None else init.content
    architecture = architecture_of(options, init)
    config = trainer_config(
        options,
        architecture,
        dataset=state / "dataset.json",
        start=state / "start",
        gram=None if gram is None else state / "gram",
        gpus=gpus,
        workers=max(1, len(os.sched_getaffinity(0)) // gpus),
    )
    write_json(state / "trainer.yaml", config)  # JSON is YAML
    describe(state / "dataset.json", index, asdict(stage.augmentation))
    convert.write_start(state / "start", architecture, stage, content, source)
    if gram is not None:
        convert.write_gram(state / "gram", architecture, gram.content, str(gram.path))
    return architecture


def _check(options: PretrainOptions) -> int:
    """Refuse a stage that cannot run here; return the number of GPUs."""
    if problems := refusals(options):
        listed = "\n  ".join(problems)
        raise MeddinoError(f"pretrain.engine dinov3 cannot run {options.name}:\n  {listed}")
    if not torch.cuda.is_available():
        raise MeddinoError(
            "pretrain.engine dinov3 needs an NVIDIA GPU, and torch sees none; use engine meddino"
        )
    if importlib.util.find_spec("dinov3") is None:
        raise MeddinoError(
            "pretrain.engine dinov3 needs the public trainer; run `pip install '.[dinov3]'` in the"
            " checkout of meddino, or use engine meddino"
        )
    return torch.cuda.device_count()


def _command(state: Path, gpus: int, seed: int) -> list[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    trainer = ["-m", launch.__name__, "--config-file", str(state / "trainer.yaml")]
    rest = ["--output-dir", str(state / "trainer"), "--seed", str(seed)]
    return [*torchrun, f"--nproc-per-node={gpus}", *trainer, *rest]


def _launch(command: Sequence[str]) -> None:
    """Run the trainer to its end; a signal that ends this process ends it too."""
    with subprocess.Popen(command) as process, on_signals(lambda *_: process.terminate()):
        try:
            code = process.wait()
        except BaseException:
            process.terminate()
            raise
    if code != 0:
        raise MeddinoError(
            f"the public trainer ended with status {code}; its messages are above. A rerun goes on"
            " from its last checkpoint"
        )


def _checkpoint(folder: Path, iteration: int) -> Path:
    """The trainer's checkpoint after so many iterations, which it counts from 0."""
    path = folder / str(iteration - 1)
    return path if path.exists() else _kept(path)


def _kept(path: Path) -> Path:
    """Where the trainer keeps a checkpoint that it would delete in time."""
    return path.with_name(f"{path.name}_keep")


def _keep(folder: Path, snapshots: Sequence[int]) -> None:
    """Keep what a killed trainer had no time to keep: the trainer would not do so later."""
    for iteration in snapshots:
        path = folder / str(iteration - 1)
        if path.exists():
            shutil.rmtree(_kept(path), ignore_errors=True)
            shutil.copytree(path, _kept(path), copy_function=os.link)


def history(metrics: Path, every: int) -> list[dict[str, Any]]:
    """The trainer's metrics as lines of our history.

    It logs iterations 1, 11, 21 ... and the last; of these, every `every`-th iteration is taken. A
    resumed run repeats what it had logged since its last checkpoint: the repetition counts.
    """
    lines = {line["iteration"]: line for line in _readable(metrics)}
    last = max(lines, default=0)
    return [
        {
            "iteration": n + 1,
            **{name: line[public] for name, public in NAMES.items() if public in line},
        }
        for n, line in sorted(lines.items())
        if n % every == 0 or n == last
    ]


def _readable(metrics: Path) -> Iterator[dict[str, Any]]:
    """Lines of JSON; one that was cut short by a kill is left out."""
    for line in metrics.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError):
            yield json.loads(line)
