"""How fast training is: slices a second, share of the GPU's peak, memory, time left."""

import time
from collections import deque

import torch

from meddino.models.architectures import Architecture
from meddino.pretrain.losses import SINKHORN_ITERATIONS, are_kept
from meddino.pretrain.options import Resolution, StageOptions

PEAK_FLOPS = {
    "V100": 125e12,
    "A100": 312e12,
    "L40S": 362e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
}
"""Dense matrix products in half precision (makers' data sheets), by a part of the device's name."""
WINDOW = 50
"""Iterations over which speed is averaged."""


def forward_flops(a: Architecture, side_px: int, kept: float = 1.0) -> float:
    """Floating point operations of a ViT's forward pass on one square image (matrix products).

    Args:
        a: the ViT.
        side_px: side of the image.
        kept: share of the images that take a branch, where drop path leaves some out.
    """
    patches, tokens = (side_px // a.patch_size) ** 2, a.tokens(side_px)
    block = tokens * a.block_weights + 2 * tokens**2 * a.embed_dim
    return 2 * (kept * a.depth * block + patches * 3 * a.patch_size**2 * a.embed_dim)


def hidden_patches(a: Architecture, stage: StageOptions, resolution: Resolution) -> float:
    """Patches that iBOT hides of a slice, in the mean."""
    masked = stage.masking.probability * sum(stage.masking.ratio) / 2
    return 2 * masked * (resolution.global_px // a.patch_size) ** 2


def step_flops(
    a: Architecture, stage: StageOptions, resolution: Resolution, processes: int = 1
) -> float:
    """Count those of one slice in a training step; a backward pass is worth two forward ones."""
    crops = stage.augmentation.local_crops
    kept = 1 - stage.drop_path
    hidden = hidden_patches(a, stage, resolution)
    dino, ibot = (2 * head.weights(a.embed_dim) for head in (stage.dino_head, stage.ibot_head))
    teacher = 2 * forward_flops(a, resolution.global_px)
    for head, samples in ((stage.dino_head, 2), (stage.ibot_head, hidden)):
        process_samples = int(samples * stage.batch_size / processes)
        passes = 1 if are_kept(process_samples, head.prototypes) else SINKHORN_ITERATIONS + 1
        teacher += samples * 2 * head.weights(a.embed_dim, passes)
    student = 2 * forward_flops(a, resolution.global_px, kept)
    student += crops * forward_flops(a, resolution.local_px, kept)
    student += (2 + crops) * dino + hidden * ibot
    gram = 0.0 if resolution.gram_px is None else 2 * forward_flops(a, resolution.gram_px)
    return teacher + 3 * student + gram


class Meter:
    """Speed over the last iterations."""

    def __init__(self, device: torch.device, processes: int) -> None:
        """Start the clock; `processes` of `device`'s kind work at once."""
        self._device, self._last = device, time.monotonic()
        self._steps: deque[tuple[float, int, float]] = deque(maxlen=WINDOW)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
        peaks = [peak for part, peak in PEAK_FLOPS.items() if part in name]
        self._peak = peaks[0] * processes if peaks else None

    def step(self, slices: int, flops: float) -> None:
        """Count one iteration of so many slices and operations, over all processes."""
        now = time.monotonic()
        self._steps.append((now - self._last, slices, flops))
        self._last = now

    def read(self, remaining: int) -> dict[str, float]:
        """Average over the last iterations.

        Args:
            remaining: iterations to go.

        Returns:
            `seconds` of an iteration, `slices_per_second`, `tflops`, `hours_left`; on a GPU also
            `memory_gb` (its peak) and, where the GPU's peak is known, `mfu` (a share of it).
        """
        seconds, slices, flops = (sum(column) for column in zip(*self._steps, strict=True))
        iteration_seconds = seconds / len(self._steps)
        speed = {
            "seconds": iteration_seconds,
            "slices_per_second": slices / seconds,
            "tflops": flops / seconds / 1e12,
            "hours_left": iteration_seconds * remaining / 3600,
        }
        if self._device.type == "cuda":
            speed["memory_gb"] = torch.cuda.max_memory_allocated(self._device) / 1e9
        if self._peak is not None:
            speed["mfu"] = flops / seconds / self._peak
        return speed
