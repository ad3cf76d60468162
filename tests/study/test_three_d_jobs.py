"""Which jobs a study with 3D methods has, and that a study without them has today's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from meddino.core.errors import MeddinoError
from meddino.pipeline.options import options_json, select
from meddino.study import jobs, targets
from meddino.study.model import Study, load

Make = Callable[..., Study]


@pytest.fixture
def make(root: Path, tmp_path: Path) -> Make:
    def study(content: dict[str, Any]) -> Study:
        overlay = tmp_path / "overlay.yaml"
        overlay.write_text(yaml.safe_dump(content))
        return load([root / "config.yaml", root / "config.3d.yaml", overlay])

    return study


def test_a_training_reads_the_plans_and_arrays_of_its_method(make: Make) -> None:
    study = make({"methods": {"resenc_m": {"like": "nnunet", "preset": "resenc_m"}}})
    expected = {
        "nnunet": ("2d", None),
        "nnunet_3d": ("3d_fullres", "nnUNetPlans_3d"),
        "resenc_l_3d": ("3d_fullres", "nnUNetResEncUNetLPlans_3d"),
        "resenc_m": ("2d", "nnUNetResEncUNetMPlans_2d"),
    }
    for method, (arrays, plans) in expected.items():
        files = jobs.finetune.finetune_inputs(study, "btcv", method)
        folder = "results/nnunet/preprocessed/Dataset702_btcv"
        assert files["preprocessed"] == f"{folder}/{arrays}.json"
        assert files.get("plans") == (f"{folder}/{plans}.json" if plans else None)


def test_volumes_are_preprocessed_once_for_all_presets(make: Make) -> None:
    study = make({})
    runs = targets.trained(study)["btcv", "3d_fullres"]
    assert {run.method for run in runs} == {"nnunet_3d", "resenc_l_3d"}
    inputs = jobs.finetune.preprocess_inputs(study, "btcv", "3d_fullres")
    assert inputs["plans"].endswith("/nnUNetPlans_3d.json")
    assert jobs.finetune.preprocess_inputs(study, "btcv", "2d_896")["plans"].endswith(
        "/nnUNetPlans.json"
    )


def test_plans_depend_on_what_they_are_made_from(make: Make) -> None:
    changed = {"volumes": {"batch_size": 3}}
    before, after = make({}), make({"planning": changed})
    assert options_json(before, "plan") == options_json(after, "plan")
    for kind in jobs.finetune.further_plans():
        same = options_json(before, "replan", kind=kind) == options_json(after, "replan", kind=kind)
        assert same == kind.endswith("_2d")
    memory = make({"planning": {"gpu_memory_gb": 12}})
    preset = select(memory, "replan", kind="nnUNetResEncUNetLPlans_3d")
    assert preset == select(before, "replan", kind="nnUNetResEncUNetLPlans_3d")
    assert select(memory, "replan", kind="nnUNetPlans_3d").planning.gpu_memory_gb == 12


def test_a_job_of_the_papers_methods_is_told_what_it_was(make: Make, root: Path) -> None:
    paper, study = load([root / "config.yaml"]), make({"planning": {"volumes": {"batch_size": 3}}})
    for verb, names in (
        ("plan", {}),
        ("preprocess", {"configuration": "2d"}),
        ("finetune", {"method": "nnunet", "fold": "0"}),
        ("tables", {"table": "table2"}),
    ):
        assert options_json(paper, verb, **names) == options_json(study, verb, **names)


def test_a_configuration_that_nothing_plans_is_refused(make: Make) -> None:
    unknown = {"methods": {"nnunet": {"configuration": "3d_lowres"}}}
    with pytest.raises(MeddinoError, match=r"3d_lowres.*not one of 2d, 3d_fullres, 2d_896"):
        make(unknown)
