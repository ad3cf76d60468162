"""The pretraining step: meddino's and the public DINOv3 trainer's, on the same crops.

    python benchmarks/pretraining.py --peer CHECKOUT [--backbone vits16] [--batch 8] [--gram]

CHECKOUT is a clone of facebookresearch/dinov3, which needs omegaconf, termcolor, torchmetrics,
iopath and ftfy beside torch. Its augmentations, which need torchvision, take no part: both steps
get the same finished crops. A step is teacher, student, losses, backward pass, clipping, AdamW and
moving average; on a GPU both run in bf16 and compiled. Steps alternate, and medians are printed as
a Markdown table, with what ours consists of. Without --peer only ours is measured. With --parts our
step takes its batch in so many parts, which the public trainer cannot.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, patch

import numpy as np
import torch
import torch.distributed as dist
from gpu_checks import timing

from meddino.models.architectures import named
from meddino.pretrain.crops import Crops, Draws, multi_crop
from meddino.pretrain.engine import GLOBAL_CROPS, Engine, Part, Targets, parameter_groups
from meddino.pretrain.losses import mask_weights
from meddino.pretrain.masks import draw_masks
from meddino.pretrain.meter import PEAK_FLOPS, step_flops
from meddino.pretrain.options import (
    Augmentation,
    Head,
    Objective,
    Optimisation,
    Resolution,
    StageOptions,
)

TEMPERATURE, MOMENTUM, LR = 0.05, 0.994, 1e-4
PEERS = {"vits16": "vit_small", "vitb16": "vit_base", "vitl16": "vit_large", "vittiny8": "vit_tiny"}


def main() -> None:
    """Build both, alternate their steps, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", type=Path, help="clone of facebookresearch/dinov3")
    parser.add_argument("--backbone", default="vits16", choices=list(PEERS))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--global-px", type=int, default=256)
    parser.add_argument("--local-px", type=int, default=112)
    parser.add_argument(
        "--gram", action="store_true", help="stage 2: a Gram teacher at twice the size"
    )
    parser.add_argument("--prototypes", type=int, default=65536)
    parser.add_argument("--drop-path", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    stage = _stage(arguments)
    torch.manual_seed(0)
    slices = torch.randint(-1000, 1000, (arguments.batch, 512, 512), dtype=torch.int16).to(device)
    patch_px = named(arguments.backbone).patch_size
    crops, masks = _views(slices, stage, patch_px)
    ours = Ours(arguments.backbone, stage, device)
    parts = [
        Part.of(*_views(x, stage, patch_px))
        for x in slices.split(arguments.batch // arguments.parts)
    ]
    steps: dict[str, Callable[[], None]] = {"meddino": lambda: ours.step(parts)}
    with _alone(device):
        if arguments.peer is not None:
            steps["facebookresearch/dinov3"] = _peer(arguments, stage, crops, masks, device)
        medians = _alternate(steps, arguments.steps, device)
    flops = step_flops(named(arguments.backbone), stage, stage.resolutions[0]) * arguments.batch
    print(f"{arguments.backbone}, batch {arguments.batch}, gram {arguments.gram}, {device}")
    print("| step | seconds | slices/s | share of peak | times the public one |")
    print("|---|---:|---:|---:|---:|")
    for name, seconds in medians.items():
        ratio = medians.get("facebookresearch/dinov3", float("nan")) / seconds
        share = _share(flops / seconds, device)
        print(
            f"| {name} | {seconds:.3f} | {arguments.batch / seconds:.1f} | {share} | {ratio:.2f} |"
        )
    if device.type == "cuda":
        print(f"peak memory {torch.cuda.max_memory_allocated() / 1e9:.1f} GB, both together")
    _print_phases(ours, parts, slices, patch_px, arguments.steps)


def _stage(arguments: argparse.Namespace) -> StageOptions:
    head = Head(prototypes=arguments.prototypes)
    gram = 2 * arguments.global_px if arguments.gram else None
    return StageOptions(
        slices_px=512,
        iterations=1,
        snapshots=(1,),
        batch_size=arguments.batch,
        group_size=arguments.batch // arguments.parts,
        resolutions=(
            Resolution(global_px=arguments.global_px, local_px=arguments.local_px, gram_px=gram),
        ),
        optim=Optimisation(lr=LR),
        objective=Objective(gram=2.0 if arguments.gram else 0.0),
        gram_teacher="a" if arguments.gram else None,
        augmentation=Augmentation(),
        dino_head=head,
        ibot_head=head,
        drop_path=arguments.drop_path,
    )


def _views(slices: torch.Tensor, stage: StageOptions, patch_px: int) -> tuple[Crops, torch.Tensor]:
    resolution = stage.resolutions[0]
    crops = multi_crop(slices, resolution, stage.augmentation, Draws([0], len(slices)))
    side = resolution.global_px // patch_px
    rng = np.random.default_rng(0)
    masks = draw_masks(GLOBAL_CROPS * len(slices), (side, side), (0.1, 0.5), 0.5, rng)
    return crops, masks


class Ours:
    """Our step, in parts."""

    def __init__(self, backbone: str, stage: StageOptions, device: torch.device) -> None:
        self.device = device
        self.engine = Engine(named(backbone), stage).to(device).train()
        if device.type == "cuda":
            for block in self.engine.blocks():
                block.compile()
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.engine.student, stage.optim), lr=LR, betas=(0.9, 0.99), fused=True
        )

    def step(self, parts: list[Part]) -> None:
        for part, targets in zip(parts, self.targets(parts), strict=True):
            self.backward(self.forward(part, targets), len(parts))
        self.update()

    def targets(self, parts: list[Part]) -> list[Targets]:
        with self.autocast():
            return self.engine.targets(parts, TEMPERATURE)

    def forward(self, part: Part, targets: Targets) -> torch.Tensor:
        with self.autocast():
            return self.engine(part, targets)["loss"]

    def backward(self, loss: torch.Tensor, parts: int) -> None:
        (loss / parts).backward()

    def autocast(self) -> torch.autocast:
        return torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda")

    def update(self) -> None:
        self.engine.clip_gradients(3.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.engine.update_teacher(MOMENTUM)


def _peer(
    arguments: argparse.Namespace,
    stage: StageOptions,
    crops: Crops,
    masks: torch.Tensor,
    device: torch.device,
) -> Callable[[], None]:
    """The public trainer's step on the same crops."""
    sys.path.insert(0, str(arguments.peer))
    for name in ("torchvision", "torchvision.transforms", "torchvision.datasets"):
        sys.modules.setdefault(name, MagicMock(VisionDataset=object))
    from dinov3.models import vision_transformer
    from dinov3.train.ssl_meta_arch import SSLMetaArch
    from omegaconf import OmegaConf

    vision_transformer.vit_tiny = lambda **k: vision_transformer.DinoVisionTransformer(
        embed_dim=64, depth=4, num_heads=4, ffn_ratio=4, **k
    )
    default = arguments.peer / "dinov3/configs/ssl_default_config.yaml"
    architecture = named(arguments.backbone)
    config = OmegaConf.merge(
        OmegaConf.load(default),
        {
            "student": {
                "arch": PEERS[arguments.backbone],
                "patch_size": architecture.patch_size,
                "drop_path_rate": arguments.drop_path,
                "norm_layer": "layernormbf16",
                "n_storage_tokens": architecture.storage_tokens,
                "mask_k_bias": True,
                "layerscale": architecture.layerscale,
            },
            "dino": {"head_n_prototypes": arguments.prototypes},
            "ibot": {"head_n_prototypes": arguments.prototypes},
            "crops": {
                "global_crops_size": arguments.global_px,
                "local_crops_size": arguments.local_px,
                "gram_teacher_crops_size": stage.resolutions[0].gram_px,
            },
            "gram": {
                "use_loss": arguments.gram,
                "ckpt": "set below",
                "img_level": True,
                "loss_weight": 2.0,
            },
        },
    )
    gpu = device.type == "cuda"
    arch = SSLMetaArch(config)
    arch.gram_ckpt, has_gram_teacher = None, arch.has_gram_teacher
    arch.has_gram_teacher = False  # its weights come from the teacher, not from a file
    if gpu:
        arch.prepare_for_distributed_training()
    else:
        arch.to_empty(device=device)
    arch.init_weights()
    arch.has_gram_teacher = has_gram_teacher
    arch.gram_load_ema_teacher()
    arch.train()
    groups = [dict(group) for group in arch.get_params_groups()]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.99))
    hidden = masks.flatten().nonzero().flatten().to(device)
    data = {
        "collated_global_crops": crops.globals,
        "collated_local_crops": crops.locals,
        "collated_gram_teacher_crops": crops.gram,
        "collated_masks": masks.to(device),
        "mask_indices_list": hidden,
        "masks_weight": mask_weights(masks).to(device),
        "upperbound": len(hidden),
        "n_masked_patches": torch.full((1,), len(hidden), dtype=torch.long, device=device),
        "global_batch_size": arguments.batch,
    }
    if gpu:
        kinds = ("global", "local", "gram_teacher")
        for key in (f"collated_{kind}_crops" for kind in kinds):
            data[key] = None if data[key] is None else data[key].to(torch.bfloat16)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        data["n_masked_patches"].fill_(len(hidden))
        with patch.object(torch.Tensor, "cuda", torch.Tensor.cuda if gpu else _stay):
            arch.forward_backward(data, teacher_temp=TEMPERATURE)
        for part in arch.student.values():
            torch.nn.utils.clip_grad_norm_(part.parameters(), 3.0)
        optimizer.step()
        arch.update_ema(MOMENTUM)

    return step


