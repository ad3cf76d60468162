"""Options of the metrics (the workflow loads this module: nothing heavy here)."""

from typing import Annotated, Literal

from pydantic import Field

from meddino.core.options import Options, absent

Tolerance = Annotated[float, Field(gt=0)]


class Evaluation(Options):
    """How predictions are scored (section 4.1)."""

    tolerance_mm: Tolerance = 1.0
    """Distance within which surfaces agree for the NSD, in mm; not given in the paper, 1 mm in the
    authors' script. Protocol `area` takes it where a benchmark's `tolerances_mm` names none."""


class Probe(Options):
    """How frozen backbones are probed: organs from single patch tokens, by k-NN and linearly."""

    benchmark: str
    """Key of the benchmark, of CT alone; the first of `folds` divides its cases."""
    slices_px: int = Field(512, ge=16, le=2048)
    """Side of the slices that the backbone sees, in pixels: a multiple of its patches, at a scale
    between that of the first stage's global crops and the last one's."""
    slices_per_case: int = Field(24, ge=1)
    """Slices of a case, evenly spread over those that show a structure."""
    patches_per_class: int = Field(1000, ge=1)
    """Patches of each class that are learned from, and as many that are tested; bounds memory."""
    neighbours: int = Field(20, ge=1)
    """Neighbours of the k-NN (DINO: 20)."""
    seed: int = Field(0, ge=0)
    """Seed of the choice of patches, and of the random initialisation."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where features are computed; auto takes a GPU if there is one."""


class ProbeOptions(Options):
    """What `probe` needs of a study."""

    source: str
    """`random`, or the key of published weights or of a stage: where the backbones come from."""
    variant: str
    """Variant of CT-3M that the backbones have seen."""
    backbone: str
    """Their architecture."""
    spacing_mm: float = Field(gt=0)
    """In-plane spacing that slices are resampled to before they are resized (mm)."""
    fold: int = Field(ge=0)
    """Fold that divides the cases."""
    probe: Probe
    """How it is done."""


class EvaluateOptions(Options):
    """What `evaluate` needs of one run."""

    benchmark: str
    """Key of the benchmark."""
    method: str
    """Key of the method."""
    fold: int = Field(ge=0)
    """Validation fold."""
    seed: int | None = Field(None, ge=0, exclude_if=absent)
    """Seed of the training, where it is another one than `training.seed`."""
    evaluation: Evaluation
    """How predictions are scored."""
    tolerances_mm: dict[str, Tolerance] = {}
    """Structure -> its tolerance in protocol `area` (mm), where it is not `evaluation`'s."""


class ScoresOptions(Options):
    """What `scores` needs beside its inputs."""

    seed: int | None = Field(None, ge=0, exclude_if=absent)
    """Seed of the scores that name none, where others name theirs."""


class TransferEvaluateOptions(EvaluateOptions):
    """What `evaluate_transfer` needs of one run."""

    origin: str
    """Key of the benchmark that the model was trained on."""
    structures: dict[str, tuple[str, ...]] = Field(min_length=1)
    """Structure of the benchmark -> those that make it up in `origin`; only these are scored."""
