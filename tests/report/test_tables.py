"""Tables: the paper's way of averaging, its values, and all three formats."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from meddino.core.errors import MeddinoError
from meddino.core.files import write_json
from meddino.evaluate import statistics
from meddino.report.options import Table, TableOptions
from meddino.report.tables import remarks, results, tables
from meddino.study.jobs.report import tables_options
from meddino.study.model import load

NAN = float("nan")


def scores(folder: Path, method: str, values: list[tuple[str, str, float]]) -> Path:
    rows = [
        {
            "benchmark": "lits",
            "method": method,
            "fold": 0,
            "case": case,
            "label": {"liver": 1, "tumour": 2}[structure],
            "structure": structure,
            "dsc_paper": value,
            "nsd_paper": value / 2,
            "dsc_area": 0.0 if np.isnan(value) else value,
            "nsd_area": value / 4,
        }
        for case, structure, value in values
    ]
    path = folder / f"{method}.parquet"
    pd.DataFrame(rows).to_parquet(path)
    return path


def options(**changes: Any) -> TableOptions:
    values: dict[str, Any] = {
        "title": "A & B_1",
        "rows": ("nnunet", "mine"),
        "benchmarks": ("lits",),
        "metrics": ("DSC", "NSD"),
    }
    return TableOptions(
        name="table2",
        table=Table(**{**values, **changes}),
        method_labels={"nnunet": "nnU-Net", "mine": "my_method"},
        method_data={"nnunet": "none", "mine": "leak-free"},
        benchmark_labels={"lits": "LiTS|CT"},
        tolerance_mm=1.5,
    )


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    ours = [("a", "liver", 0.9), ("b", "liver", 0.7), ("a", "tumour", 0.2), ("b", "tumour", NAN)]
    return [
        scores(tmp_path, "nnunet", ours),
        scores(tmp_path, "mine", [(c, s, v / 2) for c, s, v in ours]),
    ]


def test_mean_over_cases_then_structures_without_absent_ones(
    files: list[Path], tmp_path: Path
) -> None:
    tables.run(options(), scores=files, output=tmp_path / "t/table2.csv")
    table = pd.read_csv(tmp_path / "t/table2.csv").set_index(["method", "metric", "protocol"])
    row = table.loc[("nnunet", "DSC", "paper")]
    assert row["ours"] == pytest.approx(100 * (0.8 + 0.2) / 2)
    assert row["paper"] == 75.00
    assert row["difference"] == pytest.approx(-25)
    assert row["cases"] == 2
    assert table.loc[("nnunet", "DSC", "area"), "ours"] == pytest.approx(100 * (0.8 + 0.1) / 2)
    assert np.isnan(table.loc[("mine", "DSC", "paper"), "paper"])


def test_markdown_and_latex_show_it(files: list[Path], tmp_path: Path) -> None:
    tables.run(options(), scores=files, output=tmp_path / "table2.csv")
    markdown = (tmp_path / "table2.md").read_text()
    assert r"| Method | CT-3M | LiTS\|CT DSC |" in markdown
    assert r"| Method | CT-3M | LiTS\|CT NSD |" in markdown
    assert "| nnU-Net | - |" in markdown and "| my_method | leak-free |" in markdown
    assert "leak-free: it saw no validation case" in markdown and "CT-3M paper:" not in markdown
    assert "NSD by edge voxels within 1.5 mm" in markdown
    assert "| nnU-Net | - | 50.00 (75.00) |" in markdown
    assert "| my_method | leak-free | 25.00 |" in markdown
    latex = (tmp_path / "table2.tex").read_text()
    assert r"my\_method" in latex and r"A \& B\_1" in latex
    assert latex.count("{") - latex.count(r"\{") == latex.count("}") - latex.count(r"\}")
    widths = {line.count(" & ") for line in latex.splitlines() if line.endswith(r"\\")}
    assert widths == {2}


def test_a_missing_run_is_shown_as_missing(
    files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compared = options(rows=("mine", "nnunet"), compare_with="mine", intervals=True)
    tables.run(compared, scores=files[:1], output=tmp_path / "table2.csv")
    assert "table2: mine on lits is missing: not run" in capsys.readouterr().err
    table = pd.read_csv(tmp_path / "table2.csv").set_index(["method", "metric", "protocol"])
    row = table.loc[("mine", "DSC", "paper")]
    assert row["cases"] == 0 and row[["ours", "low", "difference", "contrast", "p"]].isna().all()
    assert table.loc[("nnunet", "DSC", "paper"), "ours"] == 50
    markdown = (tmp_path / "table2.md").read_text()
    assert "| my_method | leak-free | not run |" in markdown and "| less" not in markdown
    assert "| 50.00 " in markdown and "LiTS|CT 2." in markdown
    assert "leak-free & not run" in (tmp_path / "table2.tex").read_text()


def test_a_missing_run_of_the_paper_keeps_the_papers_value(
    files: list[Path], tmp_path: Path
) -> None:
    tables.run(options(), scores=files[1:], output=tmp_path / "table2.csv")
    assert "| nnU-Net | - | not run (75.00) |" in (tmp_path / "table2.md").read_text()


def test_a_table_without_any_run_is_an_error(files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(MeddinoError, match="table2: there are no scores of any run"):
        tables.run(options(rows=("mine",)), scores=files[:1], output=tmp_path / "table2.csv")
    with pytest.raises(MeddinoError, match="the scores hold no hd95_mm; run evaluate again"):
        tables.run(options(metrics=("HD95",)), scores=files, output=tmp_path / "table2.csv")
    assert not (tmp_path / "table2.csv").exists()


def test_tables_say_which_recipe_ran(files: list[Path], tmp_path: Path) -> None:
    changes = {"backbone_lr": ["mine"], "segformer.variant": ["nnunet", "mine"], "lr": ["mine"]}
    for recipe, said in (
        ("controlled", "Recipe controlled: rows differ as they say, in nothing else; the authors'"),
        ("official", "Recipe official: rows as in the authors' code; `controlled` differs in back"),
    ):
        asked = options().model_copy(update={"recipe": recipe, "recipe_changes": changes})
        tables.run(asked, scores=files, output=tmp_path / "table2.csv")
        markdown = (tmp_path / "table2.md").read_text()
        assert said in markdown
        assert "backbone_lr, lr (my_method); segformer.variant (all rows)." in markdown
        assert f"Recipe {recipe}" in (tmp_path / "table2.tex").read_text()
        assert set(pd.read_csv(tmp_path / "table2.csv")["recipe"]) == {recipe}


def test_distances_and_volumes_are_in_their_units(files: list[Path], tmp_path: Path) -> None:
    for path, mm, ml in zip(files, (4.0, 6.0), (-9.0, 2.5), strict=True):
        table = pd.read_parquet(path)
        volumes = np.where(table["dsc_paper"].isna(), 1000.0, ml)  # invented: protocol area only
        table.assign(hd95_mm=mm, volume_difference_ml=volumes).to_parquet(path)
    tables.run(options(metrics=("HD95", "VD")), scores=files, output=tmp_path / "table2.csv")
    markdown = (tmp_path / "table2.md").read_text()
    assert r"LiTS\|CT HD95 (mm) |" in markdown and r"LiTS\|CT VD (ml) |" in markdown
    assert "| 4.00 |" in markdown and "| -9.00 |" in markdown and "| +2.50 |" in markdown
    assert "predicted less reference" in markdown and "in %" not in markdown
    table = pd.read_csv(tmp_path / "table2.csv").set_index(["method", "metric", "protocol"])
    assert table.loc[("mine", "VD", "area"), "ours"] == pytest.approx((2.5 + 501.25) / 2)
    assert set(table["unit"]) == {"mm", "ml"}


@pytest.mark.parametrize("protocol", ["paper", "area"])
def test_the_footnote_names_protocol_and_tolerances(
    files: list[Path], tmp_path: Path, protocol: str
) -> None:
    told = options(protocol=protocol, metrics=("NSD",))
    own = {"lits": {"liver": 5.0, "tumour": 2.0}}
    told = told.model_copy(update={"tolerances_mm": own})
    tables.run(told, scores=files, output=tmp_path / "table2.csv")
    text = (tmp_path / "table2.md").read_text()
    assert f"Protocol {protocol}: mean over cases" in text
    expected = {
        "paper": "NSD by edge voxels within 1.5 mm.",
        "area": "NSD by area within 1.5 mm but for some (LiTS|CT: tumour 2 mm; liver 5 mm).",
    }
    assert expected[protocol] in text


def many(folder: Path, method: str, shift: float, cases: int = 40, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    values = [
        (f"c{n}", structure, float(mean + 0.1 * rng.standard_normal() + shift))
        for n in range(cases)
        for structure, mean in (("liver", 0.8), ("tumour", 0.4))
    ]
    return scores(folder, method, values)


def test_intervals_and_tests_are_shown_when_asked(tmp_path: Path) -> None:
    files = [many(tmp_path, "nnunet", 0.0), many(tmp_path, "mine", -0.05, seed=1)]
    asked = options(metrics=("DSC",), intervals=True, compare_with="nnunet")
    tables.run(asked, scores=files, output=tmp_path / "a/table2.csv")
    tables.run(options(metrics=("DSC",)), scores=files, output=tmp_path / "b/table2.csv")
    table = pd.read_csv(tmp_path / "a/table2.csv").set_index(["method", "protocol"])
    row, base = table.loc[("mine", "paper")], table.loc[("nnunet", "paper")]
    assert row["low"] < row["ours"] < row["high"] < row["low"] + 8
    assert row["compared_with"] == "nnunet" and pd.isna(base["compared_with"])
    assert row["contrast"] == pytest.approx(row["ours"] - base["ours"], abs=1e-3)
    assert row["contrast_low"] < row["contrast"] < row["contrast_high"] < 0
    assert row["p"] < 0.001 and np.isnan(base["p"]) and (table["tests"] == 1).all()
    text = (tmp_path / "a/table2.md").read_text()
    assert f"{row['ours']:.2f} [{row['low']:.1f}, {row['high']:.1f}] |" in text
    ends = f"[{row['contrast_low']:+.1f}, {row['contrast_high']:+.1f}]"
    assert f"| less nnU-Net |  | {row['contrast']:+.2f} {ends}, p < 0.001 |" in text
    assert "Student's t" in text
    latex = (tmp_path / "a/table2.tex").read_text()
    assert f"less nnU-Net &  & {row['contrast']:+.2f} {ends}, p \\textless{{}} 0.001" in latex
    assert r"[95 \% interval]" in latex
    plain = pd.read_csv(tmp_path / "b/table2.csv").set_index(["method", "protocol"])
    assert plain.loc[("mine", "paper"), "low"] == row["low"], "the CSV has them in any case"
    assert plain["p"].isna().all() and plain["contrast"].isna().all()
    assert "[" not in (tmp_path / "b/table2.md").read_text()


def test_all_tests_of_a_table_are_one_family(tmp_path: Path) -> None:
    files = [many(tmp_path, "nnunet", 0.0), many(tmp_path, "mine", -0.05, seed=1)]
    p = {}
    for metrics in (("DSC",), ("NSD",), ("DSC", "NSD")):
        asked = options(metrics=metrics, compare_with="nnunet")
        tables.run(asked, scores=files, output=tmp_path / "table2.csv")
        table = pd.read_csv(tmp_path / "table2.csv").set_index(["method", "metric", "protocol"])
        p |= {(name, len(metrics)): table.loc[("mine", name, "paper"), "p"] for name in metrics}
        assert (table["tests"] == len(metrics)).all()
    one, two = ([p[name, length] for name in ("DSC", "NSD")] for length in (1, 2))
    assert two == pytest.approx(statistics.holm(np.array(one)), rel=1e-4)
    assert two != one
    assert "over the table's tests, 2 in all." in (tmp_path / "table2.md").read_text()


@pytest.mark.parametrize("cases", [5, 6])
def test_few_cases_give_neither_p_nor_bold(tmp_path: Path, cases: int) -> None:
    files = [many(tmp_path, "nnunet", 0.0, cases), many(tmp_path, "mine", -0.2, cases)]
    asked = options(metrics=("DSC",), compare_with="nnunet")
    tables.run(asked, scores=files, output=tmp_path / "table2.csv")
    text = (tmp_path / "table2.md").read_text()
    enough = cases == 6
    assert ("p = 0.031" in text, "**" in text) == (enough, enough)
    assert ("there is no p, which could not fall below 0.05" in text) == (not enough)
    assert "less nnU-Net |  | -20.00 [-20.0, -20.0]" in text, "the difference is shown"


def test_structures_with_few_cases_are_named(tmp_path: Path) -> None:
    values = [(f"c{n}", s, 0.5) for n in range(8) for s in ("liver", "tumour")]
    rare = [(c, s, NAN if s == "tumour" and c > "c1" else v) for c, s, v in values]
    tables.run(
        options(rows=("nnunet",), metrics=("DSC",)),
        scores=[scores(tmp_path, "nnunet", rare)],
        output=tmp_path / "table2.csv",
    )
    table = pd.read_csv(tmp_path / "table2.csv").set_index("protocol")
    assert table.loc["paper", "few"] == '{"tumour": 2}' and table.loc["area", "few"] == "{}"
    text = (tmp_path / "table2.md").read_text()
    assert "with fewer than 6 cases, which say little (LiTS|CT: tumour 2)." in text


def test_a_missing_interval_is_explained(tmp_path: Path) -> None:
    values = [(f"c{n}", "liver", 0.5 + n / 20) for n in range(6)] + [("c0", "tumour", 0.4)]
    files = [scores(tmp_path, "nnunet", values)]
    asked = options(rows=("nnunet",), metrics=("DSC",), intervals=True)
    tables.run(asked, scores=files, output=tmp_path / "table2.csv")
    text = (tmp_path / "table2.md").read_text()
    assert "**51.25 (75.00)**" in text and "No interval where a single case has" in text
    tables.run(
        asked, scores=[scores(tmp_path, "nnunet", values[:6])], output=tmp_path / "table2.csv"
    )
    assert "No interval" not in (tmp_path / "table2.md").read_text()


def test_intervals_stay_within_the_values_that_a_metric_can_have(tmp_path: Path) -> None:
    files = [scores(tmp_path, "mine", [("a", "liver", 0.99), ("b", "liver", 0.1)])]
    tables.run(options(rows=("mine",)), scores=files, output=tmp_path / "table2.csv")
    table = pd.read_csv(tmp_path / "table2.csv").set_index(["metric", "protocol"])
    assert tuple(table.loc[("DSC", "paper"), ["low", "high"]]) == (0, 100)


def test_only_a_table_of_nsd_gives_its_tolerance(files: list[Path], tmp_path: Path) -> None:
    tables.run(options(metrics=("DSC",)), scores=files, output=tmp_path / "table2.csv")
    assert " mm" not in (tmp_path / "table2.md").read_text()


def test_no_scores_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(MeddinoError, match="there are no scores"):
        tables.run(options(), scores=[], output=tmp_path / "table2.csv")


def test_a_table_of_ones_own_has_no_paper_values(files: list[Path], tmp_path: Path) -> None:
    mine = options(rows=("mine",))
    tables.run(mine, scores=files[1:], output=tmp_path / "table9.csv")
    assert pd.read_csv(tmp_path / "table9.csv")["paper"].isna().all()
    assert "| my_method | leak-free | 25.00 |" in (tmp_path / "table9.md").read_text()


def test_every_cell_of_the_papers_tables_has_its_value(root: Path) -> None:
    study = load([root / "config.yaml"])
    for name, table in study.tables.items():
        for method in table.rows:
            for benchmark in table.benchmarks:
                values = results.paper_values()[name][method][benchmark]
                assert set(values) >= set(table.metrics)


def test_a_planned_input_that_is_not_the_papers_is_a_remark(
    files: list[Path], tmp_path: Path
) -> None:
    path = tmp_path / "Dataset704_lits/nnUNetPlans.json"
    stated = options().model_copy(update={"paper_patch_px": {"lits": 640}})
    for size, remarked in (([512, 640], True), ([640, 640], False)):
        write_json(path, {"configurations": {"2d": {"patch_size": size}}})
        tables.run(stated, scores=files, output=tmp_path / "table2.csv", plans=(path,))
        for suffix in (".md", ".tex"):
            text = (tmp_path / "table2").with_suffix(suffix).read_text()
            assert ("takes 512 x 640 px here; the paper states 640 x 640 px" in text) == remarked
        lines = pd.read_csv(tmp_path / "table2.csv")
        assert set(lines["planned_px"]) == {f"{size[0]} x {size[1]}"}
    write_json(path, {"configurations": {}})
    with pytest.raises(MeddinoError, match=r"nnUNetPlans\.json holds no plan of 2d; delete it"):
        tables.run(stated, scores=files, output=tmp_path / "table2.csv", plans=(path,))
    tables.run(stated, scores=files, output=tmp_path / "table2.csv")
    assert "Another input" not in (tmp_path / "table2.md").read_text(), "not known"


def test_published_3d_results_are_marked_as_another_setting(
    files: list[Path], tmp_path: Path
) -> None:
    tables.run(options(), scores=files, output=tmp_path / "table2.csv")
    markdown = (tmp_path / "table2.md").read_text()
    assert "Another setting, for context only: published 3D networks" in markdown
    assert "LiTS|CT: nnU-Net 79.29, ResEnc-L 81.20, PrimusV2-M 81.73. The paper's" in markdown
    assert "AMOS22" not in markdown and "88.61" not in markdown, "only the table's benchmarks"
    assert "documentation/primus.md" in (tmp_path / "table2.tex").read_text()
    assert not (pd.read_csv(tmp_path / "table2.csv") == 79.29).any(axis=None), "no cell of it"
    tables.run(options(metrics=("NSD",)), scores=files, output=tmp_path / "table2.csv")
    assert "Another setting" not in (tmp_path / "table2.md").read_text()


def test_every_published_3d_result_belongs_to_a_benchmark(root: Path) -> None:
    published, study = remarks.published_3d(), load([root / "config.yaml"])
    assert set(published["results"]) <= set(study.benchmarks)
    assert set(published["notes"]) <= set(published["results"])
    values = [v for networks in published["results"].values() for v in networks.values()]
    assert all(50 < value < 100 for value in values)


def test_rows_that_the_paper_does_not_have_are_marked_in_every_format(
    files: list[Path], tmp_path: Path
) -> None:
    kinds: dict[str, Any] = {"mine": "3d"}
    marked = options(compare_with="nnunet").model_copy(update={"beyond": kinds})
    tables.run(marked, scores=files, output=tmp_path / "t.csv")
    text, latex = (tmp_path / "t.md").read_text(), (tmp_path / "t.tex").read_text()
    assert "| my_method (3D, not in the paper) |" in text and "| nnU-Net |" in text
    assert "\n- 3D, not in the paper: nnU-Net's networks of volumes" in text
    assert r"my\_method (3D, not in the paper)" in latex
    lines = pd.read_csv(tmp_path / "t.csv").set_index("method")["mark"]
    assert set(lines["mine"]) == {"3D, not in the paper"} and lines["nnunet"].isna().all()


def test_a_table_of_the_papers_methods_has_no_marks(files: list[Path], tmp_path: Path) -> None:
    tables.run(options(), scores=files, output=tmp_path / "t.csv")
    assert "not in the paper" not in (tmp_path / "t.md").read_text()
    assert "mark" not in pd.read_csv(tmp_path / "t.csv")
    assert "beyond" not in options().model_dump()


def test_the_configuration_of_a_method_decides_its_mark(root: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "presets.yaml"
    overlay.write_text(
        "methods: {resenc_l_2d: {like: nnunet, preset: resenc_l}}\n"
        "tables: {three_d: {rows: [nnunet, meddinov3, nnunet_3d, resenc_l_3d, resenc_l_2d]}}\n"
    )
    study = load([root / "config.yaml", root / "config.3d.yaml", overlay])
    beyond = tables_options(study, "three_d").beyond
    assert beyond == {"nnunet_3d": "3d", "resenc_l_3d": "3d", "resenc_l_2d": "2d"}
    assert tables_options(study, "table2").beyond == {}
