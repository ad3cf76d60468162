"""CT phantoms for the benchmarks."""

import numpy as np

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
