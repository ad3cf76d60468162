"""Every registered dataset in miniature: its archives, names and traps, fetched and sliced."""

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from ct3m_data import body
from places import ROOT

from meddino.core.files import read_json, sha256
from meddino.ct3m import slices
from meddino.ct3m.options import Curation, SliceOptions
from meddino.datasets import fetch
from meddino.datasets.members import readable
from meddino.datasets.options import COLLECTIONS, FetchOptions
from meddino.datasets.phantom.raw_layouts import _dicom
from meddino.datasets.phantom.scanner import Scan
from meddino.datasets.registry import entries

SIDE, DEPTH = 16, 9
LPS = np.diag([-0.8, -0.8, 2.5, 1.0])
JUNK = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X"
Files = dict[str, bytes]


def voxels(seed: int = 0) -> np.ndarray:
    """A noisy body in air, int16 HU (x, y, z)."""
    return body(seed, (SIDE, SIDE, DEPTH))


def nifti(name: str, array: np.ndarray, matrix: np.ndarray = LPS) -> bytes:
    data: bytes = nib.Nifti1Image(array, matrix).to_bytes()
    return gzip.compress(data, 1) if name.endswith(".gz") else data


def ct(*names: str, matrix: np.ndarray = LPS) -> Files:
    return {name: nifti(name, voxels(rank), matrix) for rank, name in enumerate(names)}


def labels(*names: str, kind: Any = np.uint8) -> Files:
    array = np.zeros((SIDE, SIDE, DEPTH), kind)
    array[4:8, 4:8, 2:5] = 1
    return {name: nifti(name, array) for name in names}


def series(folder: str, name: Callable[[int], str], scratch: Path) -> Files:
    """A DICOM series, its slices named by their rank."""
    image = np.ascontiguousarray(voxels(len(folder)).T)
    scan = Scan(image, np.zeros(image.shape, np.uint8), (2.5, 0.8, 0.8), (0.0, 0.0, 0.0))
    paths = _dicom(scan, folder, scratch)
    return {f"{folder}/{name(rank)}": path.read_bytes() for rank, path in enumerate(paths)}


@dataclass(frozen=True)
class Miniature:
    """A dataset of a few cases, and what the registry must make of it."""

    archives: Mapping[str, Files]
    """Archive -> its members; a file that is no archive -> its one member, of any name."""
    ct: set[str]
    """Identities of the CT cases that are kept."""
    labelled: set[str] = field(default_factory=set)
    mr: set[str] = field(default_factory=set)
    present: tuple[str, ...] = ()
    """Files of the archives that must not become cases."""


def plain(files: Files) -> dict[str, Files]:
    return {name: {name: data} for name, data in files.items()}


def msd(task: str, prefix: str) -> Miniature:
    """A task of the Decathlon, with the files that macOS left in its tar."""
    image = f"{task}/imagesTr/{prefix}_{{}}.nii.gz"
    label = f"{task}/labelsTr/{prefix}_{{}}.nii.gz"
    return Miniature(
        {
            f"{task}.tar": {
                f"{task}/dataset.json": b"{}",
                f"{task}/imagesTr/._{prefix}_001.nii.gz": JUNK,
                f"{task}/labelsTr/._{prefix}_001.nii.gz": JUNK,
                **ct(image.format("001"), image.format("017")),
                **labels(label.format("001"), label.format("017"), kind=np.float32),
                **ct(f"{task}/imagesTs/{prefix}_132.nii.gz"),
            }
        },
        ct={f"{prefix}_001", f"{prefix}_017", f"{prefix}_132"},
        labelled={f"{prefix}_001", f"{prefix}_017"},
        present=(f"{task}/imagesTr/._{prefix}_001.nii.gz",),
    )


def btcv(_: Path) -> Miniature:
    raw = "RawData/{}/{}/{}{}.nii.gz"
    trained = ("0001", "0010", "0021")
    return Miniature(
        {
            "RawData.zip": {
                **ct(*(raw.format("Training", "img", "img", n) for n in trained)),
                **labels(*(raw.format("Training", "label", "label", n) for n in trained)),
                **ct(raw.format("Testing", "img", "img", "0061")),
                **ct("Reg-Training-Testing/img/img0001-0061.nii.gz"),
            }
        },
        ct={*trained, "0061"},
        labelled=set(trained),
        present=("Reg-Training-Testing/img/img0001-0061.nii.gz",),
    )


