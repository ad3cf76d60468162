"""The metrics of the tables: their columns in the scores, their units, and which value is best."""

from collections.abc import Callable
from operator import neg, pos
from typing import NamedTuple


class Metric(NamedTuple):
    """A metric.

    Attributes:
        column: its column in the scores; `{protocol}` stands for `paper` or `area`.
        unit: of its values as the tables print them.
        rank: key of a value for `min`, which finds the best one.
    """

    column: str
    unit: str
    rank: Callable[[float], float]


METRICS = {
    "DSC": Metric("dsc_{protocol}", "%", neg),
    "NSD": Metric("nsd_{protocol}", "%", neg),
    "HD95": Metric("hd95_mm", "mm", pos),
    "VD": Metric("volume_difference_ml", "ml", abs),
}
