"""The study's methods under nnU-Net's own commands: settings and weights from the environment.

nnU-Net gives trainers no arguments, so two variables configure a training run:

- `MEDDINO_CONFIG`: YAML files laid over the paper's configuration, separated as paths are.
- `MEDDINO_WEIGHTS`: the checkpoint that a method starts from.

The plans that nnU-Net copies to its results record the settings. Continuing, validating and
predicting need neither variable.
"""

import os
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from meddino.core import layers
from meddino.core.errors import MeddinoError
from meddino.core.explain import explain
from meddino.core.files import atomic, read_json
from meddino.finetune.options import FinetuneOptions, under_recipe
from meddino.finetune.settings import KEY, Settings, read_settings, write_settings
from meddino.finetune.trainer import MethodTrainer

PAPER = Path(__file__).parents[1] / "config.yaml"
"""The paper's configuration, of which `config.yaml` at the top of the checkout is the original."""


class NamedTrainer(MethodTrainer):
    """One of the study's methods, for `nnUNetv2_train -tr`."""

    row = ""
    """Its key in the configuration's `methods`; each subclass has its own."""

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net's signature)
    ) -> None:
        """Take the settings from the configuration, unless the plans carry them.

        Raises:
            MeddinoError: the configuration lacks the method, or is not valid.
        """
        if KEY not in plans:
            write_settings(plans, _configured(self.row, configuration))
        super().__init__(plans, configuration, fold, dataset_json, device)

    def initialize(self) -> None:
        """Set up a new training run: the ViT starts from `MEDDINO_WEIGHTS`.

        Raises:
            MeddinoError: the method needs weights and the variable is not set, or they do not fit.
        """
        self.start(self._weights())

    def save_checkpoint(self, filename: str) -> None:
        """Write nnU-Net's checkpoint atomically: a killed run leaves the previous one."""
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        with atomic(Path(filename)) as temporary:
            super().save_checkpoint(str(temporary))

    def load_checkpoint(self, filename_or_checkpoint: Any) -> None:
        """Set up by the settings of the run that wrote the checkpoint, and restore it."""
        if not self.was_initialized:
            self.adopt(read_settings(read_json(Path(self.output_folder_base) / "plans.json")))
            self.set_up()
        super().load_checkpoint(filename_or_checkpoint)

    def _weights(self) -> Path | None:
        """The checkpoint in `MEDDINO_WEIGHTS`, where the method starts from one."""
        weights, path = self.settings.method.weights, os.environ.get("MEDDINO_WEIGHTS")
        if weights is None:
            return None
        if not path:
            raise MeddinoError(
                f"{self.row} starts from {weights}: set MEDDINO_WEIGHTS to that checkpoint; or, to"
                " start at random, set MEDDINO_CONFIG to a file with"
                f" `methods: {{{self.row}: {{weights: null}}}}`"
            )
        return Path(path)


def _configured(row: str, configuration: str) -> Settings:
    """A method of the configuration, trained as it says."""
    over = [part for part in os.environ.get("MEDDINO_CONFIG", "").split(os.pathsep) if part]
    content = layers.read([PAPER, *over])
    method = under_recipe(content["methods"][row] or {}, content["recipe"])
    method["configuration"] = configuration
    try:
        options = FinetuneOptions.model_validate(
            {"method": method, "training": content["training"]}
        )
    except ValidationError as error:
        source = " + ".join(map(str, [PAPER, *over]))
        raise MeddinoError(explain(error, source, FinetuneOptions)) from error
    return Settings(method=options.method, training=options.training)
