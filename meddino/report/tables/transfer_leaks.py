"""Tested cases that a transferred model was trained on, by their names or by their copies."""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from meddino.ct3m.exclusion import with_copies, with_series
from meddino.datasets.cases import case_of
from meddino.report.options import TransferPair

COLUMNS = ["dataset_a", "case_a", "dataset_b", "case_b"]
Folds = Sequence[dict[str, list[str]]]
"""nnU-Net's `splits_final.json`."""


class Leak(NamedTuple):
    """A tested case that the model of a fold was trained on.

    Attributes:
        fold: of the model.
        case: of the tested benchmark.
        because: how it is known.
    """

    fold: int
    case: str
    because: str


def leaks(
    pair: TransferPair, folds: Folds, tested: pd.DataFrame, copies: pd.DataFrame | None
) -> list[Leak]:
    """The tested cases that were in training.

    Args:
        pair: the two benchmarks.
        folds: of the benchmark that the models were trained on.
        tested: rows with `fold` and `case`.
        copies: volumes that are copies (columns of `duplicates.Pair`); None: nobody searched.
    """
    result = []
    for fold in sorted(set(tested["fold"].tolist())):
        cases = tested.loc[tested["fold"] == fold, "case"]
        trained = {(pair.train_dataset, case): "is trained on" for case in folds[fold]["train"]}
        reached = with_copies(with_series(trained, _named(copies)), copies)
        reasons: dict[str, str] = {}
        for (dataset, name), because in reached.items():
            if dataset == pair.test_dataset:
                reasons.setdefault(case_of(name), because)
        unique = sorted(set(cases) & set(reasons))
        result += [Leak(fold, case, reasons[case]) for case in unique]
    return result


def _named(copies: pd.DataFrame | None) -> set[tuple[str, str]]:
    """All volumes that have a copy."""
    if copies is None:
        return set()
    rows = copies[COLUMNS].itertuples(index=False)
    return {key for row in rows for key in ((row[0], row[1]), (row[2], row[3]))}


def between(pair: TransferPair, copies: pd.DataFrame | None) -> int:
    """Number of pairs of copies between the two datasets, whether trained on or not."""
    if copies is None:
        return 0
    ends = [{row[0], row[2]} for row in copies[COLUMNS].itertuples(index=False)]
    return sum(end == {pair.train_dataset, pair.test_dataset} for end in ends)
