"""The `leaves` verb: dead-leaves pictures, the demo's stand-in for natural images.

Discs of random size and shade fall over each other until nothing of the ground is left. Such
pictures share the statistics of natural images (scale invariance, occlusion, edges) and hold no
anatomy, as the photographs that DINOv3 learned from. They are stored as CT slices are, in HU.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from meddino.core.files import atomic
from meddino.core.progress import track
from meddino.ct3m import shards
from meddino.pretrain.crops import HU_RANGE
from meddino.pretrain.options import LeavesOptions

RADIUS = (0.03, 0.4)
"""Smallest and largest disc, as a share of the side; their density falls with the cube."""
DISCS = 400


def run(options: LeavesOptions, *, output: Path) -> None:
    """Make pictures, as one shard and its index.

    Args:
        options: how many, of which size.
        output: `index.<size>.parquet`; the shard lies beside it.
    """
    shard = output.with_name(f"leaves.{options.size_px}.parquet")
    pictures = track(_pictures(options), "dead leaves", options.count)
    shards.write(shard, options.size_px, _rows(pictures))
    table = shards.read_index(shard, output.parent)
    with atomic(output) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)


def _pictures(options: LeavesOptions) -> Iterator[npt.NDArray[np.int16]]:
    for number in range(options.count):
        yield picture(options.size_px, np.random.default_rng([options.seed, number]))


def picture(size_px: int, rng: np.random.Generator) -> npt.NDArray[np.int16]:
    """Draw one picture: int16 (size_px, size_px) in HU."""
    low, high = HU_RANGE
    # Inverse transform of a density that falls with the cube of the radius.
    a, b = (radius**-2 for radius in RADIUS)
    radii = (a + (b - a) * rng.random(DISCS)) ** -0.5 * size_px
    centres = rng.uniform(-0.2 * size_px, 1.2 * size_px, (DISCS, 2))
    shades = rng.uniform(low, high, DISCS)
    slopes = rng.normal(0, 0.15 * (high - low) / size_px, (DISCS, 2))
    y, x = np.mgrid[:size_px, :size_px]
    image = np.full((size_px, size_px), shades.mean())
    for radius, (cy, cx), shade, (gy, gx) in zip(radii, centres, shades, slopes, strict=True):
        inside = (y - cy) ** 2 + (x - cx) ** 2 < radius**2
        image[inside] = shade + gy * (y - cy)[inside] + gx * (x - cx)[inside]
    image += rng.normal(0, 20, image.shape)
    return np.clip(np.rint(image), low, high).astype(np.int16)


def _rows(
    pictures: Iterator[npt.NDArray[np.int16]],
) -> Iterator[tuple[npt.NDArray[np.int16], dict[str, Any]]]:
    for number, pixels in enumerate(pictures):
        side = len(pixels)
        yield (
            pixels,
            {
                "dataset": "leaves",
                "case": f"leaves_{number:05d}",
                "slice": 0,
                "z_mm": 0.0,
                "spacing_mm_y": 1.0,
                "spacing_mm_x": 1.0,
                "spacing_mm_z": 1.0,
                "rows": side,
                "columns": side,
                "hu_min": int(pixels.min()),
                "hu_max": int(pixels.max()),
                "hu_mean": float(pixels.mean()),
                "hu_std": float(pixels.std()),
                "body_fraction": float((pixels > -500).mean()),
                "sha": f"leaves-{number}",
            },
        )
