"""Options of pretraining, in plain dataclasses.

Not pydantic's models, as elsewhere: this package needs torch, NumPy and PyArrow alone, so that it
can be used in other projects. Where a study is read, pydantic validates these classes as well: it
checks types and refuses unknown keys. Ranges are checked here, by hand, so that they hold for
everybody; `annotated_types`, which would state them beside the fields, checks nothing by itself.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

EngineName = Literal["meddino", "dinov3"]
LrRule = Literal["none", "sqrt_1024"]
STRICT: Mapping[str, Any] = {"extra": "forbid", "use_attribute_docstrings": True}


def _check(*problems: tuple[bool, str]) -> None:
    for fails, message in problems:
        if fails:
            raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """Sizes of the crops of one kind of batch."""

    __pydantic_config__: ClassVar[Any] = STRICT

    global_px: int
    """Side of the two global crops (px)."""
    local_px: int
    """Side of the local crops (px)."""
    gram_px: int | None = None
    """Side of the global crops that the Gram teacher sees (px); null without Gram anchoring."""
    ratio: float = 1.0
    """Share of the batches that are of this kind."""

    def __post_init__(self) -> None:
        """Check ranges."""
        gram = self.gram_px
        _check(
            (self.global_px < 8 or self.local_px < 8, "global_px and local_px must be 8 or more"),
            (gram is not None and gram < self.global_px, "gram_px must not be below global_px"),
            (self.ratio <= 0, "ratio must be above 0"),
        )


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How a crop is drawn from a slice and changed (DINOv3's values unless said otherwise)."""

    __pydantic_config__: ClassVar[Any] = STRICT

    global_scale: tuple[float, float] = (0.32, 1.0)
    """Area of a global crop, as a share of the slice."""
    local_scale: tuple[float, float] = (0.05, 0.32)
    """Area of a local crop, as a share of the slice."""
    local_crops: int = 8
    """Local crops of a slice."""
    flip: bool = False
    """Whether crops are mirrored left to right; off, since the body is not symmetric."""
    intensity_probability: float = 0.8
    """Share of the crops whose brightness and contrast are changed."""
    brightness: float = 0.2
    """Largest relative change of brightness (DINOv3: 0.4, of 8-bit pictures)."""
    contrast: float = 0.2
    """Largest relative change of contrast (DINOv3: 0.4)."""
    blur_probability: tuple[float, float, float] = (1.0, 0.1, 0.5)
    """Share of blurred crops: first global, second global, local. The published code inverts the
    first two (0 and 0.9); these are the values that DINO's papers print."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Width of the blur (px)."""
    solarize_probability: float = 0.0
    """Share of second global crops whose bright half is inverted (DINOv3: 0.2; senseless in HU)."""
    noise_hu: float = 0.0
    """Standard deviation of added noise (HU)."""

    def __post_init__(self) -> None:
        """Check ranges."""
        shares = (self.intensity_probability, self.solarize_probability, *self.blur_probability)
        _check(
            *(
                (not 0 < low <= high <= 1, f"{name}: must rise within 0 to 1")
                for name, (low, high) in (
                    ("global_scale", self.global_scale),
                    ("local_scale", self.local_scale),
                )
            ),
            (
                not 0 < self.blur_sigma[0] <= self.blur_sigma[1],
                "blur_sigma: must rise from above 0",
            ),
            (self.local_crops < 1, "local_crops must be 1 or more"),
            (any(not 0 <= share <= 1 for share in shares), "probabilities must be from 0 to 1"),
            (
                min(self.brightness, self.contrast, self.noise_hu) < 0,
                "changes must not be negative",
            ),
            (max(self.brightness, self.contrast) >= 1, "brightness and contrast must be below 1"),
        )


