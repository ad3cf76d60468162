"""How others lay out a DINOv3 ViT, and the way from and to the public key names.

transformers and timm recompute the rotary periods and store none; both give queries and values a
bias of their own and keys none. Read off `transformers.models.dinov3_vit` 5.23 and
`timm.models.eva` 1.0.22. FlexiCT has the public names but for two patch embeddings, of slices and
of volumes, each with rotary periods of its own. Read off `flexi_ct/models.py` at e120a9b.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from meddino.core.errors import MeddinoError
from meddino.core.files import read_json
from meddino.models.vit import RotaryEmbedding, VisionTransformer

State = dict[str, Tensor]
FILES = ("model.safetensors", "pytorch_model.bin")
"""What both call the weights of a folder, the better one first."""
HEAD_DIM = 64
"""Width of a head in all published DINOv3 ViTs but the 7B."""

# Parts of keys, theirs and the public ones; the first that fit go first, in both directions.
TRANSFORMERS = {
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.register_tokens": "storage_tokens",
    "embeddings.patch_embeddings.": "patch_embed.proj.",
    "layer.": "blocks.",
    "attention.o_proj.": "attn.proj.",
    "attention.": "attn.",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "mlp.up_proj.": "mlp.fc1.",
    "mlp.down_proj.": "mlp.fc2.",
}
TIMM = {
    "reg_token": "storage_tokens",
    "gamma_1": "ls1.gamma",
    "gamma_2": "ls2.gamma",
    "attn.q_bias": "attn.q_proj.bias",
    "attn.v_bias": "attn.v_proj.bias",
}
FLEXICT = {"patch_embed_2D.": "patch_embed.", "rope_embed_2D.": "rope_embed."}
FLEXICT_VOLUMES = ("patch_embed_3D.", "rope_embed_3D.")
"""How the keys begin of what FlexiCT has for volumes alone."""
KERNEL = "patch_embed.proj.weight"
_PUBLIC_ONLY = ("mask_token", "storage_tokens", "rope_embed.periods", "blocks.0.attn.qkv.bias")
_PROJECTION = re.compile(r"(.*\.attn\.)([qkv])_proj\.(weight|bias)")


def config_fields(config: Path) -> dict[str, Any]:
    """What a `config.json` of transformers or timm says that tensors do not.

    Returns:
        Some of `norm_eps`, `num_heads` and `rope_base`; nothing if the file is of another kind.

    Raises:
        MeddinoError: not JSON, or its ViT has another activation than GELU.
    """
    values = read_json(config)
    if not isinstance(values, dict):
        return {}
    if values.get("model_type") == "dinov3_vit":
        if values.get("hidden_act", "gelu") != "gelu":
            raise MeddinoError(f"{config}: hidden_act is {values['hidden_act']}; DINOv3 has gelu")
        return {
            "norm_eps": values.get("layer_norm_eps", 1e-5),
            "num_heads": values.get("num_attention_heads", 6),
            "rope_base": values.get("rope_theta", 100.0),
        }
    if "architecture" not in values:
        return {}
    arguments = values.get("model_args") or {}
    names = {"num_heads": "num_heads", "rope_base": "rope_temperature"}
    fields = {ours: arguments[key] for ours, key in names.items() if key in arguments}
    return {"norm_eps": 1e-5 if "dinov3" in values["architecture"] else 1e-6, **fields}


def to_public(
    state: Mapping[str, Tensor], fields: Mapping[str, Any]
) -> tuple[State, dict[str, Any]]:
    """Give the tensors of any layout the public key names.

    Args:
        state: tensors under the key names of DINOv3, FlexiCT, transformers or timm.
        fields: what `config_fields` returned. Without `num_heads`, heads are taken as 64 wide.

    Returns:
        The tensors, those of the public layout as they were; and what is recorded beside them.
        Where there is no mask token, as in timm, it is zero. Kernels of one channel become three.

    Raises:
        MeddinoError: nothing tells the number of heads, or it does not divide the width.
    """
    extra = {key: fields[key] for key in ("norm_eps", "rope_base") if key in fields}
    if "embeddings.patch_embeddings.weight" in state:
        named = _renamed({k.removeprefix("model."): v for k, v in state.items()}, TRANSFORMERS)
        named = {k: v.flatten(0, 1) if k == "mask_token" else v for k, v in named.items()}
        named = {k: v for k, v in named.items() if v.numel()}  # there, no registers are a tensor
    elif KERNEL in state and not any(key in state for key in _PUBLIC_ONLY):
        named = _renamed(state, TIMM)
    else:
        slices_only = {k: v for k, v in state.items() if not k.startswith(FLEXICT_VOLUMES)}
        return _three_channels(_renamed(slices_only, FLEXICT)), extra
    extra.setdefault("norm_eps", 1e-5)  # the default of both libraries' DINOv3
    if "cls_token" not in named:
        return named, extra  # loading then says so
    named.setdefault("mask_token", torch.zeros_like(named["cls_token"][0]))
    width = named["cls_token"].shape[-1]
    heads = fields.get("num_heads") or width / HEAD_DIM
    if width % heads or width // heads % 4:
        raise MeddinoError(
            f"a ViT of width {width} cannot have {heads:g} heads; give the folder with its"
            " config.json, or say num_heads to load_backbone"
        )
    rope = RotaryEmbedding(width // int(heads), fields.get("rope_base", 100.0), None)
    return {**_three_channels(_joined(named)), "rope_embed.periods": rope.periods}, extra


def _three_channels(state: State) -> State:
    """Spread a patch embedding of one channel over three, as grey images are fed to every ViT here.

    A third of the kernel on each of three equal channels gives what the kernel gives on one.
    """
    kernel = state.get(KERNEL)  # (C, channels, P, P)
    if kernel is None or kernel.shape[1] != 1:
        return state
    return {**state, KERNEL: kernel.expand(-1, 3, -1, -1) / 3}


def to_transformers(vit: VisionTransformer) -> tuple[State, dict[str, Any]]:
    """Tensors and configuration of transformers' `DINOv3ViTModel`.

    Their names are those of the published files, which transformers 4.56 and later read.

    Raises:
        MeddinoError: it cannot express this ViT.
    """
    a = vit.architecture
    state = _renamed(_parts(vit, "transformers"), {v: k for k, v in TRANSFORMERS.items()})
    state["embeddings.mask_token"] = state["embeddings.mask_token"][None]
    state.setdefault("embeddings.register_tokens", torch.empty(1, 0, a.embed_dim))
    return state, {
        "architectures": ["DINOv3ViTModel"],
        "model_type": "dinov3_vit",
        "dtype": "float32",
        "hidden_size": a.embed_dim,
        "num_hidden_layers": a.depth,
        "num_attention_heads": a.num_heads,
        "intermediate_size": int(a.embed_dim * a.ffn_ratio),
        "patch_size": a.patch_size,
        "num_register_tokens": a.storage_tokens,
        "query_bias": a.qkv_bias,
        "key_bias": a.qkv_bias and not a.mask_k_bias,
        "value_bias": a.qkv_bias,
        "layerscale_value": 1.0 if a.layerscale is None else a.layerscale,
        "layer_norm_eps": a.norm_eps,
        "rope_theta": a.rope_base,
        "pos_embed_rescale": a.rope_rescale,
        "drop_path_rate": a.drop_path,
    }


def to_timm(vit: VisionTransformer) -> tuple[State, dict[str, Any]]:
    """Tensors and configuration of timm's `Eva`, which is its DINOv3.

    Raises:
        MeddinoError: it cannot express this ViT.
    """
    a = vit.architecture
    # timm knows an epsilon only by the model: its DINOv3 have 1e-5, its other `Eva` 1e-6.
    size = {768: "base", 1024: "large"}.get(a.embed_dim, "small")
    dinov3 = f"vit_{size}_patch16_dinov3{'_qkvb' if a.qkv_bias else ''}"
    names = {1e-5: dinov3, 1e-6: "eva02_base_patch14_224"}
    if a.norm_eps not in names:
        raise MeddinoError(
            f"its norms have an epsilon of {a.norm_eps:g}; timm's models have 1e-5 or 1e-6:"
            " export to transformers or dinov3"
        )
    parts = _parts(vit, "timm")
    keys = [key for key in parts if key.endswith("attn.k_proj.bias")]
    if any(parts.pop(key).any() for key in keys):
        raise MeddinoError(
            "its keys have a bias, which timm cannot express; export to transformers or dinov3"
        )
    del parts["mask_token"]
    state = _renamed(parts, {v: k for k, v in TIMM.items()})
    arguments = {
        "patch_size": a.patch_size,
        "embed_dim": a.embed_dim,
        "depth": a.depth,
        "num_heads": a.num_heads,
        "mlp_ratio": a.ffn_ratio,
        "qkv_bias": a.qkv_bias,
        "qkv_fused": True,
        "swiglu_mlp": False,
        "scale_mlp": False,
        "init_values": 1.0 if a.layerscale is None else a.layerscale,
        "num_reg_tokens": a.storage_tokens,
        "use_abs_pos_emb": False,
        "use_rot_pos_emb": True,
        "rope_type": "dinov3",
        "rope_temperature": a.rope_base,
        "rope_rotate_half": True,
        "use_fc_norm": False,
        "dynamic_img_size": True,
        "drop_path_rate": a.drop_path,
        "num_classes": 0,
        "global_pool": "token",
    }
    return state, {
        "architecture": names[a.norm_eps],
        "num_classes": 0,
        "num_features": a.embed_dim,
        "model_args": arguments,
        "pretrained_cfg": {"num_classes": 0, "first_conv": "patch_embed.proj"},
    }


def differences(vit: VisionTransformer) -> list[str]:
    """What a ViT loses in transformers or timm, in words; nothing for most."""
    notes = []
    if not torch.equal(vit.rope_embed.periods, _periods(vit)):
        notes.append("its rotary periods are rounded to bfloat16, there they are exact")
    if vit.architecture.untie_local_cls_norm:
        notes.append("local_cls_norm, which only training uses, is left out")
    return notes


def _parts(vit: VisionTransformer, target: str) -> State:
    """A ViT's tensors as both targets have them, still under public names.

    Projections are apart, in timm their biases only; a silenced bias of keys is gone; scales of
    residual branches, where there are none, are one.
    """
    a = vit.architecture
    if a.untie_cls_norm:
        raise MeddinoError(
            f"its class tokens have a last norm of their own (cls_norm), which {target} cannot"
            " express; export to dinov3"
        )
    if not torch.allclose(vit.rope_embed.periods, _periods(vit), rtol=2**-8, atol=0):
        raise MeddinoError(
            f"its rotary periods are not those of base {a.rope_base:g}, and {target} stores none;"
            " export to dinov3"
        )
    parts: State = {}
    state = vit.state_dict()
    for key, value in state.items():
        stem = key.removesuffix("qkv.bias").removesuffix("qkv.weight")
        if key.endswith("qkv.bias"):
            mask = state.get(f"{key}_mask")
            for name, part in zip("qkv", value.chunk(3), strict=True):
                if mask is None or name != "k":
                    parts[f"{stem}{name}_proj.bias"] = part.clone()
        elif key.endswith("qkv.weight") and target == "transformers":
            for name, part in zip("qkv", value.chunk(3), strict=True):
                parts[f"{stem}{name}_proj.weight"] = part.clone()
        elif not key.startswith(("rope_embed.", "local_cls_norm.")) and "bias_mask" not in key:
            parts[key] = value
    for number in range(a.depth if a.layerscale is None else 0):
        for scale in ("ls1", "ls2"):
            parts[f"blocks.{number}.{scale}.gamma"] = torch.ones(a.embed_dim)
    return parts


def _periods(vit: VisionTransformer) -> Tensor:
    """The periods as transformers and timm compute them."""
    a = vit.architecture
    return RotaryEmbedding(a.embed_dim // a.num_heads, a.rope_base, None).periods


def _renamed(state: Mapping[str, Tensor], names: Mapping[str, str]) -> State:
    renamed = {}
    for key, value in state.items():
        for old, new in names.items():
            key = key.replace(old, new)
        renamed[key] = value
    return renamed


def _joined(state: Mapping[str, Tensor]) -> State:
    """Join the projections to queries, keys and values; without a bias, that of keys is masked."""
    joined: State = {}
    projections: dict[tuple[str, str], State] = defaultdict(dict)
    for key, value in state.items():
        if match := _PROJECTION.fullmatch(key):
            projections[match[1], match[3]][match[2]] = value
        else:
            joined[key] = value
    for (stem, kind), parts in projections.items():
        if kind == "weight" and len(parts) < 3:
            continue  # strict loading then says what is missing
        none = torch.zeros_like(next(iter(parts.values())))
        joined[f"{stem}qkv.{kind}"] = torch.cat([parts.get(name, none) for name in "qkv"])
        if kind == "bias" and "k" not in parts:
            one = torch.ones_like(none)
            joined[f"{stem}qkv.bias_mask"] = torch.cat([one, torch.zeros_like(one), one])
    return joined
