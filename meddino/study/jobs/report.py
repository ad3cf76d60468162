"""Jobs of workflow/rules/report.smk: scores, tables, figures, cards and the report."""

from collections.abc import Sequence

from meddino.evaluate.options import EvaluateOptions, ScoresOptions
from meddino.report.options import (
    Attribution,
    FeatureOptions,
    ModelCardOptions,
    OverlayOptions,
    PlotOptions,
    ProvenanceOptions,
    Ranks,
    RanksOptions,
    ReportOptions,
    TableOptions,
)
from meddino.study import paths, targets
from meddino.study.jobs import failures
from meddino.study.jobs.pretrain import probed_cases
from meddino.study.model import Study
from meddino.study.sections import RANDOM

Files = dict[str, str | list[str]]
"""Inputs of a job, by the flag that takes them."""


# ---- scores and tables --------------------------------------------------------------------------


def evaluate_options(study: Study, benchmark: str, method: str, fold: str) -> EvaluateOptions:
    """Options of `evaluate`."""
    number, seed = targets.fold_and_seed(fold)
    return EvaluateOptions(
        benchmark=benchmark,
        method=method,
        fold=number,
        seed=seed,
        evaluation=study.evaluate,
        tolerances_mm=study.benchmarks[benchmark].counted_tolerances_mm,
    )


def scores_options(study: Study) -> ScoresOptions:
    """Options of `scores`."""
    return ScoresOptions(seed=_first_seed(study, targets.runs(study)))


def _first_seed(study: Study, runs: Sequence[targets.Run]) -> int | None:
    """The seed of scores that name none, where others of these runs have further seeds."""
    return study.training.seed if any(run.seed is not None for run in runs) else None


def scores_inputs(study: Study) -> Files:
    """Scores of every run."""
    return {"scores": [paths.scores(study, run) for run in targets.runs(study)]}


def tables_options(study: Study, table: str) -> TableOptions:
    """Options of `tables`."""
    options = study.tables[table]
    benchmarks = {name: study.benchmarks[name] for name in options.benchmarks}
    return TableOptions(
        name=table,
        table=options,
        method_labels={name: study.methods[name].label for name in options.rows},
        method_data={name: targets.pretraining_data(study, name) for name in options.rows},
        benchmark_labels={name: benchmark.label for name, benchmark in benchmarks.items()},
        tolerance_mm=study.evaluate.tolerance_mm,
        tolerances_mm={name: b.counted_tolerances_mm for name, b in benchmarks.items()},
        paper_patch_px={
            name: side for name, side in study.planning.paper_patch_px.items() if name in benchmarks
        },
        corpus=targets.corpus(study),
        variants=targets.meanings(
            study, [targets.pretraining_data(study, n) for n in options.rows]
        ),
        recipe=study.recipe,
        recipe_changes=_recipe_changes(study, options.rows),
        seed=_first_seed(study, targets.runs_of_table(study, table)),
        beyond={
            name: "3d" if study.methods[name].volumetric else "2d"
            for name in options.rows
            if not study.methods[name].in_paper
        },
    )


def _recipe_changes(study: Study, rows: Sequence[str]) -> dict[str, list[str]]:
    """What the recipes differ in: key -> methods of a table."""
    changes: dict[str, list[str]] = {}
    for name in (name for name in rows if study.methods[name].recipe is None):
        for key, value in (study.methods[name].official or {}).items():
            keys = [f"{key}.{part}" for part in value] if isinstance(value, dict) else [key]
            for full_key in keys:
                changes.setdefault(full_key, []).append(name)
        if targets.pretraining_data(study, name) != "none":
            changes.setdefault("pretrain.qkv_bias", []).append(name)
    return changes


def tables_inputs(study: Study, table: str) -> Files:
    """Scores that a table shows, and nnU-Net's plans of their benchmarks."""
    runs = targets.runs_of_table(study, table)
    benchmarks = dict.fromkeys(run.benchmark for run in runs)
    return {
        "scores": [paths.scores(study, run) for run in runs],
        "plans": [paths.plans(study, benchmark) for benchmark in benchmarks],
    }


def ranks_options(study: Study, table: str) -> RanksOptions:
    """Options of `ranks`."""
    options = study.tables[table]
    return RanksOptions(
        name=table,
        table=options,
        method_labels={name: study.methods[name].label for name in options.rows},
        ranks=study.ranks or Ranks(),
        seed=_first_seed(study, targets.runs_of_table(study, table)),
    )


def ranks_inputs(study: Study, table: str) -> Files:
    """Scores of the runs whose ranks are asked for."""
    return {"scores": tables_inputs(study, table)["scores"]}


