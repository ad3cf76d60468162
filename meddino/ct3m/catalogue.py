"""What the search for copies keeps of all shards in memory: less than 200 bytes a slice."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from meddino.core.errors import MeddinoError
from meddino.ct3m import codec, perceptual, shards
from meddino.ct3m.landmarks import LANDMARK, MIRRORED

COLUMNS = ["slice", "sha", "offset", "packed_bytes"]
PER_VOLUME = 1536
"""Landmarks of a volume that are kept. Which ones is decided by their codes, so that a copy, or a
part of one, keeps the same."""
JOINED_SHARDS = 256
"""So many shards are joined at a time: between small arrays memory would be lost."""
FRAME = ["rows", "columns", "spacing_mm_z", "spacing_mm_y", "spacing_mm_x"]


@dataclass(frozen=True)
class Catalogue:
    """All slices of all volumes, those of a volume together, in order of dataset and chunk.

    Attributes:
        volumes: one row each: dataset, case, shard, FRAME, and its slices from `start` to `stop`.
        number: int32 (n,), a slice's number in its volume, 0 the lowest.
        sha: uint64 (n,), the first bits.
        keys: uint64 (n, perceptual.BANDS), equal for slices whose frames show about the same; 0
            for those that show next to nothing.
        offset: int64 (n,), where in its shard a slice's pixels are.
        packed_bytes: int32 (n,), how many bytes they take.
        landmarks: LANDMARK (m,).
        landmark_row: int32 (m,), the slice of each.
        shards: files, by number.
        size_px: side of the stored slices.
    """

    volumes: pd.DataFrame
    number: npt.NDArray[np.int32]
    sha: npt.NDArray[np.uint64]
    keys: npt.NDArray[np.uint64]
    offset: npt.NDArray[np.int64]
    packed_bytes: npt.NDArray[np.int32]
    landmarks: npt.NDArray[np.void]
    landmark_row: npt.NDArray[np.int32]
    shards: list[Path]
    size_px: int

    def volume_of_rows(self) -> npt.NDArray[np.int32]:
        """Number of the volume of each slice: int32 (n,)."""
        sizes = (self.volumes["stop"] - self.volumes["start"]).to_numpy()
        return np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)

    def volume(self, number: int) -> dict[str, Any]:
        """A row of `volumes`."""
        return dict(zip(self.volumes.columns, self.volumes.iloc[number], strict=True))

    def rows_of(self, volume: int) -> slice:
        """Where the slices of a volume are."""
        about = self.volume(volume)
        return slice(int(about["start"]), int(about["stop"]))

    def extent_mm(self, volume: int) -> npt.NDArray[np.float64]:
        """Size of a volume's frame: (y, x)."""
        about = self.volume(volume)
        return np.array(
            [about["rows"] * about["spacing_mm_y"], about["columns"] * about["spacing_mm_x"]]
        )

    def spacing_mm_z(self, volumes: list[int]) -> npt.NDArray[np.float64]:
        """Distance of the slices of each volume."""
        return self.volumes["spacing_mm_z"].to_numpy(np.float64)[volumes]

    def pixels(self, row: int) -> npt.NDArray[np.int16]:
        """A stored slice: int16 (size_px, size_px) in HU."""
        number = int(np.searchsorted(self.volumes["start"].to_numpy(), row, side="right")) - 1
        with self.shards[self.volume(number)["shard"]].open("rb") as file:
            file.seek(self.offset[row])
            cell = file.read(self.packed_bytes[row])
        image: npt.NDArray[np.int16]
        (image,) = codec.decode([cell], (self.size_px, self.size_px))
        return image


def read(reports: list[Path], size_px: int) -> Catalogue:
    """Read what the search needs of all shards of one size, one shard after the other.

    Raises:
        MeddinoError: a report or shard is missing or damaged, or of a version without landmarks.
    """
    paths = [shards.beside(path, size_px) for _, path in shards.read_reports(reports)]
    pieces: list[dict[str, Any]] = []
    small: list[dict[str, Any]] = []
    rows = 0
    for number, path in enumerate(paths):
        small.append(_read_shard(path, number))
        small[-1]["landmark_row"] += np.int32(rows)
        rows += len(small[-1]["number"])
        if len(small) == JOINED_SHARDS:
            pieces.append(_joined(small))
            small = []
    joined = _joined([*pieces, *small])
    stops = joined["volumes"].pop("slices").cumsum()
    volumes = joined.pop("volumes").assign(start=stops.shift(fill_value=0), stop=stops)
    return Catalogue(volumes=volumes, **joined, shards=paths, size_px=size_px)


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Fields of a Catalogue for the shards of all parts, which are left empty: less is held."""
    volumes = pd.concat([part.pop("volumes") for part in parts], ignore_index=True)
    arrays = {name: np.concatenate([part.pop(name) for part in parts]) for name in [*parts[0]]}
    return {"volumes": volumes, **arrays}


def _read_shard(path: Path, number: int) -> dict[str, Any]:
    """Fields of a Catalogue for one shard."""
    shard = shards.open_shard(path)
    for column in (shards.FINGERPRINT, shards.LANDMARKS):
        if column not in shard.schema_arrow.names:
            raise MeddinoError(f"{path} has no {column}; run the stage `slices` again")
    table = shards.read_index(path, path.parent)
    rows = table.select(["dataset", "case", *FRAME, *COLUMNS]).to_pandas()
    new = (rows[["dataset", "case"]] != rows[["dataset", "case"]].shift()).any(axis=1)
    volumes = rows.loc[new, ["dataset", "case", *FRAME]].assign(
        shard=number, slices=np.diff(np.append(np.flatnonzero(new), len(rows)))
    )
    landmarks, counts = shards.read_cells(shard, shards.LANDMARKS, LANDMARK)
    landmark_row = np.repeat(np.arange(len(rows), dtype=np.int32), counts)
    kept = _thinned(landmarks["code"], np.cumsum(new.to_numpy())[landmark_row])
    return {
        "volumes": volumes,
        "number": rows["slice"].to_numpy(np.int32),
        "sha": np.array([int(sha[:16], 16) for sha in rows["sha"]], dtype=np.uint64),
        "keys": _keys(shard),
        "offset": rows["offset"].to_numpy(np.int64),
        "packed_bytes": rows["packed_bytes"].to_numpy(np.int32),
        "landmarks": landmarks[kept],
        "landmark_row": landmark_row[kept],
    }


def _thinned(codes: npt.NDArray[np.uint64], volume: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Which landmarks are kept: at most PER_VOLUME of each volume."""
    rank = (codes & ~MIRRORED) * np.uint64(0x9E3779B97F4A7C15)  # overflows: a hash
    order = np.lexsort((rank, volume))
    _, starts, sizes = np.unique(volume[order], return_index=True, return_counts=True)
    return np.sort(order[np.arange(len(order)) - np.repeat(starts, sizes) < PER_VOLUME])


def _keys(shard: pq.ParquetFile) -> npt.NDArray[np.uint64]:
    dtype, length = shards.FINGERPRINT_TYPE, shards.FREQUENCIES**2
    values, _ = shards.read_cells(shard, shards.FINGERPRINT, dtype)
    return perceptual.keys(values.reshape(-1, length))
