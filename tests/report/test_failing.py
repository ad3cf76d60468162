"""The section of failures: its charts, its tables without JavaScript, its pictures, and no trace of
it in a study that does not ask for it."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import report_data as made
import SimpleITK as sitk
from PIL import Image

from meddino.core.files import read_json
from meddino.report.figures import worst_cases
from meddino.report.options import FigureOptions, WorstOptions


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    content = made.study(tmp_path_factory.mktemp("failing"))
    made.draw(content)
    content["failing"] = made.failing(content)
    return content


@pytest.fixture(scope="module")
def page(study: dict[str, Any]) -> str:
    return made.report(study, **study["failing"]).read_text(encoding="utf-8")


def data_of(page: str, identity: str) -> Any:
    found = re.search(
        rf'<script type="application/json" id="{identity}">(.*?)</script>', page, re.S
    )
    assert found is not None
    return json.loads(found[1])


def test_a_study_that_does_not_ask_has_no_such_section(study: dict[str, Any]) -> None:
    plain = made.report(study, "plain.html").read_text(encoding="utf-8")
    assert 'id="failures"' not in plain and "Where it fails" not in plain
    assert not [key for key in data_of(plain, "charts") if key.startswith("failures/")]


def test_every_chart_that_the_section_names_is_there(page: str) -> None:
    charts = data_of(page, "charts")
    section = page[page.index('id="failures"') : page.index('id="training"')]
    for group in section.split('<div class="group">')[1:]:
        choices = [
            re.findall(r'<option value="([^"]*)"', select)
            for select in re.findall(r"<select.*?</select>", group, re.S)
        ]
        firsts = [options[0] for options in choices]
        for kind in re.findall(r'data-chart="([^"]+)"', group):
            assert "/".join([kind, *firsts]) in charts
    kinds = {key.split("/")[1] for key in charts if key.startswith("failures/")}
    assert kinds == {"dsc", "sensitivity", "false", "reliability", "abstention"}
    for key in charts:
        if key.startswith("failures/"):
            rows = max(charts[key]["spec"]["datasets"].values(), key=len)
            fields = {field for field, _ in charts[key]["columns"]}
            assert fields <= set(rows[-1]) and {row["series"] for row in rows if "series" in row}


def test_bins_of_few_cases_are_marked(page: str) -> None:
    charts = data_of(page, "charts")
    rows = [
        row
        for key, chart in charts.items()
        if key.startswith("failures/dsc/")
        for row in max(chart["spec"]["datasets"].values(), key=len)
    ]
    assert rows and all(re.search(r"\(n = \d\)$", row["bin"]) for row in rows)


def test_the_numbers_are_there_without_javascript(page: str) -> None:
    section = page[page.index('id="failures"') : page.index('id="training"')]
    for caption in ("Lesions that are hit", "Expected calibration error", "Share of the oracle"):
        assert caption in section
    assert "modality is CT for all cases" in section
    assert "<b>ours" not in section and "&lt;b&gt;ours" in section, "names are text"
    assert 'loading="lazy"' in section and 'class="unscripted"' in section


def test_worst_cases_are_drawn_where_they_are_wrong(study: dict[str, Any]) -> None:
    path = study["failing"]["beyond"][1]
    index = read_json(path)
    assert [case["method"] for case in index["cases"]] == sorted(made.METHODS)
    scores = pd.read_parquet(study["root"] / "scores.parquet")
    for case in index["cases"]:
        own = scores[scores["method"] == case["method"]]
        means = own.groupby("case")["dsc_paper"].mean()
        assert case["dsc"] == pytest.approx(100 * means.min()) and case["case"] == means.idxmin()
        for side in ("reference", "predicted"):
            picture = Image.open(path.parent / case[side])
            assert max(picture.size) == 64 and list(picture.size) == case["size_px"]
    files = study["overlays"]
    first, dataset = index["cases"][1], files["dataset"]  # nnU-Net's, the first of METHODS
    name = f"{first['case']}.nii.gz"
    pair = [
        sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
        for file in (
            dataset.parent / "labelsTr" / name,
            files["predictions"][0].with_name(name),
        )
    ]
    wrong = np.count_nonzero(pair[0] != pair[1], axis=(1, 2))
    assert wrong[first["slice"] - 1] == wrong.max() > 0


def test_pictures_of_an_earlier_run_go(study: dict[str, Any]) -> None:
    path: Path = study["failing"]["beyond"][1]
    (path.parent / "0099.reference.webp").write_bytes(b"old")
    look = FigureOptions()
    files = study["overlays"]
    worst_cases.run(
        WorstOptions(worst=1, size_px=64, window_hu=look.window_hu, colours=look.colours),
        dataset=files["dataset"],
        predictions=files["predictions"],
        scores=files["scores"],
        output=path,
    )
    named = {case[side] for case in read_json(path)["cases"] for side in ("reference", "predicted")}
    assert {p.name for p in path.parent.iterdir() if p.suffix != ".json"} == named
