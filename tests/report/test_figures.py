"""Figures: which cases stand for others, names as printed, marks that tell many lines apart."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from meddino.core.files import write_json
from meddino.report.figures import curves, layers, predictions
from meddino.report.options import FigureOptions, PlotOptions
from meddino.report.pixels import body
from meddino.report.style import figure, legend, marks
from meddino.study import jobs, targets
from meddino.study.model import load

LOOK = FigureOptions(dpi=50)


def scores(cases: dict[str, list[float]], methods: tuple[str, ...] = ("a", "b")) -> pd.DataFrame:
    """DSC of two structures: those of the second method are 0.1 lower."""
    return pd.DataFrame(
        {"benchmark": "lits", "method": method, "fold": 0, "case": case, "label": label + 1}
        | {"structure": ("liver", "tumour")[label], "dsc_paper": value - 0.1 * number}
        for case, values in cases.items()
        for number, method in enumerate(methods)
        for label, value in enumerate(values)
    )


def test_the_best_the_median_and_the_worst_case_are_those() -> None:
    rng = np.random.default_rng(0)
    cases = {f"c{number}": rng.uniform(0.2, 1, 2).tolist() for number in range(9)}
    rows = scores(cases).sample(frac=1, random_state=0)
    means = {case: 100 * (np.mean(values) - 0.05) for case, values in cases.items()}
    ordered = sorted(means, key=lambda case: means[case])
    found = predictions.choose(rows, ["a", "b"])
    assert [each.rank for each in found] == ["best", "median", "worst"]
    assert [each.case for each in found] == [ordered[-1], ordered[4], ordered[0]]
    for each in found:
        assert each.mean == pytest.approx(means[each.case])
        assert each.by_method["a"] - each.by_method["b"] == pytest.approx(10)


def test_structures_that_are_not_scored_do_not_count_and_ties_go_by_name() -> None:
    nan = float("nan")
    rows = scores({"c": [0.9, nan], "a": [0.9, 0.9], "b": [0.5, nan], "none": [nan, nan]})
    assert [each.case for each in predictions.choose(rows, ["a", "b"])] == ["a", "c", "b"]
    assert [
        each.rank for each in predictions.choose(scores({"x": [1, 1], "y": [0, 0]}), ["a"])
    ] == [
        "best",
        "worst",
    ]
    assert [each.rank for each in predictions.choose(scores({"x": [1, 1]}), ["a"])] == ["best"]
    assert predictions.choose(scores({}).reindex(columns=rows.columns), ["a"]) == []
    four = scores(
        {name: [value, value] for name, value in zip("wxyz", (0.9, 0.8, 0.7, 0.6), strict=True)}
    )
    assert predictions.choose(four, ["a"])[1].case == "y", "the worse of the two in the middle"


def test_the_slice_shows_most_structures_then_most_voxels() -> None:
    label = np.zeros((4, 6, 6), np.uint8)
    label[0] = 1
    label[1, :2], label[1, 2:3] = 1, 2
    label[2, :2], label[2, 2:4] = 1, 2
    label[3] = label[2]
    assert layers.telling_slice(label) == 2


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    """Three cases, segmented the worse the higher their number."""
    dataset = tmp_path / "Dataset704_lits/dataset.json"
    cases, rng = {}, np.random.default_rng(0)
    done = [tmp_path / f"predictions/lits/{method}/fold0/done.json" for method in ("a", "b")]
    for number in range(4):
        case, label = f"c{number}", np.zeros((4, 40, 44), np.uint8)
        label[1:3, 8:24, 8:24] = 1
        hu = np.where(label > 0, 120, -900) + rng.normal(0, 10, label.shape)
        names = [f"imagesTr/{case}_0000.nii.gz", f"labelsTr/{case}.nii.gz"]
        predicted = label.copy()
        predicted[:, : 8 + 3 * number] = 0
        for path, array in (
            (dataset.parent / names[0], hu.astype(np.int16)),
            (dataset.parent / names[1], label),
            *((path.with_name(f"{case}.nii.gz"), predicted) for path in done),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
        cases[case] = {"images": names[:1], "label": names[1]}
    labels = {"background": 0, "liver": 1, "tumour": 2}
    write_json(dataset, {"labels": labels, "dataset": cases})
    for path in done:
        write_json(path, {"cases": [*cases][:3], "fold": 0})
    values = {f"c{number}": [1 - 0.2 * number, float("nan")] for number in range(4)}
    return {"predictions": done, "datasets": [dataset], "scores": scores(values)}


def test_captions_say_case_and_score_and_panels_the_methods_names(
    files: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []
    monkeypatch.setattr(predictions, "bare", lambda axis: titles.append(axis.get_title()))
    options = PlotOptions(
        look=LOOK, method_labels={"a": "nnU-Net"}, benchmark_labels={"lits": "LiTS"}
    )
    (entry,) = predictions.predicted(options, **files, folder=tmp_path)
    assert entry.title == "Predictions, LiTS"
    assert "best, c0: 95.0 %; median, c1: 75.0 %; worst, c2: 55.0 %" in entry.caption
    assert titles[:4] == ["c0", "reference", "nnU-Net  100.0", "b  90.0"]
    assert len(titles) == 12
    for kind in (".png", ".pdf"):
        assert (tmp_path / entry.file).with_suffix(kind).stat().st_size > 1000


def test_figures_name_things_as_tables_do(root: Path) -> None:
    study = load([root / "config.yaml", root / "config.leak-free.yaml"])
    options = jobs.report.figures_options(study)
    assert options.method_labels["meddinov3"] == "MedDINOv3"
    assert options.benchmark_labels["kits23"] == "KiTS23"
    assert options.source_labels["stage1"] == "stage 1"
    assert options.source_labels["stage3_leakfree"] == "stage 3, leak-free"
    assert curves._source(options, "stage1@20000") == "stage 1, 20,000 it."
    assert curves._source(options, "random") == "random initialisation"
    assert curves._source(options, "dinov3") == "DINOv3"
    assert list(targets.shown_chain(study)) == ["DINOv3", "stage 1", "stage 2", "stage 3"]
    layers = [
        root / "config.yaml",
        *(root / f"profiles/{n}/study.yaml" for n in ("demo", "directions")),
    ]
    first = jobs.report.feature_figures_inputs(load(layers))["checkpoints"][0]
    assert first.endswith("natural/000300.pth")


def test_marks_tell_more_lines_apart_than_there_are_colours() -> None:
    found = marks(LOOK, 20)
    assert len({(mark.colour, mark.dashes) for mark in found}) == 20
    assert len({(mark.colour, mark.marker) for mark in found}) == 20
    widths = [mark.width for mark in found]
    assert widths == sorted(widths, reverse=True) and widths[-1] >= 1


def test_legends_are_outside_of_the_panels(tmp_path: Path) -> None:
    with figure(LOOK, tmp_path / "a.png", 1, 2, (3, 2)) as axes:
        for axis in axes.flat:
            axis.plot([0, 1], [0, 1], label="a line with a rather long name")
        legend(axes[0, 0])
        drawn = axes[0, 0].figure
        drawn.canvas.draw()
        (box,) = (each.get_window_extent() for each in drawn.legends)
        assert all(box.x0 >= axis.get_window_extent().x1 for axis in axes.flat)


def test_the_body_is_without_table_and_with_lungs() -> None:
    slice_hu = np.full((40, 40), -1000)
    slice_hu[8:30, 5:35] = 40
    slice_hu[12:20, 10:18] = -800
    slice_hu[36:38, 2:38] = 100
    found = body(slice_hu)
    assert found[8:30, 5:35].all() and found.sum() == 22 * 30
    assert body(np.full((4, 4), -1000)).all()
