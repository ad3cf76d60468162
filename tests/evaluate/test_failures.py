"""Where segmentations fail: components, calibration, abstention and bins, by their properties."""

from collections import deque
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from meddino.core.errors import MeddinoError
from meddino.core.files import read_json, write_json
from meddino.evaluate.failures import (
    calibration,
    cases,
    certainty,
    components,
    failures,
    groups,
    lesions,
    strata,
)
from meddino.evaluate.failures.options import (
    Failures,
    FailuresOptions,
    LesionsOptions,
    Metadata,
)

SEEDS = st.integers(0, 2**32 - 1)


def mask(seed: int, shape: tuple[int, int, int] = (4, 6, 5), share: float = 0.25) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < share


# ---- lesions ------------------------------------------------------------------------------------


def flooded(mask: np.ndarray) -> list[frozenset[tuple[int, ...]]]:
    """Components by flooding from each voxel to its 26 neighbours."""
    left = {tuple(map(int, place)) for place in np.argwhere(mask)}
    parts = []
    while left:
        queue, part = deque([left.pop()]), set()
        while queue:
            place = queue.popleft()
            part.add(place)
            for step in np.ndindex(3, 3, 3):
                near = tuple(a + b - 1 for a, b in zip(place, step, strict=True))
                if near in left:
                    left.remove(near)
                    queue.append(near)
        parts.append(frozenset(part))
    return parts


@given(SEEDS, st.sampled_from([0.0, 0.05, 0.15, 0.3, 1.0]))
@settings(max_examples=40, deadline=None)
def test_components_are_those_of_a_flood(seed: int, share: float) -> None:
    array = mask(seed, share=share)
    numbered, count = components.components(array)
    parts = {
        frozenset(tuple(map(int, p)) for p in np.argwhere(numbered == n))
        for n in range(1, count + 1)
    }
    assert parts == set(flooded(array))


@given(SEEDS, SEEDS)
@settings(max_examples=30, deadline=None)
def test_overlaps_are_those_of_sets(first: int, second: int) -> None:
    masks = mask(first, share=0.08), mask(second, share=0.12)
    counted = components.overlap(*masks)
    parts = [flooded(array) for array in masks]
    brute = sorted(len(a & b) for a in parts[0] for b in parts[1])
    assert sorted(counted.shared.ravel().tolist()) == brute
    ious = sorted(len(a & b) / len(a | b) for a in parts[0] for b in parts[1])
    assert np.allclose(sorted(counted.iou.ravel()), ious)
    assert sorted(counted.reference.tolist()) == sorted(map(len, parts[0]))


def best_number_of_pairs(allowed: np.ndarray) -> int:
    """Most pairs of a one-to-one matching, by trying all."""
    if not allowed.shape[0]:
        return 0
    rest = allowed[1:]
    found = [best_number_of_pairs(rest)]
    for column in np.flatnonzero(allowed[0]):
        found.append(1 + best_number_of_pairs(np.delete(rest, column, axis=1)))
    return max(found)


@given(SEEDS, st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_a_matching_is_one_to_one_and_as_large_as_can_be(
    seed: int, rows: int, columns: int
) -> None:
    iou = np.random.default_rng(seed).random((rows, columns)) ** 3
    matched = components.matched(iou, 0.1)
    chosen = matched > 0
    assert chosen.sum(axis=0).max() <= 1 and chosen.sum(axis=1).max() <= 1
    assert (matched[chosen] == iou[chosen]).all() and (iou[chosen] >= 0.1).all()
    assert chosen.sum() == best_number_of_pairs(iou >= 0.1)


def test_a_diameter_is_that_of_a_ball() -> None:
    assert components.diameter_mm(4 / 3 * np.pi * 5**3 / 1000) == pytest.approx(10)


def write_labels(path: Path, array: np.ndarray, spacing: tuple[float, ...] = (1, 1, 1)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array.astype(np.uint8))
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(path))


