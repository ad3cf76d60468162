"""The DINOv3 vision transformer, with the public key names (DINOv3, sections 3.2 and 5).

Tokens are ordered class token, storage (register) tokens, patches row by row. Positions enter by a
rotary embedding of the patches alone, so that any size of image works.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from meddino.models.architectures import Architecture, named

Features = dict[str, Tensor | None]


class Branch(NamedTuple):
    """The images that run through a residual branch in training; the others skip it."""

    images: Tensor
    """Their places in the batch, int64 (kept,)."""
    scale: float
    """Factor of the branch, which makes up for the images that skip it."""


@dataclass(frozen=True)
class Noise:
    """What training changes at random in the network, drawn beforehand, for one batch of images.

    Without it the network draws by itself. A caller that shows a batch in parts draws for the batch
    and gives each part its share, so that the result does not depend on the parts.
    """

    branches: Sequence[tuple[Branch, Branch]] | None
    """Of each block, drop path of attention and of MLP; None without drop path."""
    rescale: Tensor | None
    """Of each block, the factor of all positions, float32 (depth,); None without that."""


class VisionTransformer(nn.Module):
    """DINOv3's ViT."""

    def __init__(self, architecture: Architecture) -> None:
        """Build it with random weights."""
        super().__init__()
        a = self.architecture = architecture
        self.embed_dim, self.patch_size, self.num_heads = a.embed_dim, a.patch_size, a.num_heads
        self.cls_token = nn.Parameter(torch.empty(1, 1, a.embed_dim))
        if a.storage_tokens:
            self.storage_tokens = nn.Parameter(torch.empty(1, a.storage_tokens, a.embed_dim))
        self.mask_token = nn.Parameter(torch.empty(1, a.embed_dim))
        self.patch_embed = PatchEmbed(a.patch_size, a.embed_dim)
        self.rope_embed = RotaryEmbedding(a.embed_dim // a.num_heads, a.rope_base, a.rope_rescale)
        self.blocks = nn.ModuleList(Block(a) for _ in range(a.depth))
        self.norm = nn.LayerNorm(a.embed_dim, eps=a.norm_eps)
        if a.untie_cls_norm:
            self.cls_norm = nn.LayerNorm(a.embed_dim, eps=a.norm_eps)
        if a.untie_local_cls_norm:
            self.local_cls_norm = nn.LayerNorm(a.embed_dim, eps=a.norm_eps)
        self.checkpointing = False
        """Whether training computes each block twice in place of keeping what is inside it."""
        self.half_residuals = False
        """Whether autocast's precision holds for the sums of the residual branches as well, as in
        DINOv3's trainer; they are float32 otherwise."""
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw weights as DINOv3 does."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        bound = (3 * self.patch_size**2) ** -0.5
        nn.init.uniform_(self.patch_embed.proj.weight, -bound, bound)
        nn.init.uniform_(self.patch_embed.proj.bias, -bound, bound)  # type: ignore[arg-type]
        nn.init.normal_(self.cls_token, std=0.02)
        if self.architecture.storage_tokens:
            nn.init.normal_(self.storage_tokens, std=0.02)
        nn.init.zeros_(self.mask_token)

    def forward_features(
        self,
        x: Tensor | Sequence[Tensor],
        masks: Tensor | Sequence[Tensor | None] | None = None,
        noise: Sequence[Noise | None] | None = None,
    ) -> Any:
        """Compute normalised tokens.

        Args:
            x: images (B, 3, H, W), or a list of such batches of different sizes; of a list, the
                first entry is the global crops, the second the local ones.
            masks: bool (B, patches) of patches to replace by the mask token, or None; a list
                where `x` is one.
            noise: of a list `x`, the noise of each entry in training; None lets the network draw.

        Returns:
            `x_norm_clstoken` (B, C), `x_storage_tokens` (B, S, C), `x_norm_patchtokens`
            (B, patches, C), `x_prenorm` (B, 1 + S + patches, C) and `masks`; a list where `x` is.
        """
        if isinstance(x, Tensor):
            assert masks is None or isinstance(masks, Tensor)
            return self._features(x, masks, 0)
        none = [None] * len(x)
        entries = zip(x, masks or none, noise or none, strict=True)
        return [self._features(e, m, number, n) for number, (e, m, n) in enumerate(entries)]

    def forward(self, x: Tensor) -> Tensor:
        """Class tokens (B, C) of images (B, 3, H, W)."""
        token: Tensor = self._features(x, None, 0)["x_norm_clstoken"]  # type: ignore[assignment]
        return token

    def get_intermediate_layers(
        self,
        x: Tensor,
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_class_token: bool = False,
        norm: bool = True,
    ) -> tuple[Any, ...]:
        """Patch tokens of several blocks.

        Args:
            x: images (B, 3, H, W).
            n: the last n blocks, or the blocks of these numbers, counted from 0.
            reshape: give (B, C, h, w) in place of (B, patches, C).
            return_class_token: give pairs of patches and class tokens.
            norm: apply the last norm.
        """
        blocks = range(len(self.blocks) - n, len(self.blocks)) if isinstance(n, int) else n
        tokens, grid = self._embed(x, None)
        tokens_after: dict[int, Tensor] = {}
        for number, after in enumerate(self._blocks(tokens, grid)):
            if number in blocks:
                tokens_after[number] = after
        outputs = []
        for number in blocks:
            cls, _, patches = (
                self._normed(tokens_after[number], 0) if norm else self._split(tokens_after[number])
            )
            if reshape:
                patches = patches.transpose(1, 2).unflatten(2, grid)
            outputs.append((patches, cls) if return_class_token else patches)
        return tuple(outputs)

    def _features(
        self, x: Tensor, masks: Tensor | None, entry: int, noise: Noise | None = None
    ) -> Features:
        tokens, grid = self._embed(x, masks)
        *_, tokens = self._blocks(tokens, grid, noise)
        cls, storage, patches = self._normed(tokens, entry)
        return {
            "x_norm_clstoken": cls,
            "x_storage_tokens": storage,
            "x_norm_patchtokens": patches,
            "x_prenorm": tokens,
            "masks": masks,
        }

    def _blocks(
        self, tokens: Tensor, grid: tuple[int, int], noise: Noise | None = None
    ) -> Iterator[Tensor]:
        """Tokens after each block; positions change from block to block where augmented."""
        augmented = self.training and self.rope_embed.rescale is not None
        factors = noise.rescale if noise is not None and self.training else None
        branches = noise.branches if noise is not None and self.training else None
        for number, block in enumerate(self.blocks):
            if number == 0 or augmented:
                rope = self.rope_embed(*grid, None if factors is None else factors[number])
            drop_path = None if branches is None else branches[number]
            if self.checkpointing and self.training:
                tokens = checkpoint(block, tokens, rope, drop_path, use_reentrant=False)
            else:
                tokens = block(tokens, rope, drop_path)
            yield tokens

    def _embed(self, x: Tensor, masks: Tensor | None) -> tuple[Tensor, tuple[int, int]]:
        patches = self.patch_embed(x)
        grid = (patches.shape[2], patches.shape[3])
        tokens = patches.flatten(2).transpose(1, 2)
        if masks is not None:
            tokens = torch.where(masks[..., None], self.mask_token.to(tokens.dtype), tokens)
        extra: list[Tensor] = [self.cls_token]
        if self.architecture.storage_tokens:
            extra.append(self.storage_tokens)
        prefix = torch.cat(extra, dim=1).expand(len(x), -1, -1)
        if self.half_residuals:
            prefix = prefix.to(tokens.dtype)
        return torch.cat([prefix, tokens], dim=1), grid

    def _split(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        first = 1 + self.architecture.storage_tokens
        return tokens[:, 0], tokens[:, 1:first], tokens[:, first:]

    def _normed(self, tokens: Tensor, entry: int) -> tuple[Tensor, Tensor, Tensor]:
        first = 1 + self.architecture.storage_tokens
        norm = self.cls_norm if self.architecture.untie_cls_norm else self.norm
        if self.architecture.untie_local_cls_norm and self.training and entry == 1:
            norm = self.local_cls_norm
        if norm is self.norm:
            return self._split(self.norm(tokens))
        prefix = norm(tokens[:, :first])
        return prefix[:, 0], prefix[:, 1:], self.norm(tokens[:, first:])


class PatchEmbed(nn.Module):
    """Patches as tokens."""

    def __init__(self, patch_size: int, embed_dim: int) -> None:
        """Build the strided convolution."""
        super().__init__()
        self.proj = nn.Conv2d(3, embed_dim, patch_size, patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, C, h, w); a rest that fills no patch is cut off."""
        tokens: Tensor = self.proj(x)
        return tokens


class RotaryEmbedding(nn.Module):
    """Rotations that carry the position of patches, in coordinates from -1 to 1 on both axes."""

    periods: Tensor

    def __init__(self, head_dim: int, base: float, rescale: float | None) -> None:
        """Compute head_dim / 4 periods, from 1 to below `base`."""
        super().__init__()
        count = head_dim // 4
        self.rescale = rescale
        periods = base ** (torch.arange(count, dtype=torch.float32) / count)
        self.register_buffer("periods", periods)

    def forward(
        self, height: int, width: int, factor: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Sine and cosine for a grid of patches, each (height * width, head_dim).

        Positions are scaled by `factor`, or in training by one that is drawn here.
        """
        options = {"device": self.periods.device, "dtype": torch.float32}
        y = (torch.arange(height, **options) + 0.5) / height * 2 - 1  # type: ignore[call-overload]
        x = (torch.arange(width, **options) + 0.5) / width * 2 - 1  # type: ignore[call-overload]
        coordinates = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).reshape(-1, 2)
        if factor is None and self.training and self.rescale is not None:
            reach = math.log(self.rescale)
            factor = torch.empty(1, **options).uniform_(-reach, reach).exp()  # type: ignore[call-overload]
        if factor is not None:
            coordinates = coordinates * factor
        angles = 2 * math.pi * coordinates[:, :, None] / self.periods.float()
        angles = angles.flatten(1).repeat(1, 2)
        return angles.sin(), angles.cos()


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate patches of queries and keys (..., heads, tokens, head_dim); other tokens stay."""
    sin, cos = rope
    prefix = x.shape[-2] - len(sin)
    patches = x[..., prefix:, :].float()
    first, second = patches.chunk(2, dim=-1)
    rotated = patches * cos + torch.cat([-second, first], dim=-1) * sin
    return torch.cat([x[..., :prefix, :], rotated.to(x.dtype)], dim=-2)


class MaskedBiasLinear(nn.Linear):
    """The joint projection to queries, keys and values, with a bias of queries and values only.

    A bias of keys adds the same number to all scores of a query, which softmax cancels: its
    gradient would be noise.
    """

    bias_mask: Tensor

    def __init__(self, features_in: int, features_out: int) -> None:
        """Build it; the middle third of the outputs are the keys."""
        super().__init__(features_in, features_out)
        mask = torch.ones(features_out)
        mask[features_out // 3 : 2 * features_out // 3] = 0
        self.register_buffer("bias_mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the projection."""
        return F.linear(x, self.weight, self.bias * self.bias_mask)


class Attention(nn.Module):
    """Self-attention with rotary positions."""

    def __init__(self, a: Architecture) -> None:
        """Build it."""
        super().__init__()
        self.num_heads = a.num_heads
        masked = a.qkv_bias and a.mask_k_bias
        self.qkv: nn.Linear = (
            MaskedBiasLinear(a.embed_dim, 3 * a.embed_dim)
            if masked
            else nn.Linear(a.embed_dim, 3 * a.embed_dim, bias=a.qkv_bias)
        )
        self.proj = nn.Linear(a.embed_dim, a.embed_dim)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        """Map tokens (B, N, C) to the same shape."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = rotate(qkv[:2], rope)
        x = F.scaled_dot_product_attention(q, k, qkv[2])
        projected: Tensor = self.proj(x.transpose(1, 2).flatten(2))
        return projected


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        """Build it."""
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, N, C) to the same shape."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class LayerScale(nn.Module):
    """A learned scale of each channel."""

    def __init__(self, width: int, value: float) -> None:
        """Start all scales at `value`."""
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), value))

    def forward(self, x: Tensor) -> Tensor:
        """Scale the last dimension."""
        return x * self.gamma


class Block(nn.Module):
    """A transformer block: attention and MLP, each behind a norm and beside a residual."""

    def __init__(self, a: Architecture) -> None:
        """Build it."""
        super().__init__()
        self.drop_path = a.drop_path
        self.norm1 = nn.LayerNorm(a.embed_dim, eps=a.norm_eps)
        self.attn = Attention(a)
        self.norm2 = nn.LayerNorm(a.embed_dim, eps=a.norm_eps)
        self.mlp = Mlp(a.embed_dim, int(a.embed_dim * a.ffn_ratio))
        self.ls1: nn.Module = nn.Identity()
        self.ls2: nn.Module = nn.Identity()
        if a.layerscale is not None:
            self.ls1, self.ls2 = (LayerScale(a.embed_dim, a.layerscale) for _ in range(2))

    def forward(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor],
        drop_path: tuple[Branch, Branch] | None = None,
    ) -> Tensor:
        """Map tokens (B, N, C) to the same shape."""
        attention, mlp = (None, None) if drop_path is None else drop_path
        x = self._add(x, lambda part: self.ls1(self.attn(self.norm1(part), rope)), attention)
        return self._add(x, lambda part: self.ls2(self.mlp(self.norm2(part))), mlp)

    def _add(self, x: Tensor, branch: Any, kept: Branch | None) -> Tensor:
        """Add a residual branch; in training only a random subset of the images runs through it.

        As in DINOv2 and 3, the subset's size is fixed and its branch is scaled up, which saves the
        work that stochastic depth throws away.
        """
        if not (self.training and self.drop_path > 0):
            return x + branch(x).to(x.dtype)
        if kept is None:
            count = kept_images(len(x), self.drop_path)
            images = torch.randperm(len(x), device=x.device)[:count]
            kept = Branch(images, len(x) / count)
        residual = branch(x[kept.images])
        return x.index_add(0, kept.images, residual.to(x.dtype), alpha=kept.scale)


def kept_images(images: int, drop_path: float) -> int:
    """How many images of a batch run through a residual branch."""
    return max(int(images * (1 - drop_path)), 1)


def build(name: str, **changes: Any) -> VisionTransformer:
    """Build a named architecture with some of its fields changed.

    Raises:
        ValueError: there is no such architecture.
    """
    return VisionTransformer(replace(named(name), **changes))
