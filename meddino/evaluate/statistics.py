"""How sure a mean over cases is: bootstrap intervals, and a paired test between two methods.

Values are (cases, structures), NaN where a protocol leaves a case out.
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
        The 95 % interval; NaN with fewer than two cases, which say nothing of others.
    """
    known = ~np.isnan(values)
    cases = int(known.any(axis=1).sum())
    if cases < 2:
        return float("nan"), float("nan")
    known, values = known[known.any(axis=1)], values[known.any(axis=1)]
    times = np.random.default_rng(seed).multinomial(cases, np.full(cases, 1 / cases), DRAWS)
    sums, counts = times @ np.where(known, values, 0.0), times @ known.astype(float)
    means = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)
    drawn = means.sum(axis=1) / (counts > 0).sum(axis=1)
    beyond = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [beyond, 1 - beyond])
    return float(low), float(high)


def wilcoxon(first: Floats, second: Floats) -> float:
    """Wilcoxon signed-rank test of two methods on the same cases.

    A case's difference is the mean over the structures that both methods have a value for.

    Args:
        first: (cases, structures).
        second: the same cases and structures.

    Returns:
        p, of both sides; 1 where the methods agree on every case, NaN where they share none.
    """
    differences = first - second
    shared = ~np.isnan(differences).all(axis=1)
    if not shared.any():
        return float("nan")
    by_case = np.nanmean(differences[shared], axis=1)
    return float(stats.wilcoxon(by_case).pvalue) if by_case.any() else 1.0


def holm(p_values: Floats) -> Floats:
    """Correct for several tests (Holm's step-down); NaN are no tests."""
    corrected = np.full(len(p_values), np.nan)
    order = [i for i in np.argsort(p_values) if not np.isnan(p_values[i])]
    reached = 0.0
    for rank, i in enumerate(order):
        reached = max(reached, min(1.0, p_values[i] * (len(order) - rank)))
        corrected[i] = reached
    return corrected
