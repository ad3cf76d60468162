"""ViT-Adapter for a frozen DINOv3 (arXiv 2205.08534), as DINO U-Net uses it: extractors only.

A small convolutional branch ("spatial prior") supplies the resolution that patch tokens lack.
Its tokens read from the ViT's tokens by deformable attention; nothing flows back, so the ViT needs
no gradient. The result are four maps of the ViT's width at strides 4, 8, 16 and 32.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from meddino.models.deformable import DeformableAttention, Shape, centres

STRIDES = (4, 8, 16, 32)
EXTRA_EXTRACTORS = 2  # after the last block, as in DINOv3's adapter
NORM_EPS = 1e-6


class Adapter(nn.Module):
    """Turns the patch features of some blocks into a pyramid of feature maps."""

    def __init__(
        self,
        dim: int,
        num_features: int,
        prior_width: int,
        heads: int,
        points: int = 4,
        mlp_ratio: float = 0.25,
        value_ratio: float = 0.5,
        drop_path: float = 0.0,
    ) -> None:
        """Build the adapter.

        Args:
            dim: width of the ViT's tokens.
            num_features: number of blocks that are read, in order.
            prior_width: channels of the first convolutions of the spatial prior.
            heads: heads of the deformable attention; divides `dim * value_ratio`.
            points: sampling points a head.
            mlp_ratio: hidden width of the extractors' MLP as a share of `dim`.
            value_ratio: width of the attention's values as a share of `dim`.
            drop_path: share of samples whose MLP branch is dropped in training.
        """
        super().__init__()
        self.prior = SpatialPrior(dim, prior_width)
        self.level = nn.Parameter(torch.empty(3, dim).normal_())
        self.extractors = nn.ModuleList(
            Extractor(dim, heads, points, mlp_ratio, value_ratio, drop_path)
            for _ in range(num_features + EXTRA_EXTRACTORS)
        )
        self.up = nn.ConvTranspose2d(dim, dim, 2, 2)
        self.norms = nn.ModuleList(nn.BatchNorm2d(dim) for _ in STRIDES)

    def forward(self, image: Tensor, features: Sequence[Tensor]) -> list[Tensor]:
        """Read from the ViT.

        Args:
            image: (B, 3, H, W), sides that are multiples of 32.
            features: one (B, dim, h, w) for each block that is read.

        Returns:
            Four maps (B, dim, H / stride, W / stride) at strides 4, 8, 16 and 32.
        """
        finest, *coarse = self.prior(image)
        shapes = [(c.shape[2], c.shape[3]) for c in coarse]
        query = torch.cat(
            [c.flatten(2).transpose(1, 2) + self.level[i] for i, c in enumerate(coarse)], dim=1
        )
        repeated = [*features, *[features[-1]] * EXTRA_EXTRACTORS]
        for extractor, feature in zip(self.extractors, repeated, strict=True):
            query = extractor(query, shapes, feature)
        parts = query.split([height * width for height, width in shapes], dim=1)
        maps = [p.transpose(1, 2).unflatten(-1, s) for p, s in zip(parts, shapes, strict=True)]
        pyramid = [self.up(maps[0]) + finest, *maps]
        # "ViT feature fusion": each level also gets one block's own map.
        levels = [features[i * (len(features) - 1) // (len(pyramid) - 1)] for i in range(4)]
        return [
            norm(level + F.interpolate(feature, level.shape[-2:], mode="bilinear"))
            for norm, level, feature in zip(self.norms, pyramid, levels, strict=True)
        ]


class SpatialPrior(nn.Module):
    """Convolutional stem giving maps of width `dim` at strides 4, 8, 16 and 32."""

    def __init__(self, dim: int, width: int) -> None:
        """Build the stem; its stages are `width`, then 2 and 4 times as wide."""
        super().__init__()
        self.stem = nn.Sequential(
            _conv(3, width, stride=2),
            _conv(width, width),
            _conv(width, width),
            nn.MaxPool2d(3, 2, 1),
        )
        self.stages = nn.ModuleList(
            _conv(a * width, b * width, stride=2) for a, b in ((1, 2), (2, 4), (4, 4))
        )
        self.projections = nn.ModuleList(nn.Conv2d(w * width, dim, 1) for w in (1, 2, 4, 4))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map (B, 3, H, W) to four maps (B, dim, H / stride, W / stride)."""
        maps = [self.stem(image)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return [project(x) for project, x in zip(self.projections, maps, strict=True)]


class Extractor(nn.Module):
    """Deformable cross-attention from the prior's tokens to the ViT's, then a convolutional MLP."""

    def __init__(
        self,
        dim: int,
        heads: int,
        points: int,
        mlp_ratio: float,
        value_ratio: float,
        drop_path: float,
    ) -> None:
        """Build one extractor; the arguments are those of `Adapter`."""
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.query_norm = nn.LayerNorm(dim, NORM_EPS)
        self.feature_norm = nn.LayerNorm(dim, NORM_EPS)
        self.attention = DeformableAttention(dim, heads, 1, points, value_ratio)
        self.mlp_norm = nn.LayerNorm(dim, NORM_EPS)
        self.fc1 = nn.Linear(dim, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.drop_path = drop_path
        for linear in (self.fc1, self.fc2):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, query: Tensor, shapes: Sequence[Shape], feature: Tensor) -> Tensor:
        """Update `query` (B, Q, dim), the tokens of maps of `shapes`, from one (B, dim, h, w)."""
        tokens = self.feature_norm(feature.flatten(2).transpose(1, 2))
        source_shapes = [(feature.shape[2], feature.shape[3])]
        places = centres(shapes, query)
        query = query + self.attention(self.query_norm(query), places, tokens, source_shapes)
        return query + self._drop(self._mlp(self.mlp_norm(query), shapes))

    def _mlp(self, tokens: Tensor, shapes: Sequence[Shape]) -> Tensor:
        hidden = self.fc1(tokens)
        parts = hidden.split([height * width for height, width in shapes], dim=1)
        mixed = [
            self.depthwise(p.transpose(1, 2).unflatten(-1, s)).flatten(2).transpose(1, 2)
            for p, s in zip(parts, shapes, strict=True)
        ]
        out: Tensor = self.fc2(F.gelu(torch.cat(mixed, dim=1)))
        return out

    def _drop(self, branch: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0:
            return branch
        mask = torch.rand(len(branch), 1, 1, device=branch.device) >= self.drop_path
        return branch * mask / (1 - self.drop_path)


def _conv(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )
