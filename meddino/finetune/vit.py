"""Initial weights of a method's network: random, or from a checkpoint."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from meddino.core.errors import MeddinoError
from meddino.finetune.options import Method
from meddino.finetune.settings import Settings
from meddino.models import loading
from meddino.models.architectures import library_of, named
from meddino.models.vit import build

# Fields of the architecture that a checkpoint decides; all others must be those of the method's
# backbone.
OWN = ("storage_tokens", "qkv_bias", "mask_k_bias", "layerscale", "norm_eps", "untie_cls_norm")


def build_vit(settings: Settings) -> Any:
    """Build a method's ViT with random weights and the architecture of its checkpoint.

    Returns:
        A module with `embed_dim`, `patch_size`, and `get_intermediate_layers`, which maps images
        (B, 3, H, W) to patch tokens of each block, (B, embed_dim, H / patch_size, W / patch_size).

    Raises:
        MeddinoError: its library cannot build it, or it lacks blocks that the method reads.
    """
    method, changes = settings.method, dict(settings.vit)
    assert method.backbone is not None, "Method demands a backbone for these networks"
    if library_of(method.backbone) is not None:
        return _library_vit(method, changes)
    if method.weights is None:
        changes |= _overrides(method) | {"layerscale": method.layerscale}
    return build(method.backbone, drop_path=method.drop_path, **changes)


def _library_vit(method: Method, description: dict[str, Any]) -> nn.Module:
    from meddino.models import library_vit

    vit = library_vit.build(description, method.drop_path)
    if max(method.blocks) >= vit.depth:
        raise MeddinoError(
            f"blocks: {method.blocks}, but {method.backbone} has blocks 0 to {vit.depth - 1}"
        )
    return vit


def read_start(path: Path | None, method: Method) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what a method's network starts from.

    Args:
        path: the checkpoint, from `weights` or `pretrain`; None for random weights.
        method: what is trained.

    Returns:
        What rebuilds the ViT without that file (for `Settings.vit`): how it differs from the
        backbone that the method names, or how its library describes it; and the tensors of
        `start_of`, none for random weights.

    Raises:
        MeddinoError: it is unreadable, or does not fit the method.
    """
    if library_of(method.backbone) is not None:
        return _read_library(path, method)
    if path is None:
        return {}, {}
    if method.network == "segformer":
        return {}, _of_kind(loading.read(path), "segformer", path)
    return _read_ours(path, method)


def start_of(network: nn.Module) -> nn.Module:
    """The part of a network that a checkpoint fills: the ViT, or SegFormer's encoder."""
    return network.get_submodule("backbone" if hasattr(network, "backbone") else "stages")


def _read_library(path: Path | None, method: Method) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from meddino.models import library_vit

    backbone = str(method.backbone)
    if path is None:
        return library_vit.describe(backbone), {}
    content = loading.read(path)
    tensors = _of_kind(content, backbone, path)
    description: dict[str, Any] = content["meta"]["description"]
    return description, {f"model.{key}": value for key, value in tensors.items()}


def _of_kind(content: Mapping[str, Any], kind: str, path: Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint that `weights` stored for SegFormer or for a library's ViT."""
    stored_kind = content.get("meta", {}).get("kind", "dinov3")
    if stored_kind != kind:
        raise MeddinoError(
            f"{path} is a checkpoint for {stored_kind}, not for {kind}; make it with"
            " `meddino weights`"
        )
    return {key: value for key, value in content.items() if isinstance(value, Tensor)}


def _read_ours(path: Path, method: Method) -> tuple[dict[str, Any], dict[str, Tensor]]:
    assert method.backbone is not None, "Method demands a backbone for these networks"
    vit = loading.load_backbone(path)
    loading.check_size(vit.architecture, method.backbone, str(path), "backbone of the method")
    architecture = asdict(vit.architecture) | _overrides(method)
    defaults = asdict(named(method.backbone))
    # The norm for local crops is of no use after pretraining.
    dropped = ["local_cls_norm."]
    dropped += ["storage_tokens"] if architecture["storage_tokens"] == 0 else []
    state = {
        key: value
        for key, value in vit.state_dict().items()
        if not key.startswith(tuple(dropped))
        # Without the mask the keys' bias is trained, as in the authors' ViT.
        and not (method.train_k_bias and key.endswith("bias_mask"))
    }
    return {key: architecture[key] for key in OWN if architecture[key] != defaults[key]}, state


def _overrides(method: Method) -> dict[str, Any]:
    """Fields of the ViT's architecture that a method sets, whatever its checkpoint has."""
    fields: dict[str, Any] = {"storage_tokens": method.storage_tokens, "norm_eps": method.norm_eps}
    fields |= {"mask_k_bias": False if method.train_k_bias else None}
    return {key: value for key, value in fields.items() if value is not None}
