"""Pretraining: parity with the public DINOv3 code, crops, masks, resuming, chaining."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from full_disk import full_after
from hypothesis import given, settings
from hypothesis import strategies as st
from places import GOLDEN, ROOT
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from meddino.core.errors import MeddinoError, Stopped
from meddino.models import checkpoints, distributed, loading
from meddino.models.architectures import named
from meddino.models.distributed import Team
from meddino.models.vit import build
from meddino.pretrain import budget, checkpoint, crops, leaves, losses, pretrain, trainer, views
from meddino.pretrain.engine import Engine, Part, multipliers, parameter_groups, set_rates
from meddino.pretrain.masks import draw_mask, draw_masks
from meddino.pretrain.meter import step_flops
from meddino.pretrain.options import (
    Augmentation,
    Head,
    LeavesOptions,
    Objective,
    Optimisation,
    PretrainOptions,
    Resolution,
    StageOptions,
)
from meddino.pretrain.schedules import linear_warmup_cosine
from meddino.study.model import load

DINOV3 = GOLDEN / "dinov3"
CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}
HEAD = Head(prototypes=32, hidden=24, bottleneck=16)


# ---- parity ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def numbers() -> dict[str, Tensor]:
    return load_file(DINOV3 / "losses.safetensors")


def same(loss: Tensor, x: Tensor, numbers: dict[str, Tensor], name: str) -> None:
    torch.testing.assert_close(loss, numbers[f"{name}.loss"], **CLOSE)
    (gradient,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(gradient, numbers[f"{name}.grad"], **CLOSE)


def identity(logits: Tensor) -> Tensor:
    """Prototypes of which samples that are logits have those logits."""
    return torch.eye(logits.shape[-1])


def sinkhorn_knopp(logits: Tensor, temperature: float) -> Tensor:
    prototypes = identity(logits)
    return losses.sinkhorn(logits, prototypes, temperature).of(slice(None), prototypes)


@pytest.mark.parametrize("kept", [0, 10**9])
@pytest.mark.parametrize("piece", [1, 40, 10**9])
def test_assignments_do_not_depend_on_the_pieces_of_logits(
    numbers: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, piece: int, kept: int
) -> None:
    monkeypatch.setattr(losses, "PIECE_LOGITS", piece)
    monkeypatch.setattr(losses, "KEPT_LOGITS", kept)
    target = sinkhorn_knopp(numbers["ibot.teacher_logits"], float(numbers["dino.teacher_temp"]))
    torch.testing.assert_close(target, numbers["ibot.sinkhorn"], **CLOSE)


def test_dino_loss(numbers: dict[str, Tensor]) -> None:
    temperature = float(numbers["dino.teacher_temp"])
    target = sinkhorn_knopp(numbers["dino.teacher_logits"], temperature)
    torch.testing.assert_close(target, numbers["dino.sinkhorn"], **CLOSE)
    target = target.unflatten(0, (2, 5))
    for name, student, diagonal in (
        ("dino.global", "dino.student_global", False),
        ("dino.global_ignore_diagonal", "dino.student_global", True),
        ("dino.local", "dino.student_local", False),
    ):
        x = numbers[student].clone().requires_grad_()
        loss = losses.dino_loss(x, identity(x), target, ignore_diagonal=diagonal)
        same(loss, x, numbers, name)


@pytest.mark.parametrize("piece", [1, 40, 10**9])
def test_ibot_loss(numbers: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(losses, "PIECE_LOGITS", piece)
    masks = numbers["ibot.masks"]
    torch.testing.assert_close(losses.mask_weights(masks), numbers["ibot.masks_weight"], **CLOSE)
    x = numbers["ibot.student"].clone().requires_grad_()
    target = numbers["ibot.sinkhorn"]
    targets = ((rows, target[rows]) for rows in losses.pieces(*target.shape))
    same(losses.ibot_loss(x, identity(x), targets, masks), x, numbers, "ibot")


def test_the_slopes_of_a_prototype_loss_are_those_of_autograd() -> None:
    """Of samples and of prototypes; the loss may be weighed afterwards."""
    generator = torch.Generator().manual_seed(0)
    samples, prototypes, target = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((2, 3, 4), (7, 4), (2, 3, 7))
    )
    target = target.softmax(dim=-1)
    inputs = (samples.requires_grad_(), prototypes.requires_grad_())
    ours = losses.dino_loss(*inputs, target)
    log_probs = F.log_softmax(samples @ prototypes.T / 0.1, dim=-1)
    plain = -torch.einsum("sbk,tbk->st", log_probs, target).mean() / 3
    torch.testing.assert_close(ours, plain, rtol=1e-6, atol=0, check_dtype=False)
    for pair in zip(*(torch.autograd.grad(3 * x, inputs) for x in (ours, plain)), strict=True):
        torch.testing.assert_close(*pair, rtol=1e-5, atol=1e-6)


def test_koleo_loss(numbers: dict[str, Tensor]) -> None:
    x = numbers["koleo.in"].clone().requires_grad_()
    same(losses.koleo_loss(x), x, numbers, "koleo")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("default", {}),
        ("batch_level", {"img_level": False}),
        ("unnormalised", {"normalize": False}),
        ("remove_neg", {"remove_neg": True}),
        ("remove_only_teacher_neg", {"remove_only_teacher_neg": True}),
    ],
)
def test_gram_loss(numbers: dict[str, Tensor], name: str, options: dict[str, bool]) -> None:
    x = numbers["gram.student"].clone().requires_grad_()
    same(losses.gram_loss(x, numbers["gram.teacher"], **options), x, numbers, f"gram.{name}")


def test_features_of_the_gram_teacher_are_resized_alike(numbers: dict[str, Tensor]) -> None:
    resized = losses.resize_features(numbers["gram.downsample.in_8x8"], (8, 8), (4, 4))
    torch.testing.assert_close(resized, numbers["gram.downsample.bicubic_4x4"], **CLOSE)


def test_losses_are_exact_under_autocast(numbers: dict[str, Tensor]) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        found = {
            "koleo": losses.koleo_loss(numbers["koleo.in"]),
            "gram.default": losses.gram_loss(numbers["gram.student"], numbers["gram.teacher"]),
        }
    for name, value in found.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, numbers[f"{name}.loss"], **CLOSE)


@pytest.mark.parametrize("gram", [False, True])
def test_a_whole_step(gram: bool) -> None:
    io, state = (load_file(DINOV3 / f"ssl_step_{part}.safetensors") for part in ("io", "state"))
    meta = json.loads((DINOV3 / "meta.json").read_text())["ssl_step"]
    stage = make_stage(
        gram=gram,
        objective=Objective(gram=2.0 if gram else 0.0),
        augmentation=Augmentation(local_crops=4),
        dino_head=Head(prototypes=96, hidden=80, bottleneck=32),
        ibot_head=Head(prototypes=72, hidden=80, bottleneck=32),
    )
    backbone = {k.removeprefix("student.backbone."): v for k, v in state.items()}
    architecture = loading.infer_architecture(
        {k: v for k, v in backbone.items() if not k.startswith(("student", "teacher", "gram"))}
    )
    engine = Engine(architecture, stage)
    for part in ("student", "teacher"):
        tensors = {k.removeprefix(f"{part}."): v for k, v in state.items() if k.startswith(part)}
        loading.load_strictly(getattr(engine, part), tensors, part)
    if engine.gram is not None:
        tensors = {k.removeprefix("gram.backbone."): v for k, v in state.items() if "gram." in k}
        loading.load_strictly(engine.gram, tensors, "gram")
    batch = crops.Crops(io["in.global"], io["in.local"], io["in.gram_teacher"] if gram else None)
    engine.eval()
    part = Part.of(batch, io["in.masks"])
    parts = engine(part, *engine.targets([part], meta["teacher_temp"]))
    for name in ("dino_global", "dino_local", "ibot", "koleo", *(["gram"] if gram else [])):
        torch.testing.assert_close(parts[name], io[f"loss.{name}"], **CLOSE)
    total = "loss.total_stage2_gramweight2" if gram else "loss.total_stage1"
    torch.testing.assert_close(parts["loss"], io[total], **CLOSE)
    if gram:
        parts["loss"].backward()
        for name, parameter in engine.student.named_parameters():
            part, _, inner = name.partition(".")
            expected = io[f"gradnorm.student_{part}.{inner}"].reshape(())
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad.norm(), expected, rtol=1e-4, atol=1e-6)
    engine.update_teacher(0.99)
    moved = sum(p.abs().sum() for p in engine.teacher.backbone.parameters())
    torch.testing.assert_close(moved, io["ema0.99.sum_abs_teacher_backbone"], rtol=1e-5, atol=0)


def test_schedule_and_parameter_groups() -> None:
    recorded = json.loads((DINOV3 / "schedules.json").read_text())["linear_warmup_cosine.a"]
    k = recorded["kwargs"]
    ours = [
        linear_warmup_cosine(
            i,
            start=k["start"],
            peak=k["peak"],
            end=k["end"],
            warmup=k["warmup_iterations"],
            total=k["total_iterations"],
        )
        for i in range(k["total_iterations"])
    ]
    np.testing.assert_allclose(ours, recorded["values"], rtol=1e-9, atol=1e-15)
    groups = json.loads((DINOV3 / "meta.json").read_text())["param_groups_decay0.9_pe0.2"]
    options = Optimisation(lr=1.0, layerwise_decay=0.9, patch_embed_lr=0.2)
    for name, (rate, decay, last) in groups.items():
        found = multipliers(f"backbone.{name}", 4, options)
        assert found == (pytest.approx(rate), decay, last), name


def golden_network(io: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """Tensors of student or teacher; what is equal for both is stored once."""
    own = {k.removeprefix(f"{part}."): v for k, v in io.items() if k.startswith(f"{part}.")}
    shared = {k.removeprefix("student."): v for k, v in io.items() if k.startswith("student.")}
    return {**{k: v for k, v in shared.items() if "bias_mask" in k or "periods" in k}, **own}


def test_three_training_steps() -> None:
    """Losses, clipping, AdamW by groups, and moving average, each step from the one before."""
    io = load_file(DINOV3 / "steps.safetensors")
    history = json.loads((DINOV3 / "steps.json").read_text())["history"]
    stage = make_stage(
        batch_size=3,
        augmentation=Augmentation(local_crops=4),
        dino_head=Head(prototypes=48, hidden=32, bottleneck=16),
        ibot_head=Head(prototypes=40, hidden=24, bottleneck=12),
        optim=Optimisation(lr=1.0, layerwise_decay=0.9, patch_embed_lr=0.2, clip_grad=3.0),
    )
    backbone = {
        k.removeprefix("backbone."): v
        for k, v in golden_network(io, "student").items()
        if k.startswith("backbone.")
    }
    engine = Engine(replace(loading.infer_architecture(backbone), norm_eps=1e-6), stage)
    for part in ("student", "teacher"):
        loading.load_strictly(getattr(engine, part), golden_network(io, part), part)
    engine.train()
    engine.student.backbone.rope_embed.rescale = None
    for block in engine.student.backbone.blocks:
        block.drop_path = 0.0
    optimizer = torch.optim.AdamW(
        parameter_groups(engine.student, stage.optim), lr=0.0, betas=(0.9, 0.999), eps=1e-8
    )
    views = (io[f"data.{kind}_times64_int8"].float() / 64 for kind in ("global", "local"))
    batch = crops.Crops(*views, None)
    names = {
        "loss": "total_loss",
        "dino_local": "dino_local_crops_loss",
        "dino_global": "dino_global_crops_loss",
        "koleo": "koleo_loss",
        "ibot": "ibot_loss",
    }
    for number, expected in enumerate(history):
        part = Part.of(batch, io["data.masks"])
        parts = engine(part, *engine.targets([part], expected["teacher_temp"]))
        for ours, theirs in names.items():
            assert float(parts[ours].detach()) == pytest.approx(expected[theirs], rel=2e-5), (
                number,
                ours,
            )
        optimizer.zero_grad()
        parts["loss"].backward()
        norms = {k: float(v) for k, v in engine.clip_gradients(stage.optim.clip_grad).items()}
        assert norms == pytest.approx(expected["grad_norm_before_clip"], rel=1e-4)
        for group in optimizer.param_groups:
            rate = expected["last_layer_lr" if group["last_layer"] else "lr"]
            group["lr"] = rate * group["lr_multiplier"]
            group["weight_decay"] = expected["wd"] * group["wd_multiplier"]
        optimizer.step()
        engine.update_teacher(expected["momentum"])
        if number == 0:
            after = {k.removeprefix("after1."): v for k, v in io.items() if k.startswith("after1.")}
            state = engine.state_dict()
            for name, value in after.items():
                torch.testing.assert_close(state[name], value, rtol=0, atol=2e-5, msg=name)
        for part, key in (("student", "param_l2_after_step"), ("teacher", "teacher_l2_after_ema")):
            for name, network in getattr(engine, part).items():
                length = math.sqrt(
                    sum(float(p.detach().double().square().sum()) for p in network.parameters())
                )
                assert length == pytest.approx(expected[key][name], rel=1e-5), (number, part, name)


# ---- masks and crops ---------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 20), st.integers(2, 20), st.floats(0, 0.95), st.integers(0, 99))
def test_a_mask_hides_exactly_its_share(rows: int, columns: int, share: float, seed: int) -> None:
    count = int(rows * columns * share)
    assert draw_mask(count, (rows, columns), np.random.default_rng(seed)).sum() == count


def test_shares_of_a_batch_are_the_upper_ends_of_intervals() -> None:
    masks = draw_masks(16, (14, 14), (0.1, 0.5), 0.5, np.random.default_rng(0))
    counts = sorted(int(n) for n in masks.sum(1) if n)
    assert counts == [int(196 * p) for p in np.linspace(0.1, 0.5, 9)[1:]]


def test_masks_have_the_statistics_of_the_public_ones() -> None:
    recorded = json.loads((DINOV3 / "masks.json").read_text())["statistics"]
    for entry in recorded["per_count"]:
        rng = np.random.default_rng(entry["n"])
        masks = np.stack([draw_mask(entry["n"], (16, 16), rng) for _ in range(300)])
        pairs = (masks[:, 1:] & masks[:, :-1]).sum((1, 2))
        pairs = pairs + (masks[:, :, 1:] & masks[:, :, :-1]).sum((1, 2))
        spread = entry["std_adjacent_masked_pairs"]
        # The public mean is of 150 draws, ours of 300: four standard errors of their difference.
        error = 4 * spread * math.sqrt(1 / recorded["n_draws"] + 1 / len(masks))
        assert pairs.mean() == pytest.approx(entry["mean_adjacent_masked_pairs"], abs=error)
        assert pairs.std() == pytest.approx(spread, rel=0.3)
        centre = masks[:, 6:10, 6:10].mean()
        corners = masks[:, [0, 0, -1, -1], [0, -1, 0, -1]].mean()
        assert centre == pytest.approx(entry["mean_mask_freq_center"], abs=0.08)
        assert corners == pytest.approx(entry["mean_mask_freq_corners"], abs=0.03)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 999), st.integers(8, 80))
def test_cutting_equals_cropping_and_resizing_one_by_one(seed: int, size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(3, 48, 48, generator=generator) * 2000 - 1000
    boxes = crops.draw_boxes(images.shape[1:], (0.05, 1.0), crops.Draws([seed], 3))
    ours = crops.cut(images, boxes, torch.tensor([False, True, False]), size)
    for number, (top, left, height, width) in enumerate(boxes.tolist()):
        part = images[number, top : top + height, left : left + width][None, None]
        expected = F.interpolate(part, (size, size), mode="bicubic", antialias=True)[0, 0]
        expected = expected.flip(1) if number == 1 else expected
        torch.testing.assert_close(ours[number], expected, rtol=1e-3, atol=0.5)


def test_crops_are_those_of_the_seed_and_in_the_models_units() -> None:
    slices = torch.randint(-1024, 1500, (4, 64, 64), dtype=torch.int16)
    resolution = Resolution(global_px=32, local_px=16, gram_px=64)

    def draw(seed: int) -> crops.Crops:
        draws = crops.Draws([seed, seed + 1], 2)
        return crops.multi_crop(slices, resolution, Augmentation(local_crops=3), draws)

    one, two, other = draw(1), draw(1), draw(3)
    assert one.globals.shape == (8, 3, 32, 32)
    assert one.locals.shape == (12, 3, 16, 16)
    assert one.gram is not None and one.gram.shape == (8, 3, 64, 64)
    torch.testing.assert_close(one.globals, two.globals, rtol=0, atol=0)
    assert not torch.equal(one.globals, other.globals)
    ends = [(hu - crops.HU_MEAN) / crops.HU_STD for hu in crops.HU_RANGE]
    assert one.globals.min() >= ends[0] - 1e-3 and one.globals.max() <= ends[1] + 1e-3


def test_dead_leaves_are_a_function_of_the_seed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        leaves.run(LeavesOptions(count=5, size_px=32), output=tmp_path / name / "index.32.parquet")
    files = [(tmp_path / name / "leaves.32.parquet").read_bytes() for name in ("a", "b")]
    assert files[0] == files[1]


# ---- stages ------------------------------------------------------------------------------------


def make_stage(gram: bool = False, **changes: Any) -> StageOptions:
    values: dict[str, Any] = {
        "data": "leaves",
        "slices_px": 32,
        "iterations": 6,
        "snapshots": (3, 6),
        "batch_size": 4,
        "resolutions": (Resolution(global_px=32, local_px=16, gram_px=64 if gram else None),),
        "optim": Optimisation(lr=1e-3, warmup=2),
        "objective": Objective(gram=2.0 if gram else 0.0),
        "gram_teacher": "stage1@3" if gram else None,
        "augmentation": Augmentation(local_crops=2),
        "dino_head": HEAD,
        "ibot_head": HEAD,
        "drop_path": 0.25,
        "rope_rescale": 2.0,
        "log_every": 1,
        "checkpoint_every": 2,
    }
    return StageOptions(**{**values, **changes})


def options(name: str = "stage1", **changes: Any) -> PretrainOptions:
    return PretrainOptions(name=name, backbone="vittiny8", stage=make_stage(**changes))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("leaves") / "index.32.parquet"
    leaves.run(LeavesOptions(count=24, size_px=32), output=path)
    return path


@pytest.fixture(scope="module")
def stage1(index: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stage1")
    pretrain.run(options(), index=index, state=folder / "state", output=folder / "history.jsonl")
    return folder


def test_a_stage_leaves_history_and_snapshots_and_is_not_done_twice(
    index: Path, stage1: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = sorted(path.name for path in stage1.iterdir())
    assert names == ["000003.pth", "000006.pth", "history.jsonl", "state"]
    whole = [(stage1 / name).read_bytes() for name in names[:3]]
    for name in names[:3]:  # as Snakemake does when it was killed before it heard of the end
        (stage1 / name).unlink()
    monkeypatch.setattr(trainer.Trainer, "_step", None)
    pretrain.run(options(), index=index, state=stage1 / "state", output=stage1 / "history.jsonl")
    assert [(stage1 / name).read_bytes() for name in names[:3]] == whole
    lines = [json.loads(line) for line in (stage1 / "history.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(math.isfinite(line[key]) for line in lines for key in ("loss", "ibot", "koleo"))
    meta = loading.read(stage1 / "000003.pth")["meta"]
    assert (meta["stage"], meta["iteration"]) == ("stage1", 3)


def test_a_killed_stage_resumes_to_the_bit(
    index: Path, stage1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = trainer.Trainer._step

    def die(self: trainer.Trainer, iteration: int, *given: Any) -> dict[str, float]:
        if iteration == 5:
            raise KeyboardInterrupt
        return steps(self, iteration, *given)

    where = {"index": index, "state": tmp_path / "state", "output": tmp_path / "history.jsonl"}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer.Trainer, "_step", die)
        pretrain.run(options(), **where)
    assert not (tmp_path / "history.jsonl").exists()
    pretrain.run(options(), **where)
    ours, whole = (loading.read(folder / "000006.pth") for folder in (tmp_path, stage1))
    for part in ("student", "teacher"):
        for name, value in whole[part].items():
            torch.testing.assert_close(ours[part][name], value, rtol=0, atol=0)


def test_stage_2_starts_from_stage_1_and_is_held_by_its_gram_teacher(
    index: Path, stage1: Path, tmp_path: Path
) -> None:
    second = options("stage2", gram=True, init="stage1@6", drop_path=0.0, quality_every=4)
    paths = {"init": stage1 / "000006.pth", "gram_teacher": stage1 / "000003.pth"}
    where = {"index": index, "state": tmp_path / "state", "output": tmp_path / "history.jsonl"}
    pretrain.run(second, **paths, **where)
    lines = [json.loads(line) for line in where["output"].read_text().splitlines()]
    assert all("gram" in line for line in lines)
    told = [line["iteration"] for line in lines if "patch_consistency" in line]
    assert told == [4, 6] and lines[-1]["rank_patch"] > 1
    origin = loading.read(tmp_path / "000006.pth")["meta"]["origin"]
    assert (origin["init"]["stage"], origin["init"]["iteration"]) == ("stage1", 6)
    with pytest.raises(
        MeddinoError, match="iteration 3 of stage stage1, but init asks for stage1@6"
    ):
        pretrain.run(second, **{**paths, "init": stage1 / "000003.pth"}, **where)
    with pytest.raises(MeddinoError, match="gram_teacher: the stage says stage1@3"):
        pretrain.run(second, **{**paths, "gram_teacher": None}, **where)


def test_a_stage_starts_from_published_weights(index: Path, tmp_path: Path) -> None:
    vit = build("vittiny8")
    torch.save(vit.state_dict(), tmp_path / "dinov3.pth")
    frozen = options(init="dinov3", optim=Optimisation(lr=1e-9), iterations=1, snapshots=(1,))
    where = {"index": index, "state": tmp_path / "state", "output": tmp_path / "history.jsonl"}
    pretrain.run(frozen, init=tmp_path / "dinov3.pth", **where)
    after = loading.load_backbone(tmp_path / "000001.pth").state_dict()
    for name, value in vit.state_dict().items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-6)
    wrong = replace(frozen, backbone="vits16")
    with pytest.raises(MeddinoError, match=r"dinov3\.pth is no vits16: embed_dim is 64, not 384"):
        pretrain.run(wrong, init=tmp_path / "dinov3.pth", **where)


@pytest.mark.parametrize(("start", "student"), [("teacher", "teacher"), ("own", "student")])
def test_a_later_stage_starts_both_networks_from_the_earlier_teacher_or_each_from_its_own(
    stage1: Path, index: Path, tmp_path: Path, start: Literal["teacher", "own"], student: str
) -> None:
    init = stage1 / "000006.pth"
    frozen = Optimisation(lr=1e-12, momentum=(1.0, 1.0))
    later = options(init="stage1@6", start=start, optim=frozen, iterations=1, snapshots=(1,))
    where = {"index": index, "state": tmp_path / "state", "output": tmp_path / "history.jsonl"}
    pretrain.run(later, init=init, **where)
    before, after = loading.read(init), loading.read(tmp_path / "000001.pth")
    assert any(not torch.equal(before["student"][k], v) for k, v in before["teacher"].items())
    for part, origin in (("student", student), ("teacher", "teacher")):
        for name, value in before[origin].items():
            torch.testing.assert_close(after[part][name], value, rtol=0, atol=1e-9)


def test_the_rule_for_batch_sizes_scales_the_learning_rates() -> None:
    """DINOv3's rule: 4 sqrt(512 / 1024) is 2.83, at the peak and at the end."""
    rates = Optimisation(lr=2e-4, final_lr=1e-5, warmup=2)
    plain = make_stage(batch_size=512, optim=rates)
    scaled = make_stage(batch_size=512, optim=replace(rates, lr_rule="sqrt_1024"))
    assert plain.learning_rates == (2e-4, 1e-5)
    assert scaled.learning_rates == pytest.approx((5.657e-4, 2.828e-5), rel=1e-3)
    parameter = {"params": [torch.zeros(1)], "last_layer": False, "lr_multiplier": 0.5}
    optimizer = torch.optim.AdamW([parameter | {"wd_multiplier": 1.0}])
    assert set_rates(optimizer, scaled, iteration=2) == scaled.learning_rates[0]
    assert optimizer.param_groups[0]["lr"] == scaled.learning_rates[0] / 2


