"""Options of the label curve (the workflow loads this module: nothing heavy here)."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from meddino.core.options import Options

ALL = 100
"""All cases (%)."""
Percent = Annotated[int, Field(ge=1, le=ALL)]


class LabelCurve(Options):
    """Methods trained on random parts of the training cases."""

    methods: tuple[str, ...] = Field(min_length=1)
    """Methods that are compared, in order."""
    benchmarks: tuple[str, ...] = Field(min_length=1)
    """Benchmarks, in order."""
    percent: tuple[Percent, ...] = (5, 10, 25, 50, ALL)
    """Shares of a fold's training cases (%), the last of them 100; each is rounded up to a whole
    case and lies within the next. At 100 it is the method itself, which the tables share."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key in ("methods", "benchmarks"):
            if len(set(getattr(self, key))) < len(getattr(self, key)):
                raise ValueError(f"{key}: one is named twice")
        if list(self.percent) != sorted(set(self.percent)) or self.percent[-1:] != (ALL,):
            raise ValueError(
                f"percent: {list(self.percent)} must rise to {ALL}, which the others are"
                " compared with"
            )
        return self

    def parts(self) -> tuple[int, ...]:
        """The shares for which a method gets a twin of its own."""
        return self.percent[:-1]


def method_on(method: str, percent: int) -> str:
    """The key of a method that is trained on a share of the cases."""
    return method if percent == ALL else f"{method}_cases{percent}"


class LabelCurveOptions(Options):
    """What `label_curve` needs of a study."""

    methods: tuple[str, ...]
    """Methods, in order."""
    method_labels: dict[str, str]
    """Their names, as printed."""
    benchmarks: tuple[str, ...]
    """Benchmarks, in order."""
    benchmark_labels: dict[str, str]
    """Their names, as printed."""
    percent: tuple[Percent, ...]
    """Shares of the training cases (%)."""
    folds: tuple[int, ...]
    """Folds that are trained."""
