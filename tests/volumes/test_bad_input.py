"""Every way in which a volume can be bad: a clear reason, and the others go on."""

import gzip
import tempfile
from pathlib import Path

import ct3m_data as data
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meddino.ct3m import shards
from meddino.volumes import reader
from meddino.volumes.reader import BadVolume

PIXDIM = 76  # offset of pixdim[0] in a NIfTI-1 header


def truncated(path: Path) -> None:
    whole = data.save(path, data.body()).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def corrupted(path: Path) -> None:
    whole = bytearray(data.save(path, data.body()).read_bytes())
    whole[len(whole) // 2 : len(whole) // 2 + 64] = bytes(64)
    path.write_bytes(whole)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def web_page(path: Path) -> None:
    path.write_text("<html>quota exceeded</html>")


def zipped_text(path: Path) -> None:
    path.write_bytes(gzip.compress(b"no image at all" * 100))


def flat(path: Path) -> None:
    data.save(path, data.body()[..., 0])


def series_of_volumes(path: Path) -> None:
    data.save(path, np.stack([data.body(), data.body()], axis=-1))


def colour(path: Path) -> None:
    data.save(path, np.zeros((40, 36, 10), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]))


def nan(path: Path) -> None:
    array = data.body().astype(np.float32)
    array[3, 4, 5] = np.nan
    data.save(path, array)


def infinite(path: Path) -> None:
    array = data.body().astype(np.float32)
    array[3, 4, 5] = -np.inf
    data.save(path, array)


def with_pixdim(path: Path, axis: int, value: float) -> None:
    whole = bytearray(gzip.decompress(data.save(path, data.body()).read_bytes()))
    start = PIXDIM + 4 * axis
    whole[start : start + 4] = np.float32(value).tobytes()
    path.write_bytes(gzip.compress(bytes(whole)))


def zero_spacing(path: Path) -> None:
    with_pixdim(path, 3, 0.0)


def negative_spacing(path: Path) -> None:
    with_pixdim(path, 1, -0.9)


def nan_spacing(path: Path) -> None:
    with_pixdim(path, 2, np.nan)


def giant_spacing(path: Path) -> None:
    data.save(path, data.body(), data.affine((900.0, 800.0, 2500.0)))  # micrometres


def tiny_spacing(path: Path) -> None:
    data.save(path, data.body(), data.affine((0.0009, 0.0008, 0.0025)))  # metres


def sheared(path: Path) -> None:
    matrix = data.affine()
    matrix[1, 2] = 0.8
    image = nib.Nifti1Image(data.body(), None)
    image.set_sform(matrix, code=1)
    image.header.set_zooms(data.SPACING)
    nib.save(image, path)


def singular(path: Path) -> None:
    matrix = data.affine()
    matrix[:3, 2] = matrix[:3, 1]
    image = nib.Nifti1Image(data.body(), None)
    image.set_sform(matrix, code=1)
    nib.save(image, path)


