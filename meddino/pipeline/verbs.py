"""Every verb of the command line: the module that does it, its revision, and its options.

This is the only list of what the pipeline can do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from meddino.study.jobs import (
    backbones,
    data,
    failures,
    finetune,
    label_curve,
    pretrain,
    report,
    transfer,
)

Group = Literal["use", "study", "stages"]


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One verb.

    `revision` rises whenever the verb's results change for the same options and inputs: it is a
    parameter of the rule, so that old results rerun. `options` cuts the verb's slice out of a study
    and is None for tools that make no result of the study. `beside` are the files that belong to
    its result, as patterns below the folder of its main output, whose name without suffix they may
    hold as `{stem}`, and its options as `{options}`. `group` is the heading under which the command
    line lists the verb. `check` is the module that takes over where `--check` is among the
    arguments: it compares what the verb relies on with the world. `usage` are the arguments of a
    tool that passes them on to Snakemake, whose own help would say nothing of the tool.
    """

    module: str
    summary: str
    revision: int = 1
    options: Callable[..., Any] | None = None
    beside: tuple[str, ...] = ()
    group: Group = "stages"
    usage: str = ""
    check: str = ""


VERBS: dict[str, Verb] = {
    "segment": Verb(
        module="meddino.finetune.segment",
        summary="segment your own CT or MR volumes with a trained model",
        group="use",
    ),
    "features": Verb(
        module="meddino.report.figures.features",
        summary="draw the dense features of backbones on your own image, side by side",
        group="use",
    ),
    "export": Verb(
        module="meddino.models.export",
        summary="convert a checkpoint's ViT for DINOv3's code, transformers or timm",
        group="use",
    ),
    "bundle": Verb(
        module="meddino.cli.bundle",
        summary="make a folder of a finetuned model to give away, with its terms",
        beside=("**/*",),
        group="use",
    ),
    "highres": Verb(
        module="meddino.finetune.highres",
        summary="add the 896 x 896 px configuration to nnU-Net's own plans",
        group="use",
    ),
    "study": Verb(
        module="meddino.cli.study",
        summary="run the workflow, or go on with it, and show its progress",
        group="study",
        usage="[--preload] [SNAKEMAKE_ARGUMENT ...]",
    ),
    "watch": Verb(
        module="meddino.cli.watch",
        summary="show a running study: jobs, losses, failures, time left",
        group="study",
    ),
    "status": Verb(
        module="meddino.cli.status",
        summary="list the jobs that would run, and why",
        group="study",
        usage="[SNAKEMAKE_ARGUMENT ...]",
    ),
    "cost": Verb(
        module="meddino.cli.cost",
        summary="estimate jobs, GPU-hours, core-hours and disk before anything runs",
        group="study",
        usage="[--gpu NAME] [SNAKEMAKE_ARGUMENT ...]",
    ),
    "verify": Verb(
        module="meddino.cli.verify",
        summary="compare all results with their recorded checksums",
        group="study",
    ),
    "tensorboard": Verb(
        module="meddino.cli.tensorboard",
        summary="write the logs of trainings as event files for TensorBoard",
        group="study",
    ),
    "submit": Verb(
        module="meddino.slurm.submit",
        summary="run a verb that trains as a SLURM job, and wait for it",
        group="study",
    ),
    "phantom": Verb(
        module="meddino.datasets.phantom.phantom",
        summary="make the synthetic CT volumes (phantoms) of one dataset",
        options=data.phantom_options,
        beside=("*",),
    ),
    "fetch": Verb(
        module="meddino.datasets.fetch",
        summary="download and unpack one dataset, or --check where all are",
        options=data.fetch_options,
        check="meddino.cli.registry",
    ),
    "free": Verb(
        module="meddino.datasets.free",
        summary="delete a download that nothing reads any more, with a receipt",
        options=data.free_options,
    ),
    "slices": Verb(
        module="meddino.ct3m.slices",
        revision=6,
        summary="cut a chunk of a dataset's volumes into axial slices",
        options=data.slices_options,
        beside=("{stem}.*.parquet",),
    ),
    "duplicates": Verb(
        module="meddino.ct3m.duplicates",
        revision=2,
        summary="find volumes that are copies of others, by their content",
        options=data.duplicates_options,
        beside=("overlap.csv",),
    ),
    "index": Verb(
        module="meddino.ct3m.index",
        revision=3,
        summary="index the slices of all datasets at one size",
        options=data.index_options,
        beside=("{stem}.card.json",),
    ),
    "leaves": Verb(
        module="meddino.pretrain.leaves",
        revision=4,
        summary="make dead-leaves pictures, the demo's stand-in for natural images",
        options=pretrain.leaves_options,
        beside=("leaves.{options.size_px}.parquet",),
    ),
    "weights": Verb(
        module="meddino.models.weights",
        revision=2,
        summary="download or read published weights, and check them",
        options=pretrain.weights_options,
    ),
    "pretrain": Verb(
        module="meddino.pretrain.pretrain",
        revision=5,
        summary="run one stage of self-supervised pretraining",
        options=pretrain.pretrain_options,
        beside=("[0-9]*.pth",),
    ),
    "convert": Verb(
        module="meddino.finetune.convert",
        revision=2,
        summary="convert a benchmark to nnU-Net's raw layout, with its split",
        options=finetune.convert_options,
        beside=("imagesTr/*", "labelsTr/*", "splits_final.json", "quarantine.json"),
    ),
    "plan": Verb(
        module="meddino.finetune.plan",
        summary="plan a benchmark with nnU-Net, and add high-resolution configurations",
        options=finetune.plan_options,
        beside=("dataset_fingerprint.json", "dataset.json", "splits_final.json"),
    ),
    "replan": Verb(
        module="meddino.finetune.replan",
        summary="plan a benchmark's volumes, or a ResEnc preset, with nnU-Net",
        options=finetune.replan_options,
    ),
    "preprocess": Verb(
        module="meddino.finetune.preprocess",
        summary="preprocess a benchmark with nnU-Net in one configuration",
        options=finetune.preprocess_options,
        beside=("*_{stem}/*",),
    ),
    "free_preprocessed": Verb(
        module="meddino.finetune.arrays",
        summary="delete preprocessed arrays whose trainings are done, with a receipt",
        options=finetune.free_preprocessed_options,
    ),
    "finetune": Verb(
        module="meddino.finetune.finetune",
        revision=3,
        summary="train one method on one fold of a benchmark",
        options=finetune.finetune_options,
        beside=("model.json", "history.jsonl"),
    ),
    "predict": Verb(
        module="meddino.finetune.predict",
        summary="segment the validation cases of a fold",
        options=finetune.predict_options,
        beside=("*.nii.gz",),
    ),
    "evaluate": Verb(
        module="meddino.evaluate.evaluate",
        revision=4,
        summary="score predictions per case and structure: DSC, NSD, HD95, volumes",
        options=report.evaluate_options,
    ),
    "predict_transfer": Verb(
        module="meddino.finetune.predict",
        summary="segment a benchmark's cases with a model of another benchmark",
        options=transfer.predict_options,
        beside=("*.nii.gz",),
    ),
    "evaluate_transfer": Verb(
        module="meddino.evaluate.transfer",
        summary="score a model of another benchmark on the structures that both have",
        options=transfer.evaluate_options,
    ),
    "probe": Verb(
        module="meddino.evaluate.probe",
        summary="classify organs from tokens of frozen backbones, by k-NN and linearly",
        options=pretrain.probe_options,
    ),
    "scores": Verb(
        module="meddino.evaluate.scores",
        summary="join the scores of all runs in one file",
        options=report.scores_options,
    ),
    "tables": Verb(
        module="meddino.report.tables.tables",
        revision=7,
        summary="write one of the paper's tables, beside the paper's values",
        options=report.tables_options,
        beside=("{stem}.md", "{stem}.tex"),
    ),
    "label_curve": Verb(
        module="meddino.report.label_curve.label_curve",
        summary="score methods by the number of cases they were trained on",
        options=label_curve.label_curve_options,
        beside=("points.csv", "needed.csv"),
    ),
    "transfer": Verb(
        module="meddino.report.tables.transfer",
        summary="write the table of transfer: both models, the drop, intervals, tests",
        options=transfer.table_options,
        beside=("{stem}.md", "{stem}.tex", "{stem}.json", "{stem}.structures.csv"),
    ),
    "ranks": Verb(
        module="meddino.report.tables.ranks",
        summary="rank a table's methods, with the stability of ranks, and effect sizes",
        options=report.ranks_options,
    ),
    "model_card": Verb(
        module="meddino.report.cards.model_card",
        summary="write the model card of one run",
        options=report.model_card_options,
    ),
    "card": Verb(
        module="meddino.report.cards.card",
        revision=4,
        summary="write the data card of CT-3M",
        options=data.card_options,
        beside=("card.md", "figures.json", "*.png", "*.pdf", "../shards/README.md"),
    ),
    "backbones": Verb(
        module="meddino.report.tables.backbones",
        summary="compare pretrained ViTs: scores, probes, sizes, licences",
        options=backbones.backbones_options,
        beside=("{stem}.csv", "{stem}.md", "figures.json", "*.png", "*.pdf"),
    ),
    "figures": Verb(
        module="meddino.report.figures.figures",
        revision=7,
        summary="draw the figures of the report",
        options=report.figures_options,
        beside=("*.png", "*.pdf"),
    ),
    "feature_figures": Verb(
        module="meddino.report.figures.feature_figures",
        revision=2,
        summary="draw the dense features of each stage of pretraining",
        options=report.feature_figures_options,
        beside=("*.png", "*.pdf"),
    ),
    "overlays": Verb(
        module="meddino.report.figures.overlays",
        revision=2,
        summary="draw slices of cases with reference and predictions, for the report",
        options=report.overlays_options,
        beside=("*.webp", "*.png"),
    ),
    "confidence": Verb(
        module="meddino.evaluate.failures.confidence",
        summary="predict cases once more, and keep histograms of the softmax",
        options=failures.confidence_options,
    ),
    "lesions": Verb(
        module="meddino.evaluate.failures.lesions",
        summary="list the lesions of reference and prediction, and which ones meet",
        options=failures.lesions_options,
    ),
    "failures": Verb(
        module="meddino.evaluate.failures.failures",
        summary="put together where segmentations fail, and whether the network knew",
        options=failures.failures_options,
        beside=("*.csv",),
    ),
    "worst_cases": Verb(
        module="meddino.report.figures.worst_cases",
        summary="draw the worst cases of each method on a benchmark",
        options=failures.worst_cases_options,
        beside=("*.webp", "*.png"),
    ),
    "provenance": Verb(
        module="meddino.report.cards.provenance",
        summary="collect the records of everything behind the results (RO-Crate)",
        options=report.provenance_options,
        beside=("provenance.json",),
    ),
    "report": Verb(
        module="meddino.report.page.report",
        revision=8,
        summary="write the HTML report",
        options=report.report_options,
    ),
}
