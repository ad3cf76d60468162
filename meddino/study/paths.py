"""The name of every file that one job makes and another reads.

The rules of the workflow state the same names as patterns: where the two differ, Snakemake finds no
rule for a file and says so before anything runs.
"""

from collections.abc import Iterable
from pathlib import Path

from meddino.datasets.options import Part
from meddino.study.chain import Snapshot
from meddino.study.model import Study
from meddino.study.targets import Run, Transferred
from meddino.study.transfer import NAME as TRANSFER

INDICES = {"paper": "ct3m/index", "leak-free": "ct3m/index.leak-free", "leaves": "leaves/index"}
"""Indices of slices by what is in them, as their files begin; those of `ct3m.variants` beside."""


# ---- data ---------------------------------------------------------------------------------------


def phantom(study: Study, dataset: str) -> str:
    """Checksums of a phantom's archives."""
    return f"{study.resources}/phantom/{dataset}/SHA256SUMS"


def raw(study: Study, dataset: str, part: Part = "images") -> str:
    """Manifest of a dataset; of a folder of yours, there is one for each part of its files."""
    apart = part == "labelled" and study.dataset(dataset).folder is not None
    return f"{study.resources}/raw/{dataset}/{'.labelled' if apart else '.fetched'}.json"


def passing(study: Study, dataset: str, piece: str) -> str:
    """Manifest of what is fetched to be freed by the same job: a piece, or what a benchmark reads.

    Each has a folder of its own, so that none frees what another reads.
    """
    return f"{study.resources}/raw/{dataset}.{piece}/.fetched.json"


def chunk_reports(study: Study, datasets: Iterable[str]) -> list[str]:
    """Reports of all chunks of some datasets."""
    return [
        f"{study.results}/ct3m/shards/{dataset}/{chunk}.json"
        for dataset in datasets
        for chunk in range(study.chunks(dataset))
    ]


def shards(reports: Iterable[str], size: str | int) -> list[str]:
    """Shards of one size (px), which lie beside the reports of their chunks."""
    return [f"{path.removesuffix('.json')}.{size}.parquet" for path in reports]


def duplicates(study: Study) -> str:
    """Pairs of volumes that are copies of each other."""
    return f"{study.results}/ct3m/duplicates.parquet"


def overlap(study: Study) -> str:
    """Counts of copies between datasets."""
    return f"{study.results}/ct3m/overlap.csv"


def index(study: Study, slices: str, size: str | int) -> str:
    """Index of the slices of one size (px): of a variant of CT-3M, or of `leaves`."""
    beginning = INDICES.get(slices, f"ct3m/index.{slices}")
    return f"{study.results}/{beginning}.{size}.parquet"


def index_card(study: Study, variant: str, size: str | int) -> str:
    """Counts of what went into an index."""
    return f"{index(study, variant, size).removesuffix('.parquet')}.card.json"


def data_card(study: Study) -> str:
    """Data card of CT-3M."""
    return f"{study.results}/ct3m/card/card.json"


# ---- pretraining --------------------------------------------------------------------------------


def weights(study: Study, reference: str) -> str:
    """The checkpoint that a reference to weights or to a snapshot stands for."""
    start = study.chain.resolve(reference)
    if isinstance(start, Snapshot):
        return f"{study.results}/pretrain/{start.stage}/{start.iteration:06d}.pth"
    return f"{study.resources}/weights/{start}.pth"


def snapshots(study: Study, stage: str) -> list[str]:
    """Checkpoints that a stage keeps."""
    iterations = study.pretrain.stages[stage].snapshots
    return [weights(study, f"{stage}@{iteration}") for iteration in iterations]


def pretraining_history(study: Study, stage: str) -> str:
    """Losses of a stage."""
    return f"{study.results}/pretrain/{stage}/history.jsonl"


def probe(study: Study, source: str) -> str:
    """Scores of the probes of one source."""
    return f"{study.results}/probe/{source}.json"


# ---- benchmarks and runs ------------------------------------------------------------------------


def nnunet_folder(study: Study, benchmark: str) -> str:
    """nnU-Net's folder name of a benchmark."""
    return f"{study.benchmarks[benchmark].folder}_{benchmark}"


def nnunet_dataset(study: Study, benchmark: str) -> str:
    """nnU-Net's description of a converted benchmark."""
    return f"{study.results}/nnunet/raw/{nnunet_folder(study, benchmark)}/dataset.json"


def splits(study: Study, benchmark: str) -> str:
    """Cases of each fold of a benchmark."""
    return str(Path(nnunet_dataset(study, benchmark)).with_name("splits_final.json"))


def quarantine(study: Study, benchmark: str) -> str:
    """Cases that the conversion of a benchmark left out."""
    return str(Path(nnunet_dataset(study, benchmark)).with_name("quarantine.json"))


def plans(study: Study, benchmark: str) -> str:
    """nnU-Net's plans of a benchmark."""
    return f"{_preprocessed_folder(study, benchmark)}/nnUNetPlans.json"


