"""What each job of a study takes, by the figures of `cost.yaml` and the study's own records."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import ValidationError

from meddino.cli.disk import PASSING, Disk, vit
from meddino.cli.snakemake import Job
from meddino.core import layers, records
from meddino.core.errors import MeddinoError
from meddino.core.explain import explain
from meddino.core.options import Options
from meddino.finetune.options import Training
from meddino.finetune.presets import SLICES, VOLUMES
from meddino.models.architectures import named
from meddino.pretrain.options import StageOptions
from meddino.study.jobs.pretrain import probe_inputs
from meddino.study.jobs.transfer import tests_all
from meddino.study.model import Study
from meddino.study.targets import searched_datasets

FIGURES = Path(__file__).with_name("cost.yaml")
ON_GPU = {"pretrain", "finetune", "predict", "confidence"}
"""Rules that hold a GPU also where a profile, such as that of one machine, does not say so."""
BACKWARD = 3
"""Operations of a training step over those of a forward pass."""
TIMED_ON = "A100"
"""GPU of the published times of training."""
MARGIN = 4
"""Time that a job asks for over what it is expected to take: file systems and cores differ."""
LEAST_MINUTES = 10
"""Time that the shortest job asks for."""
Basis = Literal["measured", "published", "derived", "assumed"]
Unit = Literal[
    "job", "GB", "volume", "slice", "case slice", "megapixel", "validation slice",
    "validation case", "probed slice", "GPU second",
]  # fmt: skip


class Figure(Options):
    """A number and where it is from."""

    value: float
    """The number."""
    basis: Basis
    """How it is known."""
    source: str
    """Who says so."""


class Rate(Options):
    """What a rule takes for a unit of its work."""

    per: Unit
    """The unit."""
    seconds: float
    """Seconds of one core, or of a GPU that the job holds."""
    basis: Basis
    """How it is known."""
    source: str
    """Who says so."""
    workers: Literal["one", "planning", "cores"] = "one"
    """What shares it: one core, `planning.num_processes`, or all cores of the job."""


class Assumptions(Options):
    """What figures of several rules rest on."""

    pretraining_mfu: Figure
    """Share of the GPU's peak in pretraining."""
    finetuning_mfu: Figure
    """Share of the GPU's peak in finetuning."""
    slices_per_volume: Figure
    """Slices of a volume, on average."""
    patch_px: Figure
    """Side of an input that nnU-Net plans (px)."""
    batch_size: Figure
    """Batch that nnU-Net plans (slices)."""
    gb_per_volume: Figure
    """A compressed volume (GB)."""
    bytes_per_pixel_of_shards: Figure
    """A pixel of a shard."""
    bytes_per_pixel_preprocessed: Figure
    """A pixel that nnU-Net has preprocessed, with its label."""
    gb_per_prediction: Figure
    """The labels of a predicted volume (GB)."""


class Figures(Options):
    """The file `cost.yaml`."""

    gpu: str
    """GPU whose peak counts."""
    assumptions: Assumptions
    """What figures rest on."""
    archives_gb: dict[str, float]
    """Downloads by dataset (GB)."""
    labelled: dict[str, int]
    """Labelled cases by dataset."""
    unet_hours: dict[str, Figure]
    """Hours that nnU-Net's `3d_fullres` (`default`) and its ResEnc presets train on an A100."""
    rules: dict[str, Rate]
    """What rules take."""

    @classmethod
    def read(cls, path: Path = FIGURES) -> "Figures":
        """Read the figures.

        Raises:
            MeddinoError: a key or value does not fit.
        """
        try:
            return cls.model_validate(layers.read([path]))
        except ValidationError as error:
            raise MeddinoError(explain(error, str(path), cls)) from error

    def key(self, rule: str) -> str:
        """The rule whose rate holds for one that is named after it, as `pretrain_stage1` is."""
        return rule if rule in self.rules else rule.split("_")[0]


class Effort(NamedTuple):
    """What jobs take; core and GPU seconds count what jobs hold, busy or not."""

    wall_s: float = 0.0
    core_s: float = 0.0
    gpu_s: float = 0.0
    disk_gb: float = 0.0

    def plus(self, other: "Effort") -> "Effort":
        """Both one after the other."""
        return Effort(*(a + b for a, b in zip(self, other, strict=True)))


def together(efforts: Iterable[Effort]) -> Effort:
    """All of them one after the other."""
    return reduce(Effort.plus, efforts, Effort())


