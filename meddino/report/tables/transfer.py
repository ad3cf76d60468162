"""The `transfer` verb: the table of methods trained on one benchmark and tested on another."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from meddino.core.errors import MeddinoError
from meddino.core.files import read_json, write_json, write_text
from meddino.core.nnunet import benchmark_of
from meddino.core.parquet import read_frame
from meddino.evaluate.scores import KEYS, read_scores
from meddino.report.options import TransferOptions, TransferPair
from meddino.report.tables.cells import number
from meddino.report.tables.transfer_formats import latex, markdown, notes, pair_notes, pair_title
from meddino.report.tables.transfer_leaks import COLUMNS, Folds, Leak, between, leaks
from meddino.report.tables.transfer_results import (
    Scores,
    counted,
    structure_lines,
    table_lines,
)

Left = dict[str, list[dict[str, Any]]]
"""Cases that do not count in a pair, with the reason."""


class Read(NamedTuple):
    """What the table is made from.

    Attributes:
        transferred: rows of `evaluate_transfer`.
        in_domain: rows of `evaluate`.
        folds: of each benchmark that is trained on.
        copies: columns of `duplicates.Pair`; None where nobody searched.
    """

    transferred: pd.DataFrame
    in_domain: pd.DataFrame
    folds: dict[str, Folds]
    copies: pd.DataFrame | None


def run(
    options: TransferOptions,
    *,
    scores: list[Path],
    splits: list[Path],
    output: Path,
    in_domain: tuple[Path, ...] = (),
    duplicates: Path | None = None,
) -> None:
    """Write the table of transfer.

    Cases that a transferred model was trained on, under their own name or as a copy, count for
    neither model.

    Args:
        options: pairs of benchmarks, maps of structures, methods.
        scores: scores of `evaluate_transfer`, of all runs.
        splits: `DatasetNNN_<benchmark>/splits_final.json` of the benchmarks that are trained on.
        output: `transfer.csv` (a line for each pair, metric, protocol and method: both means, the
            drop, 95 % intervals and Holm's p); beside it appear `transfer.structures.csv`,
            `transfer.md` and `transfer.tex` for people, and `transfer.json` for the report.
        in_domain: scores of `evaluate`, of the models that were trained on the tested benchmarks.
        duplicates: `duplicates.parquet`, where copies were searched for.

    Raises:
        MeddinoError: scores of a run are missing, or of other cases than those that they are
            compared with; no case of a pair counts; a file is damaged.
    """
    transferred = _transferred(scores)
    read = Read(
        transferred,
        read_scores([*in_domain]) if in_domain else transferred.iloc[:0],
        {benchmark_of(path): read_json(path) for path in splits},
        None if duplicates is None else read_frame(duplicates, COLUMNS),
    )
    kept, left = zip(*(_pair(options, pair, read) for pair in options.pairs), strict=True)
    by_number = dict(enumerate(kept))
    lines, structures = table_lines(options, by_number), structure_lines(options, by_number)
    remarks = [
        pair_notes(pair, leaked, between(pair, read.copies) if pair.searched else None)
        for pair, leaked in zip(options.pairs, left, strict=True)
    ]
    for suffix, text in (
        (".structures.csv", structures.to_csv(index=False, float_format="%.6g")),
        (".md", markdown(options, lines, structures, remarks)),
        (".tex", latex(options, lines, remarks)),
        (".csv", lines.to_csv(index=False, float_format="%.6g")),
    ):
        write_text(output.with_suffix(suffix), text)
    write_json(output.with_suffix(".json"), _page(options, lines, structures, remarks))


def _transferred(paths: Sequence[Path]) -> pd.DataFrame:
    """Scores of all runs; those of different origins have the same cases."""
    parts = [read_scores([path]) for path in paths]
    for path, part in zip(paths, parts, strict=True):
        if "origin" not in part:
            raise MeddinoError(f"{path} names no origin; give files of `evaluate_transfer`")
    if not parts:
        raise MeddinoError("there are no scores; give files of `evaluate_transfer` with --scores")
    rows = pd.concat(parts, ignore_index=True)
    if (twice := rows[rows.duplicated(["origin", *KEYS])]).size:
        first = twice.iloc[0]
        raise MeddinoError(
            f"case {first['case']} of {first['benchmark']} is scored twice for {first['method']} of"
            f" {first['origin']}; give each file of scores once"
        )
    return rows


def _pair(options: TransferOptions, pair: TransferPair, read: Read) -> tuple[Scores, list[Leak]]:
    """The scores of a pair that count, and the cases that were in training.

    Raises:
        MeddinoError: as `run`.
    """
    title = f"{pair.train} to {pair.test}"
    rows, in_domain = read.transferred, read.in_domain
    rows = rows[(rows["origin"] == pair.train) & (rows["benchmark"] == pair.test)]
    rows = rows[rows["structure"].isin([*pair.structures])]
    in_domain = in_domain[in_domain["benchmark"] == pair.test]
    in_domain = in_domain[in_domain["structure"].isin([*pair.structures])]
    if pair.train not in read.folds:
        raise MeddinoError(f"{title}: there is no split of {pair.train}; give it with --splits")
    leaked = leaks(pair, read.folds[pair.train], rows[["fold", "case"]], read.copies)
    lost = pd.MultiIndex.from_tuples([leak[:2] for leak in leaked], names=["fold", "case"])
    keys = pd.MultiIndex.from_frame(rows[["fold", "case"]])
    kept = rows[counted(pair, rows["case"]) & ~keys.isin(lost)]
    if kept.empty and not rows.empty:
        raise MeddinoError(
            f"transfer.pairs, {title}: no case counts: {len(leaked)} of them were in training, and"
            f" the others are not {' or '.join(pair.modalities)}; leave the pair out"
        )
    for method in options.methods:
        cases = set(kept.loc[kept["method"] == method, "case"])
        own = set(in_domain.loc[in_domain["method"] == method, "case"])
        if not cases:
            raise MeddinoError(f"{title}: there are no scores of {method}; run evaluate_transfer")
        if pair.in_domain and (missing := sorted(cases - own)):
            raise MeddinoError(
                f"{title}: {method} trained on {pair.test} has no scores of {missing[0]}, which the"
                " transferred model has; run evaluate on the same folds"
            )
    return Scores(kept, in_domain), leaked


def _page(
    options: TransferOptions,
    lines: pd.DataFrame,
    structures: pd.DataFrame,
    remarks: Sequence[Sequence[str]],
) -> dict[str, Any]:
    """All that the report shows of the table."""
    return {
        "title": options.title,
        "protocol": options.protocol,
        "metrics": options.metrics,
        "corpus": options.corpus,
        "methods": [[name, options.method_labels[name]] for name in options.methods],
        "compared_with": options.method_labels.get(options.compare_with or ""),
        "notes": notes(options, lines),
        "pairs": [
            {
                "train": pair.train,
                "test": pair.test,
                "train_label": pair.train_label,
                "test_label": pair.test_label,
                "title": pair_title(pair),
                "in_domain": pair.in_domain,
                "notes": remark,
            }
            for pair, remark in zip(options.pairs, remarks, strict=True)
        ],
        "lines": _records(lines),
        "means": _records(structures),
    }


def _records(lines: pd.DataFrame) -> list[dict[str, Any]]:
    """Lines for JSON, which lacks NaN."""
    return [
        {
            str(key): number(value) if isinstance(value, float) else value
            for key, value in line.items()
        }
        for line in lines.to_dict("records")
    ]
