"""ViTs of timm and transformers as backbones: features, sizes, weights, and what is refused."""

import hashlib
import importlib
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from places import GOLDEN
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from meddino.core.errors import MeddinoError
from meddino.finetune.networks import build_network
from meddino.finetune.options import Method, Training
from meddino.finetune.settings import Settings
from meddino.finetune.vit import read_start, start_of
from meddino.models import library_vit, load_backbone
from meddino.models.architectures import Architecture
from meddino.models.loading import load_strictly
from meddino.models.options import WeightsOptions
from meddino.models.vit import VisionTransformer
from meddino.models.weights import run as fetch_weights

CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}
SIZE = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 56}
KINDS = {
    "vit": {"intermediate_size": 128, "patch_size": 16},
    "dinov2": {"mlp_ratio": 2, "patch_size": 14},
    "dinov2_with_registers": {"mlp_ratio": 2, "patch_size": 14},
    "dinov3_vit": {"intermediate_size": 128, "patch_size": 16, "num_register_tokens": 2},
    "beit": {"intermediate_size": 128, "patch_size": 8, "use_relative_position_bias": True},
}
TIMM = [
    "vit_tiny_patch16_224.augreg_in21k",
    "vit_small_patch14_reg4_dinov2.lvd142m",
    "vit_small_patch16_dinov3.lvd1689m",
]


