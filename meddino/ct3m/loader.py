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
from meddino.ct3m.order import Order, Window

READERS = 4
"""Threads that read ahead: one request at a time would leave a disk or a network idle."""
AHEAD = 1 / 4
"""What is read ahead, as a share of what is held."""


class _Held(NamedTuple):
    """A window in memory, or on its way there."""

    epoch: int
    window: Window
    last_step: int
    """That shows any of it."""
    cells: "Future[list[memoryview]]"
    """In the order that they are shown."""


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
            shown = [self._hold(step, place) for place in places]
            for place in places:
                self._hold(step + self._ahead, place)
                # Steps go on: what earlier ones have shown will not be asked for again.
                self._held[place] = [x for x in self._held[place] if x.last_step >= step]
        cells = [held.cells.result()[number] for held, number in shown]
        try:
            return torch.from_numpy(self._decode(cells))
        except OSError:
            for (held, number), cell in zip(shown, cells, strict=True):
                with reading(self._cells.shard(int(held.window.rows[number]))):
                    self._decode([cell])
            raise

    def indices(self, step: int, places: range | None = None) -> npt.NDArray[np.int64]:
        """Rows of the index that `batch(step, places)` shows: int64 (slices,)."""
        places = range(self._batch_size) if places is None else places
        slices = (self._order.where(step, place) for place in places)
        shown = ((where, self._order.window(where)) for where in slices)
        return np.array([window.rows[where.number - window.first] for where, window in shown])

    def _hold(self, step: int, place: int) -> tuple[_Held, int]:
        """The window that a place is at, and which of its slices the step shows."""
        where = self._order.where(step, place)
        for held in self._held[place]:
            number = where.number - held.window.first
            if held.epoch == where.epoch and 0 <= number < len(held.window.rows):
                return held, number
        window = self._order.window(where)
        number = where.number - window.first
        last_step = step - number + len(window.rows) - 1
        held = _Held(where.epoch, window, last_step, self._readers.submit(self._read, window))
        self._held[place].append(held)
        return held, number

    def _read(self, window: Window) -> list[memoryview]:
        """The packed slices of a window, in the order that they are shown."""
        cells = {
            row: cell
            for part in window.parts
            for row, cell in zip(part, self._cells.read(part), strict=True)
        }
        return [cells[row] for row in window.rows.tolist()]

    def _decode(self, cells: list[memoryview]) -> npt.NDArray[np.int16]:
        return codec.decode(cells, (self._cells.side, self._cells.side))
