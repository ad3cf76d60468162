"""`segment` and files: folders as people have them, names, remarks, grids, full disks."""

import json
import shutil
from pathlib import Path
from typing import Any

import ct3m_data as data
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from full_disk import contents, full_after
from test_segment import make_model, run

from meddino.core.files import read_json
from meddino.finetune import segment, segmenter
from meddino.volumes import reader


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


def sheared(degrees: float) -> np.ndarray:
    """A NIfTI affine whose slices shift backwards, as with a tilted gantry."""
    matrix = data.affine()
    matrix[1, 2] = np.tan(np.radians(degrees)) * matrix[2, 2]
    return matrix


def test_a_public_layout_is_segmented_with_its_remarks(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "Totalsegmentator"
    data.save(root / "s0000/ct.nii.gz", data.body())
    data.save(root / "s0001/ct.nii.gz", data.body(1), sheared(1))
    data.save(root / "s0001/segmentations/liver.nii.gz", (data.body(1) > 0).astype(np.uint8))
    assert run(root, tmp_path / "out", "--model", trained) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"s0000.nii.gz", "s0001.nii.gz", "labels.json"}
    printed = capsys.readouterr().err
    remark = "axes were not quite at right angles: nearest rotation is used"
    assert f"s0001/ct.nii.gz: {remark}\n" in printed
    assert "left: 1 files, label maps by their names" in printed
    volumes = read_json(tmp_path / "out/labels.json")["volumes"]
    assert volumes["s0000.nii.gz"]["remarks"] == []
    assert volumes["s0001.nii.gz"]["remarks"] == [remark]
    assert volumes["s0001.nii.gz"]["input"] == "../Totalsegmentator/s0001/ct.nii.gz"


@pytest.mark.parametrize("ending", ["nii.gz", "nii", "mha", "nrrd"])
@pytest.mark.parametrize("degrees", [0.01, 1.5])
def test_labels_lie_on_a_sheared_grid_in_every_format(
    trained: Path, tmp_path: Path, degrees: float, ending: str
) -> None:
    path = data.save(tmp_path / "in.nii.gz", data.body()[::-1], sheared(degrees))
    assert run(path, tmp_path / f"out.{ending}", "--model", trained) == 0
    theirs = nib.load(path).affine
    if ending.startswith("nii"):
        assert np.array_equal(nib.load(tmp_path / f"out.{ending}").affine, theirs)
        return
    labels = sitk.ReadImage(str(tmp_path / f"out.{ending}"))
    steps = np.reshape(labels.GetDirection(), (3, 3)) * labels.GetSpacing()
    ras = np.diag([-1.0, -1.0, 1.0])
    assert np.allclose(ras @ steps, theirs[:3, :3], rtol=0, atol=1e-6)
    assert np.allclose(ras @ labels.GetOrigin(), theirs[:3, 3], rtol=0, atol=1e-6)


def never(*_: Any, **__: Any) -> None:
    raise AssertionError("too late")


