"""Uncertainty of a mean over cases: bootstrap intervals, and a paired test of two methods.

Values are float64 (cases, structures), NaN where a protocol leaves a case out.
"""

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]

DRAWS = 10_000
CONFIDENCE = 0.95


def interval(values: Floats, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap (Efron) of the mean over cases of each structure, then over structures.

    Cases are drawn with replacement, each with all of its structures. A structure that a draw lacks
    is left out of it, as from the mean itself.

    Returns:
        Both ends of the 95 % interval; NaN with fewer than two cases, which have no spread.
    """
    scored = ~np.isnan(values)  # (cases, structures)
    has_scores = scored.any(axis=1)
    cases = int(has_scores.sum())
    if cases < 2:
        return float("nan"), float("nan")
    scored, values = scored[has_scores], values[has_scores]
    # How often each draw takes each case, (DRAWS, cases): sums over draws are then a product.
    weights = np.random.default_rng(seed).multinomial(cases, np.full(cases, 1 / cases), DRAWS)
    # (DRAWS, structures)
    sums, counts = weights @ np.where(scored, values, 0.0), weights @ scored.astype(float)
    means = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)
    draws = means.sum(axis=1) / (counts > 0).sum(axis=1)  # (DRAWS,)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def wilcoxon(first: Floats, second: Floats) -> float:
    """Wilcoxon signed-rank test of two methods on the same cases.

    A case's difference is the mean over the structures that both methods have a value for.

    Args:
        first: (cases, structures).
        second: the same cases and structures.

    Returns:
        Two-sided p; 1 where the methods agree on every case, NaN where they share none.
    """
    differences = first - second
    shared = ~np.isnan(differences).all(axis=1)
    if not shared.any():
        return float("nan")
    by_case = np.nanmean(differences[shared], axis=1)
    return float(stats.wilcoxon(by_case).pvalue) if by_case.any() else 1.0


def holm(p_values: Floats) -> Floats:
    """Correct for several tests (Holm's step-down); NaN is not counted as a test."""
    corrected = np.full(len(p_values), np.nan)
    order = [i for i in np.argsort(p_values) if not np.isnan(p_values[i])]
    largest = 0.0  # a corrected p is never below that of a smaller p
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, p_values[i] * (len(order) - rank)))
        corrected[i] = largest
    return corrected
