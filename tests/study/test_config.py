"""The configuration: errors name the key, the value and what is allowed."""

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from meddino.core.errors import MeddinoError
from meddino.core.layers import merge
from meddino.pipeline.options import options_json, run_folder, select, selectors
from meddino.pipeline.verbs import VERBS
from meddino.study import jobs, paths, targets
from meddino.study.model import Study, load

Config = dict[str, Any]


@pytest.fixture
def config(root: Path) -> Config:
    return yaml.safe_load((root / "config.yaml").read_text())


def put(path: str, value: Any) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        *parents, last = path.split(".")
        for key in parents:
            config = config[key]
        config[last] = value

    return change


def drop(path: str) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        *parents, last = path.split(".")
        for key in parents:
            config = config[key]
        del config[last]

    return change


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (put("ct3m.spacng_mm", 1), ["ct3m.spacng_mm", "did you mean 'spacing_mm'", "allowed:"]),
        (
            put("ct3m.spacing_mm", -0.45),
            ["ct3m.spacing_mm = -0.45", "greater than or equal to 0.1"],
        ),
        (put("ct3m.datasets", ["btcv", "btcw"]), ["datasets.btcw", "known:", "amos22"]),
        (
            drop("pretrain.stages.stage1"),
            ["pretrain.stages.stage2.init = 'stage1@100000'", "no stage of that name"],
        ),
        (
            put("pretrain.stages.stage2.init", "stage1@7"),
            ["stage1 keeps snapshots [20000, 100000]"],
        ),
        (put("pretrain.stages.stage1.init", "stage3@10000"), ["starts, by way of other stages"]),
        (
            put("pretrain.stages.stage1.optim.lr", -1),
            ["pretrain.stages.stage1.optim", "lr must be"],
        ),
        (put("pretrain.stages.stage1.optim.lrr", 1), ["optim.lrr", "did you mean 'lr'"]),
        (put("pretrain.stages.stage2.slices_px", 300), ["slices_px = 300", "[256, 512]"]),
        (put("pretrain.backbone", "vitb15"), ["pretrain.backbone", "vitb15", "vitb16"]),
        (put("methods.nnunet.lr", "fast"), ["methods.nnunet.lr = 'fast'", "valid number"]),
        (
            put("methods.nnunet.configuration", "3d"),
            ["methods.nnunet.configuration = '3d'", "2d_896"],
        ),
        (put("methods.stage1.weights", "nothing"), ["methods.stage1.weights", "known: dinov3"]),
        (put("methods.stage1.backbone", "resnet"), ["methods.stage1.backbone", "resnet", "vitb16"]),
        (put("methods.stage1.backbone", "timm:"), ["methods.stage1.backbone", "timm:NAME"]),
        (put("pretrain.backbone", "timm:vit_tiny_patch16_224"), ["pretrain.backbone = 'timm:vit"]),
        (
            put("methods.dino_unet.backbone", "timm:vit_base_patch16_224"),
            ["weights.dinov3: asked for as", "timm:vit_base_patch16_224 by methods.dino_unet"],
        ),
        (
            put("methods.stage2.backbone", "transformers:facebook/dinov2-base"),
            ["methods.stage2", "official is not valid", "norm_eps: 1e-06 has no meaning", "null"],
        ),
        (
            put("methods.segformer.weights", "stage1@100000"),
            ["methods.segformer.weights = 'stage1@100000'", "none of segformer"],
        ),
        (put("recipe", "theirs"), ["recipe = 'theirs'", "'controlled' or 'official'"]),
        (put("methods.stage1.official", {"lrr": 1}), ["methods.stage1", "official", "lrr"]),
        (put("methods.stage1.official", {"lr": -1}), ["methods.stage1", "lr = -1", "greater"]),
        (put("weights.dinov3.hub", "dinov3"), ["weights.dinov3.hub = 'dinov3'"]),
        (put("tables.table1.rows", ["unet"]), ["tables.table1", "no method 'unet'", "nnunet"]),
        (
            put("tables.table2.compare_with", "unet"),
            ["table2.compare_with = 'unet': must be one of"],
        ),
        (put("tables.table1.rows", ["dinov3_896"]), ["table1.compare_with = 'dinov3_896': must"]),
        (put("tables.table2.benchmarks", ["brats"]), ["no benchmark 'brats'", "amos22"]),
        (put("benchmarks.lits.dataset", "lots"), ["datasets.lots", "known:"]),
        (put("benchmarks.lits.nnunet_id", 701), ["lits.nnunet_id = 701: amos22 has that number"]),
        (put("ct3m.dedupe", "all"), ["ct3m.dedupe = 'all'", "'keep-first' or 'off'"]),
        (
            put("pretrain.stages.stage2.data", "ct3m-leak-free"),
            ["pretrain.stages.stage2.data", "it starts from stage1, which has seen all of ct3m"],
        ),
        (put("tables.table1.rows", ["meddinov3_leakfree"]), ["no method 'meddinov3_leakfree'"]),
        (put("evaluate.tolerance_mm", 0), ["evaluate.tolerance_mm = 0", "greater than 0"]),
        (put("figures.colours", ["red"]), ["figures.colours", "#"]),
        (put("folds", [0, 7]), ["folds = [0, 7]", "amos22 has folds 0 to 4"]),
        (drop("evaluate"), ["evaluate: missing"]),
        (put("probe.benchmark", "x"), ["probe.benchmark: not one of amos22, btcv"]),
        (put("probe.benchmark", "amos22"), ["probe.benchmark = 'amos22': not of CT alone"]),
        (put("probe.slices_px", 500), ["probe.slices_px = 500", "vitb16's patches, 16 px"]),
        (put("methods", {"a/b": {}}), ["methods.a/b"]),
        (put("ct3m.variants", {"all": {"percent": 5}}), ["variants.all: the name is taken"]),
        (put("ct3m.variants", {"a-b": {"percent": 5}}), ["ct3m.variants.a-b"]),
        (put("ct3m.variants", {"x": {}}), ["variants.x: changes nothing"]),
        (put("ct3m.variants", {"x": {"without": ["lots"]}}), ["x.without: lots not among btcv"]),
        (
            put("label_curve", {"methods": ["unet"], "benchmarks": ["brats"]}),
            ["label_curve.methods: no method 'unet'", "label_curve.benchmarks: no benchmark"],
        ),
        (
            put("label_curve", {"methods": ["nnunet"], "benchmarks": ["btcv"], "percent": [5, 50]}),
            ["label_curve", "percent: [5, 50] must rise to 100"],
        ),
    ],
)
def test_errors_name_key_value_and_what_is_allowed(
    config: Config, change: Callable[[Config], None], messages: list[str]
) -> None:
    change(config)
    with pytest.raises(MeddinoError) as error:
        Study.parse(config, "config.yaml")
    for message in ["config.yaml", *messages]:
        assert message in str(error.value)
    assert "pydantic" not in str(error.value)


