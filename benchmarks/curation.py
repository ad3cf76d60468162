"""Volumes to slices on one core: meddino, SimpleITK in two steps, and gzip alone.

    python benchmarks/curation.py [VOLUME.nii.gz ...]

Without volumes, a phantom of 512 x 512 x 120 voxels is scanned. The peer is what one would write at
first: read with SimpleITK, resample to 0.45 mm in plane, resize to 256 x 256, store a .npy a slice.
Prints a Markdown table with the best of several runs.
"""

import argparse
import gzip
import io
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from phantoms import scanned
from PIL import Image

from meddino.core.files import write_json
from meddino.ct3m import shards, slices
from meddino.ct3m.options import Curation, SliceOptions
from meddino.datasets.options import FolderLayout

SPACING_MM, SIZE_PX = 0.45, 256
LOWEST_HU = -1024


class Result(NamedTuple):
    """Milliseconds and bytes of one slice."""

    name: str
    count: int
    gunzip: float
    peer: float
    ours: float
    stored: float
    png: float


def main() -> None:
    """Measure each volume and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("volumes", nargs="*", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    with tempfile.TemporaryDirectory() as scratch:
        volumes = given.volumes or [_phantom(Path(scratch))]
        rows = [_measure(volume, Path(scratch), given.repeats) for volume in volumes]
    print(
        "| volume (z, y, x) | slices | gunzip | SimpleITK, two steps | meddino | SimpleITK /"
        " meddino | meddino / gunzip | bytes / int16 | PNG-16 / int16 | float32 / int16 |"
    )
    print("|---|" + "---:|" * 9)
    raw = SIZE_PX * SIZE_PX * 2
    for r in rows:
        print(
            f"| {r.name} | {r.count} | {r.gunzip:.2f} ms | {r.peer:.2f} ms | {r.ours:.2f} ms |"
            f" {r.peer / r.ours:.1f} | {r.ours / r.gunzip:.2f} | {r.stored / raw:.2f} |"
            f" {r.png / raw:.2f} | 2.00 |"
        )


def _measure(volume: Path, scratch: Path, repeats: int) -> Result:
    folder = Path(tempfile.mkdtemp(dir=scratch))
    raw = folder / "raw"
    raw.mkdir()
    (raw / "case.nii.gz").symlink_to(volume.resolve())
    write_json(folder / ".fetched.json", {"root": str(raw)})
    count = _peer(volume, folder)
    peer = _best(lambda: _peer(volume, folder), repeats)
    ours = _best(lambda: _meddino(folder), repeats)
    gunzip = _best(lambda: _gunzip(volume), repeats)
    shard = folder / f"0.{SIZE_PX}.parquet"
    images = list(shards.read_slices(shard))
    shape = sitk.ReadImage(str(volume)).GetSize()[::-1]
    return Result(
        f"{volume.parent.name}: {' x '.join(map(str, shape))}",
        count,
        *(seconds / count * 1e3 for seconds in (gunzip, peer, ours)),
        shard.stat().st_size / len(images),
        sum(map(_png_bytes, images)) / len(images),
    )


def _best(action: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _gunzip(volume: Path) -> None:
    with gzip.open(volume) as file:
        file.read()


def _peer(volume: Path, folder: Path) -> int:
    """The straightforward way; returns the number of slices."""
    image = sitk.ReadImage(str(volume))
    size, spacing = image.GetSize(), image.GetSpacing()
    fine = [round(size[axis] * spacing[axis] / SPACING_MM) for axis in (0, 1)]
    image = _resampled(image, fine)
    images = sitk.GetArrayFromImage(_resampled(image, [SIZE_PX, SIZE_PX]))
    for number, pixels in enumerate(images):
        np.save(folder / f"{number}.npy", pixels)
    return len(images)


def _resampled(image: sitk.Image, size: list[int]) -> sitk.Image:
    """The same field of view in `size` (x, y) pixels, by linear interpolation."""
    old = image.GetSpacing()
    spacing = [old[axis] * image.GetSize()[axis] / size[axis] for axis in (0, 1)]
    first = [(spacing[axis] - old[axis]) / 2 / old[axis] for axis in (0, 1)]
    return sitk.Resample(
        image,
        [*size, image.GetSize()[2]],
        sitk.Transform(),
        sitk.sitkLinear,
        image.TransformContinuousIndexToPhysicalPoint([*first, 0.0]),
        [*spacing, old[2]],
        image.GetDirection(),
        float(LOWEST_HU),
        sitk.sitkInt16,
    )


def _meddino(folder: Path) -> None:
    curation = Curation(datasets=("bench",), spacing_mm=SPACING_MM, sizes_px=(SIZE_PX,))
    options = SliceOptions(
        dataset_name="bench",
        dataset=FolderLayout(images=("*.nii.gz",), case=r"(?P<case>case)"),
        chunk=0,
        chunks=1,
        curation=curation.model_copy(update={"max_oblique_deg": 44.0}),
    )
    slices.run(options, raw=folder / ".fetched.json", output=folder / "0.json")


def _png_bytes(pixels: np.ndarray) -> int:
    buffer = io.BytesIO()
    shifted = (pixels.astype(np.int32) - LOWEST_HU).astype(np.uint16)
    Image.fromarray(shifted).save(buffer, "png")
    return buffer.tell()


def _phantom(scratch: Path) -> Path:
    """A phantom CT of a common size."""
    made = scanned(512, 120, np.random.default_rng(0))
    image = sitk.GetImageFromArray(made.image)
    image.SetSpacing(made.spacing[::-1])
    path = scratch / "phantom" / "ct.nii.gz"
    path.parent.mkdir()
    sitk.WriteImage(image, str(path), useCompression=True)
    return path


if __name__ == "__main__":
    main()
