"""The configuration of a whole study: one typed, frozen model, read and checked once.

The models of each part stand beside the code that they steer (`meddino/*/options.py`). Here they
are put together, every reference from one part to another is checked (Snakemake would say "Nothing
to be done" over a stale result), and each verb's slice is cut out. Nothing here imports torch or
numpy: the workflow loads this on every start.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args

from pydantic import (
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from meddino.core import layers
from meddino.core.errors import MeddinoError
from meddino.core.explain import explain
from meddino.core.options import Options
from meddino.ct3m.options import CT3M, DuplicatesOptions, IndexOptions, SliceOptions
from meddino.datasets import registry
from meddino.datasets.options import Dataset, FetchOptions
from meddino.datasets.phantom.options import LayoutName, Phantom, PhantomOptions
from meddino.evaluate.options import (
    EvaluateOptions,
    Evaluation,
    Probe,
    ProbeOptions,
    ScoresOptions,
)
from meddino.finetune.options import (
    Benchmark,
    ConvertOptions,
    FinetuneOptions,
    Method,
    Planning,
    PlanOptions,
    Prediction,
    PredictOptions,
    PreprocessOptions,
    Training,
)
from meddino.models.architectures import ARCHITECTURES, LIBRARIES, library_of
from meddino.models.options import DINOV3, SEGFORMER, Published, WeightsOptions
from meddino.pretrain.dinov3.config import refusals
from meddino.pretrain.options import EngineName, LeavesOptions, PretrainOptions, StageOptions
from meddino.report.options import (
    Attribution,
    CardOptions,
    FeatureOptions,
    Features,
    FigureOptions,
    ModelCardOptions,
    OverlayOptions,
    Overlays,
    PlotOptions,
    Prices,
    ProvenanceOptions,
    Recipe,
    ReportOptions,
    Table,
    TableOptions,
)

LEAK_FREE = "_leakfree"
"""End of the names of stages and methods that are twins of others on leak-free data."""

VARIANTS = {"paper": "index", "leak-free": "index.leak-free"}
"""Variants of CT-3M, and how the files of their indices begin."""

RANDOM = "random"
"""What is probed beside weights and stages: a random initialisation."""

# Names become folders, wildcards and shell words: nothing that any of these would interpret.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_]*$")]


class Run(NamedTuple):
    """One finetuning: a method on a fold of a benchmark."""

    benchmark: str
    method: str
    fold: int


class Snapshot(NamedTuple):
    """A checkpoint of a pretraining stage, written `stage@iteration`."""

    stage: str
    iteration: int


class Leaves(Options):
    """Dead-leaves pictures: what stands in for natural images in the demo."""

    count: int = Field(gt=0)
    """Number of pictures."""
    seed: int = Field(default=0, ge=0)
    """Seed of the pictures."""


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


class Row(Method):
    """A method, and what of it the recipe `official` changes."""

    official: dict[str, Any] | None = None
    """Values that differ in the authors' code, laid over the others where `recipe` is official."""

    @model_validator(mode="after")
    def _check_official(self) -> Self:
        self.officially()
        return self

    def plain(self) -> Method:
        """The method alone, which is all that a job is told."""
        return Method(**self.model_dump(exclude={"official"}))

    def officially(self) -> "Row":
        """The method with the authors' values.

        Raises:
            ValueError: they do not fit.
        """
        changed = layers.merge(self.model_dump(exclude={"official"}), self.official or {})
        try:
            method = Method.model_validate(changed)
        except ValidationError as error:
            said = explain(error, "official", Method).replace("(the whole study): ", "")
            raise ValueError(f"{said}; mend it, or set it to null") from error
        # Not validated, since that would come here again.
        return self.model_copy(update={name: getattr(method, name) for name in Method.model_fields})


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
    leak_free: bool = False
    """Whether each stage on `ct3m` has a twin `<stage>_leakfree` on `ct3m-leak-free`, and each
    method that starts from such a stage a twin `<method>_leakfree`, for tables to name."""
    stages: dict[Name, StageOptions]
    """Stages by name; each says which checkpoint it starts from."""

    @field_validator("stages")
    @classmethod
    def _add_twins(
        cls, stages: dict[str, StageOptions], info: ValidationInfo
    ) -> dict[str, StageOptions]:
        """Twins differ from their stages in the data alone, and start from each other."""
        if not info.data.get("leak_free"):
            return stages
        twins = [name for name, stage in stages.items() if stage.data == "ct3m"]
        return stages | {
            f"{name}{LEAK_FREE}": replace(
                stages[name],
                data="ct3m-leak-free",
                init=_twin(stages[name].init, twins),
                gram_teacher=_twin(stages[name].gram_teacher, twins),
            )
            for name in twins
        }


def _kind(method: Method) -> str:
    """What the weights of a method must be."""
    if method.network == "segformer":
        return SEGFORMER
    return str(method.backbone) if library_of(method.backbone) else DINOV3


def _twin(reference: str | None, stages: Sequence[str]) -> str | None:
    """The snapshot of a stage's twin, where it is one of `stages`; other references stay."""
    stage, at, iteration = (reference or "").partition("@")
    return f"{stage}{LEAK_FREE}@{iteration}" if at and stage in stages else reference


