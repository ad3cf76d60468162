"""Bins that cases are sorted into, and intervals of shares of lesions."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import stats

from meddino.evaluate.statistics import CONFIDENCE

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def tertiles(values: Floats) -> tuple[float, ...]:
    """Edges that divide values into three parts of the same number; fewer where values repeat."""
    return tuple(float(edge) for edge in np.unique(np.quantile(values, [1 / 3, 2 / 3])))


def places(values: Floats, edges: Sequence[float]) -> Integers:
    """The bin of each value, from 0 on; a value on an edge is in the bin below it."""
    return np.searchsorted(np.asarray(edges, np.float64), values, side="left")


def names(edges: Sequence[float], unit: str) -> list[str]:
    """Names of the bins between edges: `up to 2 mm`, `2 to 4 mm`, `over 4 mm`."""
    texts = [_short(edge) for edge in edges]
    if not texts:
        return ["all"]
    between = [f"{low} to {high} {unit}" for low, high in pairwise(texts)]
    return [f"up to {texts[0]} {unit}", *between, f"over {texts[-1]} {unit}"]


def _short(value: float) -> str:
    """Three digits, as people write them."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def share(hits: Integers, totals: Integers) -> tuple[float, float, float]:
    """Share of lesions that are hit, and its 95 % interval over other cases.

    The interval is that of Korn and Graubard (Survey Methodology 1998): Clopper and Pearson's, with
    as many lesions as would give the variance between cases, since lesions of a case are alike.
    Where no or all lesions are hit there is no variance, and cases are counted instead of lesions.

    Args:
        hits: lesions hit in each case, (N,).
        totals: lesions of each case.

    Returns:
        The share and both ends; NaN without lesions, ends NaN with fewer than two cases of them.
    """
    hits, totals = hits[totals > 0], totals[totals > 0]
    nothing = float("nan")
    if not len(totals):
        return nothing, nothing, nothing
    cases, lesions = len(totals), int(totals.sum())
    mean = float(hits.sum() / lesions)
    if cases < 2:
        return mean, nothing, nothing
    residuals = hits - mean * totals
    variance = cases / (cases - 1) * float((residuals**2).sum()) / lesions**2
    tail = (1 - CONFIDENCE) / 2
    if variance > 0 and 0 < mean < 1:
        wider = (stats.t.isf(tail, lesions - 1) / stats.t.isf(tail, cases - 1)) ** 2
        effective = min(mean * (1 - mean) / variance, lesions) * wider
    else:
        effective = float(cases)
    hit, missed = mean * effective, (1 - mean) * effective
    low = stats.beta.ppf(tail, hit, missed + 1) if hit > 0 else 0.0
    high = stats.beta.isf(tail, hit + 1, missed) if missed > 0 else 1.0
    return mean, float(low), float(high)
