"""The model card: front matter, licences along the chain, the leak, and the scores."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from meddino.core.errors import MeddinoError
from meddino.finetune.settings import Settings, write_settings
from meddino.report.cards import model_card
from meddino.study import jobs
from meddino.study.model import Study, load
from meddino.study.sections import Seeds

DINOV3 = "DINOv3 License"


@pytest.fixture(scope="module")
def study(root: Path) -> Study:
    return load([root / "config.yaml", root / "config.leak-free.yaml"])


@pytest.fixture(scope="module")
def demo(root: Path) -> Study:
    return load([root / "config.yaml", root / "profiles/demo/study.yaml"])


def scores() -> pd.DataFrame:
    """The gallbladder is absent from the second case, and yet predicted there."""
    keys = {"benchmark": "btcv", "method": "m", "fold": 0}
    cells = [
        ("a", 1, "spleen", 0.90, 0.80, 0.90, 0.85, 200.0),
        ("b", 1, "spleen", 0.80, 0.60, 0.80, 0.75, 100.0),
        ("a", 4, "gallbladder", 0.50, 0.40, 0.50, 0.45, 20.0),
        ("b", 4, "gallbladder", np.nan, np.nan, 0.0, 0.0, 0.0),
    ]
    names = ["case", "label", "structure", *model_card.METRICS, "reference_ml"]
    return pd.DataFrame([{**keys, **dict(zip(names, row, strict=True))} for row in cells])


def write(study: Study, folder: Path, method: str, **description: Any) -> str:
    plans: dict[str, Any] = {
        "configurations": {
            "2d": {
                "patch_size": [640, 640],
                "spacing": [0.7, 0.7],
                "batch_size": 9,
                "normalization_schemes": ["CTNormalization"],
            },
            "2d_896": {"inherits_from": "2d", "patch_size": [896, 896], "spacing": [0.5, 0.5]},
        }
    }
    options = study.methods[method]
    write_settings(plans, Settings(method=options, training=study.training))
    model = {
        "plans": plans,
        "configuration": options.configuration,
        "fold": 0,
        "dataset_json": {
            "channel_names": {"0": "CT"},
            "labels": {"background": 0, "gallbladder": 4, "spleen": 1, "a|b": 7},
        },
        **description,
    }
    (folder / "model.json").write_text(json.dumps(model))
    scores().to_parquet(folder / "scores.parquet")
    model_card.run(
        jobs.report.model_card_options(study, "btcv", method),
        description=folder / "model.json",
        scores=folder / "scores.parquet",
        output=folder / "README.md",
    )
    return (folder / "README.md").read_text()


def front(text: str) -> Any:
    return yaml.safe_load(text.split("---\n")[1])


def test_scores_are_means_by_both_protocols(study: Study, tmp_path: Path) -> None:
    lines = write(study, tmp_path, "meddinov3").splitlines()
    assert "| spleen | 2 | 85.0 | 70.0 | 85.0 | 80.0 |" in lines
    assert "| gallbladder | 1 | 50.0 | 40.0 | 25.0 | 22.5 |" in lines
    assert r"| a\|b | 0 | - | - | - | - |" in lines
    assert "| **mean** | 2 | 67.5 | 55.0 | 55.0 | 51.2 |" in lines


def test_licences_follow_the_weights(study: Study, tmp_path: Path) -> None:
    derived = write(study, tmp_path, "meddinov3")
    assert front(derived)["license_name"] == "dinov3-license"
    assert front(derived)["license_link"].endswith("dinov3-license/")
    assert f"({DINOV3}) bind these weights too" in derived
    assert "CC BY-NC-SA 4.0" in derived and "GPL-3.0" in derived, "of what pretraining saw"
    own = write(study, tmp_path, "nnunet")
    assert DINOV3 not in own and "GPL-3.0" not in own
    assert front(own) | {"datasets": []} == front(own) | {"datasets": [], "license": "other"}
    assert front(own)["datasets"] == ["btcv"]


def test_the_leak_is_told(study: Study, tmp_path: Path) -> None:
    assert "**Leak.**" in write(study, tmp_path, "meddinov3")
    assert "No leak" in write(study, tmp_path, "meddinov3_leakfree")
    assert "have seen no CT" in write(study, tmp_path, "dinov3_896")


def test_configuration_is_that_of_the_run(study: Study, tmp_path: Path) -> None:
    text = write(study, tmp_path, "meddinov3", versions={"torch": "9.9"})
    for line in ("| input (px) | 896 x 896 |", "| batch | 9 |", "| rate of the ViT | 0.0001 |"):
        assert line in text
    assert "torch 9.9" in text and "no medical device" in text
    assert "| initial weights of the ViT | stage3@10000 |" in text


def test_phantoms_are_no_patients(demo: Study, tmp_path: Path) -> None:
    text = write(demo, tmp_path, "meddinov3")
    assert "of no use on patients" in text and "procedural phantom in the layout of BTCV" in text
    assert front(text)["license"] == "apache-2.0" and DINOV3 not in text


def test_equal_runs_give_equal_cards(study: Study, tmp_path: Path) -> None:
    assert write(study, tmp_path, "nnunet") == write(study, tmp_path, "nnunet")


def test_missing_files_are_told(study: Study, tmp_path: Path) -> None:
    with pytest.raises(MeddinoError, match=r"model\.json does not exist"):
        model_card.run(
            jobs.report.model_card_options(study, "btcv", "nnunet"),
            description=tmp_path / "model.json",
            scores=tmp_path / "scores.parquet",
            output=tmp_path / "README.md",
        )


def test_a_card_says_of_how_many_trainings_it_is_one(root: Path, tmp_path: Path) -> None:
    paper = load([root / "config.yaml"])
    assert "- One fold and one seed were trained. The scores" in write(paper, tmp_path, "nnunet")
    several = paper.model_copy(update={"seeds": Seeds(values=(0, 4))})
    text = write(several, tmp_path, "nnunet")
    assert "- This is one of 2 trainings, with seeds 0, 4; the table of the study has" in text
    assert "One fold and one seed" not in text
