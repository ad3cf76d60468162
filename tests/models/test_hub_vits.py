"""ViTs that are parts of hub models: CLIP's, MAE's, SAM's and Curia's, under their hubs' keys.

The weights are random. The small models are made by the library's own classes and saved by them,
which gives files the keys of the hubs' files; the full sizes are compared by keys and shapes alone.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_library_vit import CLOSE, adopted, method, network, shaken
from torch import Tensor

from meddino.core.errors import MeddinoError
from meddino.models import library_vit

SMALL = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": 16}
SAM = {**SMALL, "image_size": 96, "window_size": 4, "global_attn_indexes": [1], "mlp_dim": 256}


def clip(folder: Path) -> Any:
    """CLIP as in openai/clip-vit-base-patch16: with a text model and whole numbers as tensors."""
    from transformers import CLIPConfig, CLIPModel

    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"intermediate_size": 64, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2}
    vision = {**SMALL, "intermediate_size": 128, "image_size": 64}
    model = shaken(CLIPModel(CLIPConfig(text_config=text, vision_config=vision)))
    model.save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    for part, count in (("vision_model", 17), ("text_model", 77)):
        state[f"{part}.embeddings.position_ids"] = torch.arange(count)[None]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return model


def clip_tokens(model: Any, x: Tensor) -> Tensor:
    vision = model.vision_model
    last = vision(pixel_values=x, interpolate_pos_encoding=True).last_hidden_state
    return vision.post_layernorm(last)[:, 1:].transpose(1, 2)


def mae(folder: Path) -> Any:
    """An MAE as facebook/vit-mae-base, with its decoder."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    decoder = {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 1}
    decoder |= {"decoder_num_attention_heads": 2, "decoder_intermediate_size": 64}
    size = {**SMALL, "intermediate_size": 128, "image_size": 64, "mask_ratio": 0.0}
    model = shaken(ViTMAEForPreTraining(ViTMAEConfig(**size, **decoder)))
    model.save_pretrained(folder)
    return model


def mae_tokens(model: Any, x: Tensor) -> Tensor:
    patches = x.shape[-2] * x.shape[-1] // 256
    order = torch.arange(patches)[None] / patches  # which is how an MAE is told to shuffle nothing
    out = model.vit(x, noise=order.expand(len(x), -1), interpolate_pos_encoding=True)
    return out.last_hidden_state[:, 1:].transpose(1, 2)


def curia(folder: Path) -> Any:
    """Curia as raidium/curia: a DINOv2 ViT for grey images, with patches of 16 px and SwiGLU."""
    from transformers import Dinov2Config, Dinov2Model

    grey = {"num_channels": 1, "use_swiglu_ffn": True, "image_size": 64}
    model = shaken(Dinov2Model(Dinov2Config(**SMALL, **grey)))
    model.save_pretrained(folder)
    return model


def curia_tokens(model: Any, x: Tensor) -> Tensor:
    return model(x[:, :1]).last_hidden_state[:, 1:].transpose(1, 2)


def sam(folder: Path) -> Any:
    """SAM as facebook/sam-vit-base, whose configuration leaves the types of its parts empty."""
    from transformers import SamConfig, SamModel

    model = shaken(SamModel(SamConfig(vision_config={**SAM, "output_channels": 16})))
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["model_type"] = ""
    (folder / "config.json").write_text(json.dumps(config))
    return model


def sam_tokens(model: Any, x: Tensor) -> Tensor:
    """The image encoder's own forward pass up to its neck, which takes one size of images."""
    kept: list[Tensor] = []
    layer = model.vision_encoder.layers[-1]
    handle = layer.register_forward_hook(lambda module, inputs, out: kept.append(out))
    model.vision_encoder(x)
    handle.remove()
    return kept[0].permute(0, 3, 1, 2).flatten(2)


HUB = {
    "clip": (clip, clip_tokens, ((4, 4), (5, 2))),
    "mae": (mae, mae_tokens, ((4, 4), (5, 2))),
    "curia": (curia, curia_tokens, ((4, 4), (5, 2))),
    "sam": (sam, sam_tokens, ((6, 6),)),
}


@pytest.mark.parametrize("kind", HUB)
@torch.no_grad()
def test_features_are_those_of_the_hub_model(tmp_path: Path, kind: str) -> None:
    make, tokens, grids = HUB[kind]
    model = make(tmp_path / "hub")
    backbone = f"transformers:{tmp_path / 'hub'}"
    built = network(method(backbone), adopted(tmp_path, backbone, file=str(tmp_path / "hub")))
    for height, width in grids:
        grey = torch.randn(2, 1, 16 * height, 16 * width).expand(-1, 3, -1, -1)
        features = built.backbone.get_intermediate_layers(grey, [2])[0]
        torch.testing.assert_close(features.flatten(2), tokens(model, grey), **CLOSE)


