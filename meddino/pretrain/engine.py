"""One training step of DINOv3: student, teachers, losses, optimiser, moving average.

Shapes: B slices; 2 global and L local crops of each, crop-major (crop 0 of all slices, then crop
1); N patches of a global crop, M hidden ones over all global crops; D the ViT's width; d the width
of what a head compares with its K prototypes.

A step may be worked on in parts, over processes and one after the other in each. Only the teacher's
assignments depend on more than a part: `targets` computes them for the whole step, then `forward`
the losses of each part, whose gradients add up.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from meddino.models import distributed
from meddino.models.architectures import Architecture
from meddino.models.heads import DINOHead
from meddino.models.transfer import packed
from meddino.models.vit import Noise, VisionTransformer
from meddino.pretrain import losses, quality
from meddino.pretrain.crops import Crops
from meddino.pretrain.options import Optimisation, StageOptions
from meddino.pretrain.schedules import linear_warmup_cosine
from meddino.pretrain.sharing import local_tensors

GLOBAL_CROPS = 2


class Network(nn.ModuleDict):
    """A backbone with the heads of its two self-distillation losses."""

    backbone: VisionTransformer
    dino_head: DINOHead
    ibot_head: DINOHead

    def __init__(self, architecture: Architecture, stage: StageOptions) -> None:
        """Build it with random weights."""
        width = architecture.embed_dim
        sizes = {"dino_head": stage.dino_head, "ibot_head": stage.ibot_head}
        super().__init__({"backbone": VisionTransformer(architecture)})
        for name, size in sizes.items():
            self[name] = DINOHead(width, size.prototypes, size.hidden, size.bottleneck)


class Hidden(NamedTuple):
    """Patches of global crops that the student does not see."""

    masks: Tensor
    """Bool (2B, N)."""
    places: Tensor
    """Theirs among all 2B * N, int64 (M,)."""
    weights: Tensor
    """Theirs in iBOT's loss, float32 (M,)."""

    @classmethod
    def of(cls, masks: Tensor) -> "Hidden":
        """Count them, while masks are on the CPU: a GPU would be waited for."""
        return cls(masks, masks.flatten().nonzero().flatten(), losses.mask_weights(masks))


@dataclass(frozen=True)
class Part:
    """What a process works on at once: some of the step's slices."""

    crops: Crops
    """Of B slices."""
    hidden: Hidden
    noise: Sequence[Noise | None] | None
    """Of the student on the global and on the local crops; None lets it draw by itself."""

    @classmethod
    def of(cls, crops: Crops, masks: Tensor, noise: Sequence[Noise | None] | None = None) -> "Part":
        """From masks on the CPU, which follow the crops to their device."""
        return cls(crops, packed(Hidden.of(masks), crops.globals.device)(), noise)


class Targets(NamedTuple):
    """The teacher's assignments of a part."""

    cls: losses.Assignments
    """Of class tokens (2B samples)."""
    patches: losses.Assignments
    """Of hidden patches (M samples)."""