def test_full_study_and_demo_are_valid_and_ask_for_the_papers_runs(root: Path) -> None:
    full = load([root / "config.yaml"])
    demo = load([root / "config.yaml", root / "profiles/demo/study.yaml"])
    for study in (full, demo):
        assert len(targets.runs(study)) == len(set(targets.runs(study))) == 22
        assert targets.used_stages(study)[-3:] == ["stage1", "stage2", "stage3"]
    assert targets.used_stages(demo) == targets.used_stages(full)
    assert targets.runs(full) == targets.runs(demo)


def test_every_snapshot_of_the_chain_and_what_it_starts_from_is_probed(root: Path) -> None:
    full = load([root / "config.yaml"])
    demo = [root / "config.yaml", root / "profiles/demo/study.yaml"]
    directions = load([*demo, root / "profiles/directions/study.yaml"])
    stages = ["stage1", "stage2", "stage3"]
    assert targets.probed(full) == ["random", "dinov3", *stages]
    assert targets.probed(load(demo)) == ["random", "dinov3", *stages]
    assert targets.probed(directions) == ["random", "natural", *stages], (
        "what stands in for weights is a stage"
    )
    assert jobs.pretrain.probe_inputs(full, "random")["checkpoints"] == []
    assert jobs.pretrain.probe_inputs(full, "dinov3")["checkpoints"] == [
        "resources/weights/dinov3.pth"
    ]
    assert jobs.pretrain.probe_inputs(full, "stage1")["checkpoints"] == paths.snapshots(
        full, "stage1"
    )
    assert [jobs.pretrain.probe_options(full, s).variant for s in ("random", "stage1")] == [
        "none",
        "paper",
    ]
    both = load([root / "config.yaml", root / "config.leak-free.yaml"])
    assert jobs.pretrain.probe_options(both, "stage1_leakfree").variant == "leak-free"


