"""Jobs of workflow/rules/failures.smk: where the runs of a study fail."""

from meddino.evaluate.failures.options import (
    ConfidenceOptions,
    Failures,
    FailuresOptions,
    LesionsOptions,
)
from meddino.report.options import WorstOptions
from meddino.study import paths, targets
from meddino.study.model import Study
from meddino.study.targets import Run

Files = dict[str, str | list[str]]
"""Inputs of a job, by the flag that takes them."""


def _section(study: Study) -> Failures:
    """What is looked at; with its defaults where the study does not ask."""
    return study.failures or Failures()


def runs(study: Study) -> list[Run]:
    """The runs that are looked at, of the first training of each; none where nothing is asked."""
    section = study.failures
    if section is None:
        return []
    return [
        run
        for run in targets.first_trainings(study)
        if run.method in (section.methods or [run.method])
        and run.benchmark in (section.benchmarks or [run.benchmark])
    ]


def benchmarks(study: Study) -> list[str]:
    """Benchmarks of these runs."""
    return list(dict.fromkeys(run.benchmark for run in runs(study)))


def confidence_options(study: Study, fold: str) -> ConfidenceOptions:
    """Options of `confidence`."""
    bins = _section(study).bins
    return ConfidenceOptions(prediction=study.prediction, fold=int(fold), bins=bins)


def lesions_options(study: Study, benchmark: str, method: str, fold: str) -> LesionsOptions:
    """Options of `lesions`."""
    section = _section(study)
    return LesionsOptions(
        benchmark=benchmark,
        method=method,
        fold=int(fold),
        structures=section.lesions.get(benchmark, ()),
        iou=section.iou,
    )


def failures_options(study: Study) -> FailuresOptions:
    """Options of `failures`: without what other jobs alone depend on."""
    names = benchmarks(study)
    datasets = {name: study.dataset(study.benchmarks[name].dataset) for name in names}
    mixed = {name for name in names if "MR" in study.benchmarks[name].modalities}
    return FailuresOptions(
        failures=_section(study).model_copy(update={"worst": Failures().worst}),
        mr_cases={name: datasets[name].mr_cases if name in mixed else None for name in names},
    )


def failures_inputs(study: Study) -> Files:
    """Files that tell where runs fail, by the flag that takes them."""
    section, chosen = _section(study), runs(study)
    used = benchmarks(study)
    return {
        "scores": [paths.scores(study, run) for run in chosen],
        "datasets": [paths.nnunet_dataset(study, name) for name in used],
        "lesions": [paths.lesions(study, r) for r in chosen if section.lesions.get(r.benchmark)],
        "confidence": [paths.confidence(study, run) for run in chosen],
        "metadata": [entry.file for name, entry in section.metadata.items() if name in used],
    }


def worst_cases_options(study: Study) -> WorstOptions:
    """Options of `worst_cases`."""
    look, size_px = study.figures, study.overlays.size_px
    return WorstOptions(
        worst=_section(study).worst,
        size_px=size_px,
        window_hu=look.window_hu,
        colours=look.colours,
    )


def worst_cases_inputs(study: Study, benchmark: str) -> Files:
    """Files that the pictures of a benchmark's worst cases are made from, by the flag."""
    chosen = [run for run in runs(study) if run.benchmark == benchmark]
    return {
        "dataset": paths.nnunet_dataset(study, benchmark),
        "predictions": [paths.predictions(study, run) for run in chosen],
        "scores": [paths.scores(study, run) for run in chosen],
    }


def shown(study: Study) -> list[str]:
    """What the report shows of failures; empty where it shows none."""
    if study.failures is None:
        return []
    return [paths.failures(study), *(paths.worst_cases(study, name) for name in benchmarks(study))]
