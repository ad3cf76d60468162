"""Multi-scale deformable attention in plain torch (Deformable DETR, arXiv 2010.04159, section 4.1).

The authors' DINO U-Net needs a compiled CUDA operator for its backward pass; sampling with
`grid_sample` gives the same numbers on every device, with autograd's gradient.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shape = tuple[int, int]


def sample_and_sum(
    value: Tensor, shapes: Sequence[Shape], locations: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sum of bilinear samples; samples outside a map count as zero.

    Args:
        value: (B, S, M, D): S tokens of all L maps one after another, M heads of D channels.
        shapes: (height, width) of each map; their areas add up to S.
        locations: (B, Q, M, L, P, 2): P points a query, head and map, as (x, y) in units of the
            map's width and height, so that (0, 0) and (1, 1) are the outer corners.
        weights: (B, Q, M, L, P): attention weights.

    Returns:
        (B, Q, M * D).
    """
    batch, _, heads, channels = value.shape
    queries = locations.shape[1]
    maps = value.split([height * width for height, width in shapes], dim=1)
    grid = (2 * locations - 1).transpose(1, 2).flatten(0, 1)  # (B*M, Q, L, P, 2)
    sampled = [
        F.grid_sample(
            tokens.permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width),
            grid[:, :, level],
            align_corners=False,
        )  # (B*M, D, Q, P)
        for level, (tokens, (height, width)) in enumerate(zip(maps, shapes, strict=True))
    ]
    attention = weights.transpose(1, 2).flatten(0, 1).flatten(2)[:, None]  # (B*M, 1, Q, L*P)
    summed = (torch.cat(sampled, dim=-1) * attention).sum(-1)  # (B*M, D, Q)
    return summed.view(batch, heads * channels, queries).transpose(1, 2)


class DeformableAttention(nn.Module):
    """Each query looks at a few points around its own place, learnt offsets apart."""

    def __init__(self, dim: int, heads: int, levels: int, points: int, ratio: float) -> None:
        """Build the projections.

        Args:
            dim: width of queries and tokens.
            heads: number of heads.
            levels: number of maps that are looked at.
            points: points a head and map.
            ratio: width of the values as a share of `dim`.
        """
        super().__init__()
        inner = int(dim * ratio)
        if inner % heads:
            raise ValueError(f"{heads} heads do not divide the {inner} channels of the values")
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(dim, heads * levels * points * 2)
        self.weights = nn.Linear(dim, heads * levels * points)
        self.value = nn.Linear(dim, inner)
        self.out = nn.Linear(inner, dim)
        self._init()

    def _init(self) -> None:
        """Start with equal weights and points on rays, one direction a head (section A.2)."""
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)
        for linear in (self.value, self.out):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        ray = torch.stack((angle.cos(), angle.sin()), -1)
        ray = ray / ray.abs().amax(-1, keepdim=True)  # (M, 2)
        reach = torch.arange(1, self.points + 1)[None, None, :, None]
        bias = (ray[:, None, None] * reach).expand(-1, self.levels, -1, -1)  # (M, L, P, 2)
        with torch.no_grad():
            self.offsets.bias.copy_(bias.reshape(-1))

    def forward(
        self, query: Tensor, places: Tensor, tokens: Tensor, shapes: Sequence[Shape]
    ) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, C).
            places: (Q, 2): where each query is, (x, y) in 0..1.
            tokens: (B, S, C): the tokens of all maps.
            shapes: (height, width) of each map.

        Returns:
            (B, Q, C).
        """
        batch, queries, _ = query.shape
        split = (batch, queries, self.heads, self.levels, self.points)
        size = query.new_tensor([[width, height] for height, width in shapes])  # (L, 2)
        offsets = self.offsets(query).view(*split, 2) / size[:, None]
        locations = places[:, None, None, None] + offsets
        weights = self.weights(query).view(*split[:3], -1).softmax(-1).view(split)
        value = self.value(tokens).unflatten(-1, (self.heads, -1))
        out: Tensor = self.out(sample_and_sum(value, shapes, locations.to(value), weights))
        return out


def centres(shapes: Sequence[Shape], like: Tensor) -> Tensor:
    """Pixel centres of the maps, (sum of areas, 2), as (x, y) in 0..1."""
    places = []
    for height, width in shapes:
        y = (torch.arange(height, device=like.device) + 0.5) / height
        x = (torch.arange(width, device=like.device) + 0.5) / width
        grid = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1).flip(-1)
        places.append(grid.reshape(-1, 2))
    return torch.cat(places).to(like.dtype)
