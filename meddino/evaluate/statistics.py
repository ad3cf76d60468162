"""What a table's means say of other cases: intervals, and a paired test of two methods.

Values are float64 (cases, structures), NaN where a protocol leaves a case out. All is of one
quantity, the mean that the tables show: over the cases of each structure, then over structures.
benchmarks/intervals.py measures how often the intervals cover, and how often the test is wrong.
"""

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


def _t_interval(centre: float, errors: Floats, counts: Floats) -> tuple[float, float]:
    cases = len(errors)
    if cases < 2 or np.nanmin(counts) < 2:
        return float("nan"), float("nan")
    variance = (errors.sum(axis=1) ** 2).sum()
    if variance == 0:
        return centre, centre
    by_structure = (errors**2).sum(axis=0)
    freedom = by_structure.sum() ** 2 / np.nansum(by_structure**2 / (counts - 1))
    ends = stats.t.interval(CONFIDENCE, min(freedom, cases - 1), centre, np.sqrt(variance))
    return float(ends[0]), float(ends[1])


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
