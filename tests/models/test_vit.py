"""The ViT against numbers of the public DINOv3 code, and its checkpoints."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from places import GOLDEN
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from meddino.core.errors import MeddinoError
from meddino.finetune.options import Method, Training
from meddino.finetune.settings import Settings
from meddino.finetune.vit import build_vit, read_start
from meddino.models import load_backbone
from meddino.models.architectures import ARCHITECTURES
from meddino.models.heads import DINOHead
from meddino.models.loading import backbone_state
from meddino.models.options import WeightsOptions
from meddino.models.vit import VisionTransformer, build
from meddino.models.weights import run as fetch_weights

DINOV3, FLEXICT = GOLDEN / "dinov3", GOLDEN / "flexict"
VARIANTS = ["lvd", "meddino", "untied"]
CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}


def golden(variant: str) -> tuple[VisionTransformer, dict[str, Tensor]]:
    """A ViT with the epsilon that it was recorded with, and its inputs and outputs."""
    recorded = json.loads((DINOV3 / "meta.json").read_text())
    settings = recorded["backbone_kwargs"] | recorded["variants"][variant]
    meta = {"norm_eps": {"layernorm": 1e-6, "layernormbf16": 1e-5}[settings["norm_layer"]]}
    state = load_file(DINOV3 / f"backbone_{variant}_state.safetensors")
    vit = load_backbone({**state, "meta": meta})
    return vit, load_file(DINOV3 / f"backbone_{variant}_io.safetensors")


def check(out: Any, io: dict[str, Tensor], prefix: str) -> None:
    names = ("x_norm_clstoken", "x_norm_patchtokens", "x_storage_tokens", "x_prenorm")
    compared = [name for name in names if f"{prefix}.{name}" in io]
    assert len(compared) >= 2
    for name in compared:
        torch.testing.assert_close(out[name], io[f"{prefix}.{name}"], **CLOSE)


@pytest.mark.parametrize("variant", VARIANTS)
def test_features_equal_the_public_code(variant: str) -> None:
    vit, io = golden(variant)
    for name in ("a", "b"):
        check(vit.forward_features(io[f"in.{name}"]), io, f"out.{name}")
        inter = vit.get_intermediate_layers(io[f"in.{name}"], n=4, reshape=True, norm=True)
        for number, feature in enumerate(inter):
            torch.testing.assert_close(feature, io[f"out.{name}.inter{number}"], **CLOSE)
    check(vit.forward_features(io["in.a"], io["in.masks"]), io, "out.masked")
    crops = vit.forward_features([io["in.a"], io["in.local"]], [io["in.masks"], None])
    check(crops[0], io, "out.list.global")
    check(crops[1], io, "out.list.local")


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_equal_the_public_code(variant: str) -> None:
    vit, io = golden(variant)
    out = vit.forward_features(io["in.a"], io["in.masks"])
    scalar = (out["x_norm_clstoken"] ** 2).sum() + out["x_norm_patchtokens"].abs().sum()
    torch.testing.assert_close(scalar, io["grad.scalar"], **CLOSE)
    scalar.backward()
    norms = {k.removeprefix("grad.norm."): v for k, v in io.items() if k.startswith("grad.norm.")}
    assert norms
    parameters = dict(vit.named_parameters())
    for name, expected in norms.items():
        gradient = parameters[name].grad
        found = torch.tensor(0.0) if gradient is None else gradient.norm()
        torch.testing.assert_close(found, expected.reshape(()), rtol=1e-4, atol=1e-5)


def test_head_equals_the_public_code() -> None:
    io = load_file(DINOV3 / "dino_head.safetensors")
    head = DINOHead(64, 96, 80, 32)
    state = {k.removeprefix("state."): v for k, v in io.items() if k.startswith("state.")}
    head.load_state_dict(state)
    torch.testing.assert_close(head(io["in"]), io["out"], **CLOSE)


@pytest.mark.parametrize(
    ("model", "changes"),
    [("dinov3_vitb16", {}), ("meddinov3_vitb16", {"qkv_bias": False, "norm_eps": 1e-6})],
)
def test_key_names_and_shapes_are_the_published_ones(model: str, changes: dict[str, Any]) -> None:
    published = json.loads((DINOV3 / "state_dict_keys.json").read_text())[model]
    with torch.device("meta"):
        vit = build("vitb16", **changes)
    state = vit.state_dict()
    assert {k: list(v.shape) for k, v in state.items()} == published
    assert load_backbone_architecture(state) == vit.architecture


@torch.no_grad()
@pytest.mark.parametrize("variant", ["hub_untied", "hub_untied_local"])
def test_hub_models_with_untied_norms_have_the_hubs_epsilon(variant: str) -> None:
    """Recorded with faint tokens: another epsilon changes the features by 0.1 and more."""
    io = load_file(DINOV3 / f"{variant}.safetensors")
    state = {k.removeprefix("state."): v for k, v in io.items() if k.startswith("state.")}
    vit = load_backbone(state)
    assert vit.architecture.untie_cls_norm
    assert vit.architecture.untie_local_cls_norm == variant.endswith("local")
    check(vit.forward_features(io["images"]), io, "features")


@pytest.mark.parametrize(
    ("changes", "eps"),
    [
        ({}, 1e-5),  # dinov3/hub/backbones.py: every ViT
        ({"untie_local_cls_norm": True}, 1e-5),  # the hub's ViT-L of satellite images
        ({"mask_k_bias": False, "storage_tokens": 0}, 1e-6),  # configs/ssl_default_config.yaml
        ({"qkv_bias": False}, 1e-6),  # MedDINOv3, FlexiCT
    ],
)
def test_the_epsilon_goes_by_the_mask_of_the_keys_bias(changes: dict[str, Any], eps: float) -> None:
    state = build("vittiny8", **changes).state_dict()
    assert load_backbone(state).architecture.norm_eps == eps
    assert load_backbone({**state, "meta": {"norm_eps": 1e-4}}).architecture.norm_eps == 1e-4


def test_flexict_has_the_recorded_keys() -> None:
    """Those of `flexi_ct_2d.py`; what reads volumes is left out."""
    shapes = json.loads((FLEXICT / "state_dict_keys.json").read_text())
    with torch.device("meta"):
        released = {f"backbone.{key}": torch.empty(shape) for key, shape in shapes.items()}
        expected = build("flexictb8")
    state = backbone_state({"teacher": released})
    assert {k: v.shape for k, v in state.items()} == {
        k: v.shape for k, v in expected.state_dict().items()
    }
    assert load_backbone_architecture(state) == expected.architecture


@torch.no_grad()
def test_features_equal_flexict_on_grey_images(tmp_path: Path) -> None:
    io = load_file(FLEXICT / "flexict.safetensors")
    state = {k.replace("state.", "backbone."): v for k, v in io.items() if k.startswith("state.")}
    torch.save({"teacher": state | {"dino_head.last_layer.weight": torch.ones(1)}}, tmp_path / "w")
    vit = load_backbone(tmp_path / "w")
    assert (vit.architecture.num_heads, vit.patch_size) == (2, 8)
    check(vit.forward_features(io["images"].expand(-1, 3, -1, -1)), io, "features")


def test_flexicts_vision_language_model_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {"vision_model.cls_token": torch.ones(1)}}, tmp_path / "vlm.pth")
    with pytest.raises(MeddinoError, match=r"vlm\.pth: it holds FlexiCT's vision-language model"):
        load_backbone(tmp_path / "vlm.pth")


def load_backbone_architecture(state: dict[str, Tensor]) -> Any:
    from meddino.models.loading import infer_architecture

    return infer_architecture(state)


def test_rotary_augmentation_acts_in_training_only() -> None:
    torch.manual_seed(0)
    vit = build("vittiny8", rope_rescale=2.0, layerscale=None)
    x = torch.randn(2, 3, 32, 32)
    vit.eval()
    torch.testing.assert_close(vit(x), vit(x), rtol=0, atol=0)
    vit.train()
    assert not torch.equal(vit(x), vit(x))


def test_drop_path_keeps_the_mean() -> None:
    torch.manual_seed(0)
    vit = build("vittiny8", drop_path=0.5, layerscale=None, depth=1).train()
    x = torch.randn(8, 3, 16, 16)
    with torch.no_grad():
        mean = torch.stack([vit.forward_features(x)["x_prenorm"] for _ in range(600)]).mean(0)
        vit.eval()
        whole = vit.forward_features(x)["x_prenorm"]
    assert (mean - whole).abs().mean() < 0.1 * whole.abs().mean()


@pytest.mark.parametrize("wrapped", ["bare", "teacher", "safetensors"])
def test_every_layout_of_a_checkpoint_loads(tmp_path: Path, wrapped: str) -> None:
    vit = build("vittiny8").eval()
    path = tmp_path / ("w.safetensors" if wrapped == "safetensors" else "w.pth")
    if wrapped == "safetensors":
        save_file(vit.state_dict(), path)
    elif wrapped == "bare":
        torch.save(vit.state_dict(), path)
    else:
        teacher = {f"backbone.{k}": v for k, v in vit.state_dict().items()}
        torch.save({"teacher": {**teacher, "dino_head.last_layer.weight": torch.ones(1)}}, path)
    x = torch.randn(1, 3, 24, 40)
    torch.testing.assert_close(load_backbone(path)(x), vit(x), rtol=0, atol=0)


def test_a_checkpoint_that_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    state = build("vittiny8").state_dict()
    state["blocks.0.attn.other"] = state.pop("blocks.0.attn.proj.bias")
    with pytest.raises(
        MeddinoError, match=r"lacks blocks\.0\.attn\.proj\.bias.*blocks\.0\.attn\.other"
    ):
        load_backbone(state)
    with pytest.raises(MeddinoError, match="no DINOv3 ViT"):
        load_backbone({"weight": torch.ones(1)})
    bad = tmp_path / "bad.pth"
    bad.write_bytes(b"not a checkpoint")
    with pytest.raises(MeddinoError, match=r"bad\.pth"):
        load_backbone(bad)
    with pytest.raises(MeddinoError, match="does not exist"):
        load_backbone(tmp_path / "absent.pth")


def test_published_weights_are_checked_and_placed(tmp_path: Path) -> None:
    vit = build("vittiny8").eval()
    source = tmp_path / "published.safetensors"
    save_file(vit.state_dict(), source)
    output = tmp_path / "weights/dinov3.pth"
    fetch_weights(WeightsOptions(url=source.as_uri()), output=output)
    x = torch.randn(1, 3, 16, 16)
    torch.testing.assert_close(load_backbone(output)(x), vit(x), rtol=0, atol=0)
    output.unlink()
    with pytest.raises(MeddinoError, match="SHA-256"):
        fetch_weights(WeightsOptions(file=str(source), sha256="0" * 64), output=output)
    with pytest.raises(MeddinoError, match=r"ask the owner.*weights\.dinov3\.file"):
        fetch_weights(WeightsOptions(how="ask the owner"), output=output)
    assert list(output.parent.iterdir()) == []


def test_architectures_have_heads_that_can_be_rotated() -> None:
    for name, architecture in ARCHITECTURES.items():
        assert architecture.embed_dim % (4 * architecture.num_heads) == 0, name


def start(path: Path, **changes: Any) -> tuple[VisionTransformer, dict[str, Any]]:
    """The ViT that a method starts with, rebuilt as for prediction."""
    values = {"label": "x", "network": "primus", "optimizer": "adamw", "lr": 1e-3, "blocks": [3]}
    values |= {"weight_decay": 0.0, "backbone": "vittiny8", "weights": "w"}
    row = Method.model_validate({**values, **changes})
    description, tensors = read_start(path, row)
    vit = build_vit(Settings(method=row, training=Training(), vit=description))
    vit.load_state_dict(tensors)
    return vit.eval(), description


@torch.no_grad()
def test_official_loading_drops_what_the_authors_vit_lacks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = build("vittiny8").eval()
    for parameter in source.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    path = tmp_path / "w.pth"
    torch.save(source.state_dict(), path)
    x = torch.randn(1, 3, 32, 24)
    same, description = start(path)
    assert description == {"layerscale": 1e-5}, "which loading replaces"
    torch.testing.assert_close(same(x), source(x), rtol=0, atol=0)
    bare, description = start(path, storage_tokens=0, train_k_bias=True, norm_eps=1e-6)
    del description["layerscale"]
    assert description == {"storage_tokens": 0, "mask_k_bias": False, "norm_eps": 1e-6}
    # The same by hand: no registers, the bias of keys let loose, another epsilon.
    state = source.state_dict()
    kept = {k: v for k, v in state.items() if k != "storage_tokens" and "bias_mask" not in k}
    theirs = build("vittiny8", storage_tokens=0, mask_k_bias=False, norm_eps=1e-6).eval()
    theirs.load_state_dict(kept)
    torch.testing.assert_close(bare(x), theirs(x), rtol=0, atol=0)
    assert (bare(x) - source(x)).abs().max() > 1e-3
    assert len(bare.forward_features(x)["x_storage_tokens"][0]) == 0


def test_registers_cannot_be_added_to_a_checkpoint() -> None:
    with pytest.raises(ValidationError, match="storage_tokens: 2 has no meaning"):
        start(Path("w.pth"), storage_tokens=2)
