"""nnU-Net's trainer with the study's methods, and the one that the `finetune` verb drives."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from signal import Signals
from typing import Any
from unittest import mock

import torch
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from nnunetv2.training.dataloading import nnunet_dataset
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as module
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from meddino.core.errors import MeddinoError, Stopped
from meddino.finetune.networks import build_network
from meddino.finetune.properties import load_pickle
from meddino.finetune.schedule import PolySchedule, make_optimizer
from meddino.finetune.settings import Settings, read_settings, write_settings
from meddino.finetune.snapshot import restore, seed_everything, snapshot, unwrapped
from meddino.finetune.vit import read_start, start_of
from meddino.models import checkpoints
from meddino.models.distributed import Team
from meddino.models.loading import load_strictly

nnunet_dataset.load_pickle = load_pickle  # its own would run whatever a file of a case holds


class MethodTrainer(module.nnUNetTrainer):  # type: ignore[misc]
    """nnU-Net's training loop, files and resuming, with a method's network and optimiser."""

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net's signature)
    ) -> None:
        """Read the settings from `plans` and let nnU-Net set up the rest."""
        settings = read_settings(plans)
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.adopt(settings)

    def adopt(self, settings: Settings) -> None:
        """Train by `settings`; the plans, which nnU-Net keeps with the model, record them."""
        self.settings = settings
        write_settings(self.plans_manager.plans, settings)
        training = settings.training
        self.num_epochs = training.epochs
        self.num_iterations_per_epoch = training.iterations_per_epoch
        self.num_val_iterations_per_epoch = training.val_iterations
        self.save_every = training.checkpoint_every
        self.enable_deep_supervision = settings.method.deep_supervision

    def start(self, weights: Path | None) -> None:
        """Set up network and optimiser; what starts from `weights` is filled.

        Raises:
            MeddinoError: the checkpoint does not fit.
        """
        vit, tensors = read_start(weights, self.settings.method)
        self.adopt(self.settings.model_copy(update={"vit": vit}))
        self.set_up()
        if weights is not None:
            load_strictly(start_of(unwrapped(self.network)), tensors, str(weights))

    def set_up(self) -> None:
        """Set up network, optimiser and loss as nnU-Net does, in one process or several."""
        with _sharing(self.device) if self.is_ddp else nullcontext():
            module.nnUNetTrainer.initialize(self)

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
        return self.settings.training.compile and super()._do_i_compile()

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
        transforms = module.nnUNetTrainer.get_training_transforms(
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


def _to(target: Any, device: torch.device) -> Any:
    if isinstance(target, list):
        return [level.to(device, non_blocking=True) for level in target]
    return target.to(device, non_blocking=True)


@contextmanager
def _sharing(device: torch.device) -> Iterator[None]:
    """Let nnU-Net share any of the study's networks among processes, on CPUs too.

    It takes each process for one with a GPU, and takes it that the loss reaches all parameters. It
    does not reach a ViT's mask token: finetuning masks nothing.
    """
    gpus = device.type == "cuda"

    def share(network: nn.Module, device_ids: list[int]) -> nn.Module:
        ids = device_ids if gpus else None
        return DistributedDataParallel(network, device_ids=ids, find_unused_parameters=True)

    norms = nn.SyncBatchNorm.convert_sync_batchnorm if gpus else lambda network: network
    with (
        mock.patch.object(module, "DDP", share),
        mock.patch.object(nn.SyncBatchNorm, "convert_sync_batchnorm", norms),
    ):
        yield


class StudyTrainer(MethodTrainer):
    """Of a method, the run that the study drives: quiet, with a history, and resumed exactly."""

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008
    ) -> None:
        """Set up a run that is alone and keeps no checkpoints, which its caller may change."""
        super().__init__(plans, configuration, fold, dataset_json, device)
        if device.type == "cpu":  # in a team of processes nnU-Net wants GPUs
            self.device, self.grad_scaler = device, None
        self.team = Team(device)
        self.state: Path | None = None
        self.history: list[dict[str, Any]] = []
        self.on_epoch: Callable[[list[dict[str, Any]]], None] = lambda history: None
        self.stopping = False

    def set_up(self) -> None:
        """Seed, then set up; each process of a team goes on to augment by numbers of its own."""
        seed_everything(self.settings.training.seed * self.team.size + self.team.rank)
        super().set_up()

    def on_train_start(self) -> None:
        """Start the loaders; restore the state of a run that was killed."""
        self.dataloader_train, self.dataloader_val = self.get_dataloaders()
        self.set_deep_supervision_enabled(self.enable_deep_supervision)
        saved = None if self.state is None else checkpoints.newest(self.state)
        if saved is not None:
            restore(self, saved)
            if self.team.leads:
                print(f"resumed at epoch {self.current_epoch}", file=sys.stderr, flush=True)

    def on_epoch_end(self) -> None:
        """Record the epoch; keep a checkpoint now and then. nnU-Net's plot is left to the report.

        Raises:
            Stopped: a signal asked to stop; a checkpoint is kept.
        """
        self.logger.log("epoch_end_timestamps", time.time(), self.current_epoch)
        self.history.append(self._record())
        if self.team.leads:
            self.on_epoch(self.history)
        self.current_epoch += 1
        # A signal may reach one process before and another after the end of the epoch.
        flag = torch.tensor(float(self.stopping), device=self.device)
        stopping = bool(self.team.mean(flag) > 0) and self.current_epoch < self.num_epochs
        due = self.current_epoch % self.settings.training.checkpoint_every == 0
        if self.state is not None and (due or stopping or self.current_epoch == self.num_epochs):
            content = snapshot(self)
            if self.team.leads:
                checkpoints.save(self.state, self.current_epoch, content)
        if stopping:
            raise Stopped(
                f"stopped by a signal after epoch {self.current_epoch - 1}; a checkpoint is kept,"
                " rerun to go on"
            )

    def note(self, number: int, _: Any) -> None:
        """A signal came: stop after this epoch."""
        self.stopping = True
        print(f"{Signals(number).name}: stopping", file=sys.stderr, flush=True)

    def on_train_end(self) -> None:
        """Stop the augmentation's processes; the caller stores the model."""
        for loader in (self.dataloader_train, self.dataloader_val):
            if hasattr(loader, "_finish"):
                loader._finish()

    def print_to_log_file(self, *args: Any, **_: Any) -> None:
        """Write to nnU-Net's log file only; the history says what matters."""
        if self.local_rank == 0:
            with suppress(OSError), open(self.log_file, "a", encoding="utf-8") as log:
                print(*args, file=log)

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