class Study(Options):
    """Everything that a study is told."""

    title: str
    """Heading of the report."""
    notes: tuple[str, ...] = ()
    """What a reader must know before comparing numbers; printed at the top of the report."""
    resources: str = "resources"
    """Folder of downloads and weights, relative to the working directory."""
    results: str = "results"
    """Folder of everything that is made."""
    recipe: Recipe = "controlled"
    """Whether methods that start from different weights differ in these alone (`controlled`), or
    also in what the authors' code changes with them (`official`): the values of each method under
    `official`, and no qkv bias in pretraining."""
    phantom: dict[Name, Phantom] = {}
    """Datasets that are replaced by procedural phantoms."""
    leaves: Leaves | None = None
    """Dead-leaves pictures, for stages with `data: leaves`."""
    datasets: dict[Name, dict[str, Any]] = {}
    """Changes to datasets of the registry, and datasets of your own."""
    ct3m: CT3M
    """Curation of the pretraining set (paper section 3.2)."""
    weights: dict[Name, Weights] = {}
    """Published checkpoints that a stage or a method can start from."""
    pretrain: Pretrain
    """Self-supervised pretraining (paper section 3.2)."""
    benchmarks: dict[Name, Benchmark]
    """Segmentation datasets (paper section 4.1)."""
    planning: Planning
    """How nnU-Net plans a benchmark."""
    folds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0,), min_length=1)
    """Folds that are left out in turn to validate on, counted from 0 (paper section 4.1: one of the
    five, its number is not given). Tables are over the validation cases of all of them."""
    training: Training
    """Length and seed of finetuning (paper section 4.1)."""
    methods: dict[Name, Row]
    """What is compared (paper sections 3.1, 4.1 and 4.3)."""
    prediction: Prediction
    """Sliding-window inference."""
    evaluate: Evaluation
    """The metrics (paper section 4.1)."""
    probe: Probe
    """Probing of frozen backbones: what each stage of pretraining adds, before any finetuning."""
    tables: dict[Name, Table]
    """The paper's tables; what they ask for decides what runs."""
    figures: FigureOptions
    """Look of the figures."""
    overlays: Overlays = Overlays()
    """Cases that the report shows on a click."""
    prices: Prices = Prices()
    """What time costs, for the report."""
    features: Features
    """Pictures of dense features, along the chain of pretraining."""

    @classmethod
    def parse(cls, config: Mapping[str, Any], source: str = "the configuration") -> "Study":
        """Validate a study.

        Raises:
            MeddinoError: one line for every key or value that does not fit, with what is allowed.
        """
        layers.check(config, source)
        try:
            return cls.model_validate(config)
        except ValidationError as error:
            raise MeddinoError(explain(error, source, cls)) from error

    @field_validator("pretrain")
    @classmethod
    def _follow_recipe(cls, pretrain: Pretrain, info: ValidationInfo) -> Pretrain:
        official = info.data.get("recipe") == "official"
        return pretrain.model_copy(update={"qkv_bias": False}) if official else pretrain

    @field_validator("methods")
    @classmethod
    def _add_twins(cls, methods: dict[str, Row], info: ValidationInfo) -> dict[str, Row]:
        """Methods as the recipe has them; one that starts from a stage with a twin has one too."""
        if info.data.get("recipe") == "official":
            methods = {name: method.officially() for name, method in methods.items()}
        pretrain = info.data.get("pretrain")
        if pretrain is None or not pretrain.leak_free:
            return methods
        stages = [name.removesuffix(LEAK_FREE) for name in pretrain.stages if LEAK_FREE in name]
        twins = {
            name: twin
            for name, method in methods.items()
            if (twin := _twin(method.weights, stages)) != method.weights
        }
        return methods | {
            f"{name}{LEAK_FREE}": methods[name].model_copy(
                update={"label": f"{methods[name].label}, leak-free", "weights": twin}
            )
            for name, twin in twins.items()
        }

    # ---- references ---------------------------------------------------------------------------

    @model_validator(mode="after")
    def _check_references(self) -> Self:
        problems = [*self._dangling_datasets(), *self._dangling_weights(), *self._dangling_tables()]
        problems += [*self._dangling_configurations(), *self._unknown_backbones()]
        problems += [*self._unfit_weights(), *self._wrong_folds(), *self._wrong_probe()]
        problems = problems or [*self._beyond_the_engine()]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _beyond_the_engine(self) -> Iterator[str]:
        """What the public trainer would refuse, days later."""
        for name in self.pretrain.stages if self.pretrain.engine == "dinov3" else ():
            for problem in refusals(self.pretrain_options(name)):
                yield f"pretrain.engine = 'dinov3', stage {name}, {problem}"

    def _dangling_datasets(self) -> Iterator[str]:
        for name in self.ct3m_and_benchmark_datasets():
            try:
                self.dataset(name)
            except MeddinoError as error:
                yield str(error)
        for name in self.phantom:
            if name not in get_args(LayoutName):
                yield f"phantom.{name}: not one of {', '.join(get_args(LayoutName))}"
        numbers = [b.nnunet_id for b in self.benchmarks.values()]
        if len(set(numbers)) < len(numbers):
            yield "benchmarks: two share an nnunet_id"

    def _dangling_weights(self) -> Iterator[str]:
        wanted = {f"methods.{n}.weights": m.weights for n, m in self.methods.items()}
        for name, stage in self.pretrain.stages.items():
            for key in ("init", "gram_teacher"):
                wanted[f"pretrain.stages.{name}.{key}"] = getattr(stage, key)
            yield from self._dangling_slices(name, stage)
        wanted |= {f"weights.{n}.snapshot": w.snapshot for n, w in self.weights.items()}
        unknown = [
            f"{key} = {reference!r}: {problem}"
            for key, reference in wanted.items()
            if reference is not None and (problem := self._unknown_weights(reference))
        ]
        yield from unknown
        for name, stage in {} if unknown else self.pretrain.stages.items():
            ancestors = self._ancestors(name)
            if name in ancestors:
                yield f"pretrain.stages.{name}: starts, by way of other stages, from itself"
            leaky = [a for a in ancestors if self.pretrain.stages[a].data == "ct3m"]
            if stage.data == "ct3m-leak-free" and leaky:
                yield (
                    f"pretrain.stages.{name}.data = 'ct3m-leak-free': it starts from {leaky[0]},"
                    " which has seen all of ct3m; give that stage the same data"
                )

    def _kinds(self, weights: str) -> dict[str, str]:
        """What published weights must be: kind -> a key of the configuration that asks for it."""
        kinds: dict[str, str] = {}
        for name, method in self.methods.items():
            if method.weights == weights:
                kinds.setdefault(_kind(method), f"methods.{name}")
        for name, stage in self.pretrain.stages.items():
            if weights in (stage.init, stage.gram_teacher):
                kinds.setdefault(DINOV3, f"pretrain.stages.{name}")
        return kinds

    def _unfit_weights(self) -> Iterator[str]:
        """Weights that two networks would read differently, or that are of another network."""
        for name, entry in self.weights.items():
            kinds = self._kinds(name)
            if len(kinds) > 1:
                asked = ", ".join(f"{kind} by {key}" for kind, key in kinds.items())
                yield f"weights.{name}: asked for as {asked}; give each an entry of its own"
            if entry.snapshot is not None and (wrong := set(kinds) - {DINOV3}):
                yield f"weights.{name}.snapshot: a stage's ViT cannot stand in for {min(wrong)}"
        for name, method in self.methods.items():
            if "@" in (method.weights or "") and _kind(method) != DINOV3:
                yield (
                    f"methods.{name}.weights = {method.weights!r}: a stage's ViT is none of"
                    f" {_kind(method)}; name an entry of `weights`"
                )

    def _dangling_slices(self, name: str, stage: StageOptions) -> Iterator[str]:
        if stage.data == "leaves" and self.leaves is None:
            yield f"pretrain.stages.{name}.data = 'leaves': there is no section `leaves`"
        if stage.data != "leaves" and stage.slices_px not in self.ct3m.sizes_px:
            yield (
                f"pretrain.stages.{name}.slices_px = {stage.slices_px}: not one of "
                f"ct3m.sizes_px, {list(self.ct3m.sizes_px)}"
            )

    def _unknown_weights(self, reference: str) -> str | None:
        stage, at, iteration = reference.partition("@")
        if not at:
            known = ", ".join(self.weights)
            return None if stage in self.weights else f"no such weights (known: {known})"
        if stage not in self.pretrain.stages:
            return f"no stage of that name (stages: {', '.join(self.pretrain.stages)})"
        kept = self.pretrain.stages[stage].snapshots
        if not iteration.isdecimal() or int(iteration) not in kept:
            return f"{stage} keeps snapshots {list(kept)} only"
        return None

    def _dangling_tables(self) -> Iterator[str]:
        for name, table in self.tables.items():
            for method in table.rows:
                if method not in self.methods:
                    yield f"tables.{name}: no method {method!r} (known: {', '.join(self.methods)})"
            for benchmark in table.benchmarks:
                if benchmark not in self.benchmarks:
                    known = ", ".join(self.benchmarks)
                    yield f"tables.{name}: no benchmark {benchmark!r} (known: {known})"
            others = [method for method in table.rows if method != table.compare_with]
            if table.compare_with is not None and len(others) in (0, len(table.rows)):
                yield (
                    f"tables.{name}.compare_with = {table.compare_with!r}: must be one of several"
                    f" rows ({', '.join(table.rows)}); null compares none"
                )

    def _dangling_configurations(self) -> Iterator[str]:
        known = ["2d", *self.planning.configurations]
        for name, method in self.methods.items():
            if method.configuration not in known:
                yield (
                    f"methods.{name}.configuration = {method.configuration!r}: "
                    f"not one of {', '.join(known)}"
                )

    def _unknown_backbones(self) -> Iterator[str]:
        wanted = {f"methods.{n}.backbone": m.backbone for n, m in self.methods.items()}
        for key, name in {"pretrain.backbone": self.pretrain.backbone, **wanted}.items():
            foreign = library_of(name) is not None and key in wanted
            if name is not None and name not in ARCHITECTURES and not foreign:
                theirs = "".join(f", {library}:NAME" for library in LIBRARIES if key in wanted)
                yield f"{key} = {name!r}: not one of {', '.join(ARCHITECTURES)}{theirs}"
        for name, method in self.methods.items():
            known = ARCHITECTURES.get(method.backbone or "")
            if known and any(block >= known.depth for block in method.blocks):
                yield (
                    f"methods.{name}.blocks = {method.blocks}: {method.backbone} has blocks 0 to "
                    f"{known.depth - 1}"
                )

    def _wrong_folds(self) -> Iterator[str]:
        if len(set(self.folds)) < len(self.folds):
            yield f"folds = {list(self.folds)}: one is named twice"
        for name, benchmark in self.benchmarks.items():
            if max(self.folds) >= benchmark.folds:
                yield (
                    f"folds = {list(self.folds)}: benchmark {name} has folds 0 to"
                    f" {benchmark.folds - 1}"
                )

    def _wrong_probe(self) -> Iterator[str]:
        benchmark = self.benchmarks.get(self.probe.benchmark)
        if benchmark is None:
            yield f"probe.benchmark: not one of {', '.join(self.benchmarks)}"
        elif benchmark.modalities != ["CT"]:
            yield f"probe.benchmark = {self.probe.benchmark!r}: not of CT alone; take one that is"
        backbone = ARCHITECTURES.get(self.pretrain.backbone)
        if backbone and self.probe.slices_px % backbone.patch_size:
            yield (
                f"probe.slices_px = {self.probe.slices_px}: not a multiple of"
                f" {self.pretrain.backbone}'s patches, {backbone.patch_size} px"
            )
        if RANDOM in {*self.weights, *self.pretrain.stages}:
            yield f"weights, pretrain.stages: {RANDOM!r} is the name of what nobody trained"

    # ---- what has to run ----------------------------------------------------------------------

    def runs(self) -> list[Run]:
        """Every finetuning that a table asks for; one that two tables share is run once."""
        wanted = {
            Run(benchmark, method, fold): None
            for table in self.tables.values()
            for method in table.rows
            for benchmark in table.benchmarks
            for fold in self.folds
        }
        return list(wanted)

    def used_benchmarks(self) -> list[str]:
        """Benchmarks that a table asks for."""
        return list(dict.fromkeys(run.benchmark for run in self.runs()))

    def used_stages(self) -> list[str]:
        """Pretraining stages that a run needs, each after those that it starts from."""
        ordered: dict[str, None] = {}
        for run in self.runs():
            resolved = self._resolve(self.methods[run.method].weights)
            if isinstance(resolved, Snapshot):
                last = resolved.stage
                ordered |= dict.fromkeys([*self._ancestors(last), last])
        return list(ordered)

    def pretraining_data(self, method: str) -> str:
        """Variant of CT-3M that a method's weights have seen: paper, leak-free, or `none`."""
        resolved = self._resolve(self.methods[method].weights)
        return self._seen(resolved.stage) if isinstance(resolved, Snapshot) else "none"

    def _seen(self, stage: str) -> str:
        """Variant of CT-3M that a stage and those before it see."""
        seen = {self.pretrain.stages[name].data for name in [*self._ancestors(stage), stage]}
        return "paper" if "ct3m" in seen else "leak-free" if "ct3m-leak-free" in seen else "none"

    def probed(self) -> list[str]:
        """What is probed, along the chain: a random initialisation, published weights, stages."""
        stages = self.used_stages()
        starts = [self._resolve(self.pretrain.stages[stage].init) for stage in stages]
        published = dict.fromkeys(start for start in starts if isinstance(start, str))
        return [RANDOM, *published, *stages] if stages else []

    def shown_chain(self) -> dict[str, str]:
        """Checkpoints whose features are shown: name -> reference.

        What the first stage on CT-3M starts from, if anything, and the last snapshot of each of
        these stages. Where they have twins on leak-free data, the twins are not shown.
        """
        on_ct = [s for s in self.used_stages() if self.pretrain.stages[s].data != "leaves"]
        paper = [stage for stage in on_ct if self.pretrain.stages[stage].data == "ct3m"]
        chain = paper or on_ct
        start = self.pretrain.stages[chain[0]].init if chain else None
        begun = {} if start is None else {self._weights_label(start): start}
        ends = {s: f"{s}@{self.pretrain.stages[s].snapshots[-1]}" for s in chain}
        return begun | {stage_label(stage): reference for stage, reference in ends.items()}

    def _weights_label(self, reference: str) -> str:
        stage, at, iteration = reference.partition("@")
        if at:
            return f"{stage_label(stage)}, {iteration} iterations"
        return self.weights[reference].label or reference

    def _ancestors(self, stage: str) -> list[str]:
        """Stages that a stage starts from, directly or not, first things first."""
        found: dict[str, None] = {}
        path: list[str] = []

        def visit(name: str) -> None:
            options = self.pretrain.stages[name]
            for reference in (options.init, options.gram_teacher):
                resolved = self._resolve(reference)
                if isinstance(resolved, Snapshot):
                    if resolved.stage not in path:
                        path.append(resolved.stage)
                        visit(resolved.stage)
                    found[resolved.stage] = None

        visit(stage)
        return list(found)

    def ct3m_and_benchmark_datasets(self) -> list[str]:
        """Datasets that are downloaded: for pretraining, for a benchmark, or for both."""
        names = [*self.ct3m.datasets, *(b.dataset for b in self.benchmarks.values())]
        return list(dict.fromkeys(names))

    def dataset(self, name: str) -> Dataset:
        """The registry's entry of a dataset with this study's changes.

        Raises:
            MeddinoError: neither the registry nor the configuration describes it in full.
        """
        changes = dict(self.datasets.get(name, {}))
        if name in self.phantom:
            phantom = {"mirror": f"file:{self.resources}/phantom/{name}"}
            changes |= phantom | {"volumes": self.phantom[name].cases}
        return registry.resolve(name, changes)

    def chunks(self, dataset: str) -> int:
        """Number of jobs that cut a dataset.

        It is fixed by the expected volumes, so that the graph is whole before any download.
        """
        return self.ct3m.chunks(self.dataset(dataset).volumes)

    def _resolve(self, reference: str | None) -> Snapshot | str | None:
        """Follow a reference to a snapshot of a stage, or to the name of published weights."""
        if reference is None:
            return None
        if "@" in reference:
            stage, _, iteration = reference.partition("@")
            return Snapshot(stage, int(iteration))
        stand_in = self.weights[reference].snapshot
        return reference if stand_in is None else self._resolve(stand_in)

    def _reference(self, reference: str | None) -> str | None:
        resolved = self._resolve(reference)
        if isinstance(resolved, Snapshot):
            return f"{resolved.stage}@{resolved.iteration}"
        return resolved

    # ---- files --------------------------------------------------------------------------------

    def weights_path(self, reference: str) -> str:
        """The file that a reference to weights stands for."""
        resolved = self._resolve(reference)
        if isinstance(resolved, Snapshot):
            return f"{self.results}/pretrain/{resolved.stage}/{resolved.iteration:06d}.pth"
        return f"{self.resources}/weights/{resolved}.pth"

    def weights_inputs(self, weights: str) -> list[str]:
        """Files that published weights are made from: yours, where it is there already."""
        file = self.weights[weights].file
        return [file] if file is not None and Path(file).exists() else []

    def snapshots(self, stage: str) -> list[str]:
        """Checkpoints that a stage keeps."""
        return [self.weights_path(f"{stage}@{i}") for i in self.pretrain.stages[stage].snapshots]

    def final_snapshots(self) -> list[str]:
        """The last checkpoint of every stage that is used."""
        return [self.snapshots(stage)[-1] for stage in self.used_stages()]

    def pretrain_inputs(self, stage: str) -> dict[str, str]:
        """Files that a stage reads, by the flag that takes them."""
        options = self.pretrain.stages[stage]
        index = {
            "ct3m": f"ct3m/{VARIANTS['paper']}",
            "ct3m-leak-free": f"ct3m/{VARIANTS['leak-free']}",
            "leaves": "leaves/index",
        }[options.data]
        files = {"index": f"{self.results}/{index}.{options.slices_px}.parquet"}
        for flag, reference in (("init", options.init), ("gram_teacher", options.gram_teacher)):
            if reference is not None:
                files[flag] = self.weights_path(reference)
        return files

    def mirror_files(self, dataset: str) -> list[str]:
        """What must be made before a dataset can be fetched: its phantom, if it is one."""
        name = f"{self.resources}/phantom/{dataset}/SHA256SUMS"
        return [name] if dataset in self.phantom else []

    def raw(self, benchmark: str) -> str:
        """The manifest of a benchmark's dataset."""
        return f"{self.resources}/raw/{self.benchmarks[benchmark].dataset}/.fetched.json"

    def chunk_reports(self, datasets: Sequence[str] | None = None) -> list[str]:
        """Reports of all chunks of some datasets; of CT-3M's by default."""
        return [
            f"{self.results}/ct3m/shards/{dataset}/{chunk}.json"
            for dataset in datasets or self.ct3m.datasets
            for chunk in range(self.chunks(dataset))
        ]

    def searched_datasets(self) -> list[str]:
        """Datasets that are searched for copies: CT-3M's, and if need be the benchmarks'."""
        leak_free = any(stage.data == "ct3m-leak-free" for stage in self.pretrain.stages.values())
        return self.ct3m_and_benchmark_datasets() if leak_free else list(self.ct3m.datasets)

    def duplicates_inputs(self) -> dict[str, list[str]]:
        """Files that the search for copies reads: reports, and shards of the smallest size."""
        reports = self.chunk_reports(self.searched_datasets())
        return {"reports": reports, "shards": _shards(reports, min(self.ct3m.sizes_px))}

    def index_inputs(self, size: str, variant: str) -> dict[str, list[str]]:
        """Files that an index is made from; copies matter only where they stay out."""
        leak_free = variant == "leak-free"
        reports = self.chunk_reports(self.searched_datasets() if leak_free else None)
        files = {"reports": reports, "shards": _shards(reports, size)}
        if leak_free or self.ct3m.dedupe != "off":
            files["duplicates"] = [f"{self.results}/ct3m/duplicates.parquet"]
        if leak_free:
            folders = [str(Path(self.nnunet_dataset(b)).parent) for b in self.benchmarks]
            files["splits"] = [f"{folder}/splits_final.json" for folder in folders]
        return files

    def variants(self) -> list[str]:
        """Variants of CT-3M that are pretrained on; `paper` is always among them."""
        used = {self.pretrain.stages[stage].data for stage in self.used_stages()}
        return ["paper", *(["leak-free"] if "ct3m-leak-free" in used else [])]

    def index_cards(self) -> list[str]:
        """What went into each variant's index, at the smallest size."""
        size = min(self.ct3m.sizes_px)
        return [f"{self.results}/ct3m/{VARIANTS[v]}.{size}.card.json" for v in self.variants()]

    def nnunet_folder(self, benchmark: str) -> str:
        """nnU-Net's folder name of a benchmark."""
        return f"Dataset{self.benchmarks[benchmark].nnunet_id:03d}_{benchmark}"

    def nnunet_dataset(self, benchmark: str) -> str:
        """nnU-Net's description of a converted benchmark."""
        return f"{self.results}/nnunet/raw/{self.nnunet_folder(benchmark)}/dataset.json"

    def convert_quarantines(self) -> list[str]:
        """What conversion left out, for each benchmark that is used."""
        folders = [Path(self.nnunet_dataset(b)).parent for b in self.used_benchmarks()]
        return [str(folder / "quarantine.json") for folder in folders]

    def probe_inputs(self, source: str) -> dict[str, str | list[str]]:
        """Files that a probe reads, by the flag that takes them."""
        checkpoints = (
            []
            if source == RANDOM
            else self.snapshots(source)
            if source in self.pretrain.stages
            else [self.weights_path(source)]
        )
        return {**self._probed_cases(), "checkpoints": checkpoints}

    def _probed_cases(self) -> dict[str, str]:
        """The benchmark whose cases frozen features are looked at on."""
        dataset = self.nnunet_dataset(self.probe.benchmark)
        return {"dataset": dataset, "splits": str(Path(dataset).with_name("splits_final.json"))}

    def probe_paths(self) -> list[str]:
        """Results of all probes, along the chain."""
        return [f"{self.results}/probe/{source}.json" for source in self.probed()]

    def feature_inputs(self) -> dict[str, str | list[str]]:
        """Files that pictures of features are made from, by the flag that takes them."""
        checkpoints = [self.weights_path(each) for each in self.shown_chain().values()]
        return {**self._probed_cases(), "checkpoints": checkpoints}

    def feature_paths(self) -> list[str]:
        """Pictures of features; none where nothing is pretrained."""
        return [f"{self.results}/features/figures.json"] if self.shown_chain() else []

    def finetune_inputs(self, benchmark: str, method: str) -> dict[str, str]:
        """Files that a finetuning reads, by the flag that takes them."""
        options = self.methods[method]
        folder = f"{self.results}/nnunet/preprocessed/{self.nnunet_folder(benchmark)}"
        files = {"preprocessed": f"{folder}/{options.configuration}.json"}
        if options.weights is not None:
            files["weights"] = self.weights_path(options.weights)
        return files

    def overlay_inputs(self, benchmark: str) -> dict[str, str | list[str]]:
        """Files that the pictures of a benchmark's cases are made from, by the flag."""
        runs = [run for run in self.runs() if run.benchmark == benchmark]
        folder = f"{self.results}/predictions/{benchmark}"
        return {
            "dataset": self.nnunet_dataset(benchmark),
            "predictions": [f"{folder}/{run.method}/fold{run.fold}/done.json" for run in runs],
            "scores": [self.scores_path(run) for run in runs],
        }

    def overlay_paths(self) -> list[str]:
        """Pictures of the cases of all benchmarks that are used."""
        return [f"{self.results}/overlays/{b}/index.json" for b in self.used_benchmarks()]

    def scores_path(self, run: Run) -> str:
        """Scores of one run."""
        return f"{self.results}/scores/{run.benchmark}/{run.method}/fold{run.fold}.parquet"

    def table_scores(self, table: str) -> list[str]:
        """Scores that a table shows."""
        asked = self.tables[table]
        return [
            self.scores_path(run)
            for run in self.runs()
            if run.method in asked.rows and run.benchmark in asked.benchmarks
        ]

    # ---- slices: what each verb is told ---------------------------------------------------------

    def phantom_options(self, dataset: str) -> PhantomOptions:
        """Options of `phantom`."""
        return PhantomOptions(dataset=dataset, **self.phantom[dataset].model_dump())

    def fetch_options(self, dataset: str) -> FetchOptions:
        """Options of `fetch`."""
        return FetchOptions.of(dataset, self.dataset(dataset))

    def slice_options(self, dataset: str, chunk: str) -> SliceOptions:
        """Options of `slices`."""
        return SliceOptions(
            dataset_name=dataset,
            dataset=self.dataset(dataset).layout(),
            chunk=int(chunk),
            chunks=self.chunks(dataset),
            curation=self.ct3m.curation(dataset),
        )

    def duplicates_options(self) -> DuplicatesOptions:
        """Options of `duplicates`."""
        return DuplicatesOptions(size_px=min(self.ct3m.sizes_px), duplicates=self.ct3m.duplicates)

    def index_options(self, size: str, variant: str) -> IndexOptions:
        """Options of `index`; of those that do not matter it is told nothing.

        Raises:
            MeddinoError: there is no such variant.
        """
        if variant not in VARIANTS:
            raise MeddinoError(f"no variant {variant!r} of ct3m; known: {', '.join(VARIANTS)}")
        dedupe, leak_free = self.ct3m.dedupe, variant == "leak-free"
        return IndexOptions(
            size_px=int(size),
            dedupe=dedupe,
            datasets=self.ct3m.datasets if leak_free or dedupe != "off" else None,
            folds=self.folds if leak_free else (0,),
            benchmarks={n: b.dataset for n, b in self.benchmarks.items()} if leak_free else {},
        )

    def leaves_options(self, size: str) -> LeavesOptions:
        """Options of `leaves`.

        Raises:
            MeddinoError: the study has no such pictures.
        """
        if self.leaves is None:
            raise MeddinoError("config: there is no section `leaves`; add one with a `count`")
        return LeavesOptions(count=self.leaves.count, seed=self.leaves.seed, size_px=int(size))

    def weights_options(self, weights: str) -> WeightsOptions:
        """Options of `weights`."""
        kind = next(iter(self._kinds(weights)), DINOV3)
        given = self.weights[weights].model_dump(include=set(Published.model_fields))
        return WeightsOptions(**given, kind=kind)

    def pretrain_options(self, stage: str) -> PretrainOptions:
        """Options of `pretrain`: references that stand in for others are followed first."""
        options = self.pretrain.stages[stage]
        followed = replace(
            options,
            init=self._reference(options.init),
            gram_teacher=self._reference(options.gram_teacher),
        )
        return PretrainOptions(
            name=stage,
            engine=self.pretrain.engine,
            backbone=self.pretrain.backbone,
            qkv_bias=None if options.data == "leaves" else self.pretrain.qkv_bias,
            stage=followed,
        )

    def convert_options(self, benchmark: str) -> ConvertOptions:
        """Options of `convert`."""
        asked = self.benchmarks[benchmark]
        return ConvertOptions(benchmark=asked, dataset=self.dataset(asked.dataset).layout())

    def plan_options(self) -> PlanOptions:
        """Options of `plan`."""
        return PlanOptions(planning=self.planning)

    def preprocess_options(self, configuration: str) -> PreprocessOptions:
        """Options of `preprocess`."""
        return PreprocessOptions(
            configuration=configuration, num_processes=self.planning.num_processes
        )

    def finetune_options(self, method: str, fold: str) -> FinetuneOptions:
        """Options of `finetune`: all but the label, which only the tables print."""
        return FinetuneOptions(
            method=self.methods[method].plain().model_copy(update={"label": ""}),
            training=self.training,
            fold=int(fold),
        )

    def predict_options(self, fold: str) -> PredictOptions:
        """Options of `predict`."""
        return PredictOptions(prediction=self.prediction, fold=int(fold))

    def evaluate_options(self, benchmark: str, method: str, fold: str) -> EvaluateOptions:
        """Options of `evaluate`."""
        return EvaluateOptions(
            benchmark=benchmark,
            method=method,
            fold=int(fold),
            evaluation=self.evaluate,
            tolerances_mm=self.benchmarks[benchmark].counted_tolerances_mm,
        )

    def probe_options(self, source: str) -> ProbeOptions:
        """Options of `probe`."""
        return ProbeOptions(
            source=source,
            variant=self._seen(source) if source in self.pretrain.stages else "none",
            backbone=self.pretrain.backbone,
            spacing_mm=self.ct3m.spacing_mm,
            fold=self.folds[0],
            probe=self.probe,
        )

    def scores_options(self) -> ScoresOptions:
        """Options of `scores`."""
        return ScoresOptions()

    def table_options(self, table: str) -> TableOptions:
        """Options of `tables`."""
        asked = self.tables[table]
        return TableOptions(
            name=table,
            table=asked,
            method_labels={name: self.methods[name].label for name in asked.rows},
            method_data={name: self.pretraining_data(name) for name in asked.rows},
            benchmark_labels={name: self.benchmarks[name].label for name in asked.benchmarks},
            tolerance_mm=self.evaluate.tolerance_mm,
            tolerances_mm={n: self.benchmarks[n].counted_tolerances_mm for n in asked.benchmarks},
            recipe=self.recipe,
            recipe_changes=self._recipe_changes(asked.rows),
        )

    def _recipe_changes(self, rows: Sequence[str]) -> dict[str, list[str]]:
        """What the recipes do otherwise: key -> methods of a table."""
        changes: dict[str, list[str]] = {}
        for name in rows:
            for key, value in (self.methods[name].official or {}).items():
                inner = [f"{key}.{part}" for part in value] if isinstance(value, dict) else [key]
                for whole in inner:
                    changes.setdefault(whole, []).append(name)
            if self.pretraining_data(name) != "none":
                changes.setdefault("pretrain.qkv_bias", []).append(name)
        return changes

    def card_options(self) -> CardOptions:
        """Options of `card`."""
        return CardOptions(figures=self.figures, sizes_px=self.ct3m.sizes_px)

    def model_card_options(self, benchmark: str, method: str) -> ModelCardOptions:
        """Options of `model_card`."""
        variant = self.pretraining_data(method)
        stages, weights = self._history(self.methods[method].weights)
        return ModelCardOptions(
            method=self.methods[method].label,
            benchmark=self.benchmarks[benchmark].label,
            data=self._data_source(self.benchmarks[benchmark].dataset),
            variant=variant,
            stages=tuple(stages),
            pretraining=tuple(
                self._data_source(name)
                for name in (self.ct3m.datasets if variant != "none" else ())
            ),
            weights=tuple(
                Attribution(name=name, title=w.title, home=w.home, licence=w.licence)
                for name in weights
                for w in [self.weights[name]]
            ),
            tolerance_mm=self.evaluate.tolerance_mm,
            tolerances_mm=self.benchmarks[benchmark].counted_tolerances_mm,
        )

    def _history(self, reference: str | None) -> tuple[list[str], list[str]]:
        """Stages that weights have gone through, first things first, and what these began with."""
        last = self._resolve(reference)
        if not isinstance(last, Snapshot):
            return [], [last] if last else []
        stages = [*self._ancestors(last.stage), last.stage]
        options = [self.pretrain.stages[stage] for stage in stages]
        starts = [self._resolve(r) for o in options for r in (o.init, o.gram_teacher)]
        return stages, list(dict.fromkeys(start for start in starts if isinstance(start, str)))

    def _data_source(self, name: str) -> Attribution:
        """A dataset and its terms; a phantom's are this project's own."""
        dataset = self.dataset(name)
        if name in self.phantom:
            title = f"procedural phantom in the layout of {dataset.title}"
            return Attribution(name=name, title=title, home="", licence="Apache-2.0", phantom=True)
        title = dataset.title or name
        return Attribution(name=name, title=title, home=dataset.home, licence=dataset.licence)

    def figure_options(self) -> PlotOptions:
        """Options of `figures`."""
        methods = dict.fromkeys(run.method for run in self.runs())
        sources = {stage: stage_label(stage) for stage in self.pretrain.stages}
        sources |= {name: entry.label or name for name, entry in self.weights.items()}
        return PlotOptions(
            look=self.figures,
            method_labels={name: self.methods[name].label for name in methods},
            benchmark_labels={n: self.benchmarks[n].label for n in self.used_benchmarks()},
            source_labels={RANDOM: "random initialisation", **sources},
        )

    def feature_options(self) -> FeatureOptions:
        """Options of `feature_figures`."""
        return FeatureOptions(
            models=tuple(self.shown_chain()),
            spacing_mm=self.ct3m.spacing_mm,
            fold=self.folds[0],
            features=self.features,
            figures=self.figures,
        )

    def provenance_options(self) -> ProvenanceOptions:
        """Options of `provenance`."""
        return ProvenanceOptions(title=self.title)

    def overlay_options(self) -> OverlayOptions:
        """Options of `overlays`."""
        look = self.figures
        return OverlayOptions(
            **self.overlays.model_dump(), window_hu=look.window_hu, colours=look.colours
        )

    def report_options(self) -> ReportOptions:
        """Options of `report`."""
        names = sorted(self.tables)  # files may give sections in any order, and change nothing
        rows = [method for table in names for method in self.tables[table].rows]
        return ReportOptions(
            title=self.title,
            notes=self.notes,
            tables=tuple(self.table_options(table) for table in names),
            methods={name: method.label for name, method in self.methods.items()},
            order=tuple(dict.fromkeys(rows)),
            benchmarks={name: benchmark.label for name, benchmark in self.benchmarks.items()},
            stages={name: entry.label or name for name, entry in self.weights.items()}
            | {name: _headed(stage_label(name)) for name in self.pretrain.stages},
            datasets={name: self.dataset(name).title for name in self.ct3m.datasets},
            prices=self.prices,
            configuration=self.configuration(),
        )

    def configuration(self) -> dict[str, Any]:
        """The study as one file of configuration says it, without defaults."""
        said = self.model_dump(mode="json", exclude_defaults=True)
        for name, benchmark in self.benchmarks.items():  # jobs that convert are told none
            said["benchmarks"][name]["tolerances_mm"] = benchmark.tolerances_mm
        return said


def stage_label(stage: str) -> str:
    """A stage's name as printed: `stage1_leakfree` is "stage 1, leak-free"."""
    name = re.sub(r"(?<=[A-Za-z])(?=\d)", " ", stage.removesuffix(LEAK_FREE))
    return f"{name}, leak-free" if stage.endswith(LEAK_FREE) else name


def _headed(label: str) -> str:
    """A label at the beginning of a line."""
    return label[:1].upper() + label[1:]


def _shards(reports: Sequence[str], size: str | int) -> list[str]:
    """Shards of one size (px) that lie beside reports."""
    return [f"{path.removesuffix('.json')}.{size}.parquet" for path in reports]


def load(paths: Sequence[str | Path]) -> Study:
    """Read a study from YAML files, each laid over those before it.

    Raises:
        MeddinoError: a file is absent, is not YAML, or holds a key or value that does not fit.
    """
    return Study.parse(layers.read(paths), " + ".join(map(str, paths)))
