"""Record FlexiCT's keys, and features of its ViT: `make_flexict.py CHECKOUT`.

    git clone https://github.com/ricklisz/FlexiCT && git -C FlexiCT checkout e120a9b
    python tests/golden/flexict/make_flexict.py FlexiCT

`state_dict_keys.json` lists the shapes of FlexiCT-2D (`flexi_ct_2d.py`), whose `teacher` has them
behind `backbone.`. `flexict.safetensors` holds weights, images and features of a small one, with
positions in fp32: their default of bf16 keeps too few digits to compare.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

OPTIONS: dict[str, Any] = {
    "patch_size": 8,
    "in_chans": 1,
    "n_storage_tokens": 4,
    "qkv_bias": False,
    "mask_k_bias": True,
    "layerscale_init": 1e-5,
}
FAINT = 0.01
"""Tokens are so faint that the epsilon of the norms shows in the first digits."""


@torch.no_grad()
def main(checkout: Path, folder: Path) -> None:
    """Build the authors' ViT, and write what is recorded of it to a folder."""
    sys.path.insert(0, str(checkout))
    from flexi_ct.models import (  # type: ignore[import-not-found]
        Flexi_CT_Backbone,
        flexi_ct_backbone_base,
    )

    released = flexi_ct_backbone_base(**OPTIONS).state_dict()
    shapes = {key: list(value.shape) for key, value in released.items()}
    (folder / "state_dict_keys.json").write_text(json.dumps(shapes, indent=1) + "\n")
    torch.manual_seed(0)
    vit = Flexi_CT_Backbone(
        embed_dim=48, depth=2, num_heads=2, pos_embed_rope_dtype="fp32", **OPTIONS
    )
    vit.init_weights()
    for parameter in vit.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    embedding = vit.patch_embed_2D.proj
    for faint in (vit.cls_token, vit.storage_tokens, embedding.weight, embedding.bias):
        faint.mul_(FAINT)
    # As small as the file should be: what reads volumes is not used.
    vit.patch_embed_3D.proj.weight = torch.nn.Parameter(torch.zeros(1))
    vit.eval()
    images = torch.randn(2, 1, 24, 16)
    features = vit.forward_features(images)
    names = ("x_norm_clstoken", "x_storage_tokens", "x_norm_patchtokens")
    recorded = {f"features.{name}": features[name].clone() for name in names}
    recorded |= {f"state.{key}": value.clone() for key, value in vit.state_dict().items()}
    save_file({"images": images, **recorded}, folder / "flexict.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).parent)
