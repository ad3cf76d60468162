"""Jobs of workflow/rules/pretrain.smk: weights, the chain of stages, and its probes."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from meddino.core.errors import MeddinoError
from meddino.evaluate.options import ProbeOptions
from meddino.models.options import DINOV3, Published, WeightsOptions
from meddino.pretrain.options import LeavesOptions, PretrainOptions
from meddino.study import paths, targets
from meddino.study.chain import DATA, kinds
from meddino.study.model import Study

Setting = TypeVar("Setting")


def for_all_stages(settings: Mapping[str, Setting], stages: Iterable[str]) -> dict[str, Setting]:
    """What a profile says of rules, also for stages that it does not name.

    A stage is then run as the one whose name begins its own: `stage1_tenth` as `stage1`.

    Args:
        settings: rule -> what a profile gives it, such as resources.
        stages: names of all stages.
    """
    complete = dict(settings)
    for stage in stages:
        parts = stage.split("_")
        rules = [f"pretrain_{'_'.join(parts[:count])}" for count in range(len(parts), 0, -1)]
        if named := [rule for rule in rules if rule in settings]:
            complete[rules[0]] = settings[named[0]]
    return complete


def leaves_options(study: Study, size: str) -> LeavesOptions:
    """Options of `leaves`.

    Raises:
        MeddinoError: the study has no such pictures.
    """
    if study.leaves is None:
        raise MeddinoError("config: there is no section `leaves`; add one with a `count`")
    return LeavesOptions(count=study.leaves.count, seed=study.leaves.seed, size_px=int(size))


def weights_options(study: Study, weights: str) -> WeightsOptions:
    """Options of `weights`."""
    kind = next(iter(kinds(weights, study.methods, study.pretrain.stages)), DINOV3)
    published = study.weights[weights].model_dump(include=set(Published.model_fields))
    return WeightsOptions(**published, kind=kind)


def weights_inputs(study: Study, weights: str) -> list[str]:
    """Files that published weights are made from: yours, where it already exists."""
    file = study.weights[weights].file
    return [file] if file is not None and Path(file).exists() else []


def pretrain_options(study: Study, stage: str) -> PretrainOptions:
    """Options of `pretrain`."""
    return study.chain.options(stage)


def pretrain_inputs(study: Study, stage: str) -> dict[str, str]:
    """Files that a stage reads, by the flag that takes them."""
    options = study.pretrain.stages[stage]
    files = {"index": paths.index(study, DATA.get(options.data, options.data), options.slices_px)}
    for flag, reference in (("init", options.init), ("gram_teacher", options.gram_teacher)):
        if reference is not None:
            files[flag] = paths.weights(study, reference)
    return files


def probe_options(study: Study, source: str) -> ProbeOptions:
    """Options of `probe`."""
    compared = targets.probed_backbones(study).get(source)
    method = None if source in study.pretrain.stages or compared is None else compared
    backbone = study.pretrain.backbone if method is None else study.methods[method].backbone
    return ProbeOptions(
        source=source,
        variant=study.chain.variant(source) if source in study.pretrain.stages else "none",
        backbone=str(backbone),
        spacing_mm=study.ct3m.spacing_mm,
        fold=study.folds[0],
        probe=study.probe,
    )


def probe_inputs(study: Study, source: str) -> dict[str, str | list[str]]:
    """Files that a probe reads, by the flag that takes them."""
    if source in study.pretrain.stages:
        checkpoints = paths.snapshots(study, source)
    elif source in study.weights:
        checkpoints = [paths.weights(study, source)]
    else:  # a random initialisation
        checkpoints = []
    return {**probed_cases(study), "checkpoints": checkpoints}


def probed_cases(study: Study) -> dict[str, str]:
    """The benchmark on whose cases frozen features are judged."""
    benchmark = study.probe.benchmark
    return {
        "dataset": paths.nnunet_dataset(study, benchmark),
        "splits": paths.splits(study, benchmark),
    }
