"""3D networks and nnU-Net's presets: plans, steps and labels are those of nnU-Net's own classes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiments
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from pydantic import ValidationError

from meddino.__main__ import main
from meddino.bundle import monai
from meddino.core import receipts
from meddino.core.errors import MeddinoError
from meddino.core.files import read_json, write_json
from meddino.finetune import arrays, by_hand, plan, predict, preprocess, replan
from meddino.finetune import finetune as finetune_verb
from meddino.finetune.model import load
from meddino.finetune.nnunet import folders, quiet
from meddino.finetune.options import (
    Configuration,
    FinetuneOptions,
    FreeArraysOptions,
    Method,
    Planning,
    PlanOptions,
    Prediction,
    PredictOptions,
    PreprocessOptions,
    ReplanOptions,
    Training,
    Volumes,
)
from meddino.finetune.presets import PLANNERS, Preset, planner_of, plans_name
from meddino.finetune.segmenter import Segmenter
from meddino.finetune.snapshot import seed_everything
from meddino.models.distributed import Team

CPU = torch.device("cpu")
NAMES = {"background": 0, "liver": 1, "spleen": 2}
VOLUMES, SLICES = "3d_fullres", "2d"
PRESETS: list[Preset | None] = [None, *PLANNERS]
TINY = Volumes(patch_px=(8, 16, 16), batch_size=2, features_per_stage=[4, 8, 8])
UNET = {"network": "unet", "optimizer": "sgd", "lr": 1e-2, "deep_supervision": True}


class Made(NamedTuple):
    """A benchmark in nnU-Net's raw layout and its plans; `coarse` is the axis with few slices."""

    dataset: Path
    plans: Path
    coarse: int


def write_case(folder: Path, number: int, coarse: int) -> None:
    """A bright and a dark ellipsoid in noise: 18 voxels of 6 mm along one axis, finer elsewhere."""
    shape, spacing = [40, 36, 32], [2.5, 2.5, 2.6]
    shape[coarse], spacing[coarse] = 18, 6.0
    rng = np.random.default_rng(number)
    grid = np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij")
    centres = np.array([[0.3, 0, 0.2], [-0.4, 0.2, -0.3]]) + rng.uniform(-0.1, 0.1, 3)
    label = np.zeros(shape, np.uint8)
    for value, centre in enumerate(centres, 1):
        distance = sum((axis - c) ** 2 for axis, c in zip(grid, centre, strict=True))
        label[distance < 0.12] = value
    hu = np.array([0, 150, -150])[label] + rng.normal(0, 20, shape)
    for name, values in (("imagesTr", hu.astype(np.int16)), ("labelsTr", label)):
        image = sitk.GetImageFromArray(values)
        image.SetSpacing(spacing[::-1])
        (folder / name).mkdir(parents=True, exist_ok=True)
        ending = "_0000.nii.gz" if name == "imagesTr" else ".nii.gz"
        sitk.WriteImage(image, str(folder / name / f"case_{number}{ending}"))


