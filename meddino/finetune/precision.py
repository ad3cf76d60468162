"""Half precision on GPUs."""

import torch

from meddino.finetune.options import Method


def autocast_to(method: Method, device: torch.device) -> torch.dtype:
    """Have nnU-Net's autocast, which names no type, compute in what suits the method.

    Activations of DINOv3's ViTs leave the range of fp16, so that ViTs take bf16 where the card has
    it. nnU-Net's own network, and SegFormer, stay with fp16 as in nnU-Net.

    Args:
        method: whose network it is.
        device: where it runs; without effect on CPUs, where nnU-Net computes in fp32.

    Returns:
        The type.
    """
    suits = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    kind = torch.bfloat16 if method.backbone is not None and suits else torch.float16
    if device.type == "cuda":
        torch.set_autocast_dtype(device.type, kind)
    return kind if device.type == "cuda" else torch.float32
