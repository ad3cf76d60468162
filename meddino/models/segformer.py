"""SegFormer (arXiv 2105.15203): hierarchical Mix Transformer with an all-MLP decoder.

Written in plain torch: the class in `transformers` imports torchvision wherever that is installed.
A test holds it against that class, weight for weight.
"""

import re
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from meddino.core.errors import MeddinoError

STRIDES = (4, 2, 2, 2)
KERNELS = (7, 3, 3, 3)
REDUCTIONS = (8, 4, 2, 1)  # of keys and values, per side
MLP_RATIO = 4

# Names of transformers' encoder, of its files and (from release 5 on) in memory, and ours.
NAMES = {
    r"^(segformer\.)?(encoder\.)?": "",
    r"^patch_embeddings\.(\d)\.": r"stages.\1.patch_embeddings.",
    r"^block\.(\d)\.": r"stages.\1.blocks.",
    r"^layer_norm\.(\d)\.": r"stages.\1.norm.",
    r"^(stages\.\d)\.layer_norm\.": r"\1.norm.",
    r"patch_embeddings\.proj\.": "embed.",
    r"patch_embeddings\.layer_norm\.": "embed_norm.",
    r"layer_norm_1\.|layernorm_before\.": "attention_norm.",
    r"layer_norm_2\.|layernorm_after\.": "mlp_norm.",
    r"attention\.(self\.sr|sequence_reduction\.sequence_reduction)\.": "reduce.",
    r"attention\.(self|sequence_reduction)\.layer_norm\.": "reduce_norm.",
    r"attention\.(self\.query|q_proj)\.": "q.",
    r"attention\.(self\.key|k_proj)\.": "k.",
    r"attention\.(self\.value|v_proj)\.": "v.",
    r"attention\.(output\.dense|o_proj)\.": "out.",
    r"mlp\.dwconv\.dwconv\.": "depthwise.",
    r"mlp\.(dense|fc)([12])\.": r"fc\2.",
}


class SegFormer(nn.Module):
    """Mix Transformer encoder and MLP decoder, with logits at the resolution of the image."""

    def __init__(
        self,
        classes: int,
        depths: Sequence[int],
        widths: Sequence[int],
        heads: Sequence[int],
        decoder_width: int,
        drop_path: float = 0.0,
        dropout: float = 0.1,
        authors: bool = False,
    ) -> None:
        """Build the network; B2 is depths 3, 4, 6, 3, widths 64, 128, 320, 512, decoder 768.

        Args:
            classes: number of classes, background included.
            depths: blocks of each of the four stages.
            widths: channels of each stage.
            heads: attention heads of each stage.
            decoder_width: channels of the decoder.
            drop_path: rate of the last block; it grows linearly from 0 at the first.
            dropout: of the decoder, before the classifier.
            authors: build it as MedDINOv3's authors do: a residual and a LayerNorm within the
                Mix-FFN, whole channels dropped, logits upsampled by a transposed convolution,
                Xavier's initialisation.
        """
        super().__init__()
        rates = torch.linspace(0, drop_path, sum(depths)).tolist()
        self.stages = nn.ModuleList()
        channels = 3
        for index, depth in enumerate(depths):
            blocks = [rates.pop(0) for _ in range(depth)]
            stage = MixStage(channels, widths[index], heads[index], blocks, index, authors)
            self.stages.append(stage)
            channels = widths[index]
        self.projections = nn.ModuleList(nn.Conv2d(width, decoder_width, 1) for width in widths)
        self.fuse = nn.Conv2d(decoder_width * len(widths), decoder_width, 1, bias=False)
        self.norm = nn.BatchNorm2d(decoder_width)
        self.dropout = nn.Dropout2d(dropout) if authors else nn.Dropout(dropout)
        self.classifier = nn.Conv2d(decoder_width, classes, 1)
        self.up = nn.ConvTranspose2d(classes, classes, 4, 4) if authors else nn.Identity()
        self.apply(_xavier_init if authors else _init)

    def forward(self, image: Tensor) -> Tensor:
        """Map images (B, 1, H, W) to logits (B, classes, H, W).

        The decoder works at a quarter of the resolution; its logits are upsampled bilinearly, as
        in SegFormer's paper, or by a convolution, as by the authors.
        """
        features = []
        x = image.expand(-1, 3, -1, -1)
        for stage, projection in zip(self.stages, self.projections, strict=True):
            x = stage(x)
            features.append(projection(x))
        size = features[0].shape[-2:]
        resized = [F.interpolate(f, size, mode="bilinear") for f in reversed(features)]
        fused = F.relu(self.norm(self.fuse(torch.cat(resized, dim=1))))
        logits = self.up(self.classifier(self.dropout(fused)))
        return F.interpolate(logits, image.shape[-2:], mode="bilinear")


