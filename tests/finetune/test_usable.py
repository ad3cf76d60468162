"""Own benchmarks: which cases are usable, why others are not, and folders of nnU-Net's as such."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml
from places import ROOT

from meddino.__main__ import main
from meddino.core.errors import MeddinoError
from meddino.core.files import read_json
from meddino.datasets.options import FolderLayout
from meddino.finetune import convert, usable
from meddino.finetune.options import Benchmark, ConvertOptions
from meddino.finetune.usable import Rejected
from meddino.study.model import Study, load
from meddino.volumes import reader
from meddino.volumes.errors import BadVolume

LAYOUT = FolderLayout(images=("*/ct.nii.gz",), labels=("*/seg.nii.gz",), case="^(?P<case>[^/]+)/")
SHAPE = (16, 16, 8)


def save(path: Path, values: Any) -> None:
    """A volume with slices that differ, of these values in its first voxels."""
    array = np.zeros(SHAPE, np.asarray(values).dtype)
    array.reshape(-1)[: len(values)] = values
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([2.0, 2.0, 3.0, 1.0])), path)


def scan(
    folder: Path, case: str, labels: list[float], image: str = "ct", label: str = "seg"
) -> None:
    hu = np.random.default_rng(0).integers(-1000, 400, 500).astype(np.int16)
    save(folder / case / f"{image}.nii.gz", hu)
    kind = np.uint8 if all(float(value).is_integer() for value in labels) else np.float32
    save(folder / case / f"{label}.nii.gz", np.array(labels, kind))


def options(values: dict[str, Any], folds: int = 2, **layout: Any) -> ConvertOptions:
    benchmark = Benchmark(label="Ours", dataset="mine", nnunet_id=900, labels=values, folds=folds)
    return ConvertOptions(benchmark=benchmark, dataset=LAYOUT.model_copy(update=layout))


def check(folder: Path, convert_options: ConvertOptions) -> list[Rejected]:
    return usable.check(convert_options, folder, "mine", folder / "mine.log")


def test_a_value_by_itself_and_the_rest_are_label_maps() -> None:
    benchmark = options({"others": "rest", "liver": 5, "kidneys": [2, 3]}).benchmark
    assert benchmark.names == ["kidneys", "liver", "others"]
    values = np.array([0, 1, 2, 3, 4, 5, 300], np.uint16)
    assert convert.map_labels(values, benchmark).tolist() == [0, 3, 1, 1, 3, 2, 3]
    alone = benchmark.model_copy(update={"structures": ["liver"]})
    assert convert.map_labels(values, alone).tolist() == [0, 0, 0, 0, 0, 1, 0]
    again = Benchmark.model_validate_json(benchmark.model_dump_json())
    assert again == benchmark


@pytest.mark.parametrize("values", [0, -1, 1.5, True, "others", [1, "rest"], [], None])
def test_what_is_no_label_value_is_refused(values: Any) -> None:
    with pytest.raises(ValueError, match="labels"):
        options({"liver": values})


def test_only_one_structure_can_be_the_rest() -> None:
    with pytest.raises(ValueError, match="only one"):
        options({"a": "rest", "b": "rest"})


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
def test_label_values_are_those_that_occur(tmp_path: Path, kind: type) -> None:
    save(tmp_path / "seg.nii.gz", np.array([3, 3, 0, 117, 7], kind))
    assert reader.label_values(tmp_path / "seg.nii.gz") == [0, 3, 7, 117]


def test_a_soft_label_has_no_label_values(tmp_path: Path) -> None:
    save(tmp_path / "seg.nii.gz", np.array([0.3, 0.7], np.float32))
    with pytest.raises(BadVolume, match="not whole numbers"):
        reader.label_values(tmp_path / "seg.nii.gz")


def test_labels_that_fit_leave_no_case_out(tmp_path: Path) -> None:
    for case in "ab":
        scan(tmp_path, case, [1, 2])
    assert check(tmp_path, options({"liver": 1, "others": "rest"})) == []
    assert (tmp_path / "mine.log").read_text() == ""


def test_unknown_values_of_all_cases_are_named_together_and_kept_apart_in_the_log(
    tmp_path: Path,
) -> None:
    scan(tmp_path, "a", [1, 2, 3, 4])
    scan(tmp_path, "b", [1, 4, 5, 9])
    scan(tmp_path, "c", [1, 0.5])
    scan(tmp_path, "d", [1])
    with pytest.raises(MeddinoError) as error:
        check(tmp_path, options({"liver": 1}))
    message = str(error.value)
    assert message.startswith("benchmarks.mine: 1 of 4 labelled cases can be used, too few for 2")
    assert "2 cases (a, b): label value 2-5, 9 is not in the benchmark's label map" in message
    assert "1 case (c): label holds values that are not whole numbers" in message
    assert "`rest`" in message and "\n" not in message
    lines = (tmp_path / "mine.log").read_text().splitlines()
    assert [line.split(": ")[0] for line in lines] == ["a", "b", "c"]
    assert "label value 4, 5, 9 is not" in lines[1]


def test_fewer_cases_than_folds_are_refused_with_the_number_that_fits(tmp_path: Path) -> None:
    for case in "abc":
        scan(tmp_path, case, [1])
    with pytest.raises(MeddinoError, match=r"3 of 3 .*set benchmarks\.mine\.folds to 3"):
        check(tmp_path, options({"liver": 1}, folds=5))
    with pytest.raises(MeddinoError, match=r"1 of 3 .*it takes two or more"):
        check(tmp_path, options({"liver": 1}, folds=5, exclude_cases=("a", "b")))


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"labels": ("*/mask.nii.gz",)}, r"no label is found .*\*/mask\.nii\.gz.*datasets\.mine"),
        ({"labels": ()}, "no label is found .*none is given"),
        ({"case": "(?P<case>ct|seg)"}, r"images of 1 case \(ct\), and labels of 1 case \(seg\)"),
        ({"mr_cases": ".*"}, "no labelled case is CT; mend `modalities`"),
    ],
)
def test_why_no_image_has_a_label(tmp_path: Path, layout: dict[str, Any], message: str) -> None:
    scan(tmp_path, "a", [1])
    with pytest.raises(MeddinoError, match=message):
        check(tmp_path, options({"liver": 1}, **layout))


def test_conversion_gives_the_reasons_and_the_key_to_change(tmp_path: Path) -> None:
    for case, labels in {"a": [1], "b": [7], "c": [1]}.items():
        scan(tmp_path / "scans", case, labels)
    raw = tmp_path / "raw/.fetched.json"
    raw.parent.mkdir()
    raw.write_text(json.dumps({"root": str(tmp_path / "scans")}))
    output = tmp_path / "Dataset900_mine/dataset.json"
    with pytest.raises(MeddinoError, match=r"benchmarks\.mine\.folds to 2.*\(b\): label value 7"):
        convert.run(options({"liver": 1}, folds=3), raw=raw, output=output)


# ---- nnU-Net's raw layout -----------------------------------------------------------------------

DESCRIPTION = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "tumour": 2, "liver": 1},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}


def study_of(tmp_path: Path, description: Any, name: str = "Dataset042_My-Liver") -> Study:
    """A study with a folder of nnU-Net's in one line."""
    folder = tmp_path / name
    for case in ("x_0000", "y"):
        scan(folder, ".", [1, 2], image=f"imagesTr/{case}_0000", label=f"labelsTr/{case}")
    (folder / "dataset.json").write_text(json.dumps(description))
    (tmp_path / "mine.yaml").write_text(f"datasets: {{mine: {{nnunet: {name}}}}}\n")
    return load([ROOT / "config.yaml", "mine.yaml"])


