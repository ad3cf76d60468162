"""Options of the benchmarks, nnU-Net's planning, the methods, their training and prediction."""

from collections.abc import Iterable, Mapping
from math import inf
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from meddino.core import layers
from meddino.core.explain import explain
from meddino.core.options import Options, Recipe, absent
from meddino.datasets.options import FolderLayout
from meddino.finetune.presets import PAPER_PLANS, SLICES, VOLUMES, Preset, plans_name
from meddino.models.architectures import library_of

Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Millimetres = Annotated[float, Field(gt=0)]
REST = "rest"
"""In a label map, all values but 0 that no other structure has."""


def _values(labels: object) -> object:
    """A label value by itself, as a list of one; one message for all that is not valid."""
    values = labels if isinstance(labels, list | tuple) else [labels]
    if labels == REST:
        return REST
    if any(type(value) is not int or value < 1 for value in values):
        raise ValueError("is no label value from 1 on, nor a list of them, nor `rest`")
    return values


Values = Annotated[list[Positive] | Literal["rest"], BeforeValidator(_values)]


class Benchmark(Options):
    """A labelled data set that the methods are compared on (section 4.1)."""

    label: str
    """Name printed in the tables."""
    dataset: str
    """Key of the data set in `datasets`."""
    nnunet_id: int = Field(ge=1, le=999)
    """nnU-Net's number of the data set; must differ from every other benchmark's."""
    labels: dict[str, Values]
    """Structure -> its value in the reference labels, several that are merged, or `rest`: all that
    no other structure has; 0 is background. nnU-Net gets consecutive numbers in the order of each
    structure's lowest value, `rest` being last."""
    structures: list[str] = []
    """Structures that count; the others become background. Empty: all."""
    modalities: list[Literal["CT", "MR"]] = Field(default=["CT"], min_length=1)
    """Which volumes take part. Section 4.1: AMOS22 with 300 CT and 60 MR."""
    folds: int = Field(default=5, ge=2)
    """Number of cross-validation folds (section 4.1: five)."""
    channel: str = "CT"
    """nnU-Net's channel name, which chooses the normalisation: "CT" clips to the 0.5 and 99.5 %
    quantiles of the foreground and z-scores with its statistics; any other name z-scores each
    volume by itself."""

    @model_validator(mode="after")
    def _check(self) -> "Benchmark":
        if not self.labels or any(not ids for ids in self.labels.values()):
            raise ValueError("labels: each structure needs at least one label value")
        if sum(ids == REST for ids in self.labels.values()) > 1:
            raise ValueError("labels: only one structure can be the rest")
        if len(values := self.values) != len(set(values)):
            raise ValueError("labels: a label value may belong to one structure only")
        self._check_names("structures", self.structures)
        return self

    def _check_names(self, key: str, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.labels:
                raise ValueError(f"{key}: {name!r} is not one of {', '.join(self.labels)}")

    @property
    def names(self) -> list[str]:
        """The structures in nnU-Net's order: the first has number 1."""
        chosen = self.structures or list(self.labels)
        first = {name: inf if ids == REST else min(ids) for name, ids in self.labels.items()}
        return sorted(chosen, key=lambda name: first[name])

    @property
    def values(self) -> list[int]:
        """The label values that the map names."""
        return [v for ids in self.labels.values() if isinstance(ids, list) for v in ids]

    @property
    def open(self) -> bool:
        """Whether any value may occur, since one structure is the rest."""
        return REST in self.labels.values()

    @property
    def folder(self) -> str:
        """nnU-Net's folder name without the benchmark's key: `Dataset701`."""
        return f"Dataset{self.nnunet_id:03d}"


class ConfiguredBenchmark(Benchmark):
    """A benchmark as the configuration describes it, with what matters to its scores alone."""

    tolerances_mm: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Structure -> tolerance of its NSD in protocol `area` (mm); `evaluate.tolerance_mm` for the
    others. Of structures that do not count it is ignored."""

    @model_validator(mode="after")
    def _check_tolerances(self) -> Self:
        self._check_names("tolerances_mm", self.tolerances_mm)
        return self

    @property
    def counted_tolerances_mm(self) -> dict[str, float]:
        """`tolerances_mm` of the structures that count."""
        return {n: self.tolerances_mm[n] for n in self.names if n in self.tolerances_mm}

    def alone(self) -> Benchmark:
        """The benchmark without its tolerances: a change of these converts nothing anew."""
        return Benchmark(**self.model_dump(exclude={"tolerances_mm"}))


class ConvertOptions(Options):
    """What `convert` depends on."""

    benchmark: Benchmark
    """The benchmark that is converted."""
    dataset: FolderLayout
    """How the folder of its data set is read."""


class Configuration(Options):
    """A further nnU-Net configuration that shows the field of view of `2d` in more pixels."""

    patch_px: Positive
    """Side of the input (px); section 3.1: 896. The spacing becomes that of `2d` times
    (its patch / this patch), as the authors' readme prescribes."""
    batch_size: Positive | None = None
    """Slices in a batch; null keeps that of `2d`, as the authors do."""


class Volumes(Options):
    """What a small machine overrides of nnU-Net's `3d_fullres`, for all methods that have it."""

    spacing_mm: tuple[Millimetres, Millimetres, Millimetres] | None = None
    """Spacing from foot to head, front to back, right to left (mm); null lets nnU-Net choose."""
    patch_px: tuple[Positive, Positive, Positive] | None = None
    """Input in the order of nnU-Net's plans, the axis of the coarsest spacing first (voxels); null
    lets nnU-Net choose."""
    batch_size: Positive | None = None
    """Patches in a batch; null lets nnU-Net choose."""
    features_per_stage: list[Positive] | None = Field(None, min_length=2)
    """Channels of the stages of the U-Net, at most as many as nnU-Net gives to such an input; null
    lets nnU-Net choose."""


class Planning(Options):
    """nnU-Net's planning, and what a small machine overrides."""

    configurations: dict[str, Configuration] = Field(default={})
    """Configurations beside `2d`, by name."""
    gpu_memory_gb: float = Field(default=8, gt=0)
    """GPU memory that nnU-Net plans for (GB); 8 is its default, of which section 4.1 speaks."""
    spacing_mm: float | None = Field(default=None, gt=0)
    """In-plane spacing of `2d` (mm); null lets nnU-Net choose the median."""
    patch_px: Positive | None = None
    """Side of the square input of `2d` (px); null lets nnU-Net choose."""
    batch_size: Positive | None = None
    """Slices in a batch of `2d`; null lets nnU-Net choose."""
    features_per_stage: list[Positive] | None = None
    """Channels of the stages of the U-Net; null lets nnU-Net choose."""
    paper_patch_px: dict[str, Positive] = Field(default={})
    """Benchmark -> side of the square input of `2d` that the paper states (px); changes nothing,
    but `plan` says where the planned input is another one."""
    foreground_samples: Positive = 100_000_000
    """Voxels drawn from all cases for the statistics of intensities (nnU-Net's default)."""
    num_processes: Positive = 1
    """Processes that read and resample volumes; with 1 no process is started."""
    volumes: Volumes | None = Field(None, exclude_if=absent)
    """What differs from nnU-Net's own plan of volumes; null is nothing. Presets of `methods` plan
    for their own GPU memory, whatever `gpu_memory_gb` says."""

    @model_validator(mode="after")
    def _check(self) -> "Planning":
        for name in {SLICES, VOLUMES} & set(self.configurations):
            raise ValueError(f"configurations: {name} is nnU-Net's own; choose another name")
        stages = len(self.features_per_stage or [1])
        if self.patch_px and self.patch_px % 2 ** (stages - 1):
            raise ValueError(
                f"patch_px: {stages} U-Net stages need a multiple of {2 ** (stages - 1)} px"
            )
        return self


class PlanOptions(Options):
    """What `plan` depends on."""

    planning: Planning
    """How to plan."""


class ReplanOptions(Options):
    """What `replan` depends on."""

    preset: Preset | None
    """nnU-Net's ResEnc preset; null is its default planner."""
    configuration: Literal["2d", "3d_fullres"]
    """The configuration that is planned: axial slices, or volumes."""
    planning: Planning
    """How to plan."""


class FreeArraysOptions(Options):
    """Which preprocessed arrays are freed."""

    configuration: str
    """The configuration that they are of."""


class PreprocessOptions(Options):
    """What `preprocess` depends on."""

    configuration: str
    """The configuration that volumes are resampled for."""
    num_processes: Positive = 1
    """Processes that resample volumes; with 1 no process is started."""


class SegformerSize(Options):
    """Size of SegFormer; the defaults are B2, which the authors use."""

    depths: list[Positive] = Field(default=[3, 4, 6, 3], min_length=4, max_length=4)
    """Transformer blocks of the four stages."""
    widths: list[Positive] = Field(default=[64, 128, 320, 512], min_length=4, max_length=4)
    """Channels of the four stages."""
    heads: list[Positive] = Field(default=[1, 2, 5, 8], min_length=4, max_length=4)
    """Attention heads of the four stages; each divides the stage's channels."""
    decoder_width: Positive = 768
    """Channels of the decoder."""
    dropout: Rate = 0.2
    """Dropout before the classifier (authors' code; SegFormer's paper: 0.1)."""
    variant: Literal["paper", "authors"] = "paper"
    """SegFormer's paper, or the authors' code: a residual and a LayerNorm within the Mix-FFN, whole
    channels dropped, logits upsampled by a learnt transposed convolution, Xavier's initialisation.
    """

    @model_validator(mode="after")
    def _check(self) -> "SegformerSize":
        if any(width % heads for width, heads in zip(self.widths, self.heads, strict=True)):
            raise ValueError("heads: each must divide the width of its stage")
        return self


class AdapterSize(Options):
    """Size of DINO U-Net's adapter and projection; the defaults are its authors'."""

    prior_width: Positive = 64
    """Channels of the first convolutions of the spatial prior."""
    heads: Positive = 16
    """Heads of the deformable attention; divides half the ViT's width."""
    points: Positive = 4
    """Sampling points a head."""
    drop_path: Rate = 0.3
    """Share of samples whose MLP branch is dropped in training."""
    rank: Positive = 256
    """Channels in the middle of the fidelity-aware projection."""


class Method(Options):
    """One row of Tables 1 to 3: a network, its weights and how it is optimised (section 4.1)."""

    label: str
    """Name printed in the tables."""
    network: Literal["unet", "segformer", "dino_unet", "primus"]
    """nnU-Net's own U-Net, SegFormer, DINO U-Net, or ViT with Primus decoder (section 3.1)."""
    configuration: str = "2d"
    """nnU-Net configuration: `2d`, `3d_fullres`, or one of `planning.configurations`."""
    preset: Preset | None = Field(None, exclude_if=absent)
    """nnU-Net's ResEnc preset (M, L or XL) in place of its default U-Net, for `2d` or `3d_fullres`;
    not in the paper."""
    backbone: str | None = None
    """ViT of `dino_unet` and `primus`: one of ours (section 3.1: vitb16), or any of a library, such
    as `timm:vit_base_patch16_224` or `transformers:facebook/dinov2-base` (or a folder)."""
    weights: str | None = None
    """What the ViT, or SegFormer's encoder, starts from: a key of `weights`, or `stage@iteration`;
    null is random."""
    blocks: list[Annotated[int, Field(ge=0)]] = Field(default=[])
    """Blocks of the ViT that are used, counted from 0; section 3.1: 2, 5, 8, 11, or the last."""
    drop_path: Rate = 0
    """DropPath rate of the ViT or SegFormer; section 4.1: 0.2."""
    layerscale: float | None = Field(default=None, ge=0)
    """Initial LayerScale of a random ViT; section 4.1: 1e-5. A checkpoint brings its own."""
    storage_tokens: int | None = Field(default=None, ge=0)
    """Register tokens of a random ViT; null is the architecture's own number. A checkpoint brings
    its own, which 0 drops, as the authors' loading of DINOv3 does."""
    train_k_bias: bool = False
    """Whether the ViT's keys get a bias, which DINOv3 masks out: the authors' ViT has no mask."""
    norm_eps: float | None = Field(default=None, gt=0)
    """Epsilon of the ViT's norms; null is that of the architecture or the checkpoint. The authors'
    ViT has 1e-6, also with DINOv3's weights, which were trained with 1e-5."""
    freeze_backbone: bool = False
    """Whether the ViT stays as loaded (section 4.1: DINO U-Net)."""
    segformer: SegformerSize | None = None
    """Size of SegFormer; required by `segformer`."""
    adapter: AdapterSize | None = None
    """Size of DINO U-Net's adapter; required by `dino_unet`."""
    optimizer: Literal["sgd", "adamw"]
    """SGD with Nesterov momentum, or AdamW (section 4.1)."""
    lr: float = Field(gt=0)
    """Learning rate at the start of the decay."""
    backbone_lr: float | None = Field(default=None, gt=0)
    """Learning rate of the ViT; null is that of the rest."""
    weight_decay: float = Field(ge=0)
    """Weight decay of all parameters, norms and biases included, as the authors do."""
    momentum: Rate = 0.99
    """Nesterov momentum of SGD; section 4.1: 0.99."""
    betas: tuple[Rate, Rate] = (0.9, 0.98)
    """Betas of AdamW; section 4.1: 0.9 and 0.98."""
    power: float = Field(default=0.9, gt=0)
    """Power of the polynomial decay to zero; nnU-Net's is 0.9, 1 is linear."""
    warmup_epochs: int = Field(default=0, ge=0)
    """Epochs of linear rise before the decay."""
    grad_clip: float = Field(default=12, gt=0)
    """Largest norm of the gradient; section 4.1 gives nnU-Net's default, 12, for nnU-Net alone."""
    deep_supervision: bool = False
    """Whether lower resolutions of the U-Net's decoder have losses too (nnU-Net's default)."""
    cases_percent: int = Field(default=100, ge=1, le=100, exclude_if=lambda value: value == 100)
    """Share of the fold's training cases that the method is trained on (%), rounded up to a whole
    case; `training.seed` draws them, the same for all methods, and a smaller share lies within a
    larger one. Plans, preprocessing and validation cases stay those of all cases."""

    @model_validator(mode="after")
    def _check(self) -> "Method":
        vit = self.network in ("dino_unet", "primus")
        presence = {
            "backbone": (self.backbone is not None, vit),
            "blocks": (bool(self.blocks), vit),
            "segformer": (self.segformer is not None, self.network == "segformer"),
            "adapter": (self.adapter is not None, self.network == "dino_unet"),
        }
        for key, (present, needed) in presence.items():
            if present != needed:
                verb = "needs" if needed else "does not use"
                raise ValueError(f"{key}: network {self.network} {verb} it")
        self._check_useless(vit)
        return self

    def _check_useless(self, vit: bool) -> None:
        """Refuse options without effect, which a reader would believe to have one."""
        if self.network != "unet" and self.volumetric:
            raise ValueError(f"configuration: network {self.network} sees slices, not {VOLUMES}")
        random = vit and self.weights is None
        own_vit = vit and library_of(self.backbone) is None
        useless = {
            "weights": self.weights is not None and self.network == "unet",
            "preset": self.preset is not None
            and (self.network != "unet" or self.configuration not in (SLICES, VOLUMES)),
            "backbone_lr": self.backbone_lr is not None and (not vit or self.freeze_backbone),
            "freeze_backbone": self.freeze_backbone != (self.network == "dino_unet"),
            "layerscale": self.layerscale is not None and not (own_vit and random),
            # Tokens cannot be made up for a checkpoint, only left out.
            "storage_tokens": self.storage_tokens is not None
            and not (own_vit and (random or self.storage_tokens == 0)),
            "train_k_bias": self.train_k_bias and not own_vit,
            "norm_eps": self.norm_eps is not None and not own_vit,
            "drop_path": self.drop_path > 0 and self.network in ("unet", "dino_unet"),
            "deep_supervision": self.deep_supervision and self.network != "unet",
        }
        for key, is_useless in useless.items():
            if is_useless:
                value = getattr(self, key)
                raise ValueError(
                    f"{key}: {value} has no meaning for network {self.network} with backbone "
                    f"{self.backbone}, weights {self.weights}, freeze_backbone "
                    f"{self.freeze_backbone}, configuration {self.configuration}"
                )

    @property
    def volumetric(self) -> bool:
        """Whether it sees volumes, not slices."""
        return self.configuration == VOLUMES

    @property
    def plans(self) -> str:
        """Name of the plans that it trains by."""
        return plans_name(self.preset, self.configuration)

    @property
    def in_paper(self) -> bool:
        """Whether it is of a kind that the paper compares."""
        return self.plans == PAPER_PLANS


def under_recipe(method: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """The values of a method in the configuration, with those of the authors where they are asked.

    Args:
        method: a section of `methods`; `official` may hold the values that the authors change.
        recipe: `controlled`, or `official` to lay these values over the others.
    """
    values = {key: value for key, value in method.items() if key not in ("official", "recipe")}
    return layers.merge(values, method.get("official") or {}) if recipe == "official" else values


class ConfiguredMethod(Method):
    """A method as the configuration describes it, with what the recipe `official` changes."""

    official: dict[str, Any] | None = None
    """Values that differ in the authors' code, laid over the others where `recipe` is official."""
    recipe: Recipe | None = None
    """As the study's `recipe`, for this method alone; null follows that one."""

    @model_validator(mode="after")
    def _check_official(self) -> Self:
        self.officially()
        return self

    def alone(self) -> Method:
        """The method without `official`: a change of a recipe that is not used reruns nothing."""
        return Method(**self.model_dump(exclude={"official", "recipe"}))

    def officially(self) -> Self:
        """The method with the authors' values.

        Raises:
            ValueError: they do not fit.
        """
        try:
            method = Method.model_validate(under_recipe(self.model_dump(), "official"))
        except ValidationError as error:
            problems = explain(error, "official", Method).replace("(the whole study): ", "")
            raise ValueError(f"{problems}; mend it, or set it to null") from error
        # Not validated, since that would come here again.
        return self.model_copy(update={name: getattr(method, name) for name in Method.model_fields})


class Training(Options):
    """Length of training and what it runs on (section 4.1)."""

    epochs: int = Field(default=1000, ge=0)
    """Epochs; section 4.1: 1000. 0 gives the initial network."""
    iterations_per_epoch: Positive = 250
    """Steps an epoch; section 4.1: 250."""
    val_iterations: Positive = 50
    """Batches of the pseudo Dice after each epoch (nnU-Net's default)."""
    seed: int = Field(default=0, ge=0)
    """Seed of initialisation and augmentation."""
    augmentation: Literal["nnunet", "none"] = "nnunet"
    """nnU-Net's augmentation of patches (4.1), or none, for trials too short to profit from it."""
    checkpoint_every: Positive = 10
    """Epochs between checkpoints that a killed run resumes from."""
    processes: Positive = 1
    """Processes that share each batch (DDP), with a GPU each; nnU-Net's loss sees one batch. Their
    number changes which slices are drawn."""
    num_processes: int = Field(default=12, ge=0)
    """Processes that augment, in all (nnU-Net's default: 12); 0 augments in the training process,
    which makes a run repeatable to the bit on a CPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes a GPU if there is one."""
    compile: bool = True
    """Whether to `torch.compile` on a GPU (nnU-Net's default); changes speed, not the method."""


class FinetuneOptions(Options):
    """What `finetune` depends on."""

    method: Method
    """The row of the tables."""
    training: Training
    """How long, and where."""
    fold: int = Field(default=0, ge=0)
    """Fold that is left out to validate on."""

    @model_validator(mode="after")
    def _check(self) -> "FinetuneOptions":
        if 0 < self.training.epochs <= self.method.warmup_epochs:
            raise ValueError(
                f"warmup_epochs: {self.method.warmup_epochs} must be below epochs "
                f"({self.training.epochs})"
            )
        return self


class Prediction(Options):
    """Sliding-window prediction by nnU-Net's predictor, with its default values."""

    tta: bool = True
    """Whether to average over mirrored images (four passes)."""
    step: float = Field(default=0.5, gt=0, le=1)
    """Step of the window as a share of its side."""
    gaussian: bool = True
    """Whether the window's centre weighs more than its border."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to predict; auto takes a GPU if there is one."""


class PredictOptions(Options):
    """What `predict` depends on."""

    prediction: Prediction
    """How to predict."""
    fold: Annotated[int, Field(ge=0)] | None = 0
    """Fold whose validation cases are predicted; null: all cases, where no model is trained on
    them."""
