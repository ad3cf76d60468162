"""A method's values in a column of a table, from one training or from several."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from meddino.evaluate import statistics
from meddino.evaluate.scores import SEED
from meddino.evaluate.statistics import Contrast, Trainings
from meddino.report.tables.metrics import METRICS

CASE = ["fold", "case"]


class Sample(NamedTuple):
    """A metric of one method on one benchmark, in the unit of the tables.

    Attributes:
        by_seed: for each seed cases by structures, NaN where a protocol counts nothing; all have
            the same cases (fold, case) and structures.
    """

    by_seed: list[pd.DataFrame]

    @property
    def cases(self) -> pd.Index:
        """Fold and name of each case."""
        return self.by_seed[0].index

    @property
    def structures(self) -> pd.Index:
        """Names of the structures."""
        return self.by_seed[0].columns

    @property
    def folds(self) -> int:
        """Number of folds."""
        return int(self.cases.get_level_values("fold").nunique())

    def counts(self) -> pd.Series:
        """Cases with a value of each structure, by any seed."""
        return self.over_seeds().count()

    def over_seeds(self) -> pd.DataFrame:
        """Cases by structures, the mean over seeds."""
        if len(self.by_seed) == 1:
            return self.by_seed[0]
        return pd.concat(self.by_seed).groupby(CASE, sort=False).mean()

    def trainings(self) -> Trainings:
        """The values as the statistics take them."""
        folds = self.cases.get_level_values("fold").to_numpy(dtype=np.int64)
        return Trainings(np.stack([table.to_numpy() for table in self.by_seed]), folds)

    def on(self, cases: pd.Index, structures: pd.Index) -> "Sample":
        """Some of the cases and structures."""
        return Sample([table.loc[cases, structures] for table in self.by_seed])


def sample(scores: pd.DataFrame, metric: str, protocol: str) -> Sample:
    """The values of one method on one benchmark.

    The tables show their mean over cases, then over structures (section 4.1, authors' script): NaN
    are left out, as are structures without a single value. Seeds that have not scored all cases
    that the others have are left out, since nothing could be said of a training that is not there.

    Args:
        scores: rows of one method on one benchmark, or none.
        metric: a key of `METRICS`.
        protocol: `paper` or `area`.
    """
    if SEED not in scores or scores.empty:
        return Sample([case_values(scores, metric, protocol)])
    tables = [case_values(part, metric, protocol) for _, part in scores.groupby(SEED)]
    alike: dict[frozenset[object], list[pd.DataFrame]] = defaultdict(list)
    for table in tables:
        alike[frozenset(table.index)].append(table)
    whole = max(alike.items(), key=lambda item: (len(item[0]), len(item[1])))[1]
    structures = sorted({name for table in whole for name in table.columns})
    return Sample([table.reindex(index=whole[0].index, columns=structures) for table in whole])


def case_values(scores: pd.DataFrame, metric: str, protocol: str) -> pd.DataFrame:
    """A metric in the unit of the tables, cases by structures; NaN where a protocol counts nothing.

    Args:
        scores: rows of one training in each fold, or none.
        metric: a key of `METRICS`.
        protocol: `paper` or `area`.
    """
    unit, column = METRICS[metric].unit, METRICS[metric].column.format(protocol=protocol)
    # HD95 and volumes have no protocols of their own: they count where the DSC does.
    counted = scores[column].where(scores[f"dsc_{protocol}"].notna())
    values = counted * 100 if unit == "%" else counted
    table = scores.assign(value=values)
    return table.pivot(index=CASE, columns="structure", values="value")


def aligned(first: Sample, second: Sample) -> tuple[Sample, Sample]:
    """Two samples on the cases and structures that both have."""
    cases = first.cases.intersection(second.cases)
    structures = first.structures.intersection(second.structures)
    return first.on(cases, structures), second.on(cases, structures)


def mean(values: Sample) -> float:
    """The mean over cases and trainings, then over structures."""
    return statistics.mean(values.trainings().rows())


def interval(values: Sample) -> tuple[float, float]:
    """The mean's 95 % interval over other cases, and over other trainings where there are some."""
    if len(values.by_seed) == 1:
        return statistics.interval(values.by_seed[0].to_numpy())
    return statistics.interval_over_trainings(values.trainings())


def contrast(first: Sample, second: Sample) -> Contrast:
    """Compare two methods on the cases that both have."""
    pair = aligned(first, second)
    if max(len(values.by_seed) for values in pair) == 1:
        return statistics.contrast(*(values.by_seed[0].to_numpy() for values in pair))
    return statistics.contrast_over_trainings(*(values.trainings() for values in pair))


def standardised(first: Sample, second: Sample) -> float:
    """Cohen's dz of two methods on the cases that both have."""
    return statistics.standardised(*(values.trainings() for values in aligned(first, second)))


def superiority(first: Sample, second: Sample, rank: Callable[[Any], Any]) -> float:
    """Share of cases in which the first method is better; equal cases count half.

    A case counts by its mean over trainings, then over the structures that both methods have in it.

    Args:
        first: a method.
        second: another one.
        rank: key of a value for `min`, as of `metrics.Metric`.

    Returns:
        NaN without a case.
    """
    one, other = (values.over_seeds() for values in aligned(first, second))
    both = one.notna() & other.notna()
    pair = [rank(table.where(both).mean(axis=1).dropna()) for table in (one, other)]
    shares = (pair[0] < pair[1]) + 0.5 * (pair[0] == pair[1])
    return float(shares.mean())