class MixStage(nn.Module):
    """Overlapping patch embedding and transformer blocks, from map to map."""

    def __init__(
        self,
        channels: int,
        width: int,
        heads: int,
        drop_paths: Sequence[float],
        index: int,
        skip: bool = False,
    ) -> None:
        """Build stage `index` (0 to 3), one block for each entry of `drop_paths`."""
        super().__init__()
        kernel = KERNELS[index]
        self.embed = nn.Conv2d(channels, width, kernel, STRIDES[index], kernel // 2)
        self.embed_norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            MixBlock(width, heads, REDUCTIONS[index], rate, skip) for rate in drop_paths
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, width, H / stride, W / stride)."""
        x = self.embed(x)
        size = (x.shape[2], x.shape[3])
        tokens = self.embed_norm(x.flatten(2).transpose(1, 2))
        for block in self.blocks:
            tokens = block(tokens, size)
        return _to_map(self.norm(tokens), size)


class MixBlock(nn.Module):
    """Attention over spatially reduced keys and values, then the Mix-FFN."""

    def __init__(
        self, width: int, heads: int, reduction: int, drop_path: float, skip: bool = False
    ) -> None:
        """Build a block.

        Args:
            width: channels.
            heads: attention heads.
            reduction: stride of the map of keys and values.
            drop_path: share of samples whose branches are dropped in training.
            skip: whether the Mix-FFN's convolution has a residual and a LayerNorm.
        """
        super().__init__()
        self.heads, self.drop_path = heads, drop_path
        self.attention_norm = nn.LayerNorm(width)
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.reduce: nn.Conv2d | None = None
        if reduction > 1:
            self.reduce = nn.Conv2d(width, width, reduction, reduction)
            self.reduce_norm = nn.LayerNorm(width)
        self.mlp_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, MLP_RATIO * width)
        # Gives the tokens their place: SegFormer has no position embedding.
        self.depthwise = nn.Conv2d(
            MLP_RATIO * width, MLP_RATIO * width, 3, 1, 1, groups=MLP_RATIO * width
        )
        self.skip_norm = nn.LayerNorm(MLP_RATIO * width) if skip else None
        self.fc2 = nn.Linear(MLP_RATIO * width, width)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Map tokens (B, N, C) of a map of `size` to tokens of the same shape."""
        tokens = tokens + self._drop(self._attend(self.attention_norm(tokens), size))
        return tokens + self._drop(self._mix(self.mlp_norm(tokens), size))

    def _attend(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        context = tokens
        if self.reduce is not None:
            reduced = self.reduce(_to_map(tokens, size))
            context = self.reduce_norm(reduced.flatten(2).transpose(1, 2))
        q = self.q(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(context).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return out

    def _mix(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        wide = self.fc1(tokens)
        hidden = self.depthwise(_to_map(wide, size)).flatten(2).transpose(1, 2)
        if self.skip_norm is not None:
            hidden = self.skip_norm(hidden + wide)
        out: Tensor = self.fc2(F.gelu(hidden))
        return out

    def _drop(self, branch: Tensor) -> Tensor:
        """Drop the branch of a random share of the samples; the rest is scaled up."""
        if not self.training or self.drop_path == 0:
            return branch
        mask = torch.rand(len(branch), 1, 1, device=branch.device) >= self.drop_path
        return branch * mask / (1 - self.drop_path)


def _to_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    return tokens.transpose(1, 2).unflatten(-1, size)


def _init(module: nn.Module) -> None:
    # Truncated normal for linear layers, fan-out normal for convolutions: SegFormer's own.
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
        nn.init.normal_(module.weight, std=(2 * module.groups / fan_out) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _xavier_init(module: nn.Module) -> None:
    # A transposed convolution keeps torch's own.
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def encoder_state(tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The tensors of `SegFormer.stages` from those of transformers' encoder (MiT).

    Args:
        tensors: of `SegformerModel` or of a model around it, whose head is left out.
        source: what they came from, for messages.

    Raises:
        MeddinoError: they are not those of this encoder.
    """
    named = {}
    for key, value in tensors.items():
        for pattern, replacement in NAMES.items():
            key = re.sub(pattern, replacement, key)
        named[key.removeprefix("stages.")] = value
    # Heads: a classifier of ImageNet's, or SegFormer's decoder.
    state = {k: v for k, v in named.items() if not k.startswith(("classifier.", "decode_head."))}
    for key in [key for key in state if ".k." in key]:
        partner = key.replace(".k.", ".v.")
        if partner in state:
            state[key.replace(".k.", ".kv.")] = torch.cat([state.pop(key), state.pop(partner)])
    if "0.embed.weight" not in state:
        raise MeddinoError(
            f"{source} is no encoder of SegFormer in the layout of transformers, such as"
            f" nvidia/mit-b2 (it has {len(tensors)} tensors, such as"
            f" {', '.join(sorted(tensors)[:3])})"
        )
    return state
