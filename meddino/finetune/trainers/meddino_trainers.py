"""The study's methods by name: `nnUNetv2_train DATASET CONFIGURATION FOLD -tr MedDINOv3Trainer`.

nnU-Net imports this file by itself, not as part of the package, hence its unmistakable name.
"""

from meddino.finetune.by_hand import NamedTrainer


class MedDINOv3Trainer(NamedTrainer):
    """MedDINOv3's ViT, tokens of several blocks, Primus-style decoder (section 3.1)."""

    row = "meddinov3"


class DINOv3Trainer(NamedTrainer):
    """The same network from DINOv3's weights."""

    row = "dinov3_multiscale"


class DINOv3LastBlockTrainer(NamedTrainer):
    """DINOv3's weights, tokens of the last block only (Table 1)."""

    row = "dinov3_last"


class RandomViTTrainer(NamedTrainer):
    """A random ViT, tokens of the last block only (Table 1)."""

    row = "randinit"


class SegFormerTrainer(NamedTrainer):
    """SegFormer (section 4.1)."""

    row = "segformer"


class DinoUNetTrainer(NamedTrainer):
    """DINO U-Net: DINOv3 frozen, with adapter and U-Net decoder (section 4.1)."""

    row = "dino_unet"
