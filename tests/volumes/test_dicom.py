"""DICOM as it comes: whatever lies in a folder, its CT gives the voxels of the plain series."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ct3m_data
import dicom_data as data
import imagecodecs
import numpy as np
import pydicom
import pytest
from dicom_data import group, series, slice_of, stack, write
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEGExtended12Bit,
)

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


# ---- what lies beside a series ----------------------------------------------------------------


def scout(folder: Path) -> None:
    """Coronal, of the same matrix and series, one step above the stack (dcm2niix#731)."""
    turned = {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1], "SOPInstanceUID": "1.2"}
    write(folder / "zz.dcm", slice_of(CT[3], 12, **turned))


def localiser(folder: Path) -> None:
    kind = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    write(folder / "zz.dcm", slice_of(CT[3], 12, ImageType=kind))


def screenshot(folder: Path) -> None:
    write(folder / "zz.dcm", slice_of(CT[3], 12, SOPClassUID="1.2.840.10008.5.1.4.1.1.7"))


def other_matrix(folder: Path) -> None:
    write(folder / "zz.dcm", slice_of(CT[3, :20], 12))


def other_pixels(folder: Path) -> None:
    write(folder / "zz.dcm", slice_of(CT[3], 12, PixelSpacing=[0.7, 0.7]))


def shorter(folder: Path) -> None:
    series(folder, stack(8, 1), "b{}", SeriesInstanceUID="1.5", SeriesDescription="Lung")


def pet(folder: Path) -> None:
    series(folder, stack(20, 1), "pt{}", SeriesInstanceUID="1.5", Modality="PT")


def segmentation(folder: Path) -> None:
    write(
        folder / "seg", data.enhanced(STORED, in_order(), Modality="SEG", SeriesInstanceUID="1.6")
    )


def dose(folder: Path) -> None:
    write(folder / "dose", slice_of(CT[0], 0, Modality="RTDOSE", SeriesInstanceUID="1.7"))


def structures(folder: Path) -> None:
    kind = "1.2.840.10008.5.1.4.1.1.481.3"
    write(folder / "rs.dcm", data.header(kind, CT[0], Modality="RTSTRUCT", PixelData=None))


LEFT = "further series are left: number 3"
BESIDE = {
    scout: f'{LEFT} "Abdomen" (1 slice): other direction or spacing',
    localiser: f'{LEFT} "Abdomen" (1 slice): localiser',
    screenshot: f'{LEFT} "Abdomen" (1 slice): other image type',
    other_matrix: f'{LEFT} "Abdomen" (1 slice): other size',
    other_pixels: f'{LEFT} "Abdomen" (1 slice): other direction or spacing',
    shorter: f'{LEFT} "Lung" (8 slices): shorter',
    pet: f'{LEFT} "Abdomen" (20 slices): PT',
    segmentation: f'{LEFT} "Abdomen" (12 slices): SEG',
    dose: f'{LEFT} "Abdomen" (1 slice): RTDOSE',
    structures: "objects without an image are left: 1 RTSTRUCT",
}


@pytest.mark.parametrize("form", ["classic", "enhanced"])
@pytest.mark.parametrize("beside", BESIDE, ids=lambda beside: beside.__name__)
def test_the_ct_is_read_whatever_lies_beside_it(
    tmp_path: Path, beside: Callable[[Path], None], form: str
) -> None:
    if form == "classic":
        series(tmp_path, CT)
    else:
        write(tmp_path / "ct", data.enhanced(STORED, in_order()))
    beside(tmp_path)
    volume = reader.read(tmp_path)
    assert_plain(volume)
    expected = BESIDE[beside]
    if form == "enhanced" and beside in (scout, other_matrix, other_pixels):
        expected = expected.rpartition(":")[0] + ": other image type"  # classic ones
    assert volume.remarks == (expected,)


def test_other_files_of_a_folder_are_no_concern(tmp_path: Path) -> None:
    series(tmp_path, CT)
    for name in ("LICENSE", "README.txt", "1-001.jpg", ".DS_Store", "._000.dcm"):
        (tmp_path / name).write_bytes(b"something else" * 20)
    volume = reader.read(tmp_path)
    assert_plain(volume)
    assert volume.remarks == ()


def test_only_other_modalities_or_localisers_are_refused(tmp_path: Path) -> None:
    pet(tmp_path / "pt")
    localiser(tmp_path / "scout")
    with pytest.raises(BadVolume, match=r"modality PT, not CT; take a series of CT"):
        reader.read(tmp_path / "pt")
    with pytest.raises(BadVolume, match=r"holds no slices.*\(1 slice\): localiser"):
        reader.read(tmp_path / "scout")


# ---- names, folders, links --------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["1.2.840.113619.{}", "CT.1.2.3.{}", "IM{:04d}", "{:03d}.DCM", "{}", "I{}.ima", "{}.x"]
)
def test_files_have_any_name(tmp_path: Path, name: str) -> None:
    """Each folder is one case, of a curation too."""
    series(tmp_path / "raw/a", CT, name)
    series(tmp_path / "raw/b", CT, name)
    assert_plain(reader.read(tmp_path / "raw/a"))
    layout = ct3m_data.FolderLayout(images=("*/*",), case="^(?P<case>[^/]+)/")
    report = ct3m_data.run(tmp_path / "raw", tmp_path / "out", dataset=layout)
    assert (report["volumes"], report["quarantined"], report["remarks"]) == (2, [], [])


