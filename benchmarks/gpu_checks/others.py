"""Against the trainers of others: nnU-Net's own, and the public one of DINOv3's authors."""

import os
import subprocess
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from gpu_checks.bench import Bench
from gpu_checks.outcomes import Figures, Skip
from gpu_checks.stages import BACKBONE, STAGE1
from meddino.core.errors import MeddinoError

BENCHMARKS = Path(__file__).parents[1]
NNUNET = ("nnunetv2", "SimpleITK", "pydantic", "yaml")
PUBLIC = ("omegaconf", "termcolor", "torchmetrics", "iopath", "ftfy")
SMALL = (
    *("--backbone", "vittiny8", "--size-px", "64", "--image-px", "64", "--slices", "8"),
    *("--workers", "0", "--steps", "2", "--warmup", "1"),
)


def finetuning(bench: Bench) -> Figures:
    """Steps at 896 px: nnU-Net's trainer and ours, with the same network and data."""
    _need(NNUNET, "`make setup` installs nnU-Net")
    workers = min(12, max(1, len(os.sched_getaffinity(0)) - 1))
    sizes = SMALL if bench.small else ("--size-px", "896", "--steps", "30", "--workers", workers)
    where = ("--device", bench.device, "--folder", bench.folder)
    return _rows("finetuning.py", *sizes, *where, "--loaders")


def public(bench: Bench) -> Figures:
    """A step of stage 1, not in parts: the public trainer's and ours, on the same crops."""
    if bench.peer is None:
        raise Skip(
            "no public trainer at hand: `make gpu-test PEER=<clone of facebookresearch/dinov3>`"
        )
    if not (bench.peer / "dinov3/train/ssl_meta_arch.py").exists():
        raise MeddinoError("PEER is no clone of facebookresearch/dinov3; give the folder of one")
    _need(PUBLIC, "install them with pip")
    sizes = ("--backbone", BACKBONE, "--batch", STAGE1.micro_batch)
    if bench.small:
        sizes = ("--backbone", "vittiny8", "--batch", 2, "--prototypes", 64, "--steps", 2)
        sizes += ("--global-px", 32, "--local-px", 16)
    return _rows("pretraining.py", *sizes, "--peer", bench.peer)


def _need(modules: Iterable[str], remedy: str) -> None:
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise Skip(f"no {', '.join(missing)} here: {remedy}")


def _rows(script: str, *arguments: object) -> Figures:
    """The first table that a benchmark prints."""
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        lines = done.stdout.strip().splitlines()[-10:]
        raise MeddinoError("\n".join([f"{script} ended with {done.returncode}:", *lines]))
    return table(done.stdout)


def table(text: str) -> Figures:
    """The first Markdown table of a text: its first column -> the others by their headings.

    Raises:
        ValueError: there is none.
    """
    lines = text.splitlines()
    first = next((n for n, line in enumerate(lines) if line.startswith("|--")), None)
    if first is None:
        raise ValueError(f"no table in {text[-300:]!r}")
    _, *headings = _cells(lines[first - 1])
    figures: Figures = {}
    for line in lines[first + 1 :]:
        if not line.startswith("|"):
            break
        name, *values = _cells(line)
        figures[name] = dict(zip(headings, values, strict=True))
    return figures


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]
