"""What has to run: all that the tables of a study ask for, and nothing else."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from meddino.core.errors import MeddinoError
from meddino.report import corpus as names
from meddino.report.label_curve.options import method_on
from meddino.study.chain import LEAVES, Snapshot
from meddino.study.model import Study
from meddino.study.sections import RANDOM


class Run(NamedTuple):
    """One finetuning: a method on a fold of a benchmark, with a seed.

    Attributes:
        seed: where it is another one than `training.seed`.
    """

    benchmark: str
    method: str
    fold: int
    seed: int | None = None

    @property
    def part(self) -> str:
        """Fold and further seed, as files and jobs are named: `0`, `0-seed1`."""
        return f"{self.fold}" if self.seed is None else f"{self.fold}-seed{self.seed}"


def fold_and_seed(part: str) -> tuple[int, int | None]:
    """Fold and further seed of a run, by their name in files and jobs.

    Raises:
        MeddinoError: it is no such name.
    """
    match = re.fullmatch(r"(\d+)(?:-seed(\d+))?", part)
    if match is None:
        raise MeddinoError(f"fold {part!r}: give a number, or one with a seed such as 0-seed1")
    return int(match[1]), None if match[2] is None else int(match[2])


def runs(study: Study) -> list[Run]:
    """Every finetuning that a table, the label curve or a transfer asks for, once."""
    unique = {
        Run(benchmark, method, fold, seed): None
        for table in study.tables.values()
        for method in table.rows
        for benchmark in table.benchmarks
        for fold in study.folds
        for seed in _seeds(study, benchmark, method)
    }
    unique |= dict.fromkeys(label_curve_runs(study))
    unique |= dict.fromkeys(transfer_runs(study))
    return list(unique)


def label_curve_runs(study: Study) -> list[Run]:
    """The finetunings that the label curve shows; those on all cases are the methods' own."""
    curve = study.label_curve
    return [
        Run(benchmark, method_on(method, percent), fold)
        for benchmark in (curve.benchmarks if curve else ())
        for method in (curve.methods if curve else ())
        for percent in (curve.percent if curve else ())
        for fold in study.folds
    ]


def _seeds(study: Study, benchmark: str, method: str) -> list[int | None]:
    """Seeds of a method on a benchmark; None stands for `training.seed`, which comes first."""
    first = study.training.seed
    seeds = study.seeds
    if seeds is None or not seeds.repeats(benchmark, method):
        return [None]
    return [None, *(seed for seed in seeds.values if seed != first)]


def first_trainings(study: Study) -> list[Run]:
    """The finetunings with `training.seed`: those whose curves and segmentations are shown."""
    return [run for run in runs(study) if run.seed is None]


def runs_of_table(study: Study, table: str) -> list[Run]:
    """The finetunings that a table shows."""
    options = study.tables[table]
    return [
        run
        for run in runs(study)
        if run.method in options.rows and run.benchmark in options.benchmarks
    ]


class Transferred(NamedTuple):
    """The cases of a benchmark, segmented by the model of one fold of another one."""

    origin: str
    benchmark: str
    method: str
    fold: int


def transferred(study: Study) -> list[Transferred]:
    """Every benchmark that a model of another one segments."""
    if study.transfer is None:
        return []
    return [
        Transferred(pair.train, pair.test, method, fold)
        for pair in study.transfer.pairs
        for method in study.transfer.methods
        for fold in study.folds
    ]


def transfer_runs(study: Study, *, in_domain: bool = False) -> list[Run]:
    """Finetunings whose models are transferred, or have what is to be compared with that.

    Args:
        study: the study.
        in_domain: only those on the benchmark that is tested.
    """
    if study.transfer is None:
        return []
    unique = {
        Run(benchmark, method, fold): None
        for pair in study.transfer.pairs
        for benchmark, asked in ((pair.train, not in_domain), (pair.test, pair.in_domain))
        for method in study.transfer.methods
        for fold in study.folds
        if asked
    }
    return list(unique)


def tested_alone(study: Study) -> list[str]:
    """Benchmarks that models of others segment, and that no model is trained on."""
    tested = dict.fromkeys(run.benchmark for run in transferred(study))
    return [name for name in tested if name not in used_benchmarks(study)]


def used_benchmarks(study: Study) -> list[str]:
    """Benchmarks that a finetuning is on."""
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
    needed = any(stages[stage].data != LEAVES for stage in used_stages(study))
    return list(study.ct3m.datasets) if needed else []


def corpus(study: Study) -> str:
    """Name of the slices that are pretrained on: CT-3M, unless they hold data of one's own."""
    own = set(study.ct3m.datasets) & set(study.datasets)
    return names.OWN if own else names.PAPER


def pretraining_data(study: Study, method: str) -> str:
    """Variant of CT-3M that a method's weights have seen, as of `Chain.variant`."""
    start = study.chain.resolve(study.methods[method].weights)
    return study.chain.variant(start.stage) if isinstance(start, Snapshot) else "none"


def variants(study: Study) -> list[str]:
    """Variants of CT-3M that are pretrained on; `paper` is always among them."""
    used = {study.pretrain.stages[stage].data for stage in used_stages(study)}
    leak_free = ["leak-free"] if "ct3m-leak-free" in used else []
    return ["paper", *leak_free, *(name for name in study.ct3m.variants if name in used)]


def variant_datasets(study: Study, variant: str) -> list[str]:
    """Datasets of a variant of CT-3M; `none` has none."""
    if variant in study.ct3m.variants:
        return list(study.ct3m.held_by(variant)[0])
    return [] if variant == "none" else list(study.ct3m.datasets)


def meanings(study: Study, variants: Iterable[str]) -> dict[str, str]:
    """What variants of `ct3m.variants` hold, as printed, of those that are among `variants`."""
    own = study.ct3m.variants
    return {name: own[name].meaning() for name in dict.fromkeys(variants) if name in own}


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
    on_ct = [stage for stage in used_stages(study) if stages[stage].data != LEAVES]
    chain = [stage for stage in on_ct if stages[stage].data == "ct3m"] or on_ct
    start = stages[chain[0]].init if chain else None
    shown = {} if start is None else {study.chain.label(start): start}
    return shown | {study.chain.stage_label(s): f"{s}@{stages[s].snapshots[-1]}" for s in chain}