def test_the_qkv_bias_can_be_taken_off_on_the_way(
    stage1: Path, index: Path, tmp_path: Path
) -> None:
    """As in the released MedDINOv3, though it started from DINOv3."""
    init = stage1 / "000006.pth"
    plain = replace(options(init="stage1@6"), qkv_bias=False)
    history = tmp_path / "history.jsonl"
    pretrain.run(plain, index=index, init=init, state=tmp_path / "state", output=history)
    vit = loading.load_backbone(tmp_path / "000003.pth")
    assert not vit.architecture.qkv_bias and vit.architecture.norm_eps == 1e-5
    assert loading.load_backbone(init).architecture.qkv_bias
    assert loading.read(tmp_path / "000003.pth")["meta"]["origin"]["init"]["iteration"] == 6
    random = checkpoint.architecture_of(plain, None)
    assert not random.qkv_bias and random.storage_tokens == vit.architecture.storage_tokens


def test_a_loss_that_is_no_number_stops_the_stage(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = losses.ibot_loss
    calls = []

    def break_down(*arguments: Any) -> Tensor:
        calls.append(1)
        return real(*arguments) * (math.nan if len(calls) == 4 else 1)

    monkeypatch.setattr(losses, "ibot_loss", break_down)
    with pytest.raises(MeddinoError, match=r"iteration 3 loss = nan, ibot = nan.*optim\.lr"):
        pretrain.run(
            options(),
            index=index,
            state=tmp_path / "state",
            output=tmp_path / "history.jsonl",
        )
    kept = checkpoints.newest(tmp_path / "state")
    assert kept is not None and kept["iteration"] == 2


def test_losses_that_are_read_late_are_the_same_and_refused_in_time(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: no checkpoint is kept of an iteration whose losses have not been read."""
    usual = train(index, tmp_path / "usual")
    monkeypatch.setattr(trainer, "lag", lambda _: 1)
    close(train(index, tmp_path / "late"), usual, 0.0)
    lines = [(tmp_path / name / "history.jsonl").read_text() for name in ("usual", "late")]
    kept = [[json.loads(line)["loss"] for line in text.splitlines()] for text in lines]
    assert kept[0] == kept[1]
    test_a_loss_that_is_no_number_stops_the_stage(index, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"snapshots": (3,)}, "the last must be the end of the stage, 6"),
        ({"gram_teacher": "stage1@3"}, "go together"),
        ({"batch_size": 0}, "batch_size"),
        ({"resolutions": ()}, "at least one"),
    ],
)
def test_impossible_stages_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_stage(**changes)


def test_losses_fall_on_a_few_pictures(index: Path, tmp_path: Path) -> None:
    stage = options(iterations=40, snapshots=(40,), optim=Optimisation(lr=1e-3, warmup=5))
    output = tmp_path / "history.jsonl"
    pretrain.run(stage, index=index, state=tmp_path / "state", output=output)
    loss = [json.loads(line)["loss"] for line in output.read_text().splitlines()]
    assert np.mean(loss[-5:]) < np.mean(loss[:5]) - 0.05


# ---- several processes, and ends before the end ------------------------------------------------

EVEN: dict[str, Any] = {"drop_path": 0.0, "rope_rescale": None, "batch_size": 8, "group_size": 2}


def train(index: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    """Train a stage without anything that is drawn per process; return its last snapshot."""
    where = {"index": index, "state": folder / "state", "output": folder / "history.jsonl"}
    pretrain.run(options(**{**EVEN, **changes}), **where)
    return loading.read(folder / "000006.pth")


def close(ours: dict[str, Any], other: dict[str, Any], atol: float) -> None:
    for part in ("student", "teacher"):
        assert ours[part].keys() == other[part].keys()
        for name, value in other[part].items():
            torch.testing.assert_close(ours[part][name], value, rtol=0, atol=atol, msg=name)


@pytest.fixture(scope="module")
def alone(index: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("alone")
    return folder, train(index, folder)


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_processes_equal_one(
    index: Path, alone: tuple[Path, dict[str, Any]], tmp_path: Path, sharding: str
) -> None:
    folder, one = alone
    close(train(index, tmp_path, processes=2, device="cpu", sharding=sharding), one, 2e-5)
    ours, whole = (
        [json.loads(line) for line in (where / "history.jsonl").read_text().splitlines()]
        for where in (tmp_path, folder)
    )
    for a, b in zip(ours, whole, strict=True):
        collapse = COLLAPSE if a["iteration"] == 6 else ()
        for key in ("loss", "ibot", "koleo", "dino_local", "grad_norm_backbone", *collapse):
            assert a[key] == pytest.approx(b[key], rel=1e-4), key


@pytest.fixture(scope="module")
def steps(index: Path, stage1: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Three noisy steps, with or without a Gram teacher, in parts and processes of some number."""

    def run(gram: bool, micro_batch: int, processes: int, **changes: Any) -> Any:
        folder = tmp_path_factory.mktemp("steps")
        conduct = {"micro_batch": micro_batch, "processes": processes}
        stage = options(**{**STEPS, **conduct, **changes}, gram=gram)
        where = {"state": folder / "state", "output": folder / "history.jsonl"}
        teacher = stage1 / "000003.pth" if gram else None
        pretrain.run(stage, index=index, gram_teacher=teacher, **where)
        lines = [json.loads(line) for line in where["output"].read_text().splitlines()]
        return loading.read(folder / "000003.pth"), lines

    return run


# A rate that no part of two or four images can keep by itself.
STEPS: dict[str, Any] = {
    "batch_size": 8,
    "group_size": 2,
    "drop_path": 0.2,
    "rope_rescale": 2.0,
    "iterations": 3,
    "snapshots": (3,),
    "device": "cpu",
    "quality_every": 2,
}
COLLAPSE = {"rank_patch", "rank_cls", "patch_similarity", "cls_similarity"}


@pytest.mark.parametrize(
    ("gram", "split"),
    [
        (False, (2, 1)),
        (False, (2, 2)),
        (True, (2, 1)),
        (True, (2, 2)),
    ],
)
def test_a_step_is_the_same_in_any_parts_on_any_processes(
    steps: Any, whole_steps: Any, gram: bool, split: tuple[int, int]
) -> None:
    """Four parts on one process, two on each of two, and all at once: targets, losses, weights."""
    _equal(steps(gram, *split), whole_steps(gram, 2), gram)


@pytest.mark.parametrize(
    ("gram", "group", "processes", "sharding"),
    [(True, 2, 2, "fsdp"), (False, 8, 4, "ddp")],
)
def test_a_step_is_the_same_where_processes_share_a_group(
    steps: Any, whole_steps: Any, gram: bool, group: int, processes: int, sharding: str
) -> None:
    shared = steps(gram, 8, processes, group_size=group, sharding=sharding)
    _equal(shared, whole_steps(gram, group), gram)


def _equal(ours: Any, whole_ones: Any, gram: bool) -> None:
    (networks, lines), (whole_networks, whole_lines) = ours, whole_ones
    for line, whole in zip(lines, whole_lines, strict=True):
        assert ("gram" in line) == gram
        for key in ("loss", "dino_global", "dino_local", "ibot", "koleo", *(["gram"] * gram)):
            assert line[key] == pytest.approx(whole[key], rel=2e-6), key
        for key in (key for key in whole if key.startswith("grad_norm")):
            assert line[key] == pytest.approx(whole[key], rel=2e-5), key
        collapse = COLLAPSE | {"patch_consistency"} if gram else COLLAPSE
        expected = collapse if line["iteration"] > 1 else set()
        assert line.keys() & (COLLAPSE | {"patch_consistency"}) == expected
        for key in expected:
            assert line[key] == pytest.approx(whole[key], rel=2e-5), key
    close(networks, whole_networks, 2e-6)


@pytest.fixture(scope="module")
def whole_steps(steps: Any) -> Any:
    return lru_cache(lambda gram, group: steps(gram, 8, 1, group_size=group))


def test_drop_path_keeps_its_rate_over_a_step_whatever_its_parts() -> None:
    stage = make_stage(batch_size=10, group_size=2, drop_path=0.2, rope_rescale=2.0)
    draw = partial(views.draw_noise, stage, 7, depth=3)
    for entry, crops_of_a_slice in enumerate((2, 2)):
        whole = draw(entry, slices=range(10))
        parts = [draw(entry, slices=range(first, first + 2)) for first in range(0, 10, 2)]
        for block, pair in enumerate(whole.branches):
            for kind, branch in enumerate(pair):
                assert len(branch.images) == 16 and branch.scale == 20 / 16
                counted = torch.zeros(crops_of_a_slice, 10)
                for number, part in enumerate(parts):
                    images, scale = part.branches[block][kind]
                    weights = torch.zeros(crops_of_a_slice * 2).index_fill(0, images, scale)
                    counted[:, 2 * number : 2 * number + 2] = weights.unflatten(0, (-1, 2))
                expected = torch.zeros(20).index_fill(0, branch.images, 20 / 16)
                torch.testing.assert_close(counted.flatten(), expected)
        assert all(torch.equal(part.rescale, whole.rescale) for part in parts)
        assert len(whole.rescale.unique()) == 3 and whole.rescale.log().abs().max() <= math.log(2)
    other = views.draw_noise(stage, 8, 0, depth=3, slices=range(10))
    assert not torch.equal(other.rescale, draw(0, slices=range(10)).rescale)


def test_a_branch_that_no_image_of_a_part_takes_has_a_gradient_of_zero() -> None:
    (first, *_), *_ = views._branches([torch.empty(0, dtype=torch.int64)] * 2, 1.25)
    assert (first.images.tolist(), first.scale) == ([0], 0.0)


def test_activation_checkpointing_changes_nothing(
    index: Path, alone: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    close(train(index, tmp_path / "plain", activation_checkpointing=True), alone[1], 1e-6)
    noisy = {"drop_path": 0.25, "rope_rescale": 2.0}
    one = train(index, tmp_path / "one", **noisy)
    two = train(index, tmp_path / "two", **noisy, activation_checkpointing=True)
    close(two, one, 1e-6)


def test_a_signal_leaves_a_checkpoint_and_other_numbers_of_processes_go_on(
    index: Path, alone: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    where = {"index": index, "state": tmp_path / "state", "output": tmp_path / "history.jsonl"}
    code = (
        "import sys, test_pretrain as t; from pathlib import Path;"
        "t.train(Path(sys.argv[1]), Path(sys.argv[2]), processes=2, device='cpu',"
        " checkpoint_every=1)"
    )
    arguments = [sys.executable, "-c", code, str(index), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE) as child:
        while not checkpoints.found(tmp_path / "state"):
            assert child.poll() is None
            time.sleep(0.02)
        child.send_signal(signal.SIGUSR2)
        _, said = child.communicate(timeout=600)
    assert child.returncode != 0 and b"a checkpoint is kept, rerun to go on" in said
    assert not where["output"].exists()
    close(train(index, tmp_path), alone[1], 2e-5)


LONGEST_S = 60
"""What a write waits for training, where that waits for the write."""


def test_training_goes_on_while_what_it_leaves_is_written(
    index: Path, stage1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written before a further iteration has changed weights, moments and history."""
    write, log = checkpoints.write, trainer.Trainer._log
    logged: dict[int, threading.Event] = defaultdict(threading.Event)

    def write_late(path: Path, content: dict[str, Any]) -> None:
        iteration = int(path.stem.removeprefix("checkpoint-"))
        assert iteration == 6 or logged[iteration + 1].wait(LONGEST_S)
        write(path, content)

    def log_and_tell(self: trainer.Trainer, *values: Any) -> None:
        log(self, *values)
        logged[self.iteration].set()

    where = {"index": index, "state": tmp_path / "state", "output": tmp_path / "history.jsonl"}
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write", write_late)
        patch.setattr(trainer.Trainer, "_log", log_and_tell)
        pretrain.run(options(), **where)
    for name in ("000003.pth", "000006.pth"):
        close(loading.read(tmp_path / name), loading.read(stage1 / name), 0)
    last, before = checkpoints.found(tmp_path / "state")
    assert [line["iteration"] for line in loading.read(before)["history"]] == [1, 2, 3, 4]
    last.unlink()
    pretrain.run(options(), **where)
    close(loading.read(tmp_path / "000006.pth"), loading.read(stage1 / "000006.pth"), 0)


def test_a_snapshot_that_cannot_be_written_ends_the_stage_and_a_rerun_makes_it(
    index: Path, stage1: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = {"index": index, "state": tmp_path / "state", "output": tmp_path / "history.jsonl"}
    with (
        full_after((stage1 / "000003.pth").stat().st_size / 2),
        pytest.raises(MeddinoError, match=r"cannot write .*000003\.pth.*free space"),
    ):
        pretrain.run(options(), **where)
    assert "no checkpoint: cannot write" in capsys.readouterr().err  # after two iterations
    assert not checkpoints.found(tmp_path / "state") and not where["output"].exists()
    pretrain.run(options(), **where)
    close(loading.read(tmp_path / "000003.pth"), loading.read(stage1 / "000003.pth"), 0)


def test_a_stop_waits_for_its_checkpoint(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, step = checkpoints.write, trainer.Trainer._step
    awaited = threading.Event()
    kept: list[list[Path]] = []

    class Awaited(checkpoints.Writer):
        def wait(self) -> None:
            if self._writing is not None:
                awaited.set()
            super().wait()

    def write_late(path: Path, content: dict[str, Any]) -> None:
        assert awaited.wait(LONGEST_S)
        write(path, content)

    def step_and_signal(self: trainer.Trainer, *arguments: Any) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGUSR2)
        return step(self, *arguments)

    state = tmp_path / "state"
    monkeypatch.setattr(checkpoints, "Writer", Awaited)
    monkeypatch.setattr(checkpoints, "write", write_late)
    monkeypatch.setattr(trainer.Trainer, "_step", step_and_signal)
    monkeypatch.setattr(Team, "wait", lambda self: kept.append(checkpoints.found(state)))
    with pytest.raises(Stopped, match="after iteration 1; a checkpoint is kept"):
        pretrain.run(options(), index=index, state=state, output=tmp_path / "history.jsonl")
    assert [len(files) for files in kept] == [0, 1]  # at the start, and before the others end


def test_a_damaged_checkpoint_and_a_full_disk_cost_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for iteration in (1, 2, 3):
        checkpoints.save(tmp_path, iteration, {"iteration": iteration})
    kept = checkpoints.found(tmp_path)
    assert [path.name for path in kept] == ["checkpoint-000000003.pt", "checkpoint-000000002.pt"]
    kept[0].write_bytes(kept[0].read_bytes()[:100])
    assert checkpoints.newest(tmp_path) == {"iteration": 2}
    kept[1].rename(tmp_path / "aside")
    assert checkpoints.newest(tmp_path) is None
    assert "starting anew" in capsys.readouterr().err
    (tmp_path / "aside").rename(kept[1])
    if not Path("/dev/full").exists():
        return
    real = torch.save
    monkeypatch.setattr(torch, "save", lambda content, _: real(content, "/dev/full"))
    checkpoints.save(tmp_path, 4, {"iteration": torch.zeros(100000)})
    assert "free space" in capsys.readouterr().err
    assert checkpoints.found(tmp_path) == kept


def test_batches_that_cannot_be_shared_are_refused() -> None:
    three = Team(torch.device("cpu"), 0, 3)
    with pytest.raises(
        MeddinoError, match=r"8 slices cannot be shared by 3 processes.*micro_batch"
    ):
        trainer.spread(options(**EVEN), three)
    with pytest.raises(ValueError, match="micro_batch 3: no multiple of group_size 2"):
        options(**EVEN, micro_batch=3)


@pytest.mark.parametrize("stage", ["stage1", "stage2", "stage3"])
@pytest.mark.parametrize("gpus", [1, 2, 4, 8, 16, 32, 64])
def test_the_papers_stages_are_shared_by_any_power_of_two_of_gpus(stage: str, gpus: int) -> None:
    papers = load([ROOT / "config.yaml"]).pretrain.stages[stage]
    places = [
        range_
        for rank in range(gpus)
        for range_ in trainer.spread(
            PretrainOptions(name=stage, backbone="vitb16", stage=papers),
            Team(torch.device("cpu"), rank, gpus),
        )
    ]
    assert sorted(place for range_ in places for place in range_) == list(range(papers.batch_size))


@pytest.mark.parametrize("gpus", [3, 6, 12, 24])
def test_a_batch_that_three_divides_is_shared_by_threes(gpus: int) -> None:
    stage = make_stage(batch_size=384, group_size=64, micro_batch=64)
    assert budget.parts_of(stage, gpus) == (min(64, 384 // gpus), max(1, 6 // gpus))


def test_a_batch_is_shared_by_as_many_gpus_as_divide_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert processes_on(4, monkeypatch, batch_size=8, group_size=2) == 4
    assert processes_on(4, monkeypatch, batch_size=8, group_size=8) == 4
    assert capsys.readouterr().err == ""
    assert processes_on(3, monkeypatch, batch_size=8, group_size=2) == 2
    assert capsys.readouterr().err.startswith("training on 2 of 3 GPUs")


def processes_on(gpus: int, monkeypatch: pytest.MonkeyPatch, **changes: int) -> int:
    """How many processes a stage starts on a machine that shows so many GPUs."""
    sizes: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(distributed, "_start", lambda work, kind, size, *_: sizes.append(size))
    monkeypatch.setattr(pretrain, "_train", lambda team, job: sizes.append(team.size))
    files = {name: Path(name) for name in ("index", "state", "output")}
    pretrain.run(options(**{**EVEN, **changes}), **files)
    (size,) = sizes
    return size


@pytest.mark.parametrize("drop_path", [0.0, 0.5])
def test_counted_operations_are_those_that_torch_counts(drop_path: float) -> None:
    architecture = replace(named("vittiny8"), embed_dim=128, drop_path=0.0)
    stage = make_stage(batch_size=2, group_size=2, drop_path=drop_path, rope_rescale=None)
    engine = Engine(architecture, stage).train()
    slices = torch.randint(-1000, 1000, (2, 32, 32), dtype=torch.int16)
    draws = crops.Draws([1], 2)
    views = crops.multi_crop(slices, stage.resolutions[0], stage.augmentation, draws)
    masks = draw_masks(4, (4, 4), stage.masking.ratio, 0.5, np.random.default_rng(0))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        part = Part.of(views, masks)
        engine(part, *engine.targets([part], 0.05))["loss"].backward()
    ours = 2 * step_flops(architecture, stage, stage.resolutions[0])
    assert counter.get_total_flops() == pytest.approx(ours, rel=0.03)