def grey_values(path: Path) -> None:
    data.save(path, np.clip((data.body() + 1000) // 8, 0, 255).astype(np.uint8))


def unscaled(path: Path) -> None:
    data.save(path, (np.clip(data.body(), -1024, 3071) + 1024).astype(np.uint16))


def offset_twice(path: Path) -> None:
    data.save(path, data.body() - 1024)


def normalised(path: Path) -> None:
    data.save(path, (data.body() / 1000).astype(np.float32))


def constant(path: Path) -> None:
    data.save(path, np.full((40, 36, 10), -1000, dtype=np.int16))


def beyond_range(path: Path) -> None:
    array = data.body().astype(np.float32)
    array[0, 0, 0] = 1e7
    data.save(path, array)


def oblique(path: Path) -> None:
    c, s = np.cos(np.radians(40)), np.sin(np.radians(40))
    data.save(
        path,
        data.body(),
        data.affine(rotation=np.array([[1, 0, 0], [0, c, -s], [0, s, c]])),
    )


def few_slices(path: Path) -> None:
    data.save(path, data.body(shape=(40, 36, 3)))


def narrow(path: Path) -> None:
    data.save(path, data.body(shape=(40, 9, 30)))


def broken_link(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere.nii"))


BAD = {
    truncated: r"cannot be read as NIfTI, it is truncated.*fetch the file again",
    corrupted: r"cannot be read as NIfTI.*fetch the file again",
    empty: r"is an empty file; fetch the file again",
    web_page: r"no image at all.*fetch the file again",
    zipped_text: r"no image at all.*fetch the file again",
    flat: r"is 2-D \(40 x 36\), not a 3-D volume",
    series_of_volumes: r"is 4-D \(40 x 36 x 10 x 2\), not a 3-D volume",
    colour: r"not single numbers: a colour",
    nan: r"holds 1 values that are NaN or infinite",
    infinite: r"holds 1 values that are NaN or infinite",
    zero_spacing: r"spacing \(pixdim\) of 0\.9 x 0\.8 x 0 mm, which is zero.*mend the header",
    negative_spacing: r"spacing \(pixdim\) of -0\.9 x .* negative.*mend the header",
    nan_spacing: r"spacing \(pixdim\) of 0\.9 x nan x .* no number.*mend the header",
    giant_spacing: r"spacing of 900 x 800 x 2500 mm is absurd.*mend the header",
    tiny_spacing: r"mm is absurd.*mend the header",
    sheared: r"sheared, not orthonormal: 1\d\.\d degrees",
    singular: r"sheared, not orthonormal",
    grey_values: r"not in HU but in 8-bit grey values",
    unscaled: r"not in HU: no value below 0, the offset of -1024 was lost",
    offset_twice: r"not in HU, or shows no body: .*subtracting the offset twice",
    normalised: r"not in HU: neither air nor fat",
    constant: r"is constant: an empty image",
    beyond_range: r"beyond any scanner's range",
    oblique: r"oblique: tilted by 40\.0 degrees.*max_oblique_deg = 30",
    few_slices: r"too few slices: 3, fewer than curation.min_slices = 8",
    narrow: r"only 9 x 40 pixels",
    broken_link: r"does not exist, or is a link to nowhere",
}


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_a_bad_volume_is_quarantined_and_the_others_survive(tmp_path, make, capfd):
    raw = tmp_path / "raw"
    for name in ("before", "later"):
        data.save(raw / f"{name}.nii.gz", data.body(len(name)))
    bad = raw / "case.nii.gz"
    make(bad)
    report = data.run(raw, tmp_path / "out")
    (entry,) = report["quarantined"]
    assert (entry["case"], entry["path"]) == ("case", str(bad))
    assert (report["volumes"], report["slices"]) == (2, 20)
    _assert_matches(BAD[make], entry["reason"])
    for size in (32, 64):
        rows = shards.read_metadata(shards.open_shard(tmp_path / f"out/0.{size}.parquet"))
        assert set(rows["case"].to_pylist()) == {"before", "later"}
    printed = capfd.readouterr().err
    assert entry["reason"] in printed and "WARNING" not in printed


def _assert_matches(pattern: str, reason: str) -> None:
    with pytest.raises(BadVolume, match=pattern):
        raise BadVolume(reason)
    assert "\n" not in reason and reason.count("; ") == 1, "one line: what is wrong; what to do"
    assert reason.endswith("list the case under `exclude_cases`"), "in the words of a curation"


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=4))
@example([(109, 128)])  # voxels that begin where a part of them is beyond the file's end
@example([(111, 0xC3)])  # before its beginning
def test_any_header_is_read_or_refused_never_a_crash(changes):
    with tempfile.TemporaryDirectory() as folder:
        path = data.save(Path(folder) / "a.nii", data.body())
        content = bytearray(path.read_bytes())
        for place, value in changes:
            content[place] = value
        path.write_bytes(content)
        try:
            volume = reader.read(path)
        except BadVolume:
            return
        assert volume.array.ndim == 3 and np.linalg.det(volume.direction) > 0.99


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 1, exclude_max=True))
def test_a_file_cut_short_anywhere_is_refused(part):
    with tempfile.TemporaryDirectory() as folder:
        path = data.save(Path(folder) / "a.nii.gz", data.body())
        content = path.read_bytes()
        path.write_bytes(content[: int(part * len(content))])
        with pytest.raises(BadVolume, match=r"truncated|empty file"):
            reader.read(path)


