"""Options of the procedural CT phantom (the workflow loads this module: nothing heavy here)."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from meddino.core.options import Options

LayoutName = Literal["amos22", "btcv", "kits23", "lits", "msd_spleen", "pancreas_ct"]


class Copies(Options):
    """Patients of another phantom that a phantom holds as well, as public datasets do."""

    dataset: LayoutName
    """The other phantom."""
    seed: int = Field(0, ge=0)
    """Its seed."""
    ranks: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    """Which of its patients, counted from 0 in the order of its cases. They take the places of the
    first patients of this phantom, in this order."""


class Phantom(Options):
    """How much of one dataset's phantom to make."""

    cases: int = Field(12, ge=1, le=200)
    """Number of patients; in `amos22` every sixth of them is an MR case."""
    size_px: int = Field(160, ge=48, le=1024)
    """In-plane matrix, pixels a side."""
    slices: int = Field(40, ge=16, le=600)
    """Number of axial slices of a volume."""
    noise_hu: float = Field(14.0, ge=0, le=100)
    """Standard deviation of the noise of a typical case, HU at the patient's centre; the cases
    spread around it from 0.6 to 1.5 times."""
    field_mm: float | None = Field(None, ge=250, le=700)
    """Side of the field of view (mm), the same for all patients; null fits it to each of them."""
    seed: int = Field(0, ge=0)
    """Seed of everything drawn: anatomy, lesions, scanner, noise."""
    copies: Copies | None = None
    """Patients that another phantom holds too; null: none. They are scanned by this phantom's
    options, so that both phantoms should have the same."""
    damaged: int = Field(0, ge=0)
    """Number of volumes, the last ones, whose files are cut off in the middle, as by a download
    that broke."""

    @model_validator(mode="after")
    def _check_numbers(self) -> Self:
        copies = 0 if self.copies is None else len(self.copies.ranks)
        if copies + self.damaged > self.cases:
            raise ValueError(
                f"copies and damaged: {copies + self.damaged} of {self.cases} cases; raise `cases`"
            )
        return self


class PhantomOptions(Phantom):
    """What `phantom` needs to make one dataset."""

    dataset: LayoutName
    """Dataset whose raw layout, label map and habits (orientation, padding) are imitated."""
