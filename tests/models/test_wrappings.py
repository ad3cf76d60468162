"""Checkpoints in what people wrap them in: read where that is clear, else named with a remedy."""

import argparse
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from meddino.core.errors import MeddinoError
from meddino.models import loading
from meddino.models.architectures import named
from meddino.models.vit import VisionTransformer

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(0)
    vit = VisionTransformer(named("vittiny8"))
    return {key: value.clone() for key, value in vit.state_dict().items()}


def prefixed(prefix: str, state: State) -> State:
    return {f"{prefix}{key}": value for key, value in state.items()}


def other(state: State) -> State:
    return {key: value + 1 for key, value in state.items()}


WRAPS: dict[str, Callable[[State], Any]] = {
    "bare": lambda s: s,
    **{
        name: lambda s, name=name: {name: s, "epoch": 3}
        for name in (
            "model", "state_dict", "student", "teacher", "network_weights", "module", "encoder",
            "model_state_dict", "backbone", "net",
        )
    },
    **{
        prefix: lambda s, prefix=prefix: prefixed(prefix, s)
        for prefix in (
            "_orig_mod.", "module.", "backbone.", "encoder.", "module._orig_mod.backbone.",
            "teacher.backbone.", "model.vit.",
        )
    },
    "nested": lambda s: {"model": {"state_dict": prefixed("module.backbone.", s)}},
    "within keys": lambda s: {k.replace("s.0.", "s.0._orig_mod."): v for k, v in s.items()},
    "with a head": lambda s: {"teacher": {**prefixed("backbone.", s), "head.w": s["cls_token"]}},
    "both": lambda s: {"student": other(s), "teacher": s},
    "both by prefix": lambda s: prefixed("student.", other(s)) | prefixed("teacher.", s),
    "averaged": lambda s: {"model": other(s), "model_ema": s},
    "with an optimizer": lambda s: {"model": s, "optimizer": {"state": {0: other(s)}}},
    "with scalars": lambda s: {
        "model": s, "loss": np.float64(0.3), "best": np.float32(1), "step": np.int64(7),
        "curve": np.zeros(3), "args": argparse.Namespace(lr=1e-3, out=Path("x")),
    },
}  # fmt: skip


@pytest.mark.parametrize("wrap", WRAPS)
def test_wrapped_weights_are_read(state: State, tmp_path: Path, wrap: str) -> None:
    torch.save(WRAPS[wrap](state), tmp_path / "weights.pth")
    read = loading.load_backbone(tmp_path / "weights.pth").state_dict()
    assert all(torch.equal(read[key], value) for key, value in state.items())


def test_of_student_and_teacher_the_teacher_is_read_with_a_remark(
    state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(WRAPS["both"](state), tmp_path / "weights.pth")
    loading.load_backbone(tmp_path / "weights.pth")
    assert "teacher is read, not student" in capsys.readouterr().err


def shards(state: State, folder: Path, save: Callable[[State, Path], None], name: str) -> None:
    stem, suffix = name.split(".")
    folder.mkdir()
    parts: list[State] = [dict(list(state.items())[number::2]) for number in range(2)]
    names = [f"{stem}-0000{number}-of-00002.{suffix}" for number in (1, 2)]
    for part, shard in zip(parts, names, strict=True):
        save(part, folder / shard)
    places = {key: shard for part, shard in zip(parts, names, strict=True) for key in part}
    (folder / f"{name}.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / "config.json").write_text("{}")


@pytest.mark.parametrize("place", ["", "{}.index.json", "{stem}-00001-of-00002.{suffix}"])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_shards_are_read_as_one(state: State, tmp_path: Path, name: str, place: str) -> None:
    save = save_file if name.endswith("safetensors") else torch.save
    shards(state, tmp_path / "sharded", save, name)
    stem, suffix = name.split(".")
    path = tmp_path / "sharded" / place.format(name, stem=stem, suffix=suffix)
    read = loading.load_backbone(path).state_dict()
    assert all(torch.equal(read[key], value) for key, value in state.items())


def dcp(path: Path, _: State) -> None:
    path.mkdir()
    (path / ".metadata").write_bytes(b"")


REFUSED: dict[str, tuple[Callable[[Path, State], Any], str]] = {
    "DCP": (dcp, r"torch\.distributed\.checkpoint \(DCP\).*dcp_to_torch"),
    "objects": (
        lambda p, s: torch.save({"model": s, "share": Fraction(1, 3)}, p),
        r"pickled fractions\.Fraction beside tensors.*weights_only=False",
    ),
    "no tensors": (lambda p, s: torch.save({"epoch": 3}, p), r"no tensors, but epoch \(int\)"),
    "two": (
        lambda p, s: torch.save({"ct": s, "mr": other(s)}, p),
        r"several ViTs \(ct, mr\); save the one",
    ),
    "Git LFS": (
        lambda p, s: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "pointer of Git LFS.*git lfs pull",
    ),
    "web page": (lambda p, s: p.write_text("<!DOCTYPE html><html>"), "web page.*login"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_read_is_named_with_a_remedy(state: State, tmp_path: Path, kind: str) -> None:
    make, message = REFUSED[kind]
    make(tmp_path / "weights.pth", state)
    with pytest.raises(MeddinoError, match=message) as error:
        loading.load_backbone(tmp_path / "weights.pth")
    text = str(error.value)
    assert (
        text.startswith(str(tmp_path / "weights.pth")) and "\n" not in text and "\x1b" not in text
    )
    assert "0 tensors" not in text and "fetch it again" not in text


def test_a_damaged_file_is_to_be_fetched_again(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "weights.pth")
    content = (tmp_path / "weights.pth").read_bytes()
    (tmp_path / "weights.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(MeddinoError, match="fetch it again") as error:
        loading.load_backbone(tmp_path / "weights.pth")
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value)
