"""What the jobs of a study leave on the disk, and what is there at most while they run.

The peak is a bound that holds in whatever order jobs run: all that stays, the largest of what comes
and goes one at a time, and every archive beside what comes out of it.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from meddino.cli.snakemake import Job
from meddino.models.architectures import ARCHITECTURES, Architecture, named
from meddino.pretrain.options import StageOptions

if TYPE_CHECKING:
    from meddino.cli.estimate import Estimator

PASSING = "_and_free"
"""How the names of rules end whose jobs free what they fetch."""
VOXEL_GB, MATRIX_PX = 2e-9, 512
"""A voxel as NIfTI and DICOM store CT, in GB, and the matrix of a scanner."""
PACKED = (".nii.gz", ".nrrd", ".mha")
"""Volumes that are compressed already, so that unpacking an archive makes them no larger."""
BESIDE = 4
"""Small files of a job: its log, its times, its record, and Snakemake's own."""
PER_CASE = {"convert": 2, "preprocess": 3, "predict": 1}
"""Files of a case: image and label; nnU-Net's data, labels and properties; labels."""


class Space(NamedTuple):
    """Gigabytes and files."""

    gb: float = 0.0
    files: float = 0.0

    def plus(self, other: "Space") -> "Space":
        """Both beside each other."""
        return Space(self.gb + other.gb, self.files + other.files)


def beside(spaces: Iterable[Space]) -> Space:
    """All of them beside each other."""
    total = Space()
    for space in spaces:
        total = total.plus(space)
    return total


def largest(spaces: Iterable[Space]) -> Space:
    """The most gigabytes and the most files of any of them."""
    listed = [Space(), *spaces]
    return Space(max(s.gb for s in listed), max(s.files for s in listed))


class Usage(NamedTuple):
    """What is there at most, and at the end."""

    peak: Space
    final: Space


class Disk:
    """Works out what jobs leave on the disk."""

    def __init__(self, estimator: "Estimator") -> None:
        """Take the study and the figures of an estimator, and its counts of cases and slices."""
        self._of, self._study = estimator, estimator.study
        self._assumed, self._figures = estimator.figures.assumptions, estimator.figures

    def usage(self, jobs: Iterable[Job]) -> Usage:
        """What is on the disk at most while jobs run, in whatever order, and once they are done."""
        stays, arrays, pieces, archives = [], [], [], []
        for job in jobs:
            key = self._figures.key(job.rule)
            made = Space(self.kept_gb(job, key), self._files(job, key))
            if key == "preprocess" and not self._study.keep_preprocessed:
                arrays.append(made)
                made = Space(0.0, BESIDE)
            elif key == "fetch":
                archives.append(Space(self.archive_gb(job.wildcards["dataset"]), 1))
            if job.rule.endswith(PASSING):
                dataset, share = self.passing(job)
                archive = Space(share * self.archive_gb(dataset), 1)
                pieces.append(archive.plus(self._unpacked(dataset, share)))
            stays.append(made)
        final = beside(stays)
        coming = largest(arrays).plus(largest(pieces)).plus(beside(archives))
        return Usage(final.plus(coming), final)

    def passing(self, job: Job) -> tuple[str, float]:
        """The dataset that a job fetches, uses and frees, and which share of it."""
        if "benchmark" in job.wildcards:
            return self._study.benchmarks[job.wildcards["benchmark"]].dataset, 1.0
        dataset = job.wildcards["dataset"]
        return dataset, 1 / self._study.chunks(dataset)

    def archive_gb(self, dataset: str) -> float:
        """A download; none of a folder of yours, or of phantoms."""
        options = self._study.dataset(dataset)
        if options.folder is not None or dataset in self._study.phantom:
            return 0.0
        volume_gb = self._assumed.gb_per_volume.value
        return self._figures.archives_gb.get(dataset, self._of.volumes(dataset) * volume_gb)

    def kept_gb(self, job: Job, key: str) -> float:
        """What a job leaves when it ends."""
        wildcards, assumed = job.wildcards, self._assumed
        match key:
            case "fetch":
                return self._unpacked(wildcards["dataset"], 1.0).gb
            case "slices":
                pixels = sum(px**2 for px in self._study.ct3m.sizes_px)
                slice_gb = pixels * assumed.bytes_per_pixel_of_shards.value / 1e9
                return self._of.slices(wildcards["dataset"]) * slice_gb
            case "convert":
                return self._of.cases(wildcards["benchmark"]) * assumed.gb_per_volume.value
            case "preprocess":
                megapixel_gb = assumed.bytes_per_pixel_preprocessed.value / 1e3
                return self._of.units(job, "megapixel") * megapixel_gb
            case "pretrain":
                stage = self._study.pretrain.stages[job.rule.removeprefix("pretrain_")]
                return len(stage.snapshots) * self._snapshot_gb(stage)
            case "finetune":
                backbone = self._study.methods[wildcards["method"]].backbone
                return 4 * vit(backbone).weights / 1e9
            case "predict":
                return self._predicted(wildcards) * assumed.gb_per_prediction.value
        return 0.0

    def _unpacked(self, dataset: str, share: float) -> Space:
        """What comes out of a download; volumes that only the archive packs become larger."""
        entry, volumes = self._study.dataset(dataset), self._of.volumes(dataset)
        size_gb = self.archive_gb(dataset)
        slices = volumes * self._of.depth(dataset)
        if size_gb and not any(pattern.endswith(PACKED) for pattern in entry.images):
            size_gb = max(size_gb, slices * MATRIX_PX**2 * VOXEL_GB)
        files = slices if any(p.endswith(".dcm") for p in entry.images) else volumes
        if entry.labels:
            files += self._figures.labelled.get(dataset, volumes)
        return Space(share * size_gb, share * files * (entry.folder is None))

    def _predicted(self, wildcards: dict[str, str]) -> float:
        return self._of.cases(wildcards["benchmark"]) * self._of.share(wildcards)

    def _files(self, job: Job, key: str) -> float:
        """Files that a job leaves when it ends."""
        files = max(1, len(job.output)) + BESIDE
        if key in PER_CASE:
            benchmark = job.wildcards["benchmark"]
            cases = (
                self._predicted(job.wildcards) if key == "predict" else self._of.cases(benchmark)
            )
            return files + PER_CASE[key] * cases
        if key == "fetch":
            return files + self._unpacked(job.wildcards["dataset"], 1.0).files
        return files

    def _snapshot_gb(self, stage: StageOptions) -> float:
        """Student and teacher with both heads, in fp32."""
        backbone = named(self._study.pretrain.backbone)
        heads = sum(head.weights(backbone.embed_dim) for head in (stage.dino_head, stage.ibot_head))
        return 2 * 4 * (backbone.weights + heads) / 1e9


def vit(name: str | None) -> Architecture:
    """One of our ViTs; any other network counts as a ViT-B."""
    return ARCHITECTURES.get(name or "", ARCHITECTURES["vitb16"])
