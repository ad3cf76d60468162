"""Attention by each of torch's backends, in the shapes that the stages have: which is fastest."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpu_checks.bench import Bench
from gpu_checks.outcomes import Figures
from gpu_checks.stages import BACKBONE, STAGE1, STAGE3
from gpu_checks.timing import median_seconds
from meddino.models.architectures import Architecture, named
from meddino.pretrain.engine import GLOBAL_CROPS


def attention(bench: Bench) -> Figures:
    """Milliseconds of a forward and backward pass in bf16, by shape and backend."""
    a = named("vittiny8" if bench.small else BACKBONE)
    names = ("flash", "cudnn", "efficient") if bench.gpu else ("flash", "math")
    backends = {
        "flash": SDPBackend.FLASH_ATTENTION,
        "cudnn": SDPBackend.CUDNN_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
        "math": SDPBackend.MATH,
    }
    figures: Figures = {}
    for label, images, side_px in _shapes(bench):
        tokens = a.tokens(side_px)
        run = _pass(bench, a, images, tokens)
        row: dict[str, Any] = {"torch's choice": _milliseconds(run, bench)}
        for name in names:
            row[name] = _milliseconds(run, bench, backends[name])
        figures[f"{label}, {images} x {tokens} tokens, ms"] = row
    return figures


def _shapes(bench: Bench) -> list[tuple[str, int, int]]:
    """Label, images and side of what a part of a step shows to a network at once."""
    if bench.small:
        return [("global 32 px", 4, 32), ("local 16 px", 8, 16)]
    shapes = {}
    for stage, resolution in ((STAGE1, STAGE1.resolutions[0]), (STAGE3, STAGE3.resolutions[1])):
        slices = stage.micro_batch or stage.batch_size
        crops = stage.augmentation.local_crops
        shapes[f"global {resolution.global_px} px"] = GLOBAL_CROPS * slices, resolution.global_px
        shapes[f"local {resolution.local_px} px of {slices}"] = crops * slices, resolution.local_px
        if resolution.gram_px:
            shapes[f"Gram {resolution.gram_px} px"] = GLOBAL_CROPS * slices, resolution.gram_px
    return [(label, images, side_px) for label, (images, side_px) in shapes.items()]


def _pass(bench: Bench, a: Architecture, images: int, tokens: int) -> Callable[[], None]:
    size = (images, a.num_heads, tokens, a.embed_dim // a.num_heads)
    options = {"device": bench.device, "dtype": torch.bfloat16}
    q, k, v = (torch.randn(size, **options, requires_grad=True) for _ in range(3))  # type: ignore
    gradient = torch.randn(size, **options)  # type: ignore

    def run() -> None:
        torch.autograd.grad(F.scaled_dot_product_attention(q, k, v), (q, k, v), gradient)

    return run


def _milliseconds(
    run: Callable[[], None], bench: Bench, backend: SDPBackend | None = None
) -> float | str:
    """The time, or what torch says where it has no such backend for these shapes."""
    try:
        with nullcontext() if backend is None else sdpa_kernel(backend):
            return 1000 * median_seconds(run, bench.device)
    except RuntimeError as error:
        return f"not here: {str(error).splitlines()[0]}"
