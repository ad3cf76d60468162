"""Whether two volumes show the same: one is laid over the other, and their detail is compared.

Copies agree nearly everywhere. Patients do not, nor do two scans of one patient, who breathed and
lay differently; so the places count at which two slices agree nearly least.
"""

from itertools import product
from typing import NamedTuple

import numpy as np

from meddino.ct3m.catalogue import Catalogue
from meddino.ct3m.overlay import Line, Overlay, Placement, View
from meddino.ct3m.proposals import Proposal

GRID_MM, MIN_GRID = 2.5, 100
"""Spacing at which slices are compared, and how many pixels the longer side has at least."""
PROBES, COMPARED = 3, 8
"""Slices by which volumes are laid over each other, and slices that are then compared."""
REACH_MM, MAX_REACH = 6.0, 6
"""How far along z a slice's like is looked for, in mm and in slices."""
WITHOUT_DOUBT = 0.1
"""Slices that are less than this apart, in slices, are taken for each other."""
HOPELESS, CLEAR = 0.2, 0.9
"""Probes of copies agree more than the first; where they agree more than the second, neither volume
is blurred."""
ROUNDS = ((2, 5), (1, 3))
"""Laying over: first at every second pixel, five times, then at every pixel, three times."""
FURTHEST_MM = 10.0
"""How far one round may move."""
SMOOTHED_PX = (0.0, 0.8, 1.6, 2.4)
"""By how much the sharper of two volumes is smoothed."""

Pairs = list[tuple[int, int]]
"""Places of slices in both volumes."""


class Comparison(NamedTuple):
    """How two volumes lie to each other at best, and how well they then agree: -1 to 1."""

    correlation: float
    overlay: Overlay


def compare(catalogue: Catalogue, proposal: Proposal) -> Comparison | None:
    """Lay two volumes over each other; None where they clearly show something else."""
    attempts = [_along_z(overlay) for overlay in _overlays(catalogue, proposal)]
    overlay, probes, agreement = max(attempts, key=lambda attempt: sum(attempt[2]))
    best = max(agreement, default=0.0)
    probes = [probe for probe, agrees in zip(probes, agreement, strict=True) if agrees > best / 2]
    if len(probes) == 0:
        return None
    for every, rounds in ROUNDS:
        for _ in range(rounds):
            overlay = _closer(overlay, probes, every)
    smooth = (0.0, 0.0)
    least = _median([overlay.least(*probe, smooth) for probe in probes])
    if least < CLEAR:
        smooth = _smoothing(overlay, probes)
        least = _median([overlay.least(*probe, smooth) for probe in probes])
    if least < HOPELESS:
        return None
    pairs = _pairs(overlay, COMPARED)
    return Comparison(_median([overlay.least(*pair, smooth) for pair in pairs]), overlay)


def _overlays(catalogue: Catalogue, proposal: Proposal) -> list[Overlay]:
    """As proposed; or frame on frame, mirrored in each way."""
    a_mm, b_mm = catalogue.extent_mm(proposal.a), catalogue.extent_mm(proposal.b)
    if proposal.placement is None:
        flips = np.array([*product((1, -1), repeat=2)])
        placements = [
            Placement(np.diag(b_mm / a_mm * flip), np.where(flip < 0, b_mm, 0.0)) for flip in flips
        ]
    else:
        placements = [proposal.placement]
    grid_mm = min(GRID_MM, float(a_mm.max()) / MIN_GRID)
    scale = float(np.sqrt(abs(np.linalg.det(placements[0].matrix))))
    a = View(catalogue, proposal.a, grid_mm)
    b = View(catalogue, proposal.b, grid_mm * scale)
    return [Overlay(a, b, proposal.line, placement) for placement in placements]


def _pairs(overlay: Overlay, count: int) -> Pairs:
    """So many slices of a, spread evenly, each with the slice of b that agrees best."""
    pairs = []
    for place, nearest, off in _spread(overlay, count):
        around = _around(overlay.b, nearest, 1 if off > WITHOUT_DOUBT else 0)
        pairs.append((place, max(around, key=lambda k: overlay.agreement(place, k))))
    return pairs


