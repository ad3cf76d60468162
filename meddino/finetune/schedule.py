"""Optimisers with a separate learning rate for the ViT, and their decay (section 4.1)."""

import torch
from torch import nn

from meddino.finetune.options import Method


def make_optimizer(network: nn.Module, method: Method) -> torch.optim.Optimizer:
    """SGD or AdamW over the trainable parameters: one group for the ViT, one for the rest.

    Why two rates: the authors' code trains a pretrained ViT at 1e-4 (DINOv3) or 3e-5 (MedDINOv3),
    beside a decoder from random weights at 3e-4 (Primus). A random ViT takes the decoder's rate.
    Weight decay covers norms and biases too, as in nnU-Net and the authors' code.
    """
    backbone: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            # Names of a compiled network start with "_orig_mod.".
            part = backbone if name.removeprefix("_orig_mod.").startswith("backbone.") else rest
            part.append(parameter)
    groups = [
        {"params": backbone, "lr": method.backbone_lr or method.lr},
        {"params": rest, "lr": method.lr},
    ]
    groups = [group for group in groups if group["params"]]
    if method.optimizer == "sgd":
        return torch.optim.SGD(
            groups, momentum=method.momentum, nesterov=True, weight_decay=method.weight_decay
        )
    return torch.optim.AdamW(groups, betas=method.betas, weight_decay=method.weight_decay)


class PolySchedule:
    """Linear rise over `warmup` epochs, then (1 - t)^power down to zero, for every group alike.

    nnU-Net's own scheduler would write one learning rate into all groups.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, epochs: int, power: float, warmup: int = 0
    ) -> None:
        """Remember each group's learning rate as its peak."""
        self.optimizer, self.epochs, self.power, self.warmup = optimizer, epochs, power, warmup
        self.peaks = [group["lr"] for group in optimizer.param_groups]

    def factor(self, epoch: int) -> float:
        """Share of the peak in `epoch`, counted from 0."""
        if epoch < self.warmup:
            return (epoch + 1) / self.warmup
        share: float = 1 - (epoch - self.warmup) / (self.epochs - self.warmup)
        return float(share**self.power)

    def step(self, epoch: int) -> None:
        """Set the learning rates of `epoch`; nnU-Net calls this at its start."""
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * self.factor(epoch)
