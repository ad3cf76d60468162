"""What a network weighs: its parameters, and the operations of a forward pass, counted by torch.

Nothing is computed: tensors of the device `meta` have shapes and no values.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from meddino.models.tokens import patch_features


class Size(NamedTuple):
    """Parameters and operations of a network; those of its ViT are NaN where it has none.

    Attributes:
        parameters: all numbers that it learns.
        backbone_parameters: those of its ViT.
        gflop: 1e9 floating point operations of one input: of matrix products, attention and
            convolutions, a multiplication and an addition counting as two.
        backbone_gflop: those of its ViT, up to the last block that is read.
    """

    parameters: float
    backbone_parameters: float
    gflop: float
    backbone_gflop: float


def size_of(network: nn.Module, shape: tuple[int, ...]) -> Size:
    """Count what a network has and what it computes of one grey image.

    Args:
        network: maps images (B, 1, H, W); it is moved to the device `meta`, and of no use after.
        shape: height and width of the image (px).
    """
    network = network.to("meta").eval()
    backbone: Any = getattr(network, "backbone", None)
    blocks: Any = getattr(network, "blocks", None)
    with torch.device("meta"):
        image = torch.empty(1, 1, *shape)
        gflop = _gflop(lambda: network(image))
        if backbone is None or blocks is None:
            return Size(_parameters(network), float("nan"), gflop, float("nan"))
        of_vit = _gflop(lambda: patch_features(backbone, image, blocks, backbone.patch_size))
    return Size(_parameters(network), _parameters(backbone), gflop, of_vit)


def _parameters(module: nn.Module) -> float:
    return float(sum(parameter.numel() for parameter in module.parameters()))


@torch.no_grad()
def _gflop(forward: Callable[[], Tensor | list[Tensor]]) -> float:
    with FlopCounterMode(display=False) as counter:
        forward()
    return float(counter.get_total_flops()) / 1e9
