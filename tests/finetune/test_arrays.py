"""Preprocessed arrays are freed with a receipt, and made anew for a training that comes later."""

from pathlib import Path

import pytest
from full_disk import contents
from test_full_disk import NAME, made, run_preprocess

from meddino.core import receipts
from meddino.core.errors import MeddinoError
from meddino.core.files import read_json, write_json
from meddino.finetune import arrays
from meddino.finetune.options import FreeArraysOptions

__all__ = ["made"]
OPTIONS = FreeArraysOptions(configuration="2d")


def test_arrays_go_and_come_back_as_they_were(made: Path) -> None:
    work = made / "plan"
    run_preprocess(made, work)
    marker = work / NAME / "2d.json"
    slip = receipts.of_arrays(marker)
    folder = marker.parent / read_json(marker)["folder"]
    before, stamp = contents(work), marker.stat().st_mtime_ns
    (folder / "mine.txt").write_text("mine")
    arrays.restore(marker, 1)
    assert not slip.exists(), "nothing was freed"
    arrays.run(OPTIONS, preprocessed=marker, output=slip)
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
    assert len(receipts.read(slip)["files"]) == 15
    assert {"nnUNetPlans.json", "dataset.json", "splits_final.json", "2d.json"} <= {
        path.name for path in marker.parent.iterdir()
    }
    arrays.restore(marker, 1)
    after = contents(work)
    assert {name: after[name] for name in before} == before
    assert marker.stat().st_mtime_ns == stamp, "finished trainings look as up to date as before"
    arrays.run(OPTIONS, preprocessed=marker, output=slip)
    assert not folder.exists()


def test_nothing_elsewhere_is_deleted(made: Path, tmp_path: Path) -> None:
    marker = tmp_path / NAME / "2d.json"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.pkl").touch()
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "link").symlink_to(tmp_path / "elsewhere")
    for folder in ("../elsewhere", "link"):
        write_json(marker, {"configuration": "2d", "folder": folder, "cases": ["a"]})
        with pytest.raises(MeddinoError, match="nothing is deleted"):
            arrays.run(OPTIONS, preprocessed=marker, output=receipts.of_arrays(marker))
    with pytest.raises(MeddinoError, match="is not of configuration '2d_896'"):
        arrays.run(
            FreeArraysOptions(configuration="2d_896"),
            preprocessed=marker,
            output=receipts.of_arrays(marker),
        )
    assert (tmp_path / "elsewhere/a.pkl").exists()
