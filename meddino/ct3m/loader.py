"""Batches of slices in an order that depends on nothing but a seed and the size of a batch.

A training run that resumes at step n asks for batch n and gets it: there is no state to save. The
order does not depend on how many processes share a batch, and each reads its own part of the data.
"""

import threading
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from meddino.ct3m import codec
from meddino.ct3m.cells import read_cells, reading
from meddino.ct3m.order import Order, Where, Window

READERS = 4
"""Threads that read ahead: one request at a time would leave a disk or a network idle."""
AHEAD = 1 / 4
"""What is read ahead, as a share of what is held."""


class _Held(NamedTuple):
    """A window, of which some is in memory or on its way there."""

    epoch: int
    window: Window
    last_step: int
    """That shows any of it."""
    parts: "dict[range, Future[list[memoryview]]]"
    """Packed slices of those of its parts that were asked for."""


class _Cell(NamedTuple):
    """A packed slice, in memory or on its way there."""

    row: int
    part: "Future[list[memoryview]]"
    number: int
    """Within the part."""


class SliceLoader:
    """Shuffled batches over an index of slices (see `meddino.ct3m.order`).

    Safe to call from several threads.
    """

    def __init__(self, index: Path, *, batch_size: int, seed: int) -> None:
        """Read an index.

        Args:
            index: `index.<size>.parquet`; the shards are found relative to it.
            batch_size: slices of a batch, over all processes that share it.
            seed: fixes the order.

        Raises:
            MeddinoError: the index is absent, unreadable or empty.
        """
        if batch_size <= 0:
            raise ValueError(f"batch_size {batch_size} is not above 0")
        self._cells, self._batch_size = read_cells(index), batch_size
        self._order = Order(self._cells.first, batch_size, seed)
        self._ahead = max(1, round(AHEAD * self._order.longest))
        self._held = defaultdict[int, list[_Held]](list)  # by place
        self._lock = threading.Lock()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="slices")

    def __len__(self) -> int:
        """Number of slices in the index."""
        return len(self._cells)

    def batch(self, step: int, places: range | None = None) -> torch.Tensor:
        """Slices of the batch of a step: int16 (slices, size, size) in HU, on the CPU.

        Args:
            step: number of the batch, from 0.
            places: which of its places, n of them; None: all. Those of the steps that follow are
                read ahead, so that a process had best ask for the same ones each time.

        Raises:
            MeddinoError: a shard is absent or damaged.
        """
        places = range(self._batch_size) if places is None else places
        with self._lock:
            shown = [self._cell(step, place) for place in places]
            for place in places:
                self._cell(step + self._ahead, place)
                # Steps go on: what earlier ones have shown will not be asked for again.
                self._held[place] = [x for x in self._held[place] if x.last_step >= step]
        packed = [cell.part.result()[cell.number] for cell in shown]
        try:
            return torch.from_numpy(self._decode(packed))
        except OSError:
            for cell, content in zip(shown, packed, strict=True):
                with reading(self._cells.shard(cell.row)):
                    self._decode([content])
            raise

    def indices(self, step: int, places: range | None = None) -> npt.NDArray[np.int64]:
        """Rows of the index that `batch(step, places)` shows: int64 (slices,)."""
        places = range(self._batch_size) if places is None else places
        slices = (self._order.where(step, place) for place in places)
        shown = ((where, self._order.window(where)) for where in slices)
        return np.array([window.rows[where.number - window.first] for where, window in shown])

    def _cell(self, step: int, place: int) -> _Cell:
        """What a place of the batch of a step shows; begins to read its row group if need be."""
        where = self._order.where(step, place)
        held = self._hold(step, place, where)
        row = int(held.window.rows[where.number - held.window.first])
        part = next(part for part in held.window.parts if row in part)
        if part not in held.parts:
            held.parts[part] = self._readers.submit(self._cells.read, part)
        return _Cell(row, held.parts[part], row - part.start)

    def _hold(self, step: int, place: int, where: Where) -> _Held:
        """The window that a place is at."""
        for held in self._held[place]:
            number = where.number - held.window.first
            if held.epoch == where.epoch and 0 <= number < len(held.window.rows):
                return held
        window = self._order.window(where)
        last_step = step - (where.number - window.first) + len(window.rows) - 1
        self._held[place].append(_Held(where.epoch, window, last_step, {}))
        return self._held[place][-1]

    def _decode(self, cells: list[memoryview]) -> npt.NDArray[np.int16]:
        return codec.decode(cells, (self._cells.side, self._cells.side))
