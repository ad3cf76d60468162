"""Sections of the configuration that belong to no single stage of the pipeline.

The other sections stand beside the code that they steer (`meddino/*/options.py`).
"""

from collections.abc import Collection
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
)

from meddino.core.options import Options
from meddino.models.options import Published
from meddino.pretrain.options import EngineName, StageOptions

LEAK_FREE = "_leakfree"
"""End of the names of stages and methods that are twins of others on leak-free data."""

RANDOM = "random"
"""What is probed beside weights and stages: a random initialisation."""

# Names become folders, wildcards and shell words: nothing that any of these would interpret.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_]*$")]


class Leaves(Options):
    """Dead-leaves pictures: what stands in for natural images in the demo."""

    count: int = Field(gt=0)
    """Number of pictures."""
    seed: int = Field(default=0, ge=0)
    """Seed of the pictures."""


class Seeds(Options):
    """Seeds that finetunings are repeated with, and which ones."""

    values: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    """The seeds; `training.seed` must be among them, whose finetunings are those of a study without
    this section."""
    methods: tuple[str, ...] | None = None
    """Methods that are trained with all of them; the others with `training.seed` alone. null: all
    methods."""
    benchmarks: tuple[str, ...] | None = None
    """Benchmarks on which they are; null: all."""

    def repeats(self, benchmark: str, method: str) -> bool:
        """Whether a method is trained with all seeds on a benchmark."""
        chosen = ((self.benchmarks, benchmark), (self.methods, method))
        return all(names is None or name in names for names, name in chosen)


def _as_values(seeds: object) -> object:
    return {"values": seeds} if isinstance(seeds, list | tuple) else seeds


SeedsOrList = Annotated[
    Seeds | None,
    BeforeValidator(
        _as_values,
        json_schema_input_type=tuple[Annotated[int, Field(ge=0)], ...] | Seeds | None,
    ),
]
"""`Seeds`, or a list of seeds for all finetunings."""


class Weights(Published):
    """A published checkpoint, or a stage's snapshot that stands in for it."""

    snapshot: str | None = Field(None, pattern=r"^\w+@\d+$")
    """`stage@iteration` of this study to use in its place."""
    title: str = ""
    """Its name, as its owners write it; for model cards, as `home` and `licence`."""
    label: str = ""
    """Its short name in figures; its key if empty."""
    home: str = ""
    """Its licence's or its owners' page."""
    licence: str = ""
    """Its licence, which goes with every model that derives from it."""


class Pretrain(Options):
    """The chained stages (paper section 3.2)."""

    engine: EngineName = "meddino"
    """What runs the stages: this project's trainer, or `dinov3`, the public one of DINOv3's authors
    (needs a GPU and the extra `dinov3`; see docs/pretraining.md)."""
    backbone: str
    """Architecture of student, teacher and Gram teacher (paper: ViT-B/16)."""
    qkv_bias: Literal[False] | None = None
    """Whether queries and values have a bias: null as what a stage starts from; false takes it off
    in stages on CT-3M, as the released MedDINOv3 has none. The recipe `official` makes it false."""
    preset: str | None = None
    """Which of `presets` is laid over the stages; null takes them as they stand: the paper's text,
    with DINOv3's values where it gives none."""
    presets: dict[Name, dict[Name, dict[str, Any]]] = {}
    """Changes to stages, by name: preset -> stage -> what differs."""
    leak_free: bool = False
    """Whether each stage on `ct3m` has a twin `<stage>_leakfree` on `ct3m-leak-free`, and each
    method that starts from such a stage a twin `<method>_leakfree`, for tables to name."""
    stages: dict[Name, StageOptions]
    """Stages by name; each says which checkpoint it starts from. One that is `like` another says
    only what differs."""

    @field_validator("stages")
    @classmethod
    def _add_twins(
        cls, stages: dict[str, StageOptions], info: ValidationInfo
    ) -> dict[str, StageOptions]:
        """Twins differ from their stages in the data alone, and start from each other."""
        if not info.data.get("leak_free"):
            return stages
        names = [name for name, stage in stages.items() if stage.data == "ct3m"]
        return stages | {
            f"{name}{LEAK_FREE}": replace(
                stages[name],
                data="ct3m-leak-free",
                init=twin_of(stages[name].init, names),
                gram_teacher=twin_of(stages[name].gram_teacher, names),
            )
            for name in names
        }

    def with_variants(self, variants: Collection[str]) -> dict[str, StageOptions]:
        """All stages, and a twin of each stage on `ct3m` for each variant of the data.

        Twins start from each other. A stage that is described under a twin's name stays.
        """
        twins = {
            f"{name}_{variant}": replace(
                self.stages[name],
                data=variant,
                init=twin_of(self.stages[name].init, self.on_all(), f"_{variant}"),
                gram_teacher=twin_of(self.stages[name].gram_teacher, self.on_all(), f"_{variant}"),
            )
            for variant in variants
            for name in self.on_all()
        }
        return {**self.stages, **{n: twin for n, twin in twins.items() if n not in self.stages}}

    def on_all(self) -> list[str]:
        """Stages on all of CT-3M, which have a twin for each variant of the data."""
        return [name for name, stage in self.stages.items() if stage.data == "ct3m"]

    def with_twin(self) -> list[str]:
        """Stages that have a leak-free twin."""
        return [name.removesuffix(LEAK_FREE) for name in self.stages if LEAK_FREE in name]


def twin_of(reference: str | None, stages: Collection[str], ending: str = LEAK_FREE) -> str | None:
    """The snapshot of a stage's twin, where the stage is one of `stages`; others stay as they are.

    Args:
        reference: a key of `weights`, `stage@iteration`, or None.
        stages: stages that have a twin.
        ending: how names of twins end.
    """
    stage, at, iteration = (reference or "").partition("@")
    return f"{stage}{ending}@{iteration}" if at and stage in stages else reference