def plans_named(study: Study, benchmark: str, name: str) -> str:
    """nnU-Net's plans of volumes or of a ResEnc preset, by the name of `presets.plans_name`."""
    return f"{_preprocessed_folder(study, benchmark)}/{name}.json"


def preprocessed(study: Study, benchmark: str, configuration: str) -> str:
    """A benchmark as nnU-Net preprocessed it in one configuration."""
    return f"{_preprocessed_folder(study, benchmark)}/{configuration}.json"


def arrays_receipt(study: Study, benchmark: str, configuration: str) -> str:
    """Receipt of the preprocessed arrays that were freed."""
    return f"{_preprocessed_folder(study, benchmark)}/.freed.{configuration}.json"


def turn(study: Study, benchmark: str, configuration: str) -> str:
    """Mark that it is a benchmark's turn to be preprocessed, as those before it are freed."""
    return f"{_preprocessed_folder(study, benchmark)}/.turn.{configuration}"


def _preprocessed_folder(study: Study, benchmark: str) -> str:
    return f"{study.results}/nnunet/preprocessed/{nnunet_folder(study, benchmark)}"


def finetuned(study: Study, run: Run) -> str:
    """Weights of a run."""
    return f"{_model_folder(study, run)}/model.safetensors"


def model_description(study: Study, run: Run) -> str:
    """What rebuilds the network of a run."""
    return f"{_model_folder(study, run)}/model.json"


def finetuning_history(study: Study, run: Run) -> str:
    """Losses of a run."""
    return f"{_model_folder(study, run)}/history.jsonl"


def model_card(study: Study, run: Run) -> str:
    """Model card of a run."""
    return f"{_model_folder(study, run)}/README.md"


def _model_folder(study: Study, run: Run) -> str:
    return f"{study.results}/finetune/{_run(run)}"


def _run(run: Run) -> str:
    """What all files of a run have in their names."""
    return f"{run.benchmark}/{run.method}/fold{run.part}"


def predictions(study: Study, run: Run) -> str:
    """List of the predicted cases of a run."""
    return f"{study.results}/predictions/{_run(run)}/done.json"


def scores(study: Study, run: Run) -> str:
    """Scores of one run."""
    return f"{study.results}/scores/{_run(run)}.parquet"


def transferred_predictions(study: Study, run: Transferred) -> str:
    """List of the cases that a model of another benchmark segmented."""
    return f"{study.results}/transfer/predictions/{_transfer_folder(run)}/done.json"


def transferred_scores(study: Study, run: Transferred) -> str:
    """Scores of these segmentations."""
    return f"{study.results}/transfer/scores/{_transfer_folder(run)}.parquet"


def _transfer_folder(run: Transferred) -> str:
    return f"{run.origin}/{run.benchmark}/{run.method}/fold{run.fold}"


# ---- report -------------------------------------------------------------------------------------


def all_scores(study: Study) -> str:
    """Scores of all runs."""
    return f"{study.results}/scores.parquet"


def table(study: Study, name: str, suffix: str = "csv") -> str:
    """A table in one format: csv, md or tex."""
    return f"{study.results}/tables/{name}.{suffix}"


def label_curve(study: Study) -> str:
    """Scores by the number of training cases."""
    return f"{study.results}/label_curve/label_curve.json"


def transfer_table(study: Study, suffix: str = "csv") -> str:
    """The table of transfer in one format: csv, json (for the report), md or tex."""
    return table(study, TRANSFER, suffix)


def ranks(study: Study, name: str) -> str:
    """Ranks of a table's rows."""
    return table(study, name, "ranks.csv")


def backbones(study: Study) -> str:
    """The comparison of backbones."""
    return f"{study.results}/backbones/backbones.json"


def figures(study: Study) -> str:
    """The figures of the report."""
    return f"{study.results}/figures/figures.json"


def feature_figures(study: Study) -> str:
    """Pictures of dense features."""
    return f"{study.results}/features/figures.json"


def overlays(study: Study, benchmark: str) -> str:
    """Pictures of a benchmark's cases."""
    return f"{study.results}/overlays/{benchmark}/index.json"


def provenance(study: Study) -> str:
    """Records of all results."""
    return f"{study.results}/provenance.json"


# ---- failures -----------------------------------------------------------------------------------


def confidence(study: Study, run: Run) -> str:
    """Sums over the softmax of a run."""
    return f"{study.results}/confidence/{_run(run)}.parquet"


def lesions(study: Study, run: Run) -> str:
    """Lesions of a run."""
    return f"{study.results}/lesions/{_run(run)}.parquet"


def failures(study: Study) -> str:
    """Where runs fail, as numbers."""
    return f"{study.results}/failures/failures.json"


def worst_cases(study: Study, benchmark: str) -> str:
    """Pictures of the worst cases of a benchmark."""
    return f"{study.results}/failures/{benchmark}/worst.json"
