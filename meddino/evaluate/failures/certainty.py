"""Whether the softmax of a network is right about itself: voxel by voxel, and case by case."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from meddino.evaluate import statistics
from meddino.evaluate.failures import calibration
from meddino.evaluate.failures.summaries import ALL, RUN, Row, records, summary

LISTS = ("count", "correct", "confidence")
"""Columns of the file of `confidence` that hold a list: a value of each bin."""


def _stacked(softmax: pd.DataFrame) -> list[npt.NDArray[Any]]:
    """Count, correct and confidence summed over rows, a value of each bin."""
    return [np.sum(np.stack(softmax[key].tolist()), axis=0) for key in LISTS]


def calibration_rows(softmax: pd.DataFrame) -> Iterator[Row]:
    """Expected calibration error of each structure over all voxels, and its mean over cases."""
    for (benchmark, method), of_run in softmax.groupby(RUN, sort=False):
        keys = {"benchmark": benchmark, "method": method}
        errors = [
            100 * calibration.expected_error(*row)
            for row in zip(*(of_run[k] for k in LISTS), strict=True)
        ]
        by_case = of_run.assign(error=errors).pivot(
            index="case", columns="structure", values="error"
        )
        pooled = {}
        for _, part in of_run.groupby("label"):
            sums = _stacked(part)
            values = (calibration.expected_error(*sums), calibration.overconfidence(*sums))
            pooled[str(part["structure"].iloc[0])] = [100 * value for value in values]
        means = np.array(list(pooled.values()))
        known = means[~np.isnan(means).any(axis=1)]
        overall = known.mean(axis=0).tolist() if len(known) else [math.nan, math.nan]
        for structure, (ece, over) in {ALL: overall, **pooled}.items():
            chosen = by_case if structure == ALL else by_case[[structure]]
            row = {"structure": structure, "ece": ece, "overconfidence": over}
            yield keys | row | summary(chosen)


def reliability_rows(softmax: pd.DataFrame) -> Iterator[Row]:
    """Share of correct voxels by their softmax, of each structure, and of all voxels together."""
    for (benchmark, method), of_run in softmax.groupby(RUN, sort=False):
        parts = {str(p["structure"].iloc[0]): p for _, p in of_run.groupby("label")}
        for structure, part in {ALL: of_run, **parts}.items():
            count, correct, confidence = _stacked(part)
            for place in np.flatnonzero(count):
                yield {
                    "benchmark": benchmark,
                    "method": method,
                    "structure": structure,
                    "bin": int(place),
                    "voxels": int(count[place]),
                    "share": 100 * float(count[place] / count.sum()),
                    "softmax": 100 * float(confidence[place] / count[place]),
                    "correct": 100 * float(correct[place] / count[place]),
                }


def case_rows(
    scores: pd.DataFrame, facts: dict[Any, pd.DataFrame], softmax: pd.DataFrame
) -> list[Row]:
    """Each case of each run: what is known of it, its DSC, and how confident the network was."""
    dice = [
        calibration.soft_dice(*row)
        for row in softmax[["mass", "predicted_mass", "predicted_voxels"]].itertuples(index=False)
    ]
    keys = [*RUN, "case"]
    by_case = softmax.assign(confidence=dice).groupby(keys, sort=False)
    known = by_case.agg(
        confidence=("confidence", "mean"), changed_voxels=("changed_voxels", "first")
    )
    # A case in which nothing is predicted at all is the least confident.
    known["confidence"] = 100 * known["confidence"].fillna(0)
    table = scores.assign(dsc=100 * scores["dsc_paper"]).groupby(keys, sort=False)["dsc"].mean()
    joined = table.to_frame().join(known).reset_index()
    known_of = {
        name: dict(zip(map(str, t.index), records(t), strict=True)) for name, t in facts.items()
    }
    return [row | known_of[row["benchmark"]][row["case"]] for row in records(joined)]


def abstention_rows(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Curves of each run, and the share of the oracle's gain; cases without a DSC are left out."""
    table = pd.DataFrame(rows).dropna(subset=["dsc", "confidence"]).sort_values([*RUN, "case"])
    points: list[Row] = []
    ratios: list[Row] = []
    for (benchmark, method), part in table.groupby(RUN, sort=False):
        keys = {"benchmark": benchmark, "method": method}
        curves = calibration.abstention(part["dsc"].to_numpy(), part["confidence"].to_numpy())
        count = len(part)
        points += [
            {**keys, "order": order, "kept": k, "share": 100 * k / count, "dsc": float(value)}
            for order, values in curves.items()
            for k, value in enumerate(values, 1)
        ]
        few = count < statistics.FEWEST_CASES
        ratio = calibration.rejection_ratio(curves)
        ratios.append({**keys, "cases": count, "ratio": ratio, "few": few})
    return {"abstention": points, "rejection": ratios}
