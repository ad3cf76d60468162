"""The study of the published weights: it pretrains nothing, makes no CT-3M, and runs whole."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from places import ROOT
from processes import preloaded, run_snakemake

from meddino.cli.snakemake import read_log
from meddino.models.architectures import named
from meddino.models.vit import VisionTransformer
from meddino.study import targets
from meddino.study.model import load

RELEASED = ROOT / "config.released.yaml"
ONE_ROW = {"rows": ["meddinov3"], "compare_with": None}
"""Table 2 without the networks that the weights do not change, which test_study.py trains."""
CURATION = {"slices", "duplicates", "index", "index_leak_free", "card", "leaves"}


def snakemake(folder: Path, configs: list[Path], target: str, *flags: str) -> str:
    # Its profile has each training take one thread, as two run beside each other.
    profile = ["--profile", str(ROOT / "profiles/demo"), "--nolock", *flags]
    words = [*profile, "--configfile", *map(str, configs), "--", target]
    done = run_snakemake(words, folder, {} if "--dry-run" in flags else preloaded())
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def rules(log: str) -> Counter[str]:
    """Rule -> jobs that Snakemake plans."""
    return read_log(log.splitlines()).planned


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ViT under the keys of the published file: no qkv bias, registers, `teacher`."""
    torch.manual_seed(0)
    tiny = VisionTransformer(replace(named("vittiny8"), qkv_bias=False, storage_tokens=4))
    state = {f"backbone.{key}": value for key, value in tiny.state_dict().items()}
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save({"teacher": state}, path)
    return path


def test_the_real_study_pretrains_nothing_and_makes_no_ct3m(tmp_path: Path) -> None:
    study = load([ROOT / "config.yaml", RELEASED])
    assert targets.used_stages(study) == [] and not targets.curated_datasets(study)
    plan = rules(snakemake(tmp_path, [ROOT / "config.yaml", RELEASED], "all", "--dry-run"))
    assert not CURATION & plan.keys()
    assert not [rule for rule in plan if rule.startswith("pretrain")]
    assert plan["finetune"] == 17, "four methods on four benchmarks, and DINOv3 on AMOS22"
    assert plan["fetch"] == 4 and plan["weights"] == 2


def test_the_row_alone_takes_four_finetunings(tmp_path: Path) -> None:
    table = "results/tables/released.md"
    plan = rules(snakemake(tmp_path, [ROOT / "config.yaml", RELEASED], table, "--dry-run"))
    assert plan["finetune"] == 4 and plan["weights"] == 1


@pytest.mark.study
def test_the_whole_of_it_runs_on_phantoms(stand_in: Path, tmp_path: Path) -> None:
    shutil.copy(ROOT / "config.yaml", tmp_path)
    published = {"hub": None, "file": str(stand_in)}
    small = {
        "weights": {
            "meddinov3_released": published,
            "dinov3": {"standin": None, "file": str(stand_in)},
        },
        "tables": {"released": {"benchmarks": ["amos22"]}, "table2": ONE_ROW},
        "training": {"epochs": 2, "iterations_per_epoch": 2},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    demo = [ROOT / "profiles/demo/study.yaml", ROOT / "profiles/demo/short.yaml"]
    log = snakemake(tmp_path, [*demo, RELEASED, tmp_path / "small.yaml"], "all")
    assert not (CURATION | {"pretrain_natural"}) & rules(log).keys()
    results = tmp_path / "results/short"
    row = pd.read_csv(results / "tables/released.csv")
    assert set(row["method"]) == {"meddinov3"} and row["ours"].notna().any()
    report = (results / "report.html").read_text(encoding="utf-8")
    assert "Nothing was pretrained here" in report and 'id="data"' not in report
    assert "no CT-3M was made" in report
    card = (results / "finetune/amos22/meddinov3/fold0/README.md").read_text(encoding="utf-8")
    assert "Apache-2.0" in card
