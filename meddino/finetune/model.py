"""A trained network on disk: `model.safetensors` and, beside it, `model.json` to rebuild it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from meddino.core.errors import MeddinoError
from meddino.core.files import atomic, read_json, write_json
from meddino.finetune.networks import build_network
from meddino.finetune.settings import read_settings
from meddino.finetune.snapshot import unwrapped


@dataclass(frozen=True)
class Model:
    """A network in evaluation mode and what nnU-Net needs to predict with it."""

    network: nn.Module
    plans: PlansManager
    configuration: ConfigurationManager
    dataset_json: dict[str, Any]
    mirror_axes: tuple[int, ...]


def save(trainer: Any, path: Path) -> None:
    """Store the network of `trainer`; `path` (`model.safetensors`) is written last."""
    trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    content = {key: trainer.dataset_json[key] for key in ("channel_names", "labels", "file_ending")}
    description = {
        "plans": trainer.plans_manager.plans,
        "configuration": trainer.configuration_name,
        "dataset_json": content,
        "fold": trainer.fold,
        "mirror_axes": list(trainer.inference_allowed_mirroring_axes or ()),
    }
    write_json(path.parent / "model.json", description)
    with atomic(path) as temporary:
        # nnU-Net's decoder holds its encoder a second time: save_model stores such tensors once.
        safetensors.torch.save_model(unwrapped(trainer.network), str(temporary))


def load(path: Path) -> Model:
    """Rebuild the network of `model.safetensors`.

    Raises:
        MeddinoError: the weights are not those of the network that `model.json` describes.
    """
    description = read_json(path.parent / "model.json")
    plans = PlansManager(description["plans"])
    configuration = plans.get_configuration(description["configuration"])
    labels = plans.get_label_manager(description["dataset_json"])
    network = build_network(
        read_settings(plans.plans), configuration, labels.num_segmentation_heads, False
    )
    try:
        safetensors.torch.load_model(network, str(path))
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise MeddinoError(
            f"{path} does not fit model.json beside it ({error}); delete both and run finetune"
        ) from error
    axes = tuple(description["mirror_axes"])
    return Model(network.eval(), plans, configuration, description["dataset_json"], axes)
