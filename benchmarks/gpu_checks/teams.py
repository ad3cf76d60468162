"""DDP and FSDP2: over NCCL on two GPUs, or on one in a process group of its own."""

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from gpu_checks.bench import Bench, brief_stage, exact, largest_difference
from gpu_checks.outcomes import Figures, Missed
from gpu_checks.speed import rates
from meddino.models.distributed import Team
from meddino.pretrain.checkpoint import expected
from meddino.pretrain.options import PretrainOptions, StageOptions
from meddino.pretrain.sharing import Sharding
from meddino.pretrain.trainer import Trainer

TOLERANCE = 1e-4
"""Largest relative difference of a loss or gradient norm in fp32."""
WARMUPS = 2


def _team(sharding: Sharding, bench: Bench) -> Figures:
    """The same steps in a team and alone: losses, gradient norms, speed."""
    exact()
    backbone = "vittiny8" if bench.small else "vits16"
    stage = brief_stage(bench, iterations=4, batch_size=16)
    alone = bench.train(backbone, stage)
    several = bench.gpu and torch.cuda.device_count() > 1
    stage = replace(stage, sharding=sharding)
    if several:
        lines = bench.train(backbone, replace(stage, processes=2))
        figures: Figures = {"processes": 2}
    else:
        lines, wrapped = _in_group(bench, backbone, stage)
        figures = {"processes": 1, "module": wrapped}
    difference, name = max(map(largest_difference, lines, alone))
    figures |= {
        "backend": "nccl" if bench.gpu else "gloo",
        "difference": difference,
        "of": name,
        "slices_per_second": rates(lines, WARMUPS, stage.batch_size)["slices_per_second"],
        "alone_slices_per_second": rates(alone, WARMUPS, stage.batch_size)["slices_per_second"],
    }
    if difference > TOLERANCE:
        raise Missed(f"{name} differs by {difference:.2g} from one process", figures)
    return figures


ddp = partial(_team, "ddp")
fsdp = partial(_team, "fsdp")


def _in_group(bench: Bench, backbone: str, stage: StageOptions) -> tuple[list[Figures], str]:
    """Train in a process group of one; gives the history and the class that shares the engine."""
    options = PretrainOptions(name="stage", backbone=backbone, stage=stage)
    sources = {
        "init": expected(stage.init, bench.weights(backbone), "init"),
        "gram_teacher": expected(stage.gram_teacher, bench.weights(backbone, 1), "gram_teacher"),
    }
    device = torch.device(bench.device, 0 if bench.gpu else None)
    with tempfile.TemporaryDirectory(dir=bench.folder) as scratch:
        dist.init_process_group(
            "nccl" if bench.gpu else "gloo",
            init_method=f"file://{scratch}/meeting",
            rank=0,
            world_size=1,
            device_id=device if bench.gpu else None,
        )
        try:
            trainer = Trainer(options, bench.index(stage.slices_px), sources, Team(device))
            trainer.train(Path(scratch, "state"))
        finally:
            dist.destroy_process_group()
    return trainer.history, type(trainer.model).__name__
