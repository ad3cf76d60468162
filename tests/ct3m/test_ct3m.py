"""Curation: what volumes become, slice by slice."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import ct3m_data as data
import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from meddino.core.errors import MeddinoError
from meddino.core.files import sha256
from meddino.ct3m import codec, index, shards, slices
from meddino.ct3m.loader import SliceLoader
from meddino.ct3m.options import IndexOptions
from meddino.volumes import reader
from meddino.volumes.resample import Resizer, linear, through

SIDES = st.integers(16, 96)
SPACINGS = st.floats(0.2, 3.0)
SIZES = st.integers(16, 96)
few = settings(max_examples=40, deadline=None)


def resized(image: np.ndarray, spacing: tuple[float, float], size: int) -> np.ndarray:
    resizer = Resizer.of(image.shape, spacing, target_mm=0.45, size_px=size)
    return resizer(image.astype(np.float32))


@few
@given(SIDES, SIDES, SPACINGS, SPACINGS, SIZES, st.integers(-1024, 3071))
def test_constants_stay_constant(height, width, dy, dx, size, value):
    out = resized(np.full((height, width), value), (dy, dx), size)
    assert out.shape == (size, size)
    np.testing.assert_allclose(out, value, rtol=1e-5, atol=1e-3)


@few
@given(SIDES, SPACINGS, SIZES)
def test_ramps_stay_linear_inside(length, spacing, size):
    matrix = through(length, length * spacing / 0.45, size)
    between = max(1, round(length * spacing / 0.45))
    # The filters of both steps reach this far; beyond, the edge cuts them off.
    margin = 2 + max(1, length / between) + max(1, between / size) * length / between
    place = (np.arange(size) + 0.5) * length / size - 0.5
    inside = (place > margin) & (place < length - 1 - margin)
    out = matrix @ np.arange(length, dtype=np.float32)
    np.testing.assert_allclose(out[inside], place[inside], atol=1e-3)


@few
@given(SIDES, SPACINGS, SIZES, st.integers(0, 99))
def test_results_stay_within_the_range_of_the_slice(length, spacing, size, seed):
    image = np.random.default_rng(seed).integers(-1024, 3000, (length, length))
    out = resized(image, (spacing, spacing), size)
    assert image.min() - 0.01 <= out.min() and out.max() <= image.max() + 0.01


@few
@given(st.integers(48, 96), st.floats(0.45, 1.0), st.integers(0, 99))
def test_mean_is_preserved_when_shrinking(length, spacing, seed):
    image = np.zeros((length, length))
    quarter = length // 4
    inner = np.random.default_rng(seed).normal(100, 10, (length - 2 * quarter,) * 2)
    image[quarter : length - quarter, quarter : length - quarter] = inner
    out = resized(image, (spacing, spacing), 32)
    assert out.mean() == pytest.approx(image.mean(), rel=0.02)


def test_shrinking_is_antialiased():
    stripes = np.tile([0.0, 1000.0], 64)
    out = linear(128, 32) @ stripes
    np.testing.assert_allclose(out[1:-1], 500, atol=1)  # plain interpolation would alias


def test_both_steps_are_one_matrix():
    image = np.random.default_rng(1).normal(size=50)
    steps = linear(90, 32) @ (linear(50, 90) @ image)
    np.testing.assert_allclose(through(50, 90.2, 32) @ image, steps, atol=1e-5)


def resampled(image, size, shift=(0.0, 0.0)):
    """SimpleITK's linear resampling of the same extent to `size` (x, y) pixels.

    `shift` moves the samples, in pixels of `image`.
    """
    old, extent = image.GetSpacing(), image.GetSize()
    spacing = [old[axis] * extent[axis] / size[axis] for axis in (0, 1)]
    first = [(spacing[axis] / old[axis] - 1) / 2 + shift[axis] for axis in (0, 1)]
    start = image.TransformContinuousIndexToPhysicalPoint(first)
    return sitk.Resample(image, size, sitk.Transform(), sitk.sitkLinear, start, spacing)


def halved(image):
    """Antialiased shrinking by two: nine resamplings, weighted 1 2 1 along each axis."""
    size = [length // 2 for length in image.GetSize()]
    shifts = {-1.0: 0.25, 0.0: 0.5, 1.0: 0.25}
    parts = [
        weight_x * weight_y * sitk.GetArrayFromImage(resampled(image, size, (x, y)))
        for x, weight_x in shifts.items()
        for y, weight_y in shifts.items()
    ]
    return np.sum(parts, axis=0)


@pytest.mark.parametrize(
    ("shape", "spacing", "size"),
    [
        ((300, 300), (512 * 0.45 / 300, 512 * 0.45 / 300), 256),  # enlarged to 512, then halved
        ((90, 120), (0.7, 0.6), 256),  # enlarged twice
        ((256, 200), (0.45, 0.45), 256),  # only the second step changes anything, along x
    ],
)
def test_one_matrix_equals_two_steps_of_simpleitk(shape, spacing, size):
    """Section 3.2's two steps, to 0.45 mm and then to the size, agree within 1 HU inside."""
    body = data.body(3, (shape[1], shape[0], 1))[..., 0].T.astype(np.float32)
    image = sitk.GetImageFromArray(body)
    image.SetSpacing(spacing[::-1])
    between = [round(shape[axis] * spacing[axis] / 0.45) for axis in (1, 0)]
    fine = resampled(image, between)
    halve = between == [2 * size, 2 * size]
    expected = halved(fine) if halve else sitk.GetArrayFromImage(resampled(fine, [size, size]))
    found = Resizer.of(shape, spacing, target_mm=0.45, size_px=size)(body)
    inside = (slice(4, -4), slice(4, -4))
    assert np.ptp(expected) > 900
    np.testing.assert_allclose(found[inside], expected[inside], atol=1)


