"""What starts from what: stages, their snapshots, and the published weights before them."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from meddino.finetune.options import Method
from meddino.models.architectures import library_of
from meddino.models.options import DINOV3, SEGFORMER
from meddino.pretrain.options import PretrainOptions, StageOptions
from meddino.study.sections import LEAK_FREE, Pretrain, Weights

DATA = {"ct3m": "paper", "ct3m-leak-free": "leak-free"}
"""Data of a stage -> the variant of CT-3M that it is, where they have two names."""
LEAVES = "leaves"
"""Data of a stage that is no CT."""


class Snapshot(NamedTuple):
    """A checkpoint of a pretraining stage, written `stage@iteration`."""

    stage: str
    iteration: int


@dataclass(frozen=True)
class Chain:
    """Pretraining stages and published weights, linked by `stage@iteration` and keys of weights."""

    pretrain: Pretrain
    weights: Mapping[str, Weights]

    def resolve(self, reference: str | None) -> Snapshot | str | None:
        """Follow a reference to a snapshot of a stage, or to the name of published weights."""
        if reference is None:
            return None
        if "@" in reference:
            stage, _, iteration = reference.partition("@")
            return Snapshot(stage, int(iteration))
        substitute = self.weights[reference].snapshot
        return reference if substitute is None else self.resolve(substitute)

    def ancestors(self, stage: str) -> list[str]:
        """Stages that a stage starts from, directly or not, earliest first."""
        ordered: dict[str, None] = {}
        visited: set[str] = set()

        def visit(name: str) -> None:
            for parent in self._parents(name):
                if parent not in visited:
                    visited.add(parent)
                    visit(parent)
                ordered[parent] = None

        visit(stage)
        return list(ordered)

    def variant(self, stage: str) -> str:
        """Variant of CT-3M that a stage and its ancestors see.

        `paper`, also where only some of them see all; `leak-free`, a key of `ct3m.variants`, or
        `none`.
        """
        data = {self.pretrain.stages[name].data for name in [*self.ancestors(stage), stage]}
        variants = {DATA.get(name, name) for name in data - {LEAVES}}
        return "paper" if "paper" in variants else next(iter(sorted(variants)), "none")

    def history(self, reference: str | None) -> tuple[list[str], list[str]]:
        """Stages behind some weights, earliest first, and published weights behind these stages."""
        last = self.resolve(reference)
        if not isinstance(last, Snapshot):
            return [], [last] if last else []
        stages = [*self.ancestors(last.stage), last.stage]
        options = [self.pretrain.stages[stage] for stage in stages]
        starts = [self.resolve(r) for o in options for r in (o.init, o.gram_teacher)]
        return stages, list(dict.fromkeys(start for start in starts if isinstance(start, str)))

    def label(self, reference: str) -> str:
        """A reference as figures print it."""
        stage, at, iteration = reference.partition("@")
        if at:
            return f"{self.stage_label(stage)}, {iteration} iterations"
        return self.weights[reference].label or reference

    def stage_label(self, stage: str) -> str:
        """A stage's name as printed: `stage1_tenth` on the variant `tenth` is "stage 1, tenth"."""
        data = self.pretrain.stages[stage].data
        base = stage.removesuffix(f"_{data}")
        return stage_label(stage) if base == stage else f"{stage_label(base)}, {words(data)}"

    def options(self, stage: str) -> PretrainOptions:
        """Options of a stage's job; weights that a snapshot replaces are named by the snapshot."""
        options = self.pretrain.stages[stage]
        resolved = replace(
            options,
            init=self._resolved_text(options.init),
            gram_teacher=self._resolved_text(options.gram_teacher),
        )
        on_ct = self.pretrain.qkv_bias if options.qkv_bias is None else options.qkv_bias
        return PretrainOptions(
            name=stage,
            engine=self.pretrain.engine,
            backbone=self.pretrain.backbone,
            qkv_bias=None if options.data == LEAVES else on_ct,
            # Said once, above: how a stage comes by its value does not rerun it.
            stage=replace(resolved, qkv_bias=None),
        )

    def _parents(self, stage: str) -> Iterator[str]:
        options = self.pretrain.stages[stage]
        for reference in (options.init, options.gram_teacher):
            start = self.resolve(reference)
            if isinstance(start, Snapshot):
                yield start.stage

    def _resolved_text(self, reference: str | None) -> str | None:
        start = self.resolve(reference)
        return f"{start.stage}@{start.iteration}" if isinstance(start, Snapshot) else start


def kind_of(method: Method) -> str:
    """Which network's weights a method starts from."""
    if method.network == "segformer":
        return SEGFORMER
    return str(method.backbone) if library_of(method.backbone) else DINOV3


def kinds(
    weights: str, methods: Mapping[str, Method], stages: Mapping[str, StageOptions]
) -> dict[str, str]:
    """Which networks published weights must fit: kind -> a key that needs it."""
    users: dict[str, str] = {}
    for name, method in methods.items():
        if method.weights == weights:
            users.setdefault(kind_of(method), f"methods.{name}")
    for name, stage in stages.items():
        if weights in (stage.init, stage.gram_teacher):
            users.setdefault(DINOV3, f"pretrain.stages.{name}")
    return users


def words(name: str) -> str:
    """A key as printed."""
    return name.replace("_", " ")


def stage_label(stage: str) -> str:
    """A stage's name as printed: `stage1_leakfree` is "stage 1, leak-free"."""
    name = re.sub(r"(?<=[A-Za-z])(?=\d)", " ", stage.removesuffix(LEAK_FREE))
    return f"{name}, leak-free" if stage.endswith(LEAK_FREE) else name