@pytest.mark.parametrize("below", [[], ["profiles/demo/study.yaml"]])
def test_the_leak_free_chain_differs_in_its_data_alone(root: Path, below: list[str]) -> None:
    files = [root / name for name in ("config.yaml", *below)]
    plain, both = load(files), load([*files, root / "config.leak-free.yaml"])
    chain = ["stage1", "stage2", "stage3"]
    assert targets.variants(plain) == ["paper"] and targets.variants(both) == ["paper", "leak-free"]
    assert targets.used_stages(both)[-6:] == [*chain, *(f"{stage}_leakfree" for stage in chain)]
    for stage in chain:
        assert jobs.pretrain.pretrain_options(both, stage) == jobs.pretrain.pretrain_options(
            plain, stage
        )
        one, twin = (asdict(both.pretrain.stages[s]) for s in (stage, f"{stage}_leakfree"))
        same = {key for key in one if one[key] == twin[key]}
        assert set(one) - same <= {"data", "init", "gram_teacher"}
        inputs = jobs.pretrain.pretrain_inputs(both, f"{stage}_leakfree")
        assert inputs["index"].startswith("results/ct3m/index.leak-free.")
        assert all(
            "_leakfree/" in inputs[k] for k in ("init", "gram_teacher") if "stage" in str(one[k])
        )
    method, twin = both.methods["meddinov3"], both.methods["meddinov3_leakfree"]
    assert twin.label == "MedDINOv3, leak-free"
    assert method.model_copy(update={"label": twin.label, "weights": twin.weights}) == twin
    said = jobs.report.tables_options(both, "leakage").method_data
    assert said == {
        "dinov3_896": "none",
        "meddinov3": "paper",
        "meddinov3_leakfree": "leak-free",
    }


def test_the_label_curve_adds_methods_on_few_cases_and_changes_no_other(config: Config) -> None:
    plain = Study.parse(config)
    config["label_curve"] = {
        "methods": ["meddinov3", "nnunet"],
        "benchmarks": ["btcv"],
        "percent": [10, 100],
    }
    study = Study.parse(config)
    for name in plain.methods:
        chosen = {"method": name, "fold": "0"}
        assert options_json(plain, "finetune", **chosen) == options_json(
            study, "finetune", **chosen
        )
    twin = study.methods["meddinov3_cases10"]
    assert twin.label == "MedDINOv3, 10 % of cases" and twin.cases_percent == 10
    same = {"label": "MedDINOv3", "cases_percent": 100}
    assert twin.model_copy(update=same) == study.methods["meddinov3"]
    added = set(targets.runs(study)) - set(targets.runs(plain))
    assert {(run.benchmark, run.method) for run in added} == {
        ("btcv", "meddinov3_cases10"),
        ("btcv", "nnunet_cases10"),
    }, "at 100 % it is the run of Table 2"
    assert len(jobs.label_curve.label_curve_inputs(study)["scores"]) == 4
    assert jobs.report.report_inputs(study)["beyond"] == [paths.label_curve(study)]
    with pytest.raises(MeddinoError, match="there is no section `label_curve`"):
        jobs.label_curve.label_curve_options(plain)


VARIANTS = {
    "tenth": {"percent": 10},
    "without_lits": {"without": ["lits"]},
    "first_copies": {"dedupe": "keep-first"},
}


