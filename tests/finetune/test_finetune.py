"""From a labelled data set to predictions: convert, plan, preprocess, finetune, predict."""

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import torch._dynamo
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from pydantic import ValidationError
from torch._dynamo.utils import counters
from torch.backends import cudnn
from torch.utils import _triton

from meddino.core.errors import MeddinoError
from meddino.datasets.options import FolderLayout
from meddino.finetune import convert, plan, predict, preprocess, speed
from meddino.finetune import finetune as finetune_verb
from meddino.finetune.nnunet import folders
from meddino.finetune.options import (
    AdapterSize,
    Benchmark,
    Configuration,
    ConvertOptions,
    FinetuneOptions,
    Method,
    Planning,
    PlanOptions,
    Prediction,
    PredictOptions,
    PreprocessOptions,
    SegformerSize,
    Training,
)
from meddino.finetune.schedule import PolySchedule, make_optimizer
from meddino.models import checkpoints
from meddino.models.distributed import Team
from meddino.models.options import WeightsOptions
from meddino.models.weights import run as fetch_weights

SHAPE, SPACING = (10, 40, 44), (3.0, 3.0, 5.0)  # (z, y, x) voxels; (x, y, z) mm
BENCHMARK = Benchmark(
    label="Blobs", dataset="blobs", nnunet_id=901, labels={"spleen": [7], "liver": [3, 4]}
)
LAYOUT = FolderLayout(
    images=("images/*.nii.gz",), labels=("labels/*.nii.gz",), case=r"(?P<case>case_\d+)"
)
VIT = {"backbone": "vittiny8", "blocks": [0, 1]}
METHODS: dict[str, dict[str, Any]] = {
    "unet": {"network": "unet", "optimizer": "sgd", "lr": 1e-2, "deep_supervision": True},
    "segformer": {
        "network": "segformer",
        "optimizer": "adamw",
        "lr": 1e-3,
        "segformer": SegformerSize(
            depths=[1, 1, 1, 1], widths=[8, 8, 8, 8], heads=[1, 1, 1, 1], decoder_width=8
        ),
    },
    "dino_unet": {
        "network": "dino_unet",
        "optimizer": "sgd",
        "lr": 1e-2,
        "freeze_backbone": True,
        "adapter": AdapterSize(prior_width=4, heads=4, rank=8),
        **VIT,
    },
    "primus": {
        "network": "primus",
        "optimizer": "adamw",
        "lr": 1e-3,
        "backbone_lr": 1e-4,
        "drop_path": 0.2,
        **VIT,
    },
}


def method(name: str, **changes: Any) -> Method:
    return Method.model_validate({"label": name, "weight_decay": 1e-4, **METHODS[name], **changes})


def blob(number: int) -> tuple[sitk.Image, sitk.Image]:
    """A body with a bright ellipsoid (values 3 and 4) and a small dark one (7)."""
    rng = np.random.default_rng(number)
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, size) for size in SHAPE], indexing="ij")
    shift = rng.uniform(-0.1, 0.1, 2)
    liver = (z / 0.8) ** 2 + ((y - shift[0]) / 0.5) ** 2 + ((x + 0.4) / 0.4) ** 2 < 1
    spleen = (z / 0.7) ** 2 + (y / 0.4) ** 2 + ((x - 0.5 - shift[1]) / 0.25) ** 2 < 1
    label = np.where(liver, np.where(z > 0, 3, 4), np.where(spleen, 7, 0)).astype(np.uint8)
    hu = np.where(label == 0, 0, np.where(label == 7, -150, 150)) + rng.normal(0, 10, SHAPE)
    hu = np.where(x**2 + y**2 < 0.9, hu, -1000)
    volumes = [sitk.GetImageFromArray(values) for values in (hu.astype(np.int16), label)]
    for volume in volumes:
        volume.SetSpacing(SPACING)
        volume.SetOrigin((-60.0, -50.0, 100.0))
    return volumes[0], volumes[1]