def _stay(tensor: torch.Tensor, **_: Any) -> torch.Tensor:
    return tensor


@contextmanager
def _alone(device: torch.device) -> Iterator[None]:
    """A group of one process, which the public losses ask for."""
    with tempfile.TemporaryDirectory() as folder:
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, f"file://{folder}/meeting", rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()


def _alternate(
    steps: dict[str, Callable[[], None]], count: int, device: torch.device
) -> dict[str, float]:
    """Median seconds of each, after two steps that warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(count + 2):
        for name, step in steps.items():
            spent = timing.seconds(step, device.type)
            if number >= 2:
                seconds[name].append(spent)
    return {name: statistics.median(times) for name, times in seconds.items()}


def _share(flops: float, device: torch.device) -> str:
    name = torch.cuda.get_device_name() if device.type == "cuda" else ""
    peaks = [peak for part, peak in PEAK_FLOPS.items() if part in name]
    return f"{flops / peaks[0]:.0%}" if peaks else f"{flops / 1e12:.3f} TFLOP/s"


def _print_phases(
    ours: Ours, parts: list[Part], slices: torch.Tensor, patch_px: int, count: int
) -> None:
    """Where our time goes: seconds of a step."""
    stage, device = ours.engine.stage, ours.device
    seconds: dict[str, list[float]] = {}

    def timed(phase: str, action: Callable[[], Any]) -> Any:
        spent, result = timing.timed(action, device.type)
        seconds[phase][-1] += spent
        return result

    phases = ("crops and masks", "teacher's targets", "student, losses", "backward", "update")
    for _ in range(count):
        for phase in phases:
            seconds.setdefault(phase, []).append(0.0)
        timed("crops and masks", lambda: _views(slices, stage, patch_px))
        targets = timed("teacher's targets", lambda: ours.targets(parts))
        for pair in zip(parts, targets, strict=True):
            loss = timed("student, losses", partial(ours.forward, *pair))
            timed("backward", partial(ours.backward, loss, len(parts)))
        timed("update", ours.update)
    print(json.dumps({name: round(statistics.median(x), 4) for name, x in seconds.items()}))


if __name__ == "__main__":
    main()