def orientations() -> list[str]:
    return ["LPS", "RAS", "LAS", "PIR", "SRA", "ASL", "IPL"]


@pytest.mark.parametrize("code", orientations())
def test_orientation_on_disk_does_not_matter(tmp_path, code):
    image = nib.Nifti1Image(data.body(), data.affine())
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(code)
    )
    turned = image.as_reoriented(turn)
    assert "".join(nib.aff2axcodes(turned.affine)) == code
    nib.save(turned, tmp_path / "turned.nii.gz")
    volume = reader.read(tmp_path / "turned.nii.gz")
    np.testing.assert_array_equal(volume.array, data.body().T)
    np.testing.assert_allclose(volume.spacing_mm, data.SPACING[::-1], rtol=1e-6)
    np.testing.assert_allclose(volume.origin_mm, (-20, -30, -400), atol=1e-3)
    np.testing.assert_allclose(volume.direction, np.eye(3), atol=1e-6)


def test_volume_agrees_with_simpleitk(tmp_path):
    tilt = rotation_x(10)
    path = data.save(tmp_path / "a.nii.gz", data.body(), data.affine(rotation=tilt))
    volume = reader.read(path)
    expected = sitk.ReadImage(str(path))
    image = volume.image()
    assert volume.oblique_deg == pytest.approx(10, abs=0.01)
    for corner in [(0, 0, 0), (39, 35, 9), (5, 30, 2)]:
        point = image.TransformIndexToPhysicalPoint(corner)
        np.testing.assert_allclose(point, expected.TransformIndexToPhysicalPoint(corner), atol=1e-3)
        assert image[corner] == expected[corner]


