"""What a table's means say of other cases: intervals, and a paired test of two methods.

Values are float64 (cases, structures), NaN where a protocol leaves a case out. All is of one
quantity, the mean that the tables show: over the cases of each structure, then over structures.

Where each method was trained several times (`Trainings`), the mean is over these as well, and what
is said holds for other trainings too: seeds are no further cases, since all cases of a fold share
what a training happened to learn.
benchmarks/intervals.py measures how often the intervals cover, and how often the tests are wrong.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]

CONFIDENCE = 0.95
DRAWS = 10_000
"""Permutations of a test; all of them where there are no more (13 cases)."""
FEWEST_CASES = 6
"""Cases that a test needs: among 2**5 permutations no two-sided p is below 2 / 32 = 0.0625."""


class Contrast(NamedTuple):
    """A method's mean less another's.

    Attributes:
        difference: in the unit of the values.
        low: lower end of its 95 % interval.
        high: upper end.
        p: two-sided, of this test alone.
    """

    difference: float
    low: float
    high: float
    p: float


class Trainings(NamedTuple):
    """A method's values from several trainings, which differ in their seeds.

    Attributes:
        values: float64 (seeds, cases, structures).
        folds: int64 (cases,), the fold that a case validates. Trainings are nested in folds: a seed
            names one training in each fold, on other cases, and these are independent.
    """

    values: Floats
    folds: npt.NDArray[np.int64]

    def rows(self) -> Floats:
        """Each case once for each seed, (seeds * cases, structures)."""
        seeds, cases, structures = self.values.shape
        return self.values.reshape(seeds * cases, structures)

    def scored(self) -> npt.NDArray[np.bool_]:
        """Cases with a value, (cases,)."""
        return np.asarray(~np.isnan(self.values).all(axis=(0, 2)))

    def only(self, cases: npt.NDArray[np.bool_]) -> "Trainings":
        """Some of the cases."""
        return Trainings(self.values[:, cases], self.folds[cases])


UNKNOWN = Contrast(*[float("nan")] * 4)
"""Where there is nothing to compare."""


def mean(values: Floats) -> float:
    """Mean over the cases of each structure, then over structures (section 4.1, authors' script).

    Returns:
        NaN without any value.
    """
    return float(_means(np.ones((1, len(values))), values)[0])


def interval(values: Floats) -> tuple[float, float]:
    """The 95 % interval of the mean over other cases, by Student's t.

    The variance is between cases, each with all of its structures, which depend on each other. The
    degrees of freedom are Satterthwaite's: few where a structure that few cases have makes up most
    of the variance, and never more than cases less one.

    Returns:
        Both ends; NaN if there are fewer than two cases, or a structure has a value in one case
        only, so that nothing is known of its spread.
    """
    values = values[~np.isnan(values).all(axis=1)]
    return _t_interval(mean(values), _errors(values), _counts(values))


def contrast(first: Floats, second: Floats) -> Contrast:
    """Compare two methods on the same cases.

    The difference is that of their two means, and the interval is of the same kind as theirs. The
    test exchanges the methods' values within cases, all structures at once, in all ways or in
    `DRAWS` random ones, and asks how often the difference is as large: the sign of the difference
    is the direction of the test, and where methods are exchangeable it is wrong as often as p says.

    Args:
        first: (cases, structures).
        second: the same cases and structures.

    Returns:
        `UNKNOWN` where a method has no value; no `p` below `FEWEST_CASES` cases.
    """
    first, second = _scored(first, second)
    centre, low, high = difference(first, second)
    if np.isnan(centre):
        return UNKNOWN
    p = _exchange(first, second) if len(first) >= FEWEST_CASES else float("nan")
    return Contrast(centre, low, high, p)


def difference(first: Floats, second: Floats) -> tuple[float, float, float]:
    """The difference of two methods' means on the same cases, with its interval and no test.

    Args:
        first: (cases, structures).
        second: the same cases and structures.

    Returns:
        The difference and both ends of its 95 % interval; NaN where a method has no value.
    """
    first, second = _scored(first, second)
    centre = mean(first) - mean(second)
    if np.isnan(centre):
        return centre, centre, centre
    errors = _errors(first) - _errors(second)
    ends = _t_interval(centre, errors, np.fmin(_counts(first), _counts(second)))
    return centre, *ends


def _scored(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    """The cases that either method has a value of."""
    scored = ~(np.isnan(first) & np.isnan(second)).all(axis=1)
    return first[scored], second[scored]


def interval_over_trainings(trainings: Trainings) -> tuple[float, float]:
    """The 95 % interval of the mean over other cases and other trainings, by Student's t.

    Its variance is that over cases, as of `interval`, of the means over seeds, plus that over
    trainings: in each fold, between its seeds, of what the fold adds to the mean. Trainings of
    different folds are independent. What a training does to single cases is in both, so that the
    interval is wide rather than narrow. The degrees of freedom are Satterthwaite's: few where the
    variance between a few trainings makes up most of it.

    Returns:
        Both ends; NaN as of `interval`.
    """
    trainings = trainings.only(trainings.scored())
    parts = [_between_cases(_case_errors(trainings), _case_counts(trainings))]
    return _ends(mean(trainings.rows()), [*parts, *_between_trainings(trainings)])


def contrast_over_trainings(first: Trainings, second: Trainings) -> Contrast:
    """Compare two methods, each trained several times, on the same cases.

    Cases are paired, trainings are not: seeds of different methods have nothing in common. The
    variance is that of `interval_over_trainings`, over cases of their differences, and over
    trainings of both methods. The test is the t-test with that variance, since a few trainings have
    too few permutations for a small p.

    Args:
        first: (seeds, cases, structures).
        second: the same cases and structures; it may have another number of seeds.

    Returns:
        `UNKNOWN` where a method has no value; no `p` below `FEWEST_CASES` cases.
    """
    scored = first.scored() | second.scored()
    first, second = first.only(scored), second.only(scored)
    difference = mean(first.rows()) - mean(second.rows())
    if np.isnan(difference):
        return UNKNOWN
    errors = _case_errors(first) - _case_errors(second)
    cases = _between_cases(errors, np.fmin(_case_counts(first), _case_counts(second)))
    parts = [cases, *_between_trainings(first), *_between_trainings(second)]
    low, high = _ends(difference, parts)
    p = _t_test(difference, parts) if len(errors) >= FEWEST_CASES else float("nan")
    return Contrast(difference, low, high, p)


def standardised(first: Trainings, second: Trainings) -> float:
    """Cohen's dz: the difference of two means over the deviation of its cases (Lakens 2013).

    The deviation is that of `interval`'s variance over cases, of the means over seeds, so that with
    all values dz is the mean over cases of the paired difference over its standard deviation.

    Args:
        first: (seeds, cases, structures).
        second: the same cases and structures.

    Returns:
        NaN where the variance over cases is unknown or 0.
    """
    scored = first.scored() | second.scored()
    first, second = first.only(scored), second.only(scored)
    counts = np.fmin(_case_counts(first), _case_counts(second))
    part = _between_cases(_case_errors(first) - _case_errors(second), counts)
    difference = mean(first.rows()) - mean(second.rows())
    deviation = np.sqrt(part.variance * scored.sum())
    return float(difference / deviation) if deviation > 0 else float("nan")


def resampled_means(trainings: Trainings, times: Floats, rng: np.random.Generator) -> Floats:
    """The mean in draws of cases, and of trainings where there are several in a fold.

    Args:
        trainings: (seeds, cases, structures).
        times: (draws, cases), how often each draw has a case.
        rng: draws the trainings of each fold, with replacement.

    Returns:
        (draws,), NaN where a draw has no value.
    """
    seeds, draws = len(trainings.values), len(times)
    folds, places = np.unique(trainings.folds, return_inverse=True)
    # (draws, folds, seeds): how often a draw has a training
    drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), (draws, len(folds)))
    weights = drawn[:, places].swapaxes(1, 2) * times[:, None]  # (draws, seeds, cases)
    return _means(weights.reshape(draws, -1), trainings.rows())


def holm(p_values: Floats) -> Floats:
    """Correct for several tests (Holm's step-down); NaN is not counted as a test."""
    corrected = np.full(len(p_values), np.nan)
    order = [i for i in np.argsort(p_values) if not np.isnan(p_values[i])]
    largest = 0.0  # a corrected p is never below that of a smaller p
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, p_values[i] * (len(order) - rank)))
        corrected[i] = largest
    return corrected


