"""The label curve: its points, where a curve reaches another score, and its part of the report."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import report_data as made

from meddino.core.errors import MeddinoError
from meddino.core.files import write_json
from meddino.evaluate import statistics
from meddino.report.label_curve import label_curve
from meddino.report.label_curve.options import LabelCurveOptions, method_on
from meddino.report.label_curve.reach import first_reach, needed

LABELS = {"nnunet": "nnU-Net", "mine": "Mine"}
PERCENT = (5, 25, 100)
OPTIONS = LabelCurveOptions(
    methods=("nnunet", "mine"),
    method_labels=LABELS,
    benchmarks=("lits",),
    benchmark_labels={"lits": "LiTS"},
    percent=PERCENT,
    folds=(0,),
)
CASES = [f"case{number}" for number in range(8)]


def write_scores(folder: Path, method: str, means: dict[int, float]) -> list[Path]:
    """Scores of a method at each share: DSC around a mean, some cases harder for all."""
    hard = np.linspace(-0.05, 0.05, len(CASES))
    paths = []
    for percent, mean in means.items():
        rows = [
            {"benchmark": "lits", "method": method_on(method, percent), "fold": 0}
            | {"case": case, "label": 1, "structure": "liver"}
            | {"dsc_paper": mean + h, "dsc_area": mean + h, "nsd_paper": 0.5, "nsd_area": 0.5}
            for case, h in zip(CASES, hard, strict=True)
        ]
        paths.append(folder / f"{method}{percent}.parquet")
        pd.DataFrame(rows).to_parquet(paths[-1])
    return paths


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    split = tmp_path / "Dataset704_lits/splits_final.json"
    write_json(split, [{"train": [f"t{number}" for number in range(40)], "val": CASES}])
    scores = write_scores(tmp_path, "nnunet", {5: 0.4, 25: 0.6, 100: 0.8})
    scores += write_scores(tmp_path, "mine", {5: 0.5, 25: 0.85, 100: 0.9})
    return {"scores": scores, "splits": [split]}


def test_points_and_comparisons(files: dict[str, Any], tmp_path: Path) -> None:
    output = tmp_path / "curve/label_curve.json"
    label_curve.run(OPTIONS, **files, output=output)
    curve = json.loads(output.read_text())
    points = pd.read_csv(tmp_path / "curve/points.csv")
    assert points["training_cases"].tolist() == [2, 10, 40] * 2
    assert points["score"].to_numpy() == pytest.approx([40, 60, 80, 50, 85, 90])
    half = 100 * statistics.stats.t.ppf(0.975, 7) * np.linspace(-0.05, 0.05, 8).std(ddof=1) / 8**0.5
    assert (points["high"] - points["score"]).to_numpy() == pytest.approx([half] * 6)
    theirs, ours = curve["needed"]
    assert (theirs["method"], theirs["other"], theirs["score"]) == ("nnunet", "mine", 90)
    assert theirs["estimate_outcome"] == "not reached" and theirs["estimate_cases"] is None
    # From 50 at 2 cases to 85 at 10, in the logarithm: 80 is 6/7 of the way.
    assert ours["estimate_cases"] == pytest.approx(2 * 5 ** (6 / 7))
    assert ours["low_cases"] == pytest.approx(ours["high_cases"]), "all cases differ alike"
    assert pd.read_csv(tmp_path / "curve/needed.csv")["all_cases"].tolist() == [40, 40]


def test_a_run_or_a_split_that_is_missing_is_named(files: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(MeddinoError, match="no scores of mine on lits"):
        label_curve.run(
            OPTIONS, scores=files["scores"][:-1], splits=files["splits"], output=tmp_path / "x.json"
        )
    with pytest.raises(MeddinoError, match=r"no split of lits; give its splits_final\.json"):
        label_curve.run(OPTIONS, scores=files["scores"], splits=[], output=tmp_path / "x.json")
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize(
    ("values", "outcome", "cases"),
    [
        ([-2, -1, 3], "between", 10 * 4 ** (1 / 4)),
        ([-2, 0, 3], "between", 10),
        ([-2, 1, -3], "between", 2 * 5 ** (2 / 3)),
        ([0, 1, 2], "fewest", 2),
        ([-3, -2, -1], "not reached", None),
        ([-3, math.nan, 1], "unknown", None),
    ],
)
def test_where_a_line_first_reaches_zero(
    values: list[float], outcome: str, cases: float | None
) -> None:
    reach = first_reach([2, 10, 40], values)
    assert reach.outcome == outcome and reach.cases == pytest.approx(cases)


def test_shares_that_round_to_as_many_cases_are_one_place() -> None:
    assert first_reach([1, 1, 8], [-1, 1, 2]).cases == pytest.approx(1)


def test_the_interval_holds_the_true_number_as_often_as_it_says() -> None:
    """On curves of a known crossing, 5 of 20 cases, with noise of cases and of runs."""
    rng = np.random.default_rng(0)
    cases, truth = [2.0, 5.0, 20.0], np.array([50.0, 70.0, 76.0])
    held = []
    for _ in range(400):
        hard = rng.normal(0, 8, (15, 1))
        curve = [pd.DataFrame(mean + hard + rng.normal(0, 4, (15, 2))) for mean in truth]
        target = pd.DataFrame(70 + hard + rng.normal(0, 4, (15, 2)))
        low, high = needed(cases, curve, target)[1:]
        begins = -math.inf if low.outcome == "fewest" else low.cases or math.inf
        held.append(begins <= 5 <= (high.cases or math.inf))
    assert 0.92 < np.mean(held) < 0.98


def test_the_report_shows_the_curve(tmp_path: Path, files: dict[str, Any]) -> None:
    study = made.study(tmp_path / "study")
    made.draw(study)
    plain = made.report(study).read_text()
    assert 'id="label-curve"' not in plain
    output = tmp_path / "label_curve.json"
    hostile = OPTIONS.model_copy(update={"method_labels": {"nnunet": made.SCRIPT, "mine": "Mine"}})
    label_curve.run(hostile, **files, output=output)
    text = made.report(study, "with.html", beyond=[output]).read_text()
    assert 'data-chart="label_curve/lits"' in text and '<a href="#label-curve">' in text
    assert "not reached" in text and "7.9 (20 %)" in text and made.SCRIPT not in text
    charts = text.split('id="charts">')[1].split("</script>")[0]
    chart = json.loads(charts)["label_curve/lits"]
    axis = chart["spec"]["layer"][0]["encoding"]["x"]
    assert axis["scale"]["type"] == "log" and axis["axis"]["values"] == [2, 10, 40]
    assert ["low", "95 % from"] in chart["columns"]
    drawn = {row["series"] for rows in chart["spec"]["datasets"].values() for row in rows}
    assert drawn == set(chart["series"]) == {made.SCRIPT, "Mine"}