def benchmark(root: Path, pairs: dict[str, tuple[np.ndarray, np.ndarray]]) -> tuple[Path, Path]:
    """A converted benchmark and a run's predictions: case -> reference and prediction."""
    dataset = root / "Dataset703_kits23/dataset.json"
    done = root / "predictions/kits23/nnunet/fold0/done.json"
    for case, (reference, predicted) in pairs.items():
        write_labels(dataset.parent / f"labelsTr/{case}.nii.gz", reference, (2, 2, 5))
        write_labels(done.parent / f"{case}.nii.gz", predicted, (2, 2, 5))
    labels = {"background": 0, "kidney": 1, "tumour": 2}
    files = {case: {"label": f"labelsTr/{case}.nii.gz"} for case in pairs}
    write_json(dataset, {"labels": labels, "dataset": files})
    write_json(done, {"cases": list(pairs), "fold": 0})
    return dataset, done


def two_lesions() -> tuple[np.ndarray, np.ndarray]:
    """Two lesions, of which a corner of one is predicted, and a lesion that is none."""
    reference, predicted = np.zeros((2, 6, 12, 12), int)
    reference[1:4, 1:4, 1:4] = 2
    reference[1, 8, 8] = 2
    predicted[1, 1, 1] = 2  # IoU 1/27
    predicted[4, 10:, 10:] = 2
    return reference, predicted


def test_lesions_are_listed_and_matched(tmp_path: Path) -> None:
    empty = np.zeros((6, 12, 12), int)
    dataset, done = benchmark(tmp_path, {"c1": two_lesions(), "c2": (empty, empty)})
    options = LesionsOptions(
        benchmark="kits23", method="nnunet", fold=0, structures=("tumour",), iou=0.1
    )
    output = tmp_path / "lesions.parquet"
    lesions.run(options, predictions=done, dataset=dataset, output=output)
    table = pd.read_parquet(output)
    assert set(table["case"]) == {"c1"}
    reference = table[table["side"] == "reference"].sort_values("voxels")
    assert reference["voxels"].tolist() == [1, 27]
    assert reference["ml"].tolist() == pytest.approx([0.02, 0.54])
    assert reference["shared_voxels"].tolist() == [0, 1]
    assert (table["iou"] == 0).all(), "one of 27 voxels is below the least IoU"
    low = options.model_copy(update={"iou": 1 / 27})
    lesions.run(low, predictions=done, dataset=dataset, output=output)
    again = pd.read_parquet(output)
    assert again["iou"].tolist().count(pytest.approx(1 / 27)) == 2, "once on each side"
    wrong = options.model_copy(update={"structures": ("cyst",)})
    with pytest.raises(MeddinoError, match="no structure 'cyst'"):
        lesions.run(wrong, predictions=done, dataset=dataset, output=output)
    dataset, done = benchmark(tmp_path / "none", {"c2": (empty, empty)})
    lesions.run(options, predictions=done, dataset=dataset, output=output)
    assert pd.read_parquet(output).empty and set(lesions.COLUMNS) == set(pd.read_parquet(output))


# ---- calibration --------------------------------------------------------------------------------


@given(SEEDS, st.floats(0.2, 5), st.integers(2, 30))
@settings(max_examples=25, deadline=None)
def test_a_calibrated_softmax_has_no_error(seed: int, shape: float, bins: int) -> None:
    rng = np.random.default_rng(seed)
    softmax = rng.beta(shape, shape, 60_000)
    counts = calibration.histogram(softmax, rng.random(60_000) < softmax, bins)
    # Chance alone: a deviation of at most sqrt(n) / 2 in a bin, and thrice that of their mean.
    assert calibration.expected_error(*counts) < (np.sqrt(bins) / 2 + 1.5) / np.sqrt(60_000)
    assert abs(calibration.overconfidence(*counts)) < 0.01


def test_an_overconfident_softmax_has_an_error() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(50_000)
    correct = rng.random(50_000) < truth
    bold = np.clip(truth * 1.5 - 0.25, 0, 1)
    error = calibration.expected_error(*calibration.histogram(bold, correct, 15))
    assert error > 0.08
    always = np.full(1000, 0.9)
    counts = calibration.histogram(always, np.arange(1000) < 600, 10)
    assert calibration.expected_error(*counts) == pytest.approx(0.3)
    assert calibration.overconfidence(*counts) == pytest.approx(0.3)


