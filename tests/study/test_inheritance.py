"""Entries like others, entries taken away, and presets: what a study is made of in the end."""

import copy
from typing import Any

import pytest
from places import ROOT

from meddino.core import layers
from meddino.core.errors import MeddinoError
from meddino.study import targets
from meddino.study.inheritance import resolve
from meddino.study.jobs.pretrain import pretrain_options
from meddino.study.model import Study, load

CONFIG = ROOT / "config.yaml"


@pytest.fixture
def config() -> dict[str, Any]:
    return layers.read([CONFIG])


def test_an_entry_takes_what_it_does_not_say_from_the_one_it_is_like() -> None:
    stages = {
        "last": {"like": "middle", "lr": 3},
        "first": {"lr": 1, "optim": {"a": 1, "b": 2}},
        "middle": {"like": "first", "optim": {"b": 3}},
    }
    resolved = resolve(
        {"pretrain": {"stages": stages}, "methods": {"m": {"like": "n"}, "n": {"x": 1}}}
    )
    assert resolved["pretrain"]["stages"]["last"] == {"lr": 3, "optim": {"a": 1, "b": 3}}
    assert resolved["methods"] == {"m": {"x": 1}, "n": {"x": 1}}
    assert list(resolved["pretrain"]["stages"]) == ["last", "first", "middle"]


def test_resolving_leaves_the_configuration_as_it_was(config: dict[str, Any]) -> None:
    before = copy.deepcopy(config)
    resolve(config)
    assert config == before


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"a": {"like": "b"}}, "methods.a.like = 'b': not one of a"),
        ({"a": {"like": ["a"]}}, r"methods.a.like = \['a'\]: not one of a"),
        ({"a": {"like": "a"}}, "methods.a.like = 'a': that is, in the end, like a"),
        ({"a": {"like": "b"}, "b": {"like": "a"}}, "methods.b.like = 'a': that is"),
    ],
)
def test_likeness_that_leads_nowhere_is_refused(methods: dict[str, Any], message: str) -> None:
    with pytest.raises(MeddinoError, match=message):
        resolve({"methods": methods})


def test_a_null_takes_an_entry_away(config: dict[str, Any]) -> None:
    study = Study.parse(layers.merge(config, {"tables": {"table1": None, "table3": None}}))
    assert list(study.tables) == ["table2"]


def test_a_preset_reaches_its_stages_and_those_like_them(config: dict[str, Any]) -> None:
    copy_of_1 = {"like": "stage1", "optim": {"warmup": 7}}
    changes = {"pretrain": {"preset": "authors", "stages": {"again": copy_of_1}}}
    study = Study.parse(layers.merge(config, changes))
    stage, again = (pretrain_options(study, name).stage for name in ("stage1", "again"))
    assert stage.optim.warmup == 30000 and again.optim.warmup == 7
    assert stage.learning_rates[0] == again.learning_rates[0] == pytest.approx(5.657e-4, rel=1e-3)
    assert stage.augmentation.flip and stage.rope_rescale == 2.0
    for name in ("stage2", "stage3"):
        later = pretrain_options(study, name).stage
        assert (later.slices_px, later.objective.gram, later.augmentation.flip) == (256, 1.5, False)
        assert later.optim.warmup == later.iterations, "the rate rises over the whole stage"
    plain = pretrain_options(load([CONFIG]), "stage1").stage
    assert not plain.augmentation.flip and plain.learning_rates[0] == 2e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "mine"}, "pretrain.preset = 'mine': no such preset (known: authors)"),
        ({"preset": ["authors"]}, "pretrain.preset: Input should be a valid string"),
        ({"preset": "mine", "presets": {"mine": None}}, "pretrain.presets.mine = None"),
        ({"preset": "mine", "presets": ["mine"]}, "pretrain.presets: Input should be"),
        ({"stages": {"stage1": 3, "again": {"like": "stage1"}}}, "pretrain.stages.stage1 = 3"),
        ({"presets": {"mine": {"stage9": {}}}}, "presets.mine.stage9: no stage of that name"),
        ({"presets": {"mine": {"stage1": {"optim": {"lr": -1}}}}}, "optim: lr must be above 0"),
    ],
)
def test_a_preset_that_does_not_fit_is_refused_also_while_it_is_not_chosen(
    config: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(MeddinoError) as caught:
        Study.parse(layers.merge(config, {"pretrain": changes}))
    assert message in str(caught.value)


def test_both_recipes_stand_in_one_table() -> None:
    study = load([CONFIG, ROOT / "config.recipes.yaml"])
    controlled, official = (study.methods[name] for name in ("meddinov3", "meddinov3_official"))
    assert (controlled.backbone_lr, official.backbone_lr) == (1e-4, 3e-5)
    assert {"stage1_official", "stage3"} <= set(targets.used_stages(study))
    bias = {name: pretrain_options(study, name).qkv_bias for name in ("stage3", "stage3_official")}
    assert bias == {"stage3": None, "stage3_official": False}
    alone = load([CONFIG])
    assert pretrain_options(study, "stage3") == pretrain_options(alone, "stage3"), "nothing reruns"


def test_ablations_change_one_thing_at_a_time() -> None:
    study = load([CONFIG, ROOT / "config.ablations.yaml"])
    stages = study.pretrain.stages
    assert stages["stage3_direct"].init == "stage1@100000"
    assert stages["stage3_nogram"].objective.gram == 0 and stages["stage3"].objective.gram == 1.5
    assert stages["stage3_small"].slices_px == 256
    assert stages["stage2_flipped"].augmentation.flip and stages["stage3_flipped"].augmentation.flip
    scaled, plain = stages["stage3_scaled"].learning_rates, stages["stage3"].learning_rates
    assert scaled[0] == pytest.approx(2.828 * plain[0], rel=1e-3)
    assert set(targets.used_stages(study)) == set(stages)
