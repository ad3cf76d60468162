"""The comparison of backbones: its numbers, files, names at points, and section of the report."""

import csv
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import report_data as made

from meddino.core.errors import MeddinoError
from meddino.core.files import read_json, write_json
from meddino.finetune.networks import build_network
from meddino.finetune.options import Method, Training
from meddino.finetune.settings import Settings, write_settings
from meddino.models.size import size_of
from meddino.report.options import Attribution, FigureOptions
from meddino.report.page.sections import backbones as section
from meddino.report.tables import backbones
from meddino.report.tables.backbones_picture import LETTER, sides
from meddino.report.tables.options import BackbonesOptions, Compared

LABELS = {"plain": "plain | ViT", "random": "random <b>", "other": "no probe"}
WEIGHTS = Attribution(name="w", title="W", home="https://example.org/w", licence="MIT")
OPTIONS = BackbonesOptions(
    title="Which one?",
    protocol="paper",
    methods=tuple(
        Compared(
            method=method,
            label=label,
            backbone="vittiny8",
            start="W" if method == "plain" else "random weights",
            weights=(WEIGHTS,) if method == "plain" else (),
            probed={"plain": "w", "random": "random"}.get(method),
        )
        for method, label in LABELS.items()
    ),
    benchmarks={"lits": "LiTS"},
    probe_benchmark="BTCV",
    look=FigureOptions(dpi=60),
)


def method(blocks: list[int]) -> Method:
    return Method(
        label="", network="primus", backbone="vittiny8", blocks=blocks, optimizer="adamw", lr=1e-3,
        weight_decay=0,
    )  # fmt: skip