def pancreas_ct(scratch: Path) -> Miniature:
    folders = {n: f"Pancreas-CT/PANCREAS_{n}/1.2.840.{n}" for n in ("0001", "0002", "0025", "0070")}
    images: Files = {}
    for folder in folders.values():
        images |= series(folder, lambda rank: f"1-{rank + 1:03d}.dcm", scratch)
        images[f"{folder}/LICENSE"] = b"CC BY 3.0"
    return Miniature(
        {
            "Pancreas-CT.zip": images,
            "TCIA_pancreas_labels-02-05-2017.zip": labels(*(f"label{n}.nii.gz" for n in folders)),
        },
        ct={"0001", "0002"},
        labelled={"0001", "0002"},
        present=(f"{folders['0025']}/1-001.dcm", "label0070.nii.gz"),
    )


def chaos_ct(scratch: Path) -> Miniature:
    def of(part: str, case: str) -> Files:
        dicom = f"{part}/CT/{case}/DICOM_anon"
        mr = f"{part}/MR/{case}/T2SPIR/DICOM_anon"
        return {
            **series(dicom, lambda rank: f"i{rank:04d},0000b.dcm", scratch),
            **series(mr, lambda rank: f"IMG-0004-{rank:05d}.dcm", scratch),
            f"{part}/CT/{case}/Ground/liver_GT_000.png": b"png",
        }

    return Miniature(
        {
            "CHAOS_Train_Sets.zip": of("Train_Sets", "1"),
            "CHAOS_Test_Sets.zip": of("Test_Sets", "3"),
        },
        ct={"1", "3"},
        present=("Train_Sets/MR/1/T2SPIR/DICOM_anon/IMG-0004-00000.dcm",),
    )


def lits(_: Path) -> Miniature:
    batch = "media/nas/01_Datasets/CT/LITS/Training Batch {}/{}-{}.nii"
    return Miniature(
        {
            "Training_Batch1.zip": {
                **ct(batch.format(1, "volume", 0)),
                **labels(batch.format(1, "segmentation", 0)),
            },
            "Training_Batch2.zip": {
                # From 3D-IRCADb: its header lost the spacing.
                **ct(batch.format(2, "volume", 28), matrix=np.eye(4)),
                **labels(batch.format(2, "segmentation", 28)),
            },
            "LITS-Challenge-Test-Data.zip": ct("LITS-Challenge-Test-Data/test-volume-0.nii"),
        },
        ct={"0", "28", "test-0"},
        labelled={"0", "28"},
    )


def kits23(_: Path) -> Miniature:
    """The first stored axis is the axial one, and every file comes by itself."""
    axial_first = np.array([[0, 0, -0.8, 0], [0, -0.8, 0, 0], [-2.5, 0, 0, 0], [0, 0, 0, 1.0]])
    cases = ("case_00000", "case_00588")
    files = {}
    for name in cases:
        image, label = (f"dataset/{name}/{n}.nii.gz" for n in ("imaging", "segmentation"))
        files[image] = nifti(image, voxels().transpose(2, 1, 0), axial_first)
        files[label] = nifti(label, np.ones((DEPTH, SIDE, SIDE), np.uint8), axial_first)
    return Miniature(plain(files), ct=set(cases), labelled=set(cases))


def word(_: Path) -> Miniature:
    top = "WORD-V0.1.0"
    bundled = f"{top}/addition_validation_from_LiTS"
    return Miniature(
        {
            "WORD-V0.1.0.zip": {
                **ct(f"{top}/imagesTr/word_0002.nii.gz", f"{top}/imagesVal/word_0001.nii.gz"),
                **labels(f"{top}/labelsTr/word_0002.nii.gz", f"{top}/labelsVal/word_0001.nii.gz"),
                **ct(f"{top}/imagesTs/word_0014.nii.gz"),
                **ct(f"{bundled}/imagesTs/liver_2_word_image.nii.gz"),
                **ct(f"{bundled}/imagesTs/word_liver_2.nii.gz"),
            },
            "WORD_V0.1.0_labelsTs.zip": labels("labelsTs/word_0014.nii.gz"),
        },
        ct={"word_0001", "word_0002", "word_0014"},
        labelled={"word_0001", "word_0002", "word_0014"},
        present=(f"{bundled}/imagesTs/word_liver_2.nii.gz",),
    )


