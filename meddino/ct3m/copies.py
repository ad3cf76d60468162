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
from meddino.ct3m.options import IndexOptions

Case = tuple[str, str]
"""Dataset and case."""


class LeftOut(NamedTuple):
    """What stays out."""

    mask: npt.NDArray[np.bool_]
    """(rows,), true for what does."""
    summary: dict[str, Any]
    """For the card: how much, which validation cases and copies of them, and why."""


def left_out(
    options: IndexOptions,
    rows: pd.DataFrame,
    pairs: pd.DataFrame | None,
    splits: Sequence[Path],
) -> LeftOut:
    """Say which rows of an index stay out.

    Args:
        options: which datasets are in it, in order of preference, and what stays out.
        rows: dataset, case and slice of every row, also of datasets that are searched only.
        pairs: volumes that are copies (columns of `duplicates.Pair`), or None: nobody asked.
        splits: the benchmarks' splits; without any, validation cases stay in.

    Raises:
        MeddinoError: a split has no such fold, or belongs to no benchmark.
    """
    order = options.datasets or tuple(sorted(rows["dataset"].unique()))
    elsewhere = ~rows["dataset"].isin(order).to_numpy()
    removed = leaking(validation(options, splits), pairs)
    known = set(rows[["dataset", "case"]].drop_duplicates().itertuples(index=False, name=None))
    cases = pd.MultiIndex.from_frame(rows[["dataset", "case"]])
    leaked = cases.isin(list(removed)) if removed else np.zeros(len(rows), dtype=bool)
    repeated = np.zeros(len(rows), dtype=bool)
    if options.dedupe == "keep-first" and pairs is not None:
        repeated = _repeated(rows, pairs, order, set(removed))
    summary: dict[str, Any] = {
        "dedupe": options.dedupe,
        "slices_left_out_as_repeated": int((repeated & ~leaked & ~elsewhere).sum()),
    }
    if splits:
        listed = [
            {"dataset": dataset, "case": case, "because": reason}
            for (dataset, case), reason in sorted(removed.items())
        ]
        there = [entry for entry in listed if (entry["dataset"], entry["case"]) in known]
        summary["leak_free"] = {
            "folds": list(options.folds),
            "removed": [entry for entry in there if entry["dataset"] in order],
            "slices_removed": int((leaked & ~elsewhere).sum()),
            # Not in CT-3M under their own name: MR, or quarantined. Nothing can be compared.
            "without_slices": [entry for entry in listed if entry not in there],
        }
    return LeftOut(elsewhere | leaked | repeated, summary)


def validation(options: IndexOptions, splits: Sequence[Path]) -> dict[Case, str]:
    """Cases that benchmarks validate on, each with the reason to leave it out."""
    found: dict[Case, str] = {}
    for path in splits:
        benchmark = path.parent.name.partition("_")[2]
        folds = read_json(path)
        if benchmark not in options.benchmarks:
            known = ", ".join(options.benchmarks)
            raise MeddinoError(f"{path} is of no benchmark of this study (known: {known})")
        if max(options.folds) >= len(folds):
            raise MeddinoError(
                f"{path} has {len(folds)} folds, not fold {max(options.folds)}; mend `folds`"
            )
        dataset = options.benchmarks[benchmark]
        reason = f"{benchmark} validates on it"
        found |= {(dataset, case): reason for fold in options.folds for case in folds[fold]["val"]}
    return found


def leaking(cases: dict[Case, str], pairs: pd.DataFrame | None) -> dict[Case, str]:
    """The same cases, and every copy of them, and every copy of a copy.

    Args:
        cases: with the reason to leave each out.
        pairs: columns of `duplicates.Pair`.
    """
    neighbours: dict[Case, list[Case]] = defaultdict(list)
    columns = ["dataset_a", "case_a", "dataset_b", "case_b"]
    for da, a, db, b in [] if pairs is None else pairs[columns].itertuples(index=False):
        neighbours[da, a].append((db, b))
        neighbours[db, b].append((da, a))
    found, queue = dict(cases), list(cases)
    for case in queue:  # which grows
        for copy in neighbours[case]:
            if copy not in found:
                found[copy] = f"copy of {case[0]}/{case[1]}"
                queue.append(copy)
    return found


def _repeated(
    rows: pd.DataFrame, pairs: pd.DataFrame, order: tuple[str, ...], removed: set[Case]
) -> npt.NDArray[np.bool_]:
    """Slices of the later volume of each pair, as far as the two show the same: bool (rows,).

    Slices, not volumes: what only the later volume shows is kept. By transitivity what is left
    out is still there once.
    """
    rank = {dataset: number for number, dataset in enumerate(order)}
    out = np.zeros(len(rows), dtype=bool)
    places = rows.groupby(["dataset", "case"]).indices
    number = rows["slice"].to_numpy()
    for pair in pairs.to_dict("records"):
        a, b = ((pair[f"dataset_{x}"], pair[f"case_{x}"]) for x in "ab")
        if a[0] not in rank or b[0] not in rank or a in removed or b in removed:
            continue
        later, side = (a, "a") if (rank[a[0]], a[1]) > (rank[b[0]], b[1]) else (b, "b")
        where = places[later]
        inside = (number[where] >= pair[f"from_{side}"]) & (number[where] <= pair[f"to_{side}"])
        out[where[inside]] = True
    return out
