"""The `figures` verb: curves of training, predictions beside the reference, and scores."""

from pathlib import Path

from meddino.core.files import read_json, write_json
from meddino.evaluate.scores import of_seed, read_scores
from meddino.report.figures.curves import finetuning_curves, pretraining_curves, probe_curves
from meddino.report.figures.predictions import predicted
from meddino.report.figures.strips import structure_scores
from meddino.report.options import PlotOptions


def run(
    options: PlotOptions,
    *,
    scores: Path,
    pretraining: list[Path],
    finetuning: list[Path],
    predictions: list[Path],
    datasets: list[Path],
    probes: list[Path],
    output: Path,
) -> None:
    """Draw all figures.

    Args:
        options: look of the figures, and printed names.
        scores: scores of all runs.
        pretraining: `history.jsonl` of the stages, in order.
        finetuning: `finetune/<benchmark>/<method>/fold<k>/history.jsonl`; of several seeds, those
            of the first one, as the predictions.
        predictions: `predictions/<benchmark>/<method>/fold<k>/done.json`.
        datasets: nnU-Net's raw `dataset.json` of the benchmarks, `DatasetNNN_<benchmark>`.
        probes: results of `probe`, along the chain of stages.
        output: `figures.json`, written last: a list of file, section, title, caption.
    """
    folder = output.parent
    all_scores = read_scores([scores])
    entries = [
        *pretraining_curves(options, pretraining, folder / "pretraining.png"),
        *probe_curves(options, [read_json(path) for path in probes], folder / "probe.png"),
        *finetuning_curves(options, finetuning, folder),
        *predicted(options, predictions, datasets, of_seed(all_scores, options.seed), folder),
        *structure_scores(options, all_scores, predictions, folder),
    ]
    write_json(output, [entry._asdict() for entry in entries])
