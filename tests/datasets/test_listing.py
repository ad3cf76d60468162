"""Folders of a person's own: changes are seen, and images that no pattern finds are named."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from meddino.core.errors import MeddinoError
from meddino.core.files import read_json
from meddino.datasets import fetch
from meddino.datasets.listing import Listing
from meddino.datasets.options import Dataset, FetchOptions, FolderLayout

LAYOUT = FolderLayout(
    images=("*/ct.nii.gz", "*/dicom/*.dcm", "*/ct.mhd"),
    labels=("*/seg.nii.gz",),
    exclude=("old/*",),
    case="^(?P<case>[^/]+)/",
)
FILES = ("a/ct.nii.gz", "a/seg.nii.gz", "b/ct.nii.gz", "c/dicom/1.dcm", "c/dicom/2.dcm", "d/ct.mhd")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "scans"
    for name in (*FILES, "d/ct.raw", "old/ct.nii.gz", "notes.txt"):
        write(root / name)
    return root


def write(path: Path, size: int = 10, second: int = 1_600_000_000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    os.utime(path, (second, second))


def digests(folder: Path) -> dict[str, str]:
    listing = Listing(LAYOUT, folder, "datasets.mine")
    return {"images": listing.digest("images"), "labelled": listing.digest("labelled")}


ALL, IMAGES, LABELLED = {"images", "labelled"}, {"images"}, {"labelled"}


@pytest.mark.parametrize(
    ("change", "differ"),
    [
        (lambda f: write(f / "a/ct.nii.gz", size=11), ALL),
        (lambda f: write(f / "a/ct.nii.gz", second=1_500_000_000), ALL),
        (lambda f: (f / "a/ct.nii.gz").rename(f / "a/old.nii.gz"), ALL),
        (lambda f: write(f / "a/seg.nii.gz", size=11), LABELLED),
        (lambda f: (f / "a/seg.nii.gz").unlink(), LABELLED),
        (lambda f: write(f / "b/ct.nii.gz", size=11), IMAGES),
        (lambda f: write(f / "b/seg.nii.gz"), LABELLED),
        (lambda f: write(f / "e/ct.nii.gz"), IMAGES),
        (lambda f: (f / "b/ct.nii.gz").unlink(), IMAGES),
        (lambda f: write(f / "c/dicom/3"), IMAGES),
        (lambda f: write(f / "c/dicom/2.dcm", size=11), IMAGES),
        (lambda f: write(f / "d/ct.raw", size=11), IMAGES),
        (lambda f: write(f / "c/dicom/mask.nii.gz"), set()),
        (lambda f: write(f / "notes.txt", size=11), set()),
        (lambda f: write(f / "old/ct.nii.gz", size=11), set()),
        (lambda f: write(f / "._ct.nii.gz"), set()),
        (lambda f: f.rename(f.with_name("elsewhere")).rename(f), set()),
    ],
)
def test_a_change_is_seen_by_what_depends_on_it(
    folder: Path, change: Callable[[Path], object], differ: set[str]
) -> None:
    before = digests(folder)
    assert digests(folder) == before
    change(folder)
    after = digests(folder)
    assert {part for part in before if before[part] != after[part]} == differ


def test_a_link_stands_for_the_file_behind_it_and_one_to_nowhere_is_listed(folder: Path) -> None:
    store = folder.with_name("store")
    write(store / "4f2a")
    (folder / "e").mkdir()
    (folder / "e/ct.nii.gz").symlink_to(store / "4f2a")
    before = digests(folder)
    write(store / "4f2a", size=11)
    changed = digests(folder)
    (store / "4f2a").unlink()
    assert len({before["images"], changed["images"], digests(folder)["images"]}) == 3


def test_the_manifest_lists_what_fetch_has_seen_and_names_what_no_pattern_finds(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["a/organs/liver.nii.gz", "b/CT.NII.GZ", "scan.dcm"]
    for name in names:
        write(folder / name)
    (folder / "b/up").symlink_to(folder)
    entry = Dataset(folder=str(folder), **LAYOUT.model_dump())
    fetch.run(FetchOptions.of("mine", entry), output=tmp_path / "raw/mine/.fetched.json")
    manifest = read_json(tmp_path / "raw/mine/.fetched.json")
    listed = {file["file"]: (file["bytes"], file["mtime_ns"]) for file in manifest["files"]}
    images = {*FILES, "d/ct.raw"} - {"a/seg.nii.gz"}
    assert listed == dict.fromkeys(images, (10, 1_600_000_000 * 10**9))
    assert manifest["unmatched"] == names
    printed = capsys.readouterr().err
    assert "datasets.mine: no pattern finds 3 images" in printed
    assert all(name in printed for name in names) and "old/ct.nii.gz" not in printed


def test_a_folder_that_is_absent_and_one_without_images_are_named(folder: Path) -> None:
    with pytest.raises(MeddinoError, match=r"datasets\.mine\.folder: .*No such file"):
        Listing(LAYOUT, folder / "absent", "datasets.mine")
    (folder / "x").mkdir()
    with pytest.raises(MeddinoError, match=r"datasets\.mine\.images: .*it has none"):
        Listing(LAYOUT, folder / "x", "datasets.mine")
    layout = LAYOUT.model_copy(update={"images": ("*.nii",)})
    with pytest.raises(MeddinoError, match=r"matches \*\.nii \(.*such as a/ct\.nii\.gz"):
        Listing(layout, folder, "datasets.mine")