def rotation_x(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def test_padding_is_clipped_floats_are_rounded_and_scaling_is_applied(tmp_path):
    array = data.body().astype(np.float32) + 0.3
    array[0, 0] = -3024
    volume = reader.read(data.save(tmp_path / "a.nii.gz", array))
    assert volume.array.dtype == np.int16
    assert (volume.array[:, 0, 0] == -1024).all()
    np.testing.assert_array_equal(volume.array[:, 5:], data.body().T[:, 5:])
    scaled = nib.Nifti1Image((data.body() + 1024).astype(np.uint16), data.affine())
    scaled.header.set_slope_inter(1, -1024)
    nib.save(scaled, tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(reader.read(tmp_path / "b.nii.gz").array, data.body().T)


def test_a_last_axis_of_one_is_squeezed(tmp_path):
    path = data.save(tmp_path / "a.nii.gz", data.body()[..., None])
    np.testing.assert_array_equal(reader.read(path).array, data.body().T)


def test_slightly_skewed_axes_are_mended_with_a_remark(tmp_path):
    matrix = data.affine()
    matrix[0, 1] += 0.01
    volume = reader.read(data.save(tmp_path / "a.nii.gz", data.body(), matrix))
    np.testing.assert_allclose(volume.direction.T @ volume.direction, np.eye(3), atol=1e-9)
    assert "nearest rotation" in volume.remarks[0]
    volume.image()


def test_other_formats_are_read_too(tmp_path):
    image = reader.read(data.save(tmp_path / "a.nii.gz", data.body())).image()
    for name in ("a.mha", "a.nrrd"):
        sitk.WriteImage(image, str(tmp_path / name))
        np.testing.assert_array_equal(reader.read(tmp_path / name).array, data.body().T)


def test_labels_are_whole_numbers_on_the_grid_of_the_image(tmp_path):
    image = reader.read(data.save(tmp_path / "a.nii.gz", data.body()))
    label = (data.body() > 0).astype(np.float32) * 3
    flipped = nib.Nifti1Image(label, data.affine()).as_reoriented([[0, -1], [2, 1], [1, 1]])
    nib.save(flipped, tmp_path / "label.nii.gz")
    read = reader.read_label(tmp_path / "label.nii.gz", image)
    assert read.array.dtype == np.uint8
    np.testing.assert_array_equal(read.array, label.T)


def test_slices_index_and_loader_agree(tmp_path):
    for name in ("a", "b", "c"):
        data.save(tmp_path / "raw" / f"{name}.nii.gz", data.body(ord(name)))
    reports = []
    for chunk in (0, 1):
        report = data.run(tmp_path / "raw", tmp_path / "out/toy", chunk=chunk, chunks=2)
        assert report["quarantined"] == []
        reports.append(tmp_path / f"out/toy/{chunk}.json")
    for size in (32, 64):
        table = tmp_path / f"out/index.{size}.parquet"
        index.run(IndexOptions(size_px=size), reports=reports, output=table)
        loader = SliceLoader(table, batch_size=30, seed=0)
        assert len(loader) == 30
        batch, rows = loader.batch(0).numpy(), loader.indices(0)
        assert batch.shape == (30, size, size) and batch.dtype == np.int16
        stored = pq.read_table(table).take(rows).to_pylist()
        for image, row in zip(batch, stored, strict=True):
            source = data.body(ord(row["case"]))[..., row["slice"]].T
            expected = resized(source, data.SPACING[1::-1], size)
            np.testing.assert_array_equal(image, np.rint(expected).astype(np.int16))
            assert row["hu_mean"] == pytest.approx(image.mean(), rel=1e-4)
            assert row["hu_std"] == pytest.approx(image.std(), rel=1e-4)
            assert row["z_mm"] == pytest.approx(-400 + 2.5 * row["slice"], abs=1e-3)
            assert (row["rows"], row["columns"]) == (36, 40)
            assert row["body_fraction"] == pytest.approx((source > -500).mean(), abs=1e-6)


def test_an_index_is_the_same_in_any_pieces(tmp_path, monkeypatch):
    reports = []
    for chunk in range(3):
        data.save(tmp_path / f"raw{chunk}/v{chunk}.nii.gz", data.body(chunk))
        data.run(tmp_path / f"raw{chunk}", tmp_path / f"out/{chunk}")
        reports.append(tmp_path / f"out/{chunk}/0.json")
    tables, cards = [], []
    for rows in (1 << 20, 7, 12):
        monkeypatch.setattr(index, "GROUP_ROWS", rows)
        index.run(IndexOptions(size_px=32), reports=reports, output=tmp_path / "out/index.parquet")
        file = pq.ParquetFile(tmp_path / "out/index.parquet")
        assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)][:-1] == (
            [rows] * (29 // rows)
        )
        tables.append(file.read().to_pylist())
        cards.append((tmp_path / "out/index.card.json").read_text())
    assert len(tables[0]) == 30 and tables[0] == tables[1] == tables[2]
    assert cards[0] == cards[1] == cards[2]


def test_copies_have_equal_digests_and_others_do_not(tmp_path):
    data.save(tmp_path / "raw/a.nii.gz", data.body(1))
    flip = nib.Nifti1Image(data.body(1).astype(np.float64), data.affine())
    nib.save(flip.as_reoriented([[1, 1], [0, -1], [2, 1]]), tmp_path / "raw/copy.nii.gz")
    data.save(tmp_path / "raw/other.nii.gz", data.body(2))
    data.run(tmp_path / "raw", tmp_path / "out")
    rows = shards.read_metadata(shards.open_shard(tmp_path / "out/0.32.parquet")).to_pylist()
    digests = {
        case: [r["sha"] for r in rows if r["case"] == case] for case in ("a", "copy", "other")
    }
    assert digests["a"] == digests["copy"]
    assert not set(digests["a"]) & set(digests["other"])


def test_bytes_are_a_function_of_the_input(tmp_path):
    data.save(tmp_path / "raw/a.nii.gz", data.body(1))
    (tmp_path / "raw/b.nii.gz").write_bytes(b"junk")
    for name in ("one", "two"):
        data.run(tmp_path / "raw", tmp_path / name)
    for name in ("0.json", "0.32.parquet", "0.64.parquet"):
        assert sha256(tmp_path / "one" / name) == sha256(tmp_path / "two" / name)


def test_slices_of_air_are_dropped_and_counted(tmp_path):
    array = data.body()
    array[..., :3] = -1000
    array[..., 9] = -1000
    data.save(tmp_path / "raw/a.nii.gz", array)
    report = data.run(tmp_path / "raw", tmp_path / "out")
    assert (report["slices"], report["air_slices"]) == (6, 4)
    rows = shards.read_metadata(shards.open_shard(tmp_path / "out/0.64.parquet")).to_pylist()
    assert [row["slice"] for row in rows] == [3, 4, 5, 6, 7, 8]


def test_modalities_are_kept_apart(tmp_path):
    data.save(tmp_path / "raw/a.nii.gz", data.body())
    data.save(tmp_path / "raw/mr.nii.gz", data.body() + 1024)
    layout = data.LAYOUT.model_copy(update={"mr_cases": "mr"})
    report = data.run(tmp_path / "raw", tmp_path / "ct", dataset=layout)
    assert (report["volumes"], report["other_modality"]) == (1, 1)
    both = data.run(tmp_path / "raw", tmp_path / "both", dataset=layout, modalities=("CT", "MR"))
    assert (both["volumes"], both["other_modality"], both["quarantined"]) == (2, 0, [])


@settings(deadline=None, max_examples=50)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)), st.integers(0, 2**32 - 1), st.integers(1, 16)
)
def test_pixels_survive_their_filter(shape, seed, bits):
    values = np.random.default_rng(seed).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), shape)
    image = values.astype(np.int16)
    decoded = codec.decode([codec.encode(image), codec.encode(-image, level=3)], shape)
    np.testing.assert_array_equal(decoded, [image, -image])
    with pytest.raises(OSError):
        codec.decode([codec.encode(image)[:-1]], shape)
    with pytest.raises(OSError):
        codec.decode([codec.encode(image)], (shape[0] + 1, shape[1]))