def test_a_variant_of_the_data_has_a_chain_that_differs_in_its_data_alone(config: Config) -> None:
    plain = Study.parse(config)
    config["ct3m"]["variants"] = VARIANTS
    assert targets.runs(Study.parse(config)) == targets.runs(plain), "until a table names one"
    config["tables"]["table1"]["rows"] += ["meddinov3_tenth", "stage1_without_lits"]
    study = Study.parse(config)
    assert targets.variants(study) == ["paper", "tenth", "without_lits"]
    used = targets.used_stages(study)
    assert {stage for stage in used if stage not in plain.pretrain.stages} == {
        *("stage1_tenth", "stage2_tenth", "stage3_tenth", "stage1_without_lits")
    }
    for stage in ("stage1", "stage2", "stage3"):
        one, twin = (asdict(study.pretrain.stages[s]) for s in (stage, f"{stage}_tenth"))
        assert {k for k in one if one[k] != twin[k]} <= {"data", "init", "gram_teacher"}
        inputs = jobs.pretrain.pretrain_inputs(study, f"{stage}_tenth")
        assert inputs["index"].startswith("results/ct3m/index.tenth.")
        assert jobs.pretrain.pretrain_options(study, stage) == jobs.pretrain.pretrain_options(
            plain, stage
        )
    assert study.methods["meddinov3_tenth"].label == "MedDINOv3, tenth"
    assert study.chain.stage_label("stage1_without_lits") == "stage 1, without lits"
    options = jobs.report.tables_options(study, "table1")
    assert options.method_data["stage1_without_lits"] == "without_lits"
    assert options.variants == {
        "tenth": "10 % of the volumes of each data set (seed 0)",
        "without_lits": "without lits",
    }
    card = jobs.report.model_card_options(study, "amos22", "stage1_without_lits")
    assert card.variant_meaning == "without lits"
    assert "lits" not in {source.name for source in card.pretraining}
    assert jobs.data.card_options(plain).model_dump().get("meanings") is None


def test_an_index_of_a_variant_reads_what_it_holds(config: Config) -> None:
    config["ct3m"]["variants"] = VARIANTS
    study = Study.parse(config)
    plain = jobs.data.index_options(study, "256", "paper").model_dump()
    assert not {"variant", "percent", "seed"} & set(plain), "an index of all is as it was"
    tenth = jobs.data.index_options(study, "256", "tenth")
    assert (tenth.variant, tenth.percent, tenth.dedupe) == ("tenth", 10, "off")
    assert set(jobs.data.index_inputs(study, "tenth")) == {"reports"}
    without = jobs.data.index_inputs(study, "without_lits")["reports"]
    assert without and not any("/lits/" in path for path in without)
    assert "duplicates" in jobs.data.index_inputs(study, "first_copies")


def test_a_chain_that_one_describes_stays_and_sees_one_variant(config: Config) -> None:
    config["ct3m"]["variants"] = {"tenth": {"percent": 10}, "half": {"percent": 50}}
    stages = config["pretrain"]["stages"]
    stages["stage1_tenth"] = {"like": "stage1", "data": "tenth", "batch_size": 64}
    study = Study.parse(config)
    assert study.pretrain.stages["stage1_tenth"].batch_size == 64
    assert study.pretrain.stages["stage2_tenth"].init == "stage1_tenth@100000"
    stages["late"] = {"like": "stage2", "data": "tenth"}
    assert Study.parse(config).chain.variant("late") == "paper", "its first stage has seen all"
    stages["late"]["init"] = "stage1_half@100000"
    stages["late"]["gram_teacher"] = "stage1_half@20000"
    with pytest.raises(MeddinoError, match=r"late.*starts from stage1_half, which has seen half"):
        Study.parse(config)
    stages["late"] = {"like": "stage2", "data": "third"}
    with pytest.raises(MeddinoError, match=r"'third': not one of ct3m, .*tenth, half, leaves"):
        Study.parse(config)


def test_a_profile_says_of_a_twin_what_it_says_of_its_stage() -> None:
    settings = {"pretrain_stage1": 1, "pretrain_stage2": 2, "pretrain_stage2_leakfree": 3}
    stages = ["stage1", "stage1_without_lits", "stage2_leakfree", "stage3", "stage10"]
    assert jobs.pretrain.for_all_stages(settings, stages) == settings | {
        "pretrain_stage1_without_lits": 1
    }


