"""What a trainer needs beyond nnU-Net's plans, stored in them under one key.

nnU-Net gives its trainers no arguments of their own, but hands the plans to training and
prediction alike.
"""

from typing import Any

from pydantic import Field

from meddino.core.errors import MeddinoError
from meddino.core.options import Options
from meddino.finetune.options import Method, Training

KEY = "meddino"


class Settings(Options):
    """The contents of the plans under `meddino`."""

    method: Method
    """The network and its optimisation."""
    training: Training
    """The length of training."""
    vit: dict[str, Any] = Field(default={})
    """How the checkpoint's ViT differs from its architecture's defaults; or the description from
    which a library rebuilds it."""


def read_settings(plans: dict[str, Any]) -> Settings:
    """The settings that plans carry.

    Raises:
        MeddinoError: they carry none, so the study's trainers cannot use them.
    """
    if KEY not in plans:
        raise MeddinoError(f'the plans lack the key "{KEY}"; train with `meddino finetune`')
    return Settings.model_validate(plans[KEY])


def write_settings(plans: dict[str, Any], settings: Settings) -> None:
    """Put `settings` into `plans`, as JSON."""
    plans[KEY] = settings.model_dump(mode="json")
