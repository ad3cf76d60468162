"""What Snakemake plans: the whole study, and after a change exactly what it touches.

The finished state is made without running anything: every output is created empty and
`snakemake --touch` records it as made by the present parameters. What a change reruns is then read
from a dry run, as a user would see it.
"""

import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import ROOT
from processes import SNAKEFILE, run_snakemake, snakemake_environment

from meddino.cli.snakemake import Run, read_log
from meddino.core.layers import merge

REPORTING = {"figures", "provenance", "report", "all"}
SCORING = {"evaluate", "model_card", "scores", "tables", "overlays"} | REPORTING
FINETUNING = {"finetune", "predict"} | SCORING
COMMON = ["--cores", "2", "--nolock", "--configfile", "overlay.yaml"]
Study = dict[str, Any]


def snakemake(folder: Path, *arguments: str) -> str:
    """Run Snakemake in `folder`; return all it prints."""
    result = run_snakemake([*COMMON, *arguments], folder)
    assert result.returncode == 0, result.stdout
    return result.stdout


def dry_run(folder: Path) -> Run:
    return read_log(snakemake(folder, "--dry-run", "all").splitlines())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the demo study counts as finished."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copy(ROOT / "profiles/demo/study.yaml", folder / "overlay.yaml")
    return finish(folder)


def finish(folder: Path) -> Path:
    """Have the study of `overlay.yaml` count as finished."""
    shutil.copy(ROOT / "config.yaml", folder)
    summary = snakemake(folder, "--summary", "all").splitlines()
    outputs = [line.split("\t")[0] for line in summary if "\t" in line][1:]
    assert len(outputs) > 50
    for output in outputs:
        path = folder / output
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    snakemake(folder, "--touch", "all")
    assert dry_run(folder).rules.total() == 0
    return folder


@pytest.fixture
def study(finished: Path) -> Any:
    """Change the finished study's configuration for one test."""
    overlay = finished / "overlay.yaml"
    original = overlay.read_text()

    def change(edit: Callable[[Study], None]) -> Run:
        config = yaml.safe_load(original)
        edit(config)
        overlay.write_text(yaml.safe_dump(config))
        return dry_run(finished)

    yield change
    overlay.write_text(original)


def rules(plan: Run) -> set[str]:
    return set(plan.rules)


