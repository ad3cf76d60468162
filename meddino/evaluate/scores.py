"""The `scores` verb: the scores of all runs in one file."""

from pathlib import Path

import pandas as pd

from meddino.core.errors import MeddinoError
from meddino.core.files import atomic
from meddino.core.parquet import read_frame
from meddino.evaluate.options import ScoresOptions

KEYS = ["benchmark", "method", "fold", "case", "label"]


def run(options: ScoresOptions, *, scores: list[Path], output: Path) -> None:
    """Join scores.

    Args:
        options: has no fields.
        scores: files of `evaluate`.
        output: one Parquet file, sorted by benchmark, method, fold, case and label.

    Raises:
        MeddinoError: a file is damaged, or a case is scored twice.
    """
    table = read_scores(scores)
    with atomic(output) as temporary:
        table.to_parquet(temporary, index=False, write_page_checksum=True)


def read_scores(scores: list[Path]) -> pd.DataFrame:
    """Read and join scores.

    Raises:
        MeddinoError: there is no file, a file is damaged or holds no scores, or a case is scored
            twice.
    """
    if not scores:
        raise MeddinoError("there are no scores; give files that `evaluate` wrote with --scores")
    parts = []
    for path in scores:
        parts.append(read_frame(path))
        if not set(KEYS) <= set(parts[-1].columns):
            raise MeddinoError(f"{path} holds no scores; give files that `evaluate` wrote")
    table = pd.concat(parts).sort_values(KEYS).reset_index(drop=True)
    duplicates = table[table.duplicated(KEYS)]
    if len(duplicates) > 0:
        first = duplicates.iloc[0]
        raise MeddinoError(
            f"case {first['case']} of {first['benchmark']} is scored twice for {first['method']};"
            " give each file of scores once"
        )
    return table
