"""The finetuning step: meddino's trainer and nnU-Net's own, with the same network and data.

    python benchmarks/finetuning.py [--method meddinov3] [--size-px 896] [--batch 2] [--workers 12]

Phantoms are converted, planned and preprocessed by the study's own verbs; the full-size form takes
some minutes for that. Both trainers then load and augment as nnU-Net does, and step as they do in
training, with cuDNN's algorithms tuned on a GPU. nnU-Net's has its default optimiser, fp16 and a
gradient scaler, and compiles on a GPU; ours is measured as configured, and not compiled. One after
the other, since two would not fit into a GPU's memory. At last the augmentation alone, with more
and more workers: how many cores a GPU needs. Prints two Markdown tables. Small, on a CPU:

    python benchmarks/finetuning.py --backbone vittiny8 --size-px 128 --image-px 96 --slices 16 \
        --batch 2 --workers 0 --loaders 1 2 --steps 5 --seconds 5 --device cpu
"""

import argparse
import gc
import math
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from gpu_checks.timing import timed
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from phantoms import scanned

from meddino.core.files import read_json, write_json
from meddino.datasets.options import FolderLayout
from meddino.datasets.phantom.raw_layouts import RAW_LAYOUTS, labels_of
from meddino.finetune import convert, plan, preprocess
from meddino.finetune.networks import build_network
from meddino.finetune.nnunet import folders, quiet
from meddino.finetune.options import (
    Configuration,
    ConvertOptions,
    Method,
    Planning,
    PlanOptions,
    PreprocessOptions,
    Training,
)
from meddino.finetune.settings import Settings, read_settings, write_settings
from meddino.finetune.speed import tune_convolutions
from meddino.finetune.trainer import StudyTrainer
from meddino.models.architectures import ARCHITECTURES, named
from meddino.models.device import choose
from meddino.study.model import load

STUDY = load([Path(__file__).parents[1] / "config.yaml"])
CONFIGURATION = "2d_large"
LAYOUT = FolderLayout(
    images=("images/*.nii.gz",), labels=("labels/*.nii.gz",), case=r"(?P<case>c\d+)"
)


