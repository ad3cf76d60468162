"""The `duplicates` verb: volumes that are copies of others, found by what they show.

Three steps, each of which sees far fewer pairs than the one before. Slices whose rounded
fingerprints are equal propose pairs of volumes: a sort, never all pairs. For each proposal the
fingerprints of both volumes are aligned along z, in both directions. What holds is then compared
pixel by pixel, so that volumes that only look alike are not reported.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.spatial.distance import cdist

from meddino.core.errors import MeddinoError
from meddino.core.files import atomic
from meddino.core.progress import track
from meddino.ct3m import perceptual, shards
from meddino.ct3m.options import Duplicates, DuplicatesOptions
from meddino.volumes.hounsfield import BODY_HU

BANDS, VALUES, STEP_HU = 4, 32, 24
"""A key is the lowest frequencies in steps of so many HU. Where a value lies close to the edge of
a step, copies may fall on both sides of it; other bands have their edges elsewhere."""
MIN_CONTRAST_HU = 50.0
"""Slices with less to see have no keys: they would match everything. Real ones have 150 or more."""
MAX_VOLUMES = 64
"""A key that more volumes share says nothing, and pairs would be counted in squares."""
MIN_KEYS = 2
"""Keys that two volumes must share to be compared."""
COMPARED = 5
"""Slices of two volumes that are compared pixel by pixel."""
FLIPS = {"": (1, 1), "x": (1, -1), "y": (-1, 1), "xy": (-1, -1)}
"""Steps through rows and columns: x is mirrored from left to right, y from front to back."""


class Pair(NamedTuple):
    """Two volumes that show the same; a comes first by dataset and chunk.

    `from_` and `to_` are the first and last slice that they share, by number; `flip` names the
    axes that are mirrored; `kind` is exact where all shared slices are equal to the last bit.
    """

    dataset_a: str
    case_a: str
    dataset_b: str
    case_b: str
    kind: str
    slices: int
    from_a: int
    to_a: int
    from_b: int
    to_b: int
    flip: str
    distance_hu: float
    difference_hu: float


class Alignment(NamedTuple):
    """Rows of two volumes that match, and whether one runs the other way."""

    rows_a: npt.NDArray[np.int64]
    rows_b: npt.NDArray[np.int64]
    reversed: bool
    distance_hu: float


class Slices(NamedTuple):
    """All slices of all volumes; those of a volume stand together."""

    volumes: pd.DataFrame
    """Dataset, case, and the rows from `start` to `stop` of each volume."""
    number: npt.NDArray[np.int64]
    """(n,), 0 is the lowest slice of a volume."""
    sha: npt.NDArray[np.uint64]
    """(n,), the first 64 bits."""
    fingerprint: npt.NDArray[np.int16]
    """(n, 64), in HU."""
    place: npt.NDArray[np.int64]
    """(n, 3): shard, row group, row."""
    shard_paths: list[Path]


def run(options: DuplicatesOptions, *, reports: list[Path], output: Path) -> None:
    """Find all pairs of volumes, within and across datasets, that are copies in whole or in part.

    Found are copies that are mirrored, cropped along z, stored in another format or number type,
    or resampled in plane. Not found are copies that are resampled along z, rotated, or cropped in
    plane.

    Args:
        options: size of the slices, and what counts as a copy.
        reports: reports of the stage `slices`; the shards lie beside them.
        output: `duplicates.parquet`, a row per `Pair`; beside it appears `overlap.csv`: how many
            volumes of the row's dataset have a copy in the column's.

    Raises:
        MeddinoError: a report or shard is missing, damaged, or without fingerprints.
    """
    slices = read(reports, options.size_px)
    proposed = candidates(slices)
    print(f"{len(slices.volumes)} volumes, {len(proposed)} pairs to compare", file=sys.stderr)
    pairs = [
        pair
        for a, b in track(proposed, "comparing volumes", len(proposed))
        if (pair := compare(slices, int(a), int(b), options.duplicates)) is not None
    ]
    table = pd.DataFrame(pairs, columns=list(Pair._fields)).astype(_types())
    with atomic(output) as temporary:
        arrow = pa.Table.from_pandas(table, preserve_index=False)
        pq.write_table(arrow, temporary, write_page_checksum=True)
    with atomic(output.with_name("overlap.csv")) as temporary:
        overlap(slices.volumes, table).to_csv(temporary)
    print(f"{len(table)} pairs of volumes are copies", file=sys.stderr)


def _types() -> dict[str, Any]:
    """Column types, which an empty table could not tell."""
    return {name: np.int32 if kind is int else kind for name, kind in Pair.__annotations__.items()}


def overlap(volumes: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """Volumes by dataset that have a copy in each dataset.

    Args:
        volumes: columns dataset, case.
        pairs: columns of `Pair`.

    Returns:
        Whole numbers; rows are datasets, columns `volumes` (how many there are) and the datasets.
    """
    counts = volumes.groupby("dataset").size()
    matrix = pd.DataFrame(0, index=counts.index, columns=["volumes", *counts.index])
    matrix["volumes"] = counts
    forwards = {"dataset_a": "dataset", "case_a": "case", "dataset_b": "other"}
    backwards = {"dataset_b": "dataset", "case_b": "case", "dataset_a": "other"}
    both = pd.concat(
        [pairs.rename(columns=names)[[*names.values()]] for names in (forwards, backwards)]
    )
    for (dataset, other), rows in both.groupby(["dataset", "other"]):
        matrix.loc[dataset, other] = rows["case"].nunique()
    return matrix


# ---- reading --------------------------------------------------------------------------------


def read(reports: list[Path], size_px: int) -> Slices:
    """Read what the search needs of all shards of one size, ordered by dataset and chunk."""
    paths = [shards.beside(path, size_px) for _, path in shards.read_reports(reports)]
    parts = [_read_shard(path, number) for number, path in enumerate(paths)]
    frame = pd.concat([part[0] for part in parts], ignore_index=True)
    new = (frame[["dataset", "case"]] != frame[["dataset", "case"]].shift()).any(axis=1).to_numpy()
    starts = np.flatnonzero(new)
    volumes = frame.loc[starts, ["dataset", "case"]].reset_index(drop=True)
    volumes["start"], volumes["stop"] = starts, np.append(starts, len(frame))[1:]
    return Slices(
        volumes=volumes,
        number=frame["slice"].to_numpy(np.int64),
        sha=frame["sha"].to_numpy(np.uint64),
        fingerprint=np.concatenate([part[1] for part in parts]),
        place=frame[["shard", "group", "row"]].to_numpy(np.int64),
        shard_paths=paths,
    )


def _read_shard(path: Path, number: int) -> tuple[pd.DataFrame, npt.NDArray[np.int16]]:
    shard = shards.open_shard(path)
    if shards.FINGERPRINT not in shard.schema_arrow.names:
        raise MeddinoError(f"{path} has no fingerprints; run the stage `slices` again")
    columns = ["dataset", "case", "slice", "sha"]
    frame = shard.read(columns=columns, use_threads=False).to_pandas()
    frame["sha"] = np.array([int(sha[:16], 16) for sha in frame["sha"]], dtype=np.uint64)
    frame["shard"] = number
    frame["group"], frame["row"] = shards.places(shard)
    return frame, shards.read_fingerprints(shard)


# ---- proposals ------------------------------------------------------------------------------


def candidates(slices: Slices) -> npt.NDArray[np.int64]:
    """Pairs of volumes that share keys: int64 (pairs, 2), the first below the second."""
    sizes = (slices.volumes["stop"] - slices.volumes["start"]).to_numpy()
    volume = np.repeat(np.arange(len(sizes)), sizes)
    proposals = [_sharing(slices.sha, volume, len(sizes))]
    plain = perceptual.contrast(slices.fingerprint) < MIN_CONTRAST_HU
    lowest = slices.fingerprint[~plain][:, perceptual.lowest(VALUES)].astype(np.int64)
    for band in range(BANDS):
        proposals.append(_sharing(_keys(lowest, band), volume[~plain], len(sizes)))
    pairs, shared = np.unique(np.concatenate(proposals), return_counts=True)
    return np.stack(np.divmod(pairs[shared >= MIN_KEYS], max(1, len(sizes))), axis=1)


def _keys(values: npt.NDArray[np.int64], band: int) -> npt.NDArray[np.uint64]:
    """One number for each row's values in steps: int64 (n, VALUES) to uint64 (n,)."""
    raw = np.random.PCG64(band).random_raw(2 * VALUES)
    shifts = (raw[:VALUES] % STEP_HU).astype(np.int64)
    steps = ((values + shifts) // STEP_HU).astype(np.uint64)
    keys: npt.NDArray[np.uint64] = (steps * (raw[VALUES:] | np.uint64(1))).sum(axis=1)
    return keys  # overflow is wanted: a hash


def _sharing(
    keys: npt.NDArray[np.uint64], volume: npt.NDArray[np.int64], volumes: int
) -> npt.NDArray[np.int64]:
    """Pairs (a, b) of volumes for each key that both have, as a * volumes + b: int64 (found,)."""
    order = np.lexsort((volume, keys))
    keys, volume = keys[order], volume[order]
    new = np.ones(len(keys), dtype=bool)
    new[1:] = (keys[1:] != keys[:-1]) | (volume[1:] != volume[:-1])
    keys, volume = keys[new], volume[new]
    _, group, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    selective = (sizes[group] > 1) & (sizes[group] <= MAX_VOLUMES)
    keys, volume = keys[selective], volume[selective]
    pairs = [np.empty(0, dtype=np.int64)]
    for apart in range(1, MAX_VOLUMES):
        same = keys[apart:] == keys[:-apart]
        if not same.any():
            break
        pairs.append(volume[:-apart][same] * volumes + volume[apart:][same])
    return np.concatenate(pairs)


# ---- comparison -----------------------------------------------------------------------------


def compare(slices: Slices, a: int, b: int, limits: Duplicates) -> Pair | None:
    """Compare two volumes, given by number; None if they are no copies."""
    aligned = align(_volume(slices, a), _volume(slices, b), limits.max_distance_hu)
    if aligned is None or len(aligned.rows_a) < limits.min_slices:
        return None
    first, second = slices.volumes.iloc[a], slices.volumes.iloc[b]
    rows_a, rows_b = aligned.rows_a + first["start"], aligned.rows_b + second["start"]
    exact = bool((slices.sha[rows_a] == slices.sha[rows_b]).all())
    flip, difference = ("", 0.0) if exact else _pixels(slices, rows_a, rows_b)
    if difference > limits.max_difference_hu:
        return None
    numbers_a, numbers_b = slices.number[rows_a], slices.number[rows_b]
    return Pair(
        first["dataset"],
        first["case"],
        second["dataset"],
        second["case"],
        kind="exact" if exact and not aligned.reversed else "near",
        slices=len(rows_a),
        from_a=numbers_a.min(),
        to_a=numbers_a.max(),
        from_b=numbers_b.min(),
        to_b=numbers_b.max(),
        flip=flip + "z" * aligned.reversed,
        distance_hu=aligned.distance_hu,
        difference_hu=difference,
    )


def _volume(slices: Slices, number: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int16]]:
    """Numbers and fingerprints of a volume's slices."""
    rows = slice(*slices.volumes.loc[number, ["start", "stop"]])
    return slices.number[rows], slices.fingerprint[rows]


