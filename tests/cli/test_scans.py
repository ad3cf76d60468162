"""What `verify` says of scans that have changed since `fetch` has listed them."""

import shutil
from pathlib import Path

import pytest
import yaml
from places import ROOT

from meddino.__main__ import main
from meddino.cli import scans


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """The manifest of a folder of three scans, with its record."""
    for name in "abc":
        scan = tmp_path / f"scans/{name}/ct.nii.gz"
        scan.parent.mkdir(parents=True)
        scan.write_bytes(b"scan")
    mine = {"folder": "scans", "images": ["*/ct.nii.gz"], "case": "^(?P<case>[^/]+)/"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"datasets": {"mine": mine}}))
    config = [str(ROOT / "config.yaml"), "mine.yaml"]
    output = Path("resources/raw/mine/.fetched.json")
    assert main(["fetch", "--config", *config, "--dataset", "mine", "--output", str(output)]) == 0
    return output


def test_untouched_scans_are_as_they_were_listed(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scans.states(manifest) == {}
    assert main(["verify", "resources"]) == 0
    assert "0 changed, 0 missing" in capsys.readouterr().out


def test_changed_missing_and_new_scans_are_named(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "scans"
    (folder / "a/ct.nii.gz").write_bytes(b"another scan")
    (folder / "b/ct.nii.gz").rename(folder / "b/old.nii.gz")
    shutil.copytree(folder / "c", folder / "d")
    names = {"a/ct.nii.gz": "changed", "b/ct.nii.gz": "missing", "d/ct.nii.gz": "new"}
    assert scans.states(manifest) == {str(folder / name): s for name, s in names.items()}
    assert main(["verify", "resources"]) == 2
    printed = capsys.readouterr().err
    assert "1 changed, 1 missing, 1 new since they were listed" in printed
    assert "rerun the study" in printed and len(printed.splitlines()) == 1


def test_where_the_folder_is_gone_all_scans_are_missing(manifest: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "scans")
    assert [*scans.states(manifest).values()] == ["missing"] * 3
