"""Build the network of a method."""

from collections.abc import Callable
from typing import Any

from torch import nn

from meddino.core.errors import MeddinoError
from meddino.finetune.settings import Settings
from meddino.finetune.vit import build_vit


def build_network(
    settings: Settings, configuration: Any, classes: int, deep_supervision: bool
) -> nn.Module:
    """Build a method's network with random weights.

    Args:
        settings: the method, and how its checkpoint's ViT is made.
        configuration: nnU-Net's configuration; its U-Net's widths serve the U-Nets.
        classes: number of classes, background included.
        deep_supervision: whether nnU-Net's U-Net returns lower resolutions too.

    Returns:
        A network from images (B, 1, H, W) to logits (B, classes, H, W), or from volumes
        (B, 1, D, H, W) to (B, classes, D, H, W); with deep supervision to a list of logits, finest
        first.
    """
    if settings.method.network == "unet":
        return _unet(configuration, classes, deep_supervision)
    return BUILDERS[settings.method.network](settings, configuration, classes)


def _unet(configuration: Any, classes: int, deep_supervision: bool) -> nn.Module:
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    network: nn.Module = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        input_channels=1,
        output_channels=classes,
        deep_supervision=deep_supervision,
    )
    return network


def _segformer(settings: Settings, configuration: Any, classes: int) -> nn.Module:
    from meddino.models.segformer import SegFormer

    size = settings.method.segformer
    assert size is not None, "Method demands a size for segformer"
    return SegFormer(
        classes,
        size.depths,
        size.widths,
        size.heads,
        size.decoder_width,
        settings.method.drop_path,
        size.dropout,
        size.variant == "authors",
    )


def _primus(settings: Settings, configuration: Any, classes: int) -> nn.Module:
    from meddino.models.primus import Primus

    vit = build_vit(settings)
    # (B, 1, H, W) -> tokens of each block (B, C, h, w) -> side by side -> (B, classes, H, W)
    return Primus(vit, vit.embed_dim, vit.patch_size, settings.method.blocks, classes)


def _dino_unet(settings: Settings, configuration: Any, classes: int) -> nn.Module:
    from meddino.models.adapter import STRIDES, Adapter
    from meddino.models.dino_unet import DinoUNet, FidelityProjection, UNetDecoder

    size, blocks = settings.method.adapter, settings.method.blocks
    assert size is not None, "Method demands a size for dino_unet"
    vit = build_vit(settings)
    # The ViT sees the image padded to its coarsest stride, which must hold whole patches.
    if STRIDES[-1] % vit.patch_size:
        raise MeddinoError(
            f"backbone: dino_unet needs patches of which {STRIDES[-1]} px is a multiple, and those"
            f" of {settings.method.backbone} are {vit.patch_size} px; use network primus"
        )
    # The widths of the first four stages of nnU-Net's own U-Net, and its convolutions a stage.
    network = configuration.network_arch_init_kwargs
    widths = network["features_per_stage"][: len(STRIDES)]
    adapter = Adapter(
        vit.embed_dim,
        len(blocks),
        size.prior_width,
        size.heads,
        size.points,
        drop_path=size.drop_path,
    )
    projection = FidelityProjection(vit.embed_dim, size.rank, widths)
    decoder = UNetDecoder(widths, network["n_conv_per_stage_decoder"][0], classes)
    return DinoUNet(vit, vit.patch_size, blocks, adapter, projection, decoder)


BUILDERS: dict[str, Callable[[Settings, Any, int], nn.Module]] = {
    "segformer": _segformer,
    "primus": _primus,
    "dino_unet": _dino_unet,
}
