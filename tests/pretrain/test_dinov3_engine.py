"""The engine `dinov3`: what is written for the public trainer, and what is read back."""

import json
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from places import GOLDEN
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save

from meddino.core.errors import MeddinoError
from meddino.ct3m import shards
from meddino.models import loading
from meddino.models.architectures import named
from meddino.models.vit import build
from meddino.pretrain import engine as ssl
from meddino.pretrain import leaves, pretrain
from meddino.pretrain.dinov3 import config, convert, launch, run
from meddino.pretrain.dinov3.dataset import CT3M, describe
from meddino.pretrain.options import (
    Augmentation,
    Head,
    LeavesOptions,
    Masking,
    Objective,
    Optimisation,
    PretrainOptions,
    Resolution,
    StageOptions,
)
from meddino.pretrain.schedules import linear_warmup_cosine
from meddino.study import jobs
from meddino.study.model import Study, load

DINOV3 = GOLDEN / "dinov3"
KEYS = set(json.loads((DINOV3 / "config_keys.json").read_text()))
HEAD = Head(prototypes=32, hidden=24, bottleneck=16)
LARGE = (
    Resolution(global_px=512, local_px=112, gram_px=768, ratio=3),
    Resolution(global_px=768, local_px=336, gram_px=1152, ratio=1),
)


def options(backbone: str = "vitb16", name: str = "stage1", **changes: Any) -> PretrainOptions:
    values: dict[str, Any] = {
        "slices_px": 32,
        "iterations": 12,
        "snapshots": (4, 12),
        "batch_size": 8,
        "resolutions": (Resolution(global_px=32, local_px=16),),
        "optim": Optimisation(lr=1e-3, warmup=3),
        "dino_head": HEAD,
        "ibot_head": HEAD,
        "checkpoint_every": 2,
        "log_every": 1,
    }
    stage = StageOptions(**{**values, **changes})
    return PretrainOptions(name=name, engine="dinov3", backbone=backbone, stage=stage)


def written(o: PretrainOptions, gpus: int = 2, **architecture: Any) -> dict[str, Any]:
    return config.trainer_config(
        o,
        replace(named(o.backbone), **architecture),
        dataset=Path("/state/dataset.json"),
        start=Path("/state/start"),
        gram=Path("/state/gram") if o.stage.objective.gram else None,
        gpus=gpus,
        workers=8,
    )


def flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


# ---- configuration -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def paper(root: Path) -> Study:
    return load([root / "config.yaml"])


@pytest.mark.parametrize("name", ["stage1", "stage2", "stage3"])
def test_every_key_of_the_papers_stages_is_the_public_trainers(paper: Study, name: str) -> None:
    o = jobs.pretrain.pretrain_options(paper, name)
    assert not config.refusals(o)
    found = dict(flat(written(o, gpus=8)))
    assert found.keys() <= KEYS
    assert found["train.batch_size_per_gpu"] == 64
    assert found["optim.epochs"] * found["train.OFFICIAL_EPOCH_LENGTH"] == o.stage.iterations
    assert found["optim.scaling_rule"] not in ("sqrt_wrt_1024", "linear_wrt_256")
    assert found["student.arch"] == "vit_base" and found["student.norm_layer"] == "layernormbf16"
    assert all(n % found["checkpointing.keep_every"] == 0 for n in o.stage.snapshots)
    assert found["checkpointing.keep_every"] % found["checkpointing.period"] == 0
    # What the trainer asserts before it starts.
    sizes = ("global_crops_size", "local_crops_size", "gram_teacher_crops_size")
    pairs = [found[f"crops.{key}"] for key in (*sizes, "global_local_crop_pairs_ratios")]
    if name == "stage3":
        assert [len(values) for values in pairs] == [5] * 4
        assert sum(pairs[-1]) == pytest.approx(1)
    assert (found["gram.use_loss"], pairs[2] is None) == ((False, True), (True, False))[
        name != "stage1"
    ]


