"""What Snakemake plans for a study with `transfer`, and what an edit of it reruns."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import ROOT
from test_workflow import deep, dry_run, finish, rules

from meddino.cli.snakemake import Run
from meddino.core.layers import merge

SHOWN = {"transfer", "provenance", "report", "all"}
SCORED = {"evaluate_transfer"} | SHOWN
PAIRS = [{"train": "amos22", "test": "btcv"}, {"train": "btcv", "test": "amos22"}]


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    """The demo with two methods on two benchmarks, and transfer between these."""
    demo = yaml.safe_load((ROOT / "profiles/demo/study.yaml").read_text())
    rows = {"rows": ["nnunet", "segformer"], "benchmarks": ["amos22", "btcv"]}
    tables = {"table1": None, "table2": {**rows, "compare_with": "nnunet"}, "table3": None}
    transfer = {"methods": ["nnunet", "segformer"], "pairs": PAIRS}
    return merge(demo, {"tables": tables, "transfer": transfer})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any]) -> Path:
    folder = tmp_path_factory.mktemp("transfer")
    (folder / "overlay.yaml").write_text(yaml.safe_dump(config))
    return finish(folder)


@pytest.fixture
def plan(finished: Path, config: dict[str, Any]) -> Iterator[Any]:
    """Plan the finished study after a change."""

    def change(path: str, value: Any) -> Run:
        edited = deepcopy(config)
        deep(edited, path, value)
        (finished / "overlay.yaml").write_text(yaml.safe_dump(edited))
        return dry_run(finished)

    yield change
    (finished / "overlay.yaml").write_text(yaml.safe_dump(config))


def changed(**values: Any) -> list[dict[str, Any]]:
    return [{**PAIRS[0], **values}, PAIRS[1]]


def test_adding_it_to_a_finished_study_trains_nothing(plan: Any, finished: Path) -> None:
    before = finished / "results/transfer"
    before.rename(finished / "aside")
    try:
        added = plan("transfer.title", "Transfer")
        assert rules(added) == {"predict_transfer"} | SCORED
        assert added.rules["predict_transfer"] == 4
    finally:
        (finished / "aside").rename(before)


def test_another_map_of_structures_scores_anew_and_predicts_nothing(plan: Any) -> None:
    edited = plan("transfer.pairs", changed(structures={"liver": None}))
    assert rules(edited) == SCORED
    assert edited.rules["evaluate_transfer"] == 2, "those of the pair, for both methods"


def test_another_tolerance_scores_anew_and_predicts_nothing(plan: Any) -> None:
    edited = plan("benchmarks.btcv.tolerances_mm", {"liver": 7.0})
    assert not {"predict", "predict_transfer", "convert", "finetune"} & rules(edited)
    assert edited.rules["evaluate_transfer"] == edited.rules["evaluate"] == 2


def test_tolerance_of_a_structure_that_is_not_shared_scores_no_transfer(plan: Any) -> None:
    edited = plan("benchmarks.btcv.tolerances_mm", {"stomach": 7.0})
    assert "evaluate_transfer" not in rules(edited)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("transfer.metrics", ["DSC"]),
        ("transfer.protocol", "area"),
        ("transfer.compare_with", "nnunet"),
        ("transfer.pairs", PAIRS[::-1]),
    ],
)
def test_what_is_shown_rewrites_the_table_alone(plan: Any, key: str, value: Any) -> None:
    assert rules(plan(key, value)) == SHOWN


def test_another_pair_predicts_that_pair(plan: Any) -> None:
    added = plan("transfer.pairs", [*PAIRS, {"train": "amos22", "test": "lits"}])
    assert added.rules["predict_transfer"] == added.rules["evaluate_transfer"] == 2
    assert added.rules["finetune"] == 2, "on LiTS, which nothing was trained on"
    alone = [*PAIRS, {"train": "amos22", "test": "lits", "in_domain": False}]
    tested = plan("transfer.pairs", alone)
    assert rules(tested) - {"fetch", "phantom"} == {"convert", "predict_transfer"} | SCORED


def test_a_rate_of_one_method_predicts_its_transfer_anew(plan: Any) -> None:
    edited = plan("methods.segformer.lr", 1.0e-5)
    assert {"finetune", "predict_transfer"} <= rules(edited)
    assert edited.rules["predict_transfer"] == 2