def _ranks(study: Study) -> list[str]:
    """Ranks of all tables with rows to rank, where they are asked for."""
    if study.ranks is None:
        return []
    return [paths.ranks(study, name) for name, t in study.tables.items() if len(t.rows) > 1]


# ---- cards --------------------------------------------------------------------------------------


def model_card_options(study: Study, benchmark: str, method: str) -> ModelCardOptions:
    """Options of `model_card`."""
    variant = targets.pretraining_data(study, method)
    stages, weights = study.chain.history(study.methods[method].weights)
    datasets = targets.variant_datasets(study, variant)
    return ModelCardOptions(
        method=study.methods[method].label,
        benchmark=study.benchmarks[benchmark].label,
        data=_data_source(study, study.benchmarks[benchmark].dataset),
        variant=variant,
        variant_meaning=targets.meanings(study, [variant]).get(variant, ""),
        stages=tuple(stages),
        pretraining=tuple(_data_source(study, name) for name in datasets),
        weights=tuple(weights_source(study, name) for name in weights),
        tolerance_mm=study.evaluate.tolerance_mm,
        tolerances_mm=study.benchmarks[benchmark].counted_tolerances_mm,
        seeds=_card_seeds(study, benchmark, method),
    )


def _card_seeds(study: Study, benchmark: str, method: str) -> tuple[int, ...]:
    """Seeds of a method on a benchmark, where it is trained with several."""
    first = study.training.seed
    runs = [run for run in targets.runs(study) if run[:2] == (benchmark, method)]
    seeds = dict.fromkeys(first if run.seed is None else run.seed for run in runs)
    return tuple(seeds) if len(seeds) > 1 else ()


def _data_source(study: Study, name: str) -> Attribution:
    """A dataset and its terms; a phantom's are this project's own."""
    dataset = study.dataset(name)
    if name in study.phantom:
        title = f"procedural phantom in the layout of {dataset.title}"
        return Attribution(name=name, title=title, home="", licence="Apache-2.0", phantom=True)
    title = dataset.title or name
    return Attribution(name=name, title=title, home=dataset.home, licence=dataset.licence)


def weights_source(study: Study, name: str) -> Attribution:
    """Published weights and their terms."""
    weights = study.weights[name]
    return Attribution(name=name, title=weights.title, home=weights.home, licence=weights.licence)


def provenance_options(study: Study) -> ProvenanceOptions:
    """Options of `provenance`."""
    return ProvenanceOptions(title=study.title)


def provenance_inputs(study: Study) -> Files:
    """All that the report shows, for the records to reach back from."""
    runs, benchmarks = targets.runs(study), targets.used_benchmarks(study)
    return {
        "results": [
            *(paths.table(study, name) for name in study.tables),
            *_transfer(study, "csv"),
            *_ranks(study),
            paths.figures(study),
            *_overlays(study),
            *_feature_figures(study),
            *_label_curve(study),
            *_data_card(study).values(),
            *(paths.model_card(study, run) for run in runs),
            *_backbones(study),
            *(paths.quarantine(study, benchmark) for benchmark in benchmarks),
            *(paths.quarantine(study, benchmark) for benchmark in targets.tested_alone(study)),
            *failures.shown(study),
        ]
    }


# ---- figures ------------------------------------------------------------------------------------


def figures_options(study: Study) -> PlotOptions:
    """Options of `figures`."""
    methods = dict.fromkeys(run.method for run in targets.runs(study))
    sources = {stage: study.chain.stage_label(stage) for stage in study.pretrain.stages}
    sources |= {name: entry.label or name for name, entry in study.weights.items()}
    benchmarks = targets.used_benchmarks(study)
    return PlotOptions(
        look=study.figures,
        method_labels={name: study.methods[name].label for name in methods},
        benchmark_labels={name: study.benchmarks[name].label for name in benchmarks},
        source_labels={RANDOM: "random initialisation", **sources},
        seed=_first_seed(study, targets.runs(study)),
    )


def figures_inputs(study: Study) -> Files:
    """Files that the figures are drawn from, by the flag that takes them."""
    runs = targets.first_trainings(study)
    return {
        "scores": paths.all_scores(study),
        **_histories(study),
        "predictions": [paths.predictions(study, run) for run in runs],
        "datasets": [paths.nnunet_dataset(study, b) for b in targets.used_benchmarks(study)],
        "probes": _probes(study),
    }


def feature_figures_options(study: Study) -> FeatureOptions:
    """Options of `feature_figures`."""
    return FeatureOptions(
        models=tuple(targets.shown_chain(study)),
        spacing_mm=study.ct3m.spacing_mm,
        fold=study.folds[0],
        features=study.features,
        figures=study.figures,
    )


