"""The `duplicates` verb: volumes that are copies of others, found by what they show.

What slices show proposes pairs of volumes (`proposals`), which are then laid over each other and
compared (`comparison`), so that volumes that only look alike are not reported.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from meddino.core.files import atomic
from meddino.core.parallel import granted
from meddino.core.progress import track
from meddino.ct3m import catalogue
from meddino.ct3m.catalogue import Catalogue
from meddino.ct3m.comparison import compare
from meddino.ct3m.options import Duplicates, DuplicatesOptions
from meddino.ct3m.overlay import Floats, Line, Places
from meddino.ct3m.proposals import Proposal, propose


class Pair(NamedTuple):
    """Two volumes that show the same; a comes first by dataset and chunk.

    `from_` and `to_` are the first and last slice that they share, by number, and `slices` how many
    the one that has fewer of them shares. `kind` is exact where all of them are equal to the last
    bit. `flip` names the axes that are mirrored, and `turned_deg` says how far slices are turned
    besides. `correlation` is that of `Duplicates.min_correlation`.
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
    turned_deg: float
    correlation: float


def run(options: DuplicatesOptions, *, reports: list[Path], output: Path) -> None:
    """Find all pairs of volumes, within and across datasets, that are copies in whole or in part.

    It finds copies that are mirrored, turned, moved, cropped, padded, resampled along any axis,
    thinned out or reversed along z, smoothed, sharpened, noisy, compressed, windowed, or stored in
    another format; docs/copies.md gives the limits, and what it does not find.

    Args:
        options: size of the slices, and what counts as a copy.
        reports: reports of the stage `slices`; the shards lie beside them.
        output: `duplicates.parquet`, a row per `Pair`; beside it appears `overlap.csv`: how many
            volumes of the row's dataset have a copy in the column's.

    Raises:
        MeddinoError: a report or shard is missing, damaged, or of an earlier version.
    """
    slices = catalogue.read(reports, options.size_px)
    proposals = defaultdict(list)
    for proposal in propose(slices):
        proposals[proposal.a, proposal.b].append(proposal)
    print(f"{len(slices.volumes)} volumes, {len(proposals)} pairs to compare", file=sys.stderr)
    pairs = list(_copies(slices, [*proposals.values()], options.duplicates))
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


def _copies(
    slices: Catalogue, proposals: list[list[Proposal]], limits: Duplicates
) -> Iterator[Pair]:
    """Compare all pairs that are proposed, as many at a time as cores are granted."""
    with ThreadPoolExecutor(granted()) as pool:
        results = pool.map(partial(decide, slices, limits=limits), proposals)
        for pair in track(results, "comparing volumes", len(proposals)):
            if pair is not None:
                yield pair


def decide(slices: Catalogue, proposals: list[Proposal], limits: Duplicates) -> Pair | None:
    """Say whether two volumes are copies, and of what they share: None if they are not.

    Args:
        slices: of all volumes.
        proposals: of the same two volumes.
        limits: what counts as a copy.
    """
    for proposal in proposals:
        rows_a, rows_b = _shared(slices, proposal, proposal.line)
        one_by_one = len(rows_a) >= limits.min_slices and abs(proposal.line.step) == 1
        if one_by_one and (slices.sha[rows_a] == slices.sha[rows_b]).all():
            return _pair(slices, proposal, proposal.line, np.eye(2), None)
    # Frames may show about the same without being the same; landmarks tell where they are.
    for proposal in sorted(proposals, key=lambda proposal: len(proposal.placements)):
        result = compare(slices, proposal)
        if result is None or result.correlation < limits.min_correlation:
            continue
        in_plane = result.placement.matrix[:2, :2]
        pair = _pair(slices, proposal, result.line, in_plane, result.correlation)
        if pair.slices >= limits.min_slices:
            return pair
    return None


def _shared(slices: Catalogue, proposal: Proposal, line: Line) -> tuple[Places, Places]:
    """Rows of the slices of one volume that the other shows as well, and of those nearest there."""
    rows_a, rows_b = slices.rows_of(proposal.a), slices.rows_of(proposal.b)
    places, nearest, _ = line.beside(slices.number[rows_a], slices.number[rows_b])
    return places + rows_a.start, nearest + rows_b.start


def _pair(
    slices: Catalogue, proposal: Proposal, line: Line, matrix: Floats, correlation: float | None
) -> Pair:
    """Describe a pair whose slices lie to each other as the matrix says; None: equal slices."""
    first, second = slices.volume(proposal.a), slices.volume(proposal.b)
    rows_a, rows_b = _shared(slices, proposal, line)
    flip, turned_deg = _flip(matrix)
    return Pair(
        first["dataset"],
        first["case"],
        second["dataset"],
        second["case"],
        kind="exact" if correlation is None and line.step > 0 else "near",
        slices=min(len(rows_a), int(np.ptp(rows_b)) + 1),
        from_a=int(slices.number[rows_a[0]]),
        to_a=int(slices.number[rows_a[-1]]),
        from_b=int(slices.number[rows_b].min()),
        to_b=int(slices.number[rows_b].max()),
        flip=flip + "z" * (line.step < 0),
        turned_deg=round(turned_deg, 1),
        correlation=1.0 if correlation is None else round(correlation, 3),
    )


def _flip(matrix: Floats) -> tuple[str, float]:
    """Mirrored axes, such that slices are turned least besides; and by how much, from x to y."""
    flips = {"": (1, 1), "x": (1, -1), "y": (-1, 1), "xy": (-1, -1)}  # steps along y and x
    flip = max(flips, key=lambda name: float(np.trace(matrix @ np.diag(flips[name]))))
    turned = matrix @ np.diag(flips[flip])
    return flip, float(np.rad2deg(np.arctan2(turned[0, 1] - turned[1, 0], np.trace(turned))))
