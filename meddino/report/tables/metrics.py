"""The metrics of the tables: their columns in the scores, their units, and which value is best."""

from collections.abc import Callable
from math import inf
from operator import neg, pos
from typing import Any, NamedTuple


class Metric(NamedTuple):
    """A metric.

    Attributes:
        column: its column in the scores; `{protocol}` stands for `paper` or `area`.
        unit: of its values as the tables print them.
        bounds: smallest and largest value that it can have.
        rank: key of a value, or of an array of values, for `min`, which finds the best one.
    """

    column: str
    unit: str
    bounds: tuple[float, float]
    rank: Callable[[Any], Any]


METRICS = {
    "DSC": Metric("dsc_{protocol}", "%", (0.0, 100.0), neg),
    "NSD": Metric("nsd_{protocol}", "%", (0.0, 100.0), neg),
    "HD95": Metric("hd95_mm", "mm", (0.0, inf), pos),
    "VD": Metric("volume_difference_ml", "ml", (-inf, inf), abs),
}
