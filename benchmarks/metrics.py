"""DSC, NSD and HD95 of a case with fifteen structures on one core: meddino and DeepMind's package.

    python benchmarks/metrics.py [REFERENCE.nii.gz PREDICTION.nii.gz]

Without files, labels of a phantom of 512 x 512 x 120 voxels are scored against themselves, moved by
millimetres. The peer is google-deepmind's surface-distance (surface-distance-based-measures on
PyPI), called for each structure as its readme does; it crops to the structure by itself. It counts
protocol `area` alone, we count both. Each side runs in a process of its own, so that its peak of
memory is its own. Prints a Markdown table with the best of several runs.
"""

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from phantoms import scanned
from scipy import ndimage

from meddino.evaluate import evaluate, surface
from meddino.evaluate.options import EvaluateOptions, Evaluation

STRUCTURES = 15
TOLERANCE_MM, MOVED_MM = 1.0, 2.0
Scores = dict[str, tuple[float, float, float]]


class Result(NamedTuple):
    """Seconds, growth of the peak of memory over the labels alone (MB), and values."""

    seconds: float
    megabytes: float
    scores: Scores


def main() -> None:
    """Measure both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    if len(given.files) not in (0, 2):
        parser.error("give a reference and a prediction, or nothing")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as scratch:
        files = given.files or _phantom(Path(scratch))
        theirs, ours = (_alone(side, files, given.repeats) for side in (_deepmind, _meddino))
        size = " x ".join(map(str, sitk.ReadImage(str(files[0])).GetSize()[::-1]))
    apart = np.abs([np.subtract(theirs.scores[n], ours.scores[n]) for n in theirs.scores])
    dsc = np.mean([values[0] for values in ours.scores.values()])
    print(
        f"| case (z, y, x) | structures | mean DSC | surface-distance | meddino | ratio |"
        f" memory of surface-distance | of meddino | largest difference: DSC | NSD | HD95 (mm) |\n"
        f"|---|{'---:|' * 10}\n"
        f"| {size} | {len(ours.scores)} | {dsc:.3f} | {theirs.seconds:.2f} s |"
        f" {ours.seconds:.2f} s | {theirs.seconds / ours.seconds:.1f} | {theirs.megabytes:.0f} MB |"
        f" {ours.megabytes:.0f} MB | {' | '.join(f'{d:.1e}' for d in np.nanmax(apart, axis=0))} |"
    )


def _alone(side: Callable[..., Scores], files: list[Path], repeats: int) -> Result:
    """Run one side in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure, side, files, repeats).result()


def _measure(side: Callable[..., Scores], files: list[Path], repeats: int) -> Result:
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    images = [sitk.ReadImage(str(file), sitk.sitkUInt8) for file in files]
    before = _peak_mb()
    scores, seconds = {}, []
    for _ in range(repeats):
        surface.areas.cache_clear()
        surface.shells.cache_clear()
        start = time.perf_counter()
        scores = side(*images)
        seconds.append(time.perf_counter() - start)
    return Result(min(seconds), _peak_mb() - before, scores)


def _peak_mb() -> float:
    # Not ru_maxrss, which a process inherits from the one that starts it.
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("VmHWM:") + 1]) / 1024


def _labels(image: sitk.Image) -> list[int]:
    return [int(v) for v in np.unique(sitk.GetArrayViewFromImage(image)) if v]


def _meddino(reference: sitk.Image, predicted: sitk.Image) -> Scores:
    options = EvaluateOptions(
        benchmark="bench",
        method="moved",
        fold=0,
        evaluation=Evaluation(tolerance_mm=TOLERANCE_MM),
    )
    labels = {str(label): label for label in _labels(reference)}
    found = evaluate.score_case(reference, predicted, labels, options)
    return {n: (s["dsc_area"], s["nsd_area"], s["hd95_mm"]) for n, s in found.items()}


def _deepmind(reference: sitk.Image, predicted: sitk.Image) -> Scores:
    np.Inf, np.NaN = np.inf, np.nan  # which the package asks numpy for, and numpy 2 lacks
    warnings.simplefilter("ignore", DeprecationWarning)
    import surface_distance

    arrays = [sitk.GetArrayViewFromImage(image) for image in (reference, predicted)]
    spacing = reference.GetSpacing()[::-1]
    found = {}
    for label in _labels(reference):
        masks = [array == label for array in arrays]
        distances = surface_distance.compute_surface_distances(*masks, spacing)
        found[str(label)] = (
            surface_distance.compute_dice_coefficient(*masks),
            surface_distance.compute_surface_dice_at_tolerance(distances, TOLERANCE_MM),
            surface_distance.compute_robust_hausdorff(distances, 95),
        )
    return found


def _phantom(scratch: Path) -> list[Path]:
    """The first fifteen structures of a phantom, and the same moved smoothly to and fro."""
    rng = np.random.default_rng(0)
    made = scanned(512, 120, rng)
    present = np.flatnonzero(np.bincount(made.truth.ravel()))[1 : STRUCTURES + 1]
    numbers = np.zeros(256, np.uint8)
    numbers[present] = np.arange(1, STRUCTURES + 1)
    truth = numbers[made.truth]
    places = np.indices(truth.shape, np.int16)
    for axis, (length, mm) in enumerate(zip(truth.shape, made.spacing, strict=True)):
        coarse = rng.standard_normal((8, 12, 12)).astype(np.float32) * MOVED_MM / mm
        zoom = [n / m for n, m in zip(truth.shape, coarse.shape, strict=True)]
        places[axis] += np.rint(ndimage.zoom(coarse, zoom, order=1)).astype(np.int16)
        np.clip(places[axis], 0, length - 1, out=places[axis])
    files = []
    for name, array in (("reference", truth), ("prediction", truth[tuple(places)])):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(made.spacing[::-1])
        files.append(scratch / f"{name}.nii.gz")
        sitk.WriteImage(image, str(files[-1]))
    return files


if __name__ == "__main__":
    main()