def described(path: Path, blocks: list[int]) -> Path:
    """A `model.json` as `finetune` writes it."""
    configuration = {"patch_size": [40, 48], "spacing": [1, 1], "batch_size": 2}
    architecture = {"network_class_name": "x", "arch_kwargs": {}, "_kw_requires_import": []}
    plans: dict[str, Any] = {
        "plans_name": "nnUNetPlans",
        "label_manager": "LabelManager",
        "configurations": {"2d": {**configuration, "architecture": architecture}},
    }
    write_settings(plans, Settings(method=method(blocks), training=Training()))
    labels = {"labels": {"background": 0, "liver": 1}, "channel_names": {"0": "CT"}}
    content = {"plans": plans, "configuration": "2d", "mirror_axes": []}
    write_json(path, {**content, "dataset_json": {**labels, "file_ending": ".nii.gz"}})
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A table, models and probes of three methods."""
    root = tmp_path_factory.mktemp("results")
    lines = made.table_lines()
    values = {"plain": (70.0, 60.0, 80.0), "random": (50.5, 40.0, 61.0), "other": (None,) * 3}
    parts = [
        lines[lines["method"] == "nnunet"].assign(method=name, ours=ours, low=low, high=high)
        for name, (ours, low, high) in values.items()
    ]
    pd.concat(parts).to_csv(root / "which.csv", index=False)
    models = [described(root / f"finetune/lits/{name}/fold0/model.json", [0, 3]) for name in LABELS]
    probes = []
    for name, accuracy in (("w", 0.75), ("random", 0.5)):
        kinds = {kind: {"balanced_accuracy": accuracy} for kind in ("knn", "linear")}
        probes.append(root / f"probe/{name}.json")
        write_json(probes[-1], {"scores": [{"name": name, **kinds}]})
    return {"table": root / "which.csv", "models": models, "probes": probes}


@pytest.fixture(scope="module")
def comparison(files: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("backbones") / "backbones.json"
    backbones.run(OPTIONS, **files, output=output)
    return output


def test_rows_hold_scores_probes_sizes_and_terms(comparison: Path) -> None:
    rows = {row["method"]: row for row in read_json(comparison)["rows"]}
    plain = rows["plain"]
    assert (plain["dsc"], plain["low"], plain["high"]) == (70.0, 60.0, 80.0)
    assert plain["probe_linear"] == plain["probe_knn"] == 75.0
    assert plain["licences"] == ["MIT"] and plain["homes"] == ["https://example.org/w"]
    settings = Settings(method=method([0, 3]), training=Training())
    size = size_of(build_network(settings, None, 2, False), (40, 48))
    assert plain["input_px"] == [40, 48]
    for key, value in size._asdict().items():
        assert plain[key] == value > 0
    other = rows["other"]
    assert other["dsc"] is None and other["probe_linear"] is None and other["licences"] == []


def test_the_csv_has_the_same_numbers_and_people_get_a_table(comparison: Path) -> None:
    rows = read_json(comparison)["rows"]
    with comparison.with_suffix(".csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["method"] for line in lines] == list(LABELS)
    for row, line in zip(rows, lines, strict=True):
        assert float(line["gflop"]) == pytest.approx(row["gflop"], rel=1e-5)
        assert json.loads(line["input_px"]) == row["input_px"]
    text = comparison.with_suffix(".md").read_text()
    assert "| plain / ViT | 70.00 [60.0, 80.0] | 75.0 | 75.0 |" in text, "no column more"
    assert "| plain / ViT | W | MIT | https://example.org/w |" in text
    assert "organs of BTCV" in text


def test_the_figure_shows_what_has_a_score(comparison: Path) -> None:
    (entry,) = read_json(comparison.with_name("figures.json"))
    assert entry["file"] == "backbones_lits.png" and "BTCV" in entry["caption"]
    for suffix in (".png", ".pdf"):
        assert (comparison.parent / entry["file"]).with_suffix(suffix).stat().st_size > 1000


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("models", "no model of other on lits among --models"),
        ("probes", "no probe of random among --probes"),
    ],
)
def test_what_is_missing_is_named(
    files: dict[str, Any], tmp_path: Path, lost: str, message: str
) -> None:
    fewer = {**files, lost: files[lost][:-1]}
    with pytest.raises(MeddinoError, match=message):
        backbones.run(OPTIONS, **fewer, output=tmp_path / "backbones.json")
    assert not list(tmp_path.iterdir())


def test_a_table_without_the_method_is_refused(files: dict[str, Any], tmp_path: Path) -> None:
    lines = pd.read_csv(files["table"])
    lines[lines["method"] != "random"].to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(MeddinoError, match="no DSC of random on lits"):
        backbones.run(OPTIONS, **{**files, "table": tmp_path / "t.csv"}, output=tmp_path / "b.json")


def test_names_hide_neither_points_nor_names_where_there_is_room() -> None:
    points = [(50.0, 50.0), (60.0, 52.0), (200.0, 150.0), (390.0, 20.0)]
    names = ["first", "second", "a long name", "at the edge"]
    chosen = sides(points, names, (400.0, 300.0))
    assert chosen[2].align == "left" and chosen[3].align == "right", "it would leave the frame"
    boxes = []
    for (x, y), side, name in zip(points, chosen, names, strict=True):
        width = LETTER * len(name)
        start = x + side.dx - {"left": 0, "right": width, "center": width / 2}[side.align]
        boxes.append((start, start + width, y + side.dy - 6, y + side.dy + 6))
    for number, (left, right, low, high) in enumerate(boxes):
        assert left >= 0 and right <= 400
        for x, y in points:
            assert not (left < x < right and low < y < high)
        for other in boxes[:number]:
            assert right <= other[0] or other[1] <= left or high <= other[2] or other[3] <= low


def test_the_report_has_a_section_only_where_there_is_a_comparison(
    comparison: Path, tmp_path: Path
) -> None:
    study = made.study(tmp_path)
    made.draw(study)
    without = made.report(study).read_text()
    page = made.report(study, "with.html", beyond=[comparison]).read_text()
    assert 'id="backbones"' not in without and '"backbones/' not in without
    assert '<h2 id="backbones">Backbones</h2>' in page and 'href="#backbones"' in page
    assert 'data-chart="backbones/lits/gflop"' in page
    assert 'data-chart="backbones/lits/probe_linear"' in page
    assert "random &lt;b&gt;" in page and "random <b>" not in page
    assert page.count("backbones_lits.png") == 1, "for readers without JavaScript"


def test_charts_name_each_point_and_list_the_numbers(comparison: Path) -> None:
    charts = section.charts(section.read(comparison))
    assert set(charts) == {"backbones/lits/gflop", "backbones/lits/probe_linear"}
    chart = charts["backbones/lits/gflop"]
    names = [layer for layer in chart.spec["layer"] if layer["mark"]["type"] == "text"]
    assert len(names) == 2, "a method without a score has no point"
    assert [field for field, _ in chart.columns] == ["label", "x", "dsc", "low", "high"]
