"""Inputs of public bug reports, where they lie beside the checkout: voxels of the plain scan."""

import re
from pathlib import Path

import numpy as np
import pytest
from ct3m_data import FolderLayout, run
from places import SHARED

from meddino.volumes import reader
from meddino.volumes.reader import BadVolume

CASES = SHARED / "cases"
pytestmark = pytest.mark.skipif(not CASES.exists(), reason=f"no cases at {CASES}")

PLAIN = {
    "d01_two_series": r"further series are left: number 1 \(8 slices\): shorter",
    "d03c_scout_top": r"further series are left: number 1 \(1 slice\): other direction",
    "d06_enhanced_shuffled": r"",
    "d06d_enhanced_jitter_0.02": r"gaps between slices differ slightly",
    "d12_enhanced_plus_seg": r"further series are left: number 1 \(12 slices\): SEG",
    "d14_names/a": r"", "d14_names/b": r"", "d14_names/c": r"", "d14_names/d": r"",
    "d14_names/e": r"",
    "d15_dicomdir": r"",
    "d20_bad_then_good/a_with_dose": r"further series are left: .* RTDOSE",
    "d20_bad_then_good/b_fine": r"",
    "n01_shear_1p5deg/ct.nii.gz": r"axes were not quite at right angles",
    "n02_sform_sheared_qform_ok/ct.nii.gz": r"sform is no grid at right angles: qform is used",
    "n06_dim4_zero/ct.nii.gz": r"header gives an empty dimension",
}  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_voxels_are_those_of_the_plain_scan(name: str) -> None:
    plain = reader.read(CASES / ("n00_base/ct.nii.gz" if name.startswith("n") else "d00_base"))
    volume = reader.read(CASES / name)
    np.testing.assert_array_equal(volume.array, plain.array)
    assert volume.spacing_mm == pytest.approx(plain.spacing_mm, abs=2e-3)
    assert volume.origin_mm == pytest.approx(plain.origin_mm, abs=0.02)
    said = " ".join(volume.remarks)
    assert re.search(PLAIN[name], said) if PLAIN[name] else said == ""


def test_what_is_left_or_doubtful_is_said() -> None:
    plain = reader.read(CASES / "d00_base").array
    part = reader.read(CASES / "d17_truncated_last")
    np.testing.assert_array_equal(part.array, plain[:11])
    assert part.remarks[0].startswith("damaged files are left: 1, such as 011.dcm")
    pet_ct = reader.read(CASES / "d13_pet_ct")
    assert (len(pet_ct.array), pet_ct.modality) == (10, "CT")
    mirrored = reader.read(CASES / "n03_sform_qform_disagree/ct.nii.gz")
    assert mirrored.remarks[0].endswith("sform is used, check left and right")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("n05_slope1_inter_nan/ct.nii.gz", r"scl_inter"),
        ("n34_offset_lost/ct.nii.gz", r"As MR: is a CT whose offset of -1024 was lost"),
    ],
)
def test_what_is_refused_says_why(name: str, message: str) -> None:
    with pytest.raises(BadVolume, match=message):
        reader.read_ct_or_mr(CASES / name)


def test_a_curation_of_all_of_them_goes_through(tmp_path: Path) -> None:
    layout = FolderLayout(
        images=("*/*.dcm", "d14_names/*/*", "d15_dicomdir/DICOM/*/*/*", "n*/*.nii.gz"),
        case=r"^(?P<case>[^/]+)(?:/(?P<part>[abcde])$)?",
        exclude=("x_*", "*/README*"),
    )
    root = tmp_path / "cases"
    root.symlink_to(CASES, target_is_directory=True)
    report = run(root, tmp_path / "out", dataset=layout)
    left = {entry["case"]: entry["reason"] for entry in report["quarantined"]}
    assert set(left) == {"n05_slope1_inter_nan", "n34_offset_lost"}
    assert report["volumes"] == 20
    cases = {entry["case"] for entry in report["remarks"]}
    assert {
        "d03c_scout_top",
        "d13_pet_ct",
        "d17_truncated_last",
        "n03_sform_qform_disagree",
    } <= cases
    assert "d01_two_series" not in cases, "both of its series are cases"