def test_values_are_kept_within_hu_range(tmp_path):
    array = data.body()
    array[18:22, 16:20] = 20000
    data.save(tmp_path / "raw/a.nii.gz", array)
    data.run(tmp_path / "raw", tmp_path / "out", hu_range=(-500, 1500))
    images = np.stack(list(shards.read_slices(tmp_path / "out/0.64.parquet")))
    assert images.min() == -500 and images.max() == 1500


def test_a_chunk_without_cases_gives_empty_shards(tmp_path):
    data.save(tmp_path / "raw/a.nii.gz", data.body())
    report = data.run(tmp_path / "raw", tmp_path / "out", chunk=3, chunks=5)
    assert (report["volumes"], report["slices"]) == (0, 0)
    shard = shards.open_shard(tmp_path / "out/3.32.parquet")
    assert (shard.metadata.num_rows, shards.slice_size_px(shard)) == (0, 32)


def test_an_empty_dataset_is_an_error(tmp_path):
    (tmp_path / "raw").mkdir()
    with pytest.raises(MeddinoError, match="no file matches"):
        data.run(tmp_path / "raw", tmp_path / "out")


def test_a_failing_writer_leaves_nothing_and_a_rerun_succeeds(tmp_path, monkeypatch):
    data.save(tmp_path / "raw/a.nii.gz", data.body())
    data.run(tmp_path / "raw", tmp_path / "out")

    class Full(shards.ShardWriter):
        def _flush(self):
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(slices, "ShardWriter", Full)
        with pytest.raises(MeddinoError, match="free space"):
            data.run(tmp_path / "raw", tmp_path / "out")
    # The shards of before stay, but no report vouches for them.
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["0.32.parquet", "0.64.parquet"]
    assert data.run(tmp_path / "raw", tmp_path / "out")["slices"] == 10


