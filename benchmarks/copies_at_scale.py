"""Proposals of copies at the size of CT-3M: `python benchmarks/copies_at_scale.py`.

Made-up volumes: codes of phantoms with some bits changed, so that two volumes share as many by
chance as phantoms do or more (2.5; phantoms 1.2, real scans 0.1), at places of other landmarks.
With `--shared 0.2` codes are drawn from so many that two volumes share 0.2, which
`--volumes 113200`, 30 million slices, needs: of few codes each would be in more volumes than count.
Every fifth volume is a copy of another one: of its codes a few are equal, as those of a blurred
copy are, and all of its landmarks are moved.
"""

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from copies import Bench, phantom

from meddino.ct3m import catalogue, proposals
from meddino.ct3m.catalogue import PER_VOLUME, Catalogue
from meddino.ct3m.landmarks import COARSE, LANDMARK, MIRRORED, SIGNS

SLICES = 265
"""In a volume: 3,869,000 in 14,600."""
CHANGED = 0.04
"""The share of bits by which codes that come from one landmark differ."""
KEPT = 0.15
"""The share of codes that a copy keeps."""
MOVED_STEPS = (80, 30)
"""By how much a copy's landmarks are moved along y and x, in steps of POSITION_MM."""


def changes(rng: np.random.Generator, count: int, share: float) -> npt.NDArray[np.uint64]:
    """Bits to change in so many codes."""
    result = np.zeros(count, np.uint64)
    for bit in range(len(SIGNS)):
        result |= (rng.random(count) < share).astype(np.uint64) << np.uint64(bit)
    return result


def of_phantoms(count: int) -> tuple[npt.NDArray[np.void], npt.NDArray[np.int32]]:
    """Landmarks of phantoms, and the slice of each: 24 to a phantom."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), 128)
        scans = ((f"phantom{seed}", phantom(seed)) for seed in range(count))
        made = catalogue.read([bench.cut("phantoms", scans)], 128)
    return made.landmarks, made.number[made.landmark_row]


def world(
    volumes: int, rng: np.random.Generator, shared: float | None
) -> tuple[Catalogue, set[tuple[int, int]]]:
    """A catalogue of so many volumes, and which pairs in it are copies."""
    pool, heights = of_phantoms(32)
    codes = pool["code"]
    if shared is not None:
        bits = rng.integers(1, 1 << len(SIGNS), int(PER_VOLUME**2 / shared)).astype(np.uint64)
        codes = bits | rng.choice(codes & (COARSE | MIRRORED), len(bits))
    marks = np.zeros((volumes, PER_VOLUME), LANDMARK)
    numbers = np.zeros((volumes, PER_VOLUME), np.int32)
    for volume in range(volumes):
        places = rng.integers(0, len(pool), PER_VOLUME)
        marks[volume] = pool[places]
        marks["code"][volume] = codes[rng.integers(0, len(codes), PER_VOLUME)]
        numbers[volume] = heights[places] * (SLICES // 24)
    if shared is None:
        marks["code"] ^= changes(rng, marks.size, CHANGED).reshape(marks.shape)
    pairs = np.sort(rng.permutation(volumes)[: 2 * (volumes // 5)].reshape(-1, 2), axis=1)
    for original, copy in pairs:
        marks[copy], numbers[copy] = marks[original], numbers[original]
        lost = rng.random(PER_VOLUME) > KEPT
        marks["code"][copy, lost] ^= changes(rng, int(lost.sum()), 0.1)
        marks["y"][copy] += MOVED_STEPS[0]
        marks["x"][copy] += MOVED_STEPS[1]
    return _catalogue(volumes, marks, numbers, rng), {(int(a), int(b)) for a, b in pairs}


def _catalogue(
    volumes: int,
    marks: npt.NDArray[np.void],
    numbers: npt.NDArray[np.int32],
    rng: np.random.Generator,
) -> Catalogue:
    starts = np.arange(volumes) * SLICES
    frame = {"rows": 512, "columns": 512, "spacing_mm_y": 0.8, "spacing_mm_x": 0.8}
    table = pd.DataFrame({"dataset": "x", "case": starts.astype(str), **frame})
    rows = volumes * SLICES
    return Catalogue(
        volumes=table.assign(spacing_mm_z=1.5, shard=0, start=starts, stop=starts + SLICES),
        number=np.tile(np.arange(SLICES, dtype=np.int32), volumes),
        sha=rng.integers(1, 2**63, rows).astype(np.uint64),
        keys=rng.integers(1, 2**63, (rows, 4)).astype(np.uint64),
        offset=np.zeros(rows, np.int64),
        packed_bytes=np.zeros(rows, np.int32),
        landmarks=marks.reshape(-1),
        landmark_row=(numbers + starts[:, None]).astype(np.int32).reshape(-1),
        shards=[],
        size_px=256,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volumes", type=int, default=14_600)
    parser.add_argument("--shared", type=float, help="codes that two volumes share by chance")
    chosen = parser.parse_args()
    made, copies = world(chosen.volumes, np.random.default_rng(0), chosen.shared)
    before = time.monotonic()
    proposed = {(proposal.a, proposal.b) for proposal in proposals.propose(made)}
    seconds = time.monotonic() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{len(made.volumes):,} volumes, {len(made.number):,} slices, {os.cpu_count()} cores")
    print(f"{len(made.landmarks):,} landmarks: {seconds:.0f} s, {peak:.1f} GB")
    caught = len(proposed & copies)
    print(f"{len(proposed):,} pairs proposed; {caught:,} of {len(copies):,} copies among them")


if __name__ == "__main__":
    main()