@dataclass
class Estimator:
    """Works out what a job of a study takes."""

    study: Study
    figures: Figures
    peak_flops: float = math.nan
    """Of the GPU; only jobs that train need it."""
    corrections: dict[str, float] = field(default_factory=dict)
    """Rule -> measured over estimated time of its jobs that have run."""

    def effort(self, job: Job) -> Effort:
        """What one job takes."""
        key = self.figures.key(job.rule)
        if key not in self.figures.rules:
            return Effort()
        rate = self.figures.rules[key]
        gpus, cores = devices(job, key), cores_of(job)
        workers = {
            "one": gpus if rate.per == "GPU second" else 1,
            "planning": min(cores, self.study.planning.num_processes),
            "cores": cores,
        }[rate.workers]
        wall = self.units(job, rate.per) * rate.seconds / workers * self.corrections.get(key, 1.0)
        disk = self.disk
        effort = Effort(wall, wall * cores, wall * gpus, disk.kept_gb(job, key))
        if not job.rule.endswith(PASSING):
            return effort
        # The same job fetches what it reads.
        dataset, share = disk.passing(job)
        download = self.disk.archive_gb(dataset) * share * self.figures.rules["fetch"].seconds
        return effort.plus(Effort(download, download * cores))

    def minutes(self, rule: str, wildcards: dict[str, str], threads: int) -> int:
        """Time that a job is to ask a scheduler for: several times what it is expected to take."""
        wall = self.effort(Job(rule, wildcards=wildcards, threads=threads)).wall_s
        return max(LEAST_MINUTES, math.ceil(MARGIN * wall / 60))

    def correct(self, done: Iterable[Job]) -> Counter[str]:
        """Correct estimates by the records of jobs that have run; return their number by rule."""
        counts: Counter[str] = Counter()
        measured: defaultdict[str, float] = defaultdict(float)
        estimated: defaultdict[str, float] = defaultdict(float)
        for job in done:
            path = records.record_path(Path(job.output[0])) if job.output else None
            wall = self.effort(job).wall_s
            if path is not None and path.exists() and wall:
                key = self.figures.key(job.rule)
                counts[key] += 1
                measured[key] += records.read(path)["wall_s"]
                estimated[key] += wall
        self.corrections = {key: measured[key] / estimated[key] for key in counts}
        return counts

    # ---- how much there is to do ----------------------------------------------------------------

    def units(self, job: Job, unit: Unit) -> float:
        """How much of a unit a job has to do."""
        wildcards = job.wildcards
        match unit:
            case "job":
                return 1
            case "GB":
                return self.disk.archive_gb(wildcards["dataset"])
            case "volume":
                return self.volumes(wildcards["dataset"])
            case "slice":
                return self.slices(wildcards.get("dataset"))
            case "case slice":
                return self.case_slices(wildcards["benchmark"])
            case "megapixel":
                px, _ = self._input(wildcards["configuration"])
                return self.case_slices(wildcards["benchmark"]) * px**2 / 1e6
            case "validation slice":
                return self.case_slices(wildcards["benchmark"]) * self.share(wildcards)
            case "validation case":
                return self.cases(wildcards["benchmark"]) * self.share(wildcards)
            case "probed slice":
                probe = self.study.probe
                checkpoints = len(probe_inputs(self.study, wildcards["source"])["checkpoints"]) or 1
                return self.cases(probe.benchmark) * probe.slices_per_case * checkpoints
            case "GPU second":
                return self._gpu_seconds(job)

    def slices(self, dataset: str | None) -> float:
        """Slices of one chunk of a dataset, or of all that is curated."""
        if dataset is None:
            return sum(self._slices_of(name) for name in searched_datasets(self.study))
        return self._slices_of(dataset) / self.study.chunks(dataset)

    def _slices_of(self, dataset: str) -> float:
        return self.volumes(dataset) * self.depth(dataset)

    def depth(self, dataset: str) -> float:
        """Slices of a volume."""
        phantom = self.study.phantom.get(dataset)
        return phantom.slices if phantom else self.figures.assumptions.slices_per_volume.value

    def volumes(self, dataset: str) -> int:
        """Volumes of a dataset; one without a number counts as a single chunk."""
        return self.study.dataset(dataset).volumes or self.study.ct3m.volumes_per_chunk

    def cases(self, benchmark: str) -> int:
        """Labelled cases of a benchmark."""
        dataset = self.study.benchmarks[benchmark].dataset
        labelled = {} if dataset in self.study.phantom else self.figures.labelled
        return labelled.get(dataset) or self.volumes(dataset)

    def case_slices(self, benchmark: str) -> float:
        """Slices of all labelled cases."""
        return self.cases(benchmark) * self.depth(self.study.benchmarks[benchmark].dataset)

    def share(self, wildcards: dict[str, str]) -> float:
        """Share of a benchmark's cases that a job segments or scores: a fold's, or all."""
        benchmark = wildcards["benchmark"]
        all_cases = "origin" in wildcards and tests_all(self.study, wildcards["origin"], benchmark)
        return 1.0 if all_cases else 1 / self.folds(benchmark)

    def folds(self, benchmark: str) -> int:
        """Folds of a benchmark."""
        return self.study.benchmarks[benchmark].folds

    def _gpu_seconds(self, job: Job) -> float:
        """Seconds of one GPU: operations of training over the share of its peak that is reached."""
        assumed = self.figures.assumptions
        if "method" in job.wildcards:
            published = self._published_seconds(job.wildcards["method"])
            if published is not None:
                return published
            flops, share = self._finetuning_flops(job.wildcards["method"]), assumed.finetuning_mfu
        else:
            stage = self.study.pretrain.stages[job.rule.removeprefix("pretrain_")]
            flops, share = self._pretraining_flops(stage), assumed.pretraining_mfu
        return flops / (self.peak_flops * share.value)

    def _pretraining_flops(self, stage: StageOptions) -> float:
        from meddino.pretrain.meter import step_flops  # loads torch

        backbone = named(self.study.pretrain.backbone)
        total = sum(resolution.ratio for resolution in stage.resolutions)
        slice_ = sum(
            step_flops(backbone, stage, resolution) * resolution.ratio / total
            for resolution in stage.resolutions
        )
        return slice_ * stage.batch_size * stage.iterations

    def _finetuning_flops(self, method: str) -> float:
        from meddino.pretrain.meter import forward_flops

        options, steps = self.study.methods[method], _steps(self.study.training)
        px, batch = self._input(options.configuration)
        forward = forward_flops(vit(options.backbone), px)
        return forward * BACKWARD * batch * steps

    def _published_seconds(self, method: str) -> float | None:
        """Seconds of a method that nnU-Net's developers have timed; None of the paper's methods.

        On a GPU with a lower peak than theirs it takes longer in proportion. One with a higher peak
        is not credited for it, since these networks wait for memory as much as for arithmetic.
        """
        from meddino.pretrain.meter import PEAK_FLOPS  # loads torch

        options = self.study.methods[method]
        if options.in_paper:
            return None
        hours = self.figures.unet_hours[options.preset or "default"].value
        share = _steps(self.study.training) / _steps(Training())
        return hours * 3600 * share * max(1.0, PEAK_FLOPS[TIMED_ON] / self.peak_flops)

    def _input(self, configuration: str) -> tuple[int, int]:
        """Side (px) and batch of a configuration, as far as they are known before nnU-Net plans."""
        assumed, planning = self.figures.assumptions, self.study.planning
        px = planning.patch_px or int(assumed.patch_px.value)
        batch = planning.batch_size or int(assumed.batch_size.value)
        if configuration in (SLICES, VOLUMES):
            return px, batch
        further = planning.configurations[configuration]
        return further.patch_px, further.batch_size or batch

    @property
    def disk(self) -> Disk:
        """What jobs leave on the disk."""
        return Disk(self)


def _steps(training: Training) -> float:
    """Steps of a training; one that validates has no backward pass."""
    return training.epochs * (training.iterations_per_epoch + training.val_iterations / BACKWARD)


def _sbatch(job: Job) -> dict[str, str]:
    """Flags that a job hands to sbatch by itself."""
    return dict(re.findall(r"--([a-z-]+)[= ]([^\s-]\S*)", job.resources.get("sbatch", "")))


def devices(job: Job, key: str) -> int:
    """GPUs that a job holds."""
    flags = _sbatch(job)
    if "gpus-per-node" in flags:
        return int(flags.get("nodes", "1")) * int(flags["gpus-per-node"].split(":")[-1])
    gpus = job.resources.get("gpu", "")
    return int(gpus) if gpus.isdecimal() else int(key in ON_GPU)


def cores_of(job: Job) -> int:
    """Cores that a job holds."""
    flags = _sbatch(job)
    if "cpus-per-task" not in flags:
        return job.threads
    return devices(job, "") * int(flags["cpus-per-task"]) or int(flags["cpus-per-task"])
