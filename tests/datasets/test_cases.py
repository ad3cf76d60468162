"""Which files are which case, above all where DICOM is concerned."""

from pathlib import Path

import ct3m_data as data
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from ct3m_data import manifest, run
from dicom_data import ORIGIN, SPACING, series, stack

from meddino.core.errors import MeddinoError
from meddino.core.files import read_json
from meddino.ct3m import shards
from meddino.ct3m.exclusion import with_series
from meddino.datasets.cases import case_of
from meddino.datasets.options import FolderLayout
from meddino.finetune import convert
from meddino.finetune.options import Benchmark, ConvertOptions


def layout(images: str, case: str = r"^(?P<case>[^/]+)/", **own: object) -> FolderLayout:
    return FolderLayout(images=(images,), case=case, **own)  # type: ignore[arg-type]


def test_a_folder_of_dicom_is_one_case_whatever_else_lies_in_it(tmp_path: Path) -> None:
    folder = series(tmp_path / "a", stack(9), "1.2.840.{}")
    (folder / "LICENSE").write_text("free")
    (folder / "1.2.840.99").symlink_to(folder / "gone")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/ct.nii.gz").write_bytes(b"")
    first, second = layout("*/*").cases(tmp_path)
    assert (first.id, first.image, first.others) == ("a", folder, ())
    assert (second.id, second.image) == ("b", tmp_path / "b/ct.nii.gz")


def test_folders_of_one_case_are_series_of_it(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    series(raw / "p/short", stack(8, 1), SeriesInstanceUID="1.5")
    series(raw / "p/long", stack(12))
    (case,) = layout("*/*/*.dcm").cases(raw)
    assert (case.image, case.others) == (raw / "p/long", (raw / "p/short",))
    report = run(raw, tmp_path / "out", dataset=layout("*/*/*.dcm"))
    assert (report["volumes"], report["quarantined"]) == (2, [])
    rows = shards.read_metadata(shards.open_shard(tmp_path / "out/0.32.parquet"))
    assert rows["case"].to_pylist() == ["p"] * 12 + ["p#2"] * 8
    excluded = layout("*/*/*.dcm", exclude_cases=("p#2",))
    assert run(raw, tmp_path / "less", dataset=excluded)["volumes"] == 1


def test_one_bad_series_leaves_the_others(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    series(raw / "p", stack(14, 1), "b{}", SeriesInstanceUID="1.5")
    (raw / "p/b6").unlink()
    series(raw / "p", stack(12))
    report = run(raw, tmp_path / "out", dataset=layout("*/*"))
    (entry,) = report["quarantined"]
    assert entry["case"] == "p" and "slices are missing" in entry["reason"]
    assert (report["volumes"], report["slices"]) == (1, 12)


def test_files_of_one_name_ask_for_what_tells_them_apart(tmp_path: Path) -> None:
    for name in "abcd":
        (tmp_path / name).mkdir()
        (tmp_path / name / "ct.nii.gz").write_bytes(b"")
    with pytest.raises(
        MeddinoError, match=r"case ct has 4 files \(.*, \.\.\.\); let `case` of this"
    ):
        layout("*/ct.nii.gz", r"(?P<case>[^/.]+)\.nii\.gz").cases(tmp_path)


def test_names_of_further_series_are_kept_for_them(tmp_path: Path) -> None:
    (tmp_path / "a#2.nii.gz").write_bytes(b"")
    with pytest.raises(MeddinoError, match=r"names that end in # and a number are kept"):
        layout("*", r"(?P<case>[^/.]+)").cases(tmp_path)
    assert [case_of(name) for name in ("a", "a#2", "a#b", "#2")] == ["a", "a", "a#b", "#2"]


def test_a_benchmark_takes_the_series_on_whose_grid_the_label_lies(tmp_path: Path) -> None:
    raw, short = tmp_path / "raw", stack(9, 1)
    for case in "abcdef":
        series(raw / case, stack(12), "l{}")
        series(raw / case, short, "s{}", SeriesInstanceUID="1.5", SeriesDescription="Thick")
        # On the grid of the shorter one, in RAS as NIfTI is.
        matrix = np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1])
        matrix[:3, 3] = np.array([-1, -1, 1]) * ORIGIN
        label = (short > 0).astype(np.uint8)
        nib.save(nib.Nifti1Image(label.T, matrix), raw / case / "label.nii.gz")
    dataset = layout("*/[ls]*[0-9]", r"^(?P<case>[^/]+)", labels=("*/label.nii.gz",))
    benchmark = Benchmark(label="B", dataset="b", nnunet_id=901, labels={"soft": (1,)})
    output = tmp_path / "Dataset901_b/dataset.json"
    convert.run(
        ConvertOptions(dataset=dataset, benchmark=benchmark), raw=manifest(raw), output=output
    )
    image = sitk.ReadImage(str(output.with_name("imagesTr") / "a_0000.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), short)
    (remark, *_) = read_json(output.with_name("quarantine.json"))["remarks"]
    assert remark["case"] == "a"
    assert remark["remark"].startswith('further series are left: number 3 "Abdomen" (12 slices)')


def test_all_series_of_a_validation_case_leave_a_leak_free_index() -> None:
    curated = {("b", name) for name in ("a", "a#2", "a#3", "c", "c#2")} | {("other", "a#2")}
    leaked = with_series({("b", "a"): "validates"}, curated)
    assert leaked == {
        ("b", "a"): "validates",
        ("b", "a#2"): "series of b/a",
        ("b", "a#3"): "series of b/a",
    }


def test_a_labelled_and_an_unlabelled_part_are_one_dataset(tmp_path: Path) -> None:
    """As docs/own-dataset.md shows it: both are curated, and the benchmark takes the first."""
    for name in ("a", "b"):
        data.save(tmp_path / f"labelled/{name}/ct.nii.gz", data.body())
        data.save(tmp_path / f"labelled/{name}/organs.nii.gz", np.ones((4, 4, 4), np.uint8))
    data.save(tmp_path / "unlabelled/c.nii.gz", data.body())
    parts = FolderLayout(
        images=("labelled/*/ct.nii.gz", "unlabelled/*.nii.gz"),
        labels=("labelled/*/organs.nii.gz",),
        case=r"labelled/(?P<case>[^/]+)/|unlabelled/(?P<file>[^/.]+)",
    )
    cases = parts.cases(tmp_path)
    assert [(case.id, case.label is not None) for case in cases] == [
        ("a", True), ("b", True), ("c", False)
    ]  # fmt: skip
    whole = parts.model_copy(update={"case": r"(?P<case>labelled/[^/]+|unlabelled/[^/.]+)"})
    with pytest.raises(MeddinoError, match=r"matches labelled/[ab], but .* cannot hold a `/`"):
        whole.cases(tmp_path)
