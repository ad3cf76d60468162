"""Batches of slices in an order that depends on nothing but a seed and a step.

A training run that resumes at step n asks for batch n and gets it: there is no state to save. The
order does not depend on how many processes share it.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from meddino.core.errors import MeddinoError
from meddino.ct3m import codec, shards

Key = TypeVar("Key")
Value = TypeVar("Value")

WINDOW_SLICES = 8192
"""Slices that are shuffled among each other. Row groups are drawn at random over the whole set, so
that a window's slices come from everywhere, and each row group is read once per epoch, not once per
slice. The window and the next one are held in memory, packed: about 1 GB of slices of 256 px."""
READERS = 4
"""Threads that read ahead: one request at a time would leave a disk or a network idle."""


class _Lru(Generic[Key, Value]):
    """A bounded cache that forgets what was used longest ago."""

    def __init__(self, capacity: int) -> None:
        self._capacity, self._items = capacity, OrderedDict[Key, Value]()
        self._lock = threading.Lock()

    def get(self, key: Key) -> Value | None:
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
            return self._items.get(key)

    def put(self, key: Key, value: Value) -> None:
        with self._lock:
            self._items[key] = value
            if len(self._items) > self._capacity:
                self._items.popitem(last=False)


class Cells(NamedTuple):
    """Where the packed slices of an index are."""

    shard_paths: list[Path]
    shard_of: npt.NDArray[np.int32]
    """(rows,), number of the shard."""
    group_of: npt.NDArray[np.int32]
    """(rows,), row group within it."""
    start: npt.NDArray[np.int64]
    """(rows,), first byte of the cell in the file."""
    stop: npt.NDArray[np.int64]
    """(rows,), the byte after its last."""
    side: int
    """Of the slices (px)."""


class Group(NamedTuple):
    """Where packed slices that are read at once are."""

    shard: Path
    start: int
    stop: int

    def read(self) -> bytes:
        """The bytes from start to stop.

        Raises:
            MeddinoError: the shard is absent or cut short.
        """
        with self.reading(), self.shard.open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), self.stop - self.start, self.start)
            if len(data) < self.stop - self.start:
                raise EOFError("it ends too early")
            return data

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Say which shard an error is about."""
        try:
            yield
        except (OSError, EOFError) as error:
            raise MeddinoError(
                f"{self.shard} is absent or damaged ({error}); delete it and rerun"
            ) from error


