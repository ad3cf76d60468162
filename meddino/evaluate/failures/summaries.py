"""Means of some cases with their intervals, and the names that all tables of failures share."""

from typing import Any

import numpy as np
import pandas as pd

from meddino.evaluate import statistics

ALL = ""
"""The structure of a row that is over all of them."""
RUN = ["benchmark", "method"]
Row = dict[str, Any]


def records(table: pd.DataFrame) -> list[Row]:
    """The rows of a table, by the names of its columns."""
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def dsc_values(scores: pd.DataFrame) -> pd.DataFrame:
    """DSC (%) by the paper's protocol, cases by structures in the order of their labels."""
    structures = scores.sort_values("label")["structure"].unique()
    table = scores.assign(value=100 * scores["dsc_paper"])
    return table.pivot(index="case", columns="structure", values="value")[structures]


def summary(values: pd.DataFrame, top: float = 100.0) -> Row:
    """Mean over cases, then over structures, its interval within 0 and `top`, and the cases."""
    counted = values.dropna(how="all")
    low, high = np.clip(statistics.interval(counted.to_numpy()), 0, top)
    return {
        "cases": len(counted),
        "mean": statistics.mean(counted.to_numpy()),
        "low": float(low),
        "high": float(high),
        "few": 0 < len(counted) < statistics.FEWEST_CASES,
    }
