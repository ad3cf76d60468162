"""The `index` verb: one table of all slices of one size, and a summary of the data."""

import os
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from meddino.core.errors import MeddinoError
from meddino.core.files import atomic, read_json, write_json
from meddino.ct3m import shards
from meddino.ct3m.options import IndexOptions

COUNTED = ("volumes", "slices", "air_slices", "other_modality")
"""Counts of the chunks' reports that are summed up."""


def run(options: IndexOptions, *, reports: list[Path], output: Path) -> None:
    """Join the metadata of all shards of one size.

    A row of the index has a slice's metadata, the `shard` that holds it (path relative to the
    index), and its place there: row `group` and `row` in that group. Rows are ordered by dataset,
    chunk and place. Beside the index, `<index>.card.json` sums up what went in and what did not.

    Args:
        options: which size.
        reports: reports of the stage `slices`; the shards lie beside them.
        output: `index.<size>.parquet`.

    Raises:
        MeddinoError: a report or shard is missing or damaged, or there is no slice at all.
    """
    chunks = sorted(
        ((read_json(path), path) for path in reports),
        key=lambda chunk: (chunk[0]["dataset"], chunk[0]["chunk"]),
    )
    tables = [_rows(report, path, options.size_px, output.parent) for report, path in chunks]
    table = pa.concat_tables(tables).unify_dictionaries()
    if len(table) == 0:
        raise MeddinoError(
            f"no volume gave a single slice; {chunks[0][1] if chunks else 'there are no reports'}"
            " and its neighbours say why (`quarantined`)"
        )
    with atomic(output) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=1 << 20)
    card = _card([report for report, _ in chunks], table)
    write_json(output.with_suffix(".card.json"), card)
    print(
        f"{len(table)} slices of {card['volumes']} volumes; {len(card['quarantined'])} volumes"
        f" quarantined, {card['repeated_slices']} slices are copies of others",
        file=sys.stderr,
    )


def _rows(report: Any, path: Path, size_px: int, folder: Path) -> pa.Table:
    """Rows of one shard: metadata, and where each slice is."""
    name = f"{path.name.removesuffix('.json')}.{size_px}.parquet"
    shard = shards.open_shard(path.with_name(name))
    table = shards.read_metadata(shard)
    sizes = [shard.metadata.row_group(i).num_rows for i in range(shard.num_row_groups)]
    if len(table) != report["slices"]:
        raise MeddinoError(
            f"{path.with_name(name)} holds {len(table)} slices, its report says"
            f" {report['slices']}; delete both and rerun"
        )
    where = Path(os.path.relpath(path.with_name(name), folder)).as_posix()
    groups = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    rows = np.concatenate(
        [np.arange(0, dtype=np.int32), *(np.arange(size, dtype=np.int32) for size in sizes)]
    )
    column = pa.DictionaryArray.from_arrays(np.zeros(len(table), dtype=np.int32), [where])
    return (
        table.append_column("shard", column)
        .append_column("group", pa.array(groups))
        .append_column("row", pa.array(rows))
    )


def _card(reports: list[Any], table: pa.Table) -> dict[str, Any]:
    """What CT-3M is made of, per dataset and in total."""
    totals: Counter[str] = Counter()
    by_dataset: dict[str, Counter[str]] = defaultdict(Counter)
    for report in reports:
        counts = {key: value for key, value in report.items() if key in COUNTED}
        counts["quarantined"] = len(report["quarantined"])
        by_dataset[report["dataset"]].update(counts)
        totals.update(counts)
    return {
        **{key: totals[key] for key in COUNTED},
        "repeated_slices": len(table) - len(table["sha"].unique()),
        "datasets": {name: dict(counts) for name, counts in by_dataset.items()},
        "quarantined": [
            {"dataset": report["dataset"], **entry}
            for report in reports
            for entry in report["quarantined"]
        ],
    }
