"""Shards: Parquet files of axial slices, one row a slice, and how to read them back.

Pixels are stored without loss, in HU, so that windows and normalisation stay a choice of
whoever trains on them. The schema of each file carries the code that unpacks them (`decode`).
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from meddino.core.errors import MeddinoError
from meddino.core.files import atomic, read_json
from meddino.ct3m import codec

PIXELS = "pixels"
ONE_PAGE = 2**30
"""Bytes: more than a row group's cells can have."""
CELL_PREFIX = 4
"""Bytes before a cell: its length, as Parquet's plain encoding stores it."""
LARGEST_HEADER = 64
"""Bytes: a page without statistics has a header of about 20."""
PIECE_ROWS = 1 << 17
"""Rows of an index that are read at a time, so that memory does not grow with it."""
FINGERPRINT_TYPE = np.dtype("<i2")
FINGERPRINT = "fingerprint"
LANDMARKS = "landmarks"
FREQUENCIES = 8
"""Frequencies per axis of a fingerprint (see `meddino.ct3m.perceptual`)."""

METADATA = pa.schema(
    [
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("case", pa.string(), nullable=False),
        pa.field("slice", pa.int32(), nullable=False),  # 0 is the lowest, towards the feet
        pa.field("z_mm", pa.float32(), nullable=False),  # scanner coordinate, upwards
        pa.field("spacing_mm_y", pa.float32(), nullable=False),  # as acquired
        pa.field("spacing_mm_x", pa.float32(), nullable=False),
        pa.field("spacing_mm_z", pa.float32(), nullable=False),
        pa.field("rows", pa.int32(), nullable=False),  # as acquired
        pa.field("columns", pa.int32(), nullable=False),
        pa.field("hu_min", pa.int16(), nullable=False),  # of the stored pixels
        pa.field("hu_max", pa.int16(), nullable=False),
        pa.field("hu_mean", pa.float32(), nullable=False),
        pa.field("hu_std", pa.float32(), nullable=False),
        pa.field("body_fraction", pa.float32(), nullable=False),
        # Of its pixels in the smallest size: equal for copies in other datasets.
        pa.field("sha", pa.string(), nullable=False),
        pa.field("packed_bytes", pa.int32(), nullable=False),  # of its cell of `pixels`
    ]
)
"""Columns that describe a slice."""

SCHEMA = pa.schema(
    [
        pa.field(PIXELS, pa.binary(), nullable=False),
        *METADATA,
        # Null for pictures that no scanner took.
        pa.field(FINGERPRINT, pa.binary(FINGERPRINT_TYPE.itemsize * FREQUENCIES**2)),
        # Null as well for slices that lie close to one that has them.
        pa.field(LANDMARKS, pa.binary()),
    ]
)
"""Columns of a shard: `pixels` holds int16 HU (size, size) as `meddino.ct3m.codec` packs it,
`fingerprint` that of the slice, int16 in HU, and `landmarks` those of the slice as acquired (see
`meddino.ct3m.landmarks`); indices, read on every start, leave all three out."""