@pytest.mark.parametrize("kind", HUB)
def test_hub_models_take_images_of_any_size_and_learn(tmp_path: Path, kind: str) -> None:
    HUB[kind][0](tmp_path)
    built = network(method(f"transformers:{tmp_path}", None), None)
    for size in ((64, 64), (70, 45)):
        logits = built(torch.randn(1, 1, *size))
        assert logits.shape == (1, 3, *size)
    shaken(built)(torch.randn(1, 1, 70, 45)).square().mean().backward()
    silent = [k for k, p in built.named_parameters() if p.grad is None or not p.grad.any()]
    assert all(key.endswith("mask_token") for key in silent)


def timm_sam() -> Any:
    import timm

    return shaken(timm.create_model("samvit_base_patch16", num_classes=0, **TIMM_SAM))


TIMM_SAM = {"embed_dim": 64, "depth": 3, "num_heads": 2, "img_size": 96, "window_size": 4}
TIMM_SAM |= {"global_attn_indexes": [1], "neck_chans": 16}


@torch.no_grad()
def test_sam_is_read_from_its_authors_file_and_both_libraries_agree(tmp_path: Path) -> None:
    """The same weights under three key lists: SAM's authors', timm's and transformers'."""
    model = timm_sam()
    state = model.state_dict()
    theirs = {f"image_encoder.{k.replace('.mlp.fc', '.mlp.lin')}": v for k, v in state.items()}
    theirs["mask_decoder.iou_token.weight"] = torch.ones(1, 256)
    (tmp_path / "sam").mkdir()
    torch.save(theirs, tmp_path / "sam/pytorch_model.bin")
    config = {"architecture": "samvit_base_patch16", "model_args": TIMM_SAM}
    (tmp_path / "sam/config.json").write_text(json.dumps(config))
    description, tensors = library_vit.read_checkpoint("timm:samvit_base_patch16", tmp_path / "sam")
    ours = library_vit.build(description).eval()
    ours.model.load_state_dict(tensors, strict=True)

    sam(tmp_path / "hub")
    names = {"patch_embed.proj": "patch_embed.projection", "blocks.": "layers."}
    names |= {".norm1.": ".layer_norm1.", ".norm2.": ".layer_norm2.", ".mlp.fc": ".mlp.lin"}
    hub = {f"vision_encoder.{_renamed(key, names)}": value for key, value in tensors.items()}
    save_file(hub, tmp_path / "hub/model.safetensors", {"format": "pt"})
    backbone = f"transformers:{tmp_path / 'hub'}"
    other = network(method(backbone), adopted(tmp_path, backbone, file=str(tmp_path / "hub")))
    for height, width in ((6, 6), (5, 9)):  # the former is the size that it was made for
        x = torch.randn(1, 3, 16 * height, 16 * width)
        expected = model.forward_intermediates(x, [0, 2], intermediates_only=True)
        for vit in (ours, other.backbone.eval()):
            maps = vit.get_intermediate_layers(x, [0, 2])
            for feature, reference in zip(maps, expected, strict=True):
                torch.testing.assert_close(feature, reference, **CLOSE)


@torch.no_grad()
def test_clip_is_read_from_the_layout_of_openclip(tmp_path: Path) -> None:
    """As timm's repositories of CLIP hold it: keys of OpenCLIP, with a text model, in fp16."""
    import timm

    size = {"embed_dim": 64, "depth": 3, "num_heads": 2, "img_size": 64}
    name = "vit_base_patch16_clip_quickgelu_224"
    model = shaken(timm.create_model(name, num_classes=0, dynamic_img_size=True, **size))
    parts = {"patch_embed.proj": "conv1", "pos_embed": "positional_embedding"}
    parts |= {"cls_token": "class_embedding", "blocks.": "transformer.resblocks."}
    parts |= {"norm_pre": "ln_pre", ".norm1": ".ln_1", ".norm2": ".ln_2", "norm.": "ln_post."}
    parts |= {"attn.qkv.": "attn.in_proj_", "attn.proj": "attn.out_proj"}
    parts |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    state = {f"visual.{_renamed(key, parts)}": v.half() for key, v in model.state_dict().items()}
    for key in ("class_embedding", "positional_embedding"):
        state[f"visual.{key}"] = state[f"visual.{key}"].squeeze()
    state |= {"visual.proj": torch.ones(64, 8).half(), "logit_scale": torch.ones(())}
    state |= {"token_embedding.weight": torch.ones(5, 8)}
    state["transformer.resblocks.0.ln_1.bias"] = torch.ones(8)  # of the text model
    torch.save(state, tmp_path / "pytorch_model.bin")
    config = {"architecture": name, "model_args": size}
    (tmp_path / "config.json").write_text(json.dumps(config))
    built = network(method(f"timm:{name}"), adopted(tmp_path, f"timm:{name}", file=str(tmp_path)))
    rounded = model.half().float()
    x = torch.randn(1, 3, 80, 32)
    features = built.backbone.get_intermediate_layers(x, [2])[0]
    expected = rounded.forward_features(x)[:, 1:]
    torch.testing.assert_close(features.flatten(2).transpose(1, 2), expected, **CLOSE)


