"""Options of the metrics (the workflow loads this module: nothing heavy here)."""

from pydantic import Field

from meddino.core.options import Options


class Evaluation(Options):
    """How predictions are scored (section 4.1)."""

    tolerance_mm: float = Field(1.0, gt=0)
    """Distance within which surfaces agree for the NSD, in mm; not given in the paper, 1 mm in the
    authors' script."""


class EvaluateOptions(Options):
    """What `evaluate` needs of one run."""

    benchmark: str
    """Key of the benchmark."""
    method: str
    """Key of the method."""
    fold: int = Field(ge=0)
    """Validation fold."""
    evaluation: Evaluation
    """How predictions are scored."""


class ScoresOptions(Options):
    """What `scores` needs: nothing but its inputs."""
