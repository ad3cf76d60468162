"""The `index` verb: one table of all slices of one size, and a summary of the data."""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from meddino.core.errors import MeddinoError
from meddino.core.files import atomic, write_json
from meddino.core.parquet import read_frame
from meddino.core.progress import track
from meddino.ct3m import exclusion, shards
from meddino.ct3m.options import IndexOptions

COUNTED = ("volumes", "slices", "air_slices", "other_modality")
"""Counts of the chunks' reports that are summed up."""
VOLUME = ["dataset", "case"]
"""What names a volume: columns that repeat, which as texts would be most of the memory."""
GROUP_ROWS = 1 << 20
"""Rows of a row group of the index."""


def run(
    options: IndexOptions,
    *,
    reports: list[Path],
    output: Path,
    duplicates: Path | None = None,
    splits: tuple[Path, ...] = (),
) -> None:
    """Join the metadata of all shards of one size.

    A row of the index has a slice's metadata and its place (`shards.read_index`). Rows are ordered
    by dataset, chunk and place. Beside the index, `<index>.card.json` sums up what went in and what
    did not.

    With `splits`, the validation cases of benchmarks stay out, and so does every volume that
    shows the same as one of them, wherever it lies and whatever its name.

    Args:
        options: which size, and what stays out.
        reports: reports of the stage `slices`; the shards lie beside them.
        output: `index.<size>.parquet`.
        duplicates: pairs of volumes that are copies; needed for `dedupe` and with `splits`.
        splits: `DatasetNNN_<benchmark>/splits_final.json` of the benchmarks.

    Raises:
        MeddinoError: a report or shard is missing or damaged, there is no slice at all, or
            `duplicates` is needed and not given.
    """
    chunks = shards.read_reports(reports)
    table = _joined(
        _rows(report, path, options.size_px, output.parent)
        for report, path in track(chunks, "index", len(chunks))
    )
    if len(table) == 0:
        raise MeddinoError(
            f"no volume gave a single slice; {chunks[0][1] if chunks else 'there are no reports'}"
            " and its neighbours say why (`quarantined`)"
        )
    rows = table.select([*VOLUME, "slice"]).to_pandas()
    excluded = exclusion.find_exclusion(options, rows, _pairs(options, duplicates, splits), splits)
    kept = ~excluded.mask
    if not kept.any():
        raise MeddinoError(f"{output}: every slice is a copy or a validation case; add datasets")
    _write(output, table, kept)
    datasets = options.datasets or {report["dataset"] for report, _ in chunks}
    reports_used = [report for report, _ in chunks if report["dataset"] in datasets]
    card = _card(reports_used, rows[kept], _distinct(table["sha"], kept))
    write_json(output.with_suffix(".card.json"), {**card, **excluded.summary})
    print(
        f"{card['indexed_slices']} slices of {card['indexed_volumes']} volumes;"
        f" {len(card['quarantined'])} volumes quarantined,"
        f" {card['repeated_slices']} slices are copies of others",
        file=sys.stderr,
    )


def _pairs(
    options: IndexOptions, duplicates: Path | None, splits: Sequence[Path]
) -> pd.DataFrame | None:
    if duplicates is not None:
        return read_frame(duplicates)
    if options.dedupe != "off" or splits:
        raise MeddinoError(
            "index: to leave copies out it must know them; run the stage `duplicates` and give its"
            " file with --duplicates"
        )
    return None


def _write(output: Path, table: pa.Table, kept: npt.NDArray[np.bool_]) -> None:
    """Write the rows that are kept, some at a time: a copy of all would double the memory."""
    types = {field.name: field for field in shards.METADATA}
    schema = pa.schema([types.get(field.name, field) for field in table.schema])
    edges = [*np.flatnonzero(kept)[::GROUP_ROWS].tolist(), len(kept)]
    with (
        atomic(output) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        for start, stop in pairwise(edges):
            part = table.slice(start, stop - start).filter(pa.array(kept[start:stop]))
            writer.write_table(part.cast(schema), row_group_size=GROUP_ROWS)


def _distinct(shas: pa.ChunkedArray, kept: npt.NDArray[np.bool_]) -> int:
    """How many different slices are among those that are kept, by the first 64 bits."""
    return len(pc.utf8_slice_codeunits(shas, 0, 16).filter(pa.array(kept)).unique())


def _joined(tables: Iterable[pa.Table]) -> pa.Table:
    """One table of all, in large pieces: of thousands of small ones memory has twice as much."""
    pieces: list[pa.Table] = []
    small: list[pa.Table] = []
    for table in tables:
        small.append(table)
        if sum(map(len, small)) >= GROUP_ROWS:
            pieces.append(pa.concat_tables(small).unify_dictionaries().combine_chunks())
            small = []
    return pa.concat_tables([*pieces, *small]).unify_dictionaries()


def _rows(report: Any, path: Path, size_px: int, folder: Path) -> pa.Table:
    """Rows of one shard: metadata, and where each slice is."""
    place = shards.beside(path, size_px)
    table = shards.read_index(place, folder)
    if len(table) != report["slices"]:
        raise MeddinoError(
            f"{place} holds {len(table)} slices, its report says"
            f" {report['slices']}; delete both and rerun"
        )
    for name in VOLUME:
        column = table.schema.get_field_index(name)
        table = table.set_column(column, name, table[name].dictionary_encode())
    return table


def _card(reports: list[Any], rows: pd.DataFrame, distinct: int) -> dict[str, Any]:
    """What went into the index, and what did not, per dataset and in total."""
    totals: Counter[str] = Counter()
    by_dataset: dict[str, Counter[str]] = defaultdict(Counter)
    slices = rows["dataset"].value_counts()
    volumes = rows[VOLUME].drop_duplicates()["dataset"].value_counts()
    for report in reports:
        counts = {key: value for key, value in report.items() if key in COUNTED}
        counts["quarantined"] = len(report["quarantined"])
        by_dataset[report["dataset"]].update(counts)
        totals.update(counts)
    for name, counts in by_dataset.items():
        counts["indexed_volumes"] = int(volumes.get(name, 0))
        counts["indexed_slices"] = int(slices.get(name, 0))
    return {
        **{key: totals[key] for key in COUNTED},
        "indexed_volumes": int(volumes.sum()),
        "indexed_slices": len(rows),
        "repeated_slices": len(rows) - distinct,
        "datasets": {name: dict(counts) for name, counts in by_dataset.items()},
        "quarantined": quarantined(reports),
    }


def quarantined(reports: list[Any]) -> list[dict[str, Any]]:
    """What chunks left out, each with its dataset, case, path and reason."""
    return [
        {"dataset": report["dataset"], **entry}
        for report in reports
        for entry in report["quarantined"]
    ]
