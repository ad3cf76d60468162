"""Whether two volumes show the same: one is laid over the other, and their detail is compared.

Copies agree nearly everywhere. Patients do not, nor do two scans of one patient, who breathed and
lay differently; so the places count at which two slices agree nearly least.
"""

from typing import NamedTuple

import numpy as np

from meddino.ct3m.catalogue import Catalogue
from meddino.ct3m.overlay import Line, Overlay, Placement, View
from meddino.ct3m.perceptual import Array
from meddino.ct3m.proposals import Proposal

GRID_MM, MIN_GRID = 2.5, 100
"""Spacing at which slices are compared, and how many pixels the longer side has at least."""
PROBES, COMPARED = 3, 8
"""Slices by which volumes are laid over each other, and slices that are then compared."""
REACH_MM, MAX_REACH = 6.0, 6
"""How far along z a slice's like is looked for, in mm and in slices."""
ROUNDS = ((2, 2, 4), (2, 3, 6), (1, 3, 2))
"""Laying over: at every so manieth pixel, by moving in the plane or along z as well, so many times.
Where slices are thick the second goes astray at times; what agrees less is not taken."""
FURTHEST_MM = 10.0
"""How far one round may move."""
DAMPING = 1e-4
"""Of directions in which hardly anything changes."""
HOPELESS, CLEAR = 0.2, 0.9
"""Probes of copies agree more than the first; where they agree more than the second, neither volume
is blurred."""
SMOOTHED_PX = (0.0, 0.8, 1.6, 2.4)
"""By how much the sharper of two volumes is smoothed."""


class Comparison(NamedTuple):
    """How two volumes lie to each other at best, and how well they then agree: -1 to 1."""

    correlation: float
    line: Line
    placement: Placement


def compare(catalogue: Catalogue, proposal: Proposal) -> Comparison | None:
    """Lay two volumes over each other; None where they clearly show something else."""
    grid_mm = min(GRID_MM, float(catalogue.extent_mm(proposal.a).max()) / MIN_GRID)
    a = View(catalogue, proposal.a, grid_mm)
    scale = float(np.sqrt(abs(np.linalg.det(proposal.placements[0].matrix[:2, :2]))))
    b = View(catalogue, proposal.b, grid_mm * scale)
    probes = _spread(a, b, proposal.line, PROBES)
    attempts = [_along_z(Overlay(a, b, placement), probes) for placement in proposal.placements]
    overlay, agreement = max(attempts, key=lambda attempt: sum(attempt[1]))
    best = max(agreement, default=0.0)
    probes = [probe for probe, agrees in zip(probes, agreement, strict=True) if agrees > best / 2]
    if len(probes) == 0:
        return None
    for every, axes, rounds in ROUNDS:
        closer = overlay
        for _ in range(rounds):
            closer = _closer(closer, probes, every, axes)
        overlay = max(closer, overlay, key=lambda o: sum(o.agreement(probe) for probe in probes))
    smooth = (0.0, 0.0)
    least = _median([overlay.least(probe, smooth) for probe in probes])
    if least < CLEAR:
        smooth = _smoothing(overlay, probes)
        least = _median([overlay.least(probe, smooth) for probe in probes])
    if least < HOPELESS:
        return None
    line = _line(overlay, proposal.line)
    places = _spread(a, b, line, COMPARED)
    correlation = _median([overlay.least(place, smooth) for place in places])
    return Comparison(correlation, line, overlay.placement)


def _spread(a: View, b: View, line: Line, count: int) -> list[int]:
    """Places of so many slices of a, spread evenly, where b has slices near."""
    places, _, off = line.beside(a.number, b.number)
    parts = np.array_split(np.arange(len(places)), min(count, max(1, len(places))))
    return [int(places[part[off[part].argmin()]]) for part in parts if len(part)]


def _along_z(overlay: Overlay, probes: list[int]) -> tuple[Overlay, list[float]]:
    """The overlay moved along z to where probes agree best, and how well each does."""
    spacing = overlay.b.spacing_mm_z
    reach = min(MAX_REACH, max(1, int(REACH_MM / spacing)))
    best, agreement = overlay, [-1.0] * len(probes)
    for slices in range(-reach, reach + 1):
        moved = Overlay(overlay.a, overlay.b, overlay.placement.raised(slices * spacing))
        agrees = [moved.agreement(probe) for probe in probes]
        if sum(agrees) > sum(agreement):
            best, agreement = moved, agrees
    return best, agreement


