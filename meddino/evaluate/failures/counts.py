"""What is predicted where there is nothing, and lesions that are hit or missed."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from meddino.evaluate import statistics
from meddino.evaluate.failures import strata
from meddino.evaluate.failures.options import Failures
from meddino.evaluate.failures.summaries import RUN, Row

FALSE_POSITIVES = [*RUN, "structure", "cases", "predicted_in", "mean_ml", "largest_ml", "few"]
"""Columns of the table of what is predicted where there is nothing."""
LESIONS = [
    *(*RUN, "structure", "criterion", "place", "size", "dsc", "lesions", "hits", "cases_with"),
    *("sensitivity", "low", "high", "few", "false_positives", "cases"),
    *("per_case", "per_case_low", "per_case_high"),
]
"""Columns of the table of lesions."""


def false_positives(scores: pd.DataFrame) -> Iterator[Row]:
    """What is predicted of a structure in cases that lack it; what all have is left out."""
    lacking = scores[scores["reference_ml"] == 0].sort_values("label", kind="stable")
    for keys, part in lacking.groupby([*RUN, "structure"], sort=False):
        predicted = part["predicted_ml"]
        count, total = int((predicted > 0).sum()), len(part)
        yield {
            **dict(zip([*RUN, "structure"], keys, strict=True)),
            "cases": total,
            "predicted_in": count,
            "mean_ml": float(predicted.mean()),
            "largest_ml": float(predicted.max()),
            "few": total < statistics.FEWEST_CASES,
        }


def lesion_rows(
    options: Failures, scores: pd.DataFrame, parts: list[pd.DataFrame]
) -> Iterator[Row]:
    """Sensitivity and false positives, by criterion and size, with the DSC of the structure."""
    if not parts:
        return
    lesions = pd.concat(parts, ignore_index=True)
    edges = options.lesion_edges_mm
    lesions["place"] = strata.places(lesions["diameter_mm"].to_numpy(), edges)
    hits = {"any overlap": lesions["shared_voxels"] > 0, f"IoU {options.iou:g}": lesions["iou"] > 0}
    for (benchmark, method), of_run in scores.groupby(RUN, sort=False):
        for structure in options.lesions.get(str(benchmark), ()):
            of_structure = of_run[of_run["structure"] == structure]
            names = [str(case) for case in of_structure["case"].unique()]
            own = lesions[
                (lesions[[*RUN, "structure"]] == [benchmark, method, structure]).all(axis=1)
            ]
            dsc = 100 * of_structure["dsc_paper"].mean()
            keys = {"benchmark": benchmark, "method": method, "structure": structure}
            for criterion, hit in hits.items():
                counted = own.assign(hit=hit.loc[own.index])
                bins = [("all", counted)] + [
                    (name, counted[counted["place"] == place])
                    for place, name in enumerate(strata.names(edges, "mm"))
                ]
                for place, (name, part) in enumerate(bins):
                    row = {"criterion": criterion, "place": place, "size": name, "dsc": dsc}
                    yield keys | row | _counts(part, names)


def _counts(lesions: pd.DataFrame, names: list[str]) -> Row:
    """Sensitivity for lesions of the reference, and false positives among those predicted."""
    of_reference = lesions[lesions["side"] == "reference"].groupby("case")["hit"]
    per_case = of_reference.agg(["sum", "count"]).reindex(names, fill_value=0).astype(np.int64)
    hit, total = per_case["sum"].to_numpy(), per_case["count"].to_numpy()
    share, low, high = strata.share(hit, total)
    wrong = lesions[(lesions["side"] == "predicted") & ~lesions["hit"]]
    wrong_by_case = wrong.groupby("case").size().reindex(names, fill_value=0)
    false = np.asarray(wrong_by_case, np.float64)[:, None]
    fp_low, fp_high = np.maximum(statistics.interval(false), 0)
    with_lesions = int((total > 0).sum())
    return {
        "lesions": int(total.sum()),
        "hits": int(hit.sum()),
        "cases_with": with_lesions,
        **{"sensitivity": 100 * share, "low": 100 * low, "high": 100 * high},
        "few": with_lesions < statistics.FEWEST_CASES,
        "false_positives": int(false.sum()),
        "cases": len(names),
        "per_case": float(false.mean()),
        "per_case_low": float(fp_low),
        "per_case_high": float(fp_high),
    }