@torch.no_grad()
def shaken(model: nn.Module) -> nn.Module:
    """A model in which every tensor matters, unlike one with zero positions and small scales."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def hub_model(kind: str, folder: Path) -> Any:
    """A small model of transformers, saved as on Hugging Face."""
    from transformers import AutoConfig, AutoModel

    model = shaken(AutoModel.from_config(AutoConfig.for_model(kind, **SIZE, **KINDS[kind])))
    model.save_pretrained(folder)
    return model


def adopted(folder: Path, backbone: str, **origin: Any) -> Path:
    """What the `weights` verb makes of a checkpoint."""
    output = folder / "weights/w.pth"
    fetch_weights(WeightsOptions(**origin, kind=backbone), output=output)
    return output


def method(backbone: str, weights: str | None = "w", **changes: Any) -> Method:
    usual = {"label": "x", "network": "primus", "optimizer": "adamw", "lr": 1e-3}
    usual |= {"weight_decay": 0.0, "blocks": [0, 2], "backbone": backbone, "weights": weights}
    return Method.model_validate({**usual, **changes})


def network(row: Method, path: Path | None) -> nn.Module:
    """The network that `finetune` trains, and that prediction rebuilds from JSON alone."""
    description, tensors = read_start(path, row)
    settings = Settings(method=row, training=Training(), vit=description)
    settings = Settings.model_validate_json(settings.model_dump_json())
    built = build_network(settings, None, 3, False).eval()
    if path is not None:
        load_strictly(start_of(built), tensors, str(path))
    return built


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_features_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    model = hub_model(kind, tmp_path / "hub")
    backbone = f"transformers:{tmp_path / 'hub'}"
    built = network(method(backbone), adopted(tmp_path, backbone, file=str(tmp_path / "hub")))
    patch = KINDS[kind]["patch_size"]
    for height, width in ((4, 4), (5, 2)):  # the former is the size that it was made for, if 14
        x = torch.randn(2, 3, height * patch, width * patch)
        found = built.backbone.get_intermediate_layers(x, [2])[0]
        options = {} if kind.startswith("dino") else {"interpolate_pos_encoding": True}
        last = model(x, **options).last_hidden_state[:, -height * width :]
        torch.testing.assert_close(found.flatten(2).transpose(1, 2), last, **CLOSE)


@pytest.mark.parametrize("name", TIMM)
@torch.no_grad()
def test_features_are_those_of_timm(tmp_path: Path, name: str) -> None:
    import timm

    small = {"embed_dim": 64, "depth": 3, "num_heads": 2}
    model = shaken(timm.create_model(name, num_classes=10, dynamic_img_size=True, **small))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    architecture = name.partition(".")[0]
    config = {"architecture": architecture, "num_classes": 10, "model_args": small}
    (tmp_path / "config.json").write_text(json.dumps(config))
    backbone = f"timm:{name}"
    path = adopted(tmp_path, backbone, file=str(tmp_path))
    built = network(method(backbone), path)
    patch = built.backbone.patch_size
    x = torch.randn(1, 3, 3 * patch, 2 * patch)
    found = built.backbone.get_intermediate_layers(x, [2])[0]
    last = model.forward_features(x)[:, -6:]
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), last, **CLOSE)


@pytest.mark.parametrize("backbone", ["timm:vit_tiny_patch16_224", "dinov2"])
def test_images_of_any_size_get_logits_and_everything_learns(tmp_path: Path, backbone: str) -> None:
    if backbone == "dinov2":  # patches of 14 px, which no doubling gives
        hub_model(backbone, tmp_path)
        backbone = f"transformers:{tmp_path}"
    last = 2 if "transformers" in backbone else 11
    built = network(method(backbone, None, drop_path=0.1, blocks=[0, last]), None)
    for size in ((64, 64), (70, 45)):
        logits = built(torch.randn(1, 1, *size))
        assert logits.shape == (1, 3, *size)
    logits.square().mean().backward()
    silent = [k for k, p in built.named_parameters() if p.grad is None or not p.grad.any()]
    assert all(key.endswith("mask_token") for key in silent)  # of pretraining


@torch.no_grad()
def test_a_head_around_the_vit_is_left_out(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(**SIZE, intermediate_size=128, num_labels=7)
    model = shaken(ViTForImageClassification(config))
    model.save_pretrained(tmp_path)
    description, tensors = library_vit.read_checkpoint("transformers:vit", tmp_path)
    assert not any(key.startswith(library_vit.HEADS) for key in tensors)
    vit = library_vit.build(description)
    load_strictly(vit.model, tensors, "x")
    x = torch.randn(1, 3, 64, 32)
    theirs = model.vit(x, interpolate_pos_encoding=True).last_hidden_state[:, 1:]
    found = vit.eval().get_intermediate_layers(x, [2], reshape=False)[0]
    torch.testing.assert_close(found, theirs, **CLOSE)


def test_checkpoints_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    hub_model("dinov2", tmp_path)
    backbone = f"transformers:{tmp_path}"
    state = load_file(tmp_path / "model.safetensors")
    changed = {**state, "extra.weight": torch.ones(1)}
    key = next(k for k in changed if k.endswith("mlp.fc1.weight"))
    del changed[key]
    save_file(changed, tmp_path / "model.safetensors")
    with pytest.raises(MeddinoError, match=r"lacks .*mlp\.fc1\.weight.*unknown extra\.weight"):
        library_vit.read_checkpoint(backbone, tmp_path)
    save_file({**state, key: torch.ones(3, 3)}, tmp_path / "model.safetensors")
    with pytest.raises(MeddinoError, match=r"another shape|does not load"):
        library_vit.read_checkpoint(backbone, tmp_path)
    save_file({"a": torch.ones(1)}, tmp_path / "w.safetensors")
    with pytest.raises(MeddinoError, match=r"w\.safetensors does not fit"):
        library_vit.read_checkpoint("timm:vit_tiny_patch16_224", tmp_path / "w.safetensors")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    hub_model("dinov2", tmp_path)
    backbone = f"transformers:{tmp_path}"
    path = adopted(tmp_path, backbone, file=str(tmp_path))
    with pytest.raises(MeddinoError, match=r"for transformers:.*, not for timm:vit_tiny"):
        read_start(path, method("timm:vit_tiny_patch16_224"))
    with pytest.raises(MeddinoError, match="no DINOv3 ViT"):
        read_start(path, method("vittiny8"))


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("timm:vit_tinny_patch16_224", "no such model"),
        ("timm:resnet18", "choose a plain ViT"),
        ("timm:swin_tiny_patch4_window7_224", "maps of 4 sizes"),
        ("transformers:absent/folder", "no config.json can be had"),
    ],
)
def test_what_is_no_plain_vit_is_refused(
    backbone: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MeddinoError, match=message):
        network(method(backbone, None), None)


def test_blocks_and_drop_path_that_a_vit_lacks_are_refused(tmp_path: Path) -> None:
    hub_model("vit", tmp_path)
    with pytest.raises(MeddinoError, match="has blocks 0 to 2"):
        network(method(f"transformers:{tmp_path}", None, blocks=[3]), None)
    with pytest.raises(MeddinoError, match="set drop_path of the method to 0"):
        network(method(f"transformers:{tmp_path}", None, drop_path=0.1), None)


def test_a_torchvision_that_does_not_fit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        """As timm fails; transformers says so further down its chain of errors."""
        raise RuntimeError("operator torchvision::nms does not exist")

    def lazy(*_: Any) -> None:
        try:
            broken()
        except RuntimeError as error:
            raise ModuleNotFoundError("Could not import module 'ViTModel'") from error

    monkeypatch.setattr(library_vit, "import_module", broken)
    with pytest.raises(MeddinoError, match=r"timm cannot be loaded \(operator.*belongs to your"):
        library_vit.describe("timm:vit_tiny_patch16_224")
    monkeypatch.setattr(library_vit, "_build_transformers", lazy)
    with pytest.raises(MeddinoError, match=r"transformers:x cannot be loaded \(operator"):
        library_vit.build({"backbone": "transformers:x"})


# Weights from Hugging Face


class Hub(SimpleHTTPRequestHandler):
    """Files as Hugging Face serves them."""

    def end_headers(self) -> None:
        path = Path(self.translate_path(self.path))
        self.send_header("ETag", f'"{path.name}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that stands in for Hugging Face."""
    from meddino.datasets import clients

    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    constants = importlib.import_module("huggingface_hub.constants")
    url = f"http://127.0.0.1:{server.server_port}"
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace("https://huggingface.co", url)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(clients, "FIRST_PAUSE_S", 0.0)
    yield folder
    server.shutdown()
    thread.join()
    server.server_close()


