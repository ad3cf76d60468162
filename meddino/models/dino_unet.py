"""DINO U-Net (arXiv 2508.20909): frozen DINOv3, ViT-Adapter, projection, U-Net decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from meddino.models.adapter import STRIDES, Adapter
from meddino.models.tokens import patch_features


class DinoUNet(nn.Module):
    """A U-Net whose encoder is a frozen ViT with a trained adapter."""

    def __init__(
        self,
        backbone: nn.Module,
        patch_px: int,
        blocks: Sequence[int],
        adapter: Adapter,
        projection: FidelityProjection,
        decoder: UNetDecoder,
    ) -> None:
        """Join the parts; the backbone's parameters stop requiring a gradient.

        Args:
            backbone: a ViT with `get_intermediate_layers`, of three input channels.
            patch_px: side of its patches (px).
            blocks: blocks that the adapter reads, counted from 0.
            adapter: reads `len(blocks)` features.
            projection: from the ViT's width to the decoder's.
            decoder: from four maps at strides 1, 2, 4 and 8 to logits.
        """
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.patch_px, self.blocks = patch_px, tuple(blocks)
        self.adapter, self.projection, self.decoder = adapter, projection, decoder

    def train(self, mode: bool = True) -> DinoUNet:
        """Set training mode everywhere but in the frozen backbone, where nothing may be random."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, image: Tensor) -> Tensor:
        """Map images (B, 1, H, W) to logits (B, classes, H, W)."""
        height, width = image.shape[-2:]
        padded = F.pad(image, (0, -width % STRIDES[-1], 0, -height % STRIDES[-1]))
        with torch.no_grad():
            features = patch_features(self.backbone, padded, self.blocks, self.patch_px)
        pyramid = self.adapter(padded.expand(-1, 3, -1, -1), features)
        logits: Tensor = self.decoder(self.projection(pyramid))
        return logits[:, :, :height, :width]


class FidelityProjection(nn.Module):
    """DINO U-Net's fidelity-aware projection of the ViT's width to the decoder's.

    At each level a context, projected by a basis shared by all levels, scales and shifts what the
    level's own basis gives (FiLM); a depthwise block with squeeze and excitation refines the sum.
    The maps are then upsampled four times, so that strides 4 to 32 become 1 to 8.
    """

    def __init__(self, dim: int, rank: int, widths: Sequence[int]) -> None:
        """Build the projection from `dim` over `rank` to `widths`, finest level first."""
        super().__init__()
        self.shared = nn.Conv2d(dim, rank, 1, bias=False)
        self.own = nn.ModuleList(nn.Conv2d(dim, rank, 1, bias=False) for _ in widths)
        self.film = nn.ModuleList(nn.Conv2d(rank, 2 * rank, 1) for _ in widths)
        self.reduce = nn.ModuleList(nn.Conv2d(rank, width, 1, bias=False) for width in widths)
        self.refine = nn.ModuleList(Refinement(width) for width in widths)
        self.smooth = nn.ModuleList(conv_block(width, width) for width in widths)

    def forward(self, pyramid: Sequence[Tensor]) -> list[Tensor]:
        """Map the adapter's four maps to maps of `widths` at four times their resolution."""
        maps = []
        for level, x in enumerate(pyramid):
            scale, shift = self.film[level](self.shared(x)).chunk(2, dim=1)
            modulated = self.reduce[level](scale * self.own[level](x) + shift)
            refined = modulated + self.refine[level](modulated)
            maps.append(self.smooth[level](F.interpolate(refined, scale_factor=4, mode="bilinear")))
        return maps


class Refinement(nn.Module):
    """Depthwise and pointwise convolution, weighted by squeeze and excitation."""

    def __init__(self, width: int, squeeze: int = 16) -> None:
        """Build a block of `width` channels; the gate is `squeeze` times narrower."""
        super().__init__()
        hidden = max(4, width // squeeze)  # one alone would often start dead
        self.body = nn.Sequential(
            nn.InstanceNorm2d(width, affine=True),
            nn.LeakyReLU(inplace=True),
            nn.Conv2d(width, width, 3, 1, 1, groups=width, bias=False),
            nn.Conv2d(width, width, 1),
        )
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(width, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, width, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, H, W) to the same shape."""
        x = self.body(x)
        gated: Tensor = x * self.gate(x)
        return gated


class UNetDecoder(nn.Module):
    """nnU-Net's decoder: transposed convolution, skip connection, convolutions, level by level."""

    def __init__(self, widths: Sequence[int], num_convs: int, classes: int) -> None:
        """Build the decoder for maps of `widths`, finest level first, each half the one before."""
        super().__init__()
        pairs = list(zip(widths[1:], widths[:-1], strict=True))[::-1]
        self.ups = nn.ModuleList(nn.ConvTranspose2d(low, high, 2, 2) for low, high in pairs)
        self.convs = nn.ModuleList(
            nn.Sequential(
                conv_block(2 * high, high), *[conv_block(high, high) for _ in range(num_convs - 1)]
            )
            for _, high in pairs
        )
        self.classifier = nn.Conv2d(widths[0], classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Map the maps, finest first, to logits (B, classes, H, W) of the finest resolution."""
        *skips, x = maps
        for up, convs in zip(self.ups, self.convs, strict=True):
            x = convs(torch.cat((up(x), skips.pop()), dim=1))
        logits: Tensor = self.classifier(x)
        return logits


def conv_block(channels_in: int, channels_out: int) -> nn.Sequential:
    """nnU-Net's convolution, instance normalisation and leaky ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, 1, 1),
        nn.InstanceNorm2d(channels_out, affine=True),
        nn.LeakyReLU(inplace=True),
    )
