"""Which volumes may be copies of each other, and how they would then lie: by sorting.

Equal codes of landmarks, or equal keys of whole slices, are hints. Hints of two volumes count as
votes as far as they agree: landmarks that lie alike to each other in the slices of both, and slices
whose numbers stand in line. Patients resemble each other, but not in the same places.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from meddino.ct3m.catalogue import Catalogue
from meddino.ct3m.landmarks import MIRRORED, POSITION_MM, TURN
from meddino.ct3m.overlay import Floats, Line, Placement

Ints = npt.NDArray[np.integer]

MAX_VOLUMES = 64
"""What more volumes share says nothing, and pairs would be counted in squares."""
AT_ONCE = 1 << 25
"""So many pairs of places are in memory at a time, about: chance alone makes a billion."""
MIN_VOTES = 6
"""Landmarks that have to agree. Of a hundred thousand pairs of phantoms a few have so many."""
MIN_SLICES = 2
"""Slices with equal keys that have to agree."""
MAX_HINTS = 96
"""So many hints of one pair are looked at; they are compared with each other."""
NEAR_MM, CLOSE_MM = 15.0, 6.0
"""How far landmarks may lie from where one other, or all that agree, would have them."""
TURNED = 0.4
"""How far apart directions may be, in radians."""
ALONG_MM = 6.0
"""How far apart the slices of a landmark may be in two volumes."""
MIN_TILTED, MIN_HEIGHT_MM = 24, 20.0
"""Hints, and how far up and down they lie, that can tell a tilt."""
FLIPS = np.array([*product((1, -1), repeat=2)])
"""Steps along y and x of one frame for those of the other."""
MAX_STEP = 10.0
"""How many slices, or mm, of one volume may go on one of the other."""


class Proposal(NamedTuple):
    """Two volumes that may be copies, in one of some placements."""

    a: int
    b: int
    line: Line
    placements: tuple[Placement, ...]
    votes: int


def propose(catalogue: Catalogue) -> Iterator[Proposal]:
    """Propose pairs of volumes, the first below the second, with how they lie to each other."""
    volume = catalogue.volume_of_rows()
    alike = [_Shared.of(keys, volume) for keys in (catalogue.sha, *catalogue.keys.T)]
    for block in _blocks(len(catalogue.volumes), alike):
        pairs = np.unique(np.concatenate([keys.pairs(block) for keys in alike]), axis=0)
        for hints in _by_pair(pairs, volume[pairs], MIN_SLICES):
            yield from _same_frame(catalogue, hints, volume)
    marks = catalogue.landmarks
    volume = volume[catalogue.landmark_row]
    codes = _Shared.of(marks["code"] & ~MIRRORED, volume)
    for block in _blocks(len(catalogue.volumes), [codes]):
        pairs = _turned_alike(codes.pairs(block), marks, volume)
        for hints in _by_pair(pairs, volume[pairs], MIN_VOTES):
            yield from _same_landmarks(catalogue, hints, volume)


def _blocks(volumes: int, shared: Sequence["_Shared"]) -> Iterator[tuple[int, int]]:
    """First and last plus one of the volumes whose pairs are held in memory at a time."""
    pairs = sum(keys.total() for keys in shared)
    # The first volumes are the lower ones of all their pairs, which are twice as many as the mean.
    size = max(1, volumes * AT_ONCE // max(1, 2 * pairs))
    for first in range(0, volumes, size):
        yield first, min(first + size, volumes)


class _Shared(NamedTuple):
    """Places whose keys other volumes have as well, those of one key together.

    Of what a volume has several times only the first counts.
    """

    place: npt.NDArray[np.int32]
    volume: npt.NDArray[np.int32]
    """Of each place; those of one key rise."""
    key: npt.NDArray[np.int32]
    """A number for each key."""

    @classmethod
    def of(cls, keys: npt.NDArray[np.uint64], volume: npt.NDArray[np.int32]) -> "_Shared":
        """Sort keys; 0 is none."""
        order = np.lexsort((volume, keys)).astype(np.int32)
        order = order[np.searchsorted(keys, 1, sorter=order) :]
        new_key = np.diff(keys[order], prepend=np.uint64(0)) != 0
        new = new_key | (np.diff(volume[order], prepend=-1) != 0)
        order, key = order[new], np.cumsum(new_key, dtype=np.int32)[new]
        sizes = np.bincount(key)[key] if len(key) else key
        selective = (sizes > 1) & (sizes <= MAX_VOLUMES)
        order, key = order[selective], key[selective]
        return cls(order, volume[order], key)

    def total(self) -> int:
        """How many pairs of places there are, of all volumes."""
        sizes = np.bincount(self.key) if len(self.key) else np.zeros(1, np.int64)
        return int((sizes * (sizes - 1) // 2).sum())

    def pairs(self, block: tuple[int, int]) -> npt.NDArray[np.int32]:
        """Pairs of places of one key, the lower volume first, which is in the block: (pairs, 2)."""
        low = np.flatnonzero((self.volume >= block[0]) & (self.volume < block[1]))
        pairs = [np.empty((0, 2), np.int32)]
        for apart in range(1, MAX_VOLUMES):
            low = low[: np.searchsorted(low, len(self.key) - apart)]
            low = low[self.key[low + apart] == self.key[low]]
            pairs.append(np.stack([self.place[low], self.place[low + apart]], axis=1))
        return np.concatenate(pairs)


def _turned_alike(
    pairs: npt.NDArray[np.int32], marks: npt.NDArray[np.void], volume: npt.NDArray[np.int32]
) -> npt.NDArray[np.int32]:
    """Those pairs of landmarks that enough others of the same two volumes are turned like.

    Chance turns them anyhow, so that few pairs of volumes remain to be looked at one by one.
    """
    number = _pair_number(volume[pairs])
    often = _often(number, MIN_VOTES)
    pairs, number = pairs[often], number[often]
    code, turn = (marks[name][pairs].T for name in ("code", "turn"))
    mirrored = (code[0] ^ code[1]) & MIRRORED != 0
    between = (turn[1] - np.where(mirrored, -turn[0], turn[0])).astype(np.uint16)  # wraps around
    alike = np.zeros(len(pairs), bool)
    # Thirds of a turn, and thirds half as far on: directions within TURNED share one of them.
    for start in (0, 2**16 // 6):
        third = (between + np.uint16(start)).astype(np.int64) * 3 >> 16
        alike |= _often(number << 3 | mirrored.astype(np.int64) << 2 | third, MIN_VOTES)
    return pairs[alike]


def _pair_number(volumes: Ints) -> npt.NDArray[np.int64]:
    """A number for each pair of volumes (n, 2)."""
    return volumes[:, 0].astype(np.int64) << 28 | volumes[:, 1]


def _runs(values: npt.NDArray[np.int64]) -> tuple[Ints, Ints]:
    """An order in which equal values, which are 0 or more, stand together, and where each begins.

    The last edge is the end.
    """
    order = np.argsort(values, kind="stable")
    return order, np.append(np.flatnonzero(np.diff(values[order], prepend=-1)), len(values))


def _often(values: npt.NDArray[np.int64], minimum: int) -> npt.NDArray[np.bool_]:
    """Which values occur so many times or more."""
    order, edges = _runs(values)
    result = np.empty(len(values), bool)
    result[order] = np.repeat(np.diff(edges) >= minimum, np.diff(edges))
    return result


def _by_pair(
    places: npt.NDArray[np.int32], volumes: Ints, minimum: int
) -> Iterator[npt.NDArray[np.int32]]:
    """Hints (n, 2) of one pair of volumes after the other, of those that have enough."""
    order, edges = _runs(_pair_number(volumes))
    for start, stop in pairwise(edges):
        if stop - start >= minimum:
            hints = places[order[start:stop]]
            yield hints[np.linspace(0, len(hints) - 1, min(len(hints), MAX_HINTS)).astype(int)]


def _same_frame(catalogue: Catalogue, rows: Ints, volume: Ints) -> Iterator[Proposal]:
    """What slices with equal keys propose: rows (n, 2)."""
    a, b = (int(number) for number in volume[rows[0]])
    line, on_line = _line(catalogue, a, b, catalogue.number[rows])
    votes = int(np.count_nonzero(on_line))
    if votes >= MIN_SLICES:
        yield frame_on_frame(catalogue, a, b, line, votes)


def frame_on_frame(catalogue: Catalogue, a: int, b: int, line: Line, votes: int) -> Proposal:
    """Propose that the frames of two volumes show the same, mirrored in one way or another."""
    a_mm, b_mm = catalogue.extent_mm(a), catalogue.extent_mm(b)
    along = _along(catalogue, a, b, line)
    placements = (
        _flat(np.diag(b_mm / a_mm * flip), np.where(flip < 0, b_mm, 0), *along) for flip in FLIPS
    )
    return Proposal(a, b, line, tuple(placements), votes)


def _same_landmarks(catalogue: Catalogue, hints: Ints, volume: Ints) -> Iterator[Proposal]:
    """What landmarks with equal codes propose: hints (n, 2)."""
    a, b = (int(number) for number in volume[hints[0]])
    marks = catalogue.landmarks[hints]
    points = np.stack([marks["y"], marks["x"]], axis=-1) * POSITION_MM  # (n, 2, 2)
    mirrored = (marks["code"][:, 0] ^ marks["code"][:, 1]) & MIRRORED != 0
    (agree,) = np.nonzero(_agreeing(points, marks["turn"] * TURN, mirrored))
    if len(agree) < MIN_VOTES:
        return
    numbers = catalogue.number[catalogue.landmark_row[hints[agree]]]
    line, on_line = _line(catalogue, a, b, numbers)
    if np.count_nonzero(on_line) < MIN_VOTES:
        return
    chosen = points[agree[on_line]]
    turned = _rigid(chosen[:, 0], chosen[:, 1], bool(mirrored[agree[0]]))
    flat = _flat(*turned, *_along(catalogue, a, b, line))
    heights = numbers * catalogue.spacing_mm_z([a, b])
    points = np.concatenate([points[agree], heights[..., None]], axis=2)  # (n, 2, 3)
    options = [(flat, _votes(flat, points)), *_tilted(flat, points)]
    votes = max(votes for _, votes in options)
    if votes >= MIN_VOTES:
        yield Proposal(a, b, line, tuple(placement for placement, _ in options), votes)


def _along(catalogue: Catalogue, a: int, b: int, line: Line) -> tuple[float, float]:
    """The line in mm: how far along b each mm of a is, and where slice 0 of a is."""
    spacing_a, spacing_b = catalogue.spacing_mm_z([a, b])
    return line.step * spacing_b / spacing_a, line.first * spacing_b


def _flat(matrix: Floats, shift: Floats, step: float, first_mm: float) -> Placement:
    """A placement that leaves slices slices: matrix (2, 2) and shift (2,) in plane."""
    whole = np.zeros((3, 3))
    whole[:2, :2], whole[2, 2] = matrix, step
    return Placement(whole, np.append(shift, first_mm))


def _tilted(flat: Placement, points: Floats) -> Iterator[tuple[Placement, int]]:
    """A placement like a flat one, but for slices that were tilted, if more hints agree with it.

    Args:
        flat: the placement without a tilt.
        points: (n, 2, 3), hints by volumes by (y, x, z), in mm.

    Yields:
        The placement and how many agree, or nothing.
    """
    placement = flat
    for near_mm in (4 * ALONG_MM, ALONG_MM):
        a, b = points[_off(placement, points).max(axis=1) < near_mm].transpose(1, 0, 2)
        if len(a) < MIN_TILTED or np.ptp(a[:, 2]) < MIN_HEIGHT_MM:
            return
        centre = a.mean(axis=0)
        fit = np.linalg.lstsq(np.column_stack([a - centre, np.ones(len(a))]), b, rcond=None)[0]
        placement = Placement(fit[:3].T, fit[3] - fit[:3].T @ centre)
    votes = _votes(placement, points)
    # A few more come by chance, as twelve numbers fit better than four.
    if votes > 1.2 * _votes(flat, points):
        yield placement, votes


def _off(placement: Placement, points: Floats) -> Floats:
    """How far points of a (n, 2, 3) are from where they should be in b: (n, 2), in plane and z."""
    off = points[:, 0] @ placement.matrix.T + placement.shift - points[:, 1]
    step = max(1.0, abs(float(placement.matrix[2, 2])))
    return np.stack([np.linalg.norm(off[:, :2], axis=1), np.abs(off[:, 2]) / step], axis=1)


def _votes(placement: Placement, points: Floats) -> int:
    """How many hints agree with a placement."""
    return int(np.count_nonzero((_off(placement, points) < [CLOSE_MM, ALONG_MM]).all(axis=1)))


def _agreeing(
    points: Floats, turns: Floats, mirrored: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Which hints agree with the one that most agree with: bool (n,).

    Args:
        points: (n, 2, 2), hints by volumes by (y, x), in mm.
        turns: (n, 2), directions from x towards y.
        mirrored: (n,), whether the two are mirrors of each other.
    """
    sign = np.where(mirrored, -1.0, 1.0)
    turn = turns[:, 1] - sign * turns[:, 0]
    apart = points - points[:, None]  # of hint j from hint i: (i, j, 2, 2)
    y, x = apart[:, :, 0, 0] * sign[:, None], apart[:, :, 0, 1]
    sine, cosine = np.sin(turn)[:, None], np.cos(turn)[:, None]
    off = np.stack([sine * x + cosine * y, cosine * x - sine * y], axis=-1) - apart[:, :, 1]
    agree = np.linalg.norm(off, axis=-1) < NEAR_MM
    agree &= np.cos(turn[:, None] - turn) > np.cos(TURNED)
    agree &= mirrored[:, None] == mirrored
    best: npt.NDArray[np.bool_] = agree[agree.sum(axis=1).argmax()]
    return best


