"""Options of tables, figures and the report (the workflow loads this module: nothing heavy)."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from meddino.core.options import Options, Recipe, absent
from meddino.report import corpus as names

Colour = Annotated[str, Field(pattern=r"^#[0-9A-Fa-f]{6}$")]


class Table(Options):
    """One of the paper's tables, or one of your own."""

    title: str
    """Heading."""
    rows: tuple[str, ...] = Field(min_length=1)
    """Methods, in order."""
    benchmarks: tuple[str, ...] = Field(min_length=1)
    """Benchmarks, in order."""
    metrics: tuple[Literal["DSC", "NSD", "HD95", "VD"], ...] = Field(("DSC",), min_length=1)
    """What is shown: DSC and NSD in %, HD95 in mm, difference of volumes (VD) in ml."""
    protocol: Literal["paper", "area"] = "paper"
    """How it is counted; the CSV holds both."""
    intervals: bool = False
    """Whether to show 95 % intervals over cases; the CSV holds them in any case."""
    compare_with: str | None = None
    """Row that each other one is compared with: the difference, its interval, and a paired
    permutation test, corrected over all tests of the table."""


FirstSeed = Annotated[int | None, Field(ge=0, exclude_if=absent)]
"""Seed of the scores that name none, where others name theirs; None where there is one seed."""


Beyond = Literal["3d", "2d"]
"""Networks of nnU-Net that the paper does not compare: of volumes, or a preset for slices."""


class TableOptions(Options):
    """What `tables` needs of a study."""

    name: str
    """Key of the table."""
    table: Table
    """What it shows."""
    method_labels: dict[str, str]
    """Names of its methods, as printed."""
    method_data: dict[str, str]
    """Variant of CT-3M that their weights have seen: `paper`, all of it; `leak-free`, without the
    benchmarks' validation cases and their copies; one of `variants`; or `none`."""
    variants: dict[str, str] = Field({}, exclude_if=lambda value: not value)
    """Further variants of CT-3M among them, and what they hold, as printed."""
    benchmark_labels: dict[str, str]
    """Names of its benchmarks, as printed."""
    tolerance_mm: float
    """Tolerance of the NSD (mm), as printed."""
    tolerances_mm: dict[str, dict[str, float]] = {}
    """Benchmark -> structure -> its own tolerance in protocol `area` (mm), as printed."""
    paper_patch_px: dict[str, int] = {}
    """Benchmark -> side of the square input of `2d` that the paper states (px), where it does."""
    corpus: str = names.PAPER
    """Name of the slices that were pretrained on, as printed."""
    recipe: Recipe = "controlled"
    """Whether rows differ in their weights alone, or as in the authors' code."""
    recipe_changes: dict[str, list[str]] = {}
    """Keys in which the recipes differ -> methods of the table that they differ for."""
    seed: FirstSeed = None
    """Seed of the scores that name none, where methods were trained with several."""
    beyond: dict[str, Beyond] = Field({}, exclude_if=lambda methods: not methods)
    """Methods of a kind that the paper does not compare -> which kind."""


class Ranks(Options):
    """How stable ranks are: cases and trainings are drawn again, with replacement."""

    resamples: int = Field(1000, ge=100)
    """Draws (challengeR's examples, Wiesenfarth et al. 2021: 1000)."""
    seed: int = Field(0, ge=0)
    """Seed of the draws."""


def _as_section(ranks: object) -> object:
    return ({} if ranks else None) if isinstance(ranks, bool) else ranks


RanksOrSwitch = Annotated[
    Ranks | None, BeforeValidator(_as_section, json_schema_input_type=Ranks | bool | None)
]
"""`Ranks`, or whether to report them."""


class RanksOptions(Options):
    """What `ranks` needs of a study."""

    name: str
    """Key of the table."""
    table: Table
    """Its rows, columns and metrics, and the row that it compares with."""
    method_labels: dict[str, str]
    """Names of its methods, as printed."""
    ranks: Ranks = Ranks()
    """How ranks are drawn again."""
    seed: FirstSeed = None
    """Seed of the scores that name none, where methods were trained with several."""


class FigureOptions(Options):
    """Look of the figures."""

    dpi: int = Field(110, ge=50, le=600)
    """Dots per inch."""
    colours: tuple[Colour, ...] = Field(
        ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#44AA99", "#882255", "#56B4E9"),
        min_length=3,
    )
    """Colours of methods and structures; dashes and shapes tell apart what looks alike to some."""
    window_hu: tuple[float, float] = (40.0, 400.0)
    """Centre and width of the grey scale of CT (HU)."""