def abdomenct1k(_: Path) -> Miniature:
    part = "AbdomenCT-1K-ImagePart{0}/AbdomenCT-1K-ImagePart{0}/Case_{1}_0000.nii.gz"
    sheared = LPS.copy()
    sheared[0, 1] = 0.002  # ITK refuses such direction cosines
    return Miniature(
        {
            "AbdomenCT-1K-ImagePart1.zip": ct(part.format(1, "00001"), part.format(1, "00297")),
            "AbdomenCT-1K-ImagePart2.zip": ct(part.format(2, "00401"), matrix=sheared),
            "AbdomenCT-1K-ImagePart3.zip": ct(part.format(3, "00928")),
            **plain(labels("Mask/Case_00001.nii.gz")),
        },
        ct={"Case_00001", "Case_00297", "Case_00401"},
        labelled={"Case_00001"},
        present=(part.format(3, "00928"),),
    )


def amos22(_: Path) -> Miniature:
    image, label = "amos22/images{}/amos_{}.nii.gz", "amos22/labels{}/amos_{}.nii.gz"
    shown = (("Tr", "0001"), ("Tr", "0507"), ("Va", "0410"), ("Va", "0599"))
    return Miniature(
        {
            "amos22.zip": {
                **ct(*(image.format(*case) for case in (*shown, ("Ts", "0008"), ("Ts", "0600")))),
                **labels(*(label.format(*case) for case in shown)),
                "__MACOSX/amos22/imagesTr/amos_0001.nii.gz": JUNK,
                "amos22/imagesTr/._amos_0001.nii.gz": JUNK,
                "amos22/readme.md": b"",
            }
        },
        ct={"amos_0001", "amos_0410", "amos_0008"},
        mr={"amos_0507", "amos_0599", "amos_0600"},
        labelled={f"amos_{case}" for _, case in shown},
        present=("__MACOSX/amos22/imagesTr/amos_0001.nii.gz",),
    )


def ct_org(_: Path) -> Miniature:
    image, label = "OrganSegmentations/volume-{}.nii.gz", "OrganSegmentations/labels-{}.nii.gz"
    return Miniature(
        {
            "CT-ORG.zip": {
                **ct(image.format(0), image.format(139)),
                **labels(label.format(0), label.format(139), kind=np.float32),
                "OrganSegmentations/README.txt": b"",
            }
        },
        ct={"0", "139"},
        labelled={"0", "139"},
    )


def totalsegmentator(_: Path) -> Miniature:
    return Miniature(
        {
            "Totalsegmentator_dataset_v201.zip": {
                **ct("s0000/ct.nii.gz", "s1429/ct.nii.gz"),
                **labels("s0000/segmentations/liver.nii.gz", "s1429/segmentations/liver.nii.gz"),
                "meta.csv": b"image_id;split",
            }
        },
        ct={"s0000", "s1429"},
        present=("s0000/segmentations/liver.nii.gz",),
    )


def abdomenatlas3(_: Path) -> Miniature:
    archive = "image_only/AbdomenAtlas3_images_BDMAP_{}.tar.gz"
    return Miniature(
        {
            archive.format("00000001_00000232"): ct("BDMAP_00000001/ct.nii.gz"),
            archive.format("00009049_00009262"): ct("BDMAP_00009262/ct.nii.gz"),
        },
        ct={"BDMAP_00000001", "BDMAP_00009262"},
    )


MINIATURES: dict[str, Callable[[Path], Miniature]] = {
    "btcv": btcv,
    "pancreas_ct": pancreas_ct,
    "chaos_ct": chaos_ct,
    "lits": lits,
    "kits23": kits23,
    "word": word,
    "abdomenct1k": abdomenct1k,
    "amos22": amos22,
    "msd_liver": lambda _: msd("Task03_Liver", "liver"),
    "msd_lung": lambda _: msd("Task06_Lung", "lung"),
    "msd_pancreas": lambda _: msd("Task07_Pancreas", "pancreas"),
    "msd_hepaticvessel": lambda _: msd("Task08_HepaticVessel", "hepaticvessel"),
    "msd_spleen": lambda _: msd("Task09_Spleen", "spleen"),
    "msd_colon": lambda _: msd("Task10_Colon", "colon"),
    "ct_org": ct_org,
    "totalsegmentator": totalsegmentator,
    "abdomenatlas3": abdomenatlas3,
}


def write(archive: Path, members: Files) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as zipped:
            for name, data in members.items():
                zipped.writestr(name, data)
    elif ".tar" in archive.suffixes:
        with tarfile.open(archive, "w:gz" if archive.suffix == ".gz" else "w") as tar:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    else:
        archive.write_bytes(*members.values())


