"""Loading at the size of CT-3M: starting, reading by many processes, and how well slices mix.

    python benchmarks/loading_at_scale.py [--rows 4000000]

Starting is measured in a process of its own, on a made-up index of so many slices. Reading is
counted by the kernel (`rchar`): real shards of small slices, a loader for each process, an epoch.
Mixing is that of 400,000 slices in volumes of 265. Prints Markdown tables.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from phantoms import indexed

from meddino.ct3m import shards
from meddino.ct3m.loader import SliceLoader
from meddino.ct3m.order import Order

BATCH, VOLUME, GROUP, SHARD = 512, 265, 32, 5300
START = """
import sys, time
from pathlib import Path
import pyarrow.parquet, torch
from meddino.ct3m.loader import SliceLoader
memory = lambda: int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
before, start = memory(), time.perf_counter()
SliceLoader(Path(sys.argv[1]), batch_size=512, seed=0).indices(0)
print(f"{time.perf_counter() - start:.1f} s, {(memory() - before) / 1e3:.0f} MB")
"""
"""Of a process that has imported torch and PyArrow already."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--folder", type=Path, help="where the data go (default: a temporary one)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as scratch:
        index = made_up(Path(scratch) / "index.256.parquet", chosen.rows)
        command = [sys.executable, "-c", START, str(index)]
        started = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print(f"{chosen.rows:,} slices: {started}")
        print("| processes | bytes read / bytes of the slices | least and most of a process |")
        print("|---:|---:|---:|")
        rng = np.random.default_rng(0)
        images = rng.integers(-1000, 1000, (65_536, 16, 16)).astype(np.int16)
        index = indexed(Path(scratch) / "small", images, SHARD)
        for processes in (1, 4, 16, 64):
            shares = np.array(list(reads(index, processes)))
            low, high = shares.min() * processes, shares.max() * processes
            print(f"| {processes} | {shares.sum():.2f} | {low:.2f} to {high:.2f} |", flush=True)
    mixing(400_000)


def made_up(path: Path, rows: int) -> Path:
    """An index of so many slices, of which only the first shard exists, and is empty."""
    rng, row = np.random.default_rng(0), np.arange(rows)
    sizes = rng.integers(30_000, 56_000, rows).astype(np.int32)
    stops = np.cumsum(sizes, dtype=np.int64) + 4 * row
    shard, inside = np.divmod(row, SHARD)
    names = [f"{number}.256.parquet" for number in range(int(shard[-1]) + 1)]
    columns = {
        "shard": pa.DictionaryArray.from_arrays(shard.astype(np.int32), names),
        "group": (inside // GROUP).astype(np.int32),
        "offset": stops - sizes - (stops - sizes)[shard * SHARD] + 4,
        "packed_bytes": sizes,
    }
    pq.write_table(pa.table(columns), path, compression="zstd", row_group_size=1 << 20)
    shards.write(path.with_name(names[0]), 256, [])
    return path


def reads(index: Path, processes: int) -> Iterator[float]:
    """What each process reads in its second epoch, in bytes of all slices."""
    whole = pq.read_table(index, columns=["packed_bytes"])["packed_bytes"].to_numpy().sum()
    share = BATCH // processes
    for process in range(processes):
        loader = SliceLoader(index, batch_size=BATCH, seed=0)
        places = range(process * share, (process + 1) * share)
        counted = []
        for step in range(2 * len(loader) // BATCH):
            loader.batch(step, places)
            counted.append(_read_bytes())
        yield (counted[-1] - counted[len(loader) // BATCH - 1]) / whole


def _read_bytes() -> int:
    """Bytes that this process has asked the kernel for."""
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


def mixing(rows: int) -> None:
    """Print how slices that belong together are spread over an epoch, against a full shuffle."""
    group = (np.arange(rows) // SHARD) * -(-SHARD // GROUP) + np.arange(rows) % SHARD // GROUP
    first = np.append(np.flatnonzero(np.diff(group, prepend=-1)), rows)
    order = Order(first.astype(np.int64), BATCH, 0)
    epochs = [_epoch(order, rows, number) for number in range(2)]
    full = np.random.default_rng(0).permutation(rows)
    print("\n| per batch of 512, an epoch | this order | full shuffle |\n|---|---:|---:|")
    for name, of_row in (("row group", group), ("volume", np.arange(rows) // VOLUME)):
        ours, theirs = (_pairs(of_row[shown]) for shown in (epochs[0], full))
        print(f"| pairs of one {name} | {ours:.2f} | {theirs:.2f} |")
    near = [_neighbours(shown) for shown in (epochs[0], full)]
    print(f"| pairs of neighbours | {near[0][0]:.3f} | {near[1][0]:.3f} |")
    print(f"| steps between neighbours, median | {near[0][1]:.0f} | {near[1][1]:.0f} |")
    places = np.argsort(epochs, axis=1)
    across = np.corrcoef(places)[0, 1]
    with_data = np.corrcoef(places[0], np.arange(rows))[0, 1]
    print(f"| correlation of places in two epochs | {across:.3f} | 0 |")
    print(f"| correlation of places and rows | {with_data:.3f} | 0 |")


def _epoch(order: Order, rows: int, number: int) -> npt.NDArray[np.int64]:
    """The rows of an epoch in the order that they are shown."""
    places = (divmod(number * rows + place, BATCH) for place in range(rows))
    shown = (order.where(step, place) for step, place in places)
    windows = ((where, order.window(where)) for where in shown)
    return np.array([window.rows[where.number - window.first] for where, window in windows])


def _pairs(of_slice: npt.NDArray[np.int64]) -> float:
    """Pairs of slices of one batch that are of one kind, mean over batches."""
    batches = of_slice[: len(of_slice) // BATCH * BATCH].reshape(-1, BATCH)
    counts = [np.unique(batch, return_counts=True)[1] for batch in batches]
    return float(np.mean([(n * (n - 1) // 2).sum() for n in counts]))


def _neighbours(shown: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Neighbours in a volume: pairs a batch, and the median of how many batches are between."""
    step = np.argsort(shown) // BATCH
    apart = np.abs(np.diff(step))[np.arange(1, len(step)) % VOLUME != 0]
    return float((apart == 0).sum() * BATCH / len(shown)), float(np.median(apart))


if __name__ == "__main__":
    main()
