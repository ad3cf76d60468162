"""The `slices` verb: one chunk of a dataset's volumes becomes shards of axial slices."""

import hashlib
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from meddino.core.files import atomic, read_json, write_json
from meddino.core.parallel import in_order
from meddino.core.progress import track
from meddino.ct3m.landmarks import EVERY_MM, landmarks
from meddino.ct3m.options import Curation, SliceOptions
from meddino.ct3m.perceptual import fingerprint
from meddino.ct3m.shards import FINGERPRINT_TYPE, ShardWriter, beside, packed
from meddino.datasets.cases import EXCLUDE, Case
from meddino.datasets.fetch import raw_root
from meddino.volumes import reader
from meddino.volumes.errors import BadVolume
from meddino.volumes.hounsfield import BODY_HU
from meddino.volumes.magnetic import MIN_RANGE
from meddino.volumes.reader import Volume
from meddino.volumes.resample import Resizer

HU_BIN, HU_LOWEST, HU_BINS = 32, -1024, 128
"""The report counts the pixels of the smallest size by HU: 128 bins of 32 HU from -1024 on; what
lies beyond falls into the outermost."""

Rows = dict[int, list[dict[str, Any]]]
"""Rows of a shard's SCHEMA, by size."""
Counts = npt.NDArray[np.int64]


@dataclass
class Report:
    """What became of the cases of one chunk."""

    dataset: str
    chunk: int
    chunks: int
    volumes: int = 0
    slices: int = 0
    air_slices: int = 0
    other_modality: int = 0
    hu_histogram: list[int] = field(default_factory=lambda: [0] * HU_BINS)
    quarantined: list[dict[str, str]] = field(default_factory=list)
    remarks: list[dict[str, str]] = field(default_factory=list)

    def add(self, part: "Report") -> None:
        """Count what became of one more case."""
        for name in ("volumes", "slices", "air_slices", "quarantined", "remarks"):
            setattr(self, name, getattr(self, name) + getattr(part, name))
        self.hu_histogram = [
            a + b for a, b in zip(self.hu_histogram, part.hu_histogram, strict=True)
        ]


def run(options: SliceOptions, *, raw: Path, output: Path) -> None:
    """Cut the volumes of one chunk into slices (paper, section 3.2).

    Each axial slice is resampled in plane to `spacing_mm`, resized to every size, and stored as
    int16 HU in `<chunk>.<size>.parquet` beside the report. Slices of air are dropped. A volume
    that cannot be trusted is quarantined with a reason; the others go on. A chunk without a usable
    volume gives empty shards. The same inputs give the same bytes, however many cores cut them.

    Args:
        options: the chunk, the dataset's layout, and the curation.
        raw: the manifest `.fetched.json` of the fetched dataset.
        output: the report, `<chunk>.json`, written last.

    Raises:
        MeddinoError: the dataset's folder holds no case, outputs cannot be written, or a process
            that cuts was killed.
    """
    curation = options.curation
    cases = _cases(options, raw)
    selected = [case for case in cases if case.modality in curation.modalities]
    report = Report(options.dataset_name, options.chunk, options.chunks)
    report.other_modality = len(cases) - len(selected)
    # Without its report a half-replaced set of shards counts as not made.
    output.unlink(missing_ok=True)
    title = f"{options.dataset_name} {options.chunk + 1}/{options.chunks}: slicing"
    with _shards(curation, output) as writers:
        parts = in_order(partial(cut, options), selected)
        for part, rows in track(parts, title, len(selected)):
            report.add(part)
            for size, writer in writers.items():
                for row in rows[size]:
                    writer.add(row)
            for left_out in part.quarantined:
                path, reason = left_out["path"], left_out["reason"]
                print(f"{report.dataset}: {path} left out: {reason}", file=sys.stderr)
    write_json(output, asdict(report))


def _cases(options: SliceOptions, raw: Path) -> list[Case]:
    """The cases of a chunk; none of a piece for which there was no file left."""
    if options.alone and not read_json(raw)["files"]:
        return []
    cases = options.dataset.cases(raw_root(raw))
    return cases if options.alone else cases[options.chunk :: options.chunks]


def cut(options: SliceOptions, case: Case) -> tuple[Report, Rows]:
    """Cut the volumes of one case; those that cannot be trusted are in the report's quarantine."""
    report = Report(options.dataset_name, options.chunk, options.chunks)
    rows: Rows = {size: [] for size in options.curation.sizes_px}
    for identity, volume in read_volumes(case, options):
        if isinstance(volume, BadVolume):
            reason = volume.advised(EXCLUDE)
            left_out = {"case": identity, "path": str(case.image), "reason": reason}
            report.quarantined.append(left_out)
        else:
            # Nothing depends any more on what the file holds: a volume gives all slices.
            _add(volume, identity, rows, options.curation, report)
    return report, rows


@contextmanager
def _shards(curation: Curation, output: Path) -> Iterator[dict[int, ShardWriter]]:
    """Open a shard per size; all of them appear together, or none if the block fails."""
    with ExitStack() as stack:
        paths = {
            size: stack.enter_context(atomic(beside(output, size))) for size in curation.sizes_px
        }
        group_rows = curation.row_group_rows
        yield {
            size: stack.enter_context(ShardWriter(path, size, group_rows=group_rows))
            for size, path in paths.items()
        }


