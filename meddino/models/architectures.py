"""ViTs by name. The workflow checks names against this list, so nothing heavy is imported."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Everything that fixes a ViT's parameters and its forward pass."""

    embed_dim: int
    """Width of a token."""
    depth: int
    """Number of blocks."""
    num_heads: int
    """Attention heads; each is embed_dim / num_heads wide, a multiple of 4."""
    patch_size: int = 16
    """Side of a patch (px)."""
    ffn_ratio: float = 4.0
    """Width of the hidden layer of a block's MLP over embed_dim."""
    storage_tokens: int = 4
    """Learned tokens beside the class token, called registers elsewhere."""
    qkv_bias: bool = True
    """Whether queries and values have a bias; that of keys is masked out by `mask_k_bias`."""
    mask_k_bias: bool = True
    """Whether a 0/1 buffer silences the bias of keys."""
    layerscale: float | None = 1e-5
    """Initial scale of the residual branches; None leaves the scales out."""
    norm_eps: float = 1e-5
    """Epsilon of the layer norms: 1e-5 in DINOv3's hub, 1e-6 in MedDINOv3 and FlexiCT."""
    untie_cls_norm: bool = False
    """Whether class and storage tokens have a last norm of their own."""
    untie_local_cls_norm: bool = False
    """Whether those of local crops have one more, used in training only."""
    rope_base: float = 100.0
    """Longest period over the shortest of the rotary embedding."""
    rope_rescale: float | None = None
    """Training augmentation: positions are scaled by a factor from [1/r, r], anew in each block."""
    drop_path: float = 0.0
    """Training: share of images that skip a residual branch."""

    def tokens(self, side_px: int) -> int:
        """Tokens of a square image."""
        return (side_px // self.patch_size) ** 2 + 1 + self.storage_tokens

    @property
    def block_weights(self) -> float:
        """Weights of a block's matrices."""
        return (4 + 2 * self.ffn_ratio) * self.embed_dim**2

    @property
    def weights(self) -> float:
        """Weights of all matrices, which are nearly all parameters."""
        return self.depth * self.block_weights + 3 * self.patch_size**2 * self.embed_dim


ARCHITECTURES = {
    "vits16": Architecture(embed_dim=384, depth=12, num_heads=6),
    "vitb16": Architecture(embed_dim=768, depth=12, num_heads=12),
    "vitl16": Architecture(embed_dim=1024, depth=24, num_heads=16),
    # FlexiCT-2D (arXiv 2605.21906).
    "flexictb8": Architecture(
        embed_dim=864, depth=16, num_heads=12, patch_size=8, qkv_bias=False, norm_eps=1e-6
    ),
    # For laptops and tests: patches of 8 px, since the demo's pictures are small, and branches that
    # matter from the start, since a hundred iterations would not wake them from 1e-5.
    "vittiny8": Architecture(embed_dim=64, depth=4, num_heads=4, patch_size=8, layerscale=1.0),
}


def named(name: str) -> Architecture:
    """The architecture of a name.

    Raises:
        ValueError: there is none.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"backbone {name!r}: not one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


LIBRARIES = ("timm", "transformers")


def library_of(backbone: str | None) -> tuple[str, str] | None:
    """Library and name of a backbone such as `timm:vit_base_patch16_224`; None for ours."""
    library, colon, name = (backbone or "").partition(":")
    return (library, name) if colon and name and library in LIBRARIES else None
