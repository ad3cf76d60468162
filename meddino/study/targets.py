"""What has to run: all that the tables of a study ask for, and nothing else."""

from typing import NamedTuple

from meddino.report import corpus as names
from meddino.study.chain import Snapshot, stage_label
from meddino.study.model import Study
from meddino.study.sections import RANDOM


class Run(NamedTuple):
    """One finetuning: a method on a fold of a benchmark."""

    benchmark: str
    method: str
    fold: int


def runs(study: Study) -> list[Run]:
    """Every finetuning that a table asks for; one that two tables share runs once."""
    unique = {
        Run(benchmark, method, fold): None
        for table in study.tables.values()
        for method in table.rows
        for benchmark in table.benchmarks
        for fold in study.folds
    }
    return list(unique)


def runs_of_table(study: Study, table: str) -> list[Run]:
    """The finetunings that a table shows."""
    options = study.tables[table]
    return [
        run
        for run in runs(study)
        if run.method in options.rows and run.benchmark in options.benchmarks
    ]


def used_benchmarks(study: Study) -> list[str]:
    """Benchmarks that a table asks for."""
    return list(dict.fromkeys(run.benchmark for run in runs(study)))


def trained(study: Study) -> dict[tuple[str, str], list[Run]]:
    """What is preprocessed, (benchmark, configuration), and the runs that train on it.

    First comes what no run needs pretraining for, so that it waits for none.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs(study):
        configuration = study.methods[run.method].configuration
        groups.setdefault((run.benchmark, configuration), []).append(run)
    late = {
        key: any(pretraining_data(study, run.method) != "none" for run in group)
        for key, group in groups.items()
    }
    return dict(sorted(groups.items(), key=lambda item: late[item[0]]))


def used_stages(study: Study) -> list[str]:
    """Pretraining stages that a run needs, each after those that it starts from."""
    ordered: dict[str, None] = {}
    for run in runs(study):
        stages, _ = study.chain.history(study.methods[run.method].weights)
        ordered |= dict.fromkeys(stages)
    return list(ordered)


def curated_datasets(study: Study) -> list[str]:
    """Datasets of CT-3M; none where no run needs it, as where all weights are published ones."""
    stages = study.pretrain.stages
    needed = any(stages[stage].data != "leaves" for stage in used_stages(study))
    return list(study.ct3m.datasets) if needed else []


def corpus(study: Study) -> str:
    """Name of the slices that are pretrained on: CT-3M, unless they hold data of one's own."""
    own = set(study.ct3m.datasets) & set(study.datasets)
    return names.OWN if own else names.PAPER


def pretraining_data(study: Study, method: str) -> str:
    """Variant of CT-3M that a method's weights have seen: paper, leak-free, or `none`."""
    start = study.chain.resolve(study.methods[method].weights)
    return study.chain.variant(start.stage) if isinstance(start, Snapshot) else "none"


def variants(study: Study) -> list[str]:
    """Variants of CT-3M that are pretrained on; `paper` is always among them."""
    used = {study.pretrain.stages[stage].data for stage in used_stages(study)}
    return ["paper", *(["leak-free"] if "ct3m-leak-free" in used else [])]


def searched_datasets(study: Study) -> list[str]:
    """Datasets that are searched for copies: CT-3M's, and for leak-free data the benchmarks'."""
    leak_free = any(stage.data == "ct3m-leak-free" for stage in study.pretrain.stages.values())
    return study.used_datasets() if leak_free else list(study.ct3m.datasets)


def probed(study: Study) -> list[str]:
    """What is probed, along the chain: a random initialisation, published weights, stages."""
    stages = used_stages(study)
    starts = [study.chain.resolve(study.pretrain.stages[stage].init) for stage in stages]
    published = dict.fromkeys(start for start in starts if isinstance(start, str))
    return [RANDOM, *published, *stages] if stages else []


def compared(study: Study) -> list[str]:
    """Methods that are compared as backbones; none where the study does not ask for it."""
    return [] if study.backbones is None else list(study.tables[study.backbones.table].rows)


def probe_source(study: Study, method: str) -> str | None:
    """What is probed for a method's frozen ViT: a stage, weights, or a random initialisation.

    None for a network without a ViT. A random ViT of another architecture than that of `pretrain`
    has a name of its own.
    """
    options = study.methods[method]
    start = study.chain.resolve(options.weights)
    if options.backbone is None:
        return None
    if start is None:
        return RANDOM if options.backbone == study.pretrain.backbone else f"{RANDOM}_{method}"
    return start.stage if isinstance(start, Snapshot) else start


def probed_backbones(study: Study) -> dict[str, str]:
    """What is probed for the comparison of backbones, and a method that starts from it."""
    if study.backbones is None or not study.backbones.probe:
        return {}
    sources = {method: probe_source(study, method) for method in reversed(compared(study))}
    return {source: method for method, source in sources.items() if source is not None}


def shown_chain(study: Study) -> dict[str, str]:
    """Checkpoints whose features are shown: label -> reference.

    What the first stage on CT-3M starts from, if anything, and the last snapshot of each of these
    stages. Where they have twins on leak-free data, the twins are not shown.
    """
    stages = study.pretrain.stages
    on_ct = [stage for stage in used_stages(study) if stages[stage].data != "leaves"]
    chain = [stage for stage in on_ct if stages[stage].data == "ct3m"] or on_ct
    start = stages[chain[0]].init if chain else None
    shown = {} if start is None else {study.chain.label(start): start}
    return shown | {stage_label(s): f"{s}@{stages[s].snapshots[-1]}" for s in chain}