def write_case(root: Path, number: int, change: Callable[[sitk.Image], sitk.Image] | None) -> None:
    image, label = blob(number)
    for folder, volume in (("images", image), ("labels", change(label) if change else label)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(volume, str(root / folder / f"case_{number:02d}.nii.gz"))


def unknown_value(label: sitk.Image) -> sitk.Image:
    label[0, 0, 0] = 9
    return label


def other_grid(label: sitk.Image) -> sitk.Image:
    label.SetOrigin((-60.0, -50.0, 130.0))
    return label


def flipped(label: sitk.Image) -> sitk.Image:
    """The same voxels in space, stored from head to foot."""
    return sitk.DICOMOrient(label, "LPI")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("blobs")
    changes = {3: flipped, 10: unknown_value, 11: other_grid}
    for number in range(12):
        write_case(root, number, changes.get(number))
    image = sitk.DICOMOrient(blob(3)[0], "LPI")
    sitk.WriteImage(image, str(root / "images" / "case_03.nii.gz"))
    (root / "images" / "case_12.nii.gz").write_bytes(b"not a volume")
    sitk.WriteImage(blob(12)[1], str(root / "labels" / "case_12.nii.gz"))
    (root / ".fetched.json").write_text('{"root": "."}')
    return root


@pytest.fixture(scope="module")
def dataset(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("raw") / "Dataset901_blobs" / "dataset.json"
    options = ConvertOptions(benchmark=BENCHMARK, dataset=LAYOUT)
    convert.run(options, raw=raw / ".fetched.json", output=output)
    return output


@pytest.fixture(scope="module")
def plans(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("preprocessed") / "Dataset901_blobs" / "nnUNetPlans.json"
    planning = Planning(
        patch_px=64,
        spacing_mm=4.0,
        batch_size=2,
        features_per_stage=[4, 4, 4, 4],
        foreground_samples=10_000,
        configurations={"2d_hires": Configuration(patch_px=96)},
    )
    plan.run(PlanOptions(planning=planning), dataset=dataset, output=output)
    return output


@pytest.fixture(scope="module")
def preprocessed(plans: Path) -> Path:
    output = plans.parent / "2d.json"
    preprocess.run(PreprocessOptions(configuration="2d"), plans=plans, output=output)
    return output


def training(**changes: Any) -> Training:
    values = {"epochs": 1, "iterations_per_epoch": 2, "val_iterations": 1, "num_processes": 0}
    return Training.model_validate({**values, **changes})


def finetune(
    folder: Path, preprocessed: Path, row: Method, weights: Path | None = None, **changes: Any
) -> Path:
    output = folder / "model.safetensors"
    fold = changes.pop("fold", 0)
    options = FinetuneOptions(method=row, training=training(**changes), fold=fold)
    finetune_verb.run(
        options, preprocessed=preprocessed, weights=weights, state=folder / "state", output=output
    )
    return output


def tensors(model: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(str(model))


# convert


def test_bad_cases_are_quarantined_with_the_reason(dataset: Path) -> None:
    report = json.loads((dataset.parent / "quarantine.json").read_text())
    reasons = {entry["case"]: entry["reason"] for entry in report["quarantined"]}
    assert set(reasons) == {"case_10", "case_11", "case_12"}
    assert "label value 9 " in reasons["case_10"]
    assert "another grid" in reasons["case_11"]
    cases = json.loads(dataset.read_text())["dataset"]
    assert sorted(cases) == [f"case_{number:02d}" for number in range(10)]


def test_labels_become_consecutive_and_keep_their_place(dataset: Path) -> None:
    assert json.loads(dataset.read_text())["labels"] == {"background": 0, "liver": 1, "spleen": 2}
    label = sitk.ReadImage(str(dataset.parent / "labelsTr" / "case_03.nii.gz"))
    image = sitk.ReadImage(str(dataset.parent / "imagesTr" / "case_03_0000.nii.gz"))
    assert label.GetOrigin() == pytest.approx(image.GetOrigin())
    values = sitk.GetArrayFromImage(blob(3)[1])
    expected = np.select([np.isin(values, (3, 4)), values == 7], [1, 2])
    assert np.array_equal(sitk.GetArrayFromImage(label), expected)
    assert np.array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(blob(3)[0]))


def test_split_is_that_of_nnunet(dataset: Path) -> None:
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    labelled = [f"case_{number:02d}" for number in range(13)]
    usable = labelled[:10]
    expected = [
        {part: [case for case in cases if case in usable] for part, cases in fold.items()}
        for fold in generate_crossval_split(labelled, seed=12345, n_splits=5)
    ]
    assert json.loads((dataset.parent / "splits_final.json").read_text()) == expected


def test_too_few_cases_are_refused(raw: Path, tmp_path: Path) -> None:
    layout = LAYOUT.model_copy(update={"images": ("images/case_0[0-2].nii.gz",)})
    options = ConvertOptions(benchmark=BENCHMARK, dataset=layout)
    with pytest.raises(MeddinoError, match="3 of 3 labelled cases can be used, too few"):
        convert.run(options, raw=raw / ".fetched.json", output=tmp_path / "D" / "dataset.json")
    assert not (tmp_path / "D" / "dataset.json").exists()


@pytest.mark.parametrize(
    ("labels", "message"),
    [({"liver": []}, "at least one"), ({"liver": [1], "spleen": [1]}, "one structure only")],
)
def test_senseless_label_maps_are_refused(labels: dict[str, list[int]], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Benchmark(label="x", dataset="x", nnunet_id=1, labels=labels)


# plan and preprocess


def test_high_resolution_shows_the_same_field_of_view(plans: Path) -> None:
    configurations = json.loads(plans.read_text())["configurations"]
    assert set(configurations) == {"2d", "2d_hires"}
    base, fine = configurations["2d"], configurations["2d_hires"]
    assert fine["patch_size"] == [96, 96]
    for axis in (0, 1):
        assert fine["spacing"][axis] * 96 == pytest.approx(base["spacing"][axis] * 64)
    assert fine["data_identifier"] != base["data_identifier"]


def test_nnunet_decides_what_is_not_overridden(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "Dataset901_blobs" / "nnUNetPlans.json"
    planning = Planning(foreground_samples=10_000, paper_patch_px={"blobs": 640, "other": 64})
    plan.run(PlanOptions(planning=planning), dataset=dataset, output=output)
    base = json.loads(output.read_text())["configurations"]["2d"]
    assert base["spacing"] == [3.0, 3.0]
    assert base["architecture"]["arch_kwargs"]["features_per_stage"][:2] == [32, 64]
    height, width = base["patch_size"]
    remark = f"blobs: the input of 2d is {height} x {width} px, but the paper states 640 x 640 px"
    assert remark in capsys.readouterr().err


@pytest.mark.parametrize(
    ("patch", "message"),
    [([640, 640], None), ([512, 640], "512 x 640 px, but"), ([640, 512], "640 x 512 px, but")],
)
def test_an_input_other_than_the_papers_is_said_on_one_line(
    patch: list[int], message: str | None
) -> None:
    plans = {"configurations": {"2d": {"patch_size": patch}}}
    remark = plan.other_input("amos22", plans, Planning(paper_patch_px={"amos22": 640}))
    assert (message is None and remark is None) or (message in remark and "\n" not in remark)
    assert plan.other_input("btcv", plans, Planning(paper_patch_px={"amos22": 640})) is None


def test_preprocessed_slices_have_the_planned_spacing(preprocessed: Path) -> None:
    import blosc2

    marker = json.loads(preprocessed.read_text())
    assert len(marker["cases"]) == 10
    volume = blosc2.open(str(preprocessed.parent / marker["folder"] / "case_00.b2nd"))
    assert volume.shape == (1, SHAPE[0], 30, 33)  # 40 and 44 voxels of 3 mm, in voxels of 4 mm


def test_unknown_configuration_is_refused(plans: Path) -> None:
    options = PreprocessOptions(configuration="2d_896")
    with pytest.raises(MeddinoError, match=r"2d_896.*2d, 2d_hires"):
        preprocess.run(options, plans=plans, output=plans.parent / "2d_896.json")


# finetune and predict


@pytest.mark.parametrize("name", METHODS)
def test_every_network_trains_and_predicts(
    name: str, preprocessed: Path, dataset: Path, tmp_path: Path
) -> None:
    before = tensors(finetune(tmp_path / "before", preprocessed, method(name), epochs=0))
    model = finetune(tmp_path / "after", preprocessed, method(name))
    changed = [key for key, value in tensors(model).items() if not torch.equal(value, before[key])]
    assert changed
    assert not (name == "dino_unet" and any(key.startswith("backbone.") for key in changed))
    history = (model.parent / "history.jsonl").read_text().splitlines()
    assert json.loads(history[0])["epoch"] == 0 and len(history) == 1
    _assert_predicts(model, dataset, tmp_path)


def _assert_predicts(model: Path, dataset: Path, tmp_path: Path) -> None:
    options = PredictOptions(prediction=Prediction(tta=False))
    predict.run(options, model=model, dataset=dataset, output=tmp_path / "pred" / "done.json")
    cases = json.loads((tmp_path / "pred" / "done.json").read_text())["cases"]
    assert cases == json.loads((dataset.parent / "splits_final.json").read_text())[0]["val"]
    for case in cases:
        segmentation = sitk.ReadImage(str(tmp_path / "pred" / f"{case}.nii.gz"))
        reference = sitk.ReadImage(str(dataset.parent / "labelsTr" / f"{case}.nii.gz"))
        assert segmentation.GetSize() == reference.GetSize()
        assert segmentation.GetSpacing() == pytest.approx(reference.GetSpacing())
        assert segmentation.GetOrigin() == pytest.approx(reference.GetOrigin())
        assert sitk.GetArrayViewFromImage(segmentation).max() <= 2


def test_without_a_fold_all_cases_are_segmented(
    preprocessed: Path, dataset: Path, tmp_path: Path
) -> None:
    model = finetune(tmp_path / "model", preprocessed, method("unet"), epochs=0)
    options = PredictOptions(prediction=Prediction(tta=False), fold=None)
    predict.run(options, model=model, dataset=dataset, output=tmp_path / "pred" / "done.json")
    cases = json.loads((tmp_path / "pred" / "done.json").read_text())["cases"]
    fold = json.loads((dataset.parent / "splits_final.json").read_text())[0]
    assert sorted(cases) == sorted([*fold["train"], *fold["val"]])
    assert {f"{case}.nii.gz" for case in cases} <= {p.name for p in (tmp_path / "pred").iterdir()}


def test_a_librarys_vit_trains_and_predicts_without_what_it_came_from(
    preprocessed: Path, dataset: Path, tmp_path: Path
) -> None:
    from transformers import Dinov2Config, Dinov2Model

    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2}
    Dinov2Model(Dinov2Config(**size, image_size=56)).save_pretrained(tmp_path / "hub")
    backbone = f"transformers:{tmp_path / 'hub'}"
    weights = tmp_path / "w.pth"
    fetch_weights(WeightsOptions(file=str(tmp_path / "hub"), kind=backbone), output=weights)
    row = method("primus", backbone=backbone, weights="w")
    model = finetune(tmp_path / "model", preprocessed, row, weights)
    assert any(key.startswith("backbone.model.") for key in tensors(model))
    shutil.rmtree(tmp_path / "hub")
    weights.unlink()
    _assert_predicts(model, dataset, tmp_path)


def test_few_cases_are_nested_and_those_that_validate_stay(
    preprocessed: Path, plans: Path, tmp_path: Path
) -> None:
    folder = preprocessed.parent
    (fold, *_) = json.loads((folder / "splits_final.json").read_text())
    drawn = {}
    for percent in (10, 50, 100):
        row = method("unet", cases_percent=percent)
        options = FinetuneOptions(method=row, training=training(), fold=0)
        with folders(1, preprocessed=folder.parent, results=tmp_path):
            trainer = finetune_verb._trainer(options, plans, Team(torch.device("cpu")))
            drawn[percent], validation = trainer.do_split()
        assert validation == fold["val"]
    assert drawn[100] == fold["train"] and len(fold["train"]) == 7
    assert (len(drawn[10]), len(drawn[50])) == (1, 4)
    assert set(drawn[10]) < set(drawn[50]) < set(drawn[100])
    assert "cases_percent" not in method("unet").model_dump(), "all cases: as it ever was"


def test_training_learns(preprocessed: Path, dataset: Path, tmp_path: Path) -> None:
    row = method("primus", lr=3e-3, backbone_lr=3e-3, drop_path=0)
    scores = []
    for epochs in (0, 2):
        length = {"epochs": epochs, "iterations_per_epoch": 30}
        model = finetune(tmp_path / str(epochs), preprocessed, row, **length)
        scores.append(_liver_dice(model, dataset, tmp_path))
    assert scores[1] > scores[0] + 0.2


def _liver_dice(model: Path, dataset: Path, tmp_path: Path) -> float:
    options = PredictOptions(prediction=Prediction(tta=False))
    predict.run(options, model=model, dataset=dataset, output=tmp_path / "pred" / "done.json")
    found = []
    for case in json.loads((tmp_path / "pred" / "done.json").read_text())["cases"]:
        predicted, reference = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{case}.nii.gz"))) == 1
            for folder in (tmp_path / "pred", dataset.parent / "labelsTr")
        )
        both = (predicted & reference).sum()
        found.append(2 * both / (predicted.sum() + reference.sum()))
    return float(np.mean(found))


class Killed(Exception):
    """What a test throws in place of a time limit."""


def test_killed_run_resumes_to_the_bit(
    preprocessed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, length = method("primus"), {"epochs": 3, "checkpoint_every": 1}
    whole = finetune(tmp_path / "whole", preprocessed, row, **length)
    report = finetune_verb._report

    def die(history: list[dict[str, Any]], output: Path) -> None:
        report(history, output)
        if len(history) == 3:
            raise Killed

    monkeypatch.setattr(finetune_verb, "_report", die)
    with pytest.raises(Killed):
        finetune(tmp_path / "resumed", preprocessed, row, **length)
    monkeypatch.setattr(finetune_verb, "_report", report)
    last = checkpoints.found(tmp_path / "resumed" / "state")[0]
    last.write_bytes(last.read_bytes()[:1000])  # the one before it will do
    resumed = finetune(tmp_path / "resumed", preprocessed, row, **length)
    expected = tensors(whole)
    for key, value in tensors(resumed).items():
        assert torch.equal(value, expected[key]), key
    losses = [
        [json.loads(line)["train_loss"] for line in (model.parent / "history.jsonl").open()]
        for model in (whole, resumed)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 3


Backend = Callable[[torch.fx.GraphModule, Any], Callable[..., Any]]


@pytest.fixture
def compile_with(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Backend], None]]:
    """Have nnU-Net compile on a CPU too, with a backend that a test chooses."""
    monkeypatch.setattr(nnUNetTrainer, "_do_i_compile", lambda self: True)
    monkeypatch.setattr(speed, "obstacle_to_compiling", lambda: None)
    compile_ = torch.compile

    def choose(backend: Backend) -> None:
        monkeypatch.setattr(torch, "compile", partial(compile_, backend=backend))

    torch._dynamo.reset()
    counters.clear()
    with torch._dynamo.config.patch(suppress_errors=False):
        yield choose


@pytest.mark.parametrize("name", ["unet", "primus"])
def test_a_run_may_go_on_with_or_without_compiling(
    name: str,
    preprocessed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compile_with: Callable[[Backend], None],
) -> None:
    """Weights, optimiser and their names are the same; each forward pass is one graph."""
    train = partial(finetune, preprocessed=preprocessed, row=method(name), epochs=2)
    train = partial(train, checkpoint_every=1)
    whole = tensors(train(tmp_path / "whole", compile=False))
    assert not counters["frames"]

    def die(history: list[dict[str, Any]], _: Path) -> None:
        if len(history) == 2:
            raise Killed

    compile_with(lambda graph, _: graph.forward)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(finetune_verb, "_report", die)
        train(tmp_path / "resumed", compile=True)
    frames = dict(counters["frames"])
    assert frames["ok"] == frames["total"] > 0 and not counters["graph_break"]
    resumed = tensors(train(tmp_path / "resumed", compile=False))
    assert counters["frames"] == frames
    assert resumed.keys() == whole.keys()
    for key, value in whole.items():
        assert torch.equal(resumed[key], value), key


def test_a_compiler_that_fails_costs_speed_alone(
    preprocessed: Path, tmp_path: Path, compile_with: Callable[[Backend], None]
) -> None:
    failures = []

    def fail(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        failures.append(graph)
        raise RuntimeError("no kernel")

    compile_with(fail)
    model = finetune(tmp_path, preprocessed, method("unet"), compile=True)
    assert failures and model.exists()


def test_what_is_missing_to_compile_is_said_on_one_line(
    preprocessed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(nnUNetTrainer, "_do_i_compile", lambda self: True)
    monkeypatch.setattr(_triton, "has_triton", lambda: True)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(torch, "compile", None)
    finetune(tmp_path, preprocessed, method("unet"), epochs=0, compile=True)
    line = "training without torch.compile, slower: there is no C compiler"
    assert capsys.readouterr().err.count(line) == 1
    monkeypatch.setenv("CC", "cc")
    assert speed.obstacle_to_compiling() is None
    monkeypatch.setattr(_triton, "has_triton", lambda: False)
    assert "no Triton" in str(speed.obstacle_to_compiling())


def test_convolutions_are_tuned_on_gpus_alone(
    preprocessed: Path, plans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finetune(tmp_path, preprocessed, method("unet"), epochs=0)
    assert not torch.backends.cudnn.benchmark
    options = FinetuneOptions(method=method("unet"), training=training(compile=False))
    monkeypatch.setattr(nnUNetTrainer, "initialize", lambda self: None)
    with folders(preprocessed=preprocessed.parent.parent, results=tmp_path), cudnn.flags():
        trainer = finetune_verb._trainer(options, plans, Team(torch.device("cpu")))
        trainer.device = torch.device("cuda")
        trainer.set_up()
        assert torch.backends.cudnn.benchmark and not torch.backends.cudnn.deterministic


def test_wrong_inputs_are_refused_before_training(preprocessed: Path, tmp_path: Path) -> None:
    fine = method("unet", configuration="2d_hires")
    with pytest.raises(MeddinoError, match="2d_hires"):
        finetune(tmp_path, preprocessed, fine)
    with pytest.raises(MeddinoError, match="fold is 5, but the split has folds 0 to 4"):
        finetune(tmp_path, preprocessed, method("unet"), fold=5)
    with pytest.raises(MeddinoError, match="a file is missing"):
        finetune(tmp_path, preprocessed, method("primus", weights="dinov3"))
    with pytest.raises(MeddinoError, match=r"absent\.pth does not exist"):
        row = method("primus", weights="dinov3")
        finetune(tmp_path, preprocessed, row, tmp_path / "absent.pth")


def test_a_fold_without_cases_is_refused_before_training(
    preprocessed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / preprocessed.parent.name
    shutil.copytree(preprocessed.parent, folder)
    splits = json.loads((folder / "splits_final.json").read_text())
    splits[1]["val"] = []
    (folder / "splits_final.json").write_text(json.dumps(splits))
    with pytest.raises(MeddinoError, match=r"fold 1 has no case left to validate on.*quarantine"):
        finetune(tmp_path, folder / preprocessed.name, method("unet"), fold=1)


def test_model_of_another_shape_is_refused(
    preprocessed: Path, dataset: Path, tmp_path: Path
) -> None:
    model = finetune(tmp_path / "a", preprocessed, method("segformer"), epochs=0)
    other = finetune(tmp_path / "b", preprocessed, method("unet"), epochs=0)
    shutil.copy(other, model)
    options = PredictOptions(prediction=Prediction())
    with pytest.raises(MeddinoError, match=r"does not fit model\.json"):
        predict.run(options, model=model, dataset=dataset, output=tmp_path / "p" / "done.json")


# options and optimisation


@pytest.mark.parametrize(
    ("name", "changes", "key"),
    [
        ("unet", {"backbone": "vitb16"}, "backbone"),
        ("primus", {"blocks": []}, "blocks"),
        ("unet", {"weights": "dinov3"}, "weights"),
        ("segformer", {"segformer": None}, "segformer"),
        ("dino_unet", {"freeze_backbone": False}, "freeze_backbone"),
        ("primus", {"weights": "dinov3", "layerscale": 1e-5}, "layerscale"),
        ("segformer", {"deep_supervision": True}, "deep_supervision"),
        ("unet", {"norm_eps": 1e-6}, "norm_eps"),
        ("primus", {"backbone": "timm:vit_tiny_patch16_224", "train_k_bias": True}, "train_k_bias"),
    ],
)
def test_options_without_effect_are_refused(name: str, changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ValidationError, match=key):
        method(name, **changes)


def test_schedule_is_nnunets_with_a_rate_for_each_group() -> None:
    network = torch.nn.ModuleDict(
        {"backbone": torch.nn.Linear(1, 1), "head": torch.nn.Linear(1, 1)}
    )
    optimizer = make_optimizer(network, method("primus"))
    schedule = PolySchedule(optimizer, epochs=1000, power=0.9)
    schedule.step(250)
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == pytest.approx([1e-4 * 0.75**0.9, 1e-3 * 0.75**0.9])


def test_warmup_rises_to_the_peak_and_then_decays() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    schedule = PolySchedule(optimizer, epochs=10, power=1, warmup=4)
    assert [schedule.factor(epoch) for epoch in (0, 3, 4, 7)] == pytest.approx([0.25, 1, 1, 0.5])


def test_warmup_as_long_as_training_is_refused() -> None:
    with pytest.raises(ValidationError, match="warmup_epochs"):
        FinetuneOptions(method=method("primus", warmup_epochs=2), training=training(epochs=2))
