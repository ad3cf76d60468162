"""Options of the curation of CT-3M: volumes to axial slices to shards to an index."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from meddino.core.options import Options, absent
from meddino.datasets.options import FolderLayout

MAX_CHUNKS = 64
"""Jobs that cut a dataset; chunks of more volumes than `volumes_per_chunk` keep to it."""


class Curation(Options):
    """How volumes become slices (paper, section 3.2)."""

    datasets: tuple[str, ...] = Field(min_length=1)
    """The datasets that CT-3M is made of."""
    spacing_mm: float = Field(0.45, ge=0.1, le=10)
    """In-plane spacing that slices are resampled to first, in mm (3.2)."""
    sizes_px: tuple[Annotated[int, Field(ge=16, le=2048)], ...] = Field((256, 512), min_length=1)
    """Side of the square that slices are then resized to, in pixels: 256 (3.2), and 512 for the
    crops of stages 2 and 3."""
    hu_range: tuple[
        Annotated[int, Field(ge=-32768, le=32767)], Annotated[int, Field(ge=-32768, le=32767)]
    ] = (-1024, 3071)
    """Lowest and highest value kept, in HU: a 12-bit scanner's; padding falls on the lower."""
    min_body_fraction: float = Field(0.02, ge=0, lt=1)
    """Slices with a smaller fraction of pixels above -500 HU show air only and are dropped."""
    min_slices: int = Field(8, ge=1)
    """Volumes with fewer axial slices are quarantined: localisers and fragments."""
    max_oblique_deg: float = Field(30.0, ge=0, lt=45)
    """Volumes whose slices are tilted further from the axial plane are quarantined, in degrees."""
    volumes_per_chunk: int = Field(1024, ge=1)
    """Volumes that one job reads; datasets are cut into so many chunks, but 64 at most."""
    modalities: tuple[Literal["CT", "MR"], ...] = Field(("CT",), min_length=1)
    """Modalities that are kept."""
    row_group_rows: int = Field(32, ge=1, le=4096)
    """Slices that are compressed, and later read, together."""
    compression_level: int = Field(1, ge=1, le=22)
    """Zstandard level of the shards; higher ones gain less than 1 % of the size."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.hu_range[0] >= self.hu_range[1]:
            raise ValueError("hu_range: the lower end must be below the upper one")
        for name in ("datasets", "sizes_px", "modalities"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name}: names a value twice")
        return self

    def chunks(self, volumes: int | None) -> int:
        """Into how many chunks a dataset of `volumes` images (None: unknown) is cut."""
        return 1 if volumes is None else min(MAX_CHUNKS, -(-volumes // self.volumes_per_chunk))


class Duplicates(Options):
    """When two volumes count as copies of each other."""

    min_correlation: float = Field(0.7, gt=0, lt=1)
    """Correlation of the detail of two copies, laid over each other, where it is nearly least.
    Copies have 0.8 to 1, two scans of a patient who breathed in between up to 0.6, other patients
    less than 0.2."""
    min_slices: int = Field(4, ge=1)
    """Slices that two volumes must share."""


# YAML reads a bare `off` as false.
Dedupe = Annotated[
    Literal["keep-first", "off"], BeforeValidator(lambda value: "off" if value is False else value)
]


RESERVED = ("all", "ct3m", "leakfree", "leaves", "none", "paper")
"""Names that mean something else where variants are named."""
# A part of the names of files, stages and methods.
VariantName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_]*$")]


class Variant(Options):
    """CT-3M with other data in it, for an ablation; what is not said is as in `ct3m`."""

    without: tuple[str, ...] = ()
    """Datasets that are left out. Copies of their volumes in other datasets stay."""
    dedupe: Dedupe | None = None
    """Whether slices that repeat earlier ones stay out (keep-first) or not (off); null as
    `ct3m.dedupe`."""
    percent: int = Field(100, ge=1, le=100)
    """Share of the volumes of each dataset (%), drawn at random and rounded up to a whole volume. A
    smaller share lies within a larger one."""
    seed: int = Field(0, ge=0)
    """Seed of the draw."""

    def meaning(self) -> str:
        """What it holds, in a few words."""
        parts = [f"without {', '.join(self.without)}"] if self.without else []
        if self.dedupe is not None:
            copies = "left out but the first" if self.dedupe == "keep-first" else "kept"
            parts.append(f"copies of slices {copies}")
        if self.percent < 100:
            parts.append(f"{self.percent} % of the volumes of each data set (seed {self.seed})")
        return "; ".join(parts)


class CT3M(Curation):
    """The pretraining set (paper, section 3.2)."""

    duplicates: Duplicates = Duplicates()
    """When two volumes count as copies of each other."""
    dedupe: Dedupe = "off"
    """Whether slices that repeat those of a data set named earlier in `datasets` stay out of the
    index (keep-first) or are kept (off). The paper removes nothing."""
    variants: dict[VariantName, Variant] = {}
    """Variants of the data, each with a chain of its own: every stage on `ct3m` has a twin
    `<stage>_<variant>`, and every method that starts from one a twin `<method>_<variant>`. What
    tables name of them runs (docs/data-ablations.md)."""

    @model_validator(mode="after")
    def _check_variants(self) -> Self:
        for name, variant in self.variants.items():
            key = f"variants.{name}"
            if name in RESERVED:
                raise ValueError(f"{key}: the name is taken; choose another one")
            if unknown := sorted(set(variant.without) - set(self.datasets)):
                names = ", ".join(self.datasets)
                raise ValueError(f"{key}.without: {', '.join(unknown)} not among {names}")
            kept, dedupe, percent = self.held_by(name)
            if not kept:
                raise ValueError(f"{key}.without: leaves no dataset")
            if (kept, dedupe, percent) == (self.datasets, self.dedupe, 100):
                raise ValueError(f"{key}: changes nothing; say `without`, `dedupe` or `percent`")
        return self

    def held_by(self, variant: str) -> tuple[tuple[str, ...], Literal["keep-first", "off"], int]:
        """Datasets of a variant, whether copies stay out, and its share of the volumes (%)."""
        own = self.variants[variant]
        kept = tuple(name for name in self.datasets if name not in own.without)
        return kept, own.dedupe or self.dedupe, own.percent

    def curation(self, dataset: str) -> Curation:
        """What cutting one dataset depends on: the others, and their copies, do not matter."""
        fields = self.model_dump(include=set(Curation.model_fields))
        return Curation(**{**fields, "datasets": (dataset,), "volumes_per_chunk": 1})


class SliceOptions(Options):
    """One chunk of one dataset."""

    dataset_name: str = Field(min_length=1)
    """Key of the dataset."""
    dataset: FolderLayout
    """How its folder is read."""
    chunk: int = Field(ge=0)
    """Which chunk: cases chunk, chunk + chunks, chunk + 2 chunks, ..."""
    chunks: int = Field(ge=1)
    """Into how many chunks the dataset is cut."""
    alone: bool = Field(False, exclude_if=lambda value: not value)
    """Whether the folder holds the cases of this chunk alone: a piece of the dataset."""
    curation: Curation
    """How volumes become slices; `datasets` and `volumes_per_chunk` do not matter here."""

    @model_validator(mode="after")
    def _chunk_exists(self) -> Self:
        if self.chunk >= self.chunks:
            raise ValueError(f"chunk {self.chunk}: there are only {self.chunks}, counted from 0")
        return self


class DuplicatesOptions(Options):
    """Where to look for copies, and what counts as one."""

    size_px: int = Field(ge=16, le=2048)
    """Side of the slices that are compared, in pixels."""
    duplicates: Duplicates = Duplicates()
    """When two volumes count as copies of each other."""


class IndexOptions(Options):
    """Which index, and what stays out of it."""

    size_px: int = Field(ge=16, le=2048)
    """Side of the slices, in pixels."""
    dedupe: Dedupe = "off"
    """Whether slices that repeat earlier ones stay out."""
    datasets: tuple[str, ...] | None = None
    """Datasets of the index, those kept in preference first; None: all, by name."""
    folds: tuple[int, ...] = Field((0,), min_length=1)
    """Folds whose validation cases stay out, where splits are given."""
    benchmarks: dict[str, str] = {}
    """Dataset of each benchmark whose validation cases stay out."""
    variant: str | None = Field(None, exclude_if=absent)
    """Name of the variant of `ct3m.variants`, for the index's card; None: of none of these."""
    percent: int = Field(100, ge=1, le=100, exclude_if=lambda value: value == 100)
    """Share of the volumes of each dataset that is drawn (%)."""
    seed: int = Field(0, ge=0, exclude_if=lambda value: value == 0)
    """Seed of the draw."""