class ShardWriter:
    """Writes rows to one shard, a row group at a time; what is left at the end of a `with` block.

    The bytes are a function of the rows and settings alone: no times, no paths.
    """

    def __init__(self, path: Path, size_px: int, *, group_rows: int) -> None:
        """Open `path` for slices of `size_px` squared."""
        self._rows: list[Mapping[str, Any]] = []
        self._group_rows = group_rows
        # The size is stored, since an empty shard could not tell it otherwise.
        schema = SCHEMA.with_metadata({"size_px": str(size_px), "decode": codec.RECIPE})
        self._schema = schema
        self._writer = pq.ParquetWriter(
            path,
            schema,
            # Pixels are packed already, each slice by itself.
            compression={name: "none" if name == PIXELS else "zstd" for name in schema.names},
            use_dictionary=["dataset", "case"],
            # One page per row group, so that `_offsets` tells where a cell is.
            data_page_size=ONE_PAGE,
            # Statistics would double the footer, which every reader parses, and nothing asks them.
            write_statistics=False,
        )

    def add(self, row: Mapping[str, Any]) -> None:
        """Append one slice, a row of SCHEMA."""
        self._rows.append(row)
        if len(self._rows) == self._group_rows:
            self._flush()

    def __enter__(self) -> "ShardWriter":
        """Begin to write."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        """Write what is left; after an error let go of the file, which is none."""
        try:
            if kind is None:
                self._flush()
                self._writer.close()
        finally:
            if self._writer.is_open:
                with suppress(OSError, pa.ArrowException):
                    self._writer.close()
                self._writer.is_open = False  # else its destructor tries again, and complains

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows = []


def write(
    path: Path,
    size_px: int,
    rows: Iterable[tuple[npt.NDArray[np.int16], Mapping[str, Any]]],
    *,
    level: int = 1,
    group_rows: int = 32,
) -> None:
    """Write a whole shard, atomically: slices int16 (size, size) in HU with their METADATA."""
    with (
        atomic(path) as temporary,
        ShardWriter(temporary, size_px, group_rows=group_rows) as writer,
    ):
        for pixels, metadata in rows:
            writer.add({**metadata, **packed(pixels, level)})


def packed(pixels: npt.NDArray[np.int16], level: int) -> dict[str, Any]:
    """The columns of a row that hold its pixels, int16 (size, size) in HU.

    Args:
        pixels: of one slice.
        level: Zstandard's.
    """
    cell = codec.encode(pixels, level)
    return {PIXELS: cell, "packed_bytes": len(cell)}


def beside(report: Path, size_px: int) -> Path:
    """The shard of one size that a report of the stage `slices` vouches for."""
    return report.with_name(f"{report.stem}.{size_px}.parquet")


def read_reports(paths: Iterable[Path]) -> list[tuple[Any, Path]]:
    """Reports of the stage `slices` and where they are, ordered by dataset and chunk."""
    return sorted(
        ((read_json(path), path) for path in paths),
        key=lambda chunk: (chunk[0]["dataset"], chunk[0]["chunk"]),
    )


def open_shard(path: Path) -> pq.ParquetFile:
    """Open a shard. It is for one thread at a time.

    Raises:
        MeddinoError: the file is absent or is no Parquet.
    """
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except FileNotFoundError as error:
        raise MeddinoError(f"{path} does not exist; run the stage `slices` again") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise MeddinoError(f"{path} cannot be read ({error}); delete it and rerun") from error


def read_pieces(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Some columns of an index, piece by piece; checksums are compared where it has any.

    Raises:
        MeddinoError: the file is absent, cut off or damaged.
    """
    try:
        yield from open_shard(path).iter_batches(PIECE_ROWS, columns=columns, use_threads=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise MeddinoError(f"{path} cannot be read ({error}); delete it and rerun") from error


def slice_size_px(shard: pq.ParquetFile) -> int:
    """Side of a shard's slices, in pixels."""
    return int(shard.schema_arrow.metadata[b"size_px"])


def read_group(shard: pq.ParquetFile, group: int) -> npt.NDArray[np.int16]:
    """Pixels of one row group: int16 (rows, size, size) in HU."""
    side = slice_size_px(shard)
    return codec.decode([cell.as_buffer() for cell in _cells(shard, group)], (side, side))


def read_slice(path: Path, group: int, row: int) -> npt.NDArray[np.int16]:
    """Pixels of one slice: int16 (size, size) in HU."""
    shard = open_shard(path)
    side = slice_size_px(shard)
    image: npt.NDArray[np.int16]
    (image,) = codec.decode([_cells(shard, group)[row].as_buffer()], (side, side))
    return image


def _cells(shard: pq.ParquetFile, group: int) -> pa.ChunkedArray:
    """Packed slices of one row group."""
    return shard.read_row_group(group, columns=[PIXELS], use_threads=False)[PIXELS]


def read_index(path: Path, folder: Path) -> pa.Table:
    """Rows of an index for one shard: METADATA, and where each slice is.

    Args:
        path: the shard.
        folder: where the index will be.

    Returns:
        METADATA with `shard` (path relative to the folder), `group` and `row` (place in the shard),
        and `offset` (of the cell in the file, in bytes).

    Raises:
        MeddinoError: the shard is absent, damaged, or not laid out as `ShardWriter` does.
    """
    shard = open_shard(path)
    table = read_metadata(shard)
    groups, rows = places(shard)
    offset = _offsets(shard, groups, table["packed_bytes"].to_numpy())
    if (offset < 0).any():
        raise MeddinoError(f"{path}: cells are not where they should be; delete it and rerun")
    where = Path(os.path.relpath(path, folder)).as_posix()
    shared = pa.DictionaryArray.from_arrays(np.zeros(len(table), dtype=np.int32), [where])
    return (
        table.append_column("shard", shared)
        .append_column("group", pa.array(groups))
        .append_column("row", pa.array(rows))
        .append_column("offset", pa.array(offset))
    )


def _offsets(
    shard: pq.ParquetFile, groups: npt.NDArray[np.int32], sizes: npt.NDArray[np.int32]
) -> npt.NDArray[np.int64]:
    """Byte at which each cell of `pixels` starts: int64 (rows,); negative if there is no telling.

    A loader that knows it needs no footer: parsing those of all shards, over and over, would take
    it longer than reading the slices.
    """
    offset = np.full(len(sizes), -1, dtype=np.int64)
    for number in range(shard.num_row_groups):
        chunk = shard.metadata.row_group(number).column(SCHEMA.get_field_index(PIXELS))
        in_group = groups == number
        ends = np.cumsum(sizes[in_group] + CELL_PREFIX, dtype=np.int64)
        # Cells fill the end of the chunk; before them is the header of their only page.
        header = chunk.total_compressed_size - ends[-1]
        if chunk.compression == "UNCOMPRESSED" and 0 < header < LARGEST_HEADER:
            offset[in_group] = chunk.data_page_offset + header + ends - sizes[in_group]
    return offset


def places(shard: pq.ParquetFile) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Row group of each row, and its place in that group: int32 (rows,) both."""
    sizes = [shard.metadata.row_group(i).num_rows for i in range(shard.num_row_groups)]
    groups = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    nothing = np.arange(0, dtype=np.int32)  # of an empty shard there is nothing else to join
    rows = np.concatenate([nothing, *(np.arange(size, dtype=np.int32) for size in sizes)])
    return groups, rows


def read_slices(path: Path) -> Iterator[npt.NDArray[np.int16]]:
    """All slices of a shard in order: int16 (size, size) in HU."""
    shard = open_shard(path)
    for group in range(shard.num_row_groups):
        yield from read_group(shard, group)


def read_metadata(shard: pq.ParquetFile) -> pa.Table:
    """The columns of METADATA, for all rows of a shard."""
    return shard.read(columns=METADATA.names, use_threads=False).replace_schema_metadata()


def read_cells(
    shard: pq.ParquetFile, column: str, dtype: npt.DTypeLike
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """A column of bytes as one array, and how many of its elements each row has: int64 (rows,).

    Raises:
        MeddinoError: the shard is of an earlier version and has no such column.
    """
    if column not in shard.schema_arrow.names:
        raise MeddinoError(f"{shard.reader.path} has no {column}; run the stage `slices` again")
    cells = shard.read(columns=[column], use_threads=False)[column]
    sizes = pc.binary_length(cells).fill_null(0).to_numpy()
    packed = cells.drop_null().combine_chunks().buffers()[-1]
    values = np.frombuffer(packed or b"", dtype=np.uint8)[: int(sizes.sum())].view(dtype)
    return values, (sizes // np.dtype(dtype).itemsize).astype(np.int64)
