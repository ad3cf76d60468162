"""Checkpoints of transformers and timm, both ways, compared with those libraries themselves."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from meddino.__main__ import main
from meddino.core.errors import MeddinoError
from meddino.models import conversion, load_backbone
from meddino.models.architectures import ARCHITECTURES, Architecture
from meddino.models.export import export
from meddino.models.loading import infer_architecture
from meddino.models.options import WeightsOptions
from meddino.models.vit import RotaryEmbedding, VisionTransformer, build
from meddino.models.weights import run as fetch_weights

CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}
SMALL = Architecture(embed_dim=128, depth=3, num_heads=2)
VARIANTS = {
    "as DINOv3": SMALL,
    "as MedDINOv3": replace(SMALL, qkv_bias=False, norm_eps=1e-6),
    "bare": replace(SMALL, qkv_bias=False, layerscale=None, storage_tokens=0),
    "of another shape": replace(SMALL, patch_size=8, storage_tokens=2, ffn_ratio=3.0),
    "narrow heads": ARCHITECTURES["vittiny8"],
}
SIZES = {"vits16": "small", "vitb16": "base", "vitl16": "large"}


@torch.no_grad()
def randomised(architecture: Architecture) -> VisionTransformer:
    """A ViT in which every tensor matters."""
    torch.manual_seed(0)
    vit = VisionTransformer(architecture).eval()
    for name, parameter in vit.named_parameters():
        scale = 0.5 if "gamma" in name or "token" in name else 0.1
        parameter.add_(scale * torch.randn_like(parameter))
    return vit


def images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 3, *size, generator=generator) for size in ((64, 64), (48, 80))]


def tokens(vit: VisionTransformer, x: Tensor) -> Tensor:
    """Class, storage and patch tokens after the last norm, as the libraries return them."""
    out = vit.forward_features(x)
    parts = [out["x_norm_clstoken"][:, None], out["x_storage_tokens"], out["x_norm_patchtokens"]]
    return torch.cat(parts, dim=1)


def in_transformers(folder: Path) -> Callable[[Tensor], Tensor]:
    from transformers import AutoModel

    model, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert type(model).__name__ == "DINOv3ViTModel"
    assert not any(info.values()), info
    return lambda x: model.eval()(x).last_hidden_state


def in_timm(folder: Path) -> Callable[[Tensor], Tensor]:
    import timm

    config = json.loads((folder / "config.json").read_text())
    model = timm.create_model(config["architecture"], pretrained=False, **config["model_args"])
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    return model.eval().forward_features


LIBRARIES = {"transformers": in_transformers, "timm": in_timm}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_exports_give_the_same_features_there_and_back(
    tmp_path: Path, variant: str, library: str
) -> None:
    vit = randomised(VARIANTS[variant])
    assert export(vit, library, tmp_path) == []
    theirs, back = LIBRARIES[library](tmp_path), load_backbone(tmp_path)
    for x in images():
        ours = tokens(vit, x)
        torch.testing.assert_close(theirs(x), ours, **CLOSE)
        torch.testing.assert_close(tokens(back, x), ours, **CLOSE)
    assert back.architecture.norm_eps == vit.architecture.norm_eps


@torch.no_grad()
def shaken(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", "folder"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"key_bias": True, "layer_norm_eps": 1e-3}, {"query_bias": False, "rope_theta": 50.0}],
)
@torch.no_grad()
def test_transformers_checkpoints_load(
    tmp_path: Path, suffix: str, settings: dict[str, Any]
) -> None:
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    if suffix != "folder":  # a bare file has no settings, so only the usual ones fit
        settings = {key: value for key, value in settings.items() if key.endswith("bias")}
    torch.manual_seed(0)
    size = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = DINOv3ViTConfig(**size, intermediate_size=512, num_register_tokens=4, **settings)
    model = shaken(DINOv3ViTModel(config))
    if suffix == "folder":
        path = tmp_path
        model.save_pretrained(path)
    else:
        path = tmp_path / f"w{suffix}"
        write = save_file if suffix == ".safetensors" else torch.save
        write(model.state_dict(), path)  # keys as in memory, which those on disk differ from
    vit = load_backbone(path)
    for x in images():
        torch.testing.assert_close(tokens(vit, x), model(x).last_hidden_state, **CLOSE)
    again = tmp_path / "again"
    export(vit, "transformers", again)
    torch.testing.assert_close(in_transformers(again)(x), tokens(vit, x), **CLOSE)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("changes", [{}, {"qkv_fused": False}])
@pytest.mark.parametrize("bias", ["", "_qkvb"])
@torch.no_grad()
def test_timm_checkpoints_load(
    tmp_path: Path, suffix: str, bias: str, changes: dict[str, Any]
) -> None:
    import timm

    torch.manual_seed(0)
    name = f"vit_small_patch16_dinov3{bias}"
    model = shaken(timm.create_model(name, embed_dim=128, depth=2, num_heads=2, **changes))
    path = tmp_path / f"w{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(model.state_dict(), path)
    vit = load_backbone(path)
    for x in images():
        torch.testing.assert_close(tokens(vit, x), model.forward_features(x), **CLOSE)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_key_names_and_shapes_of_full_models_are_theirs(size: str, bias: bool) -> None:
    import timm
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    with torch.device("meta"):
        vit = build(size, qkv_bias=bias)
        timms = timm.create_model(f"vit_{SIZES[size]}_patch16_dinov3{'_qkvb' * bias}")
    vit.rope_embed = RotaryEmbedding(64, 100.0, None)
    shapes = {key: value.shape for key, value in vit.state_dict().items()}

    state, config = conversion.to_timm(vit)
    assert config["architecture"].startswith(f"vit_{SIZES[size]}_patch16_dinov3")
    assert {k: v.shape for k, v in state.items()} == {
        k: v.shape for k, v in timms.state_dict().items()
    }
    public, known = conversion.to_public(timms.state_dict(), {})
    assert {k: v.shape for k, v in public.items()} == shapes
    assert replace(infer_architecture(public), **known) == vit.architecture

    state, config = conversion.to_transformers(vit)
    with torch.device("meta"):
        theirs = DINOv3ViTModel(DINOv3ViTConfig(**config)).state_dict()
    assert {k: v.shape for k, v in state.items()} == {
        k.removeprefix("model."): v.shape for k, v in theirs.items()
    }
    public, _ = conversion.to_public(theirs, {})
    assert {k: v.shape for k, v in public.items()} == shapes


@torch.no_grad()
def test_every_layout_can_be_exported_to_every_other(tmp_path: Path) -> None:
    vit, (x, _) = randomised(SMALL), images()
    path, name = tmp_path / "teacher.pth", "backbone.pth"
    torch.save({"teacher": {f"backbone.{k}": v for k, v in vit.state_dict().items()}}, path)
    for layout in ("dinov3", "timm", "transformers", "dinov3"):
        output = tmp_path / f"{layout}-from-{path.name}"
        arguments = ["--weights", str(path), "--format", layout, "--output", str(output)]
        assert main(["export", *arguments]) == 0
        path = output / name if layout == "dinov3" else output
    state = torch.load(path, weights_only=True)
    assert state.keys() == vit.state_dict().keys()
    torch.testing.assert_close(tokens(load_backbone(path), x), tokens(vit, x), **CLOSE)


@torch.no_grad()
def test_what_a_layout_does_not_carry_is_said(tmp_path: Path) -> None:
    vit = randomised(replace(SMALL, untie_local_cls_norm=True, norm_eps=1e-6))
    periods = vit.rope_embed.periods
    periods.copy_(periods.bfloat16())
    rounded, unused = export(vit, "transformers", tmp_path / "transformers")
    assert "bfloat16" in rounded and "local_cls_norm" in unused
    assert ["1e-06" in note for note in export(vit, "dinov3", tmp_path)] == [True]


@pytest.mark.parametrize(
    ("changes", "layout", "message"),
    [
        ({"untie_cls_norm": True}, "transformers", "cls_norm.*export to dinov3"),
        ({"untie_cls_norm": True}, "timm", "cls_norm.*export to dinov3"),
        ({"rope_base": 50.0}, "timm", "periods"),
        ({"norm_eps": 1e-3}, "timm", "epsilon of 0.001"),
        ({"mask_k_bias": False}, "timm", "keys have a bias"),
    ],
)
def test_what_a_layout_cannot_express_is_refused(
    tmp_path: Path, changes: dict[str, Any], layout: str, message: str
) -> None:
    vit = randomised(replace(SMALL, **changes))
    vit.architecture = replace(vit.architecture, rope_base=100.0)
    with pytest.raises(MeddinoError, match=message):
        export(vit, layout, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_foreign_checkpoints_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    export(randomised(SMALL), "transformers", tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    with pytest.raises(MeddinoError, match=r"unknown blocks\.0\.mlp\.gate_proj\.weight"):
        load_backbone({**state, "layer.0.mlp.gate_proj.weight": torch.ones(1)})
    del state["layer.1.attention.k_proj.weight"], state["embeddings.mask_token"]
    with pytest.raises(MeddinoError, match=r"lacks blocks\.1\.attn\.qkv\.weight"):
        load_backbone(state)
    del state["embeddings.cls_token"]
    with pytest.raises(MeddinoError, match="lacks cls_token"):
        load_backbone(state)
    dinov2 = {k: torch.ones(1, 1, 64) for k in ("cls_token", "reg_token", "pos_embed")}
    with pytest.raises(MeddinoError, match="no DINOv3 ViT"):
        load_backbone({**dinov2, "patch_embed.proj.weight": torch.ones(64, 3, 14, 14)})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    with pytest.raises(MeddinoError, match=r"config\.json: hidden_act is relu"):
        load_backbone(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(MeddinoError, match=r"no config\.json with model\.safetensors"):
        load_backbone(tmp_path)


@torch.no_grad()
def test_heads_come_from_the_config_from_the_caller_or_are_64_wide(tmp_path: Path) -> None:
    vit, (x, _) = randomised(ARCHITECTURES["vittiny8"]), images()
    for layout in LIBRARIES:
        folder = tmp_path / layout
        export(vit, layout, folder)
        state = load_file(folder / "model.safetensors")
        assert load_backbone(folder).num_heads == 4
        assert load_backbone(state).num_heads == 1
        told = load_backbone(state, num_heads=4)
        torch.testing.assert_close(tokens(told, x), tokens(vit, x), **CLOSE)
        for wrong in (3, 32):
            with pytest.raises(MeddinoError, match=f"cannot have {wrong} heads"):
                load_backbone(state, num_heads=wrong)
    with pytest.raises(MeddinoError, match="4 heads by its rotary periods, not 2"):
        load_backbone(vit.state_dict(), num_heads=2)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("given", ["folder", "file", "url"])
@torch.no_grad()
def test_the_weights_verb_takes_them(tmp_path: Path, library: str, given: str) -> None:
    vit, (x, _) = randomised(VARIANTS["as MedDINOv3"]), images()
    export(vit, library, tmp_path / "hub")
    file = tmp_path / "hub/model.safetensors"
    origin = {
        "folder": {"file": str(file.parent)},
        "file": {"file": str(file)},
        "url": {"url": file.as_uri()},
    }[given]
    output = tmp_path / "weights/dinov3.pth"
    fetch_weights(WeightsOptions(**origin), output=output)
    torch.testing.assert_close(tokens(load_backbone(output), x), tokens(vit, x), **CLOSE)
    with pytest.raises(MeddinoError, match="SHA-256"):
        fetch_weights(WeightsOptions(**origin, sha256="0" * 64), output=output)
