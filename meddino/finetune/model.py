"""A trained network on disk: `model.safetensors`, and `model.json` to rebuild the network."""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from pydantic import ValidationError
from torch import nn

from meddino import __version__
from meddino.core.errors import MeddinoError
from meddino.core.files import atomic, read_json, sha256, write_json
from meddino.finetune.networks import build_network
from meddino.finetune.settings import read_settings
from meddino.finetune.snapshot import unwrapped

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"


@dataclass(frozen=True)
class Model:
    """A network in evaluation mode and what nnU-Net needs to predict with it."""

    network: nn.Module
    plans: PlansManager
    configuration: ConfigurationManager
    dataset_json: dict[str, Any]
    mirror_axes: tuple[int, ...]

    @property
    def volumetric(self) -> bool:
        """Whether the network sees volumes, not slices."""
        return len(self.configuration.patch_size) == 3

    @property
    def channel(self) -> str:
        """nnU-Net's name of the only input channel: "CT" expects HU."""
        return str(self.dataset_json["channel_names"]["0"])


def save(trainer: Any, path: Path) -> None:
    """Store the network of `trainer`; `path` (`model.safetensors`) is written last."""
    trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    content = {key: trainer.dataset_json[key] for key in ("channel_names", "labels", "file_ending")}
    description: dict[str, Any] = {
        "plans": trainer.plans_manager.plans,
        "configuration": trainer.configuration_name,
        "dataset_json": content,
        "fold": trainer.fold,
        "mirror_axes": list(trainer.inference_allowed_mirroring_axes or ()),
        "versions": {
            "meddino": __version__,
            "nnunetv2": version("nnunetv2"),
            "torch": torch.__version__,
        },
    }
    with atomic(path) as temporary:
        # nnU-Net's decoder holds its encoder a second time: save_model stores such tensors once.
        safetensors.torch.save_model(unwrapped(trainer.network), str(temporary))
        # The format has no checksum, and one flipped bit makes other labels.
        description["sha256"] = sha256(temporary)
        write_json(path.parent / DESCRIPTION, description)


def load(path: Path) -> Model:
    """Rebuild the network of `model.safetensors`, or of the folder that holds it.

    Raises:
        MeddinoError: there is no model, it is damaged, or its weights are not those of the network
            that `model.json` describes.
    """
    path = find(path)
    description = read_json(path.parent / DESCRIPTION)
    model = _build(description, path.parent / DESCRIPTION)
    try:
        digest = sha256(path)
        if description.get("sha256", digest) != digest:  # older models have none
            raise safetensors.SafetensorError("its SHA-256 is not that of model.json")
        safetensors.torch.load_model(model.network, str(path))
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise MeddinoError(
            f"{path} is damaged, or does not fit model.json beside it ({error}); copy both again,"
            " or delete them and run finetune"
        ) from error
    return model


def rebuild(path: Path) -> Model:
    """Build the network that `model.json` describes, with random weights.

    Raises:
        MeddinoError: the file does not describe a model that can be built.
    """
    return _build(read_json(path), path)


def _build(description: dict[str, Any], path: Path) -> Model:
    """The network that `description` describes, which `path` holds."""
    try:
        plans = PlansManager(description["plans"])
        configuration = plans.get_configuration(description["configuration"])
        labels = plans.get_label_manager(description["dataset_json"])
        network = build_network(
            read_settings(plans.plans), configuration, labels.num_segmentation_heads, False
        )
        axes = tuple(description["mirror_axes"])
    except (KeyError, TypeError, ValidationError) as error:
        raise MeddinoError(
            f"{path} does not describe a model that meddino {__version__} can build"
            f" ({type(error).__name__}: {error}); take the file that `finetune` wrote"
        ) from error
    return Model(network.eval(), plans, configuration, description["dataset_json"], axes)


def find(path: Path) -> Path:
    """Find the weights of a model by its folder, or by the weights themselves.

    Raises:
        MeddinoError: weights or description are missing.
    """
    weights = path / WEIGHTS if path.is_dir() else path
    for file in (weights, weights.parent / DESCRIPTION):
        if not file.is_file():
            raise MeddinoError(
                f"{path} is no model: {file} does not exist; name a folder of `finetune`, which"
                f" holds {WEIGHTS} and {DESCRIPTION}"
            )
    return weights
