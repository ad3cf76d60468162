"""Batches of slices in an order that depends on nothing but a seed and a step.

A training run that resumes at step n asks for batch n and gets it: there is no state to save. The
order does not depend on how many processes share it.
"""

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from meddino.core.errors import MeddinoError
from meddino.ct3m import shards

Key = TypeVar("Key")
Value = TypeVar("Value")

WINDOW_SLICES = 8192
"""Slices that are shuffled among each other. Row groups are drawn at random over the whole set, so
that a window's slices come from everywhere, and each row group is decoded once per epoch, not once
per slice."""
OPEN_SHARDS = 64
"""Shards whose footers are kept: opening one costs as much as decoding a few slices."""


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
        self._folder, self._batch_size, self._seed = index.parent, batch_size, seed
        self._rank, self._world_size = rank, world_size
        self._shards, self._group_of, self._row_of, self._groups = _read_index(index)
        per_group = -(-len(self) // len(self._groups))
        self._window = max(1, WINDOW_SLICES // per_group)
        # A quarter more than a window, so that its end and the next one's start fit together.
        self._decoded = _Lru[int, npt.NDArray[np.int16]](self._window + self._window // 4 + 1)
        self._open = _Lru[int, pq.ParquetFile](OPEN_SHARDS)
        self._orders = _Lru[int, npt.NDArray[np.int64]](2)

    def __len__(self) -> int:
        """Number of slices in the index."""
        return len(self._row_of)

    def batch(self, step: int) -> torch.Tensor:
        """Batch of this process at a step: int16 (batch_size, size, size) in HU, on the CPU."""
        rows = self.indices(step)
        images = [self._slice(int(row)) for row in rows]
        return torch.from_numpy(np.stack(images))

    def indices(self, step: int) -> npt.NDArray[np.int64]:
        """Rows of the index that `batch(step)` shows: int64 (batch_size,)."""
        first = (step * self._world_size + self._rank) * self._batch_size
        places = np.arange(first, first + self._batch_size)
        epochs, offsets = np.divmod(places, len(self))
        rows = np.empty(self._batch_size, dtype=np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            rows[here] = self._order(int(epoch))[offsets[here]]
        return rows

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        """The permutation of one epoch, of all rows: int64 (len,)."""
        order = self._orders.get(epoch)
        if order is None:
            order = shuffle(self._group_of, self._window, self._seed, epoch)
            self._orders.put(epoch, order)
        return order

    def _slice(self, row: int) -> npt.NDArray[np.int16]:
        group = int(self._group_of[row])
        pixels = self._decoded.get(group)
        if pixels is None:
            shard, number = self._groups[group]
            pixels = shards.read_group(self._shard(int(shard)), int(number))
            self._decoded.put(group, pixels)
        return pixels[self._row_of[row]]

    def _shard(self, number: int) -> pq.ParquetFile:
        shard = self._open.get(number)
        if shard is None:
            shard = shards.open_shard(self._folder / self._shards[number])
            self._open.put(number, shard)
        return shard


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


def _read_index(
    index: Path,
) -> tuple[list[str], npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Read an index.

    Returns:
        Paths of the shards; group of each row, int64 (rows,); place of each row in its group, int64
        (rows,); shard and row group of each group, int64 (groups, 2).
    """
    table = shards.open_shard(index).read(columns=["shard", "group", "row"])
    if len(table) == 0:
        raise MeddinoError(f"{index} holds no slices; see the reports of the stage `slices`")
    encoded = table["shard"].cast(pa.string()).combine_chunks().dictionary_encode()
    keys = np.stack([encoded.indices.to_numpy(), table["group"].to_numpy()], axis=1)
    groups, group_of = np.unique(keys.astype(np.int64), axis=0, return_inverse=True)
    row_of = table["row"].to_numpy().astype(np.int64)
    return encoded.dictionary.to_pylist(), group_of.reshape(-1), row_of, groups