def test_a_folder_of_nnunets_is_a_dataset_and_a_benchmark(tmp_path: Path) -> None:
    study = study_of(tmp_path, DESCRIPTION)
    benchmark = study.benchmarks["mine"]
    assert (benchmark.label, benchmark.nnunet_id, benchmark.dataset) == ("My-Liver", 42, "mine")
    assert benchmark.labels == {"liver": [1], "tumour": [2]}
    cases = study.dataset("mine").layout().cases(tmp_path / "Dataset042_My-Liver")
    assert [(case.id, case.label is not None) for case in cases] == [("x_0000", True), ("y", True)]
    config = ["--config", str(ROOT / "config.yaml"), "mine.yaml"]
    raw, output = "raw/.labelled.json", "Dataset042_mine/dataset.json"
    assert main(["fetch", *config, "--dataset", "mine", "--output", raw]) == 0
    changed = tmp_path / "folds.yaml"
    changed.write_text("benchmarks: {mine: {folds: 2}}")
    benchmark_flags = ["--benchmark", "mine", "--raw", raw, "--output", output]
    assert main(["convert", *config, str(changed), *benchmark_flags]) == 0
    assert read_json(Path(output))["labels"] == {"background": 0, "liver": 1, "tumour": 2}
    assert sorted(read_json(Path(output))["dataset"]) == ["x_0000", "y"]


