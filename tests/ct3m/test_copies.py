"""Kinds of copies, one by one; scans that are none; and the parts of the search."""

from collections.abc import Iterable
from dataclasses import asdict
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from places import ROOT
from scipy.ndimage import gaussian_filter

from meddino.core.files import write_json
from meddino.ct3m import catalogue, comparison, duplicates, landmarks, proposals, slices
from meddino.ct3m.options import Curation, DuplicatesOptions
from meddino.ct3m.overlay import Line
from meddino.datasets.phantom.scanner import Protocol, scan
from meddino.volumes.reader import Volume

SIZE = 128


def _kinds() -> Any:
    spec = spec_from_file_location("kinds", ROOT / "benchmarks/kinds.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


kinds = _kinds()


def phantom(seed: int, noise_hu: float = 14.0) -> Any:
    """An array (z, y, x) in HU, and its spacing."""
    protocol = Protocol(
        size_px=96,
        slices=20,
        noise_hu=noise_hu,
        bottom_mm=(-248.0, -234.0),
        padding=None,
        mr=False,
        lesions=True,
    )
    made = scan(protocol, np.random.default_rng(seed))
    return made.image, made.spacing


def cut(folder: Path, dataset: str, scans: Iterable[tuple[str, Any]]) -> Path:
    """Cut arrays into slices, as the stage does with files; gives the report."""
    report = slices.Report(dataset, 0, 1)
    path = folder / dataset / "0.json"
    curation = Curation(datasets=(dataset,), sizes_px=(SIZE,), row_group_rows=8)
    path.parent.mkdir(parents=True)
    with slices._shards(curation, path) as writers:
        for case, (array, spacing) in scans:
            volume = Volume(array, spacing, (0.0, 0.0, 0.0), np.eye(3), 0.0)
            rows: slices.Rows = {SIZE: []}
            slices._add(volume, case, rows, curation, report)
            for row in rows[SIZE]:
                writers[SIZE].add(row)
    write_json(path, asdict(report))
    return path


def search(reports: list[Path]) -> pd.DataFrame:
    output = reports[0].parent / "duplicates.parquet"
    duplicates.run(DuplicatesOptions(size_px=SIZE), reports=reports, output=output)
    return pd.read_parquet(output)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two phantoms, and a folder with their report."""
    folder = tmp_path_factory.mktemp("copies")
    scans = {"one": phantom(0), "two": phantom(5)}
    return {"folder": folder, "scans": scans, "report": cut(folder, "originals", scans.items())}


# ---- what is a copy, and what is none --------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "flip", "turned_deg"),
    [
        ("noise of 40 HU", "", 0),
        ("blurred, sigma 2 px", "", 0),
        ("JPEG 2000, rate 20", "", 0),
        ("in plane to 50 %", "", 0),
        ("resampled to 1.5 mm isotropic", "", 0),
        ("cropped by 12 px", "", 0),
        ("padded on one side by 31 px", "", 0),
        ("shifted in plane by 3 px", "", 0),
        ("rotated by 5 degrees", "", 5),
        ("tilted by 2 degrees", "", 0),
        ("every second slice", "", 0),
        ("reversed, offset of +24 HU", "z", 0),
        ("mirrored and shifted by 4 px", "x", 0),
        ("values -200 to 300 HU", "", 0),
        ("spacing lost (1 mm)", "", 0),
    ],
)
def test_a_copy_is_found_whatever_was_done_to_it(
    world: dict[str, Any], name: str, flip: str, turned_deg: float
) -> None:
    kind = {**kinds.KINDS, **kinds.FURTHER}[name]
    copy = cut(world["folder"], name, [("copy", kinds.changed(kind, world["scans"]["one"]))])
    (pair,) = search([world["report"], copy]).to_dict("records")
    assert {pair["case_a"], pair["case_b"]} == {"one", "copy"}
    assert pair["flip"] == flip and abs(pair["turned_deg"]) == pytest.approx(turned_deg, abs=0.5)
    assert pair["correlation"] > 0.75


def test_what_is_shared_is_told_by_slice_numbers(world: dict[str, Any]) -> None:
    array, spacing = world["scans"]["one"]
    copy = cut(
        world["folder"], "part", [("copy", kinds.crop(4)(array[3:15:2], (40.6, *spacing[1:])))]
    )
    (pair,) = search([world["report"], copy]).to_dict("records")
    shared = {pair[f"case_{side}"]: (pair[f"from_{side}"], pair[f"to_{side}"]) for side in "ab"}
    assert shared == {"one": (3, 13), "copy": (0, 5)}
    assert pair["kind"] == "near" and pair["slices"] == 6


def test_another_scan_of_the_patient_is_no_copy(tmp_path: Path) -> None:
    """Of other noise, lain down otherwise, and breathed: tissue has moved by some millimetres."""
    clean = {seed: phantom(seed, noise_hu=0.0) for seed in (0, 5)}
    visits = [
        cut(
            tmp_path,
            f"visit{visit}",
            (
                (str(seed), kinds.changed(kinds.another_scan(visit * 4.0, 10 * seed + visit), scan))
                for seed, scan in clean.items()
            ),
        )
        for visit in (0, 1)
    ]
    assert len(search(visits)) == 0
    # Nor where one is laid over the other as well as can be.
    read = catalogue.read(visits, SIZE)
    forced = proposals.frame_on_frame(read, 0, 2, Line(1.0, 0.0), votes=0)
    result = comparison.compare(read, forced)
    assert result is None or result.correlation < 0.65


# ---- landmarks ------------------------------------------------------------------------------


def slice_of(shape: tuple[int, int] = (120, 96), seed: int = 0) -> np.ndarray:
    """Blobs of soft tissue and fat in a body, at 4 mm."""
    rng = np.random.default_rng(seed)
    blobs = gaussian_filter(rng.standard_normal(shape), 2)
    return (80 * blobs / blobs.std()).astype(np.float32)


@pytest.mark.parametrize(
    ("change", "mirrored"),
    [
        (lambda a: a[::-1], True),
        (lambda a: a[:, ::-1], True),
        (lambda a: a[::-1, ::-1], False),
        (lambda a: np.rot90(a), False),
        (lambda a: a.T, True),
        (lambda a: 0.7 * a - 30, False),
    ],
)
def test_landmarks_keep_their_codes(change: Any, mirrored: bool) -> None:
    before = landmarks.landmarks(slice_of(), (4.0, 4.0))
    after = landmarks.landmarks(np.ascontiguousarray(change(slice_of())), (4.0, 4.0))
    bit = landmarks.MIRRORED
    codes = set((before["code"] ^ (bit if mirrored else np.uint64(0))).tolist())
    assert len(before) > 30
    assert len(codes & set(after["code"].tolist())) > 0.6 * len(codes)


def test_landmarks_are_where_they_are_in_mm() -> None:
    fine = np.kron(slice_of(), np.ones((2, 4), np.float32))
    positions = []
    for image, spacing in ((slice_of(), (4.0, 4.0)), (fine, (2.0, 1.0))):
        marks = landmarks.landmarks(image, spacing)
        positions.append({int(m["code"]): np.array([m["y"], m["x"]]) / 16 for m in marks})
    both = positions[0].keys() & positions[1].keys()
    assert len(both) > 20
    off = [np.abs(positions[0][code] - positions[1][code]).max() for code in both]
    assert np.median(off) < 1


@pytest.mark.parametrize(
    "image", [np.full((40, 40), 30.0), np.full((3, 500), -1000.0), slice_of((12, 9))]
)
def test_slices_with_nothing_to_see_have_no_landmarks(image: np.ndarray) -> None:
    assert len(landmarks.landmarks(image.astype(np.float32), (4.0, 4.0))) == 0


def test_a_part_of_a_volume_keeps_the_landmarks_that_the_whole_keeps() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2**62, 4 * catalogue.PER_VOLUME).astype(np.uint64)
    whole = catalogue._thinned(codes, np.zeros(len(codes), np.int64))
    assert len(whole) == catalogue.PER_VOLUME and (np.diff(whole) > 0).all()
    part = catalogue._thinned(codes[: len(codes) // 2], np.zeros(len(codes) // 2, np.int64))
    assert set(whole[whole < len(codes) // 2]) <= set(part)


# ---- proposals ------------------------------------------------------------------------------


def test_equal_keys_propose_pairs_once_per_volume_and_never_crowds() -> None:
    keys = np.array([7, 7, 7, 0, 0, 9, 9], np.uint64)
    shared = proposals._Shared.of(keys, np.array([0, 0, 1, 0, 1, 1, 2], np.int32))
    assert shared.pairs((0, 3)).tolist() == [[0, 2], [5, 6]]
    assert shared.pairs((1, 3)).tolist() == [[5, 6]]
    crowd = proposals.MAX_VOLUMES + 1
    for keys in (np.full(crowd, 7, np.uint64), np.zeros(0, np.uint64)):
        shared = proposals._Shared.of(keys, np.arange(len(keys), dtype=np.int32))
        assert len(shared.pairs((0, crowd))) == 0


@pytest.mark.parametrize("block", [1, 2, 100])
def test_pairs_are_the_same_however_many_are_held_at_a_time(
    world: dict[str, Any], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = [("copy", kinds.changed(kinds.rotate(3), world["scans"]["one"]))]
    copy = cut(world["folder"], f"at a time {block}", scans)
    monkeypatch.setattr(proposals, "AT_ONCE", block)
    monkeypatch.setattr(catalogue, "JOINED_SHARDS", block)
    pairs = search([world["report"], copy])
    assert pairs[["case_a", "case_b"]].to_numpy().tolist() in ([["copy", "one"]], [["one", "copy"]])


def test_landmarks_that_chance_turned_are_no_hints() -> None:
    rng = np.random.default_rng(0)
    marks = np.zeros((2, 40), landmarks.LANDMARK)
    marks["turn"] = rng.integers(-(2**15), 2**15, marks.shape)
    marks["turn"][1, :8] = marks["turn"][0, :8] + 9000  # turned alike, over the whole turn's end
    pairs = np.arange(80, dtype=np.int32).reshape(2, 40).T
    volume = np.repeat(np.arange(2, dtype=np.int32), 40)
    alike = proposals._turned_alike(pairs, marks.reshape(-1), volume)
    assert set(range(8)) <= set(alike[:, 0].tolist())
    chance = proposals._turned_alike(pairs[8:14], marks.reshape(-1), volume)
    assert len(chance) == 0


def bare(volumes: dict[str, Any], **fields: Any) -> catalogue.Catalogue:
    """A catalogue of which only some fields matter."""
    empty = dict.fromkeys(catalogue.Catalogue.__dataclass_fields__, np.zeros(0))
    return catalogue.Catalogue(**{**empty, "volumes": pd.DataFrame(volumes), **fields})


@pytest.mark.parametrize(
    ("spacing", "step"),
    [((2.0, 2.0), 1.0), ((2.0, 4.0), 0.5), ((2.0, 1.0), -2.0), ((5.0, 1.0), 1.0)],
)
def test_slices_stand_in_line_whatever_the_headers_say(
    spacing: tuple[float, float], step: float
) -> None:
    a = np.arange(0, 80, 5)
    numbers = np.stack([a, np.rint(step * a + 90)], axis=1).astype(int)
    numbers[::4, 1] = np.random.default_rng(0).integers(0, 90, 4)  # hints that are wrong
    volumes = bare({"spacing_mm_z": spacing})
    line, on_line = proposals._line(volumes, 0, 1, numbers)
    assert line.step == step and line.first == pytest.approx(90, abs=0.6)
    assert on_line.sum() >= 12


@pytest.mark.parametrize("mirrored", [False, True])
def test_landmarks_that_agree_tell_how_slices_lie(mirrored: bool) -> None:
    rng = np.random.default_rng(0)
    a, turns = rng.uniform(0, 400, (20, 2)), rng.uniform(-3, 3, 20)
    angle, sign = 0.3, -1 if mirrored else 1
    # In (y, x), from x towards y, after the mirror of y.
    matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    matrix = matrix @ np.diag([sign, 1])
    b = a @ matrix.T + [30, -20]
    b[:5] += 60  # wrong ones
    points = np.stack([a, b], axis=1)
    agree = proposals._agreeing(
        points, np.stack([turns, sign * turns + angle], axis=1), np.full(20, mirrored)
    )
    assert agree.tolist() == [False] * 5 + [True] * 15
    rotation, shift = proposals._rigid(a[agree], b[agree], mirrored)
    np.testing.assert_allclose(rotation, matrix, atol=1e-9)
    np.testing.assert_allclose(shift, [30, -20], atol=1e-6)
    assert duplicates._flip(rotation)[1] == pytest.approx(np.rad2deg(angle))


def test_a_line_tells_which_slices_both_show() -> None:
    a, b = np.arange(10, dtype=np.int32), np.array([0, 1, 2, 4], np.int32)
    places, nearest, off = Line(-0.5, 4.0).beside(a, b)
    assert places.tolist() == list(range(9))  # number 9 would be at -0.5
    assert nearest.tolist() == [3, 3, 2, 2, 2, 1, 1, 0, 0]
    assert off.tolist() == [0, 0.5, 1, 0.5, 0, 0.5, 0, 0.5, 0]
