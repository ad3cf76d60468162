"""The `ranks` verb: how sure the order of a table's rows is, and how large their differences are.

Ranks and their stability are those that challenges report (challengeR: Wiesenfarth et al. 2021,
doi:10.1038/s41598-021-82017-6): methods are ranked by their mean, cases are drawn again with
replacement, and methods are ranked anew in each draw.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from meddino.core.errors import MeddinoError
from meddino.core.files import atomic
from meddino.evaluate import statistics
from meddino.evaluate.scores import read_scores
from meddino.evaluate.statistics import CONFIDENCE, Floats
from meddino.report.options import RanksOptions
from meddino.report.tables import samples
from meddino.report.tables.metrics import METRICS
from meddino.report.tables.samples import Sample

Ints = npt.NDArray[np.int64]
TAIL = (1 - CONFIDENCE) / 2


def run(options: RanksOptions, *, scores: list[Path], output: Path) -> None:
    """Rank the methods of a table on each benchmark, by each metric.

    Cases are drawn with replacement, the same ones for all methods; where a method was trained with
    several seeds, its trainings are drawn as well, in each fold by themselves.

    Args:
        options: rows, columns, metrics, and the number of draws.
        scores: scores of the runs that the table shows.
        output: `<table>.ranks.csv`, a line for each column and method that has scores: `mean`;
            `rank` by it (1 is the best; equal means share the lower number), its 95 % interval
            `rank_low` to `rank_high`, and `share_<k>`, the share of draws in which it is k-th; of
            the column, `tau` (mean of Kendall's tau-b between drawn and full ranking), `tau_low`
            and `tau_high` (its 95 % interval), `cases`, `draws`; and where the table compares its
            rows with one, `compared_with`, `dz` (Cohen's, of the paired difference), and
            `superiority` (share of cases in which the row is better, equal ones counted half).

    Raises:
        MeddinoError: no column has scores of two methods; a file is damaged.
    """
    table = read_scores(scores, options.seed)
    lines = [
        line
        for metric in options.table.metrics
        for benchmark in options.table.benchmarks
        for line in _column(options, table, benchmark, metric)
    ]
    if not lines:
        raise MeddinoError(
            f"{options.name}: no benchmark has scores of two of its rows; run evaluate and give its"
            " files with --scores"
        )
    with atomic(output) as temporary:
        pd.DataFrame(lines).to_csv(temporary, index=False, float_format="%.6g")


def _column(
    options: RanksOptions, scores: pd.DataFrame, benchmark: str, metric: str
) -> Iterator[dict[str, Any]]:
    """Lines of the methods that have scores; none where fewer than two have, on common cases."""
    of_benchmark = scores[scores["benchmark"] == benchmark]
    protocol, rank = options.table.protocol, METRICS[metric].rank
    every = {
        method: samples.sample(of_benchmark[of_benchmark["method"] == method], metric, protocol)
        for method in options.table.rows
    }
    scored = {name: values for name, values in every.items() if not np.isnan(samples.mean(values))}
    shared = _shared(scored) if len(scored) > 1 else {}
    if not any(len(values.cases) for values in shared.values()):
        return
    means = np.array([samples.mean(values) for values in shared.values()])
    ranking = _ranks(rank(means[None]))[0]
    draws = _ranks(rank(_drawn_means(shared, options.ranks.resamples, options.ranks.seed)))
    tau = _taus(draws, ranking)
    low, high = np.quantile(draws, [TAIL, 1 - TAIL], axis=0, method="inverted_cdf")
    for place, method in enumerate(shared):
        yield {
            "table": options.name,
            "row": options.method_labels[method],
            "method": method,
            "benchmark": benchmark,
            "metric": metric,
            "protocol": protocol,
            "mean": means[place],
            "rank": ranking[place],
            "rank_low": low[place],
            "rank_high": high[place],
            **{
                f"share_{k}": (draws[:, place] == k).mean()
                for k in range(1, len(options.table.rows) + 1)
            },
            **tau._asdict(),
            "cases": len(shared[method].cases),
            "draws": len(draws),
            **_effects(options, shared, method, rank),
        }


def _shared(scored: Mapping[str, Sample]) -> dict[str, Sample]:
    """The methods on the cases that all of them have scored."""
    first, *others = scored.values()
    cases = first.cases
    for values in others:
        cases = cases.intersection(values.cases)
    return {name: values.on(cases, values.structures) for name, values in scored.items()}


def _drawn_means(shared: Mapping[str, Sample], draws: int, seed: int) -> Floats:
    """Means of the methods in each draw, (draws, methods)."""
    rng = np.random.default_rng(seed)
    cases = len(next(iter(shared.values())).cases)
    # (draws, cases): how often a case is drawn
    times = rng.multinomial(cases, np.full(cases, 1 / cases), draws).astype(np.float64)
    columns = [
        statistics.resampled_means(values.trainings(), times, rng) for values in shared.values()
    ]
    return np.stack(columns, axis=1)


def _ranks(keys: Floats) -> Ints:
    """Ranks of the columns in each row, the smallest key first; equal keys share the lower one."""
    # A structure that no drawn case has leaves no mean, and its method the last rank.
    known = np.where(np.isnan(keys), np.inf, keys)
    return np.asarray(stats.rankdata(known, method="min", axis=1), dtype=np.int64)


class Tau(NamedTuple):
    """Kendall's tau-b between drawn rankings and the full one: mean, and its 95 % interval."""

    tau: float
    tau_low: float
    tau_high: float


def _taus(draws: Ints, ranking: Ints) -> Tau:
    """The agreement of drawn rankings, (draws, methods), with the full one.

    A ranking in which all methods are equal agrees with none, and is left out.
    """
    distinct, counts = np.unique(draws, axis=0, return_counts=True)
    taus = np.repeat([stats.kendalltau(row, ranking).statistic for row in distinct], counts)
    taus = taus[~np.isnan(taus)]
    if not len(taus):
        return Tau(np.nan, np.nan, np.nan)
    low, high = np.quantile(taus, [TAIL, 1 - TAIL])
    return Tau(float(taus.mean()), float(low), float(high))


def _effects(
    options: RanksOptions,
    shared: Mapping[str, Sample],
    method: str,
    rank: Callable[[Any], Any],
) -> dict[str, Any]:
    """How large the difference from the row is that the table compares with."""
    base = options.table.compare_with
    if base is None:
        return {}
    if base == method or base not in shared:
        return {"compared_with": None, "dz": None, "superiority": None}
    pair = shared[method], shared[base]
    return {
        "compared_with": base,
        "dz": samples.standardised(*pair),
        "superiority": samples.superiority(*pair, rank),
    }