def test_a_flipped_bit_is_noticed_by_the_checksum(tmp_path):
    path = data.save(tmp_path / "a.nii.gz", data.body())
    content = bytearray(path.read_bytes())
    content[-8] ^= 1  # of the checksum: the volume itself would unpack
    path.write_bytes(content)
    with pytest.raises(BadVolume, match="CRC check failed"):
        reader.read(path)


def test_a_file_that_is_not_packed_despite_its_name_is_read(tmp_path):
    plain = data.save(tmp_path / "a.nii", data.body())
    plain.rename(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(reader.read(tmp_path / "a.nii.gz").array, data.body().T)


def test_nifti_2_is_read(tmp_path):
    nib.save(nib.Nifti2Image(data.body(), data.affine()), tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(reader.read(tmp_path / "a.nii.gz").array, data.body().T)


def test_a_chunk_of_bad_volumes_only_gives_empty_shards(tmp_path):
    (tmp_path / "raw").mkdir()
    truncated(tmp_path / "raw/a.nii.gz")
    web_page(tmp_path / "raw/b.nii.gz")
    report = data.run(tmp_path / "raw", tmp_path / "out")
    assert (report["volumes"], report["slices"], len(report["quarantined"])) == (0, 0, 2)
    assert shards.open_shard(tmp_path / "out/0.64.parquet").metadata.num_rows == 0


def shifted(label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    matrix = data.affine()
    matrix[0, 3] += 5
    return label, matrix


def cropped(label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return label[..., :-1], data.affine()


def coarser(label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return label, data.affine((0.9, 0.8, 3.0))


def an_image(label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return data.body(), data.affine()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shifted, r"another grid than its image \(voxels are up to 5\.0 mm apart\)"),
        (cropped, r"another grid than its image \(9 x 36 x 40 and 10 x 36 x 40 voxels\)"),
        (coarser, r"another grid than its image \(voxels are up to 4\.5 mm apart\)"),
        (an_image, r"not whole numbers from 0 on"),
    ],
)
def test_a_label_that_does_not_fit_is_refused(tmp_path, spoil, message):
    image = reader.read(data.save(tmp_path / "image.nii.gz", data.body()))
    label, matrix = spoil((data.body() > 0).astype(np.uint8))
    path = data.save(tmp_path / "label.nii.gz", label, matrix)
    with pytest.raises(BadVolume, match=message):
        reader.read_label(path, image)


def write_series(
    folder: Path,
    heights: list[float],
    *,
    uid: str = "1.2.3",
    modality: str = "CT",
    tilt: float = 0,
    compressor: str | None = None,
) -> None:
    """A DICOM series with slices at `heights` mm; `tilt` mm of shift per slice."""
    folder.mkdir(parents=True, exist_ok=True)
    stack = data.body(shape=(40, 36, len(heights))).T
    for number, (slice_, height) in enumerate(zip(stack, heights, strict=True)):
        image = sitk.GetImageFromArray(slice_[None])
        image.SetSpacing((0.9, 0.8, 1.0))
        for key, value in {
            "0008|0060": modality,
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0020|000d": "1.2.3.4",
            "0020|000e": uid,
            "0020|0013": str(len(heights) - number),  # numbered from the top
            "0020|0032": f"-10\\{number * tilt:g}\\{height:g}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0028|1052": "-1024",
            "0028|1053": "1",
        }.items():
            image.SetMetaData(key, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        if compressor is not None:
            writer.UseCompressionOn()
            writer.SetCompressor(compressor)
        image.SetMetaData("0008|0018", f"{uid}.{number + 1}")
        writer.SetFileName(str(folder / f"{uid}-{(number * 7) % 101:03d}.dcm"))
        writer.Execute(image)


def test_a_series_is_sorted_by_position(tmp_path):
    heights = [10 + 2.5 * i for i in range(12)]
    write_series(tmp_path / "case", heights)
    volume = reader.read(tmp_path / "case")
    np.testing.assert_array_equal(volume.array, data.body(shape=(40, 36, 12)).T)
    assert volume.spacing_mm == pytest.approx((2.5, 0.8, 0.9))
    assert volume.origin_mm == pytest.approx((-10, 0, 10))
    assert volume.remarks == ()


@pytest.mark.parametrize(("compressor", "syntax"), [("JPEG", "4.70"), ("JPEG2000", "4.90")])
def test_compressed_series_are_read(tmp_path, compressor, syntax):
    """Lossless JPEG and JPEG 2000, told by their transfer syntax."""
    write_series(tmp_path / "case", [2.0 * i for i in range(12)], compressor=compressor)
    file = next((tmp_path / "case").iterdir())
    assert f"1.2.840.10008.1.2.{syntax}".encode() in file.read_bytes()[:600]
    volume = reader.read(tmp_path / "case")
    np.testing.assert_array_equal(volume.array, data.body(shape=(40, 36, 12)).T)


def test_the_longest_series_is_taken(tmp_path):
    write_series(tmp_path / "case", [0.0, 5.0], uid="1.2.1")
    write_series(tmp_path / "case", [2.0 * i for i in range(9)], uid="1.2.2")
    volume = reader.read(tmp_path / "case")
    assert len(volume.array) == 9
    (remark,) = volume.remarks
    assert remark == "further series are left: without a number (2 slices): shorter"


def test_slightly_uneven_gaps_are_remarked(tmp_path):
    write_series(tmp_path / "case", [0, 2, 4, 6.1, 8, 10, 12, 14, 16, 18])
    assert "differ slightly" in reader.read(tmp_path / "case").remarks[0]


@pytest.mark.parametrize(
    ("heights", "series", "message"),
    [
        ([0, 2, 4, 6, 10, 12, 14, 16, 18], {}, r"uneven \(from 2.00 to 4.00 mm\).*missing"),
        ([0, 2, 4, 4, 6, 8, 10, 12, 14], {}, r"uneven \(from 0.00 to 2.00 mm\).*repeated"),
        ([2 * i for i in range(9)], {"tilt": 0.8}, r"sheared.*tilted gantry"),
        ([2 * i for i in range(9)], {"modality": "PT"}, r"modality PT, not CT"),
    ],
    ids=["missing", "repeated", "gantry", "modality"],
)
def test_a_bad_series_is_quarantined(tmp_path, heights, series, message):
    write_series(tmp_path / "raw/bad", heights, **series)
    write_series(tmp_path / "raw/good", [2.0 * i for i in range(9)])
    report = data.run(tmp_path / "raw", tmp_path / "out")
    (entry,) = report["quarantined"]
    assert entry["case"] == "bad" and report["slices"] == 9
    _assert_matches(message, entry["reason"])


def test_files_that_are_no_dicom_are_quarantined(tmp_path):
    (tmp_path / "raw/bad").mkdir(parents=True)
    (tmp_path / "raw/bad/1.dcm").write_bytes(b"no DICOM")
    data.save(tmp_path / "raw/good.nii.gz", data.body())
    report = data.run(tmp_path / "raw", tmp_path / "out")
    (entry,) = report["quarantined"]
    assert report["volumes"] == 1
    _assert_matches("no readable DICOM series", entry["reason"])


@pytest.mark.parametrize("number", [4, 0], ids=["inside", "end"])
def test_a_truncated_dicom_file_does_not_pass_in_silence(tmp_path, number):
    write_series(tmp_path / "raw/bad", [2.0 * i for i in range(9)])
    file = tmp_path / f"raw/bad/1.2.3-{number * 7:03d}.dcm"
    file.write_bytes(file.read_bytes()[:-500])
    data.save(tmp_path / "raw/good.nii.gz", data.body())
    report = data.run(tmp_path / "raw", tmp_path / "out", min_slices=5)
    if number:
        assert report["volumes"] == 1
        _assert_matches("slices are missing", report["quarantined"][0]["reason"])
    else:
        (remark,) = report["remarks"]
        assert remark["case"] == "bad"
        assert remark["remark"] == (
            f"damaged files are left: 1, such as {file.name} (it is cut off, 500 bytes are missing)"
        )
