"""Jobs of workflow/rules/finetune.smk: nnU-Net's data, training on them, and prediction."""

from meddino.finetune.options import (
    ConvertOptions,
    FinetuneOptions,
    PlanOptions,
    PredictOptions,
    PreprocessOptions,
)
from meddino.study import paths
from meddino.study.model import Study


def convert_options(study: Study, benchmark: str) -> ConvertOptions:
    """Options of `convert`."""
    options = study.benchmarks[benchmark]
    dataset = study.dataset(options.dataset).layout()
    return ConvertOptions(benchmark=options.alone(), dataset=dataset)


def convert_inputs(study: Study, benchmark: str) -> dict[str, str]:
    """The manifest of what a benchmark is converted from."""
    return {"raw": paths.raw(study, study.benchmarks[benchmark].dataset, "labelled")}


def plan_options(study: Study) -> PlanOptions:
    """Options of `plan`."""
    return PlanOptions(planning=study.planning)


def preprocess_options(study: Study, configuration: str) -> PreprocessOptions:
    """Options of `preprocess`."""
    processes = study.planning.num_processes
    return PreprocessOptions(configuration=configuration, num_processes=processes)


def finetune_options(study: Study, method: str, fold: str) -> FinetuneOptions:
    """Options of `finetune`: all but the label, which only the tables print."""
    return FinetuneOptions(
        method=study.methods[method].alone().model_copy(update={"label": ""}),
        training=study.training,
        fold=int(fold),
    )


def finetune_inputs(study: Study, benchmark: str, method: str) -> dict[str, str]:
    """Files that a finetuning reads, by the flag that takes them."""
    options = study.methods[method]
    files = {"preprocessed": paths.preprocessed(study, benchmark, options.configuration)}
    if options.weights is not None:
        files["weights"] = paths.weights(study, options.weights)
    return files


def predict_options(study: Study, fold: str) -> PredictOptions:
    """Options of `predict`."""
    return PredictOptions(prediction=study.prediction, fold=int(fold))
