"""MedDINOv3's segmentation network: ViT, multi-scale patch tokens, Primus decoder (section 3.1)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from meddino.models.tokens import patch_features


class Primus(nn.Module):
    """A plain ViT whose patch tokens are upsampled to class logits.

    The features of several blocks are concatenated ("multi-scale token aggregation"); with one
    block, the last, this is the paper's Primus baseline.
    """

    def __init__(
        self,
        backbone: nn.Module,
        embed_dim: int,
        patch_px: int,
        blocks: Sequence[int],
        classes: int,
    ) -> None:
        """Build the network.

        Args:
            backbone: a ViT with `get_intermediate_layers`, of three input channels.
            embed_dim: width C of its tokens.
            patch_px: side of its patches (px). Where it is no power of two, as in DINOv2, the
                logits come out finer than the image, and are interpolated to it.
            blocks: blocks whose patch tokens are used, counted from 0; the paper's are 2, 5, 8, 11.
            classes: number of classes, background included.
        """
        super().__init__()
        self.backbone = backbone
        self.patch_px = patch_px
        self.blocks = tuple(blocks)
        self.decoder = PrimusDecoder(embed_dim * len(self.blocks), patch_px, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Map images (B, 1, H, W), z-scored by nnU-Net, to logits (B, classes, H, W)."""
        features = patch_features(self.backbone, image, self.blocks, self.patch_px)
        # Channels of all blocks side by side: (B, blocks * C, H / patch, W / patch)
        logits: Tensor = self.decoder(torch.cat(features, dim=1))
        height, width = (side * self.patch_px for side in features[0].shape[-2:])
        if logits.shape[-2:] != (height, width):
            logits = F.interpolate(logits, (height, width), mode="bilinear")
        return logits[:, :, : image.shape[2], : image.shape[3]]


class PrimusDecoder(nn.Sequential):
    """Back-to-back (transposed convolution, LayerNorm, GELU), each doubling the resolution.

    The channels are halved in every stage, as in the authors' code; a 1x1 convolution gives the
    logits. A patch of 16 px takes four stages, and so does one of 14.
    """

    def __init__(self, channels: int, patch_px: int, classes: int) -> None:
        """Build the stages for `channels` input channels and patches of `patch_px`."""
        stages: list[nn.Module] = []
        for _ in range(num_doublings(patch_px)):
            stages.append(UpsamplingStage(channels, channels // 2))
            channels //= 2
        super().__init__(*stages, nn.Conv2d(channels, classes, kernel_size=1))
        self.apply(he_init)


class UpsamplingStage(nn.Module):
    """Transposed convolution of kernel and stride 2, LayerNorm over channels, GELU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        """Build a stage from `channels_in` to `channels_out` channels."""
        super().__init__()
        self.up = nn.ConvTranspose2d(channels_in, channels_out, kernel_size=2, stride=2)
        # That of LayerNormNd in dynamic-network-architectures, which the authors' decoder uses;
        # torch's default is 1e-5.
        self.norm = nn.LayerNorm(channels_out, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels_in, H, W) to (B, channels_out, 2H, 2W)."""
        x = self.up(x)  # (B, channels_out, 2H, 2W)
        x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # over channels, at each pixel
        return F.gelu(x)


def num_doublings(patch_px: int) -> int:
    """How often a patch grid must be doubled to be as fine as pixels, or finer.

    Raises:
        ValueError: there is nothing to double.
    """
    if patch_px < 2:
        raise ValueError(f"a decoder of doublings needs a patch of 2 px or more, not {patch_px}")
    return (patch_px - 1).bit_length()


def he_init(module: nn.Module) -> None:
    """Draw a convolution's weights as nnU-Net does (InitWeights_He, slope 1e-2); for `apply`."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(module.weight, a=1e-2)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
