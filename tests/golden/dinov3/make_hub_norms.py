"""Record features of the public hub's ViT with untied norms: `hub_untied*.safetensors`.

    git clone https://github.com/facebookresearch/dinov3 && git -C dinov3 checkout 6876159
    python tests/golden/dinov3/make_hub_norms.py dinov3

Every setting is that of `dinov3_vits16` in `dinov3/hub/backbones.py` but for the size.
Tokens are so faint that the epsilon of the norms shows in the first digits. It is the one setting
of the public ViTs that their state dicts do not tell.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

FAINT = 0.01


@torch.no_grad()
def record(local: bool) -> dict[str, torch.Tensor]:
    """State, images and features, with or without a norm for class tokens of local crops."""
    from dinov3.models.vision_transformer import (  # type: ignore[import-not-found]
        DinoVisionTransformer,
    )

    torch.manual_seed(int(local))
    vit = DinoVisionTransformer(
        img_size=224,
        patch_size=8,
        pos_embed_rope_base=100,
        pos_embed_rope_normalize_coords="separate",
        pos_embed_rope_rescale_coords=2,
        pos_embed_rope_dtype="fp32",
        embed_dim=16,
        depth=2,
        num_heads=2,
        ffn_ratio=4,
        qkv_bias=True,
        layerscale_init=1.0e-05,
        norm_layer="layernormbf16",
        n_storage_tokens=4,
        mask_k_bias=True,
        untie_cls_and_patch_norms=True,
        untie_global_and_local_cls_norm=local,
    )
    vit.init_weights()
    for parameter in vit.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    for faint in (vit.cls_token, vit.storage_tokens, vit.patch_embed.proj.weight):
        faint.mul_(FAINT)
    vit.patch_embed.proj.bias.mul_(FAINT)
    vit.eval()
    images = torch.randn(2, 3, 24, 16)
    features = vit.forward_features(images)
    names = ("x_norm_clstoken", "x_storage_tokens", "x_norm_patchtokens", "x_prenorm")
    return {
        "images": images,
        **{f"state.{key}": value.clone() for key, value in vit.state_dict().items()},
        **{f"features.{name}": features[name].clone() for name in names},
    }


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    for name, local in (("hub_untied", False), ("hub_untied_local", True)):
        save_file(record(local), Path(__file__).with_name(f"{name}.safetensors"))
