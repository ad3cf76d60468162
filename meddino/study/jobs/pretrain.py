"""Jobs of workflow/rules/pretrain.smk: weights, the chain of stages, and its probes."""

from pathlib import Path

from meddino.core.errors import MeddinoError
from meddino.evaluate.options import ProbeOptions
from meddino.models.options import DINOV3, Published, WeightsOptions
from meddino.pretrain.options import LeavesOptions, PretrainOptions
from meddino.study import paths, targets
from meddino.study.chain import kinds
from meddino.study.model import Study

INDICES = {"ct3m": "paper", "ct3m-leak-free": "leak-free", "leaves": "leaves"}
"""Data of a stage -> the index that it reads."""


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
    files = {"index": paths.index(study, INDICES[options.data], options.slices_px)}
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
