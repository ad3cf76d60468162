"""The raw layouts of real datasets: names, folders, archives, orientations, label values."""

import hashlib
import os
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from meddino.datasets.phantom.scanner import Scan
from meddino.datasets.phantom.tissues import Structure as S
from meddino.volumes import writer

ABDOMEN_MM, WHOLE_MM = (-150.0, -105.0), (-248.0, -234.0)
LIVER = {S.LIVER: 1, S.LIVER_TUMOUR: 2}
KIDNEYS = {
    S.RIGHT_KIDNEY: 1,
    S.LEFT_KIDNEY: 1,
    S.RIGHT_KIDNEY_TUMOUR: 2,
    S.LEFT_KIDNEY_TUMOUR: 2,
    S.RIGHT_KIDNEY_CYST: 3,
    S.LEFT_KIDNEY_CYST: 3,
}
AMOS = {
    **{S(value): value for value in range(1, 16)},
    S.LIVER_TUMOUR: 6,
    S.RIGHT_KIDNEY_TUMOUR: 2,
    S.LEFT_KIDNEY_TUMOUR: 3,
    S.RIGHT_KIDNEY_CYST: 2,
    S.LEFT_KIDNEY_CYST: 3,
}
BTCV = {
    **{part: value for part, value in AMOS.items() if value <= 9},
    S.PORTAL_VEIN: 10,
    S.PANCREAS: 11,
    S.RIGHT_ADRENAL: 12,
    S.LEFT_ADRENAL: 13,
}
MR_EVERY, MR_FIRST_ID = 6, 507
TEST_EVERY = 5
PANCREAS_LABELS = "TCIA_pancreas_labels-02-05-2017.zip"
EPOCH = (2020, 1, 1, 0, 0, 0)
UID_ROOT = "2.25."


@dataclass(frozen=True, kw_only=True)
class RawLayout:
    """What all cases of a dataset have in common."""

    archive: str
    image: str
    """Name of an image in the archive, by its number; of a DICOM series, its folder."""
    label: str
    """Name of its label."""
    labels: Mapping[S, int]
    orientations: tuple[str, ...]
    """Codes of the directions in which the stored axes grow, drawn from for every case."""
    bottoms_mm: tuple[tuple[float, float], ...] = (ABDOMEN_MM,)
    """Ranges of the lowest slice, taken in turn."""
    paddings: tuple[int | None, ...] = (None, None, -1024)
    """Values outside the scanner's circle, taken in turn; None leaves the square filled."""
    lesions: bool = False
    withholds: bool = False
    """Whether some cases are a test set without labels."""


RAW_LAYOUTS = {
    "amos22": RawLayout(
        archive="amos22.zip",
        image="amos22/imagesTr/amos_{:04d}.nii.gz",
        label="amos22/labelsTr/amos_{:04d}.nii.gz",
        labels=AMOS,
        orientations=("LAS", "RAS", "LPS"),
        bottoms_mm=(WHOLE_MM, WHOLE_MM, ABDOMEN_MM),
    ),
    "btcv": RawLayout(
        archive="RawData.zip",
        image="RawData/Training/img/img{:04d}.nii.gz",
        label="RawData/Training/label/label{:04d}.nii.gz",
        labels=BTCV,
        orientations=("LAS",),
    ),
    "kits23": RawLayout(
        archive="kits23.zip",
        image="dataset/case_{:05d}/imaging.nii.gz",
        label="dataset/case_{:05d}/segmentation.nii.gz",
        labels=KIDNEYS,
        orientations=("IPL",),
        lesions=True,
    ),
    "lits": RawLayout(
        archive="Training_Batch1.zip",
        image="Training Batch 1/volume-{}.nii",
        label="Training Batch 1/segmentation-{}.nii",
        labels=LIVER,
        orientations=("RAS", "LAS", "RPS"),
        bottoms_mm=(ABDOMEN_MM, WHOLE_MM),
        paddings=(None, -2048, None),
        lesions=True,
    ),
    "msd_spleen": RawLayout(
        archive="Task09_Spleen.tar",
        image="Task09_Spleen/imagesTr/spleen_{}.nii.gz",
        label="Task09_Spleen/labelsTr/spleen_{}.nii.gz",
        withholds=True,
        labels={S.SPLEEN: 1},
        orientations=("RAS",),
        paddings=(-1024, None),
    ),
    "pancreas_ct": RawLayout(
        archive="Pancreas-CT.zip",
        image="Pancreas-CT/PANCREAS_{0:04d}/11-24-2015-PANCREAS{0:04d}-Pancreas",
        label="label{:04d}.nii.gz",
        labels={S.PANCREAS: 1},
        orientations=("LPS",),
    ),
}


class Store(Protocol):
    """An archive that files are put into."""

    def add(self, name: str, path: Path) -> None:
        """Put a file into the archive under a name."""


class ZipStore:
    """A zip archive whose bytes depend on its contents alone."""

    def __init__(self, path: Path) -> None:
        """Create the archive."""
        self._file = zipfile.ZipFile(path, "w")

    def add(self, name: str, path: Path) -> None:
        """Put a file into the archive; what is not compressed yet is."""
        info = zipfile.ZipInfo(name, EPOCH)
        stored = name.endswith(".gz")
        info.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
        info.external_attr = 0o644 << 16
        self._file.writestr(info, path.read_bytes(), compresslevel=1)

    def close(self) -> None:
        """Finish the archive."""
        self._file.close()


