"""The table of transfer: the drop is the difference of two means, and leaks count for neither."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import report_data

from meddino.core.errors import MeddinoError
from meddino.core.files import write_json
from meddino.ct3m.duplicates import Pair as Copy
from meddino.evaluate import statistics
from meddino.report.options import TransferOptions, TransferPair
from meddino.report.page.sections import transfer as section
from meddino.report.tables import transfer
from meddino.report.tables.transfer_formats import Estimate
from meddino.report.tables.transfer_leaks import leaks

STRUCTURES = ("spleen", "liver", "aorta")
CASES = [f"case{number}" for number in range(8)]
METHODS = ("nnunet", "meddinov3")
COLUMNS = ("dsc_paper", "nsd_paper", "dsc_area", "nsd_area")


def pair(**changes: Any) -> TransferPair:
    values = {
        **{"train": "amos22", "test": "btcv", "train_label": "AMOS22", "test_label": "BTCV"},
        **{"train_dataset": "amos22", "test_dataset": "btcv"},
        **{"train_channel": "either_CT_or_MR", "test_channel": "CT"},
        "structures": {"spleen": ("spleen",), "liver": ("liver", "tumour")},
        **{"train_structures": ("spleen", "liver", "tumour", "bladder")},
        "test_structures": STRUCTURES,
    }
    return TransferPair.model_validate(values | changes)


def options(*pairs: TransferPair, **changes: Any) -> TransferOptions:
    values = {
        **{"title": "Transfer & more", "pairs": pairs or (pair(),), "methods": METHODS},
        "method_labels": {"nnunet": "nnU-Net", "meddinov3": "MedDINOv3"},
        "method_data": {"nnunet": "none", "meddinov3": "paper"},
        **{"tolerance_mm": 1.0, "compare_with": "nnunet"},
    }
    return TransferOptions.model_validate(values | changes)


def rows(benchmark: str, mean: float, structures: tuple[str, ...], **keys: Any) -> pd.DataFrame:
    """Scores of both methods on all cases; MedDINOv3's are better by 0.05."""
    rng = np.random.default_rng(sum(map(ord, f"{benchmark}{mean}")))
    return pd.DataFrame(
        {"benchmark": benchmark, "method": method, "fold": 0, "case": case, "label": label}
        | {"structure": structure, "hd95_mm": 3.0, **keys}
        | dict.fromkeys(COLUMNS, mean + 0.05 * place + rng.uniform(-0.04, 0.04))
        for place, method in enumerate(METHODS)
        for case in CASES
        for label, structure in enumerate(structures, start=1)
    )


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    rows("btcv", 0.6, STRUCTURES[:2], origin="amos22").to_parquet(tmp_path / "transferred.parquet")
    rows("btcv", 0.8, STRUCTURES).to_parquet(tmp_path / "own.parquet")
    split = tmp_path / "Dataset701_amos22/splits_final.json"
    write_json(split, [{"train": ["amos1", "amos2"], "val": ["amos3"]}])
    return {
        "scores": [tmp_path / "transferred.parquet"],
        "in_domain": (tmp_path / "own.parquet",),
        "splits": [split],
        "output": tmp_path / "tables/transfer.csv",
    }


def copies(path: Path, *ends: tuple[str, str, str, str]) -> Path:
    first = {"kind": "near", "slices": 9, "flip": "", "turned_deg": 0.0, "correlation": 1.0}
    numbers = dict.fromkeys(("from_a", "to_a", "from_b", "to_b"), 1)
    pairs = [
        Copy(dataset_a=a, case_a=b, dataset_b=c, case_b=d, **first, **numbers)  # type: ignore[arg-type]
        for a, b, c, d in ends
    ]
    pd.DataFrame(pairs, columns=list(Copy._fields)).to_parquet(path)
    return path


def line(output: Path, **wanted: Any) -> pd.Series:
    lines = pd.read_csv(output)
    (chosen,) = lines[(lines[[*wanted]] == pd.Series(wanted)).all(axis=1)].to_dict("records")
    return pd.Series(chosen)