def _means(weights: Floats, values: Floats) -> Floats:
    """The mean for each row of weights of the cases, (draws, cases): float64 (draws,)."""
    scored = ~np.isnan(values)
    # (draws, structures)
    sums, counts = weights @ np.where(scored, values, 0.0), weights @ scored.astype(np.float64)
    by_structure = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)
    structures = (counts > 0).sum(axis=1)
    nothing = np.full(len(weights), np.nan)
    return np.divide(by_structure.sum(axis=1), structures, out=nothing, where=structures > 0)


def _counts(values: Floats) -> Floats:
    """Cases of each structure; NaN where there is none."""
    counts = (~np.isnan(values)).sum(axis=0)
    return np.where(counts > 0, counts, np.nan)


def _errors(values: Floats) -> Floats:
    """What each value adds to the mean's error, (cases, structures); 0 where there is none.

    Their sum is 0. The squares of their sums over structures add up to the variance of the mean,
    that of a structure's own mean being unbiased (n - 1).
    """
    counts = _counts(values)
    structures = (~np.isnan(counts)).sum()
    deviations = values - np.nansum(values, axis=0) / counts
    scale = structures * np.sqrt(counts * np.maximum(counts - 1, 1))
    return np.nan_to_num(deviations / scale)


class _Part(NamedTuple):
    """A part of the variance of a mean, and the degrees of freedom that it is known with."""

    variance: float
    freedom: float


