"""Which slices stay out of an index: repeated ones, and those that a benchmark validates on."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from meddino.core.errors import MeddinoError
from meddino.core.files import read_json
from meddino.core.nnunet import benchmark_of
from meddino.core.subsets import nested_subset
from meddino.ct3m.options import IndexOptions
from meddino.datasets.cases import case_of

CaseKey = tuple[str, str]
"""Dataset and case."""
Places = dict[Any, Any]
"""Rows of each CaseKey, int64 (slices,)."""


class Exclusion(NamedTuple):
    """What stays out."""

    mask: npt.NDArray[np.bool_]
    """(rows,), true for what does."""
    summary: dict[str, Any]
    """For the card: how much, which validation cases and copies of them, and why."""


def find_exclusion(
    options: IndexOptions,
    rows: pd.DataFrame,
    pairs: pd.DataFrame | None,
    splits: Sequence[Path],
) -> Exclusion:
    """Say which rows of an index stay out.

    Args:
        options: which datasets are in it, in order of preference, and what stays out.
        rows: dataset and case (categories) and slice of every row, also of datasets that are
            searched only.
        pairs: volumes that are copies (columns of `duplicates.Pair`), or None: nobody asked.
        splits: the benchmarks' splits; without any, validation cases stay in.

    Raises:
        MeddinoError: a split has no such fold, or belongs to no benchmark.
    """
    order = options.datasets or tuple(sorted(rows["dataset"].unique()))
    elsewhere = ~rows["dataset"].isin(order).to_numpy()
    places: Places = rows.groupby(["dataset", "case"], observed=True, sort=False).indices
    curated = set(places)
    removed = with_copies(with_series(validation_cases(options, splits), curated), pairs)
    leaked = np.zeros(len(rows), dtype=bool)
    for case in curated & set(removed):
        leaked[places[case]] = True
    others = not_drawn(options, {case for case in curated if case[0] in order})
    left = np.zeros(len(rows), dtype=bool)
    for case in others:
        left[places[case]] = True
    repeated = np.zeros(len(rows), dtype=bool)
    if options.dedupe == "keep-first" and pairs is not None:
        numbers = rows["slice"].to_numpy()
        repeated = _repeated(numbers, places, pairs, order, set(removed) | others)
    summary: dict[str, Any] = {
        "dedupe": options.dedupe,
        "slices_left_out_as_repeated": int((repeated & ~leaked & ~elsewhere).sum()),
    }
    if options.variant is not None:
        summary["variant"] = {
            "name": options.variant,
            "percent": options.percent,
            "seed": options.seed,
            "volumes_not_drawn": len(others),
        }
    if splits:
        listed = [
            {"dataset": dataset, "case": case, "because": reason}
            for (dataset, case), reason in sorted(removed.items())
        ]
        present = [entry for entry in listed if (entry["dataset"], entry["case"]) in curated]
        summary["leak_free"] = {
            "folds": list(options.folds),
            "removed": [entry for entry in present if entry["dataset"] in order],
            "slices_removed": int((leaked & ~elsewhere).sum()),
            # Not in CT-3M under their own name: MR, or quarantined. Nothing can be compared.
            "without_slices": [entry for entry in listed if entry not in present],
        }
    return Exclusion(elsewhere | leaked | left | repeated, summary)


def not_drawn(options: IndexOptions, volumes: set[CaseKey]) -> set[CaseKey]:
    """Volumes that the index's share of each dataset leaves out.

    Args:
        options: the share, and the seed of the draw.
        volumes: all that have slices.
    """
    by_dataset: dict[str, dict[str, CaseKey]] = defaultdict(dict)
    for dataset, case in volumes:
        by_dataset[dataset][f"{dataset}/{case}"] = dataset, case
    drawn = {
        named[name]
        for named in by_dataset.values()
        for name in nested_subset(named, options.percent, options.seed)
    }
    return volumes - drawn


def validation_cases(options: IndexOptions, splits: Sequence[Path]) -> dict[CaseKey, str]:
    """Cases that benchmarks validate on, each with the reason to leave it out."""
    reasons: dict[CaseKey, str] = {}
    for path in splits:
        benchmark = benchmark_of(path)
        folds = read_json(path)
        if benchmark not in options.benchmarks:
            names = ", ".join(options.benchmarks)
            raise MeddinoError(f"{path} is of no benchmark of this study (known: {names})")
        if max(options.folds) >= len(folds):
            raise MeddinoError(
                f"{path} has {len(folds)} folds, not fold {max(options.folds)}; mend `folds`"
            )
        dataset = options.benchmarks[benchmark]
        reason = f"{benchmark} validates on it"
        reasons |= {
            (dataset, case): reason for fold in options.folds for case in folds[fold]["val"]
        }
    return reasons


def with_series(cases: dict[CaseKey, str], curated: set[CaseKey]) -> dict[CaseKey, str]:
    """The same cases, and every further DICOM series of one: it shows the same patient.

    Args:
        cases: with the reason to leave each out.
        curated: all cases that have slices.
    """
    further = {
        (dataset, series): f"series of {dataset}/{case_of(series)}"
        for dataset, series in sorted(curated)
        if (dataset, case_of(series)) in cases
    }
    return {**further, **cases}


def with_copies(cases: dict[CaseKey, str], pairs: pd.DataFrame | None) -> dict[CaseKey, str]:
    """The same cases, and every copy of them, and every copy of a copy.

    Args:
        cases: with the reason to leave each out.
        pairs: columns of `duplicates.Pair`.
    """
    neighbours: dict[CaseKey, list[CaseKey]] = defaultdict(list)
    columns = ["dataset_a", "case_a", "dataset_b", "case_b"]
    for da, a, db, b in [] if pairs is None else pairs[columns].itertuples(index=False):
        neighbours[da, a].append((db, b))
        neighbours[db, b].append((da, a))
    leaked, queue = dict(cases), list(cases)
    for case in queue:  # which grows
        for copy in neighbours[case]:
            if copy not in leaked:
                leaked[copy] = f"copy of {case[0]}/{case[1]}"
                queue.append(copy)
    return leaked


def _repeated(
    numbers: npt.NDArray[np.int32],
    places: Places,
    pairs: pd.DataFrame,
    order: tuple[str, ...],
    removed: set[CaseKey],
) -> npt.NDArray[np.bool_]:
    """Slices of the later volume of each pair, as far as the two show the same: bool (rows,).

    Slices, not volumes: what only the later volume shows is kept. By transitivity what is left
    out is still there once.
    """
    rank = {dataset: number for number, dataset in enumerate(order)}
    out = np.zeros(len(numbers), dtype=bool)
    for pair in pairs.to_dict("records"):
        a, b = ((pair[f"dataset_{x}"], pair[f"case_{x}"]) for x in "ab")
        if a[0] not in rank or b[0] not in rank or a in removed or b in removed:
            continue
        later, side = (a, "a") if (rank[a[0]], a[1]) > (rank[b[0]], b[1]) else (b, "b")
        where = places[later]
        shown = numbers[where]
        inside = (shown >= pair[f"from_{side}"]) & (shown <= pair[f"to_{side}"])
        out[where[inside]] = True
    return out