@given(SEEDS, st.integers(2, 20))
@settings(max_examples=25, deadline=None)
def test_a_histogram_counts_each_voxel_above_the_least_once(seed: int, bins: int) -> None:
    rng = np.random.default_rng(seed)
    softmax = rng.random((4, 5, 6)).astype(np.float32) ** 4
    softmax[0, 0, :2] = 0, 1
    correct = rng.random(softmax.shape) < 0.5
    count, right, confidence = calibration.histogram(softmax, correct, bins)
    counted = softmax > calibration.LEAST
    assert count.sum() == counted.sum() and right.sum() == (correct & counted).sum()
    assert confidence.sum() == pytest.approx(softmax[counted].sum(dtype=np.float64))
    assert (right <= count).all()
    means = confidence[count > 0] / count[count > 0]
    places = np.flatnonzero(count)
    assert (means >= places / bins - 1e-6).all() and (means <= (places + 1) / bins + 1e-6).all()


def test_the_soft_dice_of_a_sure_network_is_one() -> None:
    assert calibration.soft_dice(10.0, 10.0, 10) == 1
    assert calibration.soft_dice(10.0, 5.0, 10) == 0.5
    assert np.isnan(calibration.soft_dice(3.0, 0.0, 0))


# ---- abstention ---------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 100), min_size=1, max_size=40), SEEDS)
@settings(max_examples=60, deadline=None)
def test_the_oracle_is_monotone_and_above_every_other_order(values: list[float], seed: int) -> None:
    dsc = np.array(values)
    confidence = np.random.default_rng(seed).random(len(dsc))
    curves = calibration.abstention(dsc, confidence)
    assert (np.diff(curves["oracle"]) <= 1e-9).all(), "the mean falls as worse cases come in"
    assert (curves["oracle"] >= curves["confidence"] - 1e-9).all()
    assert all(curve[-1] == pytest.approx(dsc.mean()) for curve in curves.values())
    oracle = calibration.abstention(dsc, dsc)
    assert np.allclose(oracle["confidence"], oracle["oracle"])
    if dsc.max() - dsc.min() > 1e-6:
        assert calibration.rejection_ratio(oracle) == pytest.approx(1)


def test_a_random_order_gains_nothing_on_average() -> None:
    rng = np.random.default_rng(0)
    dsc = rng.random(30)
    ratios = [
        calibration.rejection_ratio(calibration.abstention(dsc, rng.random(30))) for _ in range(400)
    ]
    assert abs(np.mean(ratios)) < 4 * np.std(ratios) / 20
    assert np.isnan(calibration.rejection_ratio(calibration.abstention(np.ones(3), rng.random(3))))


# ---- bins ---------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([0.5, 1.0, 2.0, 3.5, 9.0, 100.0]), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_bins_of_size_hold_every_case_once(values: list[float]) -> None:
    volumes = np.array(values)
    edges = strata.tertiles(volumes)
    places = strata.places(volumes, edges)
    names = strata.names(edges, "ml")
    assert ((places >= 0) & (places < len(names))).all()
    below = [volumes[places == place] for place in range(len(names))]
    assert sum(map(len, below)) == len(volumes)
    filled = [part for part in below if len(part)]
    assert all(a.max() < b.min() for a, b in pairwise(filled)), "in order"


def test_tertiles_of_different_volumes_have_the_same_number_of_cases() -> None:
    volumes = np.random.default_rng(0).permutation(30).astype(float)
    assert np.bincount(strata.places(volumes, strata.tertiles(volumes))).tolist() == [10, 10, 10]


def test_bins_are_named() -> None:
    assert strata.names((2.0, 4.0), "mm") == ["up to 2 mm", "2 to 4 mm", "over 4 mm"]
    assert strata.names((1234.5,), "ml") == ["up to 1234 ml", "over 1234 ml"]
    assert strata.names((), "ml") == ["all"]


