"""The numbers of the table of transfer: both models' means, the drop between them, and tests."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from meddino.evaluate import statistics
from meddino.evaluate.statistics import UNKNOWN, Contrast
from meddino.report.options import TransferOptions, TransferPair
from meddino.report.tables.metrics import METRICS
from meddino.report.tables.results import PROTOCOLS, few_cases
from meddino.report.tables.samples import Sample, case_values

TESTS = ("p", "contrast_p")
"""Columns of p."""


class Scores(NamedTuple):
    """Scores of one pair of benchmarks, of the same cases and structures.

    Attributes:
        transferred: rows of `evaluate_transfer`.
        in_domain: rows of `evaluate`; none where no model was trained on the tested benchmark.
    """

    transferred: pd.DataFrame
    in_domain: pd.DataFrame


class Values(NamedTuple):
    """A metric of a method, cases by structures: NaN where a protocol counts nothing.

    Attributes:
        transferred: by models of the other benchmark.
        in_domain: by models of the tested one, of the same cases; None where there are none.
    """

    transferred: pd.DataFrame
    in_domain: pd.DataFrame | None


def table_lines(options: TransferOptions, scores: Mapping[int, Scores]) -> pd.DataFrame:
    """All numbers of the table: a line for each pair, metric, protocol and method.

    Args:
        options: pairs and methods.
        scores: of each pair, by its number.

    Returns:
        Columns `train`, `test`, `row` (label), `method`, `data`, `metric`, `unit`, `protocol`,
        `cases`, `structures` (their number), `transferred`, `in_domain` and `drop` (in-domain less
        transferred), each with `_low` and `_high` (95 % interval), `p` (of the drop), `contrast`
        (of `contrast_of`, drop or transferred: this method's less that of `compared_with`) with
        `contrast_low`, `contrast_high` and `contrast_p`, `tests` (their number) and `few` (JSON:
        structures with fewer than `statistics.FEWEST_CASES` cases, and how many). Both kinds of p
        are corrected over all tests of a protocol.
    """
    lines = pd.DataFrame(
        line
        for number, pair in enumerate(options.pairs)
        for metric in options.metrics
        for protocol in PROTOCOLS
        for line in _pair_lines(options, pair, scores[number], metric, protocol)
    )
    # A reader looks at all tests of the table, so that all of them are one family.
    for _, part in lines.groupby("protocol", sort=False):
        corrected = statistics.holm(part[[*TESTS]].to_numpy(float).ravel()).reshape(-1, len(TESTS))
        lines.loc[part.index, [*TESTS]] = corrected
        lines.loc[part.index, "tests"] = int((~np.isnan(corrected)).sum())
    return lines.astype({"tests": int})


def _pair_lines(
    options: TransferOptions, pair: TransferPair, scores: Scores, metric: str, protocol: str
) -> Iterator[dict[str, Any]]:
    """Lines of a pair, method by method; `p` is not corrected yet."""
    values = {method: _values(pair, scores, method, metric, protocol) for method in options.methods}
    base = options.compare_with
    for method, own in values.items():
        low, high = METRICS[metric].bounds
        drop = UNKNOWN
        if own.in_domain is not None:
            drop = statistics.contrast(own.in_domain.to_numpy(), own.transferred.to_numpy())
        compared = base is not None and base != method
        contrast = _contrast(own, values[base]) if base is not None and compared else UNKNOWN
        widest = (low - high) * (1 if own.in_domain is None else 2)
        yield {
            "train": pair.train,
            "test": pair.test,
            "row": options.method_labels[method],
            "method": method,
            "data": options.method_data[method],
            "metric": metric,
            "unit": METRICS[metric].unit,
            "protocol": protocol,
            "cases": len(own.transferred),
            "structures": own.transferred.shape[1],
            **_mean("transferred", own.transferred, (low, high)),
            **_mean("in_domain", own.in_domain, (low, high)),
            **_difference("drop", drop, low - high),
            "p": drop.p,
            "compared_with": base if compared else None,
            "contrast_of": ("transferred" if own.in_domain is None else "drop") if compared else "",
            **_difference("contrast", contrast, widest),
            "contrast_p": contrast.p,
            "few": json.dumps(few_cases(Sample([own.transferred]))),
        }


def _values(pair: TransferPair, scores: Scores, method: str, metric: str, protocol: str) -> Values:
    """A method's values in a pair."""
    tables = [
        # Several folds' models may have segmented a case, which then counts once.
        case_values(rows[rows["method"] == method], metric, protocol).groupby("case").mean()
        for rows in scores
    ]
    transferred, in_domain = (table.reindex(columns=pair.scored) for table in tables)
    return Values(transferred, in_domain.loc[transferred.index] if pair.in_domain else None)


def _contrast(own: Values, base: Values) -> Contrast:
    """A method's drop less another's; where there are no drops, its result less the other's.

    The difference of two drops is that of two sums, each with one method's in-domain values and the
    other's transferred ones: twice that of their means over both halves. Exchanging the two sums
    within a case exchanges the methods.
    """
    if own.in_domain is None or base.in_domain is None:
        return statistics.contrast(own.transferred.to_numpy(), base.transferred.to_numpy())
    half = statistics.contrast(
        np.hstack([own.in_domain.to_numpy(), base.transferred.to_numpy()]),
        np.hstack([base.in_domain.to_numpy(), own.transferred.to_numpy()]),
    )
    return Contrast(2 * half.difference, 2 * half.low, 2 * half.high, half.p)


def _mean(name: str, values: pd.DataFrame | None, bounds: tuple[float, float]) -> dict[str, float]:
    """The mean and its interval, within what the metric can be; NaN where there are no values."""
    if values is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"), float("nan"))
    low, high = np.clip(statistics.interval(values.to_numpy()), *bounds)
    return {name: statistics.mean(values.to_numpy()), f"{name}_low": low, f"{name}_high": high}


def _difference(name: str, contrast: Contrast, lowest: float) -> dict[str, float]:
    """A difference and its interval, within what it can be."""
    low, high = np.clip((contrast.low, contrast.high), lowest, -lowest)
    return {name: contrast.difference, f"{name}_low": low, f"{name}_high": high}


def structure_lines(options: TransferOptions, scores: Mapping[int, Scores]) -> pd.DataFrame:
    """Means of structures: a line for each pair, metric, protocol, method and structure.

    Returns:
        Columns `train`, `test`, `row`, `method`, `metric`, `unit`, `protocol`, `structure`,
        `cases` (in which it counts), `transferred`, `in_domain` and `drop`.
    """
    return pd.DataFrame(
        line
        for number, pair in enumerate(options.pairs)
        for metric in options.metrics
        for protocol in PROTOCOLS
        for method in options.methods
        for line in _structures(
            {
                **{
                    "train": pair.train,
                    "test": pair.test,
                    "row": options.method_labels[method],
                    "method": method,
                },
                **{"metric": metric, "unit": METRICS[metric].unit, "protocol": protocol},
            },
            _values(pair, scores[number], method, metric, protocol),
        )
    )


def _structures(keys: dict[str, Any], values: Values) -> Iterator[dict[str, Any]]:
    for name, column in values.transferred.items():
        in_domain = float("nan") if values.in_domain is None else values.in_domain[name].mean()
        yield {
            **keys,
            "structure": name,
            "cases": int(column.count()),
            "transferred": column.mean(),
            "in_domain": in_domain,
            "drop": in_domain - column.mean(),
        }


def counted(pair: TransferPair, cases: pd.Series) -> pd.Series:
    """Which cases are of a modality that counts: bool, as `cases`."""
    pattern = pair.mr_cases
    is_mr = cases.map(lambda case: pattern is not None and re.fullmatch(pattern, case) is not None)
    return is_mr.map({True: "MR", False: "CT"}).isin(pair.modalities)
