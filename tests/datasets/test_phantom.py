"""The phantom: reproducible, complete, plausible as CT, and stored like the real datasets."""

import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydantic import ValidationError
from scipy.ndimage import binary_erosion

from meddino.core.files import sha256
from meddino.datasets import fetch
from meddino.datasets.cases import Case
from meddino.datasets.options import FetchOptions
from meddino.datasets.phantom import phantom
from meddino.datasets.phantom.options import PhantomOptions
from meddino.datasets.phantom.raw_layouts import RAW_LAYOUTS, case_ids, labels_of
from meddino.datasets.phantom.scanner import Protocol, Scan, scan
from meddino.datasets.phantom.tissues import Structure as S
from meddino.datasets.registry import entries
from meddino.volumes import reader
from meddino.volumes.errors import BadVolume

NAMES = sorted(RAW_LAYOUTS)
CASES = 6


def protocol(**changes: object) -> Protocol:
    values: dict[str, object] = {
        "size_px": 128,
        "slices": 24,
        "noise_hu": 14.0,
        "bottom_mm": (-248.0, -234.0),
        "padding": None,
        "mr": False,
        "lesions": True,
    }
    return Protocol(**values | changes)  # type: ignore[arg-type]


def make(folder: Path, dataset: str, **changes: object) -> Path:
    values = {"cases": CASES, "size_px": 96, "slices": 16, "seed": 3} | changes
    output = folder / dataset / "SHA256SUMS"
    phantom.run(PhantomOptions(dataset=dataset, **values), output=output)  # type: ignore[arg-type]
    return output


