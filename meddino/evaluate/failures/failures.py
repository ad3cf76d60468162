"""The `failures` verb: where the runs of a study fail, as tables."""

import math
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from meddino.core.files import atomic, write_json
from meddino.core.nnunet import benchmark_of
from meddino.core.parquet import read_frame
from meddino.evaluate import statistics
from meddino.evaluate.failures import calibration, cases, certainty, counts, groups
from meddino.evaluate.failures.options import FailuresOptions
from meddino.evaluate.failures.summaries import Row
from meddino.evaluate.scores import read_scores

COLUMNS = {"false_positives": counts.FALSE_POSITIVES, "lesions": counts.LESIONS}
"""Columns of the tables that may have no rows, so that their files have a head all the same."""


def run(
    options: FailuresOptions,
    *,
    scores: list[Path],
    datasets: list[Path],
    lesions: list[Path],
    confidence: list[Path],
    metadata: list[Path],
    output: Path,
) -> None:
    """Put together where runs fail.

    Args:
        options: what is looked at, and in which bins.
        scores: of the runs, from `evaluate`.
        datasets: nnU-Net's raw `dataset.json` of each benchmark, in a folder that ends in its key.
        lesions: of the runs with lesions, from `lesions`.
        confidence: of the runs, from `confidence`, as `<benchmark>/<method>/fold<k>.parquet`.
        metadata: files that the options name, so that a change of one is noticed.
        output: a JSON of the tables below, beside a CSV file of each: `cases` (facts, DSC and
            confidence), `dsc` (by size, by distance of slices, by source), `false_positives` (in
            cases without the structure), `lesions`, `calibration`, `reliability`, `abstention` and
            `rejection`. DSC, shares and softmax are in %, intervals (`low`, `high`) are of 95 %
            over cases, and `structure` is empty in a row over all structures.

    Raises:
        MeddinoError: a file is missing or damaged.
    """
    table = read_scores(scores)
    softmax = _read_confidence(confidence)
    facts = {
        str(name): _facts(options, str(name), datasets, part)
        for name, part in table.groupby("benchmark")
    }
    tables = {
        "cases": certainty.case_rows(table, facts, softmax),
        "dsc": list(groups.by_group(options.failures, table, facts)),
        "false_positives": list(counts.false_positives(table)),
        "lesions": list(counts.lesion_rows(options.failures, table, [*map(read_frame, lesions)])),
        "calibration": list(certainty.calibration_rows(softmax)),
        "reliability": list(certainty.reliability_rows(softmax)),
    }
    tables |= certainty.abstention_rows(tables["cases"])
    for name, rows in tables.items():
        with atomic(output.with_name(f"{name}.csv")) as temporary:
            columns = COLUMNS.get(name) if not rows else None
            pd.DataFrame(rows, columns=columns).to_csv(temporary, index=False)
    known = {key: [_without_nan(row) for row in rows] for key, rows in tables.items()}
    criteria = {"iou": options.failures.iou, "least_softmax": calibration.LEAST}
    write_json(output, {**known, **criteria, "fewest_cases": statistics.FEWEST_CASES})


def _without_nan(row: Row) -> Row:
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}


def _facts(
    options: FailuresOptions, benchmark: str, datasets: Iterable[Path], scores: pd.DataFrame
) -> pd.DataFrame:
    folders = {benchmark_of(path): path for path in datasets}
    return cases.facts(options, benchmark, folders[benchmark], sorted(scores["case"].unique()))


def _read_confidence(paths: Iterable[Path]) -> pd.DataFrame:
    """Rows of `confidence` with `benchmark` and `method`."""
    parts = [
        read_frame(path).assign(benchmark=path.parts[-3], method=path.parts[-2]) for path in paths
    ]
    return pd.concat(parts, ignore_index=True)