class Overlays(Options):
    """Cases that the report shows on a click."""

    size_px: int = Field(256, ge=64, le=1024)
    """Longer side of a picture (px)."""
    cases_per_benchmark: int = Field(100, ge=1)
    """Most cases of a benchmark that are shown, spread from worst to best by DSC. A slice takes
    some 25 kB of the report, which is to stay below 15 MB."""
    slices_per_case: int = Field(12, ge=1, le=15)
    """Most slices of the best, the median and the worst case; the others show one."""


class OverlayOptions(Overlays):
    """What `overlays` needs of a study."""

    window_hu: tuple[float, float]
    """Centre and width of the grey scale of CT (HU)."""
    colours: tuple[Colour, ...]
    """Colours of structures."""


class WorstOptions(Options):
    """What `worst_cases` needs of a study."""

    worst: int = Field(3, ge=1)
    """Cases of each method."""
    size_px: int = Field(256, ge=64, le=1024)
    """Longer side of a picture (px)."""
    window_hu: tuple[float, float]
    """Centre and width of the grey scale of CT (HU)."""
    colours: tuple[Colour, ...]
    """Colours of structures."""


class PlotOptions(Options):
    """What `figures` needs of a study."""

    look: FigureOptions
    """Look of the figures."""
    method_labels: dict[str, str] = {}
    """Names of methods, as printed; a key without one is printed itself, here and below."""
    benchmark_labels: dict[str, str] = {}
    """Names of benchmarks, as printed."""
    source_labels: dict[str, str] = {}
    """Names of stages, of published weights and of a random initialisation, as printed."""
    seed: FirstSeed = None
    """Seed whose trainings are drawn, where there are several."""


class Features(Options):
    """Which dense features of the stages of pretraining are shown (paper, Figs. 1, 3 and 4)."""

    images: int = Field(3, ge=1, le=12)
    """Validation cases of `probe.benchmark`, spread evenly over those of the first of `folds`; the
    one with most structures on its slice is shown at all sizes and with marked points."""
    sizes_px: tuple[Annotated[int, Field(ge=16, le=2048)], ...] = Field(
        (512, 1024, 2048), min_length=1
    )
    """Sides of the input (px; paper: up to 2048), to the closest multiple of a patch. Stages are
    compared at the largest; the last one and the one before it at all."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where features are computed; auto takes a GPU if there is one."""


class FeatureOptions(Options):
    """What `feature_figures` needs of a study."""

    models: tuple[str, ...]
    """Names of the checkpoints, as printed, along the chain."""
    spacing_mm: float = Field(gt=0)
    """In-plane spacing that slices are resampled to before they are resized (mm)."""
    fold: int = Field(ge=0)
    """Fold whose validation cases are shown."""
    features: Features
    """What is shown."""
    figures: FigureOptions
    """Look of the figures."""


class CardOptions(Options):
    """What `card` needs of a study."""

    figures: FigureOptions
    """Look of the figures."""
    sizes_px: tuple[int, ...]
    """Sizes of the slices, whose disk use is added up."""
    corpus: str = names.PAPER
    """Name of the slices, as printed."""
    meanings: dict[str, str] = Field({}, exclude_if=lambda value: not value)
    """What variants hold that the study describes itself, as printed."""


class Attribution(Options):
    """Data or weights that went into a model, and their terms."""

    name: str
    """Key in the configuration."""
    title: str
    """Name, as its owners write it."""
    home: str
    """Its owners' page."""
    licence: str
    """Its licence as far as known."""
    phantom: bool = False
    """Whether it is made by this project's code."""


class ModelCardOptions(Options):
    """What `model_card` needs of one run."""

    method: str
    """Name of the method, as printed."""
    benchmark: str
    """Name of the benchmark, as printed."""
    data: Attribution
    """What it was finetuned on."""
    variant: str
    """Variant of CT-3M that its weights have seen: `paper`, `leak-free`, `none`, or another one."""
    variant_meaning: str = Field("", exclude_if=lambda value: not value)
    """What another variant holds, as printed."""
    stages: tuple[str, ...]
    """Stages of pretraining that its weights have gone through."""
    pretraining: tuple[Attribution, ...]
    """What these stages were shown of CT."""
    weights: tuple[Attribution, ...]
    """Published weights that it derives from."""
    tolerance_mm: float
    """Tolerance of the NSD (mm), as printed."""
    tolerances_mm: dict[str, float] = {}
    """Structure -> its own tolerance in protocol `area` (mm), as printed."""
    seeds: tuple[int, ...] = Field((), exclude_if=lambda seeds: not seeds)
    """Seeds of all trainings of the method on the benchmark, where there are several."""