@torch.no_grad()
def test_weights_come_from_hugging_face(tmp_path: Path, hub: Path) -> None:
    files, tree = hub / "o/r/resolve/v1", hub / "api/models/o/r/tree/v1"
    model = hub_model("dinov2", files)
    tree.parent.mkdir(parents=True)
    names = ("config.json", "model.safetensors", "pytorch_model.bin", "README.md")
    listed = [{"type": "file", "path": name, "oid": "0", "size": 1} for name in names]
    for entry in listed[:2]:
        entry["size"] = (files / str(entry["path"])).stat().st_size
    tree.write_text(json.dumps(listed))
    backbone = "transformers:o/r"
    path = adopted(tmp_path, backbone, hub="o/r@v1")
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    built = network(method(backbone), path)
    x = torch.randn(1, 3, 56, 28)
    found: Tensor = built.backbone.get_intermediate_layers(x, [2], reshape=False)[0]
    torch.testing.assert_close(found, model(x).last_hidden_state[:, 1:], **CLOSE)
    tree.write_text(json.dumps(listed[3:]))
    with pytest.raises(MeddinoError, match=r"o/r@v1 holds no weights.*weights\.w\.file"):
        adopted(tmp_path, backbone, hub="o/r@v1")
    with pytest.raises(MeddinoError, match=r"(?s)o/absent on Hugging Face.*hf auth login"):
        adopted(tmp_path, backbone, hub="o/absent")


def serve(hub: Path, repo: str, files: dict[str, bytes]) -> None:
    """Put a repository's main branch into the stand-in for Hugging Face."""
    tree = hub / f"api/models/{repo}/tree/main"
    tree.parent.mkdir(parents=True, exist_ok=True)
    listed = [
        {"type": "file", "path": name, "oid": "0", "size": len(content)}
        for name, content in files.items()
    ]
    tree.write_text(json.dumps(listed))
    for name, content in files.items():
        path = hub / f"{repo}/resolve/main/{name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@pytest.fixture
def released(tmp_path: Path) -> tuple[VisionTransformer, bytes]:
    """A small stand-in for the released MedDINOv3, with its keys: the ViT and its file."""
    small = Architecture(
        embed_dim=16, depth=12, num_heads=2, ffn_ratio=2, qkv_bias=False, norm_eps=1e-6
    )
    vit = VisionTransformer(small).eval()
    shaken(vit)
    published = json.loads((GOLDEN / "dinov3/state_dict_keys.json").read_text())
    assert vit.state_dict().keys() == published["meddinov3_vitb16"].keys()
    teacher = {f"backbone.{key}": value for key, value in vit.state_dict().items()}
    heads = {f"{head}.last_layer.weight": torch.ones(1) for head in ("dino_head", "ibot_head")}
    torch.save({"teacher": teacher | heads}, tmp_path / "released.pth")
    return vit, (tmp_path / "released.pth").read_bytes()


@torch.no_grad()
@pytest.mark.parametrize("reference", ["a/m", "a/m@main", "a/m:weights/model.pth"])
def test_the_one_file_of_a_repository_without_config_json_is_found(
    tmp_path: Path, hub: Path, released: tuple[VisionTransformer, bytes], reference: str
) -> None:
    """As of `ricklisz123/MedDINOv3-ViTB-16-CT-3M`: one torch file, and no config.json."""
    vit, content = released
    serve(hub, "a/m", {"README.md": b"# MedDINOv3", "weights/model.pth": content})
    output = tmp_path / "study/meddinov3_released.pth"
    digest = hashlib.sha256(content).hexdigest()
    fetch_weights(WeightsOptions(hub=reference, sha256=digest), output=output)
    assert [path.name for path in output.parent.iterdir()] == [output.name]
    loaded = load_backbone(output)
    assert loaded.architecture == vit.architecture
    images = torch.randn(1, 3, 32, 48)
    torch.testing.assert_close(loaded(images), vit(images), rtol=0, atol=0)
    with pytest.raises(MeddinoError, match=rf"SHA-256 of {reference} is {digest}, expected 0000"):
        fetch_weights(WeightsOptions(hub=reference, sha256="0" * 64), output=output)


def test_of_several_files_in_a_repository_one_must_be_named(tmp_path: Path, hub: Path) -> None:
    serve(hub, "a/two", {"a.pth": b"x", "b.safetensors": b"y", "notes.txt": b""})
    with pytest.raises(
        MeddinoError,
        match=r"weights\.w: a/two holds several files of weights: a\.pth, b\.safetensors; name one"
        r" behind the reference, as in a/two:a\.pth",
    ):
        fetch_weights(WeightsOptions(hub="a/two"), output=tmp_path / "w.pth")
    with pytest.raises(MeddinoError, match=r"a/two holds no c\.pth, but a\.pth, b\.safetensors"):
        fetch_weights(WeightsOptions(hub="a/two:c.pth"), output=tmp_path / "w.pth")