@dataclass(frozen=True, kw_only=True)
class Masking:
    """Which patches of the student's global crops are hidden (iBOT)."""

    __pydantic_config__: ClassVar[Any] = STRICT

    probability: float = 0.5
    """Share of global crops that are masked."""
    ratio: tuple[float, float] = (0.1, 0.5)
    """Lowest and highest share of hidden patches of a masked crop."""

    def __post_init__(self) -> None:
        """Check ranges."""
        low, high = self.ratio
        _check(
            (not 0 <= self.probability <= 1, "probability must be from 0 to 1"),
            (not 0 <= low <= high < 1, "ratio: must rise within 0 to below 1"),
        )


@dataclass(frozen=True, kw_only=True)
class Head:
    """Size of a projection head (DINOv3's for ViT-B)."""

    __pydantic_config__: ClassVar[Any] = STRICT

    prototypes: int = 65536
    """Number of prototypes."""
    hidden: int = 2048
    """Width of the hidden layers."""
    bottleneck: int = 256
    """Width before the prototypes."""

    def __post_init__(self) -> None:
        """Check ranges."""
        _check((min(self.prototypes, self.hidden, self.bottleneck) < 1, "sizes must be positive"))

    def weights(self, width: int, passes: int = 1) -> int:
        """Weights of the matrices for tokens of `width`, with prototypes counted `passes` times."""
        inner = width * self.hidden + self.hidden**2 + self.hidden * self.bottleneck
        return inner + passes * self.bottleneck * self.prototypes


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Weights and temperatures of the losses (section 3.2; DINOv3)."""

    __pydantic_config__: ClassVar[Any] = STRICT

    dino: float = 1.0
    """Weight of the class token loss."""
    dino_local: float = 1.0
    """Further weight of its local crops (DINOv3: 0.5 from Gram anchoring on)."""
    ibot: float = 1.0
    """Weight of the masked patch loss."""
    koleo: float = 0.1
    """Weight of the regulariser that spreads class tokens (section 3.2: 0.1)."""
    gram: float = 0.0
    """Weight of Gram anchoring; 0 leaves it out (DINOv3: 2, and 1.5 at high resolution)."""
    student_temperature: float = 0.1
    """Temperature of the student's softmax."""
    teacher_temperature: tuple[float, float] = (0.04, 0.07)
    """Temperature of the teacher's assignments, at the start and after its warm-up."""
    teacher_temperature_warmup: int = 0
    """Iterations in which it rises."""

    def __post_init__(self) -> None:
        """Check ranges."""
        weights = (self.dino, self.dino_local, self.ibot, self.koleo, self.gram)
        temperatures = (self.student_temperature, *self.teacher_temperature)
        _check(
            (min(weights) < 0, "weights must not be negative"),
            (min(temperatures) <= 0, "temperatures must be above 0"),
            (
                self.teacher_temperature_warmup < 0,
                "teacher_temperature_warmup must not be negative",
            ),
        )


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """AdamW and the moving average (section 3.2; DINOv3)."""

    __pydantic_config__: ClassVar[Any] = STRICT

    lr: float
    """Learning rate after warm-up, before `lr_rule` (section 3.2)."""
    lr_rule: LrRule = "none"
    """What makes AdamW's learning rate of `lr` and `final_lr`: none takes them as they are;
    sqrt_1024, DINOv3's rule, multiplies them by 4 sqrt(batch_size / 1024), 2.83 for 512 slices."""
    final_lr: float | None = None
    """Learning rate at the end of a cosine decay; null keeps it constant, as DINOv3 does."""
    warmup: int = 0
    """Iterations of linear rise from 0."""
    weight_decay: float = 0.04
    """Weight decay of all but biases, norms and layer scales."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Betas of AdamW."""
    clip_grad: float = 3.0
    """Largest gradient norm of backbone and of each head."""
    layerwise_decay: float = 0.9
    """Factor of the learning rate from a block to the one below it."""
    patch_embed_lr: float = 0.2
    """Further factor of the learning rate of the patch embedding."""
    freeze_last_layer: int = 0
    """Iterations in which the prototypes stay as they are."""
    momentum: tuple[float, float] = (0.994, 0.994)
    """Momentum of the teacher at the start and the end (cosine in between)."""

    def __post_init__(self) -> None:
        """Check ranges."""
        shares = (*self.betas, *self.momentum)
        _check(
            (self.lr <= 0, "lr must be above 0"),
            (self.final_lr is not None and self.final_lr < 0, "final_lr must not be negative"),
            (min(self.warmup, self.freeze_last_layer) < 0, "iterations must not be negative"),
            (self.weight_decay < 0 or self.clip_grad <= 0, "weight_decay and clip_grad: too low"),
            (not 0 < self.layerwise_decay <= 1, "layerwise_decay must be above 0 and at most 1"),
            (any(not 0 <= share <= 1 for share in shares), "betas, momentum: must be from 0 to 1"),
        )


