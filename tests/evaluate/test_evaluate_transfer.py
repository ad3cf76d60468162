"""Scores of a model of another benchmark: its labels renamed, shared structures alone."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from meddino.core.errors import MeddinoError
from meddino.core.files import write_json
from meddino.evaluate import evaluate, transfer
from meddino.evaluate.options import EvaluateOptions, Evaluation, TransferEvaluateOptions

MODEL = {"background": 0, "tumour": 1, "left kidney": 2, "liver": 3, "right kidney": 4}
OWN = {"background": 0, "liver": 1, "kidney": 2, "vein": 3}
MAP = {"liver": ("liver",), "kidney": ("left kidney", "right kidney")}
METRICS = ["dsc_paper", "nsd_paper", "dsc_area", "nsd_area", "hd95_mm", "reference_ml"]


def options(**changes: object) -> TransferEvaluateOptions:
    values = {
        **{"origin": "amos22", "benchmark": "kits23", "method": "nnunet", "fold": 1},
        **{"evaluation": Evaluation(), "structures": MAP, "tolerances_mm": {"liver": 3.0}},
    }
    return TransferEvaluateOptions.model_validate(values | changes)


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array.astype(np.uint8))
    image.SetSpacing((0.9, 1.1, 4.0))
    sitk.WriteImage(image, str(path))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Two cases whose predicted labels are those of another benchmark, shifted by a voxel."""
    rng = np.random.default_rng(0)
    dataset = tmp_path / "Dataset703_kits23/dataset.json"
    write_json(dataset, {"labels": OWN})
    done = tmp_path / "predictions/done.json"
    for case in ("a", "b"):
        reference = np.kron(rng.integers(0, 4, (2, 4, 4)), np.ones((2, 5, 5), int))
        predicted = np.zeros_like(reference)
        shifted = np.roll(reference, 1, axis=2)
        predicted[shifted == 1] = MODEL["liver"]
        predicted[shifted == 2] = MODEL["left kidney"]
        predicted[:, :10][shifted[:, :10] == 2] = MODEL["right kidney"]
        predicted[shifted == 3] = MODEL["tumour"]
        save(dataset.parent / f"labelsTr/{case}.nii.gz", reference)
        save(done.parent / f"{case}.nii.gz", predicted)
        save(tmp_path / f"renamed/{case}.nii.gz", np.where(shifted == 3, 0, shifted))
    for path in (done, tmp_path / "renamed/done.json"):
        write_json(path, {"cases": ["a", "b"], "fold": 1})
    write_json(tmp_path / "model.json", {"dataset_json": {"labels": MODEL}})
    return {"predictions": done, "description": tmp_path / "model.json", "dataset": dataset}


def test_scores_are_those_of_evaluate_on_renamed_labels(
    files: dict[str, Path], tmp_path: Path
) -> None:
    transfer.run(options(), **files, output=tmp_path / "transferred.parquet")
    scores = pd.read_parquet(tmp_path / "transferred.parquet")
    assert set(scores["origin"]) == {"amos22"}
    assert list(scores["structure"]) == ["liver", "kidney"] * 2
    own = EvaluateOptions(**options().model_dump(include=set(EvaluateOptions.model_fields)))
    evaluate.run(
        own,
        predictions=tmp_path / "renamed/done.json",
        dataset=files["dataset"],
        output=tmp_path / "own.parquet",
    )
    expected = pd.read_parquet(tmp_path / "own.parquet")
    expected = expected[expected["structure"] != "vein"]
    expected = expected.sort_values(["case", "label"], ignore_index=True)
    pd.testing.assert_frame_equal(scores.drop(columns="origin"), expected)
    assert scores["dsc_paper"].between(0.5, 0.99).all(), "the shift shows, the names do not"


def test_what_is_not_mapped_becomes_background() -> None:
    image = sitk.GetImageFromArray(np.arange(6, dtype=np.uint8).reshape(1, 2, 3))
    image.SetOrigin((1, 2, 3))
    renamed = transfer.renumbered(image, {3: 1, 4: 2, 2: 2})
    assert sitk.GetArrayFromImage(renamed).tolist() == [[[0, 0, 2], [1, 2, 0]]]
    assert renamed.GetOrigin() == image.GetOrigin()


@pytest.mark.parametrize(
    ("structures", "message"),
    [
        ({"spleen": ("liver",)}, "dataset.json has no structure 'spleen' (liver, kidney, vein)"),
        ({"liver": ("livr",)}, "model.json has no structure 'livr' (tumour, left kidney,"),
    ],
)
def test_structures_that_do_not_exist_are_named(
    files: dict[str, Path], tmp_path: Path, structures: dict[str, tuple[str]], message: str
) -> None:
    with pytest.raises(MeddinoError) as error:
        transfer.run(options(structures=structures), **files, output=tmp_path / "x.parquet")
    assert message in str(error.value)


def test_no_cases_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    write_json(files["predictions"], {"cases": [], "fold": 1})
    with pytest.raises(MeddinoError, match="names no cases"):
        transfer.run(options(), **files, output=tmp_path / "x.parquet")