def fetched(name: str, miniature: Miniature, folder: Path) -> Path:
    """Fetch a miniature from a mirror of its archives; gives the manifest."""
    mirror, lines = folder / "mirror", []
    for archive, members in miniature.archives.items():
        write(mirror / archive, members)
        lines.append(f"{sha256(mirror / archive)}  {archive}\n")
    (mirror / "SHA256SUMS").write_text("".join(lines))
    entry = entries()[name].model_copy(update={"mirror": f"file:{mirror}"})
    output = folder / "raw" / name / ".fetched.json"
    fetch.run(FetchOptions.of(name, entry), output=output)
    return output


def sliced(name: str, manifest: Path, folder: Path) -> Any:
    """Cut all its CT volumes; gives the report."""
    options = SliceOptions(
        dataset_name=name,
        dataset=entries()[name].layout(),
        chunk=0,
        chunks=1,
        curation=Curation(datasets=(name,), sizes_px=(SIDE,)),
    )
    slices.run(options, raw=manifest, output=folder / "0.json")
    return read_json(folder / "0.json")


def test_every_registered_dataset_is_built() -> None:
    assert MINIATURES.keys() == entries().keys()


@pytest.mark.parametrize("name", MINIATURES)
def test_real_layout_is_curated(tmp_path: Path, name: str) -> None:
    miniature = MINIATURES[name](tmp_path)
    manifest = fetched(name, miniature, tmp_path)
    root = fetch.raw_root(manifest)
    entry = entries()[name]
    read = readable([*entry.images, *entry.labels])
    assert {p for p in miniature.present if (root / p).exists()} == set(
        filter(read, miniature.present)
    )
    cases = entry.cases(root)
    assert {case.id for case in cases if case.modality == "CT"} == miniature.ct
    assert {case.id for case in cases if case.modality == "MR"} == miniature.mr
    assert {case.id for case in cases if case.label} == miniature.labelled
    report = sliced(name, manifest, tmp_path)
    assert report["quarantined"] == []
    assert (report["volumes"], report["other_modality"]) == (len(miniature.ct), len(miniature.mr))
    # Whatever axis is stored first, the slices are axial.
    assert report["slices"] == DEPTH * len(miniature.ct)


@pytest.mark.parametrize("name", MINIATURES)
def test_archives_are_those_that_the_registry_names(tmp_path: Path, name: str) -> None:
    """Of what a program downloads or a person puts in place, all are in the miniature."""
    built = MINIATURES[name](tmp_path).archives
    for source in entries()[name].sources:
        file = source.file.format(id=source.numbers()[0]) if source.ids else source.file
        folder = source.kind in COLLECTIONS or not Path(file).suffix
        assert folder or any(fnmatch(archive, file) for archive in built), file


def lines_of_table() -> Iterator[list[str]]:
    page = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
    for line in page.splitlines():
        if line.startswith("| `"):
            yield [cell.strip(" `") for cell in line.strip("|").split("|")]


def test_page_on_datasets_is_true() -> None:
    rows = {cells[0]: cells[1:] for cells in lines_of_table()}
    assert rows.keys() == entries().keys()
    for name, (volumes, _, access, by, _) in rows.items():
        entry = entries()[name]
        kinds = {place.kind for source in entry.sources for place in (source, *source.mirrors)}
        assert int(volumes) == entry.volumes and access == entry.access, name
        assert set(by.split(", ")) == kinds, name


@pytest.mark.parametrize("name", MINIATURES)
def test_entries_are_complete(name: str) -> None:
    entry = entries()[name]
    for key in ("title", "home", "version", "licence", "volumes", "defects", "sources"):
        assert getattr(entry, key), key
    assert entry.how or not {"manual", "synapse", "tcia"} & {s.kind for s in entry.sources}
    assert set(entry.contains) <= entries().keys()
    assert bool(entry.labels) <= bool(entry.label_map)


def test_unused_keys_stay_out_of_what_snakemake_tracks() -> None:
    """A key that came later must not make older downloads run again."""
    tracked = json.loads(FetchOptions.of("amos22", entries()["amos22"]).model_dump_json())
    assert "id" not in tracked["origin"]["sources"][0]
    tracked = json.loads(FetchOptions.of("btcv", entries()["btcv"]).model_dump_json())
    assert tracked["origin"]["sources"][0]["id"] == "syn3379050"
