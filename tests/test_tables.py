"""Tables: the paper's way of averaging, its values, and all three formats."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from meddino.config import load
from meddino.core.errors import MeddinoError
from meddino.report import tables
from meddino.report.options import Table, TableOptions

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
    assert r"| Method | CT-3M | LiTS\|CT DSC | LiTS\|CT NSD |" in markdown
    assert "| nnU-Net | - |" in markdown and "| my_method | leak-free |" in markdown
    assert "leak-free: it saw no validation case" in markdown and "paper:" not in markdown
    assert "NSD by edge voxels within 1.5 mm" in markdown
    assert "| nnU-Net | - | **50.00 (75.00, -25.00)** |" in markdown
    assert "| my_method | leak-free | 25.00 |" in markdown
    latex = (tmp_path / "table2.tex").read_text()
    assert r"my\_method" in latex and r"A \& B\_1" in latex
    assert latex.count("{") - latex.count(r"\{") == latex.count("}") - latex.count(r"\}")
    widths = {line.count(" & ") for line in latex.splitlines() if line.endswith(r"\\")}
    assert widths == {3}


def test_tables_say_which_recipe_ran(files: list[Path], tmp_path: Path) -> None:
    changes = {"backbone_lr": ["mine"], "segformer.variant": ["nnunet", "mine"]}
    for recipe, said in (
        ("controlled", "Recipe controlled: rows differ as they say, in nothing else; the authors'"),
        ("official", "Recipe official: rows as in the authors' code; `controlled` differs in back"),
    ):
        asked = options().model_copy(update={"recipe": recipe, "recipe_changes": changes})
        tables.run(asked, scores=files, output=tmp_path / "table2.csv")
        markdown = (tmp_path / "table2.md").read_text()
        assert said in markdown
        assert "backbone_lr (my_method); segformer.variant (nnU-Net, my_method)." in markdown
        assert f"Recipe {recipe}" in (tmp_path / "table2.tex").read_text()
        assert set(pd.read_csv(tmp_path / "table2.csv")["recipe"]) == {recipe}


def test_a_missing_run_is_named(files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(MeddinoError, match="no scores of mine on lits"):
        tables.run(options(), scores=files[:1], output=tmp_path / "table2.csv")
    assert not (tmp_path / "table2.csv").exists()


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
    assert "| my_method | leak-free | **25.00** |" in (tmp_path / "table9.md").read_text()


def test_every_cell_of_the_papers_tables_has_its_value(root: Path) -> None:
    study = load([root / "config.yaml"])
    for name, table in study.tables.items():
        for method in table.rows:
            for benchmark in table.benchmarks:
                values = tables.paper_values()[name][method][benchmark]
                assert set(values) >= set(table.metrics)
