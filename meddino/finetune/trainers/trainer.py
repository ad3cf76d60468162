"""The study's nnU-Net trainer: settings, optimiser, schedule, history and exact resuming."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from meddino.core.errors import MeddinoError
from meddino.core.files import atomic
from meddino.finetune.networks import build_network
from meddino.finetune.schedule import PolySchedule, make_optimizer
from meddino.finetune.settings import read_settings
from meddino.finetune.snapshot import restore, snapshot

CHECKPOINT = "checkpoint.pt"


class MeddinoTrainer(nnUNetTrainer):  # type: ignore[misc]
    """nnU-Net's training loop with a method's network and optimiser."""

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net's signature)
    ) -> None:
        """Read the settings from `plans` and let nnU-Net set up the rest."""
        self.settings = read_settings(plans)
        super().__init__(plans, configuration, fold, dataset_json, device)
        method, training = self.settings.method, self.settings.training
        self.num_epochs = training.epochs
        self.num_iterations_per_epoch = training.iterations_per_epoch
        self.num_val_iterations_per_epoch = training.val_iterations
        self.enable_deep_supervision = method.deep_supervision
        self.state: Path | None = None
        self.history: list[dict[str, Any]] = []
        self.on_epoch: Callable[[list[dict[str, Any]]], None] = lambda history: None

    @staticmethod
    def build_network_architecture(
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Build the network of the method in the plans; nnU-Net also calls this to predict."""
        return build_network(
            read_settings(plans_manager.plans),
            configuration_manager,
            num_output_channels,
            enable_deep_supervision,
        )

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, PolySchedule]:
        """The method's optimiser and schedule."""
        method = self.settings.method
        optimizer = make_optimizer(self.network, method)
        schedule = PolySchedule(optimizer, self.num_epochs, method.power, method.warmup_epochs)
        return optimizer, schedule

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Switch the lower-resolution outputs, which only nnU-Net's own U-Net has."""
        if self.settings.method.network == "unet":
            super().set_deep_supervision_enabled(enabled)

    def _do_i_compile(self) -> bool:
        return self.settings.training.compile and self.device.type == "cuda"

    def get_training_transforms(
        self, patch_size: Any, rotation: Any, scales: Any, *arguments: Any, **named: Any
    ) -> Any:
        """nnU-Net's augmentation, or none at all.

        Its blur chooses between two algorithms by a stopwatch. They round differently, so a resumed
        run would not repeat to the bit: the choice is switched off.
        """
        if self.settings.training.augmentation == "none":
            kept = ("is_cascaded", "foreground_labels", "regions", "ignore_label")
            return self.get_validation_transforms(scales, **{key: named[key] for key in kept})
        transforms = nnUNetTrainer.get_training_transforms(
            patch_size, rotation, scales, *arguments, **named
        )
        for step in transforms.transforms:
            blur = getattr(step, "transform", None)
            if isinstance(blur, GaussianBlurTransform):
                blur.benchmark = False
        return transforms

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> Any:
        """Without augmentation there is no margin to rotate in, and no mirroring to average."""
        rotation, dummy, initial, axes = (
            super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        if self.settings.training.augmentation == "none":
            initial, axes = self.configuration_manager.patch_size, None
            self.inference_allowed_mirroring_axes = None
        return rotation, dummy, initial, axes

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One step, as in nnU-Net, with the method's gradient clipping."""
        data = batch["data"].to(self.device, non_blocking=True)
        target = _to(batch["target"], self.device)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, enabled=self.device.type == "cuda"):
            loss = self.loss(self.network(data), target)
        if not torch.isfinite(loss):
            raise MeddinoError(
                f"the loss is {float(loss)} in epoch {self.current_epoch}; lower the learning rate"
            )
        scaler = self.grad_scaler or torch.amp.GradScaler(enabled=False)
        scaler.scale(loss).backward()
        scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.method.grad_clip)
        scaler.step(self.optimizer)
        scaler.update()
        return {"loss": loss.detach().cpu().numpy()}

    def on_train_start(self) -> None:
        """Start the loaders; restore the state of a run that was killed."""
        if not self.was_initialized:
            self.initialize()
        self.dataloader_train, self.dataloader_val = self.get_dataloaders()
        self.set_deep_supervision_enabled(self.enable_deep_supervision)
        path = self._checkpoint()
        if path is not None and path.exists():
            self.load_checkpoint(str(path))
            self.print_to_log_file(f"resumed at epoch {self.current_epoch}")

    def on_epoch_end(self) -> None:
        """Log the epoch; write a checkpoint now and then. nnU-Net's plot is left to the report."""
        self.logger.log("epoch_end_timestamps", time.time(), self.current_epoch)
        self.history.append(self._record())
        self.on_epoch(self.history)
        self.current_epoch += 1
        path = self._checkpoint()
        due = self.current_epoch % self.settings.training.checkpoint_every == 0
        if path is not None and (due or self.current_epoch == self.num_epochs):
            self.save_checkpoint(str(path))

    def on_train_end(self) -> None:
        """Stop the augmentation's processes; the caller stores the model."""
        for loader in (self.dataloader_train, self.dataloader_val):
            if hasattr(loader, "_finish"):
                loader._finish()

    def save_checkpoint(self, filename: str) -> None:
        """Write everything that the next epoch depends on, atomically."""
        with atomic(Path(filename)) as temporary:
            torch.save(snapshot(self), temporary)

    def load_checkpoint(self, filename_or_checkpoint: Any) -> None:
        """Restore what `save_checkpoint` wrote."""
        restore(self, torch.load(filename_or_checkpoint, self.device, weights_only=True))

    def print_to_log_file(self, *args: Any, **_: Any) -> None:
        """Write to nnU-Net's log file only; the history says what matters."""
        with open(self.log_file, "a", encoding="utf-8") as log:
            print(*args, file=log)

    def _checkpoint(self) -> Path | None:
        return None if self.state is None else self.state / CHECKPOINT

    def _record(self) -> dict[str, Any]:
        """The epoch's line of the history."""
        last = {key: self.logger.get_value(key, step=-1) for key in _LOGGED}
        dice = [float(value) for value in last["dice_per_class_or_region"]]
        return {
            "epoch": self.current_epoch,
            "lr": [group["lr"] for group in self.optimizer.param_groups],
            "train_loss": float(last["train_losses"]),
            "val_loss": float(last["val_losses"]),
            # Neither predicted nor present in the batches: no value, which JSON calls null.
            "pseudo_dice": [value if value == value else None for value in dice],
            "seconds": last["epoch_end_timestamps"] - last["epoch_start_timestamps"],
        }


_LOGGED = (
    "train_losses",
    "val_losses",
    "dice_per_class_or_region",
    "epoch_start_timestamps",
    "epoch_end_timestamps",
)


def _to(target: Any, device: torch.device) -> Any:
    if isinstance(target, list):
        return [level.to(device, non_blocking=True) for level in target]
    return target.to(device, non_blocking=True)
