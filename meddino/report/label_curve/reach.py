"""Where a curve over the number of cases reaches another score, and how well that is known."""

from collections.abc import Sequence
from itertools import pairwise
from math import exp, isnan, log
from typing import Literal, NamedTuple

import pandas as pd

from meddino.evaluate import statistics


class Reach(NamedTuple):
    """Where a line that is known at a few numbers of cases first reaches zero.

    Attributes:
        outcome: `between` two of the numbers, or at one; already at the `fewest`; `not reached`
            with all cases; `unknown`, where a value is missing.
        cases: how many; None where it is not reached or unknown.
    """

    outcome: Literal["between", "fewest", "not reached", "unknown"]
    cases: float | None


UNKNOWN = Reach("unknown", None)


class Needed(NamedTuple):
    """How many cases a method needs for the score that another has with all of them.

    Attributes:
        estimate: by the mean scores.
        low: lower end of its 95 % interval.
        high: upper end.
    """

    estimate: Reach
    low: Reach
    high: Reach


def first_reach(cases: Sequence[float], values: Sequence[float]) -> Reach:
    """Where values first reach zero, linear in the logarithm of the number of cases between them.

    Nothing is said of fewer or more cases than were tried.

    Args:
        cases: numbers of cases, rising.
        values: one for each; NaN where it is not known.
    """
    if not values or any(isnan(value) for value in values):
        return UNKNOWN
    if values[0] >= 0:
        return Reach("fewest", cases[0])
    for (n, value), (more, next_value) in pairwise(zip(cases, values, strict=True)):
        if next_value >= 0:
            share = value / (value - next_value)
            return Reach("between", exp(log(n) + share * (log(more) - log(n))))
    return Reach("not reached", None)


def needed(cases: Sequence[float], curve: Sequence[pd.DataFrame], target: pd.DataFrame) -> Needed:
    """How many cases a method needs to reach a score.

    Its interval holds the numbers of cases at which the method's score and the target do not
    differ, by the interval of their difference on the same validation cases (Fieller's way): it
    begins where the upper end of that interval reaches zero and ends where the lower one does. It
    tells of other validation cases, not of other training cases or another seed.

    Args:
        cases: numbers of training cases, rising.
        curve: the method's scores at each, validation cases by structures, NaN where nothing
            counts.
        target: scores of the other method with all cases.
    """
    differences = []
    for scores in curve:
        both = scores.align(target, join="inner")
        differences.append(statistics.difference(*(values.to_numpy() for values in both)))
    estimates, lows, highs = zip(*differences, strict=True)
    return Needed(*(first_reach(cases, values) for values in (estimates, highs, lows)))
