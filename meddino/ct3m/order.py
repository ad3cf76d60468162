"""In which order slices are shown: each place of a batch has a part of the data to itself.

An epoch is all row groups one after the other, in random order, cut into as many stretches as a
batch has places. Batch after batch, a place shows the slices of its stretch, shuffled among those
of a few row groups. So a batch has slices from all over the data, those of one row group come in
different batches, and whoever shows some of the places reads what lies in their stretches and
nothing else: however many processes share a batch, each byte is read once an epoch.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

SHUFFLED_SLICES = 8192
"""Slices of all windows of a batch together, unless a row group for each place is more, as it is
from 256 places on. They are held in memory, packed: 0.7 GB of slices of 256 px for 512 places, over
all processes."""


class Where(NamedTuple):
    """A slice by its place in the order: which one of which stretch of which epoch."""

    epoch: int
    stretch: int
    number: int


class Window(NamedTuple):
    """Slices that one place of a batch shows in shuffled order before it goes on to others."""

    first: int
    """Which slice of the stretch the first is."""
    rows: npt.NDArray[np.int64]
    """(n,), in the order that they are shown."""
    parts: list[range]
    """The same rows, by row group."""


class Order:
    """Which slice is shown when, in epochs that follow each other without a seam.

    Epoch e shows all slices once, in an order that (seed, e) and the size of batches fix. A batch
    may hold the end of one epoch and the start of the next, and a set smaller than a batch is
    repeated.
    """

    def __init__(self, first: npt.NDArray[np.int64], batch_size: int, seed: int) -> None:
        """Prepare the order.

        Args:
            first: int64 (groups + 1,), first row of each row group, and the number of rows.
            batch_size: places of a batch.
            seed: fixes the order.
        """
        self._rows, self._batch_size = int(first[-1]), batch_size
        per_group = -(-self._rows // (len(first) - 1))
        groups = max(1, SHUFFLED_SLICES // (batch_size * per_group))
        self.longest = min(groups * per_group, -(-self._rows // batch_size))
        """Slices of a window, about."""

        @lru_cache(maxsize=3)  # a batch in an epoch, and those that are read ahead in the next
        def epoch(number: int) -> _Epoch:
            return _Epoch(first, batch_size, groups, (seed, number))

        self._epoch = epoch

    def where(self, step: int, place: int) -> Where:
        """What a place of the batch of a step shows."""
        epoch, offset = divmod(step * self._batch_size + place, self._rows)
        number, stretch = divmod(offset, self._batch_size)
        return Where(epoch, stretch, number)

    def window(self, where: Where) -> Window:
        """The window that holds a slice."""
        return self._epoch(where.epoch).window(where.stretch, where.number)


class _Epoch:
    """One permutation of all slices."""

    def __init__(
        self, first: npt.NDArray[np.int64], stretches: int, groups: int, seed: tuple[int, int]
    ) -> None:
        """Draw it: the order of row groups, and which stretch is where; `groups` in a window."""
        # Raw bits and a stable sort: NumPy promises these, but not its shuffles, across versions.
        bits = np.random.PCG64(np.random.SeedSequence(seed))
        order = np.argsort(bits.random_raw(len(first) - 1), kind="stable")
        sizes = np.diff(first)[order]
        self._stops = np.cumsum(sizes)
        # What to add to a place in the epoch to have the row, in each group.
        self._shift = first[order] - (self._stops - sizes)
        rows = int(first[-1])
        self._lengths = rows // stretches + (np.arange(stretches) < rows % stretches)
        # Stretches that meet in a row group would else be neighbours in the batch.
        deal = np.argsort(bits.random_raw(stretches), kind="stable")
        self._starts = np.empty(stretches, np.int64)
        self._starts[deal] = np.cumsum(self._lengths[deal]) - self._lengths[deal]
        self._groups, self._seed = groups, seed

    def window(self, stretch: int, number: int) -> Window:
        """The window that slice `number` of a stretch is in."""
        begin = int(self._starts[stretch])
        end = begin + int(self._lengths[stretch])
        head, group = np.searchsorted(self._stops, [begin, begin + number], side="right").tolist()
        low = group - (group - head) % self._groups
        edges = self._stops[low : low + self._groups].clip(max=end).tolist()
        starts = [max(begin, int(self._stops[low - 1])) if low else begin, *edges[:-1]]
        shifts = self._shift[low : low + self._groups].tolist()
        parts = [
            range(start + shift, stop + shift)
            for start, stop, shift in zip(starts, edges, shifts, strict=True)
            if start < stop
        ]
        rows = np.concatenate([np.arange(part.start, part.stop) for part in parts])
        # Not from 0: seeds that end in zeros are equal, and the epoch's own ends before.
        bits = np.random.PCG64(np.random.SeedSequence((*self._seed, 1 + starts[0])))
        shuffled = rows[np.argsort(bits.random_raw(len(rows)), kind="stable")]
        return Window(starts[0] - begin, shuffled, parts)