def values(path: Path, method: str) -> np.ndarray:
    scores = pd.read_parquet(path).query("method == @method and structure in ('spleen', 'liver')")
    return 100 * scores.pivot(index="case", columns="structure", values="dsc_paper").to_numpy()


def test_drop_is_the_paired_contrast_of_the_two_models(files: dict[str, Any]) -> None:
    transfer.run(options(), **files)
    shown = line(files["output"], method="meddinov3", metric="DSC", protocol="paper")
    own, transferred = (values(files[key][0], "meddinov3") for key in ("in_domain", "scores"))
    assert shown["in_domain"] == pytest.approx(own.mean(), abs=1e-3)
    assert shown["transferred"] == pytest.approx(transferred.mean(), abs=1e-3)
    expected = statistics.contrast(own, transferred)
    assert shown["drop"] == pytest.approx(shown["in_domain"] - shown["transferred"], abs=1e-3)
    assert shown[["drop_low", "drop_high"]].tolist() == pytest.approx(expected[1:3], abs=1e-3)
    # Two drops of two metrics, and a comparison of the drops of each metric.
    assert shown["tests"] == 6
    assert shown["p"] == pytest.approx(min(1.0, 6 * expected.p), rel=1e-3)
    assert (shown["cases"], shown["structures"]) == (8, 2)


def test_the_difference_of_drops_is_that_of_the_printed_drops(files: dict[str, Any]) -> None:
    transfer.run(options(), **files)
    keys = {"metric": "NSD", "protocol": "area"}
    base, other = (line(files["output"], method=method, **keys) for method in METHODS)
    assert other["contrast"] == pytest.approx(other["drop"] - base["drop"], abs=1e-3)
    assert other["contrast_low"] < other["contrast"] < other["contrast_high"]
    assert (other["contrast_of"], other["compared_with"]) == ("drop", "nnunet")
    assert np.isnan(base["contrast"])


def test_difference_of_drops_equals_the_contrast_of_cases_own_drops(files: dict[str, Any]) -> None:
    transfer.run(options(), **files)
    own, base = (
        values(files["in_domain"][0], method) - values(files["scores"][0], method)
        for method in reversed(METHODS)
    )
    expected = statistics.contrast(own, base)
    shown = line(files["output"], method="meddinov3", metric="DSC", protocol="paper")
    assert shown["contrast"] == pytest.approx(expected.difference, abs=1e-3)
    # Structures of one case depend on each other, which both ways of adding them up keep.
    width = (shown["contrast_high"] - shown["contrast_low"]) / (expected.high - expected.low)
    assert width == pytest.approx(1, abs=0.1)


def test_a_benchmark_for_tests_alone_has_no_drop(files: dict[str, Any], tmp_path: Path) -> None:
    scores = pd.read_parquet(files["scores"][0])
    second = scores.assign(fold=1, **{name: scores[name] + 0.1 for name in COLUMNS})
    second.to_parquet(tmp_path / "second.parquet")
    write_json(files["splits"][0], [{"train": ["amos1"], "val": []}, {"train": [], "val": []}])
    files |= {"scores": [*files["scores"], tmp_path / "second.parquet"], "in_domain": ()}
    transfer.run(options(pair(in_domain=False)), **files)
    shown = line(files["output"], method="meddinov3", metric="DSC", protocol="paper")
    once = values(files["scores"][0], "meddinov3").mean()
    assert shown["transferred"] == pytest.approx(once + 5, abs=1e-3), "the mean of two models"
    assert (shown["cases"], shown["contrast_of"]) == (8, "transferred")
    assert shown[["in_domain", "drop", "p"]].isna().all()
    text = files["output"].with_suffix(".md").read_text()
    assert "No model is trained on BTCV" in text
    assert "Drop:" not in text