@pytest.mark.parametrize(
    "optim",
    [
        Optimisation(lr=2e-4, warmup=3),
        Optimisation(lr=2e-4, final_lr=1e-6, freeze_last_layer=2, momentum=(0.99, 1.0)),
        Optimisation(lr=2e-4, final_lr=1e-6, warmup=12, weight_decay=0.1),
        Optimisation(lr=2e-4, warmup=30),
    ],
)
@pytest.mark.parametrize("rise", [0, 5, 12, 40])
def test_the_trainers_schedules_have_our_values(optim: Optimisation, rise: int) -> None:
    o = options(optim=optim, objective=Objective(teacher_temperature_warmup=rise))
    schedules = written(o)["schedules"]
    # That our function is the trainer's is tested in test_pretrain.py.
    lr, decay, momentum, temperature = (
        [
            linear_warmup_cosine(
                i,
                **{k: s[k] for k in ("start", "peak", "end")},
                warmup=s["warmup_epochs"],
                total=12,
            )
            for i in range(12)
        ]
        for s in (schedules[k] for k in ("lr", "weight_decay", "momentum", "teacher_temp"))
    )
    parameter = torch.nn.Parameter(torch.zeros(1))
    group = {"params": [parameter], "lr_multiplier": 1.0, "wd_multiplier": 1.0, "last_layer": True}
    optimizer = torch.optim.AdamW([group])
    for i in range(12):
        assert ssl.set_rates(optimizer, o.stage, i) == pytest.approx(lr[i])
        frozen = i < schedules["lr"]["freeze_last_layer_epochs"]
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0 if frozen else lr[i])
        assert optimizer.param_groups[0]["weight_decay"] == decay[i]
        assert ssl.momentum(o.stage, i) == pytest.approx(momentum[i])
        assert ssl.teacher_temperature(o.stage, i) == pytest.approx(temperature[i])
    assert all(s["warmup_epochs"] <= 12 for s in schedules.values())


CHANGES: dict[str, Any] = {
    "iterations": 24,
    "snapshots": (6, 12),
    "batch_size": 16,
    "resolutions": LARGE,
    "drop_path": 0.3,
    "rope_rescale": 2.0,
    "seed": 3,
    "precision": "bf16",
    "checkpoint_every": 4,
    "activation_checkpointing": True,
    "compile": True,
    "dino_head": replace(HEAD, prototypes=5),
    "ibot_head": replace(HEAD, hidden=5),
    "masking": (Masking(probability=0.2), Masking(ratio=(0.2, 0.3))),
    "objective": tuple(
        Objective(**{name: value})
        for name, value in {
            "dino": 2.0,
            "dino_local": 0.5,
            "ibot": 2.0,
            "koleo": 0.2,
            "teacher_temperature": (0.05, 0.06),
            "teacher_temperature_warmup": 4,
        }.items()
    ),
    "optim": tuple(
        Optimisation(**{"lr": 1e-3, "warmup": 3, name: value})
        for name, value in {
            "lr": 2e-3,
            "final_lr": 1e-5,
            "warmup": 4,
            "weight_decay": 0.1,
            "betas": (0.8, 0.9),
            "clip_grad": 1.0,
            "layerwise_decay": 0.5,
            "patch_embed_lr": 0.5,
            "freeze_last_layer": 2,
            "momentum": (0.9, 0.95),
        }.items()
    ),
}
ELSEWHERE = {
    "qkv_bias": "student.qkv_bias, by the architecture",
    "data": "the study's index",
    "slices_px": "the study's index",
    "init": "state/start",
    "start": "refused unless it is the teacher",
    "gram_teacher": "state/gram",
    "augmentation": "dataset.json",
    "device": "refused if cpu",
    "log_every": "the history",
    "quality_every": "of our engine only",
    "micro_batch": "the batch of a GPU",
    "group_size": "the batch of a GPU",
    "processes": "one for each GPU",
    "sharding": "always FSDP2",
}


