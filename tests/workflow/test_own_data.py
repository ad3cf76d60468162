"""A folder of a person's own in a study: what its changes rerun, and what `verify` says of them."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import ROOT
from processes import run_snakemake

from meddino.cli.snakemake import Run, our_error, read_log
from meddino.core.layers import merge

ARGUMENTS = ["--cores", "2", "--nolock", "--configfile", "overlay.yaml"]
STUDY = {
    "datasets": {
        "mine": {
            "folder": "scans",
            "images": ["*/ct.nii.gz"],
            "labels": ["*/seg.nii.gz"],
            "case": "^(?P<case>[^/]+)/",
        }
    },
    "phantom": {"btcv": {"cases": 6, "size_px": 48, "slices": 16}},
    "ct3m": {"datasets": ["btcv", "mine"]},
    "benchmarks": {
        "mine": {"label": "Ours", "dataset": "mine", "nnunet_id": 900, "labels": {"liver": [1]}}
    },
    "probe": {"benchmark": "mine"},
    "tables": {
        f"table{number}": {
            "rows": ["nnunet", "meddinov3"],
            "benchmarks": ["mine"],
            "compare_with": None,
        }
        for number in (1, 2, 3)
    },
}
PRETRAINING = {"pretrain_stage1", "pretrain_stage2", "pretrain_stage3"}
CURATION = {"slices", "duplicates", "index", "card"} | PRETRAINING
FINETUNING = {"finetune", "predict", "evaluate"}
BENCHMARK = {"convert", "plan", "preprocess"} | FINETUNING


def snakemake(folder: Path, *arguments: str) -> str:
    done = run_snakemake([*ARGUMENTS, *arguments], folder)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a study of six own scans, four of them labelled, counts as finished."""
    folder = tmp_path_factory.mktemp("finished")
    for number in range(6):
        scan = folder / f"scans/s{number}"
        scan.mkdir(parents=True)
        for name in ("ct.nii.gz", "seg.nii.gz") if number < 4 else ("ct.nii.gz",):
            (scan / name).write_bytes(b"scan")
    shutil.copy(ROOT / "config.yaml", folder)
    demo = yaml.safe_load((ROOT / "profiles/demo/study.yaml").read_text())
    (folder / "overlay.yaml").write_text(yaml.safe_dump(merge(demo, STUDY)))
    summary = snakemake(folder, "--summary", "all").splitlines()
    for output in [line.split("\t")[0] for line in summary if "\t" in line][1:]:
        path = folder / output
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    snakemake(folder, "--touch", "--forceall", "all")
    return folder


@pytest.fixture
def change(finished: Path) -> Iterator[Callable[[Callable[[Path], Any]], Run]]:
    """What a change of the scans reruns."""
    shutil.copytree(finished / "scans", finished / "before")

    def plan(edit: Callable[[Path], Any]) -> Run:
        edit(finished / "scans")
        return read_log(snakemake(finished, "--dry-run", "all").splitlines())

    yield plan
    shutil.rmtree(finished / "scans")
    (finished / "before").rename(finished / "scans")


def test_where_nothing_has_changed_nothing_runs(change: Any) -> None:
    plan = change(lambda scans: scans.rename(scans.with_name("moved")).rename(scans))
    assert plan.rules.total() == 0


def test_a_label_reruns_its_benchmark_and_no_pretraining(change: Any) -> None:
    plan = change(lambda scans: (scans / "s0/seg.nii.gz").write_bytes(b"corrected"))
    assert (
        plan.rules.keys() >= BENCHMARK | {"fetch_labelled"} and not plan.rules.keys() & PRETRAINING
    )
    assert plan.rules["slices"] == plan.rules["fetch"] == plan.rules["phantom"] == 0


def test_a_scan_without_label_reruns_curation_and_no_conversion(change: Any) -> None:
    plan = change(lambda scans: (scans / "s5/ct.nii.gz").unlink())
    assert plan.rules.keys() >= CURATION | FINETUNING | {"fetch"}
    assert not plan.rules.keys() & {"fetch_labelled", "convert", "plan", "preprocess", "phantom"}
    assert (plan.rules["slices"], plan.rules["fetch"]) == (1, 1), "not those of btcv"
    assert plan.rules["finetune"] == 1, "nnU-Net has not seen the scan"


def test_a_labelled_scan_that_comes_reruns_all_that_sees_it(change: Any) -> None:
    def add(scans: Path) -> None:
        shutil.copytree(scans / "s0", scans / "s9")

    plan = change(add)
    assert plan.rules.keys() >= CURATION | BENCHMARK | {"fetch", "fetch_labelled"}
    assert plan.rules["finetune"] == 2


def test_a_folder_that_is_gone_ends_the_plan_in_one_line(finished: Path, tmp_path: Path) -> None:
    aside = finished / "aside"
    (finished / "scans").rename(aside)
    try:
        done = run_snakemake([*ARGUMENTS, "--dry-run", "all"], finished)
    finally:
        aside.rename(finished / "scans")
    assert done.returncode == 1
    assert our_error(done.stdout).startswith("datasets.mine.folder: ")
    assert our_error(done.stdout).endswith("mount it, or mend the path")


def test_labels_are_checked_before_any_job_starts(finished: Path, tmp_path: Path) -> None:
    for name in ("config.yaml", "overlay.yaml"):
        shutil.copy(finished / name, tmp_path)
    shutil.copytree(finished / "scans", tmp_path / "scans")
    done = run_snakemake([*ARGUMENTS, "--", "all"], tmp_path)
    assert done.returncode == 1
    reason = our_error(done.stdout)
    assert reason.startswith("benchmarks.mine: 0 of 4 labelled cases can be used, too few for 5")
    assert "4 cases (s0, s1, s2, s3): cannot be read" in reason and "(all in logs/check/" in reason
    assert not (tmp_path / "results").exists() and "Execute" not in done.stdout
    assert len((tmp_path / "logs/check/mine.log").read_text().splitlines()) == 4
