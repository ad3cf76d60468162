"""`failures` in the configuration: absent unless asked for, and refused where nothing would run."""

from typing import Any

import pytest
import yaml
from places import ROOT

from meddino.core.errors import MeddinoError
from meddino.core.layers import merge
from meddino.study import paths
from meddino.study.jobs import failures, report
from meddino.study.model import Study, load

CONFIG = ROOT / "config.yaml"


def study(section: Any) -> Study:
    config = yaml.safe_load(CONFIG.read_text())
    return Study.parse(merge(config, {"failures": section}))


def test_a_study_that_does_not_ask_looks_at_nothing() -> None:
    plain = load([CONFIG])
    assert plain.failures is None and failures.runs(plain) == [] and failures.shown(plain) == []
    assert "beyond" not in report.report_inputs(plain)


def test_the_overlay_asks_for_the_rows_of_table_2() -> None:
    asked = load([CONFIG, ROOT / "config.failures.yaml"])
    runs = failures.runs(asked)
    assert {run.method for run in runs} == set(asked.tables["table2"].rows)
    assert {run.benchmark for run in runs} == set(asked.tables["table2"].benchmarks)
    inputs = failures.failures_inputs(asked)
    assert len(inputs["confidence"]) == 16 and len(inputs["lesions"]) == 8
    shown = failures.shown(asked)
    assert shown[0] == paths.failures(asked) and len(shown[1:]) == 4
    chosen = failures.failures_options(asked).mr_cases
    assert chosen["amos22"] == asked.dataset("amos22").mr_cases and chosen["lits"] is None


def test_all_that_tables_ask_for_is_looked_at_unless_said_otherwise() -> None:
    assert len(failures.runs(study({}))) == 22
    assert [run.method for run in failures.runs(study({"methods": ["stage1"]}))] == ["stage1"]
    few = study({"benchmarks": ["btcv"], "methods": ["nnunet"]})
    assert failures.benchmarks(few) == ["btcv"]


def test_what_only_pictures_depend_on_counts_nothing_again() -> None:
    one, two = (failures.failures_options(study({"worst": worst})) for worst in (1, 5))
    assert one == two
    assert failures.worst_cases_options(study({"worst": 5})).worst == 5


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"methods": ["unet3d"]}, "no table asks for 'unet3d'"),
        ({"benchmarks": ["word"]}, "no table asks for 'word'"),
        ({"lesions": {"kits23": ["mass"]}}, "'mass' is not one of kidney, tumour, cyst"),
        ({"sources": {"kits": {"a": "b"}}}, r"failures.sources.kits: not one of"),
        ({"sources": {"kits23": {"a": "("}}}, "no regular expression"),
        ({"spacing_edges_mm": [4, 2]}, "must rise"),
        ({"benchmarks": ["lits"], "lesions": {"kits23": ["tumour"]}}, "not one of the benchmarks"),
        ({"iou": 0}, "iou"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(section: dict[str, Any], message: str) -> None:
    with pytest.raises(MeddinoError, match=message):
        study(section)