@pytest.mark.parametrize(
    ("ends", "left_out", "between"),
    [
        ([], set(), 0),
        ([("amos22", "amos1", "btcv", "case3")], {"case3"}, 1),
        ([("amos22", "amos3", "btcv", "case3")], set(), 1),
        (
            [("amos22", "amos2", "lits", "x"), ("btcv", "case5#2", "lits", "x")],
            {"case5"},
            0,
        ),
    ],
)
def test_copies_of_training_cases_count_for_neither_model(
    files: dict[str, Any],
    tmp_path: Path,
    ends: list[tuple[str, str, str, str]],
    left_out: set[str],
    between: int,
) -> None:
    found = copies(tmp_path / "duplicates.parquet", *ends)
    transfer.run(options(pair(searched=True)), **files, duplicates=found)
    shown = line(files["output"], method="nnunet", metric="DSC", protocol="paper")
    kept = [place for place, case in enumerate(CASES) if case not in left_out]
    assert shown["cases"] == len(kept)
    for name, key in (("in_domain", "in_domain"), ("transferred", "scores")):
        mean = values(files[key][0], "nnunet")[kept].mean()
        assert shown[name] == pytest.approx(mean, abs=1e-3)
    text = files["output"].with_suffix(".md").read_text()
    assert f"Copies between the two datasets: {between}" in text
    for case in left_out:
        assert f"left out: 1 ({case} (copy of" in text


def test_benchmarks_of_one_dataset_leak_by_name_without_a_search() -> None:
    tested = pd.DataFrame({"fold": [0, 0, 1], "case": ["a", "b", "a"]})
    folds = [{"train": ["a"], "val": []}, {"train": ["c"], "val": []}]
    same = pair(test_dataset="amos22")
    assert [leak[:2] for leak in leaks(same, folds, tested, None)] == [(0, "a")]
    assert leaks(pair(), folds, tested, None) == []


def test_without_a_search_the_table_says_so(files: dict[str, Any]) -> None:
    transfer.run(options(), **files)
    assert "Nobody searched for copies" in files["output"].with_suffix(".md").read_text()


def test_modalities_choose_the_cases_that_count(files: dict[str, Any]) -> None:
    mixed = {"mr_cases": "case[56]", "test_modalities": ("CT", "MR")}
    for modalities, cases in ((("CT",), 6), (("MR",), 2), (("CT", "MR"), 8)):
        transfer.run(options(pair(modalities=modalities, **mixed)), **files)
        keys = {"metric": "DSC", "protocol": "paper"}
        assert line(files["output"], method="nnunet", **keys)["cases"] == cases
        named = "MR cases of BTCV do not count" in files["output"].with_suffix(".md").read_text()
        assert named == (modalities == ("CT",))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: f.update(scores=[]), "there are no scores"),
        (lambda f: f.update(scores=f["in_domain"]), "names no origin"),
        (lambda f: f.update(scores=f["scores"] * 2), "scored twice for"),
        (lambda f: f.update(in_domain=()), "has no scores of case0"),
        (lambda f: f.update(splits=[]), "there is no split of amos22"),
        (
            lambda f: write_json(f["splits"][0], [{"train": CASES, "val": []}]),
            "no case counts: 8 of them were in training",
        ),
    ],
)
def test_what_is_missing_is_one_line(files: dict[str, Any], spoil: Any, message: str) -> None:
    spoil(files)
    same = options(pair(train_dataset="btcv"))
    with pytest.raises(MeddinoError) as error:
        transfer.run(same, **files)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_all_formats_name_what_is_shared_and_what_is_not(files: dict[str, Any]) -> None:
    transfer.run(options(), **files)
    folder = files["output"].parent
    names = {path.name.removeprefix("transfer") for path in folder.iterdir()}
    assert names == {".csv", ".structures.csv", ".md", ".tex", ".json"}
    for suffix in (".md", ".tex"):
        text = (folder / f"transfer{suffix}").read_text()
        assert "2 structures: spleen, liver (liver and tumour of AMOS22)" in text
        assert "(BTCV: aorta; AMOS22: bladder)" in text
        assert "those of AMOS22 z-score each volume" in text
    assert r"Transfer \& more" in (folder / "transfer.tex").read_text()
    means = pd.read_csv(folder / "transfer.structures.csv")
    assert set(means["structure"]) == {"spleen", "liver"}
    assert np.allclose(means["drop"], means["in_domain"] - means["transferred"], atol=1e-3)