def test_a_medium_is_read_from_its_top(tmp_path: Path) -> None:
    """DICOMDIR on top, and one series spread over folders below."""
    series(tmp_path / "spread", CT)
    for number, file in enumerate(sorted((tmp_path / "spread").iterdir())):
        target = tmp_path / f"cd/DICOM/PAT0/{number % 3}/IM{number}"
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)
    (tmp_path / "cd/DICOMDIR").write_bytes(bytes(128) + b"DICM" + bytes(99))
    assert_plain(reader.read(tmp_path / "cd"))


def test_of_several_patients_none_is_chosen(tmp_path: Path) -> None:
    series(tmp_path / "a", CT)
    series(tmp_path / "b", stack(9), PatientID="two", SeriesInstanceUID="1.8")
    with pytest.raises(BadVolume, match=r"DICOM of 2 patients, such as .*/a and .*/b; name the"):
        reader.read(tmp_path)


def test_links_are_followed_and_those_to_nowhere_named(tmp_path: Path) -> None:
    store = series(tmp_path / "store", CT, "{:032x}")
    folder = tmp_path / "case"
    folder.mkdir()
    for number, file in enumerate(sorted(store.iterdir())):
        (folder / f"{number}.dcm").symlink_to(file)
    assert_plain(reader.read(folder))
    (folder / "12.dcm").symlink_to(store / "gone")
    remark = "links lead nowhere: 1 files are missing, such as 12.dcm"
    assert reader.read(folder).remarks == (remark,)


# ---- encodings --------------------------------------------------------------------------------


def recoded(path: Path, syntax: str, **how: Any) -> None:
    dataset = pydicom.dcmread(path)
    if syntax == ExplicitVRBigEndian:
        pixels = np.frombuffer(dataset.PixelData, "<i2")
        dataset.PixelData = pixels.astype(">i2").tobytes()
    dataset.file_meta.TransferSyntaxUID = syntax
    encoding = {"little_endian": syntax != ExplicitVRBigEndian}
    pydicom.dcmwrite(path, dataset, implicit_vr=syntax == ImplicitVRLittleEndian, **encoding)


def test_files_without_preamble_are_read(tmp_path: Path) -> None:
    for number, image in enumerate(CT):
        implicit = number % 2 == 0
        dataset = slice_of(image, number)
        del dataset.file_meta
        write(
            tmp_path / f"{number}", dataset, enforce_file_format=False, implicit_vr=implicit,
            little_endian=True,
        )  # fmt: skip
    assert (tmp_path / "0").read_bytes()[:4] == b"\x08\x00\x08\x00"
    assert_plain(reader.read(tmp_path))


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_every_plain_encoding_is_read(tmp_path: Path, syntax: str) -> None:
    for file in series(tmp_path, CT).iterdir():
        recoded(file, syntax)
    assert_plain(reader.read(tmp_path))


@pytest.mark.parametrize("syntax", data.COMPRESSIONS)
def test_compressed_multi_frame_equals_the_classic_series(tmp_path: Path, syntax: str) -> None:
    order = np.random.default_rng(0).permutation(len(CT))
    dataset = data.enhanced(STORED[order], [group(number) for number in order])
    volume = reader.read(write(tmp_path / "e.dcm", data.compressed(dataset, syntax)))
    assert_plain(volume)
    assert volume.remarks == ()


def test_lossy_jpeg_of_12_bits_is_read(tmp_path: Path) -> None:
    """What GDCM's plugin of pydicom refuses, and ITK reads."""
    for number, image in enumerate(STORED):
        dataset = slice_of(CT[number], number, BitsStored=12, HighBit=11, PixelRepresentation=0)
        words = np.ascontiguousarray(image, np.uint16)
        code = imagecodecs.jpeg8_encode(words, level=95, bitspersample=12)
        dataset.PixelData = encapsulate([code])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = JPEGExtended12Bit
        write(tmp_path / f"{number}.dcm", dataset)
    difference = reader.read(tmp_path).array.astype(int) - CT
    assert np.abs(difference).max() < 60 and difference.any()


@pytest.mark.parametrize(("stored", "high"), [(12, 11), (12, 15), (12, 13)])
@pytest.mark.parametrize("signed", [0, 1])
def test_foreign_bits_are_no_values(tmp_path: Path, stored: int, high: int, signed: int) -> None:
    """Overlays in bits beside the values, and values that do not begin with the lowest bit."""
    shift = 1024 if not signed else 0
    values = np.clip(CT, -1024, 1023) + shift
    low = high + 1 - stored
    mask = ((1 << stored) - 1) << low
    words = (values.astype(np.int64) << low) & mask | (0xFFFF ^ mask)
    for number, word in enumerate(words.astype(np.uint16)):
        own = {
            "PixelData": word.tobytes(), "BitsStored": stored, "HighBit": high,
            "PixelRepresentation": signed, "RescaleIntercept": -shift,
        }  # fmt: skip
        write(tmp_path / f"{number}.dcm", slice_of(CT[number], number, **own))
    assert_plain(reader.read(tmp_path), np.clip(CT, -1024, 1023))


def test_each_slice_has_its_own_rescale(tmp_path: Path) -> None:
    for number, image in enumerate(CT):
        slope, intercept = (1, -1024) if number % 2 else (0.5, -2000)
        words = np.rint((image - intercept) / slope).astype("<i2").tobytes()
        own = {"RescaleSlope": slope, "RescaleIntercept": intercept, "PixelData": words}
        write(tmp_path / f"{number}.dcm", slice_of(image, number, **own))
    assert_plain(reader.read(tmp_path))