def _rigid(a: Floats, b: Floats, mirrored: bool) -> tuple[Floats, Floats]:
    """The rotation, after a mirror of y or none, and the shift that bring a onto b: (n, 2) both."""
    flip = np.diag([-1.0 if mirrored else 1.0, 1.0])
    u, _, v = np.linalg.svd(((a - a.mean(axis=0)) @ flip).T @ (b - b.mean(axis=0)))
    matrix = (u @ np.diag([1.0, np.sign(np.linalg.det(u @ v))]) @ v).T @ flip
    return matrix, b.mean(axis=0) - matrix @ a.mean(axis=0)


def _line(
    catalogue: Catalogue, a: int, b: int, numbers: Ints
) -> tuple[Line, npt.NDArray[np.bool_]]:
    """The line that most pairs of slice numbers (n, 2) lie on, and which do.

    Any step is possible, since headers of copies are wrong at times; where it is close to what the
    headers say, or to one for one, it is taken to be that.
    """
    spacing = catalogue.spacing_mm_z([a, b])
    heights = numbers * spacing
    dz = heights[:, None] - heights  # (n, n, 2)
    slope = np.divide(dz[..., 1], dz[..., 0], where=dz[..., 0] != 0, out=np.zeros(dz.shape[:2]))
    # In slices or in mm: either is right where a header is wrong.
    in_mm = np.log(np.abs(slope) + 1e-9)
    in_slices = in_mm + float(np.log(spacing[0] / spacing[1]))
    i, j = np.nonzero(np.minimum(np.abs(in_mm), np.abs(in_slices)) <= np.log(MAX_STEP))
    if len(i) == 0:
        return Line(1.0, 0.0), np.zeros(len(numbers), bool)
    slope = slope[i, j]
    off = np.abs(dz[i, :, 1] - slope[:, None] * dz[i, :, 0])
    fits = off < ALONG_MM * np.maximum(1, np.abs(slope))[:, None]
    likely = np.abs(np.abs(slope) - 1) < 0.05
    best = fits[(fits.sum(axis=1) + 0.5 * likely).argmax()]
    on_a, on_b = numbers[best].T.astype(float)
    step = np.polyfit(on_a, on_b, 1)[0] if np.ptp(on_a) > 0 else 1.0
    for usual in (spacing[0] / spacing[1], 1.0):
        if abs(abs(step) - usual) < 0.05 * usual:
            step = float(np.copysign(usual, step))
            break
    return Line(float(step), float(np.median(on_b - step * on_a))), best
