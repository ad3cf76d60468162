"""DINO U-Net (arXiv 2508.20909): frozen DINOv3, ViT-Adapter, projection, U-Net decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from meddino.models.adapter import STRIDES, Adapter
from meddino.models.primus import he_init
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

        Convolutions of all other parts are drawn as nnU-Net draws them. The authors' code does so
        too, but reaches the frozen ViT's patch embedding as well, whose weights are then lost.

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
        for part in (adapter, projection, decoder):
            part.apply(he_init)

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
    level's own basis gives (FiLM); a refinement is added to its projection. Two transposed
    convolutions, of the same weights, then double each map, so that strides 4 to 32 become 1 to 8.
    """

    def __init__(self, dim: int, rank: int, widths: Sequence[int]) -> None:
        """Build the projection from `dim` over `rank` to `widths`, finest level first."""
        super().__init__()
        self.shared = nn.Conv2d(dim, rank, 1)
        self.own = nn.ModuleList(nn.Conv2d(dim, rank, 1) for _ in widths)
        self.film = nn.ModuleList(nn.Conv2d(rank, 2 * rank, 1) for _ in widths)
        self.refine = nn.ModuleList(Refinement(rank, width) for width in widths)
        self.reduce = nn.ModuleList(
            nn.Identity() if width == rank else nn.Conv2d(rank, width, 1) for width in widths
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(width, width, 2, 2) for width in widths)

    def forward(self, pyramid: Sequence[Tensor]) -> list[Tensor]:
        """Map the adapter's four maps to maps of `widths` at four times their resolution."""
        maps = []
        for level, x in enumerate(pyramid):
            scale, shift = self.film[level](self.shared(x)).chunk(2, dim=1)
            modulated = scale * self.own[level](x) + shift
            refined = self.refine[level](modulated) + self.reduce[level](modulated)
            maps.append(self.up[level](self.up[level](refined)))
        return maps


class Refinement(nn.Module):
    """Depthwise and pointwise convolutions, weighted by squeeze and excitation."""

    def __init__(self, rank: int, width: int, squeeze: int = 16) -> None:
        """Build a block from `rank` to `width` channels; its gate is `squeeze` times narrower."""
        super().__init__()
        hidden = max(1, width // squeeze)
        self.body = nn.Sequential(
            nn.Conv2d(rank, width, 1),
            *_normed(width),
            nn.Conv2d(width, width, 3, 1, 1, groups=width),
            nn.Conv2d(width, width, 1),
            *_normed(width),
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
        """Map (B, rank, H, W) to (B, width, H, W)."""
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
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 3, 1, 1), *_normed(channels_out))


def _normed(width: int) -> tuple[nn.Module, nn.Module]:
    return nn.InstanceNorm2d(width, affine=True), nn.LeakyReLU(inplace=True)
