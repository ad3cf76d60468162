"""Jobs of workflow/rules/backbones.smk: pretrained ViTs beside each other."""

from meddino.core.errors import MeddinoError
from meddino.report.tables.options import BackbonesOptions, Compared
from meddino.study import paths, targets
from meddino.study.chain import Snapshot
from meddino.study.jobs.report import weights_source
from meddino.study.model import Study


def backbones_options(study: Study) -> BackbonesOptions:
    """Options of `backbones`.

    Raises:
        MeddinoError: the study compares none.
    """
    if study.backbones is None:
        raise MeddinoError("config: there is no section `backbones`; add one with a `table`")
    table = study.tables[study.backbones.table]
    return BackbonesOptions(
        title=table.title,
        protocol=table.protocol,
        methods=tuple(_compared(study, method) for method in table.rows),
        benchmarks={name: study.benchmarks[name].label for name in table.benchmarks},
        probe_benchmark=study.benchmarks[study.probe.benchmark].label,
        look=study.figures,
    )


def _compared(study: Study, method: str) -> Compared:
    options = study.methods[method]
    start = study.chain.resolve(options.weights)
    if isinstance(start, Snapshot):
        snapshot = f"{start.stage}@{start.iteration}"
        name: str | None = snapshot
        text = f"{study.chain.label(snapshot)}, of this study"
    else:
        name = start or targets.probe_source(study, method)
        text = "random weights" if start is None else study.weights[start].title or start
    _, weights = study.chain.history(options.weights)
    asked = study.backbones is not None and study.backbones.probe
    return Compared(
        method=method,
        label=options.label,
        backbone=options.backbone,
        start=text,
        weights=tuple(weights_source(study, key) for key in weights),
        probed=name if asked and options.backbone is not None else None,
    )


def backbones_inputs(study: Study) -> dict[str, str | list[str]]:
    """Files that the comparison is made from, by the flag that takes them."""
    if study.backbones is None:
        return {}
    name, fold = study.backbones.table, study.folds[0]
    runs = [run for run in targets.runs_of_table(study, name) if run.fold == fold]
    return {
        "table": paths.table(study, name),
        "models": [paths.model_description(study, run) for run in runs],
        "probes": [paths.probe(study, source) for source in targets.probed_backbones(study)],
    }