def _closer(overlay: Overlay, probes: list[int], every: int, axes: int) -> Overlay:
    """One step of Gauss and Newton towards the affine placement at which greys differ least.

    Args:
        overlay: what to improve.
        probes: places of slices of a to look at.
        every: step between pixels.
        axes: 2 to move in plane only, 3 to move along z too.
    """
    a = overlay.a
    points = a.points_mm(every)
    heights = [a.height_mm(probe) for probe in probes]
    centre = np.array([*points.mean(axis=(1, 2)), np.mean(heights)])
    normal, right = np.zeros((4 * axes, 4 * axes)), np.zeros(4 * axes)
    for probe, height in zip(probes, heights, strict=True):
        slopes, off = _differences(overlay, probe, every)
        inside = np.isfinite(slopes[0] + slopes[1] + off)
        height_mm = np.full(np.count_nonzero(inside), height)
        # About 1, so that the system is well scaled.
        away = (np.stack([*points[:, inside], height_mm]) - centre[:, None]) / 100
        steps = np.stack([slope[inside] * w for slope in slopes[:axes] for w in (1, *away)])
        normal += np.einsum("ip,jp->ij", steps, steps)
        right += np.einsum("ip,p->i", steps, off[inside])
    if not normal.any():
        return overlay
    normal += np.eye(4 * axes) * DAMPING * np.trace(normal) / (4 * axes)
    move = np.zeros((3, 4))
    move[:axes] = np.linalg.solve(normal, right).reshape(axes, 4)
    move *= min(1.0, FURTHEST_MM / max(float(np.abs(move).max()), 1e-9))
    # Points p of a belong where p + shift + bend (p - centre) is now.
    shift, bend = move[:, 0], move[:, 1:] / 100
    matrix, start = overlay.placement
    moved = Placement(matrix @ (np.eye(3) + bend), start + matrix @ (shift - bend @ centre))
    return Overlay(a, overlay.b, moved)


def _differences(overlay: Overlay, probe: int, every: int) -> tuple[list[Array], Array]:
    """Slopes of b's greys along y, x and z of a, and how far they are off a's; NaN beyond b.

    Offset and gain of the greys do not matter.
    """
    a, b = overlay.a, overlay.b
    half_mm = max(a.spacing_mm_z / 2, 1.0)
    below, moving, above = (
        overlay.over(lambda place: b.grey(place, float(every)), probe, every, mm)
        for mm in (-half_mm, 0.0, half_mm)
    )
    slopes = [np.gradient(moving, step, axis=k) for k, step in enumerate(a.pixel_mm * every)]
    # At either end of b only one side is known.
    ends = (np.where(np.isfinite(end), end, moving) for end in (above, below))
    slopes.append(np.subtract(*ends) / (2 * half_mm))
    target = a.grey(probe, float(every))[::every, ::every]
    inside = np.isfinite(moving)
    if inside.any():
        target, moving = (values - values[inside].mean() for values in (target, moving))
    gain = np.sum((moving * target)[inside]) / max(float(np.sum(moving[inside] ** 2)), 1e-9)
    return [gain * slope for slope in slopes], target - gain * moving


def _line(overlay: Overlay, proposed: Line) -> Line:
    """Slices of b beside those of a where the middle of a's frame is."""
    a, b = overlay.a, overlay.b
    places, _, _ = proposed.beside(a.number, b.number)
    place = int(places[len(places) // 2])
    middle = np.array([*(a.extent_mm / 2), a.height_mm(place)])
    number = (overlay.placement.matrix[2] @ middle + overlay.placement.shift[2]) / b.spacing_mm_z
    first = float(number - proposed.step * a.number[place])
    return Line(proposed.step, round(first) if abs(proposed.step) == 1 else first)


def _smoothing(overlay: Overlay, probes: list[int]) -> tuple[float, float]:
    """By how much to smooth either volume for the probes to agree best."""
    energy_a, energy_b = 0.0, 0.0
    for probe in probes:
        a, b = overlay.a.detail(probe)[::2, ::2], overlay.over(overlay.b.detail, probe, 2)
        inside = np.isfinite(b)
        energy_a += float(np.sum(a[inside] ** 2))
        energy_b += float(np.sum(b[inside] ** 2))
    options = [(0.0, s) if energy_b > energy_a else (s, 0.0) for s in SMOOTHED_PX]
    return max(options, key=lambda s: _median([overlay.least(probe, s) for probe in probes]))


def _median(values: list[float]) -> float:
    """Median of those that are known; -1 where none is."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.median(known)) if known else -1.0
