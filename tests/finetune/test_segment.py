"""`segment`: any format, the grid of the input, nnU-Net's result, and clear errors."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ct3m_data as data
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.export_prediction import (
    convert_predicted_logits_to_segmentation_with_correct_shape as export,
)
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

from meddino.__main__ import main
from meddino.core.errors import MeddinoError
from meddino.core.files import read_json, sha256, write_json
from meddino.datasets.phantom.raw_layouts import _dicom
from meddino.datasets.phantom.scanner import Scan
from meddino.evaluate.failures import calibration, confidence
from meddino.evaluate.failures.options import ConfidenceOptions
from meddino.finetune import model, predict, segment, segmenter
from meddino.finetune.networks import build_network
from meddino.finetune.options import Method, Prediction, PredictOptions, Training
from meddino.finetune.segmenter import Segmenter
from meddino.finetune.settings import Settings, write_settings
from meddino.volumes import geometry, reader
from meddino.volumes.inputs import find
from meddino.volumes.raw import Raw

NAMES = {"background": 0, "liver": 1, "spleen": 2}
METHOD = Method(label="", network="unet", optimizer="sgd", lr=1e-2, weight_decay=0)


def resampling(order: int, **more: bool) -> dict[str, Any]:
    return {"force_separate_z": None, "is_seg": False, "order": order, "order_z": 0, **more}


def plans(scheme: str) -> dict[str, Any]:
    """nnU-Net's plans of a small U-Net on slices of 32 px at 1.3 x 1.1 mm."""
    stages = 3
    network = {
        "n_stages": stages,
        "features_per_stage": [4, 8, 8],
        "conv_op": "torch.nn.modules.conv.Conv2d",
        "kernel_sizes": [[3, 3]] * stages,
        "strides": [[1, 1], [2, 2], [2, 2]],
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    kind = "resample_data_or_seg_to_shape"
    configuration = {
        "patch_size": [32, 32],
        "spacing": [1.3, 1.1],
        "batch_size": 2,
        "normalization_schemes": [scheme],
        "use_mask_for_norm": [False],
        "resampling_fn_data": kind,
        "resampling_fn_data_kwargs": resampling(3),
        "resampling_fn_seg": kind,
        "resampling_fn_seg_kwargs": resampling(1) | {"is_seg": True},
        "resampling_fn_probabilities": kind,
        "resampling_fn_probabilities_kwargs": resampling(1),
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": network,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }
    bounds = {"mean": 0.0, "std": 300.0, "percentile_00_5": -900.0, "percentile_99_5": 200.0}
    whole = {
        "plans_name": "nnUNetPlans",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": bounds},
        "configurations": {"2d": configuration},
    }
    write_settings(whole, Settings(method=METHOD, training=Training()))
    return whole


def make_model(folder: Path, channel: str = "CT") -> Path:
    """A model with random weights, as `finetune` stores it."""
    scheme = "CTNormalization" if channel == "CT" else "ZScoreNormalization"
    manager = model.PlansManager(plans(scheme))
    torch.manual_seed(1)
    settings = Settings(method=METHOD, training=Training())
    network = build_network(settings, manager.get_configuration("2d"), len(NAMES), False)
    with torch.no_grad():  # no class dominates
        slices = torch.from_numpy((data.body().T / 300).astype(np.float32))[:, None, :36, :36]
        network.decoder.seg_layers[-1].bias -= network(slices).mean((0, 2, 3))
    trainer = SimpleNamespace(
        configure_rotation_dummyDA_mirroring_and_inital_patch_size=lambda: None,
        dataset_json={"channel_names": {"0": channel}, "labels": NAMES, "file_ending": ".nii.gz"},
        plans_manager=manager,
        configuration_name="2d",
        fold=0,
        inference_allowed_mirroring_axes=(0, 1),
        network=network,
    )
    model.save(trainer, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def ready(trained: Path) -> Segmenter:
    return Segmenter(trained, Prediction(tta=False, device="cpu"))


@pytest.fixture
def ct(tmp_path: Path) -> Path:
    return data.save(tmp_path / "in/ct.nii.gz", data.body())


def values(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS"))


def run(*arguments: Path | str) -> int:
    return main(["segment", *map(str, arguments), "--device", "cpu", "--no-tta"])


# the result


@pytest.mark.parametrize("spacing", [(1.4, 1.4, 1.5), (1.1, 0.8, 5.0)])
@pytest.mark.parametrize("tta", [True, False])
def test_slabs_give_what_nnunet_gives_for_the_whole(
    trained: Path, spacing: tuple[float, ...], tta: bool
) -> None:
    """Resampled in 3-D and slice by slice; with air of value 0 around, which nnU-Net crops."""
    voxels = np.zeros((11, 44, 47), np.int16)
    voxels[1:, 3:39, 2:42] = data.body().T
    ours = Segmenter(trained, Prediction(tta=tta, device="cpu"))
    seen: list[tuple[int, int]] = []
    result = ours.segment(voxels, spacing[::-1], lambda *slices: seen.append(slices))

    loaded = ours.model
    whole, _, facts = DefaultPreprocessor(verbose=False).run_case_npy(
        voxels[None], None, {"spacing": list(spacing[::-1])},
        loaded.plans, loaded.configuration, loaded.dataset_json,
    )  # fmt: skip
    logits = ours._predictor.predict_sliding_window_return_logits(torch.from_numpy(whole))
    names = loaded.plans.get_label_manager(loaded.dataset_json)
    theirs = export(logits, loaded.plans, loaded.configuration, names, facts, num_threads_torch=1)
    assert result.dtype == np.uint8 and np.array_equal(result, theirs)
    assert set(np.unique(theirs)) == {0, 1, 2} and not theirs[0].any()
    assert seen == [(4, 10), (8, 10), (10, 10)], "slices are told as they are done"


def test_segment_and_predict_agree(trained: Path, ct: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "raw/dataset.json"
    volume = reader.read(ct)
    (dataset.parent / "imagesTr").mkdir(parents=True)
    sitk.WriteImage(volume.image(), str(dataset.parent / "imagesTr/a_0000.nii.gz"))
    dataset.write_text(json.dumps({"dataset": {"a": {"images": ["imagesTr/a_0000.nii.gz"]}}}))
    (dataset.parent / "splits_final.json").write_text('[{"train": [], "val": ["a"]}]')
    options = PredictOptions(prediction=Prediction(tta=False, device="cpu"))
    weights = trained / "model.safetensors"
    predict.run(options, model=weights, dataset=dataset, output=tmp_path / "pred/done.json")
    assert run(ct, tmp_path / "out.nii.gz", "--model", weights) == 0
    both = [sitk.ReadImage(str(tmp_path / name)) for name in ("pred/a.nii.gz", "out.nii.gz")]
    assert np.array_equal(values(both[0]), values(both[1]))
    assert len(np.unique(values(both[0]))) > 1


def test_sums_over_the_softmax_are_those_of_the_whole_and_change_no_label(
    trained: Path, tmp_path: Path
) -> None:
    """`confidence`: with air of value 0 around, which nnU-Net crops, and slab by slab."""
    voxels = np.zeros((11, 44, 47), np.int16)
    voxels[1:, 3:39, 2:42] = data.body().T
    volume, dataset = sitk.GetImageFromArray(voxels), tmp_path / "raw/dataset.json"
    volume.SetSpacing((1.1, 0.8, 5.0))
    files = {"images": ["imagesTr/a_0000.nii.gz"], "label": "labelsTr/a.nii.gz"}
    write_json(dataset, {"dataset": {"a": files}, "labels": NAMES})
    for name, array in (
        (files["images"][0], voxels),
        (files["label"], np.random.default_rng(0).integers(0, 3, voxels.shape).astype(np.uint8)),
    ):
        image = sitk.GetImageFromArray(array)
        image.CopyInformation(volume)
        (dataset.parent / name).parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(dataset.parent / name))
    write_json(dataset.with_name("splits_final.json"), [{"train": [], "val": ["a"]}])
    weights, done = trained / "model.safetensors", tmp_path / "pred/done.json"
    prediction = Prediction(tta=False, device="cpu")
    predict.run(PredictOptions(prediction=prediction), model=weights, dataset=dataset, output=done)
    labels = sha256(done.with_name("a.nii.gz"))
    options = ConfidenceOptions(prediction=prediction, fold=0, bins=7)
    output = tmp_path / "confidence.parquet"
    inputs = {"model": weights, "dataset": dataset, "predictions": done}
    confidence.run(options, **inputs, output=output)
    rows = pd.read_parquet(output).set_index("structure")
    assert sha256(done.with_name("a.nii.gz")) == labels and set(rows["changed_voxels"]) == {0}

    whole = Segmenter(trained, prediction)
    softmax = np.zeros((3, *voxels.shape), np.float32)

    def keep(box: tuple[slice, ...], logits: torch.Tensor) -> None:
        softmax[(slice(None), *box)] = logits.float().softmax(0).numpy()

    segmented = whole.segment(voxels, (5.0, 0.8, 1.1), watch=keep)
    reference = sitk.GetArrayFromImage(sitk.ReadImage(str(dataset.parent / files["label"])))
    inside = softmax.sum(0) > 0
    assert np.allclose(softmax.sum(0)[inside], 1, atol=1e-5) and not inside[0].any()
    assert np.array_equal(softmax.argmax(0)[inside], segmented[inside])
    for structure, label in (("liver", 1), ("spleen", 2)):
        row, own = rows.loc[structure], softmax[label]
        sums = calibration.histogram(own, reference == label, 7)
        for key, expected in zip(("count", "correct", "confidence"), sums, strict=True):
            assert np.allclose(row[key], expected, rtol=1e-6)
        assert row["mass"] == pytest.approx(own.sum(dtype=np.float64))
        assert row["predicted_mass"] == pytest.approx(own[segmented == label].sum(dtype=float))
        assert row["predicted_voxels"] == np.count_nonzero(segmented == label) > 0
    other = sitk.ReadImage(str(done.with_name("a.nii.gz")))
    other[0, 0, 0] = 1
    sitk.WriteImage(other, str(done.with_name("a.nii.gz")))
    confidence.run(options, **inputs, output=output)
    assert set(pd.read_parquet(output)["changed_voxels"]) == {1}, "a label that it does not give"


# geometry

ORIENTATIONS = ["".join(code) for axes in itertools.permutations(("RL", "AP", "IS"))
                for code in itertools.product(*axes)]  # fmt: skip


def test_all_48_orientations_are_undone() -> None:
    array = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            axes = np.eye(3)[:, list(order)] * signs
            turned = geometry.orient(Raw(array, axes, np.zeros(3)))
            assert np.allclose(turned.axes, np.eye(3))
            assert np.array_equal(geometry.restore(turned.array, axes), array)


@pytest.mark.parametrize(
    ("code", "name"),
    [(code, "a.nii.gz") for code in ORIENTATIONS[::6]]
    + [("ASL", f"a.{kind}") for kind in ("mha", "mhd", "nrrd")],
)
def test_labels_lie_on_the_inputs_grid(
    ready: Segmenter, tmp_path: Path, code: str, name: str
) -> None:
    straight = sitk.ReadImage(str(data.save(tmp_path / "lps.nii.gz", data.body())))
    expected = ready(tmp_path / "lps.nii.gz")
    path = tmp_path / name
    sitk.WriteImage(sitk.DICOMOrient(straight, code), str(path))
    stored = sitk.ReadImage(str(path))
    labels = ready(path)
    assert labels.GetSize() == stored.GetSize()
    assert labels.GetOrigin() == pytest.approx(stored.GetOrigin(), abs=1e-6)
    assert labels.GetSpacing() == pytest.approx(stored.GetSpacing(), abs=1e-7)
    assert labels.GetDirection() == pytest.approx(stored.GetDirection(), abs=1e-7)
    assert np.array_equal(values(labels), values(expected))
    assert len(np.unique(values(labels))) == len(NAMES)


def test_an_oblique_nifti_keeps_its_affine(trained: Path, tmp_path: Path) -> None:
    angle = np.radians(12)
    turn = np.array(
        [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    )
    path = data.save(tmp_path / "tilted.nii", data.body()[::-1], data.affine(rotation=turn))
    assert run(path, tmp_path / "out.nii", "--model", trained) == 0
    ours, theirs = nib.load(tmp_path / "out.nii"), nib.load(path)
    assert ours.shape == theirs.shape and ours.get_data_dtype() == np.uint8
    assert np.allclose(ours.affine, theirs.affine, rtol=0, atol=2e-5)


def test_a_dicom_folder_is_a_volume(ready: Segmenter, tmp_path: Path) -> None:
    image = np.ascontiguousarray(data.body().T)
    grid = (2.5, 0.8, 0.9), (0.0, 0.0, 0.0)
    folder = tmp_path / "series"
    folder.mkdir()
    for number, path in enumerate(
        _dicom(Scan(image, np.zeros(image.shape, np.uint8), *grid), "a", tmp_path)
    ):
        shutil.copy(path, folder / f"{number}.dcm")
    labels = ready(folder)
    assert labels.GetSize() == image.shape[::-1]
    assert labels.GetSpacing() == pytest.approx((0.9, 0.8, 2.5))
    assert np.array_equal(values(labels), ready.segment(image, (2.5, 0.8, 0.9)))


# many volumes


def test_a_folder_is_segmented_and_resumed(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        data.save(tmp_path / f"in/{number}.nii.gz", data.body(number))
    (tmp_path / "in/notes.txt").write_text("not a volume")
    (tmp_path / "in/2.nii.gz").write_bytes(b"nor this")
    arguments = (tmp_path / "in", tmp_path / "out", "--model", trained)
    assert run(*arguments) == 2
    printed = capsys.readouterr().err
    assert "1 of 3 volumes" in printed and "2.nii.gz" in printed and "Traceback" not in printed
    assert "0.nii.gz: liver, spleen; " in printed
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert found == {"0.nii.gz", "1.nii.gz", "labels.json"}
    assert json.loads((tmp_path / "out/labels.json").read_text())["labels"] == NAMES

    data.save(tmp_path / "in/2.nii.gz", data.body(2))
    before = (tmp_path / "out/0.nii.gz").stat().st_mtime_ns
    assert run(*arguments) == 0
    assert (tmp_path / "out/2.nii.gz").exists()
    assert (tmp_path / "out/0.nii.gz").stat().st_mtime_ns == before, "what is done stays"
    assert run(*arguments) == 0 and "--overwrite" in capsys.readouterr().out


def test_segmentations_of_another_model_are_not_mixed_in(
    trained: Path, ct: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (ct, tmp_path / "out", "--model")
    assert run(*arguments, trained) == 0
    other = make_model(tmp_path / "other", "either_CT_or_MR")
    weights = other / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + bytes(4))
    assert run(*arguments, other, "--overwrite") == 2
    assert "SHA-256 is not that of model.json" in capsys.readouterr().err
    description = other / "model.json"
    write_json(description, {**read_json(description), "sha256": sha256(weights)})
    assert run(*arguments, other) == 2
    assert "other volumes, models or settings" in capsys.readouterr().err
    assert run(*arguments, other, "--overwrite") == 0


def test_a_file_is_replaced_only_when_asked(
    trained: Path, ct: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "seg.nii.gz"
    output.write_text("precious")
    assert run(ct, output, "--model", trained) == 2
    assert "--overwrite" in capsys.readouterr().err and output.read_text() == "precious"
    assert run(ct, output, "--model", trained, "--overwrite") == 0
    assert sitk.ReadImage(str(output)).GetSize() == (40, 36, 10)
    assert json.loads((tmp_path / "seg.nii.gz.labels.json").read_text())["labels"] == NAMES


def test_an_input_is_never_replaced(trained: Path, ct: Path) -> None:
    before = ct.read_bytes()
    for output in (ct, ct.parent):
        assert run(ct, output, "--model", trained, "--overwrite") == 2
    assert ct.read_bytes() == before


def outputs(*paths: Path, output: Path) -> list[str]:
    """Names of the segmentations of what is found."""
    jobs = segment.plan_outputs(find(paths, output).volumes, output)
    return [path.name for path in jobs.values()]


@pytest.mark.parametrize(
    ("inputs", "output", "message"),
    [
        (["absent.nii.gz"], "out", "absent.nii.gz does not exist"),
        (["empty"], "out", "neither volumes"),
        (["a.nii.gz", "b.nii.gz"], "out.nii.gz", "one file for 2 volumes"),
        (["a.nii.gz"], "out.mhd", "not written"),
        (["a.nii.gz"], "b.txt", "name a folder"),
        (["a.nii.gz", "a.mha"], "out", "two inputs are called a"),
    ],
)
def test_senseless_arguments_are_refused(
    tmp_path: Path, inputs: list[str], output: str, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("a.nii.gz", "b.nii.gz", "a.mha", "b.txt"):
        (tmp_path / name).touch()
    with pytest.raises(MeddinoError, match=message):
        outputs(*(tmp_path / name for name in inputs), output=tmp_path / output)


# what the model cannot take


def series_of_volumes(path: Path) -> None:
    data.save(path, np.stack([data.body(), data.body()], axis=-1))


def vectors(path: Path) -> None:
    data.save(path, np.zeros((40, 36, 10), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]))


def mr(path: Path) -> None:
    """Brighter towards the coil, as MR is."""
    gain = np.linspace(0.3, 1.5, 40)[:, None, None]
    data.save(path, np.rint((data.body() + 1024) * gain).astype(np.uint16))


def offset_lost(path: Path) -> None:
    data.save(path, (data.body() + 1024).astype(np.uint16))


def torn(path: Path) -> None:
    whole = data.save(path, data.body()).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (series_of_volumes, "4-D"),
        (vectors, "colour or vector"),
        (mr, r"model of CT.*not in HU"),
        (torn, "truncated or damaged"),
    ],
)
def test_unfit_volumes_are_refused(
    ready: Segmenter, tmp_path: Path, bad: Callable[[Path], None], message: str
) -> None:
    bad(tmp_path / "bad.nii.gz")
    with pytest.raises(MeddinoError, match=rf"bad\.nii\.gz.*{message}.*leave it out") as caught:
        ready(tmp_path / "bad.nii.gz")
    assert "exclude" not in str(caught.value), "there is no configuration to exclude it in"


def test_a_model_of_both_takes_mr(tmp_path: Path) -> None:
    both = Segmenter(make_model(tmp_path / "m", "either_CT_or_MR"), Prediction(device="cpu"))
    mr(tmp_path / "mr.nii.gz")
    image = reader.read(tmp_path / "mr.nii.gz", hu=False)
    labels = both(tmp_path / "mr.nii.gz")
    assert np.array_equal(values(labels), both.segment(image.array, image.spacing_mm))
    assert "taken as MR" in both.read(tmp_path / "mr.nii.gz").remarks[-1]
    offset_lost(tmp_path / "ct.nii.gz")
    with pytest.raises(MeddinoError, match=r"is a CT whose offset of -1024 was lost"):
        both(tmp_path / "ct.nii.gz")


def test_lack_of_memory_is_told(
    ready: Segmenter, ct: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(ready._predictor, "predict_sliding_window_return_logits", full)
    with pytest.raises(MeddinoError, match=r"10 x 36 x 40 voxels.*--device cpu"):
        ready(ct)


def no_description(folder: Path) -> None:
    (folder / "model.json").unlink()


def foreign_description(folder: Path) -> None:
    (folder / "model.json").write_text('{"architectures": ["ViT"]}')


def no_json(folder: Path) -> None:
    (folder / "model.json").write_text("<html>")


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def other_weights(folder: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, str(folder / "model.safetensors"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_description, "is no model"),
        (foreign_description, "does not describe a model"),
        (no_json, "not valid JSON"),
        (cut_weights, "is damaged"),
        (other_weights, "does not fit"),
    ],
)
def test_damaged_models_are_told(
    trained: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(trained, folder)
    damage(folder)
    with pytest.raises(MeddinoError, match=message):
        Segmenter(folder)


def test_a_copied_folder_works_anywhere(trained: Path, ct: Path, tmp_path: Path) -> None:
    """Outside the checkout, without nnU-Net's variables, Snakemake or a configuration."""
    shutil.copytree(trained, tmp_path / "elsewhere/model")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("nnUNet")}
    package = {"PYTHONPATH": str(Path(segmenter.__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "meddino", "segment", str(ct), "out.nrrd", "--model", "model"]
    done = subprocess.run(
        command, cwd=tmp_path / "elsewhere", env=environment | package, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and "ct.nii.gz: liver, spleen" in done.stderr
    assert sitk.ReadImage(str(tmp_path / "elsewhere/out.nrrd")).GetSize() == (40, 36, 10)
