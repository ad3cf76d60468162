"""NIfTI headers that contradict themselves: the right grid, or one line that names the field."""

import gzip
from pathlib import Path

import ct3m_data as data
import nibabel as nib
import numpy as np
import pytest

from meddino.volumes import reader
from meddino.volumes.reader import BadVolume

CT = data.body()


def save(path: Path, sform: np.ndarray, qform: np.ndarray, codes: tuple[int, int] = (1, 1)) -> Path:
    image = nib.Nifti1Image(CT, None)
    image.set_qform(qform, codes[1])
    image.set_sform(sform, codes[0])
    nib.save(image, path)
    return path


def field(path: Path, name: str, value: object, index: int | None = None) -> Path:
    """Write one field of a NIfTI-1 header, whatever nibabel thinks of it."""
    content = bytearray(path.read_bytes())
    header = np.frombuffer(content, nib.Nifti1Header.template_dtype, 1)[0]
    if index is None:
        header[name] = value
    else:
        header[name][index] = value
    path.write_bytes(header.tobytes() + content[348:])
    return path


def sheared(amount: float) -> np.ndarray:
    matrix = data.affine()
    matrix[0, 1] = amount
    return matrix


def test_a_sheared_sform_gives_way_to_the_scanners_qform(tmp_path: Path) -> None:
    volume = reader.read(save(tmp_path / "a.nii", sheared(0.3), data.affine(), (4, 1)))
    np.testing.assert_array_equal(volume.array, CT.T)
    assert volume.spacing_mm == pytest.approx(data.SPACING[::-1])
    assert volume.remarks[0].startswith("sform is no grid at right angles: qform is used")


def test_a_stretched_sform_of_a_registration_does_too(tmp_path: Path) -> None:
    stretched = data.affine() @ np.diag([1.2, 1.1, 1.3, 1])
    volume = reader.read(save(tmp_path / "a.nii", stretched, data.affine(), (2, 1)))
    assert volume.spacing_mm == pytest.approx(data.SPACING[::-1])
    assert volume.remarks[0].startswith("sform is stretched, as by a registration: qform")


def test_an_sform_of_no_numbers_gives_way_or_is_refused(tmp_path: Path) -> None:
    path = field(save(tmp_path / "a.nii", data.affine(), data.affine()), "srow_x", np.nan, 0)
    volume = reader.read(path)
    assert volume.spacing_mm == pytest.approx(data.SPACING[::-1])
    assert volume.remarks[0].startswith("sform is of no numbers: qform is used")
    with pytest.raises(BadVolume, match=r"orientation .* of no numbers"):
        reader.read(field(path, "qform_code", 0))


def test_two_orientations_are_remarked(tmp_path: Path) -> None:
    mirrored = np.diag([-1.0, 1, 1, 1]) @ data.affine()
    (remark,) = reader.read(save(tmp_path / "a.nii", mirrored, data.affine())).remarks
    assert remark == (
        "header gives two orientations: sform RPS, qform LPS; sform is used, check left and right"
    )
    angle = np.radians(5)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0]])
    turned = data.affine(rotation=np.vstack([turn, [0, 0, 1]]))
    (remark,) = reader.read(save(tmp_path / "b.nii", turned, data.affine())).remarks
    assert remark.startswith("header gives two orientations: 5.0 degrees apart")
    moved = data.affine()
    moved[:3, 3] += 7
    (remark,) = reader.read(save(tmp_path / "c.nii", moved, data.affine())).remarks
    assert remark.startswith("header gives two places: up to 12.1 mm apart")
    assert reader.read(save(tmp_path / "d.nii", data.affine(), data.affine())).remarks == ()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_intercept_of_no_number_is_named(tmp_path: Path, value: float) -> None:
    path = save(tmp_path / "a.nii", data.affine(), data.affine())
    field(field(path, "scl_slope", 1), "scl_inter", value)
    with pytest.raises(BadVolume, match=r"intercept \(scl_inter\) of (nan|inf).*; set scl_inter"):
        reader.read(path)
    np.testing.assert_array_equal(reader.read(field(path, "scl_slope", 0)).array, CT.T)


@pytest.mark.parametrize("size", [0, -1])
def test_an_empty_further_dimension_is_none(tmp_path: Path, size: int) -> None:
    path = save(tmp_path / "a.nii", data.affine(), data.affine())
    volume = reader.read(field(field(path, "dim", 4, 0), "dim", size, 4))
    np.testing.assert_array_equal(volume.array, CT.T)
    (remark,) = volume.remarks
    assert remark == f"header gives an empty dimension: size {size} of dimension 4 is taken as 1"


@pytest.mark.parametrize("names", [("a.hdr", "a.img"), ("A.HDR", "A.IMG"), ("a.hdr", "a.img.gz")])
def test_a_pair_is_read_by_the_name_of_either(tmp_path: Path, names: tuple[str, str]) -> None:
    nib.save(nib.Nifti1Pair(CT, data.affine()), tmp_path / "x.img")
    header, voxels = (tmp_path / name for name in names)
    (tmp_path / "x.hdr").rename(header)
    content = (tmp_path / "x.img").read_bytes()
    voxels.write_bytes(gzip.compress(content) if voxels.suffix == ".gz" else content)
    for path in (header, voxels):
        np.testing.assert_array_equal(reader.read(path).array, CT.T)
    voxels.unlink()
    with pytest.raises(BadVolume, match=r"half of a pair: .*\.img is not beside it"):
        reader.read(header)


def test_analyze_is_refused_since_left_and_right_are_unknown(tmp_path: Path) -> None:
    nib.save(nib.AnalyzeImage(CT, np.diag([0.9, 0.8, 2.5, 1])), tmp_path / "a.img")
    with pytest.raises(BadVolume, match="Analyze format, which does not tell left from right"):
        reader.read(tmp_path / "a.hdr")


def test_names_may_be_in_capitals(tmp_path: Path) -> None:
    data.save(tmp_path / "a.nii.gz", CT).rename(tmp_path / "A.NII.GZ")
    np.testing.assert_array_equal(reader.read(tmp_path / "A.NII.GZ").array, CT.T)


def test_labels_a_little_off_whole_numbers_are_rounded(tmp_path: Path) -> None:
    image = reader.read(data.save(tmp_path / "image.nii.gz", CT))
    labels = (CT > 0).astype(np.float32) * 3
    off = labels * np.float32(0.9999)
    off[labels == 0] += np.float32(1e-7)
    read = reader.read_label(data.save(tmp_path / "label.nii.gz", off), image)
    np.testing.assert_array_equal(read.array, labels.T)
    assert read.array.dtype == np.uint8
    assert read.remarks[0].startswith("label values are rounded: ")
    with pytest.raises(BadVolume, match="not whole numbers"):
        reader.read_label(data.save(tmp_path / "half.nii.gz", labels * 0.99), image)


def test_spacing_of_one_millimetre_is_remarked_for_every_format(tmp_path: Path) -> None:
    image = reader.sitk.GetImageFromArray(CT.T)
    for name in ("a.nrrd", "a.mha", "a.nii.gz"):
        reader.sitk.WriteImage(image, str(tmp_path / name))
        assert reader.read(tmp_path / name).remarks[-1].startswith("spacing is 1 x 1 x 1 mm")