def align(
    a: tuple[npt.NDArray[np.int64], npt.NDArray[np.int16]],
    b: tuple[npt.NDArray[np.int64], npt.NDArray[np.int16]],
    max_distance_hu: float,
) -> Alignment | None:
    """Find the shift along z, in either direction, at which most slices match best.

    Slices count, not mm: headers of copies are wrong more often than their slices are lost.

    Args:
        a: numbers (n,) and fingerprints (n, 64) of the slices of one volume.
        b: those of another, (m,) and (m, 64).
        max_distance_hu: fingerprints that differ by more do not match.
    """
    distance = cdist(a[1], b[1], "cityblock") / a[1].shape[1]
    rows_a, rows_b = np.nonzero(distance <= max_distance_hu)
    if len(rows_a) == 0:
        return None
    near = distance[rows_a, rows_b]
    best: tuple[float, bool, npt.NDArray[np.bool_]] | None = None
    for reverse in (False, True):
        numbers_b = -b[0][rows_b] if reverse else b[0][rows_b]
        shifts, which = np.unique(numbers_b - a[0][rows_a], return_inverse=True)
        scores = np.bincount(which, weights=1 + max_distance_hu - near, minlength=len(shifts))
        score = float(scores.max())
        if best is None or score > best[0]:
            best = (score, reverse, which == scores.argmax())
    assert best is not None
    _, reverse, chosen = best
    return Alignment(rows_a[chosen], rows_b[chosen], reverse, float(near[chosen].mean()))


