"""The `tables` verb: one of the paper's tables, beside the paper's values."""

import sys
from pathlib import Path

import pandas as pd

from meddino.core.errors import MeddinoError
from meddino.core.files import read_json, write_text
from meddino.core.nnunet import benchmark_of
from meddino.evaluate.scores import read_scores
from meddino.report.options import TableOptions
from meddino.report.tables.formats import latex, markdown
from meddino.report.tables.metrics import METRICS
from meddino.report.tables.results import table_lines


def run(
    options: TableOptions, *, scores: list[Path], output: Path, plans: tuple[Path, ...] = ()
) -> None:
    """Write one table.

    Args:
        options: rows and columns.
        scores: scores of the runs that the table shows; runs without are shown as missing.
        output: `<table>.csv` (a line per row, column and protocol: `ours`, its 95 % interval from
            `low` to `high`, the paper's value, and Holm's `p`); beside it appear `<table>.md` and
            `<table>.tex`, for people.
        plans: `DatasetNNN_<benchmark>/nnUNetPlans.json` of its benchmarks, for a remark where the
            planned input is not the paper's.

    Raises:
        MeddinoError: none of the table's runs has scores, or the scores lack one of its metrics; a
            file is damaged.
    """
    all_scores = read_scores(scores, options.seed)
    _check(options, all_scores)
    lines = table_lines(options, all_scores, dict(map(_planned, plans)))
    printed = lines[lines["protocol"] == options.table.protocol]
    for suffix, text in (
        (".csv", lines.to_csv(index=False, float_format="%.6g")),
        (".md", markdown(options, printed)),
        (".tex", latex(options, printed)),
    ):
        write_text(output.with_suffix(suffix), text)


def _planned(path: Path) -> tuple[str, str]:
    """The benchmark of nnU-Net's plans, and the input of its configuration `2d` (px)."""
    try:
        height, width = read_json(path)["configurations"]["2d"]["patch_size"]
    except (KeyError, TypeError, ValueError) as error:
        raise MeddinoError(f"{path} holds no plan of 2d; delete it and rerun") from error
    return benchmark_of(path), f"{height} x {width}"


def _check(options: TableOptions, scores: pd.DataFrame) -> None:
    """Name the runs that are missing; refuse scores of none of them, or without a metric."""
    runs = [(b, method) for method in options.table.rows for b in options.table.benchmarks]
    scored = set(zip(scores["benchmark"], scores["method"], strict=True))
    missing = [run for run in runs if run not in scored]
    if len(missing) == len(runs):
        raise MeddinoError(
            f"{options.name}: there are no scores of any run that it shows; run evaluate and give"
            " its files with --scores"
        )
    for metric in options.table.metrics:
        if (name := METRICS[metric].column.format(protocol="paper")) not in scores:
            raise MeddinoError(f"{options.name}: the scores hold no {name}; run evaluate again")
    for benchmark, method in missing:
        print(f"{options.name}: {method} on {benchmark} is missing: not run", file=sys.stderr)