def test_the_interval_of_a_share_is_clopper_and_pearsons_for_unlike_lesions() -> None:
    hits, totals = np.array([1, 0] * 40), np.ones(80, int)
    share, low, high = strata.share(hits, totals)
    exact = stats.binomtest(40, 80).proportion_ci(0.95)
    assert share == 0.5
    assert (low, high) == (pytest.approx(exact.low, abs=0.01), pytest.approx(exact.high, abs=0.01))
    # Ten lesions of a case that are all alike say no more than one.
    _, clustered, _ = strata.share(10 * np.array([1, 0] * 4), np.full(8, 10))
    assert clustered < strata.share(np.array([1, 0] * 40), np.ones(80, int))[1] - 0.1


def test_the_interval_of_a_share_is_wide_where_all_or_none_is_hit() -> None:
    share, low, high = strata.share(np.array([4, 4, 4]), np.array([4, 4, 4]))
    assert (share, high) == (1, 1) and low == pytest.approx(0.025 ** (1 / 3))
    assert strata.share(np.array([0, 0]), np.array([2, 3]))[:2] == (0, 0)
    assert np.isnan(strata.share(np.array([0]), np.array([0]))).all()
    assert np.isnan(strata.share(np.array([1, 0]), np.array([2, 0]))[1:]).all(), "one case"


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_the_interval_of_a_share_holds_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    totals = rng.integers(0, 5, 8)
    hits = rng.binomial(totals, 0.7)
    share, low, high = strata.share(hits, totals)
    if not np.isnan(low):
        assert 0 <= low <= share <= high <= 1


# ---- the tables ---------------------------------------------------------------------------------


def score_rows(count: int = 9) -> pd.DataFrame:
    """Scores of two methods: a kidney in each case, a tumour in all but the last two."""
    rows = []
    for method, drop in (("nnunet", 0.0), ("meddinov3", 0.1)):
        for place in range(count):
            for label, structure in ((1, "kidney"), (2, "tumour")):
                present = structure == "kidney" or place < count - 2
                volume = (100.0 + place) / label if present else 0.0
                dsc = 0.9 - drop - 0.05 * place if present else np.nan
                row = {"benchmark": "kits23", "method": method, "fold": 0, "case": f"c{place}"}
                row |= {"label": label, "structure": structure, "dsc_paper": dsc}
                row |= {
                    "reference_ml": volume,
                    "predicted_ml": 3.0 if place == count - 1 else volume,
                }
                rows.append(row)
    return pd.DataFrame(rows)


def softmax_rows(scores: pd.DataFrame) -> pd.DataFrame:
    """As `confidence` writes them, with a confidence that falls with the DSC."""
    rows = []
    for row in scores.to_dict("records"):
        dsc = 0.5 if np.isnan(row["dsc_paper"]) else row["dsc_paper"]
        histogram = {"count": [80, 20], "correct": [8, 16], "confidence": [16.0, 18.0]}
        sums = {"mass": 10.0, "predicted_mass": 10 * dsc, "predicted_voxels": 10}
        keys = ("benchmark", "method", "case", "label", "structure")
        rows.append({k: row[k] for k in keys} | histogram | sums | {"changed_voxels": 0})
    return pd.DataFrame(rows)


@pytest.fixture
def study(tmp_path: Path) -> dict[str, Any]:
    """Files of the verb `failures` for two runs."""
    scores = score_rows()
    scores.to_parquet(tmp_path / "scores.parquet")
    empty = np.zeros((6, 12, 12), int)
    names = sorted(scores["case"].unique())
    pairs = {name: two_lesions() if name == "c0" else (empty, empty) for name in names}
    dataset, done = benchmark(tmp_path, pairs)
    listed, softmax = [], []
    for method, part in softmax_rows(scores).groupby("method"):
        options = LesionsOptions(
            benchmark="kits23", method=str(method), fold=0, structures=("tumour",), iou=0.1
        )
        listed.append(tmp_path / f"lesions.{method}.parquet")
        lesions.run(options, predictions=done, dataset=dataset, output=listed[-1])
        softmax.append(tmp_path / f"confidence/kits23/{method}/fold0.parquet")
        softmax[-1].parent.mkdir(parents=True)
        part.drop(columns=["benchmark", "method"]).to_parquet(softmax[-1])
    return {
        "scores": [tmp_path / "scores.parquet"],
        "datasets": [dataset],
        "lesions": listed,
        "confidence": softmax,
        "metadata": [],
        "output": tmp_path / "failures/failures.json",
    }


