"""Checkpoints of ViTs: reading every layout that is about, and refusing what does not fit."""

import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from meddino.core.errors import MeddinoError
from meddino.core.words import some
from meddino.models import conversion, wrappings
from meddino.models.architectures import Architecture, named
from meddino.models.vit import VisionTransformer

State = dict[str, Tensor]
NOT_BACKBONE = ("dino_head.", "ibot_head.", "dino_loss.", "ibot_patch_loss.")


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint as it is: safetensors, or what `torch.load` can read safely.

    Args:
        path: a file; or a folder of transformers or timm, with weights beside a `config.json`. What
            this says is put under `meta`, also where the path is that of the weights.

    Raises:
        MeddinoError: the file is absent, damaged, or holds code.
    """
    path = file_of(path)
    content = _read_file(path)
    config = path.with_name("config.json")
    if (
        path.name.removesuffix(wrappings.INDEX) in conversion.FILES
        and config.exists()
        and (meta := conversion.config_fields(config))
    ):
        content["meta"] = meta
    return content


def file_of(path: Path) -> Path:
    """The file of the weights: `path` itself, or the one in that folder.

    Raises:
        MeddinoError: it is a folder that transformers or timm would not have written.
    """
    file = wrappings.place(path, conversion.FILES)
    if file is None or (path.is_dir() and not (path / "config.json").is_file()):
        raise MeddinoError(
            f"{path} is a folder, but holds no config.json with {' or '.join(conversion.FILES)};"
            " give the file of the weights, or the folder that save_pretrained wrote"
        )
    return file


def _read_file(path: Path) -> dict[str, Any]:
    try:
        _check_zip(path)
        content = wrappings.read(path)
    except FileNotFoundError as error:
        raise MeddinoError(f"{path} does not exist; run the stage that makes it") from error
    except MeddinoError:
        raise
    except Exception as error:  # torch raises nearly anything for a damaged file
        raise MeddinoError(
            f"{path} is not a checkpoint that can be read safely ({error}); fetch it again"
        ) from error
    if not isinstance(content, dict):
        raise MeddinoError(f"{path} holds {type(content).__name__}, not a dictionary of tensors")
    return content


def _check_zip(path: Path) -> None:
    """Compare the checksums of a file of `torch.save`, which `torch.load` does not."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            if damaged := file.testzip():
                raise ValueError(f"the checksum of {damaged} in it is another")


def backbone_state(content: Mapping[str, Any]) -> State:
    """The ViT's tensors of a checkpoint under the public key names.

    They may be wrapped (see `meddino.models.wrappings`), and laid out as in transformers, timm or
    FlexiCT.

    Raises:
        MeddinoError: nothing tells the number of heads, or the ViT is one of volumes.
    """
    return _opened(content)[0]


def _opened(content: Mapping[str, Any]) -> tuple[State, dict[str, Any]]:
    """The ViT's tensors, and fields of its architecture that are known beside them."""
    if any(str(key).startswith("vision_model.") for key in content.get("model", ())):
        raise MeddinoError(
            "it holds FlexiCT's vision-language model, whose ViT was trained on volumes; take"
            " FlexiCT-2D"
        )
    tensors = wrappings.tensors({k: v for k, v in content.items() if k != "meta"})
    state = {k: v for k, v in tensors.items() if not k.startswith(NOT_BACKBONE)}
    return conversion.to_public(state, content.get("meta", {}))


def infer_architecture(state: Mapping[str, Tensor], source: str = "the state dict") -> Architecture:
    """Read the architecture off the tensors; the heads' width shows in the rotary periods.

    Raises:
        MeddinoError: these are not the tensors of a DINOv3 ViT.
    """
    needed = ("cls_token", "patch_embed.proj.weight", "rope_embed.periods", "norm.weight")
    missing = [key for key in (*needed, "blocks.0.mlp.fc1.weight") if key not in state]
    if missing:
        raise MeddinoError(
            f"{source} is no DINOv3 ViT as S, B and L are: it lacks {', '.join(missing)} (it has "
            f"{len(state)} tensors, such as {', '.join(sorted(state)[:3])})"
        )
    width = state["cls_token"].shape[-1]
    storage = state.get("storage_tokens")
    qkv_bias = "blocks.0.attn.qkv.bias" in state
    gamma = state.get("blocks.0.ls1.gamma")
    return Architecture(
        embed_dim=width,
        depth=1 + max(int(k.split(".")[1]) for k in state if k.startswith("blocks.")),
        num_heads=width // (4 * len(state["rope_embed.periods"])),
        patch_size=state["patch_embed.proj.weight"].shape[-1],
        ffn_ratio=state["blocks.0.mlp.fc1.weight"].shape[0] / width,
        storage_tokens=0 if storage is None else storage.shape[1],
        qkv_bias=qkv_bias,
        mask_k_bias=not qkv_bias or "blocks.0.attn.qkv.bias_mask" in state,
        layerscale=None if gamma is None else 1e-5,
        norm_eps=_norm_eps(state),
        untie_cls_norm="cls_norm.weight" in state,
        untie_local_cls_norm="local_cls_norm.weight" in state,
    )