def _spread(overlay: Overlay, count: int) -> list[tuple[int, int, float]]:
    """So many slices of a, spread evenly, where b has one near; which, and how far off it is."""
    places, nearest, off = overlay.line.beside(overlay.a.number, overlay.b.number)
    parts = np.array_split(np.arange(len(places)), min(count, max(1, len(places))))
    chosen = [part[off[part].argmin()] for part in parts if len(part)]
    return [(int(places[k]), int(nearest[k]), float(off[k])) for k in chosen]


def _around(view: View, place: int, reach: int) -> range:
    return range(max(0, place - reach), min(len(view.number), place + reach + 1))


def _along_z(overlay: Overlay) -> tuple[Overlay, Pairs, list[float]]:
    """The overlay moved along z to where slices agree best, a few pairs of slices, and how well."""
    reach = min(MAX_REACH, max(1, int(REACH_MM / overlay.b.spacing_mm_z)))
    probes, agreement, moved = [], [], []
    for place, nearest, _ in _spread(overlay, PROBES):
        around = _around(overlay.b, nearest, reach)
        agrees = [overlay.agreement(place, k) for k in around]
        best = around[int(np.argmax(agrees))]
        probes.append((place, best))
        agreement.append(max(agrees))
        numbers = overlay.a.number[place], overlay.b.number[best]
        moved.append(numbers[1] - overlay.line.step * numbers[0])
    if probes:
        line = Line(overlay.line.step, float(np.median(moved)))
        overlay = Overlay(overlay.a, overlay.b, line, overlay.placement)
    return overlay, probes, agreement


def _closer(overlay: Overlay, probes: Pairs, every: int) -> Overlay:
    """One step of Gauss and Newton towards the affine placement at which greys differ least.

    Offset and gain of the greys do not matter.
    """
    a, b = overlay.a, overlay.b
    points = a.points_mm(every)
    centre = points.mean(axis=(1, 2))
    away = (points - centre[:, None, None]) / 100  # about 1, so that the system is well scaled
    normal, right = np.zeros((6, 6)), np.zeros(6)
    for place_a, place_b in probes:
        target = a.grey(place_a, float(every))[::every, ::every]
        moving = overlay.over(b.grey(place_b, float(every)), every)
        slopes = [np.gradient(moving, step, axis=k) for k, step in enumerate(a.pixel_mm * every)]
        inside = np.isfinite(slopes[0] + slopes[1])
        x, y = moving[inside], target[inside]
        if len(x) == 0:
            continue
        x, y = x - x.mean(), y - y.mean()
        gain = np.mean(x * y) / max(float(np.mean(x * x)), 1e-9)
        steps = np.stack([slope[inside] * w for slope in slopes for w in (1, *away[:, inside])])
        normal += gain * gain * np.einsum("ip,jp->ij", steps, steps)
        right += gain * np.einsum("ip,p->i", steps, y - gain * x)
    if not normal.any():
        return overlay
    normal += np.eye(6) * 1e-6 * np.trace(normal)
    move = np.linalg.solve(normal, right).reshape(2, 3)
    move *= min(1.0, FURTHEST_MM / max(float(np.abs(move).max()), 1e-9))
    # Points p of a belong where p + shift + bend (p - centre) is now.
    shift, bend = move[:, 0], move[:, 1:] / 100
    matrix, start = overlay.placement
    moved = Placement(matrix @ (np.eye(2) + bend), start + matrix @ (shift - bend @ centre))
    return Overlay(a, b, overlay.line, moved)


def _smoothing(overlay: Overlay, probes: Pairs) -> tuple[float, float]:
    """By how much to smooth either volume for the probes to agree best."""
    energy = [
        float(np.mean([np.mean(view.detail(place) ** 2) for place in places]))
        for view, places in zip((overlay.a, overlay.b), zip(*probes, strict=True), strict=True)
    ]
    sharper = int(energy[1] > energy[0])
    options = [(0.0, sigma) if sharper else (sigma, 0.0) for sigma in SMOOTHED_PX]
    return max(options, key=lambda s: _median([overlay.least(*probe, s) for probe in probes]))


def _median(values: list[float]) -> float:
    """Median of those that are known; -1 where none is."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.median(known)) if known else -1.0
