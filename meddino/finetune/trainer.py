"""nnU-Net's trainer with the study's methods, and the one that the `finetune` verb drives."""

import math
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import cached_property
from pathlib import Path
from signal import Signals
from typing import Any

import torch
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from meddino.core.errors import MeddinoError, Stopped
from meddino.core.subsets import nested_subset
from meddino.finetune import nnunet_patches, speed
from meddino.finetune.networks import build_network
from meddino.finetune.precision import autocast_to
from meddino.finetune.schedule import PolySchedule, make_optimizer
from meddino.finetune.settings import Settings, read_settings, write_settings
from meddino.finetune.snapshot import restore, seed_everything, snapshot, unwrapped
from meddino.finetune.vit import read_start, start_of
from meddino.models import checkpoints
from meddino.models.distributed import Team
from meddino.models.loading import load_strictly


class MethodTrainer(nnUNetTrainer):  # type: ignore[misc]
    """nnU-Net's training loop, files and resuming, with a method's network and optimiser."""

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net's signature)
    ) -> None:
        """Read the settings from `plans` and let nnU-Net set up the rest.

        Raises:
            MeddinoError: nnU-Net has another version, or the plans carry no settings.
        """
        nnunet_patches.read_pickles_safely()
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
        """Set up network and optimiser, and load `weights` into the pretrained part.

        Args:
            weights: checkpoint of the ViT or of SegFormer's encoder; None for random weights.

        Raises:
            MeddinoError: the checkpoint does not fit.
        """
        vit, tensors = read_start(weights, self.settings.method)
        self.adopt(self.settings.model_copy(update={"vit": vit}))
        self.set_up()
        if weights is not None:
            load_strictly(start_of(unwrapped(self.network)), tensors, str(weights))

    def do_split(self) -> tuple[list[str], list[str]]:
        """The cases of the fold that train, or the method's share of them, and those that validate.

        nnU-Net draws its batches from them, so that an epoch has as many iterations as ever.
        """
        train, validation = super().do_split()
        percent, seed = self.settings.method.cases_percent, self.settings.training.seed
        if percent < 100:
            train = nested_subset(train, percent, seed)
            self.print_to_log_file(f"Training on {percent} % of the cases: {', '.join(train)}")
        return train, validation

    def set_up(self) -> None:
        """Set up network, optimiser and loss as nnU-Net does, in one process or several."""
        if autocast_to(self.settings.method, self.device) == torch.bfloat16:
            self.grad_scaler = None  # its range is that of fp32
        if self.device.type == "cuda":
            speed.tune_convolutions()
        network_sharing = nnunet_patches.any_network_in_any_process(self.device)
        with network_sharing if self.is_ddp else nullcontext():
            super().initialize()

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
        """Switch the outputs of lower resolution, which only nnU-Net's own U-Net has."""
        if self.settings.method.network == "unet":
            super().set_deep_supervision_enabled(enabled)

    def _do_i_compile(self) -> bool:
        return self.compiles

    @cached_property
    def compiles(self) -> bool:
        """Whether to compile network and loss; where that is known to fail, a line says why."""
        if not (self.settings.training.compile and super()._do_i_compile()):
            return False
        obstacle = speed.obstacle_to_compiling()
        if obstacle is None:
            speed.survive_the_compiler()
        elif self.local_rank == 0:
            print(f"training without torch.compile, slower: {obstacle}", file=sys.stderr)
        return obstacle is None

    def get_training_transforms(
        self, patch_size: Any, rotation: Any, scales: Any, *arguments: Any, **named: Any
    ) -> Any:
        """nnU-Net's augmentation, or none at all.

        Its blur chooses between two algorithms by a stopwatch. They round differently, so a resumed
        run would not repeat to the bit: the choice is switched off.
        """
        if self.settings.training.augmentation == "none":
            names = ("is_cascaded", "foreground_labels", "regions", "ignore_label")
            return self.get_validation_transforms(scales, **{name: named[name] for name in names})
        transforms = super().get_training_transforms(
            patch_size, rotation, scales, *arguments, **named
        )
        for step in transforms.transforms:
            blur = getattr(step, "transform", None)
            if isinstance(blur, GaussianBlurTransform):
                blur.benchmark = False
        return transforms

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> Any:
        """Without augmentation there is no margin to rotate in, and no mirroring to average."""
        rotation, dummy_2d, initial_patch_size, mirror_axes = (
            super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        if self.settings.training.augmentation == "none":
            initial_patch_size, mirror_axes = self.configuration_manager.patch_size, None
            self.inference_allowed_mirroring_axes = None
        return rotation, dummy_2d, initial_patch_size, mirror_axes

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Take one step as nnU-Net does, but with the method's gradient clipping.

        Args:
            batch: `data`, float32 (B, 1, H, W) or (B, 1, D, H, W), and `target`, labels of that
                shape, or a list of them from fine to coarse with deep supervision.

        Raises:
            MeddinoError: the loss is not finite.
        """
        data = batch["data"].to(self.device, non_blocking=True)  # (B, 1, [D,] H, W)
        target = _to(batch["target"], self.device)  # (B, 1, [D,] H, W), or a list of such
        self.optimizer.zero_grad(set_to_none=True)
        # As nnU-Net: half precision on GPUs (`precision`), fp32 on CPUs, where autocast would only
        # slow training down.
        with torch.autocast(self.device.type, enabled=self.device.type == "cuda"):
            loss = self.loss(self.network(data), target)
        if not torch.isfinite(loss):
            raise MeddinoError(
                f"the loss is {float(loss)} in epoch {self.current_epoch}; lower the learning rate"
            )
        # fp32 gradients do not underflow: without a scaler, a disabled one passes them through.
        scaler = self.grad_scaler or torch.amp.GradScaler(enabled=False)
        scaler.scale(loss).backward()
        scaler.unscale_(self.optimizer)  # the norm that is clipped is that of the true gradient
        nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.method.grad_clip)
        scaler.step(self.optimizer)
        scaler.update()
        return {"loss": loss.detach().cpu().numpy()}


def _to(target: Any, device: torch.device) -> Any:
    if isinstance(target, list):
        return [level.to(device, non_blocking=True) for level in target]
    return target.to(device, non_blocking=True)


class StudyTrainer(MethodTrainer):
    """The trainer that the `finetune` verb drives: quiet, keeps a history, resumes exactly."""

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008
    ) -> None:
        """Set up a run in one process without checkpoints; callers set `team` and `state`."""
        super().__init__(plans, configuration, fold, dataset_json, device)
        if device.type == "cpu":  # among several processes nnU-Net takes a GPU all the same
            self.device, self.grad_scaler = device, None
        self.team = Team(device)
        self.state: Path | None = None
        self.history: list[dict[str, Any]] = []
        self.on_epoch: Callable[[list[dict[str, Any]]], None] = lambda history: None
        self.stopping = False

    def set_up(self) -> None:
        """Seed, then set up."""
        # A seed for each process, since each augments its own share of the batch. The networks are
        # equal all the same: DDP sends the first process's weights to the others.
        seed_everything(self.settings.training.seed * self.team.size + self.team.rank)
        super().set_up()

    def on_train_start(self) -> None:
        """Start the data loaders; restore the state of a killed run."""
        self.dataloader_train, self.dataloader_val = self.get_dataloaders()
        self.set_deep_supervision_enabled(self.enable_deep_supervision)
        checkpoint = None if self.state is None else checkpoints.agreed(self.state, self.team)
        # After the loaders, which draw random numbers while they start.
        if checkpoint is not None:
            restore(self, checkpoint)
            if self.team.leads:
                print(f"resumed at epoch {self.current_epoch}", file=sys.stderr, flush=True)

    def on_epoch_end(self) -> None:
        """Record the epoch and write a checkpoint when due. The report draws nnU-Net's plot.

        Raises:
            Stopped: a signal asked to stop; a checkpoint is kept.
        """
        self.logger.log("epoch_end_timestamps", time.time(), self.current_epoch)
        self.history.append(self._record())
        if self.team.leads:
            self.on_epoch(self.history)
        self.current_epoch += 1
        # A signal may reach one process before and another after the end of the epoch: they agree
        # here, or some would wait for the others forever.
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

    def stop_after_epoch(self, number: int, _: Any) -> None:
        """Handle a signal: stop after this epoch."""
        self.stopping = True
        print(f"{Signals(number).name}: stopping", file=sys.stderr, flush=True)

    def on_train_end(self) -> None:
        """Stop the augmentation's processes; the caller stores the model."""
        for loader in (self.dataloader_train, self.dataloader_val):
            if hasattr(loader, "_finish"):
                loader._finish()

    def print_to_log_file(self, *args: Any, **_: Any) -> None:
        """Write to nnU-Net's log file only: the history has the figures that matter."""
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
            # NaN where a structure is neither predicted nor present; JSON has null for that.
            "pseudo_dice": [None if math.isnan(value) else value for value in dice],
            "seconds": last["epoch_end_timestamps"] - last["epoch_start_timestamps"],
        }


_LOGGED = (
    "train_losses",
    "val_losses",
    "dice_per_class_or_region",
    "epoch_start_timestamps",
    "epoch_end_timestamps",
)
