"""DICOM frames in order: enhanced files, several series and phases of a folder, copies, damage."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ct3m_data
import dicom_data as data
import numpy as np
import pytest
from dicom_data import group, item, series, slice_of, stack, write
from pydicom.dataset import Dataset
from pydicom.uid import (
    JPEG2000Lossless,
)

from meddino.ct3m import shards
from meddino.volumes import reader
from meddino.volumes.reader import BadVolume, Volume

CT = stack()
STORED = CT - data.OFFSET


def assert_plain(volume: Volume, images: np.ndarray = CT) -> None:
    """The volume is that of the plain series, on its grid."""
    np.testing.assert_array_equal(volume.array, images)
    assert volume.spacing_mm == pytest.approx(data.SPACING, abs=2e-3)
    assert volume.origin_mm == pytest.approx(data.ORIGIN, abs=0.02)
    assert volume.modality == "CT"


def in_order(count: int = len(CT)) -> list[Dataset]:
    return [group(number) for number in range(count)]


def shorter(folder: Path) -> None:
    series(folder, stack(8, 1), "b{}", SeriesInstanceUID="1.5", SeriesDescription="Lung")


def localiser(folder: Path) -> None:
    kind = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    write(folder / "zz.dcm", slice_of(CT[3], 12, ImageType=kind))


# ---- enhanced ---------------------------------------------------------------------------------


def test_enhanced_frames_are_sorted_by_position(tmp_path: Path) -> None:
    order = np.random.default_rng(1).permutation(len(CT))
    dataset = data.enhanced(STORED[order], [group(number) for number in order])
    volume = reader.read(write(tmp_path / "e.dcm", dataset))
    assert_plain(volume)
    assert volume.remarks == ()


def test_enhanced_frames_a_little_off_lie_on_an_even_grid(tmp_path: Path) -> None:
    jitter = 0.02 * (-1.0) ** np.arange(len(CT)) / data.SPACING[0]
    groups = [group(number + off) for number, off in enumerate(jitter)]
    volume = reader.read(write(tmp_path / "e.dcm", data.enhanced(STORED, groups)))
    assert_plain(volume)
    assert volume.remarks[0].startswith("gaps between slices differ slightly: from 2.46 to 2.54")


def test_every_functional_group_may_be_the_frame_s_own(tmp_path: Path) -> None:
    names = "PlaneOrientationSequence", "PixelMeasuresSequence", "PixelValueTransformationSequence"
    groups, stored = [], []
    for number, image in enumerate(CT):
        slope, intercept = 1 + number % 2, -1024 - 2 * number
        own = dict(
            zip(
                names,
                (
                    item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
                    data.measures(),
                    data.rescale(slope, intercept),
                ),
                strict=True,
            )
        )
        groups.append(group(number, **own))
        stored.append(image - intercept if slope == 1 else (image - intercept) // 2)
    images = np.array([
        image if number % 2 == 0 else (image - -1024 + 2 * number) // 2 * 2 - 1024 - 2 * number
        for number, image in enumerate(CT)
    ])  # fmt: skip
    dataset = data.enhanced(np.array(stored), groups, dict.fromkeys(names))
    assert_plain(reader.read(write(tmp_path / "e.dcm", dataset)), images)


def test_stacks_of_one_file_are_volumes_of_their_own(tmp_path: Path) -> None:
    """Also where they lie among each other, or where the second one begins above a gap."""
    second = stack(8, 5)
    for start in (0, 3, 40):
        groups = in_order() + [group(start + number, "2") for number in range(8)]
        dataset = data.enhanced(np.concatenate([STORED, second - data.OFFSET]), groups)
        path = write(tmp_path / f"{start}.dcm", dataset)
        whole, part = reader.read_all([path])
        assert isinstance(part, Volume)
        assert_plain(whole)
        np.testing.assert_array_equal(part.array, second)
        (remark,) = reader.read(path).remarks
        assert remark.endswith("(8 slices): shorter")


def test_phases_of_one_file_are_volumes_of_their_own(tmp_path: Path) -> None:
    phases = [stack(seed=seed) for seed in range(3)]
    groups, images = [], []
    for number in range(len(CT)):
        for phase in range(3):
            frame = group(number)
            frame.FrameContentSequence[0].TemporalPositionIndex = phase + 1
            groups.append(frame)
            images.append(phases[phase][number] - data.OFFSET)
    path = write(tmp_path / "e.dcm", data.enhanced(np.array(images), groups))
    volumes = list(reader.read_all([path]))
    for volume, expected in zip(volumes, phases, strict=True):
        assert isinstance(volume, Volume)
        assert_plain(volume, expected)


def test_a_file_in_several_parts_is_one_volume(tmp_path: Path) -> None:
    """A concatenation: the frames of one image, divided among files."""
    for start in (0, 5):
        numbers = range(start, 5 if start == 0 else len(CT))
        dataset = data.enhanced(STORED[list(numbers)], [group(number) for number in numbers])
        write(tmp_path / f"{start}.dcm", dataset)
    assert_plain(reader.read(tmp_path))


def test_enhanced_frames_without_their_places_are_refused(tmp_path: Path) -> None:
    few = write(tmp_path / "few.dcm", data.enhanced(STORED, in_order(9)))
    with pytest.raises(BadVolume, match=r"it has 12 frames and places of 9"):
        reader.read(few)
    none = data.enhanced(STORED, [])
    del none.PerFrameFunctionalGroupsSequence
    with pytest.raises(BadVolume, match=r"lack position, orientation or pixel spacing"):
        reader.read(write(tmp_path / "none.dcm", none))


# ---- several series, phases, copies ------------------------------------------------------------


def test_each_series_of_a_folder_is_a_case(tmp_path: Path) -> None:
    folder = series(tmp_path / "raw/case", CT)
    shorter(folder)
    series(folder, stack(3), "c{}", SeriesInstanceUID="1.9", SeriesDescription="Bolus")
    localiser(folder)
    report = ct3m_data.run(
        tmp_path / "raw",
        tmp_path / "out",
        dataset=ct3m_data.FolderLayout(images=("*/*",), case="^(?P<case>[^/]+)/"),
    )
    assert (report["volumes"], report["slices"], report["quarantined"]) == (2, 20, [])
    rows = shards.read_metadata(shards.open_shard(tmp_path / "out/0.32.parquet"))
    assert rows["case"].to_pylist() == ["case"] * 12 + ["case#2"] * 8
    (remark,) = report["remarks"]
    assert remark["case"] == "case"
    assert remark["remark"] == (
        'further series are left: number 3 "Bolus" (3 slices): shorter, number 3 "Abdomen"'
        " (1 slice): localiser"
    )


@pytest.mark.parametrize(
    "telling",
    ["TemporalPositionIdentifier", "AcquisitionNumber", "EchoNumbers", "PatientID", "TriggerTime"],
)
def test_phases_of_one_series_are_volumes_of_their_own(tmp_path: Path, telling: str) -> None:
    phases = [stack(seed=seed) for seed in range(3)]
    for phase, images in enumerate(phases):
        series(tmp_path, images, f"{phase}-{{}}", **{telling: str(phase + 1)})
    volumes = list(reader.read_all([tmp_path]))
    assert len(volumes) == 3
    for volume, images in zip(volumes, phases, strict=True):
        assert isinstance(volume, Volume)
        assert_plain(volume, images)


def test_images_of_one_place_that_nothing_tells_apart_are_refused(tmp_path: Path) -> None:
    series(tmp_path, CT)
    series(tmp_path, stack(seed=1), "other{}")
    with pytest.raises(BadVolume, match=r"uneven \(from 0.00 to 2.50 mm\).*repeated"):
        reader.read(tmp_path)


def test_copies_of_slices_are_left(tmp_path: Path) -> None:
    series(tmp_path, CT)
    for number in (0, 5, 11):
        write(tmp_path / f"copy{number}", slice_of(CT[number], number))
    volume = reader.read(tmp_path)
    assert_plain(volume)
    assert volume.remarks == ("copies of slices are left: 3, such as copy0",)


# ---- damage -----------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-500])


def header_only(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:700])


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("spoil", [cut, header_only, zeroed, emptied], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", ["{:03d}.dcm", "IM{:04d}", "1.2.840.{}"])
def test_a_damaged_file_at_the_end_is_named(
    tmp_path: Path, spoil: Callable[[Path], None], name: str
) -> None:
    series(tmp_path, CT, name)
    spoil(tmp_path / name.format(11))
    volume = reader.read(tmp_path)
    assert_plain(volume, CT[:11])
    (remark,) = volume.remarks
    assert remark.startswith(f"damaged files are left: 1, such as {name.format(11)} (")
    spoil(tmp_path / name.format(5))
    with pytest.raises(BadVolume, match="slices are missing"):
        reader.read(tmp_path)


def test_compressed_pixels_that_are_damaged_are_named(tmp_path: Path) -> None:
    for number, image in enumerate(CT):
        dataset = data.compressed(slice_of(image, number), JPEG2000Lossless)
        write(tmp_path / f"{number:03d}.dcm", dataset)
    whole = reader.read(tmp_path)
    assert_plain(whole)
    last = tmp_path / "011.dcm"
    content = bytearray(last.read_bytes())
    start = content.index(b"\xff\x4f\xff\x51")  # where the code of JPEG 2000 begins
    content[start : start + 40] = bytes(40)
    last.write_bytes(content)
    (remark,) = reader.read(tmp_path).remarks
    assert remark.startswith("damaged files are left: 1, such as 011.dcm (")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("RescaleSlope", 0, "its rescale slope is 0"),
        ("Rows", 0, "it has 0 rows"),
        ("PixelSpacing", [0, 0], "lack position, orientation or pixel spacing"),
        ("PixelSpacing", None, "lack position, orientation or pixel spacing"),
        ("ImagePositionPatient", None, "lack position, orientation or pixel spacing"),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], "lack position, orientation"),
        ("ImageOrientationPatient", [0, 0, 0, 0, 0, 0], "lack position, orientation"),
        ("BitsStored", 17, "bits contradict each other"),
        ("BitsAllocated", 32, "cannot be decoded"),
        ("ModalityLUTSequence", item(LUTExplanation="table"), "coded by a table"),
    ],
)
def test_headers_that_cannot_be_used_are_refused(
    tmp_path: Path, name: str, value: Any, message: str
) -> None:
    series(tmp_path, CT, **{name: value})
    with pytest.raises(BadVolume, match=message) as caught:
        reader.read(tmp_path)
    assert "\n" not in str(caught.value)


def test_slices_that_are_shifted_within_their_planes_are_refused(tmp_path: Path) -> None:
    series(tmp_path, CT)
    moved = [*data.place(6)]
    moved[0] += 4
    write(tmp_path / "006.dcm", slice_of(CT[6], 6, ImagePositionPatient=moved))
    with pytest.raises(BadVolume, match=r"shifted against each other by up to 4\.0 mm"):
        reader.read(tmp_path)


def test_a_slice_alone_says_that_it_is_one(tmp_path: Path) -> None:
    series(tmp_path, CT)
    volume = reader.read(tmp_path / "004.dcm")
    np.testing.assert_array_equal(volume.array, CT[4:5])
    assert volume.spacing_mm == pytest.approx(data.SPACING)
    assert volume.remarks == ("a single slice: the folder of its series holds the whole scan",)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    series(tmp_path, CT)
    (tmp_path / "011.dcm").chmod(0)
    assert "011.dcm" in reader.read(tmp_path).remarks[0]