def test_validation_cases_are_those_of_the_fold_that_is_trained(root: Path) -> None:
    study = load([root / "config.yaml", root / "config.leak-free.yaml"])
    inputs = jobs.data.index_inputs(study, "leak-free")
    assert len(inputs["splits"]) == 4 and inputs["duplicates"]
    options = jobs.data.index_options(study, "256", "leak-free")
    assert options.folds == study.folds == (0,)
    assert options.benchmarks["lits"] == "lits" and options.datasets == study.ct3m.datasets
    assert set(jobs.data.index_inputs(study, "paper")) == {"reports"}
    with pytest.raises(MeddinoError, match="no variant 'best' of ct3m; known: paper, leak-free"):
        jobs.data.index_options(study, "256", "best")


def test_a_warm_up_that_fills_the_training_is_one_line(config: Config) -> None:
    config["training"]["epochs"] = 3
    config["methods"]["nnunet"]["warmup_epochs"] = 2
    Study.parse(config)
    config["methods"]["segformer"]["warmup_epochs"] = 3
    with pytest.raises(MeddinoError, match=r"training.epochs = 3: methods segformer warm up"):
        Study.parse(config)
    config["training"]["epochs"] = 0
    Study.parse(config)


def test_benchmarks_outside_of_ct3m_are_searched_for_copies(config: Config) -> None:
    config["ct3m"]["datasets"].remove("lits")
    assert "lits" not in targets.searched_datasets(Study.parse(config))
    config["pretrain"]["leak_free"] = True
    study = Study.parse(config)
    assert "lits" in targets.searched_datasets(study)
    assert any("/lits/" in path for path in jobs.data.index_inputs(study, "leak-free")["reports"])
    assert not any("/lits/" in path for path in jobs.data.index_inputs(study, "paper")["reports"])


def test_keeping_copies_out_cuts_no_slices_anew(config: Config) -> None:
    def options(verb: str, **chosen: str) -> str:
        return options_json(Study.parse(config), verb, **chosen)

    slices = options("slices", dataset="btcv", chunk="0")
    index = options("index", size="256", variant="paper")
    config["ct3m"]["dedupe"] = "keep-first"
    assert options("slices", dataset="btcv", chunk="0") == slices
    assert options("index", size="256", variant="paper") != index
    config["ct3m"]["dedupe"] = False  # what YAML makes of a bare `off`
    assert options("index", size="256", variant="paper") == index


def test_numbers_of_the_paper(root: Path) -> None:
    study = load([root / "config.yaml"])
    stages = study.pretrain.stages
    assert [stage.iterations for stage in stages.values()] == [100_000, 10_000, 10_000]
    assert [stage.optim.lr for stage in stages.values()] == [2e-4, 5e-5, 2.5e-5]
    assert {stage.batch_size for stage in stages.values()} == {512}
    assert study.ct3m.spacing_mm == 0.45
    assert study.training.epochs * study.training.iterations_per_epoch == 250_000


