"""What all checks share: the machine, slices, weights, and a training of a few iterations."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gpu_checks.outcomes import Figures
from meddino.core.files import atomic, read_lines
from meddino.models.vit import build
from meddino.pretrain import leaves, pretrain
from meddino.pretrain.options import (
    Augmentation,
    Head,
    LeavesOptions,
    Objective,
    Optimisation,
    PretrainOptions,
    Resolution,
    StageOptions,
)

SLICES = {32: 12, 256: 48, 512: 12}
"""Pictures that are made of each size (px); a batch of more repeats them."""
NEVER = 10**9
SMALL_HEAD = Head(prototypes=64, hidden=48, bottleneck=16)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where and at what size the checks run."""

    device: str
    """`cuda` or `cpu`."""
    folder: Path
    """For slices and weights, which the checks share, and for what they leave."""
    small: bool = False
    """Whether a tiny network stands in for the real ones: the dry run."""
    peer: Path | None = None
    """A clone of facebookresearch/dinov3."""

    @property
    def gpu(self) -> bool:
        return self.device == "cuda"

    def index(self, size_px: int) -> Path:
        """Index of dead-leaves pictures of a size, made when first asked for."""
        path = self.folder / f"index.{size_px}.parquet"
        if not path.exists():
            leaves.run(LeavesOptions(count=SLICES[size_px], size_px=size_px), output=path)
        return path

    def weights(self, backbone: str, seed: int = 0) -> Path:
        """Random weights of a ViT, as published ones are stored.

        Their residual branches count in full: DINOv3's scale of 1e-5 at the start would hide them.
        """
        path = self.folder / f"{backbone}-{seed}.pth"
        if not path.exists():
            torch.manual_seed(seed)
            state = build(backbone).state_dict()
            for name, value in state.items():
                if name.endswith("gamma"):
                    value.fill_(1.0)
            with atomic(path) as temporary:
                torch.save(state, temporary)
        return path

    def train(self, backbone: str, stage: StageOptions) -> list[Figures]:
        """Run a stage from random weights; gives the lines of its history."""
        options = PretrainOptions(name="stage", backbone=backbone, stage=stage)
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            history = Path(scratch, "history.jsonl")
            pretrain.run(
                options,
                index=self.index(stage.slices_px),
                init=stage.init and self.weights(backbone),
                gram_teacher=stage.gram_teacher and self.weights(backbone, seed=1),
                state=Path(scratch, "state"),
                output=history,
            )
            return read_lines(history)


def brief_stage(bench: Bench, **changes: Any) -> StageOptions:
    """A stage of few iterations with small heads and everything random that a stage can have."""
    resolution = Resolution(global_px=32, local_px=16, gram_px=64)
    if not bench.small:
        resolution = Resolution(global_px=96, local_px=48, gram_px=192)
    values: dict[str, Any] = {
        "data": "leaves",
        "slices_px": 32 if bench.small else 256,
        "init": "random",
        "gram_teacher": "random",
        "iterations": 2,
        "batch_size": 8,
        "group_size": 4,
        "resolutions": (resolution,),
        "optim": Optimisation(lr=1e-5),
        "objective": Objective(gram=2.0),
        "augmentation": Augmentation(local_crops=2 if bench.small else 4),
        "dino_head": SMALL_HEAD,
        "ibot_head": SMALL_HEAD,
        "drop_path": 0.2,
        "rope_rescale": 2.0,
        "device": bench.device,
        "processes": 1,
        "log_every": 1,
        "quality_every": NEVER,
        "checkpoint_every": NEVER,
    }
    values |= changes
    return StageOptions(**{"snapshots": (values["iterations"],), **values})


def exact() -> None:
    """Leave out TF32, which rounds the factors of products to 10 bits."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def largest_difference(ours: Figures, reference: Figures) -> tuple[float, str]:
    """Of losses and gradient norms: the largest relative difference, and whose it is."""
    names = [
        name
        for name in reference
        if name in ("loss", "dino_global", "dino_local", "ibot", "koleo", "gram")
        or name.startswith("grad_norm_")
    ]
    return largest_of(ours, {name: reference[name] for name in names})


def largest_of(ours: Figures, reference: Figures) -> tuple[float, str]:
    """The largest relative difference from the reference's figures, and whose it is."""
    return max(
        (abs(ours[name] - value) / max(abs(value), 1e-2), name) for name, value in reference.items()
    )