@dataclass(frozen=True, kw_only=True)
class StageOptions:
    """One stage of pretraining."""

    __pydantic_config__: ClassVar[Any] = STRICT

    data: str = "ct3m"
    """The slices: `ct3m` as in the paper; `ct3m-leak-free` without the benchmarks' validation cases
    and their copies; a variant of `ct3m.variants`; or `leaves`, the demo's dead-leaves pictures."""
    slices_px: int
    """Side of the stored slices that are read (px)."""
    init: str | None = None
    """What student and teacher start from: a key of `weights`, or `stage@iteration`."""
    qkv_bias: Literal[False] | None = None
    """As `pretrain.qkv_bias`, for this stage alone; null follows that one."""
    start: Literal["teacher", "own"] = "teacher"
    """Which networks of an earlier stage's checkpoint student and teacher start from: both from its
    teacher (section 3.2 names one model for both), or each from its own. Published weights hold one
    backbone, and both start from it."""
    gram_teacher: str | None = None
    """The Gram teacher: a key of `weights`, or `stage@iteration`."""
    iterations: int
    """Length of the stage (section 3.2)."""
    snapshots: tuple[int, ...]
    """Iterations whose checkpoint is kept; the last is the stage's result."""
    batch_size: int
    """Slices of a step, over all processes (section 3.2: 512)."""
    group_size: int = 64
    """Slices that are drawn and masked together, and among which KoLeo seeks neighbours, as DINOv3
    does on each GPU. Results do not depend on how groups are spread over processes and parts."""
    micro_batch: int | Literal["auto"] | None = None
    """Slices that a process works on at once, a multiple of group_size; gradients of such parts add
    up to those of a step. Auto takes as many as fit the GPU by an estimate, null all at once (auto
    on CPUs, too). It is a matter of memory: results do not depend on it."""
    resolutions: tuple[Resolution, ...]
    """Kinds of batches; each step draws one."""
    optim: Optimisation
    """AdamW and the moving average."""
    objective: Objective = field(default_factory=Objective)
    """Weights and temperatures of the losses."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """How crops are drawn and changed."""
    masking: Masking = field(default_factory=Masking)
    """Which patches are hidden."""
    dino_head: Head = field(default_factory=Head)
    """Head of the class token loss."""
    ibot_head: Head = field(default_factory=Head)
    """Head of the masked patch loss."""
    drop_path: float = 0.0
    """Share of images that skip a residual branch of the student."""
    rope_rescale: float | None = None
    """The student's positions are scaled by a factor from [1/r, r]."""
    seed: int = 0
    """Seed of order, crops, masks and weights."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of matrix products; bf16 on a GPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes a GPU if there is one."""
    log_every: int = 10
    """Iterations between lines of the history."""
    quality_every: int = 500
    """Iterations between signals of collapse (`meddino.pretrain.quality`)."""
    checkpoint_every: int = 500
    """Iterations between checkpoints that a killed run resumes from; the last two are kept."""
    processes: int | None = None
    """Processes to train with on this machine; null is one a GPU, fewer for a batch of few groups.
    torchrun's number goes first."""
    sharding: Literal["ddp", "fsdp"] = "ddp"
    """Whether each process holds all parameters (ddp) or a share of them (fsdp, saves memory)."""
    activation_checkpointing: bool | Literal["auto"] = False
    """Compute blocks a second time in the backward pass, to save memory; auto does so for batches
    of those resolutions that do not fit the GPU otherwise."""
    compile: bool = False
    """Compile the blocks; faster on a GPU after a few minutes."""

    def __post_init__(self) -> None:
        """Check ranges."""
        gram = self.objective.gram > 0
        sizes = [resolution.gram_px for resolution in self.resolutions]
        every = (self.log_every, self.quality_every, self.checkpoint_every)
        lengths = (self.iterations, self.batch_size, *every)
        _check(
            (self.group_size < 2, "group_size must be 2 or more"),
            (
                self.batch_size % self.group > 0,
                f"batch_size {self.batch_size} must be a multiple of group_size {self.group_size}",
            ),
            (
                isinstance(self.micro_batch, int)
                and (self.micro_batch < 1 or self.micro_batch % self.group > 0),
                f"micro_batch {self.micro_batch}: no multiple of group_size {self.group_size}",
            ),
            (self.processes is not None and self.processes < 1, "processes must be 1 or more"),
            (min(lengths) < 1, "iterations, batch_size and all `_every` must be 1 or more"),
            (self.slices_px < 16, "slices_px must be 16 or more"),
            (not self.resolutions, "resolutions: at least one is needed"),
            (not 0 <= self.drop_path < 1, "drop_path must be from 0 to below 1"),
            (
                not self.snapshots or list(self.snapshots) != sorted(set(self.snapshots)),
                "snapshots must rise",
            ),
            (
                tuple(self.snapshots[-1:]) != (self.iterations,),
                f"snapshots: the last must be the end of the stage, {self.iterations}",
            ),
            (min(self.snapshots, default=1) < 1, "snapshots: iterations are counted from 1"),
            (
                gram != (self.gram_teacher is not None),
                "gram_teacher and objective.gram go together: name a teacher and give a weight",
            ),
            (gram and None in sizes, "gram_px is needed in every resolution with a Gram teacher"),
            (not gram and any(sizes), "gram_px has no meaning without a Gram teacher"),
        )

    @property
    def learning_rates(self) -> tuple[float, float]:
        """AdamW's learning rate after the warm-up and at the end of the stage."""
        optim = self.optim
        factor = 1.0 if optim.lr_rule == "none" else 4.0 * math.sqrt(self.batch_size / 1024)
        final = optim.lr if optim.final_lr is None else optim.final_lr
        return factor * optim.lr, factor * final

    @property
    def group(self) -> int:
        """Slices of a group: a batch smaller than group_size is one."""
        return max(1, min(self.group_size, self.batch_size))


@dataclass(frozen=True, kw_only=True)
class PretrainOptions:
    """What `pretrain` needs of a study."""

    __pydantic_config__: ClassVar[Any] = STRICT

    name: str
    """Name of the stage."""
    engine: EngineName = "meddino"
    """What runs the stage."""
    backbone: str
    """Architecture of student, teacher and Gram teacher."""
    qkv_bias: Literal[False] | None = None
    """Whether queries and values have a bias: null as what the stage starts from; false takes it
    off."""
    stage: StageOptions
    """The stage."""


@dataclass(frozen=True, kw_only=True)
class LeavesOptions:
    """Dead-leaves pictures."""

    __pydantic_config__: ClassVar[Any] = STRICT

    count: int
    """Number of pictures."""
    size_px: int
    """Their side (px)."""
    seed: int = 0
    """Seed of the pictures."""

    def __post_init__(self) -> None:
        """Check ranges."""
        _check((self.count < 1 or self.size_px < 16, "count must be 1 or more, size_px 16 or more"))