def test_names_and_numbers_of_its_own_go_first(tmp_path: Path) -> None:
    study_of(tmp_path, DESCRIPTION, name="livers")
    mine = {
        "datasets": {"mine": {"nnunet": "livers", "title": "Ours", "volumes": 7}},
        "benchmarks": {"mine": {"label": "Ours", "structures": ["liver"]}},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(mine))
    study = load([ROOT / "config.yaml", "mine.yaml"])
    assert (study.dataset("mine").title, study.dataset("mine").volumes) == ("Ours", 7)
    benchmark = study.benchmarks["mine"]
    assert (benchmark.label, benchmark.names) == ("Ours", ["liver"])
    assert benchmark.nnunet_id == 900, "the folder's name has no number"


def test_the_first_nnunets_descriptions_are_read_too(tmp_path: Path) -> None:
    description = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "liver"}}
    study = study_of(tmp_path, description, name="Task007_Liver")
    benchmark = study.benchmarks["mine"]
    assert (benchmark.nnunet_id, benchmark.labels) == (7, {"liver": [1]})
    assert (benchmark.modalities, benchmark.channel) == (["MR"], "MRI")
    assert study.dataset("mine").mr_cases == ".*"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channel_names": {"0": "T1", "1": "T2"}}, r"it has 2 channels \(T1, T2\)"),
        ({"channel_names": {}}, "names no channel"),
        ({"labels": {"background": 0, "whole": [1, 2], "core": [2]}}, "regions.*whole, core"),
        ({"regions_class_order": [1, 2]}, "regions"),
        ({"labels": {"background": 0, "liver": 1, "ignore": 2}}, "voxels to ignore"),
        ({"labels": {"background": 0, "liver": "one"}}, "label 'liver' .* no whole number"),
        ({"labels": None}, "names no structures"),
        ({"file_ending": ".png"}, r"files end in \.png"),
        ({"dataset": {"a": {"images": ["/elsewhere/a.nii.gz"], "label": "b"}}}, "elsewhere"),
    ],
)
def test_what_cannot_be_used_of_nnunet_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(MeddinoError, match=rf"datasets\.mine\.nnunet: .*{message}"):
        study_of(tmp_path, {**DESCRIPTION, **change})


def test_a_folder_that_is_none_of_nnunets_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("datasets: {mine: {nnunet: /nowhere}}\n")
    with pytest.raises(
        MeddinoError, match=r"datasets\.mine\.nnunet: /nowhere/dataset\.json cannot"
    ):
        load([ROOT / "config.yaml", "mine.yaml"])
