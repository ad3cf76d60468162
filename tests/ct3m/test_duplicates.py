"""Copies: caught however they are stored, never seen where there are none, and kept out if asked.

The same volume is planted under three data sets: mirrored, cropped along z, and re-encoded. It is
done with phantoms always, and with real scans where they are present.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from places import SHARED
from scipy.ndimage import zoom

from meddino.__main__ import main
from meddino.core.errors import MeddinoError
from meddino.core.files import read_json, sha256, write_json
from meddino.ct3m import (
    catalogue,
    comparison,
    duplicates,
    exclusion,
    index,
    perceptual,
    shards,
    slices,
)
from meddino.ct3m.options import Curation, DuplicatesOptions, IndexOptions, SliceOptions
from meddino.ct3m.overlay import Line
from meddino.ct3m.proposals import frame_on_frame
from meddino.datasets.options import FolderLayout
from meddino.datasets.phantom.scanner import Protocol, scan
from meddino.volumes import reader

REALCT = SHARED / "realct"
REAL = {
    "sts_037": "ibsi_sts_037/dicom/image",
    "sts_044": "ibsi_sts_044/ct.nii.gz",
    "example": "ts_example_ct/ct.nii.gz",
    "aorta": "ts_aorta_crop/ct.nii.gz",
    "scrubbed": "ts_example_ct_dicom_scrubbed/dicom",
}
LAYOUT = FolderLayout(images=("*.nii.gz", "*.mha"), case=r"^(?P<case>[^.]+)")
SIZE = 64
PLANTED = ("mirrored", "cropped", "encoded")
DISTINCT = 0.3
"""The detail of different patients correlates less than this; that of copies more than 0.7."""


# ---- planting -------------------------------------------------------------------------------


def save(folder: Path, name: str, array: np.ndarray, like: reader.Volume) -> None:
    """Write (z, y, x) as a file that says LPS, whatever was done to the array."""
    folder.mkdir(parents=True, exist_ok=True)
    z, y, x = like.spacing_mm
    nib.save(
        nib.Nifti1Image(array.transpose(2, 1, 0), np.diag([-x, -y, z, 1.0])),
        folder / f"{name}.nii.gz",
    )


def plant(root: Path, name: str, volume: reader.Volume) -> None:
    """Put three copies of a volume under three data sets, under names that tell nothing."""
    array, depth = volume.array, len(volume.array)
    # The header says nothing of the mirror: that is how copies of real data sets differ.
    save(root / "mirrored", f"m_{name}", array[::-1, :, ::-1], volume)
    save(root / "cropped", f"c_{name}", array[depth // 4 : depth // 4 + max(8, depth // 3)], volume)
    # Another format and number type, padding cut off, values shaken by rounding.
    noise = np.random.default_rng(0).uniform(-1, 1, array.shape)
    image = sitk.GetImageFromArray(np.clip(array, -1000, 2000).astype(np.float32) + noise)
    image.SetSpacing(volume.spacing_mm[::-1])
    (root / "encoded").mkdir(exist_ok=True)
    sitk.WriteImage(sitk.Cast(image, sitk.sitkFloat32), str(root / f"encoded/e_{name}.mha"), True)


def cut(root: Path, dataset: str) -> Path:
    """Run the stage `slices` on a folder; gives its report."""
    raw = root / f"{dataset}.fetched.json"
    raw.write_text(json.dumps({"dataset": dataset, "root": str(root / dataset), "files": []}))
    curation = Curation(datasets=(dataset,), sizes_px=(SIZE,), row_group_rows=8)
    report = root / f"ct3m/shards/{dataset}/0.json"
    options = SliceOptions(
        dataset_name=dataset, dataset=LAYOUT, chunk=0, chunks=1, curation=curation
    )
    slices.run(options, raw=raw, output=report)
    return report


class World:
    """Data sets, cut into slices and searched for copies."""

    def __init__(self, root: Path, originals: dict[str, reader.Volume], planted: list[str]):
        self.root = root
        for name, volume in originals.items():
            save(root / "originals", name, volume.array, volume)
            if name in planted:
                plant(root, name, volume)
        self.planted, self.names = planted, list(originals)
        datasets = ("originals", *(PLANTED if planted else ()))
        self.reports = [cut(root, dataset) for dataset in datasets]
        self.pairs_path = root / "ct3m/duplicates.parquet"
        options = DuplicatesOptions(size_px=SIZE)
        duplicates.run(options, reports=self.reports, output=self.pairs_path)
        self.pairs = pd.read_parquet(self.pairs_path)

    def expected(self) -> set[frozenset[tuple[str, str]]]:
        """Every two of an original and its three copies."""
        families = [
            [("originals", n), ("mirrored", f"m_{n}"), ("cropped", f"c_{n}"), ("encoded", f"e_{n}")]
            for n in self.planted
        ]
        return {frozenset(pair) for family in families for pair in combinations(family, 2)}

    def found(self) -> list[frozenset[tuple[str, str]]]:
        columns = ["dataset_a", "case_a", "dataset_b", "case_b"]
        return [frozenset([(a, b), (c, d)]) for a, b, c, d in self.pairs[columns].to_numpy()]

    def check(self) -> None:
        found = self.found()
        assert len(found) == len(set(found))
        assert set(found) == self.expected()
        assert (self.pairs["correlation"] > 0.9).all()
        assert (self.pairs["turned_deg"].abs() < 1).all()

    def correlation_of_the_most_alike(self, count: int) -> float:
        """Of originals, two by two, laid over each other frame on frame."""
        read = catalogue.read(self.reports[:1], SIZE)
        pairs = list(combinations(range(len(read.volumes)), 2))[:count]
        forced = (frame_on_frame(read, a, b, Line(1.0, 0.0), votes=0) for a, b in pairs)
        found = [comparison.compare(read, proposal) for proposal in forced]
        return max((result.correlation for result in found if result is not None), default=-1.0)


def phantom(seed: int) -> reader.Volume:
    made = scan(
        Protocol(
            size_px=96,
            slices=20,
            noise_hu=14.0,
            bottom_mm=(-248.0, -234.0),
            padding=None,
            mr=False,
            lesions=True,
        ),
        np.random.default_rng(seed),
    )
    return reader.Volume(
        array=np.asarray(made.image, dtype=np.int16),
        spacing_mm=tuple(map(float, made.spacing)),
        origin_mm=(0.0, 0.0, 0.0),
        direction=np.eye(3),
        oblique_deg=0.0,
    )


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> World:
    originals = {f"p{seed}": phantom(seed) for seed in range(12)}
    return World(tmp_path_factory.mktemp("phantoms"), originals, ["p0", "p5"])


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> World:
    if not (REALCT / "MANIFEST.json").exists():
        pytest.skip(f"no real CT scans at {REALCT}")
    originals = {name: reader.read(REALCT / path) for name, path in REAL.items()}
    return World(tmp_path_factory.mktemp("real"), originals, ["sts_037", "example", "scrubbed"])


# ---- what is found --------------------------------------------------------------------------


def test_planted_phantoms_are_caught_and_nothing_else(phantoms: World) -> None:
    phantoms.check()
    assert phantoms.correlation_of_the_most_alike(12) < DISTINCT


def test_planted_real_scans_are_caught_and_nothing_else(real: World) -> None:
    real.check()
    assert real.correlation_of_the_most_alike(10) < DISTINCT


def test_what_a_copy_went_through_is_told(phantoms: World) -> None:
    rows = phantoms.pairs.set_index(["dataset_a", "dataset_b"])

    def row(a: str, b: str) -> Any:
        return rows.loc[(a, b)].query("case_a.str.endswith('p0')", engine="python").iloc[0]

    cropped, mirrored = row("cropped", "originals"), row("mirrored", "originals")
    assert cropped["kind"] == "exact" and cropped["correlation"] == 1
    assert (cropped["slices"], cropped["from_a"], cropped["to_a"]) == (8, 0, 7)
    assert (cropped["from_b"], cropped["to_b"]) == (5, 12)
    assert mirrored["kind"] == "near" and mirrored["flip"] == "xz" and mirrored["slices"] == 20
    assert row("encoded", "originals")["kind"] == "near"
    assert row("encoded", "originals")["flip"] == ""


def test_the_matrix_counts_volumes_by_dataset(phantoms: World) -> None:
    matrix = pd.read_csv(phantoms.root / "ct3m/overlap.csv", index_col="dataset")
    assert matrix["volumes"].to_dict() == {"cropped": 2, "encoded": 2, "mirrored": 2} | {
        "originals": 12
    }
    counts = matrix.drop(columns="volumes")
    assert (np.diag(counts) == 0).all()
    assert (counts.to_numpy()[~np.eye(4, dtype=bool)] == 2).all()


def test_real_copies_that_nobody_planted_are_found(tmp_path: Path) -> None:
    """NIfTI and DICOM of one scan, and a crop; per MANIFEST these are the only copies."""
    if not (REALCT / "MANIFEST.json").exists():
        pytest.skip(f"no real CT scans at {REALCT}")
    raw = tmp_path / ".fetched.json"
    raw.write_text(json.dumps({"dataset": "realct", "root": str(REALCT), "files": []}))
    layout = FolderLayout(
        images=("*/ct.nii.gz", "*/dicom/*.dcm", "*/dicom/image/*.dcm"),
        case=r"^(?P<case>[^/]+)/(?P<form>ct|dicom)",
    )
    curation = Curation(datasets=("realct",), sizes_px=(SIZE,))
    options = SliceOptions(
        dataset_name="realct", dataset=layout, chunk=0, chunks=1, curation=curation
    )
    slices.run(options, raw=raw, output=tmp_path / "0.json")
    output = tmp_path / "duplicates.parquet"
    duplicates.run(DuplicatesOptions(size_px=SIZE), reports=[tmp_path / "0.json"], output=output)
    pairs = pd.read_parquet(output)
    assert pairs[["case_a", "case_b"]].values.tolist() == [
        ["ibsi_sts_044ct", "ibsi_sts_044dicom"],
        ["ts_example_ct_smct", "ts_example_ctct"],
    ]
    assert (pairs["kind"] == "exact").all()
    assert pairs[["from_b", "to_b"]].values.tolist() == [[0, 52], [82, 111]]


def test_the_same_input_gives_the_same_bytes(phantoms: World, tmp_path: Path) -> None:
    again = tmp_path / "duplicates.parquet"
    reports = phantoms.reports[::-1]
    duplicates.run(DuplicatesOptions(size_px=SIZE), reports=reports, output=again)
    assert sha256(again) == sha256(phantoms.pairs_path)


def test_copies_with_damaged_slices_or_another_matrix_are_caught(tmp_path: Path) -> None:
    whole, other = phantom(3), phantom(4)
    damaged = whole.array.copy()
    damaged[3], damaged[11] = other.array[3], other.array[11]
    finer = reader.Volume(
        array=zoom(whole.array, (1, 1.25, 1.25), order=1, grid_mode=True, mode="nearest"),
        spacing_mm=(whole.spacing_mm[0], *(mm / 1.25 for mm in whole.spacing_mm[1:])),
        origin_mm=whole.origin_mm,
        direction=whole.direction,
        oblique_deg=0.0,
    )
    changed = {"damaged": replace(whole, array=damaged), "finer": finer}
    world = World(tmp_path, {"whole": whole, "other": other, **changed}, [])
    copies_of_one = combinations(("damaged", "finer", "whole"), 2)
    expected = {frozenset(("originals", name) for name in pair) for pair in copies_of_one}
    assert set(world.found()) == expected
    assert world.pairs["slices"].min() >= 18


# ---- fingerprints and keys ------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(16, 90), st.integers(16, 90), st.integers(0, 99))
def test_fingerprints_are_blind_to_mirroring_and_to_the_matrix(height, width, seed) -> None:
    coarse = np.random.default_rng(seed).uniform(-1000, 1000, (4, 4))
    image = np.kron(coarse, np.ones((height // 4, width // 4)))
    one = perceptual.fingerprint(image)
    assert one.dtype == np.int16 and one.shape == (64,)
    for mirrored in (image[::-1], image[:, ::-1], image[::-1, ::-1]):
        np.testing.assert_allclose(perceptual.fingerprint(mirrored), one, atol=1)
    finer = perceptual.fingerprint(np.kron(image, np.ones((2, 2))))
    assert np.abs(finer.astype(float) - one).mean() < 6
    assert one[0] == pytest.approx(image.mean(), abs=6)


def test_without_any_volume_there_is_no_pair(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "junk.nii.gz").write_bytes(b"junk")
    reports = [cut(tmp_path, name) for name in ("a", "b")]
    output = tmp_path / "duplicates.parquet"
    duplicates.run(DuplicatesOptions(size_px=SIZE), reports=reports, output=output)
    assert len(pd.read_parquet(output)) == 0
    assert (tmp_path / "overlap.csv").read_text().startswith("dataset,volumes")


def test_shards_of_before_are_named(phantoms: World, tmp_path: Path) -> None:
    write_json(tmp_path / "0.json", {"dataset": "old", "chunk": 0, "slices": 0})
    stored = pq.read_table(phantoms.reports[0].with_name(f"0.{SIZE}.parquet"))
    old = tmp_path / f"0.{SIZE}.parquet"
    pq.write_table(stored.drop_columns([shards.FINGERPRINT]), old)
    with pytest.raises(MeddinoError, match=r"0\.64\.parquet has no fingerprint; run the stage"):
        duplicates.run(
            DuplicatesOptions(size_px=SIZE),
            reports=[tmp_path / "0.json"],
            output=tmp_path / "duplicates.parquet",
        )


# ---- what stays out of an index -------------------------------------------------------------

ORDER = ("cropped", "originals", "mirrored", "encoded")


def indexed(world: World, folder: Path, **options: Any) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Rows and card of an index of a world."""
    splits = options.pop("splits", ())
    output = folder / "index.parquet"
    index.run(
        IndexOptions(size_px=SIZE, datasets=options.pop("datasets", ORDER), **options),
        reports=world.reports,
        duplicates=world.pairs_path,
        splits=splits,
        output=output,
    )
    return pd.read_parquet(output), read_json(output.with_suffix(".card.json"))


