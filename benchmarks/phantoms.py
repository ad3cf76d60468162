"""CT phantoms for the benchmarks, and shards of them."""

from pathlib import Path

import numpy as np

from meddino.core.files import write_json
from meddino.ct3m import index, shards
from meddino.ct3m.options import IndexOptions
from meddino.datasets.phantom.scanner import Protocol, Scan, scan


def scanned(size_px: int, slices: int, rng: np.random.Generator) -> Scan:
    """An abdomen of `slices` x `size_px` x `size_px` voxels with the noise of a usual scan."""
    protocol = Protocol(
        size_px=size_px,
        slices=slices,
        noise_hu=12.0,
        bottom_mm=(-150.0, -140.0),
        padding=-1024,
        mr=False,
        lesions=True,
    )
    return scan(protocol, rng)


def indexed(folder: Path, images: np.ndarray, per_shard: int) -> Path:
    """Write slices (N, S, S) as shards and an index, as `slices` and `index` make them.

    Returns:
        The index.
    """
    size_px = images.shape[-1]
    blank = {f.name: {"string": "", "binary": b""}.get(str(f.type), 1) for f in shards.METADATA}
    reports = []
    for number, first in enumerate(range(0, len(images), per_shard)):
        part = images[first : first + per_shard]
        rows = [(image, {**blank, "case": str(first + row)}) for row, image in enumerate(part)]
        shards.write(folder / f"{number}.{size_px}.parquet", size_px, rows)
        report = {"dataset": "bench", "chunk": number, "slices": len(part), "quarantined": []}
        write_json(folder / f"{number}.json", report)
        reports.append(folder / f"{number}.json")
    output = folder / f"index.{size_px}.parquet"
    index.run(IndexOptions(size_px=size_px), reports=reports, output=output)
    return output
