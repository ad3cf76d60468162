"""Which volumes a person means who names files and folders, and what their results are called."""

import json
from pathlib import Path

import pytest

from meddino.core.errors import MeddinoError
from meddino.volumes.inputs import find, names

DICOM = bytes(128) + b"DICM"


def touch(root: Path, *paths: str) -> None:
    """Files whose names say what they are; without a known ending they are DICOM."""
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"" if "." in file.name and not path.endswith(".dcm") else DICOM)


def found(root: Path, *paths: str, output: str | None = None) -> dict[str, str]:
    """Name -> volume, relative to `root`."""
    inputs = find([root / path for path in paths or [""]], output and root / output)
    return {
        name: volume.relative_to(root).as_posix() for volume, name in names(inputs.volumes).items()
    }


LAYOUTS = {
    "TotalSegmentator": (
        ["s0000/ct.nii.gz", "s0000/segmentations/liver.nii.gz", "s0001/ct.nii.gz",
         "s0001/segmentations/liver.nii.gz", "meta.csv"],
        {"s0000": "s0000/ct.nii.gz", "s0001": "s0001/ct.nii.gz"},
    ),
    "BIDS": (
        ["sub-01/ct/sub-01_ct.nii.gz", "sub-01/ct/sub-01_ct.json", "sub-02/ct/sub-02_ct.nii.gz",
         "derivatives/labels/sub-01/ct/sub-01_seg.nii.gz"],
        {f"sub-0{n}_ct": f"sub-0{n}/ct/sub-0{n}_ct.nii.gz" for n in (1, 2)},
    ),
    "BIDS, sessions": (
        ["sub-01/ses-1/ct.nii.gz", "sub-01/ses-2/ct.nii.gz", "sub-02/ses-1/ct.nii.gz"],
        {"sub-01_ses-1": "sub-01/ses-1/ct.nii.gz", "sub-01_ses-2": "sub-01/ses-2/ct.nii.gz",
         "sub-02_ses-1": "sub-02/ses-1/ct.nii.gz"},
    ),
    "KiTS23": (
        ["case_00000/imaging.nii.gz", "case_00000/segmentation.nii.gz",
         "case_00001/imaging.nii.gz", "case_00001/segmentation.nii.gz"],
        {f"case_0000{n}": f"case_0000{n}/imaging.nii.gz" for n in (0, 1)},
    ),
    "LiTS": (
        ["volume-0.nii", "segmentation-0.nii", "volume-1.nii", "segmentation-1.nii"],
        {f"volume-{n}": f"volume-{n}.nii" for n in (0, 1)},
    ),
    "nnU-Net, MSD": (
        ["imagesTr/a_0000.nii.gz", "imagesTs/b_0000.nii.gz", "labelsTr/a.nii.gz", "dataset.json"],
        {"a_0000": "imagesTr/a_0000.nii.gz", "b_0000": "imagesTs/b_0000.nii.gz"},
    ),
    "BTCV": (
        ["img/img0001.nii.gz", "label/label0001.nii.gz"], {"img0001": "img/img0001.nii.gz"},
    ),
    "AbdomenAtlas": (
        ["BDMAP_1/ct.nii.gz", "BDMAP_1/combined_labels.nii.gz",
         "BDMAP_1/segmentations/aorta.nii.gz"],
        {"ct": "BDMAP_1/ct.nii.gz"},
    ),
    "NIfTI beside DICOM": (
        ["a.nii.gz", "series/IM0001", "series/IM0002"], {"a": "a.nii.gz", "series": "series"},
    ),
    "CD": (
        ["DICOMDIR", "README.TXT", "DICOM/PAT0/SER0/IM0000", "DICOM/PAT0/SER1/IM0000"],
        {"SER0": "DICOM/PAT0/SER0", "SER1": "DICOM/PAT0/SER1"},
    ),
    "CDs": (
        [f"{cd}/{file}" for cd in ("cd1", "cd2") for file in ("DICOMDIR", "DICOM/PAT0/SER0/IM0")],
        {"cd1": "cd1/DICOM/PAT0/SER0", "cd2": "cd2/DICOM/PAT0/SER0"},
    ),
    "DICOM in DICOM": (["1.dcm", "more/2.dcm"], {"": ".", "more": "more"}),
    "junk": (["a.mha", "._a.mha", ".DS_Store", "__MACOSX/._b.nii", "notes.txt"], {"a": "a.mha"}),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_public_layouts(tmp_path: Path, layout: str) -> None:
    files, expected = LAYOUTS[layout]
    touch(tmp_path / "in", *files)
    volumes = found(tmp_path / "in")
    if "" in expected:  # the folder that was named
        expected = {name or "in": volume for name, volume in expected.items()}
    assert volumes == expected


def test_what_is_left_is_said_in_a_line_a_reason(tmp_path: Path) -> None:
    touch(
        tmp_path, "s0/ct.nii.gz", "s0/segmentations/a.nii.gz", "s0/segmentations/b.nii.gz",
        "s0/older/ct.nii.gz", "s0/series/IM0",
    )  # fmt: skip
    inputs = find([tmp_path])
    assert [path.name for path in inputs.volumes] == ["ct.nii.gz", "series"]
    below, names_of_labels = inputs.remarks()
    assert below.startswith("left: 1 files, below folders that hold volumes themselves, such as")
    assert names_of_labels.startswith("left: 2 files, label maps by their names, such as")
    assert "segmentations/a.nii.gz; name them" in names_of_labels
    assert found(tmp_path, "s0/segmentations") == {
        name: f"s0/segmentations/{name}.nii.gz" for name in "ab"
    }, "who names their folder means them"


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    touch(tmp_path, "a/ct.nii.gz", "b/ct.nii.gz", "x/ct.mha", "x/old/ct.mha", "c/other.nii")
    two = {"a": "a/ct.nii.gz", "b": "b/ct.nii.gz"}
    assert found(tmp_path, "a/ct.nii.gz", "b/ct.nii.gz") == two
    assert found(tmp_path, "a", "b", "c/other.nii") == {**two, "other": "c/other.nii"}
    assert found(tmp_path, "x/ct.mha", "x/old/ct.mha") == {
        "ct": "x/ct.mha", "old_ct": "x/old/ct.mha",
    }  # fmt: skip
    touch(tmp_path, "a/ct.nii")
    with pytest.raises(
        MeddinoError, match=r"two inputs are called ct: .*ct\.nii and .*ct\.nii\.gz"
    ):
        found(tmp_path, "a/ct.nii", "a/ct.nii.gz")
    assert found(tmp_path, "a/ct.nii", "a/ct.nii") == {"ct": "a/ct.nii"}, "named twice"


def test_outputs_are_no_inputs(tmp_path: Path) -> None:
    touch(tmp_path, "ct.nii.gz", "out/ct.nii.gz", "out/b.nii.gz", "seg.nii.gz", "mine.mha")
    (tmp_path / "mine.mha.labels.json").write_text(json.dumps({"volumes": {"mine.mha": {}}}))
    assert found(tmp_path, output="out") == {"ct": "ct.nii.gz"}
    touch(tmp_path, "scans/1/IM0", "scans/done/1.nii.gz")
    assert found(tmp_path, "scans", output="scans/done") == {"1": "scans/1"}
    (tmp_path / "scans/done/labels.json").write_text(json.dumps({"volumes": {"1.nii.gz": {}}}))
    assert found(tmp_path, "scans", output="scans/again") == {"1": "scans/1"}
    assert found(tmp_path, "scans/1", output="scans/1/x.nii.gz") == {"1": "scans/1"}


def test_links_have_their_own_names_and_those_to_nowhere_are_missing(tmp_path: Path) -> None:
    touch(tmp_path, "store/SHA256E-s1--5f2c", "store/MD5E-s1--77.nii.gz", "store/0a/9f")
    (tmp_path / "in/series").mkdir(parents=True)
    (tmp_path / "in/a.nii.gz").symlink_to("../store/SHA256E-s1--5f2c")
    (tmp_path / "in/b.nii.gz").symlink_to("../store/MD5E-s1--77.nii.gz")
    (tmp_path / "in/gone.nii.gz").symlink_to("../store/nowhere")
    (tmp_path / "in/series/1").symlink_to("../../store/0a/9f")
    (tmp_path / "in/again").symlink_to("../in")  # in a circle
    inputs = find([tmp_path / "in"])
    assert sorted(names(inputs.volumes).values()) == ["a", "b", "series"]
    ((path, problem),) = inputs.missing.items()
    assert path.name == "gone.nii.gz" and problem.startswith("is a link to nowhere: ")
    (tmp_path / "in/series/2").symlink_to("../../store/nowhere")
    missing = find([tmp_path / "in/series"]).missing
    assert "holds 1 links to nowhere, such as 2: " in missing[tmp_path / "in/series"]
    assert find([tmp_path / "in/gone.nii.gz"]).missing


def test_a_named_table_of_contents_stands_for_its_medium(tmp_path: Path) -> None:
    touch(tmp_path, "DICOMDIR", "DICOM/S0/IM0")
    assert found(tmp_path, "DICOMDIR") == {"S0": "DICOM/S0"}


def test_what_holds_nothing_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "notes/readme.txt", "s/labels/a.nii.gz")
    with pytest.raises(MeddinoError, match="absent does not exist"):
        find([tmp_path / "absent"])
    with pytest.raises(MeddinoError, match="holds neither volumes"):
        find([tmp_path / "notes"])
    with pytest.raises(MeddinoError, match=r"neither volumes.*left: 1 files, label maps"):
        find([tmp_path / "s"])