def slices_of(rows: pd.DataFrame, case: str) -> list[int]:
    return sorted(rows.loc[rows["case"] == case, "slice"])


def test_off_keeps_everything(phantoms: World, tmp_path: Path) -> None:
    rows, card = indexed(phantoms, tmp_path)
    assert len(rows) == card["slices"] == card["indexed_slices"]
    assert card["slices_left_out_as_repeated"] == 0 and "leak_free" not in card


def test_keep_first_leaves_out_what_is_repeated_and_no_more(
    phantoms: World, tmp_path: Path
) -> None:
    rows, card = indexed(phantoms, tmp_path, dedupe="keep-first")
    assert slices_of(rows, "c_p0") == list(range(8))
    # The crop comes first: of the whole volume stays what the crop does not show.
    assert slices_of(rows, "p0") == [*range(5), *range(13, 20)]
    assert slices_of(rows, "m_p0") == slices_of(rows, "e_p0") == []
    assert slices_of(rows, "p3") == list(range(20))
    assert card["slices_left_out_as_repeated"] == card["slices"] - len(rows)


def test_the_order_of_the_datasets_decides_which_copy_is_kept(
    phantoms: World, tmp_path: Path
) -> None:
    rows, _ = indexed(phantoms, tmp_path, dedupe="keep-first", datasets=("encoded", *ORDER[:3]))
    assert slices_of(rows, "e_p0") == list(range(20))
    assert slices_of(rows, "p0") == slices_of(rows, "c_p0") == []


