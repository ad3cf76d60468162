"""The paper's stages as config.yaml has them, compiled: slices a second, MFU, memory, graphs."""

import gc
from dataclasses import replace

import torch

from gpu_checks.bench import NEVER, SMALL_HEAD, Bench
from gpu_checks.graphs import graphs
from gpu_checks.outcomes import Figures
from gpu_checks.stages import BACKBONE, STAGE1, STAGE2, STAGE3
from gpu_checks.timing import seconds
from meddino.core.errors import MeddinoError
from meddino.pretrain import views
from meddino.pretrain.options import Resolution, StageOptions

PARTS = 4
"""Parts of a step: enough that the optimiser counts little, as in a batch of 512."""
ITERATIONS = 12
"""Of which the first third warms up."""
NO_MEMORY = "not enough memory"


def stage1(bench: Bench) -> Figures:
    """Self-distillation at 256 px."""
    return _speed(bench, STAGE1)


def stage2(bench: Bench) -> Figures:
    """With Gram anchoring."""
    return _speed(bench, STAGE2)


def stage3_512(bench: Bench) -> Figures:
    """High resolution, the smaller crops."""
    return _speed(bench, replace(STAGE3, resolutions=STAGE3.resolutions[:1]))


def stage3_768(bench: Bench) -> Figures:
    """High resolution, the larger crops with the smallest local ones."""
    return _speed(bench, replace(STAGE3, resolutions=STAGE3.resolutions[1:2]))


def stage3_all(bench: Bench) -> Figures:
    """High resolution, all kinds of batches in turn: whether compiling copes with them."""
    kinds = tuple(replace(kind, ratio=1.0) for kind in STAGE3.resolutions)
    stage = replace(STAGE3, resolutions=kinds)
    iterations = _until_all(_sized(bench, stage, parts=1, iterations=1))
    lines: list[Figures] = []
    spent = seconds(lambda: lines.extend(_fitted(bench, stage, 1, iterations)[1]), bench.device)
    return {"kinds": len(kinds), "iterations": len(lines), "seconds": spent, **graphs()}


def _until_all(stage: StageOptions) -> int:
    """Iterations until each kind of batch was drawn."""
    drawn: set[Resolution] = set()
    iterations = 0
    while len(drawn) < len(stage.resolutions):
        drawn.add(views.draw_resolution(stage, iterations))
        iterations += 1
    return iterations


def _speed(bench: Bench, stage: StageOptions) -> Figures:
    stage, lines = _fitted(bench, stage, PARTS, 3 if bench.small else ITERATIONS)
    sizes = {"micro_batch": stage.micro_batch, "batch_size": stage.batch_size}
    return sizes | rates(lines, len(lines) // 3, stage.batch_size) | graphs()


def _fitted(
    bench: Bench, stage: StageOptions, parts: int, iterations: int
) -> tuple[StageOptions, list[Figures]]:
    """Train with the stage's own number of slices at once, or the largest that fits: history."""
    largest = stage.micro_batch or stage.batch_size
    for slices in (largest, largest // 2, largest // 4):
        part = replace(stage, micro_batch=slices, group_size=slices, batch_size=slices)
        part = _sized(bench, part, parts=parts, iterations=iterations)
        try:
            return part, _trained(bench, part)
        except MeddinoError as error:
            if NO_MEMORY not in str(error) or slices == largest // 4:
                raise
        gc.collect()
        torch.cuda.empty_cache()
    raise AssertionError("the last try returns or raises")


def _sized(bench: Bench, stage: StageOptions, *, parts: int, iterations: int) -> StageOptions:
    """A few iterations of a stage from random weights; in the dry run, of a tiny one."""
    gram = stage.objective.gram > 0
    slices = stage.micro_batch or stage.batch_size
    if bench.small:
        slices = 2
        stage = replace(
            stage,
            slices_px=32,
            resolutions=tuple(
                replace(kind, global_px=32, local_px=16 + 8 * number, gram_px=64 if gram else None)
                for number, kind in enumerate(stage.resolutions)
            ),
            augmentation=replace(stage.augmentation, local_crops=2),
            dino_head=SMALL_HEAD,
            ibot_head=SMALL_HEAD,
            precision="fp32",
            compile=False,  # minutes on a CPU
        )
    return replace(
        stage,
        data="leaves",
        init=None,
        gram_teacher="random" if gram else None,
        iterations=iterations,
        snapshots=(iterations,),
        batch_size=parts * slices,
        micro_batch=slices,
        group_size=slices,
        device=bench.device,
        processes=1,
        log_every=1,
        quality_every=NEVER,
        checkpoint_every=NEVER,
    )


def _trained(bench: Bench, stage: StageOptions) -> list[Figures]:
    if bench.gpu:
        torch.cuda.reset_peak_memory_stats()
    return bench.train("vittiny8" if bench.small else BACKBONE, stage)


def rates(lines: list[Figures], warmups: int, batch_size: int) -> Figures:
    """Speed without the first iterations, in which kernels are compiled.

    A line of the history holds means over all iterations so far; their sums are subtracted.
    """
    first, last = lines[warmups - 1], lines[-1]
    spent = last["seconds"] * len(lines) - first["seconds"] * warmups
    flops = sum(
        sign * line["tflops"] * line["seconds"] * count
        for sign, line, count in ((1, last, len(lines)), (-1, first, warmups))
    )
    figures = {
        "slices_per_second": batch_size * (len(lines) - warmups) / spent,
        "tflops": flops / spent,
        "warmup_seconds": first["seconds"] * warmups,
    }
    if "mfu" in last:
        figures["mfu"] = figures["tflops"] * last["mfu"] / last["tflops"]
    if "memory_gb" in last:
        figures["memory_gb"] = last["memory_gb"]
    return figures
