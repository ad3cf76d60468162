"""Jobs of workflow/rules/finetune.smk: nnU-Net's data, training on them, and prediction."""

from pathlib import Path

from meddino.finetune.options import (
    ConvertOptions,
    FinetuneOptions,
    FreeArraysOptions,
    Planning,
    PlanOptions,
    PredictOptions,
    PreprocessOptions,
    ReplanOptions,
)
from meddino.finetune.presets import PAPER_PLANS, PLANNERS, SLICES, VOLUMES, Preset, plans_name
from meddino.study import paths, targets
from meddino.study.jobs.data import Piece
from meddino.study.model import Study


def convert_options(study: Study, benchmark: str) -> ConvertOptions:
    """Options of `convert`."""
    options = study.benchmarks[benchmark]
    dataset = study.dataset(options.dataset).layout()
    return ConvertOptions(benchmark=options.alone(), dataset=dataset)


def convert_inputs(study: Study, benchmark: str) -> dict[str, str]:
    """The manifest of what a benchmark is converted from."""
    return {"raw": paths.raw(study, study.benchmarks[benchmark].dataset, "labelled")}


def passing(study: Study) -> list[str]:
    """Benchmarks whose data is fetched, converted and freed by one job."""
    return [name for name, b in study.benchmarks.items() if study.passes(b.dataset)]


def piece(study: Study, benchmark: str) -> Piece:
    """What a benchmark is converted from, where it is freed at once."""
    return Piece.of(study, study.benchmarks[benchmark].dataset, f"for_{benchmark}")


def plan_options(study: Study) -> PlanOptions:
    """Options of `plan`."""
    return PlanOptions(planning=study.planning.model_copy(update={"volumes": None}))


def further_plans() -> dict[str, tuple[Preset | None, str]]:
    """Names of plans beside those of the paper's methods: preset and configuration of each."""
    kinds = [(preset, name) for preset in (None, *PLANNERS) for name in (SLICES, VOLUMES)]
    named = {plans_name(*kind): kind for kind in kinds}
    return {name: kind for name, kind in named.items() if name != PAPER_PLANS}


def replan_options(study: Study, kind: str) -> ReplanOptions:
    """Options of `replan`: of planning, what its configuration depends on."""
    preset, configuration = further_plans()[kind]
    planning, keys = study.planning, {"volumes"}
    if configuration == SLICES:
        keys = {"spacing_mm", "patch_px", "batch_size", "features_per_stage"}
    if preset is None:
        keys.add("gpu_memory_gb")
    return ReplanOptions(
        preset=preset,
        configuration=configuration,
        planning=Planning(**{key: getattr(planning, key) for key in keys}),
    )


def preprocess_inputs(study: Study, benchmark: str, configuration: str) -> dict[str, str]:
    """Plans that a benchmark is preprocessed by; presets share what the default planner's make."""
    name = plans_name(None, configuration)
    return {"plans": paths.plans_named(study, benchmark, name)}


def preprocess_options(study: Study, configuration: str) -> PreprocessOptions:
    """Options of `preprocess`."""
    processes = study.planning.num_processes
    return PreprocessOptions(configuration=configuration, num_processes=processes)


def free_preprocessed_options(study: Study, configuration: str) -> FreeArraysOptions:
    """Options of `free_preprocessed`."""
    return FreeArraysOptions(configuration=configuration)


def free_preprocessed_waits(study: Study, benchmark: str, configuration: str) -> list[str]:
    """Models that must be there before the arrays that they were trained on are freed."""
    runs = targets.trained(study).get((benchmark, configuration), [])
    return [paths.finetuned(study, run) for run in runs]


def turns(study: Study, benchmark: str, configuration: str) -> list[str]:
    """What preprocessing waits for: its turn; nothing where it was preprocessed without one.

    Snakemake compares the inputs of a finished job with those that it would have now, so that
    `keep_preprocessed` must not change them once the job is done.
    """
    turn = paths.turn(study, benchmark, configuration)
    done = Path(paths.preprocessed(study, benchmark, configuration)).exists()
    taken = Path(turn).exists()
    return [turn] if taken or not (study.keep_preprocessed or done) else []


def turn_waits(study: Study, benchmark: str, configuration: str) -> list[str]:
    """The receipt of the arrays whose turn is the one before."""
    order = [*targets.trained(study)]
    place = order.index((benchmark, configuration)) if (benchmark, configuration) in order else 0
    if study.keep_preprocessed or place == 0:
        return []
    return [paths.arrays_receipt(study, *order[place - 1])]


def in_turn(study: Study) -> bool:
    """Whether anything is preprocessed in turn, or was."""
    return not study.keep_preprocessed or any(
        Path(paths.turn(study, *key)).exists() for key in targets.trained(study)
    )


def receipts(study: Study) -> list[str]:
    """Receipts of all arrays that are freed: the last one's is asked for by nothing else."""
    if study.keep_preprocessed:
        return []
    return [paths.arrays_receipt(study, *key) for key in targets.trained(study)]


def finetune_options(study: Study, method: str, fold: str) -> FinetuneOptions:
    """Options of `finetune`: all but the label, which only the tables print."""
    number, seed = targets.fold_and_seed(fold)
    further = {} if seed is None else {"seed": seed}
    return FinetuneOptions(
        method=study.methods[method].alone().model_copy(update={"label": ""}),
        training=study.training.model_copy(update=further),
        fold=number,
    )


def finetune_inputs(study: Study, benchmark: str, method: str) -> dict[str, str]:
    """Files that a finetuning reads, by the flag that takes them."""
    options = study.methods[method]
    files = {"preprocessed": paths.preprocessed(study, benchmark, options.configuration)}
    if options.plans != PAPER_PLANS:
        files["plans"] = paths.plans_named(study, benchmark, options.plans)
    if options.weights is not None:
        files["weights"] = paths.weights(study, options.weights)
    return files


def predict_options(study: Study, fold: str) -> PredictOptions:
    """Options of `predict`."""
    number, _ = targets.fold_and_seed(fold)
    return PredictOptions(prediction=study.prediction, fold=number)