@pytest.fixture(scope="module", params=[0, 2], ids=["axial", "sagittal"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Axial slices are thick, as in CT; or sagittal ones, which nnU-Net turns to the front."""
    root = tmp_path_factory.mktemp("volumes")
    raw = root / "raw" / "Dataset901_blobs"
    cases = [f"case_{number}" for number in range(5)]
    for number in range(5):
        write_case(raw, number, request.param)
    files = {
        case: {"images": [f"imagesTr/{case}_0000.nii.gz"], "label": f"labelsTr/{case}.nii.gz"}
        for case in cases
    }
    content = {
        "channel_names": {"0": "CT"}, "labels": NAMES, "numTraining": 5, "file_ending": ".nii.gz",
        "dataset": files,
    }  # fmt: skip
    write_json(raw / "dataset.json", content)
    write_json(raw / "splits_final.json", [{"train": cases[1:], "val": cases[:1]}])
    plans = root / "preprocessed" / raw.name / "nnUNetPlans.json"
    options = PlanOptions(planning=Planning(foreground_samples=10_000))
    plan.run(options, dataset=raw / "dataset.json", output=plans)
    return Made(raw / "dataset.json", plans, request.param)


def planned(
    made: Made, preset: Preset | None, configuration: Any, volumes: Volumes | None = None
) -> Path:
    """Plans of one configuration of a preset, in a copy of their own where they are tiny."""
    output = made.plans.with_name(f"{plans_name(preset, configuration)}.json")
    options = ReplanOptions(
        preset=preset, configuration=configuration, planning=Planning(volumes=volumes)
    )
    replan.run(options, dataset=made.dataset, plans=made.plans, output=output)
    return output


@pytest.fixture(scope="module")
def nnunets(made: Made, tmp_path_factory: pytest.TempPathFactory) -> dict[Preset | None, Any]:
    """What nnU-Net's own command `nnUNetv2_plan_experiment` plans, by preset."""
    folder = tmp_path_factory.mktemp("own")
    name = made.plans.parent.name
    (folder / name).mkdir()
    fingerprint = made.plans.with_name("dataset_fingerprint.json").read_text()
    (folder / name / "dataset_fingerprint.json").write_text(fingerprint)
    with folders(raw=made.dataset.parent.parent, preprocessed=folder), quiet():
        for preset in PRESETS:
            plan_experiments([901], planner_of(preset).kind)
    return {p: read_json(folder / name / f"{planner_of(p).plans}.json") for p in PRESETS}


# plans


@pytest.mark.parametrize("preset", PRESETS)
def test_plans_of_volumes_are_nnunets_but_for_their_name(
    made: Made, nnunets: dict[Preset | None, Any], preset: Preset | None
) -> None:
    ours, own = read_json(planned(made, preset, VOLUMES)), dict(nnunets[preset])
    assert ours.pop("configurations") == {VOLUMES: own.pop("configurations")[VOLUMES]}
    assert own.pop("plans_name") == planner_of(preset).plans
    assert ours.pop("plans_name") == f"{planner_of(preset).plans}_3d"
    assert ours == own
    assert ours["transpose_forward"] == ([0, 1, 2] if made.coarse == 0 else [2, 0, 1])


@pytest.mark.parametrize("preset", PLANNERS)
def test_plans_of_slices_are_nnunets_where_slices_are_axial(
    made: Made, nnunets: dict[Preset | None, Any], preset: Preset
) -> None:
    ours = read_json(planned(made, preset, SLICES))
    assert ours["transpose_forward"] == [0, 1, 2]
    if made.coarse == 0:
        assert ours["configurations"] == {SLICES: nnunets[preset]["configurations"][SLICES]}
    # As the paper's methods: a preset for slices trains on the arrays that they train on.
    base = read_json(made.plans)["configurations"][SLICES]
    for key in ("data_identifier", "spacing", "normalization_schemes"):
        assert ours["configurations"][SLICES][key] == base[key]


def test_plans_of_the_papers_methods_are_those_without_3d(made: Made, tmp_path: Path) -> None:
    """`nnUNetPlans.json` does not know what is planned beside it, to the byte."""
    before = made.plans.read_bytes()
    planned(made, "resenc_l", VOLUMES)
    options = Planning(foreground_samples=10_000, volumes=TINY)
    plan.run(
        PlanOptions(planning=options), dataset=made.dataset,
        output=tmp_path / made.plans.parent.name / made.plans.name,
    )  # fmt: skip
    assert (tmp_path / made.plans.parent.name / made.plans.name).read_bytes() == before
    assert made.plans.read_bytes() == before


def test_a_small_machine_overrides_volumes(made: Made) -> None:
    volumes = TINY.model_copy(update={"spacing_mm": (7.0, 7.0, 7.0)})
    for preset in (None, "resenc_l"):
        configuration = read_json(planned(made, preset, VOLUMES, volumes))["configurations"]
        tiny = configuration[VOLUMES]
        network = tiny["architecture"]["arch_kwargs"]
        assert (tiny["patch_size"], tiny["batch_size"]) == ([8, 16, 16], 2)
        assert tiny["spacing"] == [7.0, 7.0, 7.0]
        assert network["n_stages"] == 3 and network["features_per_stage"] == [4, 8, 8]
        # From 8 x 16 x 16 voxels down to no side below 4.
        assert network["strides"] == [[1, 1, 1], [2, 2, 2], [1, 2, 2]]
        blocks = (
            {"n_conv_per_stage": [2, 2, 2]} if not preset else {"n_blocks_per_stage": [1, 3, 4]}
        )
        assert blocks.items() <= network.items()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_px": (9, 16, 16)}, r"patch_px: \[9, 16, 16\] cannot be halved.*\[10, 16, 16\]"),
        ({"features_per_stage": [4] * 9}, "features_per_stage: 9 stages.*gives an input of"),
    ],
)
def test_inputs_that_do_not_divide_are_refused(
    made: Made, changes: dict[str, Any], message: str
) -> None:
    before = made.plans.with_name("nnUNetPlans_3d.json")
    before.unlink(missing_ok=True)
    with pytest.raises(MeddinoError, match=message):
        planned(made, None, VOLUMES, TINY.model_copy(update=changes))
    assert not before.exists()