def test_no_option_is_forgotten() -> None:
    assert CHANGES.keys() | ELSEWHERE.keys() == {field.name for field in fields(StageOptions)}
    plain = written(options())
    for name, values in CHANGES.items():
        many = (
            values
            if isinstance(values, tuple) and name in ("masking", "objective", "optim")
            else [values]
        )
        for value in many:
            changed = {name: value}
            if name == "iterations":
                changed["snapshots"] = (4, 24)
            if name == "resolutions":
                changed["resolutions"] = tuple(replace(r, gram_px=None) for r in value)
            assert written(options(**changed)) != plain, (name, value)


def test_several_resolutions_are_lists_and_their_shares_sum_to_one() -> None:
    crops = written(
        options(resolutions=LARGE, objective=Objective(gram=1.5), gram_teacher="stage1@4")
    )["crops"]
    assert crops["global_crops_size"] == [512, 768]
    assert crops["gram_teacher_crops_size"] == [768, 1152]
    assert crops["global_local_crop_pairs_ratios"] == [0.75, 0.25]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"backbone": "vittiny8"},
            "backbone: the public trainer has no vittiny8; use one of vits16",
        ),
        ({"device": "cpu"}, "device: the public trainer needs a GPU"),
        (
            {"objective": Objective(student_temperature=0.2)},
            "student_temperature: it is fixed at 0.1",
        ),
        ({"masking": Masking(ratio=(0.3, 0.3))}, "masking.ratio: the public trainer wants"),
        ({"checkpoint_every": 3}, r"checkpoint_every: .*such as \[4\]; use a divisor of 4"),
    ],
)
def test_what_the_trainer_cannot_do_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MeddinoError, match=f"cannot run stage1:\n  .*{message}"):
        run._check(options(**changes))


def test_batches_and_norms_that_do_not_fit_are_refused() -> None:
    with pytest.raises(MeddinoError, match="batch_size = 8: does not divide by 3 GPUs"):
        written(options(), gpus=3)
    assert written(options(), norm_eps=1e-6)["student"]["norm_layer"] == "layernorm"
    with pytest.raises(MeddinoError, match=r"norms of epsilon 0\.001"):
        written(options(), norm_eps=1e-3)


def test_a_study_is_refused_before_it_runs(root: Path) -> None:
    study = yaml.safe_load((root / "config.yaml").read_text())
    study["pretrain"]["engine"] = "dinov3"
    assert jobs.pretrain.pretrain_options(Study.parse(study), "stage1").engine == "dinov3"
    study["pretrain"]["stages"]["stage2"]["checkpoint_every"] = 300
    with pytest.raises(MeddinoError, match=r"stage stage2, checkpoint_every: .* divisor of 10000"):
        Study.parse(study)


def test_no_gpu_and_no_trainer_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MeddinoError, match="needs an NVIDIA GPU"):
        run._check(options())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MeddinoError, match=r"pip install '\.\[dinov3\]'"):
        run._check(options())


# ---- dataset -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("leaves") / "index.32.parquet"
    leaves.run(LeavesOptions(count=9, size_px=32), output=path)
    return path


def dataset(index: Path, folder: Path, gram: int | None = None) -> CT3M:
    describe(folder / "dataset.json", index, {"local_crops": 3, "blur_sigma": (0.1, 1.0)})
    sizes = {"global_crops_size": 32, "local_crops_size": 16, "gram_teacher_crops_size": gram}
    return CT3M(str(folder / "dataset.json"), SimpleNamespace(**sizes))


def test_slices_are_those_of_the_index(index: Path, tmp_path: Path) -> None:
    found = dataset(index, tmp_path)
    assert len(found) == 9
    stored = list(shards.read_slices(index.with_name("leaves.32.parquet")))
    for number, expected in enumerate(stored):
        np.testing.assert_array_equal(found.hounsfield(number), expected)