def test_a_format_that_cannot_hold_the_grid_is_refused_before_predicting(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    far = sitk.GetImageFromArray(data.body().T)
    far.SetSpacing(data.SPACING)
    far.SetOrigin((3e6 + 0.1, 0, 0))
    sitk.WriteImage(far, str(tmp_path / "far.mha"))
    monkeypatch.setattr(segmenter.Segmenter, "label", never)
    assert run(tmp_path / "far.mha", tmp_path / "out.nii", "--model", trained) == 2
    printed = capsys.readouterr().err
    assert "far.mha: NIfTI cannot hold its grid" in printed and "write .mha or .nrrd" in printed
    assert set(contents(tmp_path)) == {"far.mha"}


@pytest.mark.parametrize("output", ["file/out", "file/x.nii.gz", "/proc/x/out", "/proc/x/y.mha"])
def test_a_place_that_cannot_be_written_is_one_line_before_the_model_is_loaded(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    output: str,
) -> None:
    path = data.save(tmp_path / "a.nii.gz", data.body())
    (tmp_path / "file").touch()
    monkeypatch.setattr(segment, "_load", never)
    assert run(path, tmp_path / output, "--model", trained) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("meddino segment: cannot write ")


def test_a_full_disk_is_one_line_and_leaves_nothing(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in "abc":
        data.save(tmp_path / f"in/{name}.nii.gz", data.body())
    arguments = (tmp_path / "in", tmp_path / "out", "--model", trained)
    for ending in ("nii", "nii.gz", "mha", "nrrd"):
        with full_after(600):  # enough for the record
            one = tmp_path / f"one/a.{ending}"
            assert run(tmp_path / "in/a.nii.gz", one, *arguments[2:]) == 2
        lines = capfd.readouterr().err.splitlines()
        assert len(lines) == 1 and f"cannot write {one}: File too large" in lines[0]
        assert not list((tmp_path / "one").iterdir())
    with full_after(600):
        assert run(*arguments) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "out/a.nii.gz: File too large" in line and "0 of 3 volumes" in line
    assert not list((tmp_path / "out").iterdir())
    assert run(*arguments) == 0, "as if nothing had been"
    assert len(read_json(tmp_path / "out/labels.json")["volumes"]) == 3


def test_no_volumes_fault_ends_the_work_on_the_others(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in "abc":
        data.save(tmp_path / f"in/{name}.nii.gz", data.body())
    (tmp_path / "in/d.nii.gz").symlink_to("nowhere")
    read = reader.read

    def fail_at_b(path: Path, **options: Any) -> reader.Volume:
        if path.name.startswith("b"):
            raise RuntimeError("in ITK/itkSomething.cxx, line 7\nan invalid logic behavior")
        return read(path, **options)

    monkeypatch.setattr(reader, "read", fail_at_b)
    arguments = (tmp_path / "in", tmp_path / "out", "--model", trained)
    assert run(*arguments) == 2
    printed = capsys.readouterr().err
    assert "2 of 4 volumes were not segmented" in printed and "Traceback" not in printed
    assert "d.nii.gz is a link to nowhere" in printed
    assert "b.nii.gz: RuntimeError: an invalid logic behavior; please report this" in printed
    assert set(contents(tmp_path / "out")) == {"a.nii.gz", "c.nii.gz", "labels.json"}
    monkeypatch.undo()
    (tmp_path / "in/d.nii.gz").unlink()
    data.save(tmp_path / "in/d.nii.gz", data.body())
    assert run(*arguments) == 0
    assert set(read_json(tmp_path / "out/labels.json")["volumes"]) == {
        f"{name}.nii.gz" for name in "abcd"
    }


def test_links_to_stores_keep_their_names(trained: Path, tmp_path: Path) -> None:
    """As of git-annex, DVC or Hugging Face, whose files are called by hashes, with or without an
    ending."""
    data.save(tmp_path / "annex/SHA256E-s99--5f2c.nii.gz", data.body())
    shutil.copy(tmp_path / "annex/SHA256E-s99--5f2c.nii.gz", tmp_path / "annex/77aa")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/scan1.nii.gz").symlink_to("../annex/SHA256E-s99--5f2c.nii.gz")
    (tmp_path / "in/scan2.nii.gz").symlink_to("../annex/77aa")
    assert run(tmp_path / "in", tmp_path / "out", "--model", trained) == 0
    names = set(contents(tmp_path / "out"))
    assert names == {"scan1.nii.gz", "scan2.nii.gz", "labels.json"}


def test_other_volumes_of_the_same_name_are_not_taken_for_done(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        data.save(tmp_path / name / "ct.nii.gz", data.body())
    more = (tmp_path / "out", "--model", trained)
    assert run(tmp_path / "a/ct.nii.gz", *more) == 0
    assert run(tmp_path / "a/ct.nii.gz", *more) == 0
    assert run(tmp_path / "b/ct.nii.gz", *more) == 2
    assert "segmentations of other volumes" in capsys.readouterr().err
    assert run(tmp_path / "b/ct.nii.gz", *more, "--overwrite") == 0
    shutil.move(tmp_path / "out", tmp_path / "moved")
    shutil.move(tmp_path / "moved", tmp_path / "out")
    assert run(tmp_path / "b/ct.nii.gz", *more) == 0
    (tmp_path / "out/ct.nii.gz").write_text("mine")
    record = tmp_path / "out/labels.json"
    record.write_text(json.dumps({**read_json(record), "volumes": {}}))
    assert run(tmp_path / "b/ct.nii.gz", *more) == 2, "of whom, nobody knows"
    assert (tmp_path / "out/ct.nii.gz").read_text() == "mine"


def test_the_output_in_large_letters_and_the_record_beside_it(
    trained: Path, tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = data.save(tmp_path / "a.nii.gz", data.body())
    assert run(path, tmp_path / "X.NII.GZ", "--model", trained) == 0
    assert set(contents(tmp_path)) == {"a.nii.gz", "X.NII.GZ", "X.NII.GZ.labels.json"}
    assert nib.load(tmp_path / "X.NII.GZ").shape == (40, 36, 10)
    with pytest.raises(SystemExit):
        run("--help")
    assert "OUTPUT.labels.json" in capsys.readouterr().out
    assert "`<output>.labels.json`" in (root / "docs/inference.md").read_text("utf-8")
    assert "`my/labels.nii.gz.labels.json`" in (root / "docs/tutorial.md").read_text("utf-8")
