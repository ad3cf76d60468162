"""Volumes are written on their very grid, read back, and whole or absent."""

from pathlib import Path

import ct3m_data as data
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from full_disk import CAUSE, SHARES, contents, full_after

from meddino.core.errors import MeddinoError
from meddino.volumes import geometry, reader, writer
from meddino.volumes.errors import BadVolume
from meddino.volumes.raw import Raw

FORMATS = ("nii.gz", "nii", "mha", "nrrd")
FULL_SIZE = (300, 512, 512)
NOISE = np.random.default_rng(0).integers(-1000, 1000, (12, 40, 44)).astype(np.int16)


def image(array: np.ndarray, axes: np.ndarray, origin: tuple[float, ...] = (0, 0, 0)) -> sitk.Image:
    """An array (k, j, i) on a grid: columns of `axes` are steps along i, j, k in mm, LPS."""
    sizes = np.linalg.norm(axes, axis=0)
    made = sitk.GetImageFromArray(array)
    made.SetSpacing(sizes.tolist())
    made.SetDirection((axes / sizes).ravel().tolist())
    made.SetOrigin([float(mm) for mm in origin])
    return made


def corners_mm(axes: np.ndarray, origin: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    last = np.array(np.meshgrid(*((0, size - 1) for size in shape[::-1]))).reshape(3, -1)
    return axes @ last + origin[:, None]


def sheared(degrees: float, turn: int) -> np.ndarray:
    """Steps of 0.7 x 0.7 x 1.25 mm, whose slices shift backwards as with a tilted gantry."""
    axes = np.eye(3)
    axes[1, 2] = np.tan(np.radians(degrees))
    about = np.radians(17 * turn)
    rotation = [[np.cos(about), -np.sin(about), 0], [np.sin(about), np.cos(about), 0], [0, 0, 1]]
    return np.array(rotation) @ (axes * (0.7, 0.7, 1.25))


def limit_deg() -> float:
    """The largest shear that is accepted, as found by halves."""
    low, high = 0.0, 10.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        try:
            geometry.split(sheared(middle, 0))
            low = middle
        except BadVolume:
            high = middle
    return low


def test_the_grid_is_kept_from_no_shear_to_the_limit(tmp_path: Path) -> None:
    """Of a scan of full size. Only nibabel reads a sheared sform, and so does `meddino`."""
    limit = limit_deg()
    assert 3 < limit < 4
    small = np.zeros((2, 2, 2), np.uint8)
    for degrees in (0, 1e-4, 1e-3, 0.01, 0.1, 0.5, 1.5, 3, limit):
        for turn in (0, 1):
            axes, origin = sheared(degrees, turn), np.array([-187.3, -200.1, -1033.7])
            expected = corners_mm(axes, origin, FULL_SIZE)
            for ending in FORMATS:
                path = tmp_path / f"a.{ending}"
                writer.write(image(small, axes, tuple(origin)), path)
                if ending.startswith("nii"):
                    affine = np.diag([-1, -1, 1, 1]) @ nib.load(path).affine
                    read = corners_mm(affine[:3, :3], affine[:3, 3], FULL_SIZE)
                else:
                    stored = sitk.ReadImage(str(path))
                    steps = np.reshape(stored.GetDirection(), (3, 3)) * stored.GetSpacing()
                    read = corners_mm(steps, np.array(stored.GetOrigin()), FULL_SIZE)
                assert np.linalg.norm(read - expected, axis=0).max() < 0.01, (degrees, ending)


@pytest.mark.parametrize("ending", FORMATS)
def test_labels_of_a_full_size_scan_lie_where_it_lies(tmp_path: Path, ending: str) -> None:
    """A block of labels in the farthest corner of a sheared NIfTI, in every format."""
    axes, shape = sheared(3, 1), (120, 256, 256)
    array = np.zeros(shape, np.uint8)
    array[-20:, -30:, -40:] = 3
    affine = np.eye(4)
    affine[:3, :3] = np.diag([-1, -1, 1]) @ axes
    path = data.save(tmp_path / "scan.nii", array.T, affine)
    raw = reader.read_label(path, reader._canonical(reader._load(path, None)[0]))
    output = tmp_path / f"labels.{ending}"
    writer.write(raw.as_stored(raw.array), output)
    again = writer._read(output)
    assert np.array_equal(again.array, array)
    expected = corners_mm(axes, np.zeros(3), shape)
    moved = corners_mm(again.axes, again.origin_mm, shape) - expected
    assert np.linalg.norm(moved, axis=0).max() < 0.01


def test_a_qform_is_written_where_it_can_hold_the_grid(tmp_path: Path) -> None:
    for degrees, code in ((0.0, 1), (1.5, 0)):
        path = tmp_path / "a.nii"
        writer.write(image(NOISE, sheared(degrees, 1)), path)
        header = nib.load(path).header
        assert (int(header["sform_code"]), int(header["qform_code"])) == (1, code)
        assert header.get_zooms() == pytest.approx(np.linalg.norm(sheared(degrees, 1), axis=0))


def test_what_nifti_cannot_hold_is_refused_beforehand(tmp_path: Path) -> None:
    far = image(np.zeros((2, 2, 2), np.uint8), np.eye(3), (3e6 + 0.1, 0, 0))
    long = image(np.zeros((1, 2, 40000), np.uint8), np.eye(3))
    for volume, message in ((far, r"voxels would lie 0\.1 mm away"), (long, "40000")):
        with pytest.raises(BadVolume, match=rf"NIfTI cannot hold.*{message}.*; write \.mha"):
            writer.check_grid(volume, tmp_path / "a.nii.gz")
        with pytest.raises(MeddinoError, match=r"a\.nii\.gz.*NIfTI cannot hold"):
            writer.write(volume, tmp_path / "a.nii.gz")
        writer.check_grid(volume, tmp_path / "a.mha")
        writer.write(volume, tmp_path / "a.mha")
    assert set(contents(tmp_path)) == {"a.mha"}


@pytest.mark.parametrize("name", ["X.NII.GZ", "X.Nii", "X.MHA", "x.nrrd"])
def test_endings_count_in_any_letters(tmp_path: Path, name: str) -> None:
    writer.write(image(NOISE, np.diag([0.7, 0.7, 3])), tmp_path / name)
    assert set(contents(tmp_path)) == {name}, "ITK would make two files of X.MHA"
    small = (tmp_path / name).rename(tmp_path / name.lower())  # as ITK needs it
    assert np.array_equal(writer._read(small).array, NOISE)


@pytest.mark.parametrize("degrees", [0, 1.5], ids=["rectangular", "sheared"])
@pytest.mark.parametrize("ending", FORMATS)
def test_a_full_disk_leaves_nothing(tmp_path: Path, ending: str, degrees: float) -> None:
    volume, path = image(NOISE, sheared(degrees, 0)), tmp_path / f"a.{ending}"
    writer.write(volume, path)
    whole = path.read_bytes()
    path.unlink()
    for share in SHARES:
        with (
            full_after(share * len(whole)),
            pytest.raises(MeddinoError, match=rf"cannot write .*a\.{ending}: {CAUSE}"),
        ):
            writer.write(volume, path)
        assert not list(tmp_path.iterdir())


def test_what_is_read_back_otherwise_is_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Raw(np.zeros_like(NOISE), np.eye(3), np.zeros(3))
    monkeypatch.setattr(writer, "_read", lambda path: other)
    with pytest.raises(MeddinoError, match=r"cannot write .*other voxels were read back"):
        writer.write(image(NOISE, np.eye(3)), tmp_path / "a.mha")
    other = Raw(NOISE, np.eye(3) * 1.001, np.zeros(3))
    with pytest.raises(MeddinoError, match=r"voxels were read back 0\.0\d* mm from"):
        writer.write(image(NOISE, np.eye(3)), tmp_path / "a.mha")
    assert not list(tmp_path.iterdir())


def test_the_same_volume_gives_the_same_bytes(tmp_path: Path) -> None:
    for degrees in (0.0, 1.5):
        for name in ("a.nii.gz", "b.nii.gz"):
            writer.write(image(NOISE, sheared(degrees, 0)), tmp_path / name)
        assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
