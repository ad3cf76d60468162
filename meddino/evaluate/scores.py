"""The `scores` verb: the scores of all runs in one file."""

from pathlib import Path

import pandas as pd

from meddino.core.errors import MeddinoError
from meddino.core.files import atomic
from meddino.core.parquet import read_frame
from meddino.evaluate.options import ScoresOptions

KEYS = ["benchmark", "method", "fold", "case", "label"]
SEED = "seed"
"""The further key of a study in which methods are trained with several seeds."""


def run(options: ScoresOptions, *, scores: list[Path], output: Path) -> None:
    """Join scores.

    Args:
        options: the seed of files that name none, where others do.
        scores: files of `evaluate`.
        output: one Parquet file, sorted by benchmark, method, fold, case and label; where files
            name seeds, with a column `seed`, and sorted by it after the fold.

    Raises:
        MeddinoError: a file is damaged, or a case is scored twice.
    """
    table = read_scores(scores, options.seed)
    with atomic(output) as temporary:
        table.to_parquet(temporary, index=False, write_page_checksum=True)


def read_scores(scores: list[Path], first_seed: int | None = None) -> pd.DataFrame:
    """Read and join scores.

    Args:
        scores: files of `evaluate` or of `scores`.
        first_seed: seed of the files that name none, where others do.

    Raises:
        MeddinoError: there is no file, a file is damaged or holds no scores, a case is scored
            twice, or only some files name a seed and `first_seed` does not name that of the others.
    """
    if not scores:
        raise MeddinoError("there are no scores; give files that `evaluate` wrote with --scores")
    parts = []
    for path in scores:
        parts.append(read_frame(path))
        if not set(KEYS) <= set(parts[-1].columns):
            raise MeddinoError(f"{path} holds no scores; give files that `evaluate` wrote")
    joined = _with_seed(pd.concat(parts), first_seed)
    keys = keys_of(joined)
    table = joined.sort_values(keys).reset_index(drop=True)
    duplicates = table[table.duplicated(keys)]
    if len(duplicates) > 0:
        first = duplicates.iloc[0]
        raise MeddinoError(
            f"case {first['case']} of {first['benchmark']} is scored twice for {first['method']};"
            " give each file of scores once"
        )
    return table


def _with_seed(table: pd.DataFrame, first_seed: int | None) -> pd.DataFrame:
    """Scores whose column of seeds, if there is one, has no gaps."""
    if SEED not in table:
        return table
    if first_seed is None and table[SEED].isna().any():
        raise MeddinoError(
            "some files of scores name the seed of their training and some do not; give those of"
            " one study, whose `seeds` names them all"
        )
    seeds = table[SEED] if first_seed is None else table[SEED].fillna(first_seed)
    return table.assign(**{SEED: seeds.astype(int)})


def keys_of(scores: pd.DataFrame) -> list[str]:
    """The columns that tell rows apart, in the order that they are sorted by."""
    place = KEYS.index("case")
    return [*KEYS[:place], SEED, *KEYS[place:]] if SEED in scores else KEYS


def over_trainings(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores with the mean over seeds of each case and structure, and without the column `seed`."""
    if SEED not in scores:
        return scores
    keys = [*KEYS, "structure"]
    return scores.drop(columns=SEED).groupby(keys, sort=False).mean(numeric_only=True).reset_index()


def of_seed(scores: pd.DataFrame, seed: int | None) -> pd.DataFrame:
    """Scores of the trainings with one seed, without the column `seed`; all where it is absent."""
    return scores if SEED not in scores else scores[scores[SEED] == seed].drop(columns=SEED)