# training


@pytest.fixture(scope="module")
def arrays_of(made: Made) -> Path:
    """The marker of preprocessed volumes."""
    plans, marker = planned(made, None, VOLUMES, TINY), made.plans.with_name(f"{VOLUMES}.json")
    preprocess.run(PreprocessOptions(configuration=VOLUMES), plans=plans, output=marker)
    return marker


def method(preset: Preset | None = None, **changes: Any) -> Method:
    values = {"label": "", "weight_decay": 3e-5, "configuration": VOLUMES, "preset": preset}
    return Method.model_validate({**values, **UNET, **changes})


def training(**changes: Any) -> Training:
    length = {"epochs": 1, "iterations_per_epoch": 2, "val_iterations": 1, "num_processes": 0}
    return Training.model_validate({**length, "device": "cpu", **changes})


def first_step(trainer: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The weights after one step, and the batch that it was taken on."""
    trainer.dataloader_train, trainer.dataloader_val = trainer.get_dataloaders()
    for step in trainer.dataloader_train.data_loader.transforms.transforms:
        blur = getattr(step, "transform", None)
        if isinstance(blur, GaussianBlurTransform):
            blur.benchmark = False  # which would choose an algorithm by a stopwatch
    trainer.set_deep_supervision_enabled(True)
    trainer.network.train()
    batch = next(trainer.dataloader_train)
    trainer.train_step(batch)
    return trainer.network.state_dict(), batch


@pytest.mark.parametrize("preset", [None, "resenc_m"])
def test_a_step_is_nnunets_to_the_bit(
    made: Made, arrays_of: Path, preset: Preset | None, tmp_path: Path
) -> None:
    """Network, deep supervision, patches, augmentation, loss, clipping and optimiser."""
    file = planned(made, preset, VOLUMES, TINY)
    plans = {**read_json(file), "continue_training": False}
    dataset = read_json(file.with_name("dataset.json"))
    results = {}
    with folders(0, preprocessed=file.parent.parent, results=tmp_path), quiet():
        seed_everything(3)
        own = nnUNetTrainer(plans, VOLUMES, 0, dataset, CPU)
        own.initialize()
        seed_everything(4)
        results["own"] = first_step(own)
        options = FinetuneOptions(method=method(preset), training=training(seed=3))
        ours = finetune_verb._trainer(options, file, Team(CPU))
        ours.start(None)
        seed_everything(4)
        results["ours"] = first_step(ours)
    (own_weights, own_batch), (weights, batch) = results["own"], results["ours"]
    assert batch["data"].shape == (2, 1, 8, 16, 16) and len(batch["target"]) == 2
    assert torch.equal(batch["data"], own_batch["data"])
    for level, own_level in zip(batch["target"], own_batch["target"], strict=True):
        assert torch.equal(level, own_level)
    assert weights.keys() == own_weights.keys()
    for key, value in weights.items():
        assert torch.equal(value, own_weights[key]), key


def trained(arrays_of: Path, folder: Path, **changes: Any) -> Path:
    """A model of volumes."""
    output = folder / "model.safetensors"
    plans = arrays_of.with_name("nnUNetPlans_3d.json")
    finetune_verb.run(
        FinetuneOptions(method=method(**changes), training=training()), preprocessed=arrays_of,
        plans=plans, state=folder / "state", output=output,
    )  # fmt: skip
    return output


def test_arrays_of_volumes_come_back_for_a_training(
    made: Made, arrays_of: Path, tmp_path: Path
) -> None:
    planned(made, None, VOLUMES, TINY)
    folder = arrays_of.parent / read_json(arrays_of)["folder"]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    slip = receipts.of_arrays(arrays_of)
    arrays.run(FreeArraysOptions(configuration=VOLUMES), preprocessed=arrays_of, output=slip)
    assert not folder.exists()
    assert trained(arrays_of, tmp_path).exists()
    assert before.keys() == {path.name for path in folder.iterdir()}
    slip.unlink()


def test_plans_of_another_method_are_refused(made: Made, arrays_of: Path, tmp_path: Path) -> None:
    options = FinetuneOptions(method=method("resenc_l"), training=training())
    with pytest.raises(MeddinoError, match=r"trains by .*nnUNetResEncUNetLPlans_3d\.json"):
        finetune_verb.run(
            options, preprocessed=arrays_of, plans=arrays_of.with_name("nnUNetPlans_3d.json"),
            state=tmp_path, output=tmp_path / "model.safetensors",
        )  # fmt: skip


# prediction


@pytest.fixture(scope="module")
def volume_model(made: Made, arrays_of: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    planned(made, None, VOLUMES, TINY)
    return trained(arrays_of, tmp_path_factory.mktemp("model"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_labels_are_those_of_nnunets_predictor(
    made: Made, volume_model: Path, one_thread: None
) -> None:
    """Mirrored along three axes, resampled, and turned back, whatever axis was the coarsest."""
    segmenter = Segmenter(volume_model, Prediction(device="cpu"))
    model = segmenter.model
    assert model.mirror_axes == (0, 1, 2)
    with torch.no_grad():  # no class dominates
        patches = torch.randn(4, 1, *model.configuration.patch_size)
        model.network.decoder.seg_layers[-1].bias -= model.network(patches).mean((0, 2, 3, 4))
    image = sitk.ReadImage(str(made.dataset.parent / "imagesTr" / "case_0_0000.nii.gz"))
    voxels, spacing = sitk.GetArrayFromImage(image), image.GetSpacing()[::-1]
    predictor = nnUNetPredictor(device=CPU, perform_everything_on_device=False, allow_tqdm=False)
    predictor.manual_initialization(
        model.network, model.plans, model.configuration, [model.network.state_dict()],
        model.dataset_json, "nnUNetTrainer", (0, 1, 2),
    )  # fmt: skip
    with quiet():
        expected = predictor.predict_single_npy_array(
            voxels[None].astype(np.float32), {"spacing": list(spacing)}
        )
    shares: list[tuple[int, int]] = []
    labels = segmenter.segment(voxels, spacing, lambda *share: shares.append(share))
    assert labels.shape == voxels.shape and labels.dtype == np.uint8
    assert np.array_equal(labels, expected)
    assert len(np.unique(labels)) > 1
    assert shares == sorted(shares) and shares[-1][0] == shares[-1][1]


def test_the_softmax_of_volumes_has_their_labels(made: Made, volume_model: Path) -> None:
    segmenter = Segmenter(volume_model, Prediction(tta=False, device="cpu"))
    image = sitk.ReadImage(str(made.dataset.parent / "imagesTr" / "case_0_0000.nii.gz"))
    voxels, spacing = sitk.GetArrayFromImage(image), image.GetSpacing()[::-1]
    boxes: list[tuple[tuple[slice, ...], torch.Tensor]] = []
    labels = segmenter.segment(voxels, spacing, watch=lambda *box: boxes.append(box))
    (place, logits), = boxes  # fmt: skip
    assert labels[place].shape == voxels.shape == logits.shape[1:]
    assert np.array_equal(logits.softmax(0).argmax(0).numpy(), labels)
    assert np.array_equal(segmenter.segment(voxels, spacing), labels)


def test_the_verbs_predict_and_segment_volumes(
    made: Made, volume_model: Path, tmp_path: Path
) -> None:
    output = tmp_path / "predictions" / "done.json"
    options = PredictOptions(prediction=Prediction(tta=False, device="cpu"))
    predict.run(options, model=volume_model, dataset=made.dataset, output=output)
    scan = made.dataset.parent / "imagesTr" / "case_0_0000.nii.gz"
    flags = ["--no-tta", "--device", "cpu", "--model", str(volume_model.parent)]
    main(["segment", str(scan), str(tmp_path / "labels.nii.gz"), *flags])
    predicted, segmented = (
        sitk.ReadImage(str(path))
        for path in (output.with_name("case_0.nii.gz"), tmp_path / "labels.nii.gz")
    )
    assert segmented.GetSize() == sitk.ReadImage(str(scan)).GetSize()
    assert segmented.GetSpacing() == pytest.approx(sitk.ReadImage(str(scan)).GetSpacing())
    assert np.array_equal(*(sitk.GetArrayFromImage(image) for image in (predicted, segmented)))


def test_no_bundle_is_made_of_a_network_that_sees_volumes(
    volume_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(MeddinoError, match="bundles are of networks that see slices"):
        monai.write_bundle(load(volume_model), {}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_of_volumes_is_complete(volume_model: Path) -> None:
    description = json.loads(volume_model.with_name("model.json").read_text())
    assert description["configuration"] == VOLUMES and description["mirror_axes"] == [0, 1, 2]
    assert set(description["plans"]["configurations"]) == {VOLUMES}
    assert description["plans"]["meddino"]["method"]["configuration"] == VOLUMES


# options


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "segformer", "segformer": {}}, "configuration: network segformer sees slices"),
        ({"preset": "resenc_l", "configuration": "2d_896"}, "preset: resenc_l has no meaning"),
        ({"preset": "resenc_s"}, "preset"),
    ],
)
def test_methods_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    values = {"deep_supervision": False} if "network" in changes else {}
    with pytest.raises(ValidationError, match=message):
        method(**values, **changes)


def test_nnunets_own_names_are_not_given_to_others() -> None:
    with pytest.raises(ValidationError, match="3d_fullres is nnU-Net's own"):
        Planning(configurations={VOLUMES: Configuration(patch_px=96)})


def test_jobs_of_the_papers_methods_are_told_nothing_new() -> None:
    told = method(configuration=SLICES).model_dump()
    assert "preset" not in told and "volumes" not in Planning().model_dump()
    assert method("resenc_l").model_dump()["preset"] == "resenc_l"


def test_nnunets_command_refuses_volumes_for_a_network_of_slices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MEDDINO_CONFIG", raising=False)
    with pytest.raises(MeddinoError, match="network primus sees slices, not 3d_fullres"):
        by_hand._configured("meddinov3", VOLUMES)