class TarStore:
    """A tar archive as macOS makes them: every file has a companion `._<name>`."""

    def __init__(self, path: Path) -> None:
        """Create the archive."""
        self._file = tarfile.open(path, "w")  # noqa: SIM115

    def add(self, name: str, path: Path) -> None:
        """Put a file and its companion into the archive."""
        folder, _, last = name.rpartition("/")
        junk = path.with_name("junk")
        junk.write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        ")
        for member, source in ((f"{folder}/._{last}", junk), (name, path)):
            info = tarfile.TarInfo(member)
            info.size = source.stat().st_size
            with source.open("rb") as file:
                self._file.addfile(info, file)

    def close(self) -> None:
        """Finish the archive."""
        self._file.close()


def case_ids(dataset: str, count: int) -> list[int]:
    """Numbers of the first cases of a dataset, with the real one's gaps."""
    if dataset == "amos22":
        mr = [k % MR_EVERY == MR_EVERY - 1 for k in range(count)]
        return [MR_FIRST_ID + k if is_mr else 1 + k for k, is_mr in enumerate(mr)]
    if dataset == "btcv":
        return [*range(1, 11), *range(21, 41), *range(101, 101 + count)][:count]
    if dataset == "pancreas_ct":
        return [n for n in range(1, count + 3) if n not in (25, 70)][:count]
    return list(range(count)) if dataset != "msd_spleen" else list(range(2, 2 + count))


def labels_of(scan: Scan, labels: Mapping[S, int]) -> NDArray[np.uint8]:
    """The label map that a dataset has of a scan, [z, y, x]."""
    table = np.zeros(len(S), np.uint8)
    for structure, value in labels.items():
        table[structure] = value
    mapped: NDArray[np.uint8] = table[scan.truth]
    return mapped


def put_case(
    stores: Mapping[str, Store],
    dataset: str,
    number: int,
    scan: Scan,
    code: str,
    scratch: Path,
    damaged: bool = False,
) -> None:
    """Store one case in the layout of a dataset.

    Args:
        stores: the archives by file name.
        dataset: whose layout.
        number: the case's number.
        scan: the case.
        code: directions in which the stored axes grow.
        scratch: folder for temporary files.
        damaged: whether the image's file is cut off in the middle, of DICOM all of them.
    """
    layout = RAW_LAYOUTS[dataset]
    store = stores[layout.archive]
    label = labels_of(scan, layout.labels)
    image_name, label_name = _names(layout, number)
    if dataset == "pancreas_ct":
        for index, path in enumerate(_dicom(scan, f"{dataset}/{number}", scratch), start=1):
            if damaged:
                _cut(path)
            store.add(f"{image_name}/Pancreas-1/1-{index:03d}.dcm", path)
        path = _nifti(label, scan, "LAS", scratch / "label.nii.gz")
        stores[PANCREAS_LABELS].add(layout.label.format(number), path)
        return
    suffix = ".nii.gz" if image_name.endswith(".gz") else ".nii"
    image = _nifti(scan.image, scan, code, scratch / f"image{suffix}")
    if damaged:
        _cut(image)
    store.add(image_name, image)
    if label_name is not None:
        store.add(label_name, _nifti(label, scan, code, scratch / f"label{suffix}"))


def _cut(path: Path) -> None:
    """Leave the first half of a file."""
    os.truncate(path, path.stat().st_size // 2)


def archives(dataset: str) -> list[str]:
    """File names of a dataset's archives."""
    extra = [PANCREAS_LABELS] if dataset == "pancreas_ct" else []
    return [RAW_LAYOUTS[dataset].archive, *extra]


def _names(layout: RawLayout, number: int) -> tuple[str, str | None]:
    """Names of an image and of its label, None where the dataset withholds it."""
    image, label = layout.image.format(number), layout.label.format(number)
    if layout.withholds and number % TEST_EVERY == TEST_EVERY - 1:
        return image.replace("imagesTr", "imagesTs"), None
    return image, label


def _in_space(array: NDArray[np.generic], scan: Scan) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(scan.spacing[::-1])
    image.SetOrigin(scan.origin)
    return image


def _nifti(array: NDArray[np.generic], scan: Scan, code: str, path: Path) -> Path:
    """Write an array with its axes turned; deterministic, since ITK leaves gzip's time empty."""
    image = sitk.DICOMOrient(_in_space(array, scan), code)
    writer.write(image, path, level=1)
    return path


def _uid(*parts: object) -> str:
    """A DICOM identifier that depends on its parts alone (2.25: an arbitrary 128-bit number)."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return UID_ROOT + str(int.from_bytes(digest[:16], "big"))


def _dicom(scan: Scan, name: str, scratch: Path) -> Iterator[Path]:
    """Write a series, one file a slice, from head to feet as on the scanner's list."""
    volume = _in_space(scan.image, scan)
    content = hashlib.sha256(scan.image.tobytes()).hexdigest()
    common = {
        "0008|0060": "CT",
        "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
        "0010|0010": "PHANTOM",
        "0010|0020": name,
        "0020|000d": _uid(content, "study"),
        "0020|000e": _uid(content, "series"),
        "0020|0052": _uid(content, "frame"),
        "0020|0037": "1\\0\\0\\0\\1\\0",
        "0008|0020": "20200101",
        "0008|0030": "120000",
        "0018|0050": str(scan.spacing[0]),
    }
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for number, index in enumerate(reversed(range(volume.GetDepth())), start=1):
        image = volume[:, :, index]
        place = volume.TransformIndexToPhysicalPoint((0, 0, index))
        own = {
            "0008|0018": _uid(content, index),
            "0020|0013": str(number),
            "0020|0032": "\\".join(f"{value:.4f}" for value in place),
        }
        for key, value in (common | own).items():
            image.SetMetaData(key, value)
        path = scratch / "slice.dcm"
        writer.SetFileName(str(path))
        writer.Execute(image)
        yield path