def options(**changes: Any) -> FailuresOptions:
    return FailuresOptions(failures=Failures(lesions={"kits23": ("tumour",)}, **changes))


def test_tables_hold_every_case_once(study: dict[str, Any]) -> None:
    sources = {"kits23": {"old": "c[0-3]", "new": "c[4-6]"}}
    failures.run(options(sources=sources), **study)
    table = read_json(study["output"])
    rows = pd.DataFrame(table["dsc"])
    counts = rows.groupby(["method", "structure", "by"])["cases"].sum().unstack("by")
    assert set(counts.columns) == {"size", "slice distance", "modality", "source"}
    assert (counts.loc[:, "kidney", :] == 9).all(axis=None)
    assert (counts.loc[:, "tumour", :] == 7).all(axis=None), "where the reference has it"
    chosen = rows[(rows["structure"] == "kidney") & (rows["method"] == "nnunet")]
    sizes = chosen[chosen["by"] == "size"].sort_values("place")
    assert sizes["cases"].tolist() == [3, 3, 3] and sizes["few"].all()
    assert sizes["mean"].tolist() == pytest.approx([85, 70, 55]), "the larger, the worse, here"
    by_source = dict(zip(*chosen[chosen["by"] == "source"][["bin", "cases"]].T.values, strict=True))
    assert by_source == {"old": 4, "new": 3, "unknown": 2}
    (distance,) = chosen[chosen["by"] == "slice distance"].to_dict("records")
    assert (distance["bin"], distance["few"]) == ("over 4 mm", False)
    for name in ("cases", "dsc", "lesions", "calibration", "reliability", "abstention"):
        csv = pd.read_csv(study["output"].with_name(f"{name}.csv"))
        assert len(csv) == len(table[name]) > 0


def test_false_positives_are_counted_where_the_structure_is_absent(study: dict[str, Any]) -> None:
    failures.run(options(), **study)
    rows = read_json(study["output"])["false_positives"]
    assert [(row["structure"], row["cases"], row["predicted_in"]) for row in rows] == [
        ("tumour", 2, 1)
    ] * 2, "both methods, and no row for kidneys, which all cases have"
    assert rows[0]["mean_ml"] == 1.5 and rows[0]["largest_ml"] == 3 and rows[0]["few"]


def test_lesions_are_counted_by_criterion_and_size(study: dict[str, Any]) -> None:
    failures.run(options(), **study)
    rows = [r for r in read_json(study["output"])["lesions"] if r["method"] == "nnunet"]
    overall = {row["criterion"]: row for row in rows if row["size"] == "all"}
    assert set(overall) == {"any overlap", "IoU 0.1"}
    loose, strict = overall["any overlap"], overall["IoU 0.1"]
    assert (loose["lesions"], loose["hits"], loose["sensitivity"]) == (2, 1, 50)
    assert (strict["hits"], strict["false_positives"]) == (0, 2)
    assert (loose["false_positives"], loose["cases"]) == (1, 9)
    assert loose["per_case"] == pytest.approx(1 / 9)
    assert loose["few"] and loose["low"] is None, "lesions of one case have no interval"
    parts = [r for r in rows if r["criterion"] == "any overlap" and r["size"] != "all"]
    for key in ("lesions", "hits", "false_positives"):
        assert sum(row[key] for row in parts) == loose[key]