def deep(config: Study, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for key in parents:
        config = config.setdefault(key, {})
    config[last] = value


def edges(mermaid: str) -> set[tuple[str, str]]:
    """Rules and what they need, of a graph in Mermaid's language."""
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", mermaid))
    return {(names[a], names[b]) for a, b in re.findall(r"(id\d+) --> (id\d+)", mermaid)}


def test_the_rulegraph_in_the_docs_is_the_workflows(tmp_path: Path) -> None:
    shutil.copy(ROOT / "config.yaml", tmp_path)
    (tmp_path / "overlay.yaml").write_text("{}")
    drawn = edges(snakemake(tmp_path, "--rulegraph", "mermaid-js", "--", "all"))
    assert len(drawn) > 20
    assert edges((ROOT / "docs/rulegraph.md").read_text()) == drawn, "run `make rulegraph`"


def test_rate_of_stage_3_reruns_stage_3_and_what_starts_from_it(study: Any) -> None:
    plan = study(lambda c: deep(c, "pretrain.stages.stage3.optim.lr", 1.0e-5))
    assert rules(plan) == {"pretrain_stage3", "probe", "feature_figures"} | FINETUNING
    assert plan.rules["finetune"] == 4, "MedDINOv3 on each of the four benchmarks"


def test_rate_of_one_method_reruns_that_method(study: Any) -> None:
    plan = study(lambda c: deep(c, "methods.segformer.lr", 1.0e-5))
    assert rules(plan) == FINETUNING
    assert plan.rules["finetune"] == 4


def test_the_recipe_reruns_what_it_changes_and_nothing_else(study: Any) -> None:
    plan = study(lambda c: deep(c, "recipe", "official"))
    stages = {"pretrain_stage1", "pretrain_stage2", "pretrain_stage3", "probe", "feature_figures"}
    assert rules(plan) == stages | FINETUNING
    assert plan.rules["finetune"] == 22 - 4, "all but nnU-Net's"
    plan = study(lambda c: deep(c, "methods.dino_unet.official.lr", 0.5))
    said = {"report", "all"}
    assert rules(plan) == said, "of the recipe that does not run: shown, and used by nothing"


def test_slice_spacing_reruns_curation_and_pretraining_but_no_baseline(study: Any) -> None:
    plan = study(lambda c: deep(c, "ct3m.spacing_mm", 0.9))
    stages = {"pretrain_stage1", "pretrain_stage2", "pretrain_stage3", "probe", "feature_figures"}
    assert rules(plan) == {"slices", "duplicates", "index", "card"} | stages | FINETUNING
    assert plan.rules["finetune"] == 4 + 2, "MedDINOv3 everywhere, stages 1 and 2 on AMOS22"


def test_keeping_copies_out_searches_nothing_and_cuts_nothing_anew(study: Any) -> None:
    plan = study(lambda c: deep(c, "ct3m.dedupe", "keep-first"))
    stages = {"pretrain_stage1", "pretrain_stage2", "pretrain_stage3", "probe", "feature_figures"}
    assert rules(plan) == {"index", "card"} | stages | FINETUNING


def test_a_leak_free_chain_beside_the_papers_reruns_none_of_it(study: Any) -> None:
    overlay = yaml.safe_load((ROOT / "config.leak-free.yaml").read_text())
    plan = study(lambda c: c.update(merge(c, overlay)))
    stages = {f"pretrain_stage{number}_leakfree" for number in (1, 2, 3)}
    assert rules(plan) == {"index_leak_free", "card", "probe"} | stages | FINETUNING
    assert plan.rules["finetune"] == 3 + 4, "DINOv3 where no table asked yet, and MedDINOv3 anew"


def test_further_seeds_train_beside_what_is_there(study: Any) -> None:
    plan = study(lambda c: deep(c, "seeds", {"values": [0, 1], "benchmarks": ["btcv"]}))
    assert rules(plan) == FINETUNING - {"overlays"}
    assert [plan.rules[name] for name in ("finetune", "predict", "evaluate")] == [4, 4, 4]
    assert plan.rules["tables"] == 1, "only Table 2 shows BTCV"
    parts = {job.wildcards["fold"] for job in plan.jobs if job.rule in ("finetune", "evaluate")}
    assert parts == {"0-seed1"}


def test_ranks_that_are_asked_for_rerun_the_report_alone(study: Any) -> None:
    plan = study(lambda c: deep(c, "ranks", True))
    assert rules(plan) == {"ranks", "provenance", "report", "all"}
    assert plan.rules["ranks"] == 3


def test_metric_tolerance_reruns_scoring(study: Any) -> None:
    assert rules(study(lambda c: deep(c, "evaluate.tolerance_mm", 2.0))) == SCORING


def test_colour_of_a_figure_reruns_the_figures(study: Any) -> None:
    drawn = {"card", "feature_figures"} | REPORTING
    assert rules(study(lambda c: deep(c, "figures.dpi", 77))) == drawn


def test_label_of_a_method_does_not_retrain_it(study: Any) -> None:
    plan = study(lambda c: deep(c, "methods.nnunet.label", "nnU-Net (2d)"))
    assert rules(plan) <= {"tables", "model_card"} | REPORTING


def test_comments_and_order_of_keys_rerun_nothing(finished: Path, study: Any) -> None:
    plan = study(lambda c: c.update(dict(reversed(list(c.items())))))
    assert plan.rules.total() == 0


def test_a_raised_revision_reruns_the_verb_and_what_follows(finished: Path, tmp_path: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__")
    package = tmp_path / "meddino"
    shutil.copytree(ROOT / "meddino", package, ignore=ignore)
    verbs = package / "pipeline" / "verbs.py"
    raised = 'dataclasses.replace(VERBS["evaluate"], revision=99)'
    line = f'import dataclasses\n\nVERBS["evaluate"] = {raised}\n'
    verbs.write_text(f"{verbs.read_text()}\n\n{line}")
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), *COMMON]
    environment = snakemake_environment(package=tmp_path)
    done = subprocess.run(
        [*command, "--dry-run", "all"],
        cwd=finished,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert rules(read_log((done.stdout + done.stderr).splitlines())) == SCORING


def test_snakemakes_own_report_holds_the_tables_and_the_report(finished: Path) -> None:
    snakemake(finished, "--report", "report.zip", "all")
    with zipfile.ZipFile(finished / "report.zip") as report:
        text = report.read("report/report.html").decode()
        assert any(name.startswith("report/data/raw/") for name in report.namelist())
    assert all(f"table{number}.csv" in text for number in (1, 2, 3))


def test_the_full_study_plans_as_a_whole(tmp_path: Path) -> None:
    shutil.copy(ROOT / "config.yaml", tmp_path)
    (tmp_path / "overlay.yaml").write_text("{}\n")
    plan = dry_run(tmp_path)
    assert plan.rules["finetune"] == plan.rules["model_card"] == 22
    assert plan.rules["fetch"] == 17
    assert plan.rules["slices"] == 28
    assert "phantom" not in plan.rules
    assert "leaves" not in plan.rules


@pytest.mark.parametrize("leak_free", [[], ["config.leak-free.yaml"]])
def test_on_a_cluster_what_waits_for_a_training_asks_for_little(
    tmp_path: Path, leak_free: list[str]
) -> None:
    shutil.copy(ROOT / "config.yaml", tmp_path)
    (tmp_path / "overlay.yaml").write_text("{}\n")
    overlays = [str(ROOT / name) for name in leak_free]
    resources = {}
    for profile in ("local", "slurm"):
        arguments = ["--profile", str(ROOT / "profiles" / profile), "--dry-run", "all"]
        printed = snakemake(tmp_path, *overlays, *arguments)
        training = [
            job
            for job in read_log(printed.splitlines()).jobs
            if job.rule.startswith("pretrain_") or job.rule == "finetune"
        ]
        assert len(training) > 20
        resources[profile] = {(job.threads, job.resources["mem_mb"]) for job in training}
    assert resources["slurm"] == {(1, "200")}
    assert resources["local"] == {(2, "64000"), (2, "48000")}


def test_failures_of_a_finished_study_predict_no_labels_again(study: Any) -> None:
    """The softmax takes a second pass of its own; what was predicted stays."""
    asked = {"benchmarks": ["amos22", "kits23"], "lesions": {"kits23": ["tumour"]}}
    plan = study(lambda c: deep(c, "failures", {**asked, "methods": ["nnunet", "meddinov3"]}))
    added = {"confidence": 4, "lesions": 2, "failures": 1, "worst_cases": 2}
    assert plan.rules == {**added, "provenance": 1, "report": 1, "all": 1}
    everything = study(lambda c: deep(c, "failures", {}))
    assert everything.rules["confidence"] == 22 and not everything.rules["predict"]
