"""The configuration of a whole study: one typed, frozen model, read and checked once.

Everything that follows from it stands in the modules beside this one: what has to run (`targets`),
the names of files (`paths`), and the options and inputs of each job (`jobs`). Nothing here imports
torch or numpy: the workflow loads this on every start.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from meddino.core import layers
from meddino.core.errors import MeddinoError
from meddino.core.explain import explain
from meddino.core.options import Options, Recipe
from meddino.ct3m.options import CT3M
from meddino.datasets import registry
from meddino.datasets.listing import Listing
from meddino.datasets.options import Dataset
from meddino.datasets.phantom.options import Phantom
from meddino.evaluate.failures.options import Failures
from meddino.evaluate.options import Evaluation, Probe
from meddino.finetune.options import (
    ConfiguredBenchmark,
    ConfiguredMethod,
    Planning,
    Prediction,
    Training,
)
from meddino.report.label_curve.options import LabelCurve, method_on
from meddino.report.options import (
    Features,
    FigureOptions,
    Overlays,
    Prices,
    RanksOrSwitch,
    Table,
)
from meddino.report.tables.options import Backbones
from meddino.study import inheritance, references, transfer
from meddino.study.chain import Chain, words
from meddino.study.sections import (
    LEAK_FREE,
    Leaves,
    Name,
    Pretrain,
    SeedsOrList,
    Weights,
    twin_of,
)
from meddino.study.transfer import Transfer


class Study(Options):
    """The configuration of a study."""

    title: str
    """Heading of the report."""
    notes: tuple[str, ...] = ()
    """What a reader must know before comparing numbers; printed at the top of the report."""
    resources: str = "resources"
    """Folder of downloads and weights, relative to the working directory."""
    results: str = "results"
    """Folder of everything that is made."""
    keep_raw: bool = True
    """Whether downloads stay. If not, each dataset is fetched, cut into slices (or converted, for a
    benchmark) and freed in one job, one at a time; see docs/quota.md. A folder of yours stays."""
    keep_preprocessed: bool = True
    """Whether nnU-Net's preprocessed arrays stay. If not, benchmarks and configurations are
    preprocessed one after another, and each one's arrays go once all its trainings are done."""
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
    benchmarks: dict[Name, ConfiguredBenchmark]
    """Segmentation datasets (paper section 4.1)."""
    planning: Planning
    """How nnU-Net plans a benchmark."""
    folds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0,), min_length=1)
    """Folds that are left out in turn to validate on, counted from 0 (paper section 4.1: one of the
    five, its number is not given). Tables are over the validation cases of all of them."""
    training: Training
    """Length and seed of finetuning (paper section 4.1)."""
    label_curve: LabelCurve | None = None
    """Methods trained on few of the labelled cases: each has a twin `<method>_cases<percent>` for
    each share of them (docs/label-curve.md)."""
    seeds: SeedsOrList = None
    """Seeds that finetunings are repeated with: a list for all of them, or a section that names
    methods and benchmarks. Tables are then over all trainings, and their intervals and tests hold
    for other trainings, too. null: `training.seed` alone."""
    methods: dict[Name, ConfiguredMethod]
    """What is compared (paper sections 3.1, 4.1 and 4.3). A method that is `like` another says only
    what differs."""
    prediction: Prediction
    """Sliding-window inference."""
    evaluate: Evaluation
    """The metrics (paper section 4.1)."""
    probe: Probe
    """Probing of frozen backbones: what each stage of pretraining adds, before any finetuning."""
    tables: dict[Name, Table]
    """The paper's tables; what they ask for decides what runs."""
    transfer: Transfer | None = None
    """Methods trained on one benchmark and tested on another; null leaves that out."""
    ranks: RanksOrSwitch = None
    """How stable the ranks of each table's rows are, and how large their differences, as challenges
    report it: `true`, or a section. null: nothing is said of it."""
    backbones: Backbones | None = None
    """Pretrained ViTs beside each other: scores, probes, sizes, licences; null compares none."""
    figures: FigureOptions
    """Look of the figures."""
    overlays: Overlays = Overlays()
    """Cases that the report shows on a click."""
    prices: Prices = Prices()
    """What time costs, for the report."""
    features: Features
    """Pictures of dense features, along the chain of pretraining."""
    failures: Failures | None = None
    """Where segmentations fail (docs/failures.md); null looks at nothing."""
    _listings: dict[str, Listing] = PrivateAttr(default_factory=dict)
    """What a plan was made from: it must be of one moment."""

    @classmethod
    def parse(cls, config: Mapping[str, Any], source: str = "the configuration") -> "Study":
        """Validate a study.

        Raises:
            MeddinoError: one line for every key or value that does not fit, with what is allowed.
        """
        layers.check(config, source)
        try:
            return cls.model_validate(inheritance.resolve(config))
        except ValidationError as error:
            raise MeddinoError(explain(error, source, cls)) from error

    @field_validator("pretrain")
    @classmethod
    def _follow_recipe(cls, pretrain: Pretrain, info: ValidationInfo) -> Pretrain:
        official = info.data.get("recipe") == "official"
        return pretrain.model_copy(update={"qkv_bias": False}) if official else pretrain

    @field_validator("pretrain")
    @classmethod
    def _add_variants(cls, pretrain: Pretrain, info: ValidationInfo) -> Pretrain:
        """A chain for each variant of CT-3M; which of them run, the tables decide."""
        ct3m: CT3M | None = info.data.get("ct3m")
        if ct3m is None or not ct3m.variants:
            return pretrain
        return pretrain.model_copy(update={"stages": pretrain.with_variants(ct3m.variants)})

    @field_validator("methods")
    @classmethod
    def _add_twins(
        cls, methods: dict[str, ConfiguredMethod], info: ValidationInfo
    ) -> dict[str, ConfiguredMethod]:
        """Methods as the recipe has them; one that starts from a stage with a twin has one too."""
        recipe = info.data.get("recipe")
        methods = {
            name: method.officially() if (method.recipe or recipe) == "official" else method
            for name, method in methods.items()
        }
        pretrain = info.data.get("pretrain")
        if pretrain is None or not pretrain.leak_free:
            return methods
        stages = pretrain.with_twin()
        weights = {name: twin_of(method.weights, stages) for name, method in methods.items()}
        return methods | {
            f"{name}{LEAK_FREE}": method.model_copy(
                update={"label": f"{method.label}, leak-free", "weights": weights[name]}
            )
            for name, method in methods.items()
            if weights[name] != method.weights
        }

    @field_validator("methods")
    @classmethod
    def _add_variant_twins(
        cls, methods: dict[str, ConfiguredMethod], info: ValidationInfo
    ) -> dict[str, ConfiguredMethod]:
        """A method that starts from a stage on `ct3m` has a twin for each variant of the data."""
        ct3m, pretrain = info.data.get("ct3m"), info.data.get("pretrain")
        if ct3m is None or pretrain is None:
            return methods
        stages = pretrain.on_all()
        twins = {
            f"{name}_{variant}": method.model_copy(
                update={"label": f"{method.label}, {words(variant)}", "weights": start}
            )
            for variant in ct3m.variants
            for name, method in methods.items()
            if (start := twin_of(method.weights, stages, f"_{variant}")) != method.weights
        }
        return {**methods, **{name: twin for name, twin in twins.items() if name not in methods}}

    @field_validator("methods")
    @classmethod
    def _add_parts(
        cls, methods: dict[str, ConfiguredMethod], info: ValidationInfo
    ) -> dict[str, ConfiguredMethod]:
        """Methods of the label curve once more, for each share of the cases that is not all."""
        curve: LabelCurve | None = info.data.get("label_curve")
        return methods | {
            method_on(name, percent): methods[name].model_copy(
                update={
                    "label": f"{methods[name].label}, {percent} % of cases",
                    "cases_percent": percent,
                }
            )
            for name in (curve.methods if curve else ())
            if name in methods
            for percent in (curve.parts() if curve else ())
        }

    @model_validator(mode="after")
    def _check_references(self) -> Self:
        chain = self.chain
        problems = [
            *references.datasets(self.used_datasets(), self.dataset),
            *references.phantoms(self.phantom),
            *references.benchmark_numbers(self.benchmarks),
            *references.slices(chain, self.ct3m.sizes_px, self.leaves),
            *references.data(chain, self.ct3m.variants),
            *references.starts(chain, self.methods),
            *references.presets(self.pretrain),
            *references.tables(self.tables, self.methods, self.benchmarks),
            *references.label_curve(self.label_curve, self.methods, self.benchmarks),
            *references.configurations(self.methods, self.planning),
            *references.backbones(self.methods, self.pretrain),
            *references.kinds_of_weights(chain, self.methods),
            *references.folds(self.folds, self.benchmarks),
            *references.warmups(self.methods, self.training.epochs),
            *references.seeds(self.seeds, self.training.seed, self.methods, self.benchmarks),
            *references.probe(self.probe, chain, self.benchmarks),
            *transfer.problems(self.transfer, self.methods, self.benchmarks, self.tables),
            *references.compared_backbones(self.backbones, chain, self.methods, self.tables),
            *references.failures(self.failures, self.tables, self.benchmarks),
        ]
        # Asked last, since it follows references that the others have found to be sound.
        problems = problems or [*references.engine(chain)]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def chain(self) -> Chain:
        """What starts from what."""
        return Chain(self.pretrain, self.weights)

    def used_datasets(self) -> list[str]:
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
            changes["mirror"] = f"file:{self.resources}/phantom/{name}"
            changes["volumes"] = self.phantom[name].cases
        return registry.resolve(name, changes)

    def listing(self, dataset: str) -> Listing | None:
        """The files of a dataset in a folder of yours, as they are when first asked for.

        Raises:
            MeddinoError: the folder cannot be read, or holds nothing of the dataset.
        """
        entry = self.dataset(dataset)
        if entry.root is None:
            return None
        if dataset not in self._listings:
            name = f"datasets.{dataset}"
            self._listings[dataset] = Listing(entry.layout(), entry.root, name)
        return self._listings[dataset]

    def chunks(self, dataset: str) -> int:
        """Number of jobs that cut a dataset.

        The expected number of volumes decides it, so that the graph is complete before any
        download.
        """
        if self.passes(dataset):
            return self.dataset(dataset).pieces
        return self.ct3m.chunks(self.dataset(dataset).volumes)

    def passes(self, dataset: str) -> bool:
        """Whether a dataset is freed by the job that cuts it, so that a chunk is a whole piece."""
        return not self.keep_raw and self.dataset(dataset).folder is None


def load(paths: Sequence[str | Path]) -> Study:
    """Read a study from YAML files, each laid over those before it.

    Raises:
        MeddinoError: a file is absent, is not YAML, or holds a key or value that does not fit.
    """
    return Study.parse(layers.read(paths), " + ".join(map(str, paths)))
