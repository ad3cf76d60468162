"""The comparison of backbones in a study: what it asks for, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from meddino.core.errors import MeddinoError
from meddino.core.layers import merge
from meddino.pipeline.options import options_json
from meddino.study import jobs, paths, targets
from meddino.study.model import Study, load

ROWS = {
    "plain": {"like": "dinov3_multiscale", "label": "plain"},
    "small": {"like": "plain", "backbone": "vits16", "weights": None, "official": None},
    "library": {"like": "small", "backbone": "timm:vit_base_patch16_224", "weights": "augreg"},
    "random_b": {"like": "small", "backbone": "vitb16"},
    "ours": {"like": "plain", "weights": "stage3@10000"},
}


@pytest.fixture
def config(root: Path) -> dict[str, Any]:
    """The paper's study with a comparison of five ViTs and nnU-Net, and no other table."""
    whole = yaml.safe_load((root / "config.yaml").read_text())
    table = {"title": "Which?", "rows": [*ROWS, "nnunet"], "benchmarks": ["btcv", "amos22"]}
    return merge(
        whole,
        {
            "weights": {"augreg": {"file": "a.pth", "title": "AugReg", "licence": "Apache-2.0"}},
            "methods": ROWS,
            "tables": {"table1": None, "table2": None, "table3": None, "which": table},
            "backbones": {"table": "which"},
        },
    )


def test_each_row_is_probed_by_its_own_weights_and_architecture(config: dict[str, Any]) -> None:
    study = Study.parse(config)
    sources = targets.probed_backbones(study)
    assert set(sources) == {"dinov3", "random_small", "augreg", "random", "stage3"}
    backbones = {s: jobs.pretrain.probe_options(study, s).backbone for s in sources}
    assert backbones == {
        **dict.fromkeys(("dinov3", "random", "stage3"), "vitb16"),
        "random_small": "vits16",
        "augreg": "timm:vit_base_patch16_224",
    }
    assert jobs.pretrain.probe_inputs(study, "random_small")["checkpoints"] == []
    (weights,) = jobs.pretrain.probe_inputs(study, "augreg")["checkpoints"]
    assert weights == "resources/weights/augreg.pth"


def test_rows_are_found_in_the_probes_by_the_names_that_these_give(config: dict[str, Any]) -> None:
    options = jobs.backbones.backbones_options(Study.parse(config))
    rows = {row.method: row for row in options.methods}
    assert {name: row.probed for name, row in rows.items()} == {
        "plain": "dinov3",
        "small": "random_small",
        "library": "augreg",
        "random_b": "random",
        "ours": "stage3@10000",
        "nnunet": None,
    }
    assert rows["library"].start == "AugReg" and rows["small"].start == "random weights"
    assert rows["ours"].start == "stage 3, 10000 iterations, of this study"
    assert [entry.name for entry in rows["ours"].weights] == ["dinov3"], "it derives from them"


def test_files_are_those_of_the_table_and_of_one_fold(config: dict[str, Any]) -> None:
    study = Study.parse({**config, "folds": [0, 1]})
    files = jobs.backbones.backbones_inputs(study)
    assert files["table"] == paths.table(study, "which")
    assert len(files["models"]) == 12 and all("fold0" in path for path in files["models"])
    report = jobs.report.report_inputs(study)
    assert report["beyond"] == ["results/backbones/backbones.json"]
    assert not set(files["probes"]) <= set(report["probes"]), "these are the chain's alone"


def test_probes_are_left_out_where_none_are_wanted(config: dict[str, Any]) -> None:
    config["backbones"]["probe"] = False
    study = Study.parse(config)
    assert targets.probed_backbones(study) == {}
    assert {row.probed for row in jobs.backbones.backbones_options(study).methods} == {None}


def test_a_study_without_the_section_asks_for_nothing_more(root: Path) -> None:
    study = load([root / "config.yaml"])
    assert targets.compared(study) == [] and targets.probed_backbones(study) == {}
    assert jobs.backbones.backbones_inputs(study) == {}
    assert "beyond" not in jobs.report.report_inputs(study)
    assert "backbones" not in options_json(study, "report")
    with pytest.raises(MeddinoError, match="no section `backbones`"):
        jobs.backbones.backbones_options(study)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbones": {"table": "whose"}}, "backbones.table = 'whose': not one of which"),
        ({"tables": {"which": {"metrics": ["NSD"]}}}, "which shows no DSC"),
        ({"tables": {"which": {"rows": ["nnunet"]}}}, "no row of which has a backbone"),
        ({"weights": {"random_small": {"file": "b.pth"}}}, "'random_small' is the name of what"),
    ],
)
def test_what_cannot_be_compared_is_named(
    config: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(MeddinoError, match=message):
        Study.parse(merge(config, change))


def test_the_real_study_compares_what_its_page_names(root: Path) -> None:
    study = load([root / "config.yaml", root / "config.backbones.yaml"])
    page = (root / "docs/backbones.md").read_text()
    rows = jobs.backbones.backbones_options(study).methods
    assert len(rows) == 12
    for row in rows:
        assert f"| {row.label} |" in page
        method = study.methods[row.method]
        assert method.configuration == "2d" and method.network == "primus"
        assert all(entry.licence and entry.home and entry.title for entry in row.weights)
        assert all(entry.home in page and entry.licence in page for entry in row.weights)
    same = ("lr", "weight_decay", "optimizer", "drop_path", "power", "warmup_epochs", "betas")
    for key in same:
        assert len({getattr(study.methods[row.method], key) for row in rows}) == 1, key