def _pixels(
    slices: Slices, rows_a: npt.NDArray[np.int64], rows_b: npt.NDArray[np.int64]
) -> tuple[str, float]:
    """The flip at which slices differ least, and by how much, in HU: the median of a few.

    Not the worst: a few damaged or foreign slices do not make a copy another scan.
    """
    picked = np.unique(np.linspace(0, len(rows_a) - 1, COMPARED).round().astype(int))
    images = [list(_read_pixels(slices, rows[picked])) for rows in (rows_a, rows_b)]
    differences = {
        flip: float(np.median([_difference(a, b[::y, ::x]) for a, b in zip(*images, strict=True)]))
        for flip, (y, x) in FLIPS.items()
    }
    flip = min(differences, key=lambda name: differences[name])
    return flip, differences[flip]


def _read_pixels(slices: Slices, rows: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.float32]]:
    for shard, group, row in slices.place[rows]:
        pixels = shards.read_slice(slices.shard_paths[shard], int(group), int(row))
        yield np.clip(pixels, *perceptual.HU_RANGE).astype(np.float32)


def _difference(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    """Mean absolute difference where either shows a body, in HU; air would thin it out."""
    body = np.maximum(a, b) > BODY_HU
    return float(np.abs(a - b)[body].mean() if body.any() else np.abs(a - b).mean())