class PlainTrainer(nnUNetTrainer):
    """nnU-Net's trainer as it is; only the network is the method's."""

    def __init__(  # nnU-Net looks these names up
        self, plans: Any, configuration: str, fold: int, dataset_json: Any, device: torch.device
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.enable_deep_supervision = False

    @staticmethod
    def build_network_architecture(
        plans_manager: Any, configuration_manager: Any, inputs: int, outputs: int, deep: bool = True
    ) -> torch.nn.Module:
        settings = read_settings(plans_manager.plans)
        return build_network(settings, configuration_manager, outputs, False)

    def print_to_log_file(self, *_: Any, **__: Any) -> None: ...


def main() -> None:
    """Make the data, measure each trainer, then the loading alone, and print the tables."""
    given = _arguments()
    if given.threads:
        torch.set_num_threads(given.threads)
    device = choose(given.device)
    method = _method(given)
    with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
        folder = _preprocessed(Path(scratch), given)
        print(
            f"{given.method}, {method.backbone or method.network}, {given.size_px} px,"
            f" batch {given.batch}, {given.workers} workers, {_called(device)}\n"
        )
        print("| trainer | it/s | slices/s | step, s | waiting for data | peak memory |")
        print("|---|---:|---:|---:|---:|---:|")
        kinds: dict[str, tuple[type, bool]] = {
            "nnU-Net's": (PlainTrainer, True),
            "meddino": (StudyTrainer, True),
        }
        if device.type == "cuda":
            tune_convolutions()
            kinds["meddino, not compiled"] = (StudyTrainer, False)
        steps = [
            _trained(name, kind, method, compiled, folder, given, device)
            for name, (kind, compiled) in kinds.items()
            if given.steps
        ]
        _loading(method, folder, given, device, min(steps, default=math.nan))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", default="meddinov3", choices=list(STUDY.methods))
    parser.add_argument("--backbone", choices=list(ARCHITECTURES), help="instead of the method's")
    parser.add_argument("--size-px", type=int, default=896, help="side of the network's input")
    parser.add_argument("--batch", type=int, default=2, help="slices in a batch")
    parser.add_argument("--workers", type=int, default=12, help="processes that augment")
    parser.add_argument(
        "--loaders", type=int, nargs="*", default=[1, 2, 4, 8, 12, 16],
        help="workers of the loading alone, each number up to the machine's cores",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=50, help="0: the loading alone")
    parser.add_argument("--warmup", type=int, default=5, help="steps that do not count")
    parser.add_argument("--seconds", type=float, default=15, help="of each loading alone")
    parser.add_argument("--image-px", type=int, default=512, help="matrix of the phantoms")
    parser.add_argument("--slices", type=int, default=40, help="slices of a phantom")
    parser.add_argument("--cases", type=int, default=6)
    parser.add_argument("--threads", type=int, help="of torch, on a CPU")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--folder", type=Path, help="where the data go (default: a temporary one)")
    return parser.parse_args()


def _method(given: argparse.Namespace) -> Method:
    """The study's method from random weights, which take the same time."""
    method = STUDY.methods[given.method].alone()
    changes: dict[str, Any] = {"weights": None, "configuration": CONFIGURATION}
    if given.backbone and method.backbone:
        depth = named(given.backbone).depth
        blocks = (
            [depth * (i + 1) // 4 - 1 for i in range(4)] if len(method.blocks) > 1 else [depth - 1]
        )
        changes |= {"backbone": given.backbone, "blocks": blocks}
    return method.model_copy(update=changes)


# ---- data -----------------------------------------------------------------------------------


def _preprocessed(root: Path, given: argparse.Namespace) -> Path:
    """Phantoms with BTCV's 13 structures, preprocessed: nnU-Net's folder of the data set."""
    rng = np.random.default_rng(0)
    for number in range(given.cases):
        scan = scanned(given.image_px, given.slices, rng)
        labels = labels_of(scan, RAW_LAYOUTS["btcv"].labels)
        for part, array in (("images", scan.image), ("labels", labels)):
            path = root / f"raw/{part}/c{number}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = sitk.GetImageFromArray(array)
            image.SetSpacing(scan.spacing[::-1])
            sitk.WriteImage(image, str(path))
    write_json(root / "raw/.fetched.json", {"root": "."})
    name = "Dataset702_btcv"
    dataset = root / "converted" / name / "dataset.json"
    plans = root / "preprocessed" / name / "nnUNetPlans.json"
    benchmark = STUDY.benchmarks["btcv"]
    planning = Planning(
        patch_px=given.image_px,
        foreground_samples=100_000,
        features_per_stage=[32, 64, 128, 256, 512],
        configurations={
            CONFIGURATION: Configuration(patch_px=given.size_px, batch_size=given.batch)
        },
    )
    convert.run(
        ConvertOptions(benchmark=benchmark, dataset=LAYOUT),
        raw=root / "raw/.fetched.json",
        output=dataset,
    )
    plan.run(PlanOptions(planning=planning), dataset=dataset, output=plans)
    preprocess.run(
        PreprocessOptions(configuration=CONFIGURATION),
        plans=plans,
        output=plans.with_name(f"{CONFIGURATION}.json"),
    )
    return plans.parent


# ---- training -------------------------------------------------------------------------------


@contextmanager
def _trainer(
    kind: type, method: Method, compiled: bool, folder: Path, workers: int, device: torch.device
) -> Iterator[Any]:
    """A trainer with its network and loaders."""
    plans = read_json(folder / "nnUNetPlans.json") | {"continue_training": False}
    training = Training(num_processes=workers, compile=compiled)
    write_settings(plans, Settings(method=method, training=training))
    with quiet(), folders(workers, preprocessed=folder.parent, results=folder.parent / "results"):
        made = kind(plans, CONFIGURATION, 0, read_json(folder / "dataset.json"), device)
        made.set_up() if kind is StudyTrainer else made.initialize()
        made.network.train()
        made.dataloader_train, made.dataloader_val = made.get_dataloaders()
        _stop(made.dataloader_val)
    try:
        yield made
    finally:
        _stop(made.dataloader_train)


def _stop(loader: Any) -> None:
    if hasattr(loader, "_finish"):
        loader._finish()


def _trained(
    name: str,
    kind: type,
    method: Method,
    compiled: bool,
    folder: Path,
    given: argparse.Namespace,
    device: torch.device,
) -> float:
    """Measure a trainer, and print its row; gives the seconds of a step without its waiting."""
    gpu = device.type == "cuda"
    gc.collect()  # the trainer before, which holds itself in circles
    if gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    waits, steps = [], []
    with _trainer(kind, method, compiled, folder, given.workers, device) as trainer:
        for number in range(given.warmup + given.steps):
            if number == given.warmup:
                begin = time.perf_counter()
            waiting, batch = timed(lambda: next(trainer.dataloader_train), device.type)
            working, _ = timed(lambda batch=batch: trainer.train_step(batch), device.type)
            if number >= given.warmup:
                waits.append(waiting)
                steps.append(working)
        whole = time.perf_counter() - begin
    rate = given.steps / whole
    memory = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if gpu else "-"
    step = statistics.median(steps)
    slices, waiting = rate * given.batch, sum(waits) / whole
    print(
        f"| {name} | {rate:.3g} | {slices:.3g} | {step:.3g} | {waiting:.1%} | {memory} |",
        flush=True,
    )
    return step


# ---- loading alone --------------------------------------------------------------------------


def _loading(
    method: Method, folder: Path, given: argparse.Namespace, device: torch.device, step: float
) -> None:
    """Batches a second that nnU-Net's loader gives when nothing takes time but asking."""
    cores = len(os.sched_getaffinity(0))
    print("\n| workers | batches/s | slices/s | share of what the fastest step takes |")
    print("|---:|---:|---:|---:|")
    for workers in (number for number in given.loaders if number <= cores):
        with _trainer(StudyTrainer, method, False, folder, workers, device) as trainer:
            for _ in range(2 * workers + 8):  # what had been made before, and the start
                next(trainer.dataloader_train)
            count, start = 0, time.perf_counter()
            while (spent := time.perf_counter() - start) < given.seconds:
                next(trainer.dataloader_train)
                count += 1
            rate = count / spent
        share = "-" if math.isnan(step) else f"{rate * step:.0%}"
        print(f"| {workers} | {rate:.3g} | {rate * given.batch:.3g} | {share} |", flush=True)


def _called(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