def _renamed(key: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        key = key.replace(old, new)
    return key


BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 16}


def full_keys(kind: str) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of a hub's file in full size, as far as they are of the ViT."""
    linear = {"q": (768, 768), "k": (768, 768), "v": (768, 768), "o": (768, 768)}
    wide = {"up": (3072, 768), "down": (768, 3072)}
    patch = (768, 3, 16, 16)
    if kind == "clip":
        keys: dict[str, tuple[int, ...]] = {
            "vision_model.embeddings.class_embedding": (768,),
            "vision_model.embeddings.patch_embedding.weight": patch,
            "vision_model.embeddings.position_embedding.weight": (197, 768),
        }
        layers, names = "vision_model.encoder.layers", {"up": "mlp.fc1", "down": "mlp.fc2"}
        names |= {n: f"self_attn.{'out' if n == 'o' else n}_proj" for n in "qkvo"}
        norms = ["layer_norm1", "layer_norm2"]
        tops = ["vision_model.pre_layrnorm", "vision_model.post_layernorm"]
    elif kind == "mae":
        keys = {
            "vit.embeddings.cls_token": (1, 1, 768),
            "vit.embeddings.position_embeddings": (1, 197, 768),
            "vit.embeddings.patch_embeddings.projection.weight": patch,
            "vit.embeddings.patch_embeddings.projection.bias": (768,),
        }
        layers, names = "vit.encoder.layer", {"up": "intermediate.dense", "down": "output.dense"}
        long = {"q": "query", "k": "key", "v": "value"}
        names |= {n: f"attention.attention.{long[n]}" for n in "qkv"}
        names["o"] = "attention.output.dense"
        norms, tops = ["layernorm_before", "layernorm_after"], ["vit.layernorm"]
    else:
        keys = {
            "vision_encoder.pos_embed": (1, 64, 64, 768),
            "vision_encoder.patch_embed.projection.weight": patch,
            "vision_encoder.patch_embed.projection.bias": (768,),
        }
        layers, names = "vision_encoder.layers", {"up": "mlp.lin1", "down": "mlp.lin2"}
        linear = {"qkv": (2304, 768), "o": (768, 768)}
        names |= {"qkv": "attn.qkv", "o": "attn.proj"}
        norms, tops = ["layer_norm1", "layer_norm2"], []
        for layer in range(12):
            length = 127 if layer in (2, 5, 8, 11) else 27
            for axis in "hw":
                keys[f"{layers}.{layer}.attn.rel_pos_{axis}"] = (length, 64)
    for layer in range(12):
        for part, shape in {**linear, **wide}.items():
            keys[f"{layers}.{layer}.{names[part]}.weight"] = shape
            keys[f"{layers}.{layer}.{names[part]}.bias"] = shape[:1]
        tops += [f"{layers}.{layer}.{norm}" for norm in norms]
    return keys | {f"{norm}.{end}": (768,) for norm in tops for end in ("weight", "bias")}


FULL = {
    "clip": {"model_type": "clip", "vision_config": {**BASE, "image_size": 224}},
    "mae": {"model_type": "vit_mae", **BASE, "image_size": 224, "mask_ratio": 0.75},
    # The whole of what facebook/sam-vit-base says of its ViT, whose size is the library's default.
    "sam": {"model_type": "sam", "vision_config": {"model_type": "", "dropout": 0.0}},
}


@pytest.mark.parametrize("kind", FULL)
def test_the_full_key_list_of_the_hub_fits(tmp_path: Path, kind: str) -> None:
    """One number stands for each tensor, so that 0.3 GB of weights cost no memory."""
    state = {key: torch.zeros(1).expand(shape) for key, shape in full_keys(kind).items()}
    torch.save(state, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(FULL[kind]))
    backbone = f"transformers:{tmp_path}"
    description, tensors = library_vit.read_checkpoint(backbone, tmp_path)
    assert description["config"]["model_type"] in ("clip_vision_model", "vit", "sam_vision_model")
    assert sum(tensor.numel() for tensor in tensors.values()) == sum(
        tensor.numel() for tensor in state.values()
    )


@pytest.mark.parametrize("kind", HUB)
def test_a_hub_file_that_lacks_a_tensor_is_refused(tmp_path: Path, kind: str) -> None:
    HUB[kind][0](tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    key = next(k for k in sorted(state, reverse=True) if ".2." in k and k.endswith("bias"))
    del state[key]
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(MeddinoError, match="does not fit the network: it lacks"):
        library_vit.read_checkpoint(f"transformers:{tmp_path}", tmp_path)
