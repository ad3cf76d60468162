"""Proposals of copies at the size of CT-3M: `python benchmarks/duplicates.py`.

Made-up fingerprints, whose frequencies spread as those of real slices do and drift along z; every
fifth volume is a copy of another one, shaken by rounding.
"""

import resource
import time

import numpy as np
import pandas as pd

from meddino.ct3m import duplicates

VOLUMES, SLICES = 14_600, 265  # 3,869,000 slices
COPIES = 2_900


def fingerprints(rng: np.random.Generator) -> np.ndarray:
    """int16 (VOLUMES * SLICES, 64)."""
    y, x = np.divmod(np.arange(64), 8)
    spread = 90.0 / (1 + x + y)
    place = np.linspace(0, 11, SLICES)
    below = np.minimum(place.astype(int), 10)
    share = (place - below)[:, None]
    made = np.empty((VOLUMES * SLICES, 64), np.int16)
    for volume in range(VOLUMES):
        knots = rng.normal(0, 0.5, (12, 64)) * spread + rng.normal(0, 0.5, 64) * spread
        drifting = knots[below] * (1 - share) + knots[below + 1] * share
        made[volume * SLICES : (volume + 1) * SLICES] = np.rint(drifting)
    return made


def main() -> None:
    rng = np.random.default_rng(0)
    prints = fingerprints(rng)
    planted = rng.permutation(VOLUMES)[: 2 * COPIES].reshape(-1, 2)
    for one, copy in planted:
        shaken = prints[one * SLICES : (one + 1) * SLICES] + rng.integers(-1, 2, (SLICES, 64))
        prints[copy * SLICES : (copy + 1) * SLICES] = shaken
    starts = np.arange(VOLUMES) * SLICES
    volumes = pd.DataFrame({"dataset": "x", "case": starts.astype(str), "start": starts})
    volumes["stop"] = starts + SLICES
    slices = duplicates.Slices(
        volumes=volumes,
        number=np.tile(np.arange(SLICES), VOLUMES),
        sha=rng.integers(0, 2**63, len(prints)).astype(np.uint64),
        fingerprint=prints,
        place=np.zeros((len(prints), 3), np.int64),
        shards=[],
    )
    before = time.monotonic()
    proposed = {tuple(pair) for pair in duplicates.candidates(slices).tolist()}
    seconds = time.monotonic() - before
    caught = sum(tuple(sorted(pair)) in proposed for pair in planted.tolist())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{len(prints):,} slices of {VOLUMES:,} volumes: {seconds:.0f} s, {peak:.1f} GB")
    print(f"{len(proposed):,} pairs proposed; {caught:,} of {COPIES:,} copies among them")


if __name__ == "__main__":
    main()
