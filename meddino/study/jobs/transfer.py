"""Jobs of workflow/rules/transfer.smk: models of one benchmark on another, and their table."""

from meddino.core.errors import MeddinoError
from meddino.evaluate.options import TransferEvaluateOptions
from meddino.finetune.options import PredictOptions
from meddino.report.options import TransferOptions, TransferPair
from meddino.study import paths, targets
from meddino.study.model import Study
from meddino.study.transfer import Pair, Transfer, modalities, shared

Files = dict[str, str | list[str]]
"""Inputs of a job, by the flag that takes them."""


def _section(study: Study) -> Transfer:
    if study.transfer is None:
        raise MeddinoError("config: there is no section `transfer`; see docs/transfer.md")
    return study.transfer


def _pair(study: Study, origin: str, benchmark: str) -> Pair:
    for pair in _section(study).pairs:
        if (pair.train, pair.test) == (origin, benchmark):
            return pair
    raise MeddinoError(f"transfer.pairs: there is none of {origin} to {benchmark}; add it")


def predict_options(study: Study, origin: str, benchmark: str, fold: str) -> PredictOptions:
    """Options of `predict` by a model of another benchmark."""
    everything = tests_all(study, origin, benchmark)
    return PredictOptions(prediction=study.prediction, fold=None if everything else int(fold))


def tests_all(study: Study, origin: str, benchmark: str) -> bool:
    """Whether models of another benchmark segment all cases of one, not a fold's."""
    return not _pair(study, origin, benchmark).in_domain


def evaluate_options(
    study: Study, origin: str, benchmark: str, method: str, fold: str
) -> TransferEvaluateOptions:
    """Options of `evaluate_transfer`."""
    pair = _pair(study, origin, benchmark)
    tolerances = study.benchmarks[benchmark].counted_tolerances_mm
    structures = shared(pair, study.benchmarks[origin], study.benchmarks[benchmark])
    return TransferEvaluateOptions(
        origin=origin,
        benchmark=benchmark,
        method=method,
        fold=int(fold),
        evaluation=study.evaluate,
        structures=structures,
        tolerances_mm={name: mm for name, mm in tolerances.items() if name in structures},
    )


def table_options(study: Study) -> TransferOptions:
    """Options of `transfer`."""
    section = _section(study)
    return TransferOptions(
        title=section.title,
        pairs=tuple(_table_pair(study, pair) for pair in section.pairs),
        methods=section.methods,
        method_labels={name: study.methods[name].label for name in section.methods},
        method_data={name: targets.pretraining_data(study, name) for name in section.methods},
        metrics=section.metrics,
        protocol=section.protocol,
        compare_with=section.compare_with,
        tolerance_mm=study.evaluate.tolerance_mm,
        corpus=targets.corpus(study),
    )


def _table_pair(study: Study, pair: Pair) -> TransferPair:
    train, test = study.benchmarks[pair.train], study.benchmarks[pair.test]
    structures = shared(pair, train, test)
    tolerances = test.counted_tolerances_mm
    known = [name for name in (train.dataset, test.dataset) if name in _searched(study)]
    return TransferPair(
        train=pair.train,
        test=pair.test,
        train_label=train.label,
        test_label=test.label,
        train_dataset=train.dataset,
        test_dataset=test.dataset,
        train_channel=train.channel,
        test_channel=test.channel,
        structures=structures,
        train_structures=tuple(train.names),
        test_structures=tuple(test.names),
        in_domain=pair.in_domain,
        modalities=modalities(pair, train, test),
        test_modalities=tuple(test.modalities),
        mr_cases=study.dataset(test.dataset).mr_cases,
        tolerances_mm={name: mm for name, mm in tolerances.items() if name in structures},
        searched=len(known) == 2,
    )


def _searched(study: Study) -> list[str]:
    """Datasets that are searched for copies, where the study does so anyway."""
    return targets.searched_datasets(study) if targets.curated_datasets(study) else []


def tables(study: Study) -> list[str]:
    """The table of transfer in all formats, where the study asks for one."""
    formats = ("csv", "md", "tex") if study.transfer is not None else ()
    return [paths.transfer_table(study, suffix) for suffix in formats]


def table_inputs(study: Study) -> Files:
    """Files that the table of transfer is made from, by the flag that takes them."""
    trained = dict.fromkeys(run.origin for run in targets.transferred(study))
    in_domain = targets.transfer_runs(study, in_domain=True)
    return {
        "scores": [paths.transferred_scores(study, run) for run in targets.transferred(study)],
        "in_domain": [paths.scores(study, run) for run in in_domain],
        "splits": [paths.splits(study, benchmark) for benchmark in trained],
        **({"duplicates": paths.duplicates(study)} if _searched(study) else {}),
    }