class SliceLoader:
    """Shuffled batches over an index of slices.

    Epoch e is a permutation of all slices that is fixed by (seed, e); epochs follow each other
    without a seam, so that a batch may hold the end of one and the start of the next, and a set
    smaller than a batch is repeated. Safe to call from several threads.
    """

    def __init__(
        self, index: Path, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        """Read an index.

        Args:
            index: `index.<size>.parquet`; the shards are found relative to it.
            batch_size: slices per process.
            seed: fixes the order.
            rank: number of this process, from 0.
            world_size: number of processes; all give the same batch_size and seed.

        Raises:
            MeddinoError: the index is absent, unreadable or empty.
        """
        if not (batch_size > 0 and 0 <= rank < world_size):
            raise ValueError(f"batch_size {batch_size}, rank {rank} of {world_size}: out of range")
        self._batch_size, self._seed = batch_size, seed
        self._rank, self._world_size = rank, world_size
        cells = read_cells(index)
        self._side = cells.side
        self._groups, self._group_of, self._cell_of = _grouped(cells)
        per_group = -(-len(self) // len(self._groups))
        self._window = max(1, WINDOW_SLICES // per_group)
        # Steps to a window later: what is shown then is read now.
        self._ahead = max(1, self._window * per_group // (batch_size * world_size))
        # A quarter more than two windows, so that their ends fit in while the next is read.
        self._read = _Lru[int, Future[bytes]](2 * self._window + self._window // 4 + 1)
        self._orders = _Lru[int, npt.NDArray[np.int64]](2)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="slices")

    def __len__(self) -> int:
        """Number of slices in the index."""
        return len(self._group_of)

    def batch(self, step: int) -> torch.Tensor:
        """Batch of this process at a step: int16 (batch_size, size, size) in HU, on the CPU.

        Raises:
            MeddinoError: a shard is absent or damaged.
        """
        rows = self.indices(step)
        groups = [self._group(int(group)) for group in self._group_of[rows]]
        for group in np.unique(self._group_of[self.indices(step + self._ahead)]):
            self._group(int(group))
        cells = [
            memoryview(group.result())[start:stop]
            for group, (start, stop) in zip(groups, self._cell_of[rows].tolist(), strict=True)
        ]
        try:
            return torch.from_numpy(self._decode(cells))
        except OSError:
            for row, cell in zip(rows, cells, strict=True):
                with self._groups[self._group_of[row]].reading():
                    self._decode([cell])
            raise

    def _group(self, number: int) -> "Future[bytes]":
        """The cells of a row group, or the promise of them."""
        cells = self._read.get(number)
        if cells is None:
            cells = self._readers.submit(self._groups[number].read)
            self._read.put(number, cells)
        return cells

    def _decode(self, cells: list[memoryview]) -> npt.NDArray[np.int16]:
        return codec.decode(cells, (self._side, self._side))

    def indices(self, step: int) -> npt.NDArray[np.int64]:
        """Rows of the index that `batch(step)` shows: int64 (batch_size,)."""
        first = (step * self._world_size + self._rank) * self._batch_size
        places = np.arange(first, first + self._batch_size)
        epochs, offsets = np.divmod(places, len(self))
        rows = np.empty(self._batch_size, dtype=np.int64)
        for epoch in np.unique(epochs):
            in_epoch = epochs == epoch
            rows[in_epoch] = self._order(int(epoch))[offsets[in_epoch]]
        return rows

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        """The permutation of one epoch, of all rows: int64 (len,)."""
        order = self._orders.get(epoch)
        if order is None:
            order = shuffle(self._group_of, self._window, self._seed, epoch)
            self._orders.put(epoch, order)
        return order


def shuffle(
    group_of: npt.NDArray[np.int64], window: int, seed: int, epoch: int
) -> npt.NDArray[np.int64]:
    """A permutation of rows: groups are shuffled, and then rows within each window of groups.

    Args:
        group_of: int64 (rows,), group of each row, numbered from 0.
        window: groups per window.
        seed: the run's seed.
        epoch: which permutation.

    Returns:
        int64 (rows,).
    """
    # Raw bits and a stable sort: NumPy promises these, but not its shuffles, across versions.
    bits = np.random.PCG64(np.random.SeedSequence([seed, epoch]))
    groups = int(group_of.max()) + 1
    place = np.empty(groups, dtype=np.int64)
    place[np.argsort(bits.random_raw(groups), kind="stable")] = np.arange(groups)
    return np.lexsort((bits.random_raw(len(group_of)), place[group_of] // window))


def read_cells(index: Path) -> Cells:
    """Read where the slices of an index are.

    Raises:
        MeddinoError: the index is absent, unreadable or empty.
    """
    columns = ["shard", "group", "offset", "packed_bytes"]
    table = shards.read_columns(index, columns)
    if len(table) == 0:
        raise MeddinoError(f"{index} holds no slices; see the reports of the stage `slices`")
    names = table["shard"].cast(pa.string()).combine_chunks().dictionary_encode()
    paths = [index.parent / name for name in names.dictionary.to_pylist()]
    start = table["offset"].to_numpy()
    return Cells(
        paths,
        names.indices.to_numpy(),
        table["group"].to_numpy(),
        start,
        start + table["packed_bytes"].to_numpy(),
        shards.slice_size_px(shards.open_shard(paths[0])),
    )


def _grouped(
    cells: Cells,
) -> tuple[list[Group], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Gather the cells of each row group.

    Returns:
        The row groups; group of each row, int64 (rows,); first byte and end of each row's cell
        within its group, int64 (rows, 2).
    """
    keys = np.stack([cells.shard_of, cells.group_of], axis=1).astype(np.int64)
    groups, group_of = np.unique(keys, axis=0, return_inverse=True)
    group_of = group_of.reshape(-1)
    first, last = np.full(len(groups), np.iinfo(np.int64).max), np.zeros(len(groups), np.int64)
    np.minimum.at(first, group_of, cells.start)
    np.maximum.at(last, group_of, cells.stop)
    row_groups = [
        Group(cells.shard_paths[shard], int(begin), int(end))
        for (shard, _), begin, end in zip(groups, first, last, strict=True)
    ]
    return row_groups, group_of, np.stack([cells.start, cells.stop], axis=1) - first[group_of, None]
