"""Patch tokens of a ViT as feature maps of a grey image of any size."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


def patch_features(
    backbone: nn.Module, image: Tensor, blocks: Sequence[int], patch_px: int
) -> list[Tensor]:
    """Feature maps of the chosen blocks, each after the ViT's last norm.

    The grey image is repeated to three channels without ImageNet statistics, as the authors do,
    and zero-padded below and to the right to whole patches, which a strided convolution would
    otherwise drop.

    Args:
        backbone: a ViT with `get_intermediate_layers`.
        image: (B, 1, H, W), z-scored.
        blocks: blocks counted from 0.
        patch_px: side of a patch (px).

    Returns:
        One (B, C, ceil(H / patch_px), ceil(W / patch_px)) a block.
    """
    height, width = image.shape[-2:]
    image = F.pad(image, (0, -width % patch_px, 0, -height % patch_px))
    vit: Any = backbone
    features = vit.get_intermediate_layers(
        image.expand(-1, 3, -1, -1), n=list(blocks), reshape=True, norm=True
    )
    return list(features)
