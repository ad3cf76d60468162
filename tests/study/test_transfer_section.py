"""The section `transfer`: what is shared, what runs, and one line for what does not fit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from meddino.core.errors import MeddinoError
from meddino.study import jobs, paths, targets
from meddino.study.model import Study, load
from meddino.study.targets import Run
from meddino.study.transfer import Pair, modalities, shared

Config = dict[str, Any]
CT = {"channel": "CT", "modalities": ["CT"]}
OWN = {"title": "Own", "folder": "scans", "images": ["*.nii.gz"], "case": r"(?P<case>.+)\.nii"}


@pytest.fixture
def config(root: Path) -> Config:
    content = yaml.safe_load((root / "config.yaml").read_text())
    content["transfer"] = {
        "methods": ["nnunet", "meddinov3"],
        "pairs": [{"train": "amos22", "test": "btcv"}],
    }
    return content


def edited(config: Config, **changes: Any) -> Config:
    (pair,) = config["transfer"]["pairs"]
    pair.update(changes)
    return config


def scored(config: Config, number: int = 0) -> dict[str, tuple[str, ...]]:
    study = Study.parse(config)
    assert study.transfer is not None
    pair = study.transfer.pairs[number]
    return shared(pair, study.benchmarks[pair.train], study.benchmarks[pair.test])


def test_structures_of_equal_names_are_shared_in_the_order_of_the_tested(config: Config) -> None:
    study = Study.parse(config)
    both = set(study.benchmarks["amos22"].names) & set(study.benchmarks["btcv"].names)
    names = [name for name in study.benchmarks["btcv"].names if name in both]
    assert len(names) == 12
    assert scored(config) == {name: (name,) for name in names}


def test_null_leaves_a_structure_out_and_a_list_makes_one_up(config: Config) -> None:
    assert "liver" not in scored(edited(config, structures={"liver": None}))
    one = scored(edited(config, structures={"portal and splenic vein": "prostate or uterus"}))
    assert one["portal and splenic vein"] == ("prostate or uterus",)
    pair = {"test": "kits23", "structures": {"kidney": ["left kidney", "right kidney"]}}
    assert scored(edited(config, **pair)) == {"kidney": ("left kidney", "right kidney")}


def test_cases_of_modalities_that_one_lacks_do_not_count_unless_named(config: Config) -> None:
    study = Study.parse(config)
    amos22, btcv = (study.benchmarks[name] for name in ("amos22", "btcv"))
    assert modalities(Pair(train="btcv", test="amos22"), btcv, amos22) == ("CT",)
    everything = Pair(train="btcv", test="amos22", modalities=("CT", "MR"))
    assert modalities(everything, btcv, amos22) == ("CT", "MR")


def test_both_benchmarks_are_trained_on_once_and_not_where_one_is_for_tests(
    config: Config,
) -> None:
    config["tables"] = {}
    wanted = [Run(b, m, 0) for b in ("amos22", "btcv") for m in ("nnunet", "meddinov3")]
    assert set(targets.runs(Study.parse(config))) == set(wanted)
    study = Study.parse(edited(config, in_domain=False))
    assert {run.benchmark for run in targets.runs(study)} == {"amos22"}
    assert targets.tested_alone(study) == ["btcv"]
    assert paths.quarantine(study, "btcv") in jobs.report.report_inputs(study)["quarantine"]
    assert jobs.transfer.predict_options(study, "amos22", "btcv", "0").fold is None


def test_without_the_section_nothing_runs_for_it(root: Path) -> None:
    study = load([root / "config.yaml"])
    assert targets.transferred(study) == targets.transfer_runs(study) == []
    assert jobs.transfer.tables(study) == []
    assert "beyond" not in jobs.report.report_inputs(study)
    with pytest.raises(MeddinoError, match="no section `transfer`"):
        jobs.transfer.table_options(study)


def test_copies_count_where_both_datasets_are_searched(config: Config) -> None:
    inputs = jobs.transfer.table_inputs(Study.parse(config))
    assert inputs["duplicates"].endswith("ct3m/duplicates.parquet")
    assert jobs.transfer.table_options(Study.parse(config)).pairs[0].searched
    config["ct3m"]["datasets"].remove("btcv")
    assert not jobs.transfer.table_options(Study.parse(config)).pairs[0].searched
    config["transfer"]["methods"], config["tables"] = ["nnunet"], {}
    assert "duplicates" not in jobs.transfer.table_inputs(Study.parse(config))


def test_a_dataset_of_your_own_is_tested_alone(config: Config) -> None:
    config["datasets"] = {"own": OWN | {"labels": ["labels/*.nii.gz"]}}
    config["benchmarks"]["clinic"] = {
        **{"label": "Clinic", "dataset": "own", "nnunet_id": 799, "labels": {"liver": 3}}
    }
    study = Study.parse(edited(config, test="clinic", in_domain=False))
    options = jobs.transfer.evaluate_options(study, "amos22", "clinic", "nnunet", "0")
    assert options.structures == {"liver": ("liver",)}
    assert options.benchmark == "clinic"


def whole(**changes: Any) -> Callable[[Config], None]:
    return lambda config: config["transfer"].update(changes)


def pair(**changes: Any) -> Callable[[Config], None]:
    return lambda config: config["transfer"]["pairs"][0].update(changes)


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (pair(test="btcw"), ["transfer.pairs.0: no benchmark 'btcw'", "known: amos22, btcv"]),
        (pair(test="amos22"), ["amos22 is both trained on and tested"]),
        (pair(structures={"livr": "liver"}), ["btcv has no structure 'livr'", "spleen"]),
        (pair(structures={"liver": "livr"}), ["amos22 has no structure 'livr'", "spleen"]),
        (pair(structures={"spleen": "liver"}), ["liver of amos22 cannot be spleen and liver"]),
        (pair(structures={"spleen": []}), ["spleen is made up of nothing", "null leaves it out"]),
        (
            pair(train="kits23"),
            ["kits23 (kidney, tumour, cyst) and btcv (spleen,", "share no structure"],
        ),
        (pair(modalities=["MR"]), ["transfer.pairs.0.modalities: btcv has no MR (CT)"]),
        (whole(pairs=[]), ["transfer.pairs", "at least 1"]),
        (
            whole(pairs=[{"train": "amos22", "test": "btcv"}] * 2),
            ["transfer.pairs.1: amos22 to btcv stands there twice"],
        ),
        (whole(methods=["nnunet", "segfrmer"]), ["transfer.methods: no method 'segfrmer'"]),
        (whole(methods=["nnunet", "nnunet"]), ["transfer.methods: one is named twice"]),
        (whole(compare_with="stage1"), ["transfer.compare_with = 'stage1'", "null compares none"]),
        (whole(methods=["nnunet"], compare_with="nnunet"), ["must be one of several methods"]),
        (
            lambda config: config["tables"].update(transfer=config["tables"]["table1"]),
            ["tables.transfer: the table of section `transfer` has that name"],
        ),
        (
            lambda config: config["benchmarks"]["amos22"].update(modalities=["MR"]),
            ["amos22 (MR) and btcv (CT) share no modality"],
        ),
    ],
)
def test_what_does_not_fit_is_one_line(
    config: Config, change: Callable[[Config], None], messages: list[str]
) -> None:
    change(config)
    with pytest.raises(MeddinoError) as error:
        Study.parse(config)
    assert str(error.value).count("\n") == 1, "a heading, and the line"
    for message in messages:
        assert message in str(error.value)