class Engine(nn.Module):
    """The networks of a stage and the sum of its losses."""

    def __init__(self, architecture: Architecture, stage: StageOptions) -> None:
        """Build student, teacher (a copy of the student) and, with a Gram loss, the Gram teacher.

        Args:
            architecture: of all backbones; the stage's drop path and rotary augmentation are the
                student's alone.
            stage: weights, temperatures, sizes of the heads.
        """
        super().__init__()
        self.stage = stage
        plain = replace(architecture, drop_path=0.0, rope_rescale=None)
        noisy = replace(plain, drop_path=stage.drop_path, rope_rescale=stage.rope_rescale)
        self.student = Network(noisy, stage)
        self.teacher = Network(plain, stage)
        self.teacher.load_state_dict(self.student.state_dict())
        self.gram = VisionTransformer(plain) if stage.objective.gram > 0 else None
        for backbone in self.backbones():
            backbone.half_residuals = True  # where there is autocast
        self.kernels, self.gram_loss = losses.PLAIN, losses.gram_loss
        for frozen in (self.teacher, self.gram):
            if frozen is not None:
                frozen.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Engine":
        """Set the student's mode; teachers never leave evaluation."""
        self.training = mode
        self.student.train(mode)
        return self

    def forward(self, part: Part, targets: Targets) -> dict[str, Tensor]:
        """Compute all losses of a part of the step.

        Args:
            part: B slices.
            targets: the teacher's, of the same part.

        Returns:
            `loss`, the weighted sum that is trained on, and each term, unweighted. Means over all
            parts, which are equally large, are the losses of the step.
        """
        crops, temperature = part.crops, self.stage.objective.student_temperature
        # The Gram teacher's large crops come before the student's activations fill the memory.
        anchor = None if self.gram is None else self._gram_target(crops)
        globals_, locals_ = self.student.backbone.forward_features(
            [crops.globals, crops.locals], [part.hidden.masks, None], part.noise
        )
        cls, patches = globals_["x_norm_clstoken"], globals_["x_norm_patchtokens"]  # (2B, [N,] D)
        student = self.student.dino_head.bottleneck(torch.cat([cls, locals_["x_norm_clstoken"]]))
        global_crops, local_crops = student.split([len(crops.globals), len(crops.locals)])
        prototypes = self.student.dino_head.last_layer.weight  # (K, d)
        target = self._assigned(targets.cls)  # (2, B, K)
        loss = partial(losses.dino_loss, student_temp=temperature, kernels=self.kernels)
        terms = {
            # Without the pairs of a crop with itself: the teacher sees the very same pixels.
            "dino_global": loss(
                _by_crop(global_crops, GLOBAL_CROPS), prototypes, target, ignore_diagonal=True
            ),
            "dino_local": loss(
                _by_crop(local_crops, self.stage.augmentation.local_crops), prototypes, target
            ),
            "koleo": self._koleo(cls),
            "ibot": self._ibot(patches, part, targets.patches),
        }
        if anchor is not None:
            terms["gram"] = self.gram_loss(patches, anchor)
        return {"loss": self._total(terms), **terms}

    def _total(self, terms: dict[str, Tensor]) -> Tensor:
        """Weigh the terms as DINOv3 does: DINO's two by their numbers of pairs of crops."""
        o = self.stage.objective
        pairs_global = GLOBAL_CROPS * (GLOBAL_CROPS - 1)
        pairs_local = GLOBAL_CROPS * self.stage.augmentation.local_crops
        share = pairs_global / (pairs_global + pairs_local)
        total = o.dino * (
            share * terms["dino_global"] + (1 - share) * o.dino_local * terms["dino_local"]
        )
        total = total + o.ibot * terms["ibot"] + GLOBAL_CROPS * o.koleo * terms["koleo"]
        if self.gram is not None:
            total = total + o.gram * terms["gram"]
        return total

    def _ibot(self, patches: Tensor, part: Part, targets: losses.Assignments) -> Tensor:
        """The loss of the hidden ones among patches (2B, N, D)."""
        student, teacher = self.student.ibot_head, self.teacher.ibot_head.last_layer.weight
        samples = student.bottleneck(patches.flatten(0, 1)[part.hidden.places])  # (M, d)
        return losses.ibot_loss(
            samples,
            student.last_layer.weight,
            (
                (rows, targets.of(rows, teacher))
                for rows in losses.pieces(len(targets), len(teacher))
            ),
            part.hidden.masks,
            part.hidden.weights,
            self.stage.objective.student_temperature,
            self.kernels,
        )

    def _assigned(self, targets: losses.Assignments) -> Tensor:
        """All assignments of class tokens, (2, B, K)."""
        prototypes = self.teacher.dino_head.last_layer.weight
        return _by_crop(targets.of(slice(None), prototypes), GLOBAL_CROPS)

    def _koleo(self, cls: Tensor) -> Tensor:
        """KoLeo of class tokens (2B, D): neighbours are sought within a crop of a group.

        Two crops of one slice are to be alike, so they must not push each other away. The processes
        that share a group each compute the same, of all its tokens.
        """
        tokens = _by_crop(cls, GLOBAL_CROPS)  # (2, B, D)
        tokens = distributed.of_neighbours(tokens, self.stage.group // tokens.shape[1])
        groups = max(1, tokens.shape[1] // self.stage.group)
        tokens = tokens.unflatten(1, (groups, -1)).flatten(0, 1)  # (2 * groups, group, D)
        return torch.stack([losses.koleo_loss(x) for x in tokens]).mean()

    @torch.no_grad()
    def targets(self, parts: Sequence[Part], temperature: float) -> list[Targets]:
        """The teacher's assignments of a step, which shares prototypes among all its samples.

        All processes call it, with as many parts each.

        Args:
            parts: all that this process works on in the step.
            temperature: of the teacher.

        Returns:
            The targets of each part.
        """
        samples = zip(*map(self._teach, parts), strict=True)  # (2B, d), (M, d') of each part
        heads = (self.teacher.dino_head, self.teacher.ibot_head)
        assigned = [
            losses.sinkhorn(torch.cat(x), head.last_layer.weight, temperature, self.kernels).split(
                [*map(len, x)]
            )
            for head, x in zip(heads, samples, strict=True)
        ]
        return list(map(Targets, *assigned))

    def _teach(self, part: Part) -> tuple[Tensor, Tensor]:
        """What the teacher's heads make of class tokens (2B, d) and hidden patches (M, d')."""
        tokens = self.teacher.backbone.forward_features(part.crops.globals)
        patches = tokens["x_norm_patchtokens"].flatten(0, 1)[part.hidden.places]  # (M, D)
        cls = self.teacher.dino_head.bottleneck(tokens["x_norm_clstoken"])
        return cls, self.teacher.ibot_head.bottleneck(patches)

    @torch.no_grad()
    def _gram_target(self, crops: Crops) -> Tensor:
        """The Gram teacher's patches, resized to the student's grid: (2B, N, D)."""
        assert self.gram is not None and crops.gram is not None
        patches = self.gram.forward_features(crops.gram)["x_norm_patchtokens"]  # (2B, N', D)
        px = self.gram.patch_size
        side, student_side = (x.shape[-1] // px for x in (crops.gram, crops.globals))
        if side == student_side:
            return patches
        return losses.resize_features(patches, (side, side), (student_side, student_side))

    def signals(self, slices: Tensor) -> dict[str, float]:
        """Signals of collapse of the teacher on int16 slices (B, S, S): `quality.signals`."""
        return quality.signals(self.teacher.backbone, slices, self.gram)

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Move the teacher's parameters towards the student's."""
        # One kernel for all: hundreds of small ones take longer to launch than to run.
        teacher, student = (local_tensors(x.parameters()) for x in (self.teacher, self.student))
        torch._foreach_lerp_(teacher, student, 1 - momentum)

    def clip_gradients(self, largest: float) -> dict[str, Tensor]:
        """Clip backbone and heads each by itself; return their norms before that, as scalars."""
        # Each by itself, as DINOv3: a head's large gradients early on would shrink the backbone's.
        norms = {
            name: nn.utils.clip_grad_norm_(part.parameters(), largest)
            for name, part in self.student.items()
        }
        return {n: x.full_tensor() if hasattr(x, "full_tensor") else x for n, x in norms.items()}

    def backbones(self) -> list[VisionTransformer]:
        """The backbones of student, teacher and, where there is one, Gram teacher."""
        backbones = (self.student.backbone, self.teacher.backbone, self.gram)
        return [backbone for backbone in backbones if backbone is not None]

    def compile_parts(self) -> None:
        """Compile what is many small operations otherwise; the first step then takes minutes."""
        networks = (self.student, self.teacher)
        heads = [head.mlp for x in networks for head in (x.dino_head, x.ibot_head)]
        for module in (*self.blocks(), *heads):
            module.compile()
        self.kernels = losses.PLAIN.compiled()
        self.gram_loss = torch.compile(losses.gram_loss)

    def blocks(self) -> list[nn.Module]:
        """The blocks of all backbones."""
        return [block for backbone in self.backbones() for block in backbone.blocks]


def _by_crop(x: Tensor, count: int) -> Tensor:
    """Tell crops from slices: (count * B, ...) to (count, B, ...)."""
    return x.unflatten(0, (count, -1))


def parameter_groups(student: Network, options: Optimisation) -> list[dict[str, Any]]:
    """Parameters by learning rate and weight decay (DINOv3's layer-wise decay).

    Returns:
        Groups with `params`, `lr_multiplier`, `wd_multiplier` and `last_layer`.
    """
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, parameter in student.named_parameters():
        key = multipliers(name, len(student.backbone.blocks), options)
        groups.setdefault(key, []).append(parameter)
    return [
        {"params": params, "lr_multiplier": lr, "wd_multiplier": wd, "last_layer": last}
        for (lr, wd, last), params in groups.items()
    ]


def multipliers(name: str, depth: int, options: Optimisation) -> tuple[float, float, bool]:
    """Learning rate and weight decay factors of a parameter, and whether it holds prototypes."""
    inner = name.removeprefix("backbone.")
    layer = depth + 1
    if name.startswith("backbone."):
        if inner.startswith(("cls_token", "storage_tokens", "mask_token", "patch_embed.")):
            layer = 0
        elif inner.startswith("blocks."):
            layer = int(inner.split(".")[1]) + 1
    # Lower layers come nearly right from the checkpoint and hold what all later ones build on.
    rate = options.layerwise_decay ** (depth + 1 - layer)
    if inner.startswith("patch_embed."):
        rate *= options.patch_embed_lr
    # Decay would pull norms and scales to 0, where their layer says nothing; a bias needs none.
    decays = not (inner.endswith("bias") or "norm" in inner or "gamma" in inner)
    return rate, float(decays), "last_layer" in inner


def set_rates(optimizer: torch.optim.Optimizer, stage: StageOptions, iteration: int) -> float:
    """Set learning rates and weight decays of an iteration (from 0); return the base rate."""
    o = stage.optim
    peak, end = stage.learning_rates
    rate = linear_warmup_cosine(
        iteration, start=0.0, peak=peak, end=end, warmup=o.warmup, total=stage.iterations
    )
    for group in optimizer.param_groups:
        # Prototypes that chase the features of random heads collapse: DINO freezes them at first.
        # Their rate is 0, not their gradient missing, so that AdamW's moments build up meanwhile.
        frozen = group["last_layer"] and iteration < o.freeze_last_layer
        group["lr"] = 0.0 if frozen else rate * group["lr_multiplier"]
        group["weight_decay"] = o.weight_decay * group["wd_multiplier"]
    return rate


def momentum(stage: StageOptions, iteration: int) -> float:
    """The teacher's momentum of an iteration."""
    start, end = stage.optim.momentum
    share = min(iteration / max(stage.iterations - 1, 1), 1.0)
    return end - (end - start) * (math.cos(math.pi * share) + 1) / 2


def teacher_temperature(stage: StageOptions, iteration: int) -> float:
    """The teacher's temperature of an iteration."""
    start, end = stage.objective.teacher_temperature
    warmup = stage.objective.teacher_temperature_warmup
    return end if iteration >= warmup else start + (end - start) * iteration / warmup
