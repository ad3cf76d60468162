"""Options of the study of failures (the workflow loads this module: nothing heavy here)."""

import re
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from meddino.core.options import Options
from meddino.finetune.options import Prediction


def _rising(edges: tuple[float, ...]) -> tuple[float, ...]:
    """Edges of bins, each above the one before it."""
    if list(edges) != sorted(set(edges)):
        raise ValueError("the edges of bins must rise")
    return edges


Edges = Annotated[tuple[Annotated[float, Field(gt=0)], ...], AfterValidator(_rising)]


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from error
    return text


Pattern = Annotated[str, AfterValidator(_pattern)]


class Metadata(Options):
    """A CSV file of one row for each case, such as one that a dataset's owners publish."""

    file: str
    """Its path."""
    case: str
    """Name of a row's case, from its columns: `amos_{amos_id:04d}` for AMOS22."""
    columns: tuple[str, ...] = Field(min_length=1)
    """Columns that cases are grouped by, such as `Manufacturer`."""


class Failures(Options):
    """Where segmentations fail; absent, nothing of it runs."""

    methods: tuple[str, ...] = ()
    """Methods that are looked at; empty: all of the tables."""
    benchmarks: tuple[str, ...] = ()
    """Benchmarks that are looked at; empty: all of the tables."""
    lesions: dict[str, tuple[str, ...]] = {}
    """Benchmark -> structures that are counted lesion by lesion, such as `tumour`."""
    iou: float = Field(0.1, gt=0, le=1)
    """Least intersection over union of a lesion and what is predicted for it (nnDetection: 0.1 in
    3D; the script of LiTS: 0.5). Any overlap, the criterion of autoPET, is counted beside it."""
    lesion_edges_mm: Edges = (10.0, 20.0, 40.0)
    """Edges between sizes of lesions: diameters of a ball of the same volume (mm). RECIST 1.1 calls
    a lesion measurable from 10 mm on; a renal tumour of at most 40 mm is T1a (TNM)."""
    size_edges_ml: dict[str, dict[str, Edges]] = {}
    """Benchmark -> structure -> edges between sizes of the whole structure (ml); tertiles of the
    reference volumes where none are set."""
    spacing_edges_mm: Edges = (2.0, 4.0)
    """Edges between distances of slices (mm)."""
    sources: dict[str, dict[str, Pattern]] = {}
    """Benchmark -> source, such as a part of the dataset -> regular expression that the whole name
    of a case matches; the first one counts, and cases without any are `unknown`."""
    metadata: dict[str, Metadata] = {}
    """Benchmark -> what is known of each case, such as its scanner."""
    bins: int = Field(15, ge=2, le=100)
    """Bins of the softmax for the reliability diagram (Guo et al. 2017: 15)."""
    worst: int = Field(3, ge=1, le=20)
    """Worst cases of each method and benchmark that are shown with pictures; each takes some 25 kB
    of the report, which is to stay below 15 MB."""

    @model_validator(mode="after")
    def _check_benchmarks(self) -> Self:
        keyed = ("lesions", "size_edges_ml", "sources", "metadata")
        for key in keyed if self.benchmarks else ():
            for name in getattr(self, key):
                if name not in self.benchmarks:
                    raise ValueError(f"{key}.{name}: not one of the benchmarks that are looked at")
        return self


class ConfidenceOptions(Options):
    """What `confidence` needs of one run."""

    prediction: Prediction
    """How its labels were predicted."""
    fold: int = Field(ge=0)
    """Validation fold."""
    bins: int = Field(ge=2)
    """Bins of the softmax."""


class LesionsOptions(Options):
    """What `lesions` needs of one run."""

    benchmark: str
    """Key of the benchmark."""
    method: str
    """Key of the method."""
    fold: int = Field(ge=0)
    """Validation fold."""
    structures: tuple[str, ...]
    """Structures that are counted lesion by lesion."""
    iou: float = Field(gt=0, le=1)
    """Least intersection over union of a hit."""


class FailuresOptions(Options):
    """What `failures` needs of a study."""

    failures: Failures
    """What is looked at, and in which bins."""
    mr_cases: dict[str, Pattern | None] = {}
    """Benchmark -> regular expression of the names of its MR cases; null where all are CT."""
