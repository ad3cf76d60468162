"""Seeds: which finetunings are repeated, and what stays as it is without them or beside them."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from meddino.core.errors import MeddinoError
from meddino.pipeline.options import options_json
from meddino.study import jobs, paths, targets
from meddino.study.model import Study, load
from meddino.study.sections import Seeds
from meddino.study.targets import Run


@pytest.fixture
def config(root: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((root / "config.yaml").read_text())
    return content


def test_a_list_of_seeds_repeats_every_finetuning(config: dict[str, Any]) -> None:
    one, three = Study.parse(config), Study.parse(config | {"seeds": [2, 0, 1]})
    assert three.seeds == Seeds(values=(2, 0, 1))
    assert len(targets.runs(three)) == 3 * len(targets.runs(one))
    assert targets.first_trainings(three) == targets.runs(one), "they are kept"
    of_run = [run for run in targets.runs(three) if run[:2] == ("btcv", "nnunet")]
    assert [run.seed for run in of_run] == [None, 2, 1], "the first one comes first"
    assert [run.part for run in of_run] == ["0", "0-seed2", "0-seed1"]
    assert (
        paths.finetuned(three, of_run[1])
        == "results/finetune/btcv/nnunet/fold0-seed2/model.safetensors"
    )
    assert paths.scores(three, of_run[1]) == "results/scores/btcv/nnunet/fold0-seed2.parquet"


def test_seeds_can_be_limited_to_methods_and_benchmarks(config: dict[str, Any]) -> None:
    section = {"values": [0, 1], "methods": ["nnunet"], "benchmarks": ["btcv", "lits"]}
    study = Study.parse(config | {"seeds": section})
    further = [run for run in targets.runs(study) if run.seed is not None]
    assert further == [Run("lits", "nnunet", 0, 1), Run("btcv", "nnunet", 0, 1)]
    assert jobs.report.tables_options(study, "table2").seed == 0
    assert jobs.report.tables_options(study, "table1").seed is None, "no row of it has several"


def test_jobs_of_the_first_seed_are_those_of_one_seed(config: dict[str, Any]) -> None:
    one, several = Study.parse(config), Study.parse(config | {"seeds": [0, 7]})
    for verb, names in (
        ("finetune", {"method": "nnunet"}),
        ("predict", {}),
        ("evaluate", {"benchmark": "lits", "method": "nnunet"}),
    ):
        first = {**names, "fold": "0"}
        assert options_json(one, verb, **first) == options_json(several, verb, **first)
        assert "seed7" not in options_json(several, verb, **{**names, "fold": "0-seed7"})
    further = jobs.finetune.finetune_options(several, "nnunet", "0-seed7")
    assert (further.training.seed, further.fold) == (7, 0)
    assert jobs.report.evaluate_options(several, "lits", "nnunet", "0-seed7").seed == 7
    assert jobs.report.overlays_inputs(one, "lits") == jobs.report.overlays_inputs(several, "lits")


def test_a_study_with_one_seed_has_neither_seeds_nor_ranks_in_its_jobs(root: Path) -> None:
    study = load([root / "config.yaml"])
    assert study.seeds is None and study.ranks is None
    for verb, names in (
        ("scores", {}),
        ("tables", {"table": "table2"}),
        ("figures", {}),
        ("model_card", {"benchmark": "lits", "method": "nnunet"}),
    ):
        text = options_json(study, verb, **names)
        assert '"seed"' not in text and '"seeds"' not in text, verb
    assert "beyond" not in jobs.report.report_inputs(study)
    alone = Study.parse(yaml.safe_load((root / "config.yaml").read_text()) | {"seeds": [0]})
    assert targets.runs(alone) == targets.runs(study)
    assert jobs.report.tables_options(alone, "table2").seed is None


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ([0, 0], "seeds = [0, 0]: one is named twice"),
        ([1, 2], "seeds = [1, 2]: training.seed = 0 must be among them"),
        ({"values": [0, 1], "methods": ["unet"]}, "seeds.methods: no method 'unet' (known: nnunet"),
        ({"values": [0], "benchmarks": ["brats"]}, "seeds.benchmarks: no benchmark 'brats'"),
        ([], "seeds.values"),
        ([0, -1], "seeds.values"),
        ({"value": [0]}, "seeds.value"),
        (3, "seeds = 3"),
    ],
)
def test_seeds_that_do_not_fit_are_one_clear_line(
    config: dict[str, Any], seeds: Any, message: str
) -> None:
    with pytest.raises(MeddinoError) as error:
        Study.parse(config | {"seeds": seeds}, "config.yaml")
    assert message in str(error.value)


def test_ranks_are_a_switch_or_a_section(config: dict[str, Any]) -> None:
    asked = Study.parse(config | {"ranks": True})
    assert asked.ranks is not None and asked.ranks.resamples == 1000
    assert Study.parse(config | {"ranks": False}).ranks is None
    fewer = Study.parse(config | {"ranks": {"resamples": 200}})
    assert jobs.report.ranks_options(fewer, "table1").ranks.resamples == 200
    files = [f"results/tables/table{number}.ranks.csv" for number in (1, 2, 3)]
    assert jobs.report.report_inputs(asked)["beyond"] == files
    assert set(files) <= set(jobs.report.provenance_inputs(asked)["results"])


@pytest.mark.parametrize("part", ["", "a", "0-seed", "0-1", "0-seed1-2"])
def test_a_part_that_is_none_is_one_clear_line(part: str) -> None:
    with pytest.raises(MeddinoError, match="such as 0-seed1"):
        targets.fold_and_seed(part)
    assert targets.fold_and_seed("3-seed12") == (3, 12)


def test_the_study_with_seeds_keeps_the_papers_trainings(root: Path) -> None:
    paper, study = (
        load([root / "config.yaml"]),
        load([root / "config.yaml", root / "config.seeds.yaml"]),
    )
    assert len(targets.runs(study)) == 3 * 5 * len(targets.runs(paper)) == 330
    assert set(targets.runs(paper)) <= set(targets.runs(study))
    assert targets.used_stages(study) == targets.used_stages(paper)
