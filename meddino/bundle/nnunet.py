"""A model as nnU-Net's folder of results, which `nnUNetv2_predict_from_modelfolder` reads."""

from pathlib import Path

import torch

from meddino.core.files import atomic, write_json
from meddino.finetune.model import Model
from meddino.finetune.settings import read_settings

TRAINERS = {
    "unet": "nnUNetTrainer",  # nnU-Net's own, so that this network needs nothing of ours
    "primus": "MedDINOv3Trainer",
    "segformer": "SegFormerTrainer",
    "dino_unet": "DinoUNetTrainer",
}
"""The trainer by whose name nnU-Net builds a network; ours build it from what the plans record."""


def write_results(model: Model, configuration: str, fold: int, folder: Path) -> None:
    """Write `dataset.json`, `plans.json` and `fold_<n>/checkpoint_final.pth`.

    The checkpoint serves to predict and to start other trainings from (`-pretrained_weights`); it
    has no state of an optimiser to go on with. `torch.load(weights_only=True)` reads it.

    Args:
        model: the trained network.
        configuration: nnU-Net's name of its configuration.
        fold: the fold that it was not trained on.
        folder: where the files go.
    """
    plans = model.plans.plans
    write_json(folder / "dataset.json", model.dataset_json)
    write_json(folder / "plans.json", plans)
    content = {
        "network_weights": model.network.state_dict(),
        "optimizer_state": None,
        "grad_scaler_state": None,
        "logging": None,
        "_best_ema": None,
        "current_epoch": read_settings(plans).training.epochs,
        "init_args": {
            "plans": plans,
            "configuration": configuration,
            "fold": fold,
            "dataset_json": model.dataset_json,
        },
        "trainer_name": trainer_name(model),
        "inference_allowed_mirroring_axes": model.mirror_axes or None,
    }
    with atomic(folder / f"fold_{fold}" / "checkpoint_final.pth") as temporary:
        torch.save(content, temporary)


def trainer_name(model: Model) -> str:
    """The trainer that nnU-Net needs to build the network."""
    return TRAINERS[read_settings(model.plans.plans).method.network]
