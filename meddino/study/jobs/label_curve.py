"""Jobs of workflow/rules/label_curve.smk: scores by the number of training cases."""

from meddino.core.errors import MeddinoError
from meddino.report.label_curve.options import LabelCurve, LabelCurveOptions
from meddino.study import paths, targets
from meddino.study.model import Study


def label_curve_options(study: Study) -> LabelCurveOptions:
    """Options of `label_curve`.

    Raises:
        MeddinoError: the study asks for no label curve.
    """
    curve = _curve(study)
    return LabelCurveOptions(
        methods=curve.methods,
        method_labels={name: study.methods[name].label for name in curve.methods},
        benchmarks=curve.benchmarks,
        benchmark_labels={name: study.benchmarks[name].label for name in curve.benchmarks},
        percent=curve.percent,
        folds=study.folds,
    )


def label_curve_inputs(study: Study) -> dict[str, list[str]]:
    """Scores of the curve's runs, and the splits of its benchmarks."""
    runs = targets.label_curve_runs(study)
    return {
        "scores": [paths.scores(study, run) for run in runs],
        "splits": [paths.splits(study, benchmark) for benchmark in _curve(study).benchmarks],
    }


def _curve(study: Study) -> LabelCurve:
    if study.label_curve is None:
        raise MeddinoError(
            "config: there is no section `label_curve`; add one with `methods` and `benchmarks`"
        )
    return study.label_curve