class Prices(Options):
    """What time costs, for the report to say what the study did."""

    currency: str = "USD"
    """In which the next two are."""
    gpu_hour: float | None = Field(None, ge=0)
    """Of a GPU, with the share of the machine around it; null says nothing."""
    core_hour: float | None = Field(None, ge=0)
    """Of a core, for jobs without a GPU; null says nothing."""


class ReportOptions(Options):
    """What `report` needs of a study."""

    title: str
    """Heading."""
    notes: tuple[str, ...] = ()
    """What a reader must know first."""
    tables: tuple[TableOptions, ...] = ()
    """The tables, in order."""
    methods: dict[str, str] = {}
    """Names of the methods, as printed."""
    order: tuple[str, ...] = ()
    """Keys of the methods, in the order of the tables' rows."""
    benchmarks: dict[str, str] = {}
    """Names of the benchmarks, as printed."""
    stages: dict[str, str] = {}
    """Names of published weights and of the stages of pretraining, as printed."""
    corpus: str = names.PAPER
    """Name of the slices that were pretrained on, as printed."""
    datasets: dict[str, str] = {}
    """Titles of its datasets, as their owners write them."""
    benchmark_datasets: dict[str, str] = {}
    """Benchmark -> key of the dataset that its cases are of."""
    prices: Prices = Prices()
    """What time costs."""
    seed: FirstSeed = None
    """Seed whose trainings are drawn, where there are several."""
    configuration: dict[str, Any] = {}
    """The whole configuration, for those who want to repeat the study."""


class ProvenanceOptions(Options):
    """What `provenance` needs of a study."""

    title: str
    """Its title."""


class TransferPair(Options):
    """Two benchmarks of the table of transfer."""

    train: str
    """Key of the benchmark that the models were trained on."""
    test: str
    """Key of the one that is tested."""
    train_label: str
    """Its name, as printed."""
    test_label: str
    """Its name, as printed."""
    train_dataset: str
    """Key of the dataset that its cases are of."""
    test_dataset: str
    """Key of the dataset that its cases are of."""
    train_channel: str
    """nnU-Net's name of its channel, which chose the normalisation."""
    test_channel: str
    """The same, of the models that were trained on the tested one."""
    structures: dict[str, tuple[str, ...]]
    """Structure of `test` that is scored -> those that make it up in `train`; in any order."""
    train_structures: tuple[str, ...]
    """All that count in `train`."""
    test_structures: tuple[str, ...]
    """All that count in `test`."""
    in_domain: bool = True
    """Whether the methods were trained on `test` as well."""
    modalities: tuple[Literal["CT", "MR"], ...] = ("CT",)
    """Which cases count."""
    test_modalities: tuple[Literal["CT", "MR"], ...] = ("CT",)
    """Those that the tested benchmark has."""
    mr_cases: str | None = None
    """Pattern of the tested cases that are MR; all others are CT."""
    tolerances_mm: dict[str, float] = {}
    """Structure -> its own tolerance in protocol `area` (mm), as printed."""
    searched: bool = False
    """Whether copies were searched for in the datasets of both."""

    @property
    def scored(self) -> list[str]:
        """The structures that are scored, in the order of `test`."""
        return [name for name in self.test_structures if name in self.structures]


class TransferOptions(Options):
    """What `transfer` needs of a study."""

    title: str
    """Heading."""
    pairs: tuple[TransferPair, ...] = Field(min_length=1)
    """Pairs of benchmarks, in order."""
    methods: tuple[str, ...] = Field(min_length=1)
    """Methods, in order."""
    method_labels: dict[str, str]
    """Their names, as printed."""
    method_data: dict[str, Literal["paper", "leak-free", "none"]]
    """Variant of CT-3M that their weights have seen, as in `TableOptions`."""
    metrics: tuple[Literal["DSC", "NSD"], ...] = ("DSC", "NSD")
    """What is shown, in %."""
    protocol: Literal["paper", "area"] = "paper"
    """How it is counted; the CSV holds both."""
    compare_with: str | None = None
    """Method that the others are compared with."""
    tolerance_mm: float
    """Tolerance of the NSD (mm), as printed."""
    corpus: str = names.PAPER
    """Name of the slices that were pretrained on, as printed."""