def test_reading_the_study_needs_no_heavy_package(root: Path) -> None:
    import subprocess

    code = (
        "import sys; from meddino.study.model import load; import meddino.pipeline.verbs;"
        "load([sys.argv[1]]);"
        "print([m for m in ('torch', 'numpy', 'SimpleITK', 'pandas') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(root / "config.yaml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_own_folder_is_a_dataset_in_a_few_lines(config: Config, tmp_path: Path) -> None:
    (tmp_path / "scan.nii.gz").touch()
    mine = {"folder": str(tmp_path), "images": ["**/*.nii.gz"], "case": r"(?P<case>[^/]+)\.nii"}
    config["datasets"] = {"mine": mine}
    config["ct3m"]["datasets"].append("mine")
    study = Study.parse(config)
    options = jobs.data.fetch_options(study, "mine")
    assert options.origin.folder == str(tmp_path) and options.contents is not None
    assert study.chunks("mine") == 1


def test_a_dataset_more_changes_no_other_datasets_slices(config: Config) -> None:
    before = options_json(Study.parse(config), "slices", dataset="btcv", chunk="0")
    config["ct3m"]["datasets"].remove("word")
    assert options_json(Study.parse(config), "slices", dataset="btcv", chunk="0") == before


def test_state_of_other_settings_is_in_another_folder(config: Config) -> None:
    def folder() -> str:
        study = Study.parse(config)
        return run_folder(study, "finetune", benchmark="lits", method="nnunet", fold="0")

    before = folder()
    config["methods"]["segformer"]["lr"] = 1.0
    assert folder() == before
    config["methods"]["nnunet"]["lr"] = 1.0
    assert folder() != before
    assert folder().startswith("results/runs/finetune/lits-nnunet-0-")


def test_every_verb_cuts_its_slice(root: Path) -> None:
    # The study that asks for all that is optional.
    files = ("config.yaml", "profiles/demo/study.yaml", "profiles/beyond/study.yaml")
    study = load([root / name for name in files])
    some = {"dataset": "btcv", "chunk": "0", "size": "64", "stage": "stage2", "method": "nnunet"}
    some |= {
        "fold": "0",
        "benchmark": "btcv",
        "origin": "amos22",
        "configuration": "2d",
        "table": "table2",
    }
    some |= {"weights": "dinov3", "variant": "leak-free", "source": "stage2"}
    some |= {"kind": "nnUNetPlans_3d"}
    for name, verb in VERBS.items():
        if verb.options is not None:
            chosen = {key: some[key] for key in selectors(name)}
            assert select(study, name, **chosen) is not None, name


def test_sections_merge_and_values_are_replaced() -> None:
    merged = merge({"a": {"b": 1, "c": [1, 2]}, "d": 1}, {"a": {"c": [3]}, "e": 2})
    assert merged == {"a": {"b": 1, "c": [3]}, "d": 1, "e": 2}


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(MeddinoError, match=r"absent\.yaml"):
        load([tmp_path / "absent.yaml"])
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(MeddinoError, match=r"bad\.yaml is not YAML"):
        load([tmp_path / "bad.yaml"])
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(MeddinoError, match="holds no sections"):
        load([tmp_path / "list.yaml"])


def changed(config: Config, before: Config, name: str) -> dict[str, Any]:
    """What a job of a method is told otherwise than before."""
    one, other = (
        jobs.finetune.finetune_options(Study.parse(c), name, "0").method.model_dump()
        for c in (before, config)
    )
    return {key: other[key] for key in one if one[key] != other[key]}


def test_the_official_recipe_is_what_the_authors_code_changes(root: Path, config: Config) -> None:
    before = yaml.safe_load((root / "config.yaml").read_text())
    config["recipe"] = "official"
    bare = {"storage_tokens": 0, "train_k_bias": True, "norm_eps": 1e-6}
    medical = {"backbone_lr": 3e-5, "norm_eps": 1e-6}
    rows = ("randinit", "dinov3_last", "dinov3_multiscale", "dinov3_896")
    expected = dict.fromkeys(rows, bare) | dict.fromkeys(("stage1", "stage2", "meddinov3"), medical)
    for name, differences in {**expected, "nnunet": {}, "dino_unet": {"lr": 1e-3}}.items():
        assert changed(config, before, name) == differences, name
    assert changed(config, before, "segformer")["segformer"]["variant"] == "authors"
    official, controlled = Study.parse(config), Study.parse(before)
    assert jobs.pretrain.pretrain_options(official, "stage1").qkv_bias is False
    assert jobs.pretrain.pretrain_options(controlled, "stage1").qkv_bias is None
    # Nothing of the other recipe reaches a job, so that editing it reruns nothing.
    for name in before["methods"]:
        before["methods"][name].pop("official", None)
    for name in config["methods"]:
        assert jobs.finetune.finetune_options(
            Study.parse(before), name, "0"
        ) == jobs.finetune.finetune_options(controlled, name, "0")
    changes = jobs.report.tables_options(official, "table3").recipe_changes
    assert changes["backbone_lr"] == changes["pretrain.qkv_bias"]
    assert changes["storage_tokens"] == ["dinov3_896"]
    assert jobs.report.tables_options(official, "table2").recipe_changes["segformer.variant"] == [
        "segformer"
    ]


def test_twins_and_the_demo_follow_the_recipe(root: Path, tmp_path: Path) -> None:
    (tmp_path / "official.yaml").write_text("recipe: official")
    files = [root / "config.yaml", root / "profiles/demo/study.yaml"]
    study = load([*files, root / "config.leak-free.yaml", tmp_path / "official.yaml"])
    method, twin = study.methods["meddinov3"], study.methods["meddinov3_leakfree"]
    assert method.backbone_lr == twin.backbone_lr == 3e-5
    assert jobs.pretrain.pretrain_options(study, "stage1_leakfree").qkv_bias is False
    assert jobs.pretrain.pretrain_options(study, "natural").qkv_bias is None, (
        "it stands in for DINOv3, which has"
    )


def test_weights_are_what_those_who_use_them_need(config: Config, tmp_path: Path) -> None:
    mine = tmp_path / "mine.safetensors"
    config["weights"] |= {"mit": {"hub": "nvidia/mit-b2"}, "mine": {"file": str(mine)}}
    config["methods"]["segformer"] |= {"weights": "mit", "official": None}
    backbone = "transformers:facebook/dinov2-base"
    config["methods"]["stage1"] |= {"backbone": backbone, "weights": "mine", "official": None}
    study = Study.parse(config)
    kinds = {name: jobs.pretrain.weights_options(study, name).kind for name in study.weights}
    assert kinds == {"dinov3": "dinov3", "mit": "segformer", "mine": backbone}
    assert (
        jobs.finetune.finetune_inputs(study, "lits", "segformer")["weights"]
        == "resources/weights/mit.pth"
    )
    assert (
        jobs.pretrain.weights_inputs(study, "mine") == []
        and jobs.pretrain.weights_inputs(study, "mit") == []
    )
    mine.touch()
    assert jobs.pretrain.weights_inputs(study, "mine") == [str(mine)], (
        "so that a new file makes all follow"
    )


def test_all_five_folds_make_five_runs_of_each_method(root: Path, config: Config) -> None:
    one = load([root / "config.yaml"])
    five = Study.parse(config | {"folds": [0, 1, 2, 3, 4]})
    assert len(targets.runs(five)) == 5 * len(targets.runs(one))
    assert {run.fold for run in targets.runs(five)} == set(range(5))
    assert jobs.finetune.finetune_options(five, "nnunet", "3").fold == 3
    assert len(targets.runs_of_table(five, "table1")) == 5 * len(
        targets.runs_of_table(one, "table1")
    )


def test_the_page_on_segmentation_is_true(root: Path, config: Config) -> None:
    page = (root / "docs/segmentation.md").read_text()
    example = yaml.safe_load(page.split("```yaml")[1].split("```")[0].replace("sha256: ...", ""))
    study = Study.parse(merge(config, example))
    kinds = {name: jobs.pretrain.weights_options(study, name).kind for name in example["weights"]}
    assert kinds == {
        "mine": "dinov3",
        "mit_b2": "segformer",
        "dinov2": "transformers:facebook/dinov2-base",
        "augreg": "timm:vit_base_patch16_224",
    }
    changed = {k for row in config["methods"].values() for k in row.get("official") or {}}
    bold = "".join(line for line in page.splitlines() if line.startswith("| **"))
    for key in changed - {"segformer"} | {"segformer.variant", "pretrain.qkv_bias"}:
        assert f"`{key}`" in bold, key


def test_a_dataset_is_cut_into_pieces_where_it_is_freed(root: Path) -> None:
    kept = load([root / "config.yaml"])
    freed = load([root / "config.yaml", root / "config.quota.yaml"])
    assert kept.chunks("abdomenatlas3") == 10 and not kept.passes("abdomenatlas3")
    assert freed.chunks("abdomenatlas3") == 41 and freed.chunks("amos22") == 1
    pieces = [jobs.data.piece(freed, "abdomenatlas3", str(n)) for n in range(41)]
    assert [piece.fetch.piece for piece in pieces] == [(n, 41) for n in range(41)]
    assert len({piece.manifest for piece in pieces}) == 41
    own = freed.model_copy(update={"datasets": {"amos22": {"folder": "/data/amos"}}})
    assert not own.passes("amos22"), "a folder of yours is never freed"
    assert jobs.finetune.passing(own) == ["btcv", "kits23", "lits"]


def test_arrays_that_wait_for_no_pretraining_come_first(root: Path) -> None:
    order = [*targets.trained(load([root / "config.yaml"]))]
    assert len(order) == 8 and order[-1][1] == "2d_896"