def make_and_fetch(folder: Path, name: str, **changes: object) -> Path:
    """The folder with the extracted files."""
    mirror = f"file:{make(folder, name, **changes).parent}"
    entry = entries()[name].model_copy(update={"mirror": mirror})
    output = folder / "raw" / name / ".fetched.json"
    fetch.run(FetchOptions.of(name, entry), output=output)
    return fetch.raw_root(output)


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All six datasets, made and fetched: name -> folder with the extracted files."""
    folder = tmp_path_factory.mktemp("phantom")
    return {name: make_and_fetch(folder, name) for name in NAMES}


@pytest.fixture(scope="module")
def scans() -> list[Scan]:
    return [scan(protocol(), np.random.default_rng(seed)) for seed in range(5)]


def read(path: Path) -> sitk.Image:
    if path.is_file():
        return sitk.ReadImage(str(path))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(path)))
    return reader.Execute()


def pixels(root: Path, name: str) -> dict[str, np.ndarray]:
    """Voxels of each case, by its name, however they are stored."""
    cases = entries()[name].cases(root)
    return {case.id: sitk.GetArrayFromImage(straight(read(case.image))) for case in cases}


def number(case: Case) -> int:
    return int("".join(character for character in case.id if character.isdigit()))


def straight(image: sitk.Image) -> sitk.Image:
    return sitk.DICOMOrient(image, "LPS")


@pytest.mark.parametrize("name", NAMES)
def test_registry_finds_every_case(fetched: dict[str, Path], name: str) -> None:
    cases = entries()[name].cases(fetched[name])
    assert len(cases) == CASES
    labelled = [case for case in cases if case.label is not None]
    assert len(labelled) >= CASES - 1
    assert [c.modality for c in cases].count("MR") == (1 if name == "amos22" else 0)


@pytest.mark.parametrize("name", NAMES)
def test_labels_lie_on_the_images(fetched: dict[str, Path], name: str) -> None:
    for case in entries()[name].cases(fetched[name]):
        image = straight(read(case.image))
        assert image.GetSize() == (96, 96, 16)
        assert 300 * 0.85 < 96 * image.GetSpacing()[0] < 450
        if case.label is None:
            continue
        label = straight(read(case.label))
        assert label.GetSize() == image.GetSize()
        for of_label, of_image in (
            (label.GetSpacing(), image.GetSpacing()),
            (label.GetOrigin(), image.GetOrigin()),
            (label.GetDirection(), image.GetDirection()),
        ):
            assert np.allclose(of_label, of_image, atol=2e-3)


@pytest.mark.parametrize("name", NAMES)
def test_every_label_occurs(fetched: dict[str, Path], name: str) -> None:
    entry = entries()[name]
    labels = [c.label for c in entry.cases(fetched[name]) if c.label]
    arrays = [sitk.GetArrayFromImage(read(path)) for path in labels]
    seen = np.concatenate([np.unique(array) for array in arrays])
    assert set(seen.tolist()) == {0, *entry.label_map}


def test_a_phantom_may_hold_patients_of_another_one(
    fetched: dict[str, Path], tmp_path: Path
) -> None:
    """Voxel by voxel, up to how the volume is stored; the patients after them are its own."""
    copies = {"dataset": "amos22", "seed": 3, "ranks": [4, 1]}
    holder = make_and_fetch(tmp_path, "msd_spleen", seed=9, copies=copies)
    plain = make_and_fetch(tmp_path / "plain", "msd_spleen", seed=9)
    held, own = pixels(holder, "msd_spleen"), pixels(plain, "msd_spleen")
    others = pixels(fetched["amos22"], "amos22")
    for case, original in (("spleen_2", "amos_0005"), ("spleen_3", "amos_0002")):
        assert np.array_equal(held[case], others[original])
        assert not np.array_equal(held[case], own[case])
    assert np.array_equal(held["spleen_5"], own["spleen_5"])


@pytest.mark.parametrize("name", ["msd_spleen", "pancreas_ct"])
def test_a_damaged_volume_cannot_be_read_and_the_others_can(tmp_path: Path, name: str) -> None:
    cases = sorted(entries()[name].cases(make_and_fetch(tmp_path, name, damaged=1)), key=number)
    for case in cases[:-1]:
        assert reader.read(case.image).array.shape == (16, 96, 96)
    with pytest.raises(BadVolume):
        reader.read(cases[-1].image)


def test_more_copies_and_damaged_volumes_than_cases_are_refused() -> None:
    with pytest.raises(ValidationError, match="raise `cases`"):
        PhantomOptions(dataset="lits", cases=2, damaged=3)


def test_image_and_label_agree_after_any_storage(fetched: dict[str, Path]) -> None:
    """Stored in another orientation or as DICOM, organs keep the CT numbers of soft tissue."""
    for name in NAMES:
        for case in entries()[name].cases(fetched[name]):
            if case.modality == "MR" or case.label is None:
                continue
            image = sitk.GetArrayFromImage(straight(read(case.image)))
            label = sitk.GetArrayFromImage(straight(read(case.label)))
            inside = image[(label == 1) & (image > -500)]
            assert 20 < np.median(inside) < 190, (name, case.id)


def test_orientations_are_the_datasets_own(fetched: dict[str, Path]) -> None:
    codes = {
        name: {
            sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(
                read(case.image).GetDirection()
            )
            for case in entries()[name].cases(fetched[name])
        }
        for name in NAMES
    }
    assert codes["kits23"] == {"IPL"}
    assert codes["pancreas_ct"] == {"LPS"}
    assert len(codes["lits"]) > 1
    # The first axis of a KiTS file is the axial one: it has as many entries as there are slices.
    case = entries()["kits23"].cases(fetched["kits23"])[0]
    assert read(case.image).GetSize() == (16, 96, 96)


def test_msd_archive_holds_junk_that_is_not_unpacked(
    fetched: dict[str, Path], tmp_path: Path
) -> None:
    mirror = make(tmp_path, "msd_spleen", cases=1, size_px=48).parent
    with tarfile.open(mirror / "Task09_Spleen.tar") as archive:
        assert any("/._spleen_" in name for name in archive.getnames())
    assert not list(fetched["msd_spleen"].rglob("._spleen_*.nii.gz"))


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_bytes(tmp_path: Path, name: str) -> None:
    small = {"cases": 2, "size_px": 48}
    one, two = (make(tmp_path / f, name, **small) for f in ("a", "b"))
    assert one.read_bytes() == two.read_bytes()
    for line in one.read_text().splitlines():
        digest, file = line.split("  ")
        assert sha256(one.parent / file) == digest
    assert sorted(p.name for p in one.parent.iterdir()) == sorted(
        ["SHA256SUMS", *(line.split("  ")[1] for line in one.read_text().splitlines())]
    )
    other = make(tmp_path / "c", name, **small, seed=4)
    assert other.read_bytes() != one.read_bytes()


def test_more_cases_leave_the_first_ones_as_they_were(tmp_path: Path) -> None:
    one, two = (make(tmp_path / str(n), "lits", cases=n, size_px=48) for n in (1, 2))
    images = []
    for mirror in (one, two):
        entry = entries()["lits"].model_copy(update={"mirror": f"file:{mirror.parent}"})
        output = mirror.parent / "raw" / ".fetched.json"
        fetch.run(FetchOptions.of("lits", entry), output=output)
        images.append((output.parent / "Training Batch 1" / "volume-0.nii").read_bytes())
    assert images[0] == images[1]


def test_ids_have_the_gaps_of_the_real_dataset() -> None:
    assert case_ids("btcv", 12)[9:] == [10, 21, 22]
    assert 25 not in case_ids("pancreas_ct", 40) and len(case_ids("pancreas_ct", 80)) == 80
    assert [n >= 500 for n in case_ids("amos22", 12)].count(True) == 2


def test_intensities_are_those_of_ct(scans: list[Scan]) -> None:
    ranges = {
        S.LIVER: (50, 125),
        S.SPLEEN: (40, 145),
        S.RIGHT_KIDNEY: (40, 160),
        S.PANCREAS: (15, 125),
        S.AORTA: (70, 215),
        S.GALLBLADDER: (-25, 50),
        S.BLADDER: (-30, 45),
    }
    for case in scans:
        assert case.image.dtype == np.int16
        assert case.image.min() >= -1024 and case.image.max() <= 3071
        assert 0.1 < np.mean(case.image < -900) < 0.75
        for structure, (low, high) in ranges.items():
            assert low < np.median(case.image[case.truth == structure]) < high, structure


def test_labels_follow_what_is_seen() -> None:
    """Without noise, hardly a voxel within an organ, its rim aside, looks like fat or air."""
    for seed in range(4):
        case = scan(protocol(noise_hu=0.0), np.random.default_rng(seed))
        for structure in (S.LIVER, S.SPLEEN, S.PANCREAS, S.AORTA, S.BLADDER):
            core = binary_erosion(case.truth == structure, np.ones((1, 3, 3)))
            assert np.mean(case.image[core] < -40) < 0.01, (seed, structure.name)
        for structure in (S.RIGHT_ADRENAL, S.LEFT_ADRENAL):
            assert np.median(case.image[case.truth == structure]) > 10, (seed, structure.name)


def test_organs_cannot_be_told_by_a_threshold(scans: list[Scan]) -> None:
    """Between patients the order of the liver and its neighbours changes."""

    def brighter(a: S, b: S) -> set[bool]:
        medians = [[np.median(c.image[c.truth == s]) for s in (a, b)] for c in scans]
        return {bool(x > y) for x, y in medians}

    assert brighter(S.SPLEEN, S.LIVER) == {True, False}


def test_organs_are_where_they_belong(scans: list[Scan]) -> None:
    for case in scans:
        centre = {s: np.argwhere(case.truth == s).mean(0) for s in S if (case.truth == s).any()}
        assert centre[S.LIVER][2] < centre[S.SPLEEN][2]  # x grows to the patient's left
        assert centre[S.RIGHT_KIDNEY][2] < centre[S.LEFT_KIDNEY][2]
        assert centre[S.POSTCAVA][2] < centre[S.AORTA][2]
        assert centre[S.BLADDER][0] < centre[S.PANCREAS][0] < centre[S.OESOPHAGUS][0]
        assert centre[S.STOMACH][1] < centre[S.LEFT_KIDNEY][1]  # y grows to the back


def test_small_organs_survive_coarse_grids() -> None:
    for seed in range(4):
        coarse = protocol(size_px=96, slices=16, bottom_mm=(-150.0, -105.0))
        truth = scan(coarse, np.random.default_rng(seed)).truth
        for structure in (S.RIGHT_ADRENAL, S.LEFT_ADRENAL, S.OESOPHAGUS, S.GALLBLADDER):
            assert (truth == structure).sum() >= 8, (seed, structure)


def test_padding_fills_the_corners_and_hides_the_truth() -> None:
    case = scan(protocol(padding=-2048), np.random.default_rng(0))
    assert (case.image[:, 0, 0] == -2048).all()
    assert not case.truth[case.image == -2048].any()


def test_noise_has_the_strength_asked_for() -> None:
    quiet, loud = (
        scan(protocol(noise_hu=n), np.random.default_rng(1)).image[:, 54:74, 54:74].astype(float)
        for n in (0.0, 30.0)
    )
    assert 30 * 0.55 < (loud - quiet).std() < 30 * 1.55


def test_mr_is_positive_and_its_labels_are_those_of_ct() -> None:
    case = scan(protocol(mr=True), np.random.default_rng(2))
    assert case.image.min() >= 0 and case.image.max() > 200
    assert set(range(1, 16)) <= set(
        np.unique(labels_of(case, RAW_LAYOUTS["amos22"].labels)).tolist()
    )


def test_a_case_takes_little_time() -> None:
    best = min(_seconds(seed) for seed in range(3))
    assert best < 3.0  # 0.6 s on an idle core of 2024; the machine may be shared


def _seconds(seed: int) -> float:
    start = time.perf_counter()
    scan(protocol(size_px=160, slices=40), np.random.default_rng(seed))
    return time.perf_counter() - start