UNKNOWN_PART = _Part(float("nan"), float("nan"))


def _t_interval(centre: float, errors: Floats, counts: Floats) -> tuple[float, float]:
    return _ends(centre, [_between_cases(errors, counts)])


def _between_cases(errors: Floats, counts: Floats) -> _Part:
    """The variance over cases, from `_errors`; unknown where a single case has a structure."""
    cases = len(errors)
    if cases < 2 or np.nanmin(counts) < 2:
        return UNKNOWN_PART
    by_structure = (errors**2).sum(axis=0)
    total = by_structure.sum() ** 2
    freedom = total / np.nansum(by_structure**2 / (counts - 1)) if total else cases - 1
    return _Part((errors.sum(axis=1) ** 2).sum(), min(freedom, cases - 1))


def _between_trainings(trainings: Trainings) -> list[_Part]:
    """The variance over the trainings of each fold; none of a fold that was trained on once."""
    seeds = len(trainings.values)
    if seeds < 2:
        return []
    by_case = _value_errors(trainings).sum(axis=2)
    by_fold = [by_case[:, trainings.folds == f].sum(axis=1) for f in np.unique(trainings.folds)]
    return [_Part(seeds * sums.var(ddof=1), seeds - 1) for sums in by_fold]


def _value_errors(trainings: Trainings) -> Floats:
    """What each value adds to the mean's error, (seeds, cases, structures); 0 where none is."""
    counts = _counts(trainings.rows())
    structures = (~np.isnan(counts)).sum()
    deviations = trainings.values - np.nansum(trainings.rows(), axis=0) / counts
    return np.nan_to_num(deviations / (structures * counts))


def _case_counts(trainings: Trainings) -> Floats:
    """Cases of each structure, however many seeds scored them; NaN where there is none."""
    counts = (~np.isnan(trainings.values)).any(axis=0).sum(axis=0)
    return np.where(counts > 0, counts, np.nan)


def _case_errors(trainings: Trainings) -> Floats:
    """What each case adds to the mean's error over seeds, (cases, structures), as `_errors`."""
    counts = _case_counts(trainings)
    unbiased = np.sqrt(counts / np.maximum(counts - 1, 1))
    return np.nan_to_num(_value_errors(trainings).sum(axis=0) * unbiased)


def _ends(centre: float, parts: Sequence[_Part]) -> tuple[float, float]:
    """Both ends of Student's interval with a variance of independent parts."""
    variance, freedom = _together(parts)
    if np.isnan(variance):
        return float("nan"), float("nan")
    if variance == 0:
        return centre, centre
    ends = stats.t.interval(CONFIDENCE, freedom, centre, np.sqrt(variance))
    return float(ends[0]), float(ends[1])


def _t_test(difference: float, parts: Sequence[_Part]) -> float:
    """Two-sided p of a difference whose variance has independent parts."""
    variance, freedom = _together(parts)
    if variance == 0:
        return float(difference == 0)
    return float(2 * stats.t.sf(abs(difference) / np.sqrt(variance), freedom))


def _together(parts: Sequence[_Part]) -> _Part:
    """The sum of independent parts, with Satterthwaite's degrees of freedom."""
    if len(parts) == 1:
        return parts[0]
    variance = sum(part.variance for part in parts)
    if not variance > 0:  # none, or unknown
        return _Part(variance, float("nan"))
    shares = [part.variance**2 / part.freedom for part in parts]
    return _Part(variance, variance**2 / sum(shares))


def _exchange(first: Floats, second: Floats) -> float:
    """Two-sided p of the permutation test of paired samples."""
    cases, values = len(first), np.concatenate([first, second])

    def difference(rows: npt.NDArray[np.int64], _: object, axis: int) -> Floats:
        """Of permuted rows of `values`, (draws, cases) or (cases,): the others are the second's."""
        taken = np.moveaxis(np.atleast_2d(rows), axis, -1) < cases
        weights = np.concatenate([taken, ~taken], axis=1).astype(np.float64)
        # Rounded, since sums in another order are equal but for their last bits.
        differences = np.round(_means(weights, values) - _means(1 - weights, values), 9)
        return differences.reshape(rows.shape[:-1])

    rows = np.arange(cases)
    test = stats.permutation_test(
        (rows, rows + cases),
        difference,
        permutation_type="samples",
        vectorized=True,
        n_resamples=DRAWS,
        rng=0,
    )
    return float(test.pvalue)
