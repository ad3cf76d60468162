"""Where the packed slices of an index are, and how to read them.

Every process of a training run holds this for all slices: 12 bytes each.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from meddino.core.errors import MeddinoError
from meddino.ct3m import shards

COLUMNS = ["shard", "group", "offset", "packed_bytes"]


@dataclass(frozen=True)
class Cells:
    """Where the packed slices of an index are.

    A group is what lies together: rows that follow each other in the index and belong to one row
    group of a shard.

    Attributes:
        shards: files, by number.
        shard_of: int32 (groups,), the shard of each.
        first: int64 (groups + 1,), the first row of each, and the number of rows.
        start: int64 (rows,), first byte of a row's cell in its file.
        size: int32 (rows,), bytes of the cell.
        side: of the slices (px).
    """

    shards: list[Path]
    shard_of: npt.NDArray[np.int32]
    first: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    size: npt.NDArray[np.int32]
    side: int

    def __len__(self) -> int:
        """Number of slices."""
        return len(self.start)

    def shard(self, row: int) -> Path:
        """The file that holds a slice."""
        return self.shards[self.shard_of[np.searchsorted(self.first, row, side="right") - 1]]

    def read(self, rows: range) -> list[memoryview]:
        """The packed slices of rows of one group, read at once.

        Raises:
            MeddinoError: the shard is absent or cut short.
        """
        starts = self.start[rows.start : rows.stop]
        stops = starts + self.size[rows.start : rows.stop]
        first, length = int(starts.min()), int(stops.max() - starts.min())
        path = self.shard(rows.start)
        with reading(path), path.open("rb", buffering=0) as file:
            data = memoryview(os.pread(file.fileno(), length, first))
            if len(data) < length:
                raise EOFError("it ends too early")
        places = zip((starts - first).tolist(), (stops - first).tolist(), strict=True)
        return [data[start:stop] for start, stop in places]


@contextmanager
def reading(shard: Path) -> Iterator[None]:
    """Say which shard an error is about."""
    try:
        yield
    except (OSError, EOFError) as error:
        raise MeddinoError(
            f"{shard} is absent or damaged ({error}); delete it and rerun"
        ) from error


def read_cells(index: Path) -> Cells:
    """Read where the slices of an index are; the shards are found relative to it.

    Raises:
        MeddinoError: the index is absent, unreadable or empty.
    """
    count = shards.open_shard(index).metadata.num_rows
    if count == 0:
        raise MeddinoError(f"{index} holds no slices; see the reports of the stage `slices`")
    start, size = np.empty(count, np.int64), np.empty(count, np.int32)
    first, shard_of = [], []
    numbers: dict[str, int] = {}
    row, previous = 0, -1
    for rows in shards.read_pieces(index, COLUMNS):
        piece = slice(row, row + len(rows))
        start[piece], size[piece] = rows["offset"].to_numpy(), rows["packed_bytes"].to_numpy()
        codes = rows["shard"].dictionary_encode()
        names = codes.dictionary.to_pylist()
        number = np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)
        key = number[codes.indices.to_numpy()] << 32 | rows["group"].to_numpy()
        new = np.flatnonzero(np.diff(key, prepend=previous))
        first.append(row + new)
        shard_of.append((key[new] >> 32).astype(np.int32))
        row, previous = piece.stop, int(key[-1])
    paths = [index.parent / name for name in numbers]
    side = shards.slice_size_px(shards.open_shard(paths[0]))
    return Cells(
        paths, np.concatenate(shard_of), np.concatenate([*first, [count]]), start, size, side
    )