@pytest.mark.parametrize("gram", [None, 48])
def test_a_sample_is_what_the_trainer_collates(
    index: Path, tmp_path: Path, gram: int | None
) -> None:
    found = dataset(index, tmp_path, gram)
    assert found.augmentation == Augmentation(local_crops=3, blur_sigma=(0.1, 1.0))
    torch.manual_seed(0)
    sample, target = found[np.int32(4)]
    assert target == ()
    shapes = {"global_crops": [(3, 32, 32)] * 2, "local_crops": [(3, 16, 16)] * 3}
    if gram:
        shapes["gram_teacher_crops"] = [(3, 48, 48)] * 2
    assert {key: [tuple(crop.shape) for crop in crops] for key, crops in sample.items()} == shapes
    torch.manual_seed(0)
    again, _ = found[4]
    torch.testing.assert_close(again, sample, rtol=0, atol=0)
    other, _ = found[4]
    assert not torch.equal(other["global_crops"][0], sample["global_crops"][0])


def test_a_damaged_shard_is_named(index: Path, tmp_path: Path) -> None:
    for path in index.parent.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    found = dataset(tmp_path / index.name, tmp_path)
    (tmp_path / "leaves.32.parquet").write_bytes(b"")
    with pytest.raises(MeddinoError, match=r"leaves\.32\.parquet is absent or damaged"):
        found[0]


def test_the_trainer_learns_of_the_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for the trainer's two modules, which import torchvision."""
    modules = {name: ModuleType(name) for name in ("dinov3", "dinov3.data", "dinov3.train")}
    loaders = SimpleNamespace(_parse_dataset_str=lambda dataset: ("theirs", {"split": dataset}))
    seen: list[Any] = []
    main = SimpleNamespace(main=lambda: seen.append(loaders._parse_dataset_str))
    modules["dinov3.data"].loaders = loaders
    modules["dinov3.train"].train = main
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    launch.main()
    (parse,) = seen
    assert parse("CT3M:root=/a:b=c/dataset.json") == (CT3M, {"root": "/a:b=c/dataset.json"})
    assert parse("ImageNet") == ("theirs", {"split": "ImageNet"})


# ---- checkpoints -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs() -> dict[str, Tensor]:
    """State dict of the public trainer's networks, recorded from its code."""
    state = load_file(DINOV3 / "ssl_step_state.safetensors")
    return {k: v for k, v in state.items() if not k.startswith("gram.")}


RECORDED = options(
    dino_head=Head(prototypes=96, hidden=80, bottleneck=32),
    ibot_head=Head(prototypes=72, hidden=80, bottleneck=32),
).stage


def dcp(folder: Path, model: dict[str, Tensor]) -> Path:
    """A checkpoint as the trainer writes it: rotary periods in bf16, and more than we read."""
    stored = {k: v.bfloat16() if k.endswith("periods") else v for k, v in model.items()}
    extra = {
        "dino_loss.center": torch.zeros(1, 4),
        "gram_teacher.backbone.cls_token": torch.ones(1),
    }
    content = {"iteration": 3, "model": {**stored, **extra}, "optimizer": {"state": {}}}
    save(content, storage_writer=FileSystemWriter(folder), no_dist=True)
    return folder


def test_checkpoints_go_there_and_back(theirs: dict[str, Tensor], tmp_path: Path) -> None:
    backbone = {
        k.removeprefix("teacher.backbone."): v
        for k, v in theirs.items()
        if k.startswith("teacher.backbone.")
    }
    architecture = loading.infer_architecture(backbone)
    meta = {"stage": "stage1", "iteration": 4, "norm_eps": architecture.norm_eps}
    checkpoint = dcp(tmp_path / "3", theirs)
    convert.write_snapshot(tmp_path / "000004.pth", checkpoint, architecture, RECORDED, meta)
    ours = loading.read(tmp_path / "000004.pth")
    assert ours["meta"] == meta
    for key, value in theirs.items():
        part, _, name = key.partition(".")
        close = {"rtol": 0, "atol": 0} if "periods" not in key else {"rtol": 2**-8, "atol": 0}
        torch.testing.assert_close(ours[part][name], value, check_dtype=True, **close)
    convert.write_start(tmp_path / "start", architecture, RECORDED, ours, "ours")
    start = convert.read_state(tmp_path / "start", "model.")
    assert start.keys() == {k.removeprefix("student.") for k in theirs if k.startswith("student.")}
    torch.testing.assert_close(start, ours["teacher"], rtol=0, atol=0)
    convert.write_gram(tmp_path / "gram", architecture, ours, "ours")
    gram = convert.read_state(tmp_path / "gram", "model.")
    assert gram.keys() == {f"backbone.{key}" for key in backbone}