def feature_figures_inputs(study: Study) -> Files:
    """Files that pictures of features are made from, by the flag that takes them."""
    references = targets.shown_chain(study).values()
    checkpoints = [paths.weights(study, reference) for reference in references]
    return {**probed_cases(study), "checkpoints": checkpoints}


def overlays_options(study: Study) -> OverlayOptions:
    """Options of `overlays`."""
    look = study.figures
    return OverlayOptions(
        **study.overlays.model_dump(), window_hu=look.window_hu, colours=look.colours
    )


def overlays_inputs(study: Study, benchmark: str) -> Files:
    """Files that the pictures of a benchmark's cases are made from, by the flag."""
    runs = [run for run in targets.first_trainings(study) if run.benchmark == benchmark]
    return {
        "dataset": paths.nnunet_dataset(study, benchmark),
        "predictions": [paths.predictions(study, run) for run in runs],
        "scores": [paths.scores(study, run) for run in runs],
    }


# ---- the report ---------------------------------------------------------------------------------


def report_options(study: Study) -> ReportOptions:
    """Options of `report`."""
    names = sorted(study.tables)  # the order of sections in a file changes nothing
    rows = [method for table in names for method in study.tables[table].rows]
    stages = {name: entry.label or name for name, entry in study.weights.items()}
    stages |= {name: _capitalised(study.chain.stage_label(name)) for name in study.pretrain.stages}
    return ReportOptions(
        title=study.title,
        notes=study.notes,
        tables=tuple(tables_options(study, table) for table in names),
        methods={name: method.label for name, method in study.methods.items()},
        order=tuple(dict.fromkeys(rows)),
        benchmarks={name: benchmark.label for name, benchmark in study.benchmarks.items()},
        stages=stages,
        corpus=targets.corpus(study),
        datasets={name: study.dataset(name).title for name in targets.curated_datasets(study)},
        benchmark_datasets={name: study.benchmarks[name].dataset for name in study.benchmarks},
        prices=study.prices,
        seed=_first_seed(study, targets.runs(study)),
        configuration=study.model_dump(mode="json", exclude_defaults=True),
    )


def report_inputs(study: Study) -> Files:
    """Files that the report shows, by the flag that takes them."""
    benchmarks = [*targets.used_benchmarks(study), *targets.tested_alone(study)]
    quarantines = [paths.quarantine(study, benchmark) for benchmark in benchmarks]
    return {
        "tables": [paths.table(study, name) for name in study.tables],
        "figures": [paths.figures(study), *_feature_figures(study)],
        **_data_card(study),
        "scores": paths.all_scores(study),
        "overlays": _overlays(study),
        **_histories(study),
        "probes": _probes(study),
        "quarantine": [*paths.chunk_reports(study, targets.curated_datasets(study)), *quarantines],
        "provenance": paths.provenance(study),
        **({"beyond": beyond} if (beyond := _beyond(study)) else {}),
    }


def _beyond(study: Study) -> list[str]:
    """Files of the sections that the study asks for beyond the paper's tables."""
    return [
        *_label_curve(study),
        *_transfer(study, "json"),
        *_ranks(study),
        *_backbones(study),
        *failures.shown(study),
    ]


def _histories(study: Study) -> dict[str, list[str]]:
    """Losses of all trainings; of finetunings with several seeds, of the first one."""
    stages, runs = targets.used_stages(study), targets.first_trainings(study)
    return {
        "pretraining": [paths.pretraining_history(study, stage) for stage in stages],
        "finetuning": [paths.finetuning_history(study, run) for run in runs],
    }


def _probes(study: Study) -> list[str]:
    return [paths.probe(study, source) for source in targets.probed(study)]


def _overlays(study: Study) -> list[str]:
    return [paths.overlays(study, benchmark) for benchmark in targets.used_benchmarks(study)]


def _transfer(study: Study, suffix: str) -> list[str]:
    """The table of transfer in one format, where the study asks for one."""
    return [] if study.transfer is None else [paths.transfer_table(study, suffix)]


def _data_card(study: Study) -> dict[str, str]:
    """The data card of CT-3M, where the study makes it."""
    return {"card": paths.data_card(study)} if targets.curated_datasets(study) else {}


def _label_curve(study: Study) -> list[str]:
    """The label curve, where the study has one."""
    return [] if study.label_curve is None else [paths.label_curve(study)]


def _backbones(study: Study) -> list[str]:
    """The comparison of backbones, where the study asks for one."""
    return [] if study.backbones is None else [paths.backbones(study)]


def _feature_figures(study: Study) -> list[str]:
    """Pictures of features; none where nothing is pretrained."""
    return [paths.feature_figures(study)] if targets.shown_chain(study) else []


def _capitalised(label: str) -> str:
    return label[:1].upper() + label[1:]
