"""Converters on the real benchmarks' layouts in miniature: every label value, geometry, split.

Nothing here comes from the phantom: names, orientations and label values are those of the data
sets' own files. What a voxel must hold follows from where it lies in the patient.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.utilities.crossval_split import generate_crossval_split

from meddino.core.files import read_json
from meddino.finetune import convert
from meddino.finetune.options import ConvertOptions
from meddino.study import jobs, paths
from meddino.study.model import Study, load

SIZE_MM, CELL_MM = 72.0, 15.0
SHARED = ["spleen", "right kidney", "left kidney", "gallbladder", "oesophagus", "liver", "stomach"]
STRUCTURES = {
    # The owners' values from 1 on, in the study's names.
    "amos22": [
        *SHARED, "aorta", "inferior vena cava", "pancreas", "right adrenal gland",
        "left adrenal gland", "duodenum", "bladder", "prostate or uterus",
    ],
    "btcv": [
        *SHARED, "aorta", "inferior vena cava", "portal and splenic vein", "pancreas",
        "right adrenal gland", "left adrenal gland",
    ],
    "kits23": ["kidney", "tumour", "cyst"],
    "lits": ["liver", "tumour"],
}  # fmt: skip
# How voxels are stored: RAS matrices of the axes, in units of a voxel.
RAS, LAS, LPS = np.diag([1, 1, 1]), np.diag([-1, 1, 1]), np.diag([-1, -1, 1])
KITS = np.array([[0, 0, -1], [0, -1, 0], [-1, 0, 0]])  # the first axis runs from head to foot
SPACING_MM = (1.5, 1.7, 3.0)  # left to right, front to back, foot to head


def truth(points: np.ndarray, structures: int) -> np.ndarray:
    """The label at points (3, ...) in mm, LPS: each value has a cell of its own, 4 in a row."""
    x, y, z = points
    column, row = (np.floor(along / CELL_MM).astype(int) for along in (x + 30.3, y + 30.3))
    value = 4 * row + column + 1
    inside = (column >= 0) & (column < 4) & (row >= 0) & (value <= structures)
    return np.where(inside & (np.abs(z) < 8), value, 0)


def density(points: np.ndarray, structures: int) -> np.ndarray:
    """HU at points in mm, LPS: a body in air, brighter where a label is."""
    x, y, _ = points
    body = np.hypot(x, y) < 34
    return np.where(body, 20 + 5 * truth(points, structures) + np.rint(x / 10), -1000)


def stored(axes: np.ndarray, structures: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """HU and labels of a volume that is stored along `axes`, and its affine (RAS)."""
    along = np.abs(axes).argmax(axis=0)  # which of x, y, z each stored axis is
    sizes = [round(SIZE_MM / SPACING_MM[world]) if world < 2 else 8 for world in along]
    affine = np.eye(4)
    affine[:3, :3] = axes * np.array([SPACING_MM[world] for world in along])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(sizes) - 1) / 2) + [0.4, -0.3, 0.2]
    indices = np.stack(np.meshgrid(*map(np.arange, sizes), indexing="ij"))
    points = np.einsum("ij,j...->i...", affine[:3, :3], indices) + affine[:3, 3, None, None, None]
    points[:2] *= -1  # RAS to LPS
    return density(points, structures), truth(points, structures).astype(np.uint8), affine


def save(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


@dataclass(frozen=True)
class Made:
    """A converted benchmark."""

    name: str
    dataset: Path
    cases: list[str]
    """Cases that it must have."""
    left_out: dict[str, str]
    """Case that it must lack -> part of the reason."""


def amos22(root: Path) -> tuple[list[str], dict[str, str]]:
    names = STRUCTURES["amos22"]
    owners = {"0": "background", **{str(i): n for i, n in enumerate(names, 1)}, "8": "arota"}
    (root / "amos22").mkdir()
    (root / "amos22/dataset.json").write_text(
        json.dumps({"modality": {"0": "CT"}, "labels": owners, "licence": "CC-BY-SA 4.0"})
    )
    parts = {
        "Tr": [1, 4, 5, 410, 507, 600],
        "Va": [8, 13, 540],
        "Ts": [3, 500],  # without labels
    }
    for part, numbers in parts.items():
        for rank, number in enumerate(numbers):
            hu, label, affine = stored((RAS, LAS, LPS)[rank % 3], len(names))
            image = (hu + 1010).astype(np.float32) if number >= 500 else hu.astype(np.int16)
            save(root / f"amos22/images{part}/amos_{number:04d}.nii.gz", image, affine)
            if part != "Ts":
                save(root / f"amos22/labels{part}/amos_{number:04d}.nii.gz", label, affine)
    (root / "amos22/labelsTr/._amos_0001.nii.gz").write_bytes(b"Mac OS X")
    hu, label, affine = stored(RAS, len(names))
    label[5, 5, 4] = 16  # no organ of AMOS22
    save(root / "amos22/imagesTr/amos_0009.nii.gz", hu.astype(np.int16), affine)
    save(root / "amos22/labelsTr/amos_0009.nii.gz", label, affine)
    cases = [f"amos_{number:04d}" for number in sorted(parts["Tr"] + parts["Va"])]
    return cases, {"amos_0009": "label value 16"}


def btcv(root: Path) -> tuple[list[str], dict[str, str]]:
    trained = [f"{number:04d}" for number in (1, 2, 10, 21, 22, 40)]
    for number in [*trained, "0061"]:
        hu, label, affine = stored(LAS, len(STRUCTURES["btcv"]))
        part = "Training" if number in trained else "Testing"
        save(root / f"RawData/{part}/img/img{number}.nii.gz", hu.astype(np.int16), affine)
        if part == "Training":
            save(root / f"RawData/{part}/label/label{number}.nii.gz", label, affine)
    whole = (root / "RawData/Training/img/img0022.nii.gz").read_bytes()
    (root / "RawData/Training/img/img0022.nii.gz").write_bytes(whole[: len(whole) // 2])
    return [n for n in trained if n != "0022"], {"0022": "truncated or damaged"}


def kits23(root: Path) -> tuple[list[str], dict[str, str]]:
    numbers = [0, 1, 160, 299, 400, 588]
    for number in numbers:
        hu, label, affine = stored(KITS, 3)
        folder = root / f"dataset/case_{number:05d}"
        save(folder / "imaging.nii.gz", hu.astype(np.float64), affine)
        save(folder / "segmentation.nii.gz", label, affine)
    # The repository holds labels of cases whose image was never downloaded.
    save(root / "dataset/case_00002/segmentation.nii.gz", label, affine)
    (root / "dataset/kits23.json").write_text("[]")
    shifted = affine.copy()
    shifted[0, 3] += 6
    save(root / "dataset/case_00588/segmentation.nii.gz", label, shifted)
    return [f"case_{n:05d}" for n in numbers[:-1]], {"case_00588": "another grid"}


def lits(root: Path) -> tuple[list[str], dict[str, str]]:
    for number in range(6):
        batch = root / f"Training Batch {1 if number < 3 else 2}"
        hu, label, affine = stored((LAS, LPS, RAS)[number % 3], 2)
        save(batch / f"volume-{number}.nii", hu.astype(np.int16), affine)
        save(batch / f"segmentation-{number}.nii", label.astype(np.int16), affine)
    save(root / "LITS-Challenge-Test-Data/test-volume-0.nii", hu.astype(np.int16), affine)
    save(root / "Training Batch 2/volume-5.nii", (hu + 1024).astype(np.int16), affine)
    return [str(number) for number in range(5)], {"5": "not in HU"}


MAKE = {"amos22": amos22, "btcv": btcv, "kits23": kits23, "lits": lits}
NAMES = sorted(MAKE)


@pytest.fixture(scope="module")
def study(root: Path) -> Study:
    return load([root / "config.yaml"])


def run(options: ConvertOptions, raw: Path, folder: Path) -> Path:
    (raw / ".fetched.json").write_text('{"root": "."}')
    output = folder / "dataset.json"
    convert.run(options, raw=raw / ".fetched.json", output=output)
    return output


@pytest.fixture(scope="module", params=NAMES)
def made(request: Any, study: Study, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    name = request.param
    raw = tmp_path_factory.mktemp(name)
    cases, left_out = MAKE[name](raw)
    output = run(
        jobs.finetune.convert_options(study, name),
        raw,
        raw / "nnunet" / paths.nnunet_folder(study, name),
    )
    yield Made(name, output, cases, left_out)


def pair(made: Made, case: str) -> list[sitk.Image]:
    files = read_json(made.dataset)["dataset"][case]
    paths = (files["images"][0], files["label"])
    return [sitk.ReadImage(str(made.dataset.parent / path)) for path in paths]


def points(image: sitk.Image) -> np.ndarray:
    """Where the voxels of an image lie: (3, z, y, x) in mm, LPS."""
    indices = np.stack(np.meshgrid(*map(np.arange, image.GetSize()), indexing="ij")).T
    matrix = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    return np.moveaxis(indices @ matrix.T + np.array(image.GetOrigin()), -1, 0)


def test_structures_get_the_numbers_of_their_names(made: Made) -> None:
    content = read_json(made.dataset)
    expected = {name: number for number, name in enumerate(STRUCTURES[made.name], start=1)}
    assert content["labels"] == {"background": 0, **expected}
    channel = "either_CT_or_MR" if made.name == "amos22" else "CT"
    assert content["channel_names"] == {"0": channel}


def test_every_voxel_keeps_its_place_and_its_structure(made: Made) -> None:
    structures = len(STRUCTURES[made.name])
    for case in made.cases:
        image, label = pair(made, case)
        at = points(image)
        values = sitk.GetArrayFromImage(label)
        assert set(np.unique(values)) == set(range(structures + 1)), "every label value occurs"
        assert np.array_equal(values, truth(at, structures))
        mr = case >= "amos_0500" and made.name == "amos22"
        expected = density(at, structures) + (1010 if mr else 0)
        assert np.array_equal(sitk.GetArrayFromImage(image), expected)
        kind = sitk.sitkFloat32 if mr else sitk.sitkInt16
        assert image.GetPixelID() == kind and label.GetPixelID() == sitk.sitkUInt8


def test_slices_are_axial_and_run_from_foot_to_head(made: Made) -> None:
    for case in made.cases:
        for image in pair(made, case):
            assert image.GetSize() == (48, 42, 8)
            assert image.GetSpacing() == pytest.approx(SPACING_MM, abs=1e-6)
            assert np.allclose(np.array(image.GetDirection()).reshape(3, 3), np.eye(3), atol=1e-6)


def test_cases_without_a_usable_label_are_left_out(made: Made) -> None:
    assert sorted(read_json(made.dataset)["dataset"]) == made.cases
    report = read_json(made.dataset.parent / "quarantine.json")
    reasons = {entry["case"]: entry["reason"] for entry in report["quarantined"]}
    assert set(reasons) == set(made.left_out)
    for case, part in made.left_out.items():
        assert part in reasons[case]


def test_each_case_stays_in_the_fold_that_nnunet_draws_for_the_intact_data_set(made: Made) -> None:
    folds = read_json(made.dataset.parent / "splits_final.json")
    drawn = generate_crossval_split(sorted([*made.cases, *made.left_out]), seed=12345, n_splits=5)
    assert folds == [
        {part: [case for case in cases if case not in made.left_out] for part, cases in f.items()}
        for f in drawn
    ]
    for fold in folds:
        assert sorted(fold["train"] + fold["val"]) == made.cases
    assert sorted(case for fold in folds for case in fold["val"]) == made.cases
    for entry in read_json(made.dataset.parent / "quarantine.json")["quarantined"]:
        assert entry["case"] in drawn[entry["fold"]]["val"]


def test_ct_alone_can_be_asked_for(study: Study, tmp_path: Path) -> None:
    cases, _ = amos22(tmp_path)
    options = jobs.finetune.convert_options(study, "amos22")
    alone = {"modalities": ["CT"], "channel": "CT", "structures": ["liver", "left kidney"]}
    changed = options.model_copy(update={"benchmark": options.benchmark.model_copy(update=alone)})
    output = run(changed, tmp_path, tmp_path / "nnunet")
    content = read_json(output)
    assert sorted(content["dataset"]) == [case for case in cases if case < "amos_0500"]
    assert content["labels"] == {"background": 0, "left kidney": 1, "liver": 2}
    made = Made("amos22", output, cases, {})
    image, label = pair(made, "amos_0001")
    wanted = truth(points(image), 15)
    assert np.array_equal(sitk.GetArrayFromImage(label), (wanted == 3) + 2 * (wanted == 6))


LABELLED = {
    # 300 CT and 60 MR; ids as the data set's own files have them, without its gaps.
    "amos22": [f"amos_{number:04d}" for number in (*range(300), *range(500, 560))],
    "btcv": [f"{number:04d}" for number in (*range(1, 11), *range(21, 41))],
    "kits23": [f"case_{number:05d}" for number in (*range(300), *range(400, 589))],
    "lits": [str(number) for number in range(131)],
}
"""The labelled cases of the intact data sets."""
VALIDATION = {"amos22": (288, 72), "btcv": (24, 6), "kits23": (391, 98), "lits": (104, 27)}
"""Training and validation cases of fold 0."""


@pytest.mark.parametrize("name", NAMES)
def test_fold_0_has_the_papers_number_of_cases(name: str, study: Study) -> None:
    """Five folds, 80 to 20; the same on every machine, whatever order the files come in."""
    cases = LABELLED[name]
    folds = convert.split(cases, study.benchmarks[name].folds)
    assert len(folds) == 5
    assert (len(folds[0]["train"]), len(folds[0]["val"])) == VALIDATION[name]
    assert folds == generate_crossval_split(sorted(cases), seed=12345, n_splits=5)
    assert folds == convert.split(cases[::-1], 5)


@pytest.mark.parametrize("position", [0, 0.5, 1], ids=["first", "middle", "last"])
@pytest.mark.parametrize("name", NAMES)
def test_a_dropped_case_moves_no_other_case(name: str, position: float) -> None:
    cases = LABELLED[name]
    dropped = cases[round(position * (len(cases) - 1))]
    drawn = convert.split(cases, 5)
    folds = convert.keep(drawn, set(cases) - {dropped})
    for before, after in zip(drawn, folds, strict=True):
        for part in ("train", "val"):
            assert after[part] == [case for case in before[part] if case != dropped]
    assert sum(dropped not in before["val"] for before in drawn) == 4


def crossval(names: list[str], tmp_path: Path, study: Study, **changes: Any) -> Any:
    """The folds of a LiTS in miniature with these excluded cases, and its options changed."""
    lits(tmp_path)
    options = jobs.finetune.convert_options(study, "lits")
    layout = options.dataset.model_copy(update={"exclude_cases": tuple(names)})
    benchmark = options.benchmark.model_copy(update=changes)
    changed = options.model_copy(update={"dataset": layout, "benchmark": benchmark})
    output = run(changed, tmp_path, tmp_path / "nnunet")
    return read_json(output.parent / "splits_final.json")


def test_an_excluded_case_moves_no_other_case(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folds = crossval(["2"], tmp_path, study, folds=2)
    drawn = generate_crossval_split([str(number) for number in range(6)], seed=12345, n_splits=2)
    assert folds == [
        {part: [case for case in cases if case not in ("2", "5")] for part, cases in fold.items()}
        for fold in drawn
    ]
    log = capsys.readouterr().err
    assert "LiTS: folds drawn over 6 labelled cases" in log
    number = next(i for i, fold in enumerate(drawn) if "2" in fold["val"])
    assert f"LiTS: fold {number} validates on" in log


def test_a_fold_that_loses_all_its_cases_is_named(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Volume 5 is not in HU. Case 3 is the only other one that validates its fold.
    folds = crossval(["3"], tmp_path, study, folds=3)
    drawn = generate_crossval_split([str(number) for number in range(6)], seed=12345, n_splits=3)
    assert list(drawn[0]["val"]) == ["3", "5"]
    assert folds[0] == {"train": ["0", "1", "2", "4"], "val": []}
    expected = (
        "LiTS: fold 0 validates on 0 of 2 cases, without 3, 5; it cannot be trained or scored"
    )
    assert expected in capsys.readouterr().err