def test_published_weights_start_with_new_heads_and_a_public_evaluation_checkpoint_loads(
    theirs: dict[str, Tensor], tmp_path: Path
) -> None:
    teacher = {k.removeprefix("teacher."): v for k, v in theirs.items() if k.startswith("teacher.")}
    torch.save({"teacher": teacher}, tmp_path / "teacher_checkpoint.pth")
    vit = loading.load_backbone(tmp_path / "teacher_checkpoint.pth")
    published = {k: v.clone() for k, v in vit.state_dict().items()}
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path, seed in zip(paths, (0, 0, 1), strict=True):
        stage = replace(RECORDED, seed=seed)
        convert.write_start(path, vit.architecture, stage, published, "dinov3")
    a, b, c = (convert.read_state(path, "model.") for path in paths)
    assert a.keys() == teacher.keys()
    assert all(torch.equal(a[f"backbone.{key}"], value) for key, value in published.items())
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not torch.equal(a["dino_head.mlp.0.weight"], c["dino_head.mlp.0.weight"])


def test_checkpoints_that_do_not_fit_are_refused(theirs: dict[str, Tensor], tmp_path: Path) -> None:
    architecture = replace(named("vits16"), embed_dim=64, depth=4, num_heads=4)
    out = tmp_path / "out.pth"
    for name, change, message in (
        (
            "lacks",
            lambda k: k != "student.dino_head.last_layer.weight",
            "student does not fit.*lacks",
        ),
        ("other", lambda k: not k.startswith("teacher."), "teacher does not fit"),
    ):
        folder = dcp(tmp_path / name, {k: v for k, v in theirs.items() if change(k)})
        with pytest.raises(MeddinoError, match=message):
            convert.write_snapshot(out, folder, architecture, RECORDED, {})
    with pytest.raises(MeddinoError, match="absent is not a whole checkpoint"):
        convert.write_snapshot(out, tmp_path / "absent", architecture, RECORDED, {})
    folder = dcp(tmp_path / "damaged", theirs)
    for part in folder.glob("*.distcp"):
        part.write_bytes(b"")
    with pytest.raises(MeddinoError, match="damaged is not a whole checkpoint"):
        convert.write_snapshot(out, folder, architecture, RECORDED, {})
    heads = replace(RECORDED, dino_head=HEAD)
    with pytest.raises(MeddinoError, match=r"ours does not fit.*dino_head\.last_layer"):
        teacher = {k.removeprefix("teacher."): v for k, v in theirs.items() if "teacher." in k}
        content = {"student": teacher, "teacher": teacher}
        convert.write_start(out, architecture, heads, content, "ours")
    assert not out.exists()


# ---- a stage -----------------------------------------------------------------------------------


def metric(iteration: int, **more: float) -> str:
    names = ("total_loss", "dino_global_crops_loss", "dino_local_crops_loss", "koleo_loss")
    values = dict.fromkeys((*names, "ibot_loss", "lr", "backbone_grad_norm", "mom"), 0.5)
    return json.dumps(
        {"iteration": iteration, "iter_time": 2.0, "data_time": 1.0, **values, **more}
    )