def test_a_killed_run_leaves_no_output_and_a_rerun_succeeds(tmp_path, root):
    for name in ("a", "b"):
        data.save(tmp_path / "raw" / f"{name}.nii.gz", data.body(ord(name)))
    script = f"""
        import os, signal
        from pathlib import Path
        import ct3m_data as data
        from meddino.ct3m import slices
        read = slices.read_volumes
        def die_at_the_second(case, options):
            if case.id == "b":
                os.kill(os.getpid(), signal.SIGKILL)
            return read(case, options)
        slices.read_volumes = die_at_the_second
        data.run(Path({str(tmp_path / "raw")!r}), Path({str(tmp_path / "out")!r}))
    """
    paths = os.pathsep.join([str(root), str(root / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], env={**os.environ, "PYTHONPATH": paths}
    )
    assert done.returncode == -signal.SIGKILL
    left = [path.name for path in (tmp_path / "out").iterdir()]
    assert left and all(name.startswith(".tmp-") for name in left)
    assert data.run(tmp_path / "raw", tmp_path / "out")["slices"] == 20
    clean = data.run(tmp_path / "raw", tmp_path / "clean")
    assert clean["volumes"] == 2
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"0.json", "0.32.parquet", "0.64.parquet"}
    for name in names:
        assert sha256(tmp_path / "out" / name) == sha256(Path(tmp_path / "clean" / name))


def digests(folder):
    return {path.name: sha256(path) for path in sorted(folder.iterdir())}


def test_any_number_of_workers_gives_the_same_bytes(tmp_path, monkeypatch):
    for seed in range(8):
        data.save(tmp_path / f"raw/{seed}.nii.gz", data.body(seed))
    (tmp_path / "raw/8.nii.gz").write_bytes(b"damaged")
    for workers in (1, 2):
        monkeypatch.setenv("OMP_NUM_THREADS", str(workers))
        data.run(tmp_path / "raw", tmp_path / str(workers))
    assert digests(tmp_path / "1") == digests(tmp_path / "2")


def test_a_worker_that_is_killed_ends_the_chunk_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(slices, "cut", data.killed)
    for seed in range(8):
        data.save(tmp_path / f"raw/{seed}.nii.gz", data.body(seed))
    with pytest.raises(MeddinoError, match="one of 2 processes was killed, as where memory is"):
        data.run(tmp_path / "raw", tmp_path / "out")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_kill_9_at_ten_moments_leaves_nothing_that_a_rerun_does_not_mend(tmp_path, root):
    """Ten runs are killed, each a tenth of a whole run later than the one before."""
    for seed in range(6):
        data.save(tmp_path / f"raw/{seed}.nii.gz", data.body(seed, (96, 96, 24)))
    script = f"""
        from pathlib import Path
        import ct3m_data as data
        print("ready", flush=True)
        data.run(Path({str(tmp_path / "raw")!r}), Path({str(tmp_path / "out")!r}))
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    paths = os.pathsep.join([str(root), str(root / "tests")])
    start = time.monotonic()
    data.run(tmp_path / "raw", tmp_path / "clean")
    took = time.monotonic() - start
    wholes = {}
    for tenth in range(10):
        with subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
            time.sleep(took * tenth / 10)
            process.kill()
        names = {path.name for path in (tmp_path / "out").glob("[0-9]*")}
        # The report vouches for the shards: where it is, all is there.
        assert "0.json" not in names or names == set(digests(tmp_path / "clean"))
        wholes[tenth] = "0.json" in names
    data.run(tmp_path / "raw", tmp_path / "out")
    assert digests(tmp_path / "out") == digests(tmp_path / "clean"), wholes