def _norm_eps(state: Mapping[str, Tensor]) -> float:
    """Epsilon of the norms, which no state dict stores: told by how the bias of keys is masked.

    DINOv3's hub (`dinov3/hub/backbones.py`) builds every ViT with `layernormbf16`, whose epsilon is
    1e-5, and all but the 7B, which has gated blocks that are not read here, with a masked bias,
    whether or not norms are untied. Its training code defaults to `layernorm`, 1e-6, without a mask
    (`ssl_default_config.yaml`). MedDINOv3 and FlexiCT keep that norm, and have no bias to mask.
    """
    return 1e-5 if "blocks.0.attn.qkv.bias_mask" in state else 1e-6


def architecture_of(content: Mapping[str, Any], source: str = "the state dict") -> Architecture:
    """The architecture of a checkpoint's ViT; what a file records of it goes first.

    Raises:
        MeddinoError: it holds no DINOv3 ViT.
    """
    state, fields = _opened(content)
    return replace(infer_architecture(state, source), **fields)


def check_size(architecture: Architecture, backbone: str, source: str, key: str) -> None:
    """Refuse a checkpoint's ViT that is of another size than a named architecture.

    Raises:
        MeddinoError: says what differs, and which key of the configuration names the architecture.
    """
    expected = named(backbone)
    mismatches = [
        f"{size} is {getattr(architecture, size):g}, not {getattr(expected, size):g}"
        for size in ("embed_dim", "depth", "num_heads", "patch_size", "ffn_ratio")
        if getattr(architecture, size) != getattr(expected, size)
    ]
    if mismatches:
        raise MeddinoError(
            f"{source} is no {backbone}: {', '.join(mismatches)}; name its architecture as {key}"
        )


def load_backbone(
    source: Path | str | Mapping[str, Any], num_heads: int | None = None
) -> VisionTransformer:
    """Build the ViT of a checkpoint and load it strictly.

    Args:
        source: a file (of torch or safetensors; under the key names of DINOv3, MedDINOv3, FlexiCT,
            meddino, transformers or timm), a folder with `config.json` of the latter two, or what a
            file holds.
        num_heads: attention heads, which tensors of transformers and timm do not tell. Without it
            `config.json` says them; where that is missing too, heads are taken as 64 wide, as in
            DINOv3's S, B and L.

    Returns:
        The ViT in evaluation mode, fp32.

    Raises:
        MeddinoError: unreadable, or the tensors do not fit; the message names them.
    """
    if isinstance(source, Path | str):
        content, name = read(Path(source)), str(source)
    else:
        content, name = dict(source), "the state dict"
    if num_heads is not None:
        content["meta"] = {**content.get("meta", {}), "num_heads": num_heads}
    try:
        state, fields = _opened(content)
    except MeddinoError as error:
        raise MeddinoError(f"{name}: {error}") from error
    architecture = replace(infer_architecture(state, name), **fields)
    if num_heads not in (None, architecture.num_heads):
        raise MeddinoError(
            f"{name} has {architecture.num_heads} heads by its rotary periods, not {num_heads}"
        )
    vit = VisionTransformer(architecture)
    load_strictly(vit, state, name)
    return vit.eval()


def load_strictly(module: torch.nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict of exactly a module's keys and shapes.

    Raises:
        MeddinoError: keys are missing, unknown, or of another shape; some of them are named.
    """
    own = module.state_dict()
    problems = {
        "lacks": sorted(own.keys() - state.keys()),
        "has unknown": sorted(state.keys() - own.keys()),
        "has another shape for": sorted(
            key for key in own.keys() & state.keys() if own[key].shape != state[key].shape
        ),
    }
    mismatches = [f"{what} {some(keys, 3)}" for what, keys in problems.items() if keys]
    if mismatches:
        raise MeddinoError(
            f"{source} does not fit the network: it {'; it '.join(mismatches)}; choose the backbone"
            " that this checkpoint was made with"
        )
    module.load_state_dict(state)
