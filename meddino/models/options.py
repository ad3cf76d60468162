"""Options of published weights (the workflow loads this module: nothing heavy here)."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from meddino.core.options import Options
from meddino.core.secrets import public

DINOV3, SEGFORMER = "dinov3", "segformer"
"""Kinds of checkpoints, beside those of libraries."""

Url = Annotated[str, StringConstraints(pattern=r"^(https?://|file:)"), AfterValidator(public)]


class Published(Options):
    """A published checkpoint: where it is."""

    url: Url | None = None
    """Where it can be downloaded without an account."""
    file: str | None = None
    """Where you have put it, if it cannot: a file, or a folder of transformers or timm."""
    hub: str | None = Field(None, pattern=r"^[\w.-]+/[\w.-]+(@[\w./-]+)?(:[^:]+)?$")
    """Where it is on Hugging Face: owner/name, owner/name@revision, and, where there are several
    files of weights, owner/name:file or owner/name@revision:file. Your login is used."""
    standin: Literal["vittiny8"] | None = None
    """The small ViT that comes with meddino and stands in for DINOv3 in demos: this engine made it
    from dead leaves (profiles/standin/study.yaml). It says nothing about DINOv3 itself."""
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of its file; checked where given."""
    how: str = ""
    """How a person obtains it."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        origins = (self.url, self.file, self.hub, self.standin)
        if sum(origin is not None for origin in origins) > 1:
            raise ValueError("give one of `url`, `file`, `hub` and `standin`")
        return self


class WeightsOptions(Published):
    """What `weights` needs of a study."""

    kind: str = DINOV3
    """What the checkpoint must be: `dinov3` (a ViT as ours), `segformer` (its encoder), or a ViT
    of a library, such as `timm:vit_base_patch16_224`."""
