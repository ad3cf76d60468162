"""A stage that a signal stops and that goes on, against one that nothing stops."""

import multiprocessing
import os
import signal
import time
import warnings
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from gpu_checks.bench import Bench, brief_stage, exact
from gpu_checks.outcomes import Figures, Missed
from meddino.models import checkpoints, loading
from meddino.pretrain import pretrain
from meddino.pretrain.options import Augmentation, Optimisation, PretrainOptions

ITERATIONS = 12
TOLERANCE = 1e-2
"""Of a GPU, whose sums differ from run to run: share of what training changes. What is lost on the
way, such as the optimiser's moments, is a tenth and more."""
NO_DETERMINISTIC = "does not have a deterministic implementation"


def resume(bench: Bench) -> Figures:
    """Weights at the end, resumed and whole: to the bit, and on a GPU also as usual."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for sums in a fixed order
    exact()
    figures: Figures = {"tolerance": TOLERANCE}
    for mode in ("usual", "deterministic") if bench.gpu else ("deterministic",):
        torch.use_deterministic_algorithms(mode == "deterministic", warn_only=True)
        with warnings.catch_warnings(record=True) as messages:
            warnings.simplefilter("always")
            figures[mode] = _compared(replace(bench, small=True))
        without = {
            str(m.message).split()[0] for m in messages if NO_DETERMINISTIC in str(m.message)
        }
        figures[mode] |= {"without_deterministic_form": sorted(without)} if without else {}
    differences = {mode: figures[mode]["resumed"] for mode in figures if mode != "tolerance"}
    largest = max(differences.values())
    if largest > (TOLERANCE if bench.gpu else 0):
        raise Missed(f"resumed is not as whole: {differences}", figures)
    return figures


def _compared(bench: Bench) -> Figures:
    """Differences as shares of what training changes: after resuming, and of a second whole run.

    A CPU has no use for the latter: there both are to be equal to the bit.
    """
    names = ("whole", "resumed", *(["again"] if bench.gpu else []))
    with TemporaryDirectory(dir=bench.folder) as scratch:
        folder = Path(scratch)
        stopped_at = _stopped(bench, folder / "resumed")
        for name in names:
            train(bench, folder / name)
        first = _teacher_and_student(folder / "whole/000001.pth")
        last = {n: _teacher_and_student(folder / f"{n}/{ITERATIONS:06d}.pth") for n in names}
    whole = last.pop("whole")
    change = float((whole - first).norm())
    return {
        "stopped_at": stopped_at,
        "to_the_bit": torch.equal(last["resumed"], whole),
        **{name: float((weights - whole).norm()) / change for name, weights in last.items()},
    }


def train(bench: Bench, folder: Path, **changes: Any) -> None:
    """Run the stage, or what is left of it."""
    stage = brief_stage(
        bench,
        iterations=ITERATIONS,
        snapshots=(1, ITERATIONS),
        optim=Optimisation(lr=1e-3),
        augmentation=Augmentation(local_crops=1),
        batch_size=4,
        **changes,
    )
    pretrain.run(
        PretrainOptions(name="stage", backbone="vittiny8", stage=stage),
        index=bench.index(stage.slices_px),
        init=bench.weights("vittiny8"),
        gram_teacher=bench.weights("vittiny8", seed=1),
        state=folder / "state",
        output=folder / "history.jsonl",
    )


def train_in_child(bench: Bench, folder: Path, deterministic: bool) -> None:
    """The same in a new process, which shares no settings with this one."""
    exact()
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    train(bench, folder, checkpoint_every=1)


def _stopped(bench: Bench, folder: Path) -> int:
    """Start the stage in another process and stop it; gives the iteration that it got to."""
    bench.index(32)
    child = multiprocessing.get_context("spawn").Process(
        target=train_in_child,
        args=(bench, folder, torch.are_deterministic_algorithms_enabled()),
    )
    child.start()
    while child.is_alive() and not checkpoints.found(folder / "state"):
        time.sleep(0.005)
    if child.is_alive():
        os.kill(child.pid or 0, signal.SIGTERM)
    child.join()
    saved = checkpoints.newest(folder / "state")
    if child.exitcode == 0 or saved is None or (folder / "history.jsonl").exists():
        raise RuntimeError(f"the signal did not stop training: it ended with {child.exitcode}")
    return int(saved["iteration"])


def _teacher_and_student(path: Path) -> torch.Tensor:
    content = loading.read(path)
    parts = (content[name].values() for name in ("teacher", "student"))
    return torch.cat([value.double().flatten() for values in parts for value in values])