def test_a_share_is_of_the_volumes_of_each_dataset_and_lies_within_a_larger_one(
    phantoms: World, tmp_path: Path
) -> None:
    everything, _ = indexed(phantoms, tmp_path)
    total = everything.groupby("dataset")["case"].nunique()
    smaller: set[str] = set()
    for percent in (10, 25, 50):
        rows, card = indexed(phantoms, tmp_path, variant="part", percent=percent, seed=3)
        counts = rows.groupby("dataset")["case"].nunique()
        assert counts.to_dict() == {n: -(-int(c) * percent // 100) for n, c in total.items()}
        whole = everything[everything["case"].isin(rows["case"])]
        assert len(rows) == len(whole) == card["indexed_slices"], "all slices of a volume, or none"
        assert smaller <= set(rows["case"])
        smaller = set(rows["case"])
        left = int(total.sum()) - len(smaller)
        assert card["variant"] == {
            "name": "part",
            "percent": percent,
            "seed": 3,
            "volumes_not_drawn": left,
        }
    other, _ = indexed(phantoms, tmp_path, percent=50, seed=4)
    assert set(other["case"]) != smaller


def test_of_copies_in_a_share_the_first_that_is_drawn_stays(
    phantoms: World, tmp_path: Path
) -> None:
    for seed in range(20):  # until a copy is drawn without what it is a copy of
        rows, _ = indexed(phantoms, tmp_path, percent=50, seed=seed, dedupe="keep-first")
        drawn = set(rows["case"])
        if "m_p0" in drawn and not {"p0", "c_p0"} & drawn:
            break
    assert slices_of(rows, "m_p0") == list(range(20)), "nothing that is drawn repeats it"


def test_a_variant_without_a_dataset_keeps_the_others_whole(
    phantoms: World, tmp_path: Path
) -> None:
    kept = tuple(name for name in ORDER if name != "originals")
    rows, card = indexed(phantoms, tmp_path, datasets=kept, variant="without_originals")
    assert set(rows["dataset"]) == set(kept) == set(card["datasets"])
    assert card["variant"]["volumes_not_drawn"] == 0


@pytest.fixture
def split(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "raw/Dataset701_abdomen/splits_final.json"
    write_json(
        path,
        [{"train": ["p0"], "val": ["p1"]}, {"train": ["p1", "p5"], "val": ["p0", "mr_case"]}],
    )
    yield path


def test_validation_cases_and_their_copies_are_found_by_content(
    phantoms: World, tmp_path: Path, split: Path
) -> None:
    chosen = {"splits": [split], "folds": [1], "benchmarks": {"abdomen": "originals"}}
    rows, card = indexed(phantoms, tmp_path, **chosen)
    gone = {(entry["dataset"], entry["case"]) for entry in card["leak_free"]["removed"]}
    assert gone == {("originals", "p0"), ("mirrored", "m_p0")} | {
        ("cropped", "c_p0"),
        ("encoded", "e_p0"),
    }
    assert not {case for _, case in gone} & set(rows["case"])
    # Cases that finetuning trains on stay, and so do their copies.
    assert {"p1", "p5", "m_p5", "c_p5", "e_p5"} <= set(rows["case"])
    assert card["leak_free"]["slices_removed"] == card["slices"] - len(rows) == 3 * 20 + 8
    (absent,) = card["leak_free"]["without_slices"]
    assert absent["case"] == "mr_case"


def test_a_benchmark_outside_of_ct3m_is_searched_but_not_indexed(
    phantoms: World, tmp_path: Path, split: Path
) -> None:
    chosen = {"splits": [split], "folds": [1], "benchmarks": {"abdomen": "originals"}}
    rows, card = indexed(phantoms, tmp_path, datasets=PLANTED, **chosen)
    assert set(rows["dataset"]) == set(PLANTED)
    assert set(rows["case"]) == {"m_p5", "c_p5", "e_p5"}
    assert card["indexed_slices"] == len(rows) and card["volumes"] == 6


def test_copies_of_copies_leak_too() -> None:
    pairs = pd.DataFrame(
        [("a", "1", "b", "2"), ("b", "2", "c", "3"), ("d", "4", "e", "5")],
        columns=["dataset_a", "case_a", "dataset_b", "case_b"],
    )
    found = exclusion.with_copies({("a", "1"): "lits validates on it"}, pairs)
    assert found == {
        ("a", "1"): "lits validates on it",
        ("b", "2"): "copy of a/1",
        ("c", "3"): "copy of b/2",
    }


def test_the_command_takes_several_splits(phantoms: World, tmp_path: Path, split: Path) -> None:
    other = tmp_path / "raw/Dataset702_more/splits_final.json"
    write_json(other, [{"train": [], "val": ["p5"]}] * 2)
    benchmarks = {"abdomen": "originals", "more": "originals"}
    options = IndexOptions(size_px=SIZE, folds=(1,), benchmarks=benchmarks).model_dump_json()
    files = ["--reports", *map(str, phantoms.reports), "--duplicates", str(phantoms.pairs_path)]
    files += ["--splits", str(split), str(other), "--output", str(tmp_path / "index.parquet")]
    assert main(["index", "--options", options, *files]) == 0
    rows = pd.read_parquet(tmp_path / "index.parquet")
    assert set(rows["case"]) == {f"p{seed}" for seed in range(12)} - {"p0", "p5"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"folds": [0, 2], "benchmarks": {"abdomen": "originals"}},
            r"has 2 folds, not fold 2; mend",
        ),
        (
            {"folds": [0], "benchmarks": {"lits": "lits"}},
            r"of no benchmark of this study \(known: l",
        ),
    ],
)
def test_splits_that_do_not_fit_are_named(
    phantoms: World, tmp_path: Path, split: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(MeddinoError, match=message):
        indexed(phantoms, tmp_path, splits=[split], **options)


def test_copies_must_be_known_to_stay_out(phantoms: World, tmp_path: Path) -> None:
    with pytest.raises(MeddinoError, match="run the stage `duplicates`"):
        index.run(
            IndexOptions(size_px=SIZE, dedupe="keep-first"),
            reports=phantoms.reports,
            output=tmp_path / "index.parquet",
        )
