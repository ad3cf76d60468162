"""Record logits of MedDINOv3's network from the authors' own code: `meddinov3.safetensors`.

    git clone https://github.com/ricklisz/MedDINOv3 && git -C MedDINOv3 checkout a2460c2
    python tests/golden/meddinov3/make_meddinov3.py MedDINOv3

Their `Primus_Multiscale` takes their ViT's patch tokens of blocks 2, 5, 8 and 11, each after the
last norm; its decoder's norm is `LayerNormNd` of dynamic-network-architectures (epsilon 1e-6). The
ViT has their trainer's options but a small width, random weights, and positions in fp32: their
default of bf16 keeps too few digits to compare.

The decoder's transposed convolutions are scaled down, so that the variance before its norms is
small, and an epsilon of 1e-5 changes the logits far more than the test's tolerance.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

WIDTH, CLASSES = 16, 3
SCALE = 0.02
"""Of the decoder's transposed convolutions."""


def main(checkout: Path) -> None:
    """Build the authors' network, draw its weights, and record weights, image and logits."""
    sys.path.insert(0, str(checkout / "nnUNet/nnunetv2/training/nnUNetTrainer/dinov3"))
    from dinov3.models.primus import Primus_Multiscale  # type: ignore[import-not-found]
    from dinov3.models.vision_transformer import (  # type: ignore[import-not-found]
        DinoVisionTransformer,
    )

    torch.manual_seed(0)
    vit = DinoVisionTransformer(
        embed_dim=WIDTH,
        depth=12,
        num_heads=2,
        ffn_ratio=2,
        layerscale_init=1e-5,
        n_storage_tokens=4,
        qkv_bias=False,
        mask_k_bias=True,
        pos_embed_rope_dtype="fp32",
    )
    vit.init_weights()
    network = Primus_Multiscale(
        embed_dim=WIDTH,
        patch_embed_size=16,
        num_classes=CLASSES,
        dino_encoder=vit,
        interaction_indices=[2, 5, 8, 11],
    ).eval()
    with torch.no_grad():
        # Far from their initial values, so that norms, scales and biases all count.
        for parameter in [*vit.parameters(), *network.up_projection.parameters()]:
            parameter.add_(0.2 * torch.randn_like(parameter))
        for up, _, _ in network.up_projection.decode[:-1]:
            up.weight.mul_(SCALE)
            up.bias.mul_(SCALE)
        image = torch.randn(2, 1, 64, 96)
        logits = network(image)
    content = {f"state.{key}": value.contiguous() for key, value in network.state_dict().items()}
    content |= {"image": image, "logits": logits.contiguous()}
    save_file(content, Path(__file__).with_name("meddinov3.safetensors"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
