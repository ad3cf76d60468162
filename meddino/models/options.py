"""Options of published weights (the workflow loads this module: nothing heavy here)."""

from typing import Self

from pydantic import Field, model_validator

from meddino.core.options import Options


class WeightsOptions(Options):
    """A published checkpoint of a ViT."""

    url: str | None = Field(None, pattern=r"^(https?://|file:)")
    """Where it can be downloaded without an account."""
    file: str | None = None
    """Where you have put it, if it cannot: a file, or a folder of transformers or timm."""
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of its file; checked where given."""
    how: str = ""
    """How a person obtains it."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.url is not None and self.file is not None:
            raise ValueError("give `url` or `file`, not both")
        return self
