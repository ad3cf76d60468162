"""What is known of each case: how it was scanned, and where it is from."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import SimpleITK as sitk

from meddino.core.errors import MeddinoError
from meddino.core.files import read_json
from meddino.core.words import some
from meddino.evaluate.failures.options import FailuresOptions, Metadata
from meddino.volumes.reader import check_made

UNKNOWN = "unknown"
"""What stands where nothing is known."""
FACTS = ("slice_distance_mm", "pixel_mm", "modality", "source")
"""Columns of every case; those of metadata follow."""
NAMED = 20
"""Columns that a message names."""


def facts(
    options: FailuresOptions, benchmark: str, dataset: Path, cases: Iterable[str]
) -> pd.DataFrame:
    """What is known of the cases of a benchmark.

    Args:
        options: names of MR cases, sources, and files of metadata.
        benchmark: its key.
        dataset: nnU-Net's raw `dataset.json`, beside the reference labels.
        cases: their names.

    Returns:
        Indexed by case: `FACTS`, and a column for each of the metadata's. What is not known of a
        case is `UNKNOWN`.

    Raises:
        MeddinoError: a label is missing or damaged, or metadata cannot be used.
    """
    files = read_json(dataset)["dataset"]
    mr_cases = options.mr_cases.get(benchmark)
    sources = options.failures.sources.get(benchmark, {})
    rows = []
    for case in cases:
        x, _, z = _spacing(dataset.parent / files[case]["label"], dataset)
        is_mr = mr_cases is not None and re.fullmatch(mr_cases, case)
        source = next((name for name, p in sources.items() if re.fullmatch(p, case)), UNKNOWN)
        rows.append((case, z, x, "MR" if is_mr else "CT", source))
    table = pd.DataFrame(rows, columns=["case", *FACTS]).set_index("case")
    if benchmark not in options.failures.metadata:
        return table
    known = metadata(options.failures.metadata[benchmark])
    return table.join(known).fillna(dict.fromkeys(known.columns, UNKNOWN))


def _spacing(path: Path, marker: Path) -> tuple[float, ...]:
    """Spacing (x, y, z) in mm of a converted volume, of whose file only the header is read.

    Raises:
        MeddinoError: it is missing or cut off.
    """
    check_made(path, marker)
    header = sitk.ImageFileReader()
    header.SetFileName(str(path))
    header.ReadImageInformation()
    return tuple(round(float(mm), 4) for mm in header.GetSpacing())


def metadata(options: Metadata) -> pd.DataFrame:
    """Read metadata.

    Returns:
        Its columns as text, indexed by `case`; NaN where a cell is empty.

    Raises:
        MeddinoError: the file cannot be read, or lacks a column.
    """
    path = Path(options.file)
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise MeddinoError(f"{path} cannot be read ({error}); mend `failures.metadata`") from error
    missing = [name for name in options.columns if name not in table]
    try:
        names = [options.case.format_map(row) for row in table.to_dict("records")]
    except (KeyError, IndexError, ValueError) as error:
        missing.append(str(error).strip("'"))
        names = []
    if missing:
        known = some([*map(str, table.columns)], NAMED)
        raise MeddinoError(
            f"{path} has no column {missing[0]!r} (columns: {known}); mend `failures.metadata`"
        )
    chosen = table[list(options.columns)]
    text = chosen.astype(object).where(chosen.isna(), chosen.astype(str))
    return text.set_axis(pd.Index(names, name="case")).loc[
        lambda t: ~t.index.duplicated(keep=False)
    ]


def splits(table: pd.DataFrame) -> Mapping[str, "pd.Series[Any]"]:
    """The columns by whose values cases are grouped, by their printed names."""
    return {name.replace("_", " "): table[name] for name in table.columns if name not in FACTS[:2]}
