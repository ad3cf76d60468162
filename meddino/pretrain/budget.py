"""How the slices of a step are divided: among processes, and by what fits a GPU at once.

The estimate of memory is an upper bound: it counts what a step holds without compiling, which keeps
less. It was fitted to steps of the study's stages on tensors without content
(benchmarks/RESULTS.md).
"""

from dataclasses import replace

import torch

from meddino.models.architectures import Architecture
from meddino.models.distributed import Team
from meddino.pretrain.losses import KEPT_LOGITS, PIECE_LOGITS
from meddino.pretrain.meter import hidden_patches
from meddino.pretrain.options import Resolution, StageOptions

KEPT_VALUES = 26
"""Values that the backward pass of a block needs for each token and channel."""
LOSS_BYTES = 20
"""Bytes that the losses hold at once for each logit of a piece."""
STATE_BYTES = {"student": 16, "teacher": 4}
"""Of each parameter: itself, its gradient and AdamW's two moments, or itself alone."""
USABLE = 0.85
"""Share of a GPU's memory that may be counted on: the rest is CUDA's own, and fragments."""


def step_bytes(
    a: Architecture,
    stage: StageOptions,
    resolution: Resolution,
    slices: int,
    checkpointing: bool = False,
) -> float:
    """Memory of a step at its fullest.

    Args:
        a: of the backbones.
        stage: what is trained.
        resolution: sizes of the crops.
        slices: that are worked on at once.
        checkpointing: whether blocks are computed a second time in place of being kept.
    """
    width = 2 if stage.precision == "bf16" else 4
    whole = 2 * a.tokens(resolution.global_px)
    parts = stage.augmentation.local_crops * a.tokens(resolution.local_px)
    block = KEPT_VALUES * width * a.embed_dim * slices  # of a token of each slice
    inputs = width * a.embed_dim * slices
    if checkpointing:
        student = a.depth * inputs * (whole + parts) + block * max(whole, parts)
    else:
        student = a.depth * block * (whole + parts)
    gram = 0 if resolution.gram_px is None else block * 2 * a.tokens(resolution.gram_px)
    logits = slices * hidden_patches(a, stage, resolution) * stage.ibot_head.prototypes
    losses = LOSS_BYTES * min(logits, PIECE_LOGITS) + 4 * min(logits, KEPT_LOGITS)
    return _state_bytes(a, stage) + max(student + losses, gram)


def _state_bytes(a: Architecture, stage: StageOptions) -> float:
    """Networks and optimiser."""
    heads = sum(head.weights(a.embed_dim) for head in (stage.dino_head, stage.ibot_head))
    gram = a.weights * STATE_BYTES["teacher"] if stage.objective.gram > 0 else 0
    return (a.weights + heads) * sum(STATE_BYTES.values()) + gram


def settled(
    stage: StageOptions, a: Architecture, processes: int, capacity: float | None
) -> StageOptions:
    """A stage with a number of slices in place of `micro_batch: auto`.

    It is the largest number whose steps fit, or the smallest that is possible if none does.

    Args:
        stage: what is trained.
        a: of the backbones.
        processes: that share the batch.
        capacity: bytes of the smallest GPU; None, on CPUs, takes all slices of a process at once.
    """
    sizes = part_sizes(stage, processes)
    if stage.micro_batch != "auto" or not sizes or capacity is None:
        return stage
    # Checkpointing costs a third more time, and larger parts save little of it: the smallest size
    # with it, where a resolution asks for it, is better than a larger one that needs it everywhere.
    checkpointing = stage.activation_checkpointing is True
    fitting = [
        slices
        for slices in sizes
        if all(_fits(a, stage, x, slices, checkpointing, capacity) for x in stage.resolutions)
    ]
    slices = max(fitting, default=min(sizes))
    return replace(stage, micro_batch=None if slices == max(sizes) else slices)


def _fits(
    a: Architecture,
    stage: StageOptions,
    resolution: Resolution,
    slices: int,
    checkpointing: bool,
    capacity: float,
) -> bool:
    """Whether a step with so many slices at once fits so many bytes."""
    return step_bytes(a, stage, resolution, slices, checkpointing) <= USABLE * capacity


def part_sizes(stage: StageOptions, processes: int) -> list[int]:
    """Numbers of slices that a process may work on at once; none where so many cannot share.

    Where there are more processes than groups, as many share each group.
    """
    process_slices, rest = divmod(stage.batch_size, processes)
    if rest or process_slices == 0:
        return []
    if stage.group % process_slices == 0:
        return [process_slices]
    sizes = range(stage.group, process_slices + 1, stage.group)
    return [size for size in sizes if process_slices % size == 0]


def parts_of(stage: StageOptions, processes: int) -> tuple[int, int] | None:
    """Slices of a part and parts of a process; None where so many cannot share the batch."""
    process_slices = stage.batch_size // processes
    part_slices = wanted(stage, process_slices)
    if part_slices not in part_sizes(stage, processes):
        return None
    return part_slices, process_slices // part_slices


def wanted(stage: StageOptions, process_slices: int) -> int:
    """Slices of a part by the options, of a process that has so many."""
    if isinstance(stage.micro_batch, int):
        return min(stage.micro_batch, process_slices)
    return process_slices


def checkpoints(
    a: Architecture,
    stage: StageOptions,
    resolution: Resolution,
    slices: int,
    capacity: float | None,
) -> bool:
    """Whether a batch of this kind needs activation checkpointing."""
    if stage.activation_checkpointing != "auto":
        return stage.activation_checkpointing
    return capacity is not None and not _fits(a, stage, resolution, slices, False, capacity)


def smallest_memory(team: Team) -> float | None:
    """Bytes of the smallest GPU of a team, the same for all; None on CPUs."""
    if team.device.type != "cuda":
        return None
    return min(team.gather(float(torch.cuda.get_device_properties(team.device).total_memory)))
