"""The section of training: charts of pretraining, of finetuning, and of probes."""

from pathlib import Path
from typing import Any

from meddino.core.files import read_lines
from meddino.report.figures.curves import chains
from meddino.report.figures.runs import by_benchmark
from meddino.report.options import ReportOptions
from meddino.report.page.charts import training
from meddino.report.page.charts.chart import Chart
from meddino.report.page.names import (
    benchmark_label,
    checkpoint_label,
    method_labels,
    stage_label,
)


def pretraining_charts(options: ReportOptions, histories: list[Path]) -> dict[str, Chart]:
    """Charts by `pretraining/<stage>/<measure>`."""
    return {
        f"pretraining/{stage}/{key}": chart
        for path in histories
        for stage in [path.parent.name]
        for key, chart in training.pretraining(
            stage_label(options, stage), read_lines(path)
        ).items()
    }


def finetuning_charts(options: ReportOptions, histories: list[Path]) -> dict[str, Chart]:
    """Charts by `finetuning/<benchmark>/<measure>`; of several folds, of the first one."""
    runs = by_benchmark(histories)
    series = method_labels(options, [method for part in runs.values() for method in part])
    return {
        f"finetuning/{benchmark}/{key}": chart
        for benchmark, part in runs.items()
        for key, chart in training.finetuning(
            benchmark_label(options, benchmark),
            {options.methods.get(m, m): read_lines(path) for m, path in part.items()},
            series,
        ).items()
    }


def probe_charts(options: ReportOptions, probes: list[dict[str, Any]]) -> dict[str, Chart]:
    """Charts by `probe/<variant>`: the chain of checkpoints of each variant of CT-3M."""
    charts = {}
    for variant, scores in chains(probes).items():
        chain = [
            {
                "checkpoint": checkpoint_label(options, score["name"]),
                **{k: round(100 * score[k]["balanced_accuracy"], 2) for k in ("linear", "knn")},
            }
            for score in scores
        ]
        charts[f"probe/{variant}"] = training.probes(chain, len(probes[0]["classes"]))
    return charts
