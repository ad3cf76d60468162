"""A whole study in miniature: it runs, learns, does nothing twice, and survives a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import test_documented_files
from places import ROOT
from processes import preloaded, run_snakemake, snakemake_environment, start_snakemake

from meddino.core.files import read_json
from meddino.evaluate import evaluate
from meddino.finetune import finetune, predict
from meddino.study import jobs, paths, targets
from meddino.study.model import Study, load

pytestmark = pytest.mark.study
LAYERS = ["config.yaml", "study.yaml", "short.yaml"]
MARGIN, LIVER_MARGIN = 0.10, 0.40
"""By how much (DSC: mean over four structures, and liver) training must beat the untrained network.
In a minute every method finds the liver, and only the better ones kidneys and spleen."""


def arguments(*targets: str) -> list[str]:
    profile = ["--profile", str(ROOT / "profiles/demo"), "--rerun-incomplete", "--nolock"]
    return [*profile, "--configfile", *LAYERS[1:], "--", *targets]


def snakemake(folder: Path, *targets: str) -> str:
    done = run_snakemake(arguments(*targets), folder, preloaded())
    logs = "".join(
        f"\n{log}:\n{log.read_text()[-800:]}" for log in (folder / "logs").rglob("*.log")
    )
    assert done.returncode == 0, done.stdout[-4000:] + logs[-4000:]
    return done.stdout


def lay_out(folder: Path) -> None:
    for name in LAYERS:
        source = ROOT / name if name == "config.yaml" else ROOT / "profiles/demo" / name
        shutil.copy(source, folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shortened demo, finished; it begins with what MEDDINO_TEST_STUDY, a folder, has of it."""
    path = tmp_path_factory.mktemp("study")
    lay_out(path)
    if "MEDDINO_TEST_STUDY" in os.environ:
        for part in ("results/short", "resources/demo", "logs", ".snakemake"):
            source = Path(os.environ["MEDDINO_TEST_STUDY"]) / part
            shutil.copytree(source, path / part, symlinks=True)
    snakemake(path, "all")
    return path


@pytest.fixture(scope="module")
def study(folder: Path) -> Study:
    return load([folder / name for name in LAYERS])


def test_tables_and_report_are_there(folder: Path) -> None:
    results = folder / "results/short"
    for number in (1, 2, 3):
        for suffix in ("csv", "md", "tex"):
            assert (results / f"tables/table{number}.{suffix}").stat().st_size > 200
    report = (results / "report.html").read_text()
    assert "procedural phantom" in report and "data:image/webp;base64," in report
    assert 'data-overlays="amos22"' in report, "cases to click on"
    assert not list(results.rglob(".tmp-*")), "no half-written file is left"
    assert not list((results / "runs").rglob("*.pt")), "no state of finished runs is left"