def test_history_has_our_names_and_no_line_twice(tmp_path: Path) -> None:
    metrics = tmp_path / "training_metrics.json"
    logged = [
        metric(0),
        metric(10),
        '{"iteration": 20, "tot',
        metric(10, gram_loss=7.0),
        metric(25),
    ]
    metrics.write_text("\n".join(logged) + "\n")
    lines = run.history(metrics, every=1)
    assert [line["iteration"] for line in lines] == [1, 11, 26]
    names = {"loss", "dino_global", "dino_local", "koleo", "ibot", "lr", "grad_norm", "seconds"}
    assert lines[0].keys() == {"iteration", *names}
    assert lines[1]["gram"] == 7.0
    assert [line["iteration"] for line in run.history(metrics, every=20)] == [1, 26]


class PublicTrainer:
    """In place of the trainer's processes: checkpoints of its layout, holding the start's weights.

    `dies_at` stands for a kill after so many iterations, before it could keep a snapshot.
    """

    def __init__(self, dies_at: int | None = None) -> None:
        self.dies_at = dies_at
        self.runs = 0

    def __call__(self, command: list[str]) -> None:
        self.runs += 1
        given = dict(pairwise(command))
        folder = Path(given["--output-dir"])
        cfg = json.loads(Path(given["--config-file"]).read_text())
        start = convert.read_state(Path(cfg["student"]["resume_from_teacher_chkpt"]), "model.")
        folder.mkdir(exist_ok=True)
        for n in range(1, cfg["optim"]["epochs"] + 1):
            if n % cfg["checkpointing"]["period"] == 0 and not (self.runs == 2 and n <= 4):
                parts = {
                    f"{part}.{k}": v + n / 1000
                    for part in ("student", "teacher")
                    for k, v in start.items()
                }
                dcp(folder / "ckpt" / str(n - 1), parts)
            if n == self.dies_at and self.runs == 1:
                raise KeyboardInterrupt
        with (folder / "training_metrics.json").open("a") as file:
            file.write(metric(0) + "\n" + metric(cfg["optim"]["epochs"] - 1) + "\n")


def test_a_killed_stage_goes_on_and_leaves_what_later_stages_need(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(config.ARCHITECTURES, "vittiny8", "vit_tiny")
    trainer = PublicTrainer(dies_at=4)
    monkeypatch.setattr(run, "_check", lambda options: 2)
    monkeypatch.setattr(run, "_launch", trainer)
    vit = build("vittiny8")
    torch.save(vit.state_dict(), tmp_path / "dinov3.pth")
    first = options("vittiny8", init="dinov3")
    where = {"index": index, "state": tmp_path / "state", "output": tmp_path / "history.jsonl"}
    with pytest.raises(KeyboardInterrupt):
        pretrain.run(first, init=tmp_path / "dinov3.pth", **where)
    pretrain.run(first, init=tmp_path / "dinov3.pth", **where)
    assert trainer.runs == 2
    lines = [json.loads(line) for line in where["output"].read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 12]
    for iteration in (4, 12):
        content = loading.read(tmp_path / f"{iteration:06d}.pth")
        meta = content["meta"]
        assert (meta["stage"], meta["iteration"], meta["engine"]) == ("stage1", iteration, "dinov3")
        assert meta["origin"]["init"]["sha256"]
        moved = content["teacher"]["backbone.cls_token"] - vit.cls_token
        torch.testing.assert_close(
            moved, torch.full_like(moved, iteration / 1000), rtol=1e-3, atol=0
        )
    # Our own engine goes on from it.
    second = replace(
        options("vittiny8", init="stage1@12", iterations=1, snapshots=(1,)), engine="meddino"
    )
    where = {**where, "output": tmp_path / "second" / "history.jsonl"}
    pretrain.run(replace(second, name="stage2"), init=tmp_path / "000012.pth", **where)


def test_a_failed_trainer_is_said_and_its_state_kept(tmp_path: Path) -> None:
    with pytest.raises(MeddinoError, match=r"status 3.*goes on from its last checkpoint"):
        run._launch([sys.executable, "-c", "raise SystemExit(3)"])
