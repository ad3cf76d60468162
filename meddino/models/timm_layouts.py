"""Key names of ViTs that timm builds, in the files of others: OpenCLIP's, and SAM's authors'.

timm's own repositories of CLIP on Hugging Face hold OpenCLIP's layout. Read off `open_clip`'s
`VisionTransformer` and `segment_anything`'s `ImageEncoderViT`.
"""

from collections.abc import Mapping

from torch import Tensor

State = dict[str, Tensor]
OPENCLIP_ONLY = "ln_pre.weight"
"""A key that OpenCLIP's image encoders have and timm's ViTs have not."""
OPENCLIP = {
    "class_embedding": "cls_token",
    "positional_embedding": "pos_embed",
    "conv1.": "patch_embed.proj.",
    "transformer.resblocks.": "blocks.",
    "ln_pre.": "norm_pre.",
    "ln_post.": "norm.",
    "ln_1.": "norm1.",
    "ln_2.": "norm2.",
    "attn.in_proj_": "attn.qkv.",
    "attn.out_proj.": "attn.proj.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}
"""Parts of keys, OpenCLIP's and timm's."""
SAM = {".mlp.lin1.": ".mlp.fc1.", ".mlp.lin2.": ".mlp.fc2."}
"""The same of SAM."""


def to_timm(state: Mapping[str, Tensor]) -> State:
    """Give tensors the names and shapes that timm has for them; those of timm stay as they are.

    CLIP's projection of the class token is left out.
    """
    if OPENCLIP_ONLY not in state:
        return {_renamed(key, SAM): value for key, value in state.items()}
    named = {_renamed(key, OPENCLIP): v for key, v in state.items() if key != "proj"}
    # (C,) to (1, 1, C), and (tokens, C) to (1, tokens, C)
    ranks = {"cls_token": 3, "pos_embed": 3}
    return {k: v[(None,) * (ranks.get(k, v.ndim) - v.ndim)] for k, v in named.items()}


def _renamed(key: str, names: Mapping[str, str]) -> str:
    for theirs, ours in names.items():
        key = key.replace(theirs, ours)
    return key