def test_every_result_has_a_record_that_is_true_of_it(folder: Path) -> None:
    whole = read_json(folder / "results/short/provenance.json")
    assert whole["without"] == []
    verbs = {entry["verb"] for entry in whole["summary"]["verbs"]}
    assert {"fetch", "slices", "pretrain", "preprocess", "finetune", "predict", "tables"} <= verbs
    verify = [sys.executable, "-m", "meddino", "verify", "--strict"]
    done = subprocess.run(
        verify, cwd=folder, env=snakemake_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_files_that_pages_name_are_there(folder: Path) -> None:
    places = {"results/": "results/short/", "resources/": "resources/demo/", "logs/": "logs/"}
    names = test_documented_files.named()
    assert len(names) > 30
    absent = [
        name
        for name in names
        for top, place in places.items()
        if name.startswith(top)
        for each in test_documented_files.pattern(name.removeprefix(top))
        if each and not any((folder / place).glob(each))
    ]
    assert absent == []


def test_a_second_run_does_nothing(folder: Path) -> None:
    assert "Nothing to be done" in snakemake(folder, "all")


def dsc(scores: pd.DataFrame) -> pd.Series:
    """Mean over cases, for each structure."""
    return scores.groupby("structure")["dsc_area"].mean()


def untrained(study: Study, folder: Path, method: str, place: Path) -> pd.Series:
    """DSC of a method's network as it is before training."""
    run = next(run for run in targets.runs(study) if run.method == method)
    options = jobs.finetune.finetune_options(study, method, str(run.fold))
    training = options.training.model_copy(update={"epochs": 0})
    inputs = {
        key: folder / path
        for key, path in jobs.finetune.finetune_inputs(study, run.benchmark, method).items()
    }
    model, done, scores = (place / n for n in ("model.safetensors", "p/done.json", "s.parquet"))
    initial = options.model_copy(update={"training": training})
    finetune.run(initial, **inputs, state=place / "state", output=model)
    dataset = folder / paths.nnunet_dataset(study, run.benchmark)
    predict.run(
        jobs.finetune.predict_options(study, "0"), model=model, dataset=dataset, output=done
    )
    evaluation = jobs.report.evaluate_options(study, run.benchmark, method, "0")
    evaluate.run(evaluation, predictions=done, dataset=dataset, output=scores)
    return dsc(pd.read_parquet(scores))


def test_every_method_learns(study: Study, folder: Path, tmp_path: Path) -> None:
    scores = pd.read_parquet(folder / "results/short/scores.parquet")
    gains = {}
    for method in study.methods:
        trained = dsc(scores[scores["method"] == method])
        gains[method] = trained - untrained(study, folder, method, tmp_path / method)
    table = pd.DataFrame(gains).T
    assert (table.mean(axis=1) > MARGIN).all() and (table["liver"] > LIVER_MARGIN).all(), table


def test_losses_of_self_supervision_fall(study: Study, folder: Path) -> None:
    history = folder / "results/short/pretrain/stage1/history.jsonl"
    loss = [json.loads(line)["loss"] for line in history.read_text().splitlines()]
    quarter = max(1, len(loss) // 4)
    assert np.mean(loss[-quarter:]) < np.mean(loss[:quarter]) - 0.03


def test_checkpoints_say_what_they_started_from(folder: Path) -> None:
    from meddino.models import loading

    path = folder / "results/short/pretrain"
    origin = loading.read(path / "stage3/000010.pth")["meta"]["origin"]
    assert (origin["init"]["stage"], origin["init"]["iteration"]) == ("stage2", 20)
    teacher = origin["gram_teacher"]
    assert (teacher["stage"], teacher["iteration"]) == ("stage1", 40)


def test_mr_is_kept_out_of_the_pretraining_set(folder: Path) -> None:
    reports = [read_json(p) for p in (folder / "results/short/ct3m/shards").rglob("[0-9]*.json")]
    assert sum(report["other_modality"] for report in reports) > 0
    assert all(report["quarantined"] == [] for report in reports)


def kill_midway(folder: Path, target: str, log: Path, seconds: float) -> None:
    """Start making `target`, and kill the whole process group `seconds` after its log appears."""
    process = start_snakemake(arguments(target), folder, Path(os.devnull), preloaded())
    try:
        deadline = time.monotonic() + 600
        while not log.exists() and time.monotonic() < deadline and process.is_alive():
            time.sleep(0.02)
        assert log.exists(), f"{log} never appeared"
        time.sleep(seconds)
    finally:
        assert process.pid is not None
        with suppress(ProcessLookupError):  # it was faster than when it was timed, and has ended
            os.killpg(process.pid, signal.SIGKILL)
        process.join()


RESULTS = "results/short"
RULES = {
    "phantom/amos22": "resources/demo/phantom/amos22/SHA256SUMS",
    "fetch/amos22": "resources/demo/raw/amos22/.fetched.json",
    "slices/amos22.0": f"{RESULTS}/ct3m/shards/amos22/0.json",
    "index/64": f"{RESULTS}/ct3m/index.64.parquet",
    "weights/dinov3": "resources/demo/weights/dinov3.pth",
    "pretrain/stage1": f"{RESULTS}/pretrain/stage1/history.jsonl",
    "convert/amos22.701": f"{RESULTS}/nnunet/raw/Dataset701_amos22/dataset.json",
    "plan/amos22.701": f"{RESULTS}/nnunet/preprocessed/Dataset701_amos22/nnUNetPlans.json",
    "preprocess/amos22.701.2d": f"{RESULTS}/nnunet/preprocessed/Dataset701_amos22/2d.json",
    "finetune/amos22.nnunet.fold0": f"{RESULTS}/finetune/amos22/nnunet/fold0/model.safetensors",
    "predict/amos22.nnunet.fold0": f"{RESULTS}/predictions/amos22/nnunet/fold0/done.json",
    "evaluate/amos22.nnunet.fold0": f"{RESULTS}/scores/amos22/nnunet/fold0.parquet",
    "figures": f"{RESULTS}/figures/figures.json",
}
TIMED = ("pretrain", "finetune")
"""Rules whose outputs hold times, which differ from run to run."""


@pytest.mark.parametrize("rule", RULES)
def test_kill_9_in_a_rule_leaves_nothing_that_counts_as_whole(
    rule: str, folder: Path, tmp_path: Path
) -> None:
    """Remake one output of the finished study, kill it midway, and run again."""
    copy = tmp_path / "study"
    shutil.copytree(folder, copy, symlinks=True)
    target, log = copy / RULES[rule], copy / f"logs/{rule}.log"
    whole = target.read_bytes()
    took = float(pd.read_csv(log.with_suffix(".tsv"), sep="\t")["s"].iloc[0])
    target.unlink()
    log.unlink()
    kill_midway(copy, RULES[rule], log, 0.6 * took)
    assert not target.exists() or target.read_bytes() == whole or rule.startswith(TIMED)
    snakemake(copy, RULES[rule])
    if not rule.startswith(TIMED):
        assert target.read_bytes() == whole
    assert not list(copy.rglob(".tmp-*")), "leftovers are replaced"