def read_volumes(case: Case, options: SliceOptions) -> Iterator[tuple[str, Volume | BadVolume]]:
    """The volumes of a case, each with its identity; in place of one that is unusable the reason.

    Each DICOM series is a case of its own: the longest bears the case's identity.
    """
    curation = options.curation
    series = reader.read_all(case.images, hu=case.modality == "CT", min_slices=curation.min_slices)
    for number, volume in enumerate(series, start=1):
        identity = case.series(number)
        if identity in options.dataset.exclude_cases:
            continue
        try:
            if isinstance(volume, Volume):
                _check(volume, case.modality, curation)
        except BadVolume as error:
            volume = error
        yield identity, volume


def _check(volume: Volume, modality: str, curation: Curation) -> None:
    """Refuse a volume that is beyond a limit of the curation.

    Raises:
        BadVolume: says which.
    """
    if volume.oblique_deg > curation.max_oblique_deg:
        raise BadVolume(
            f"slices are oblique: tilted by {volume.oblique_deg:.1f} degrees from the axial plane,"
            f" more than curation.max_oblique_deg = {curation.max_oblique_deg:g}",
            "raise that limit",
        )
    if len(volume.array) < curation.min_slices:
        raise BadVolume(
            f"too few slices: {len(volume.array)}, fewer than curation.min_slices ="
            f" {curation.min_slices}, as in a localiser",
            "lower that limit",
        )
    if modality == "MR" and np.ptp(volume.array) < MIN_RANGE:
        raise BadVolume(
            f"values span less than {MIN_RANGE}, and would be lost as whole numbers",
            "use the original scan instead of a normalised copy",
        )


def _add(volume: Volume, case: str, rows: Rows, curation: Curation, report: Report) -> None:
    """Add a volume's slices to the rows, and count them."""
    height, width = volume.array.shape[1:]
    resizers = {
        size: Resizer.of(
            (height, width), volume.spacing_mm[1:], target_mm=curation.spacing_mm, size_px=size
        )
        for size in rows
    }
    heights = _heights(volume)
    every = max(1, int(EVERY_MM / volume.spacing_mm[0]))
    counts = np.zeros(HU_BINS, dtype=np.int64)
    for number, acquired in enumerate(volume.array):
        body = float(np.count_nonzero(acquired > BODY_HU) / acquired.size)
        if body < curation.min_body_fraction:
            report.air_slices += 1
            continue
        row = {
            "dataset": report.dataset,
            "case": case,
            "slice": number,
            "z_mm": float(heights[number]),
            "spacing_mm_z": volume.spacing_mm[0],
            "spacing_mm_y": volume.spacing_mm[1],
            "spacing_mm_x": volume.spacing_mm[2],
            "rows": height,
            "columns": width,
            "body_fraction": body,
        }
        stored = {size: _stored(resizer(acquired), curation) for size, resizer in resizers.items()}
        # What tells copies is taken of the smallest: by then their matrices hardly matter.
        smallest = stored[min(stored)]
        row["sha"] = hashlib.sha256(smallest.astype("<i2", copy=False).data).hexdigest()
        row["fingerprint"] = fingerprint(smallest).astype(FINGERPRINT_TYPE).tobytes()
        if number % every == 0:
            row["landmarks"] = landmarks(acquired, volume.spacing_mm[1:]).tobytes()
        for size, pixels in stored.items():
            histogram = _histogram(pixels)
            stored_row = {**row, **_statistics(*histogram)}
            rows[size].append({**stored_row, **packed(pixels, curation.compression_level)})
            if pixels is smallest:
                counts += _binned(*histogram)
        report.slices += 1
    report.hu_histogram = (np.array(report.hu_histogram) + counts).tolist()
    report.volumes += 1
    report.remarks += [{"case": case, "remark": remark} for remark in volume.remarks]


def _heights(volume: Volume) -> npt.NDArray[np.float64]:
    """Height of each slice's centre in the scanner, in mm."""
    depth, height, width = volume.array.shape
    row, column = np.full(depth, (height - 1) / 2), np.full(depth, (width - 1) / 2)
    heights: npt.NDArray[np.float64] = volume.points_mm(np.stack([np.arange(depth), row, column]))[
        2
    ]
    return heights


def _stored(image: npt.NDArray[np.float32], curation: Curation) -> npt.NDArray[np.int16]:
    """Round to whole HU within the range that is kept."""
    np.rint(image, out=image)
    return np.clip(image, *curation.hu_range, out=image).astype(np.int16)


def _histogram(pixels: npt.NDArray[np.int16]) -> tuple[Counts, Counts]:
    """The values from the lowest to the highest in HU, and how many pixels have each."""
    low = int(pixels.min())
    counts = np.bincount(pixels.ravel().astype(np.intp) - low)
    return np.arange(low, low + len(counts)), counts


def _binned(values: Counts, counts: Counts) -> Counts:
    """A histogram in the bins of the report: int64 (HU_BINS,)."""
    bins = np.clip((values - HU_LOWEST) // HU_BIN, 0, HU_BINS - 1)
    return np.bincount(bins, weights=counts, minlength=HU_BINS).astype(np.int64)


def _statistics(values: Counts, counts: Counts) -> dict[str, Any]:
    # Sums of whole numbers: the same on every machine.
    total = int(counts.sum())
    mean = int(counts @ values) / total
    variance = int(counts @ values**2) / total - mean * mean
    return {
        "hu_min": int(values[0]),
        "hu_max": int(values[-1]),
        "hu_mean": mean,
        "hu_std": max(0.0, variance) ** 0.5,
    }
