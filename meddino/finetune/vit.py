"""The ViT of a method: random, or that of a checkpoint."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from meddino.finetune.options import Method
from meddino.finetune.settings import Settings
from meddino.models import weights
from meddino.models.architectures import named
from meddino.models.vit import VisionTransformer, build

# What a checkpoint may bring of its own; all else must be that of the backbone that a method names.
OWN = ("storage_tokens", "qkv_bias", "mask_k_bias", "layerscale", "norm_eps", "untie_cls_norm")


def build_vit(settings: Settings) -> VisionTransformer:
    """Build a method's ViT with random weights, made as its checkpoint is."""
    method, changes = settings.method, dict(settings.vit)
    assert method.backbone is not None, "Method demands a backbone for these networks"
    if method.weights is None:
        changes["layerscale"] = method.layerscale
        if method.storage_tokens is not None:
            changes["storage_tokens"] = method.storage_tokens
    return build(method.backbone, drop_path=method.drop_path, **changes)


def read_vit(path: Path, method: Method) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a checkpoint's ViT.

    Returns:
        How it differs from the backbone that the method names (for `Settings.vit`), and its
        tensors.

    Raises:
        MeddinoError: it is unreadable, or of another size than that backbone.
    """
    assert method.backbone is not None, "Method demands a backbone for these networks"
    vit = weights.load_backbone(path)
    weights.check_size(vit.architecture, method.backbone, str(path), "backbone of the method")
    found, usual = asdict(vit.architecture), asdict(named(method.backbone))
    state = vit.state_dict()
    # Used for local crops in pretraining only.
    state = {key: value for key, value in state.items() if not key.startswith("local_cls_norm.")}
    return {key: found[key] for key in OWN if found[key] != usual[key]}, state