def test_calibration_and_abstention_are_put_together(study: dict[str, Any]) -> None:
    failures.run(options(), **study)
    table = read_json(study["output"])
    row = next(r for r in table["calibration"] if r["structure"] == "kidney")
    assert row["ece"] == pytest.approx(10) and row["overconfidence"] == pytest.approx(10)
    assert (row["cases"], row["mean"]) == (9, pytest.approx(10))
    points = [r for r in table["reliability"] if r["method"] == "nnunet" and r["structure"] == ""]
    assert [(p["softmax"], p["correct"], p["share"]) for p in points] == [
        (20, 10, 80),
        (90, 80, 20),
    ]
    assert all(r["ratio"] == pytest.approx(1) for r in table["rejection"]), (
        "confidence is the DSC's"
    )
    curve = [p for p in table["abstention"] if p["method"] == "nnunet" and p["order"] == "oracle"]
    assert [p["kept"] for p in curve] == list(range(1, 10))
    assert curve[0]["dsc"] == pytest.approx(90) and curve[0]["share"] == pytest.approx(100 / 9)
    assert len(table["cases"]) == 18 and table["cases"][0]["slice_distance_mm"] == 5


def test_tables_without_rows_have_their_columns(study: dict[str, Any]) -> None:
    failures.run(options(), **study)
    columns = {
        name: list(pd.read_csv(study["output"].with_name(f"{name}.csv")))
        for name in failures.COLUMNS
    }
    assert columns == failures.COLUMNS
    scores = score_rows()
    scores[scores["structure"] == "kidney"].to_parquet(study["scores"][0])
    failures.run(FailuresOptions(failures=Failures()), **study)
    for name, expected in columns.items():
        empty = pd.read_csv(study["output"].with_name(f"{name}.csv"))
        assert empty.empty and list(empty) == expected


def test_edges_that_are_set_take_the_place_of_tertiles() -> None:
    volumes = pd.DataFrame({"tumour": [0.0, 1.0, 4.0, 5.0, 90.0]}, index=list("abcde"))
    way = groups.by_size(volumes, {"tumour": (4.0, 50.0)})
    assert way.places["tumour"].tolist() == [-1, 0, 0, 1, 2]
    assert way.places.attrs["names"]["tumour"] == ["up to 4 ml", "4 to 50 ml", "over 50 ml"]
    assert groups.by_size(volumes * 0, {}).places["tumour"].tolist() == [-1] * 5


def test_scanners_come_from_a_table_of_the_owners(tmp_path: Path) -> None:
    path = tmp_path / "meta.csv"
    path.write_text("amos_id,Manufacturer,Site\n1,SIEMENS,A\n2,,B\n")
    entry = Metadata(file=str(path), case="amos_{amos_id:04d}", columns=("Manufacturer",))
    dataset, _ = benchmark(tmp_path, {f"amos_000{n}": two_lesions() for n in (1, 2, 3)})
    chosen = FailuresOptions(
        failures=Failures(metadata={"kits23": entry}), mr_cases={"kits23": "amos_0003"}
    )
    known = cases.facts(chosen, "kits23", dataset, ["amos_0001", "amos_0002", "amos_0003"])
    assert known["Manufacturer"].tolist() == ["SIEMENS", "unknown", "unknown"]
    assert known["modality"].tolist() == ["CT", "CT", "MR"]
    assert set(known["source"]) == {"unknown"} and known["pixel_mm"].tolist() == [2, 2, 2]
    for change, message in (
        ({"columns": ("Scanner",)}, "no column 'Scanner'"),
        ({"case": "{id}"}, "no column 'id'"),
        ({"file": str(tmp_path / "none.csv")}, "cannot be read"),
    ):
        with pytest.raises(MeddinoError, match=message):
            cases.metadata(entry.model_copy(update=change))


def test_a_case_in_which_nothing_is_predicted_is_the_least_confident() -> None:
    scores = score_rows(3)
    softmax = softmax_rows(scores)
    softmax.loc[softmax["case"] == "c1", ["predicted_voxels", "predicted_mass"]] = 0
    facts = {"kits23": pd.DataFrame({"modality": "CT"}, index=["c0", "c1", "c2"])}
    rows = certainty.case_rows(scores, facts, softmax)
    confidence = {row["case"]: row["confidence"] for row in rows if row["method"] == "nnunet"}
    assert confidence["c1"] == 0 and min(confidence["c0"], confidence["c2"]) > 0