def test_the_report_gets_the_numbers_of_the_csv(files: dict[str, Any]) -> None:
    transfer.run(options(), **files)
    content = section.section(files["output"].with_suffix(".json"))
    assert content is not None
    assert [method for method, _ in content["methods"]] == [*METHODS], "in their order"
    table = content["pairs"][0]["tables"]["paper"][0]
    assert table["heads"] == [
        *("Trained on BTCV", "Trained on AMOS22", "Drop", "Drop less that of nnU-Net"),
    ]
    (own, _, _, _), *_ = table["rows"][1]["cells"]
    shown = line(files["output"], method="meddinov3", metric="DSC", protocol="paper")
    assert own == pytest.approx(shown["in_domain"], abs=1e-3)
    charts = section.charts(content)
    wanted = {f"transfer/amos22/btcv/{metric}" for metric in ("DSC", "NSD")}
    parts = {
        f"transfer/parts/amos22/btcv/{metric}/{method}"
        for metric in ("DSC", "NSD")
        for method in METHODS
    }
    assert charts.keys() == wanted | parts
    points = next(iter(charts["transfer/amos22/btcv/DSC"].spec["datasets"].values()))
    assert {(p["row"], p["series"]) for p in points} == {
        (label, series)
        for label in ("nnU-Net", "MedDINOv3")
        for series in ("in-domain", "transferred")
    }
    assert not re.search(r"NaN", json.dumps(content))
    assert section.section(None) is None
    assert section.charts(None) == {}


def test_estimates_are_written_with_what_is_known() -> None:
    line = {"drop": 3.456, "drop_low": -1.0, "drop_high": 7.9, "p": 0.0004}
    assert Estimate.of(line, "drop", "p").plain() == "3.46 [-1.0, 7.9], p < 0.001"
    assert Estimate.of(line, "drop").plain(signed=True) == "+3.46 [-1.0, +7.9]"
    assert Estimate.of(dict.fromkeys(line, float("nan")), "drop", "p").plain() == "-"


def test_the_page_has_a_section_where_there_is_transfer(
    files: dict[str, Any], tmp_path: Path
) -> None:
    hostile = pair(train_label=report_data.SCRIPT)
    transfer.run(options(hostile, pair(train="lits", in_domain=False)), **_of_lits(files))
    study = report_data.study(tmp_path / "study")
    report_data.draw(study)
    plain = report_data.report(study).read_text()
    assert 'id="transfer"' not in plain and "#transfer" not in plain
    with_section = report_data.report(study, beyond=[files["output"].with_suffix(".json")])
    text = with_section.read_text()
    assert text.count('id="transfer"') == 1 and 'href="#transfer"' in text
    assert report_data.SCRIPT not in text
    section = re.search(r'<section aria-labelledby="transfer">.*?</section>', text, re.DOTALL)
    assert section is not None
    assert section[0].count("<caption>") == 2 * 4 + 2 * 2, "by protocol and metric, and structures"
    charts = re.findall(r'data-chart="(transfer/[^"]+)"', section[0])
    assert len(charts) == len(set(charts)) == 8


def _of_lits(files: dict[str, Any]) -> dict[str, Any]:
    """The files of a table, with scores of models of a second benchmark."""
    folder = files["splits"][0].parents[1]
    second = pd.read_parquet(files["scores"][0]).assign(origin="lits")
    second.to_parquet(folder / "second.parquet")
    split = folder / "Dataset704_lits/splits_final.json"
    write_json(split, [{"train": ["l1"], "val": []}])
    scores = [*files["scores"], folder / "second.parquet"]
    return {**files, "scores": scores, "splits": [*files["splits"], split]}
