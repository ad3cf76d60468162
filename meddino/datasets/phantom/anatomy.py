"""The made-up patient: what lies where in the abdomen, with the variation between people.

Coordinates are those of `shapes`, in mm for a patient of scale 1; z = 0 is near the second lumbar
vertebra, the diaphragm's domes are near 120, the bladder near -205. Sizes and places are those of
anatomical atlases, rounded; each patient draws its own around them.
"""

from dataclasses import dataclass

import numpy as np

from meddino.datasets.phantom.canvas import Canvas, Fill
from meddino.datasets.phantom.organs import paint_organs
from meddino.datasets.phantom.shapes import (
    Array,
    Grid,
    Shape,
    Triple,
    column,
    ellipsoid,
    everywhere,
    tube,
)
from meddino.datasets.phantom.tissues import Structure

CAVITY_MM = (126.0, 88.0)
WALL_MM = 12.0
VERTEBRA_MM = 34.0
PELVIS_Z = -125.0
DOME_FALL_MM = 78.0
RECESS_Z = 40.0


@dataclass(frozen=True)
class Habitus:
    """What the layers of the trunk share: the cavity and everything around it (mm)."""

    fat: float
    width: float
    cavity: Shape
    wall: Shape
    outline: Shape

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Habitus":
        """A thin to obese trunk."""
        fat = float(rng.uniform(9, 34))
        width, depth = CAVITY_MM
        outer = (width + WALL_MM + fat, depth + WALL_MM + 0.75 * fat + 3)
        return cls(
            fat,
            width=2 * outer[0],
            cavity=column((0, -2), CAVITY_MM, 0.3),
            wall=column((0, 0), (width + WALL_MM, depth + WALL_MM), 0.3),
            outline=column((0, 3), outer, 0.3),
        )


def paint_patient(
    canvas: Canvas, habitus: Habitus, rng: np.random.Generator, lesions: bool
) -> None:
    """Paint a whole patient on a canvas of air.

    Args:
        canvas: the grid and the tissues; painted on.
        habitus: the trunk.
        rng: source of the patient's variation.
        lesions: whether liver and kidney certainly bear tumours; else they are left to chance.
    """
    _paint_table(canvas, habitus)
    _paint_trunk(canvas, habitus)
    _paint_muscles(canvas)
    _paint_ribs(canvas, rng)
    _paint_pelvis(canvas)
    paint_organs(canvas, habitus.cavity.grown(-1.5), rng, lesions, _paint_chest(canvas, habitus))
    _paint_spine(canvas, rng)


def _paint_table(canvas: Canvas, habitus: Habitus) -> None:
    """The scanner's table: a shallow shell under the back."""
    back = CAVITY_MM[1] + WALL_MM + 0.75 * habitus.fat + 8
    shell = column((0, back - 330), (330, 340)) - column((0, back - 330), (324, 334))
    canvas.paint(
        shell & everywhere(lambda g: np.abs(g.x) - 190) & everywhere(lambda g: back - 95 - g.y),
        canvas.tissues.table,
    )


def _paint_trunk(canvas: Canvas, habitus: Habitus) -> None:
    tissues = canvas.tissues
    canvas.paint(habitus.outline, tissues.skin)
    canvas.paint(habitus.outline.grown(-2.5), tissues.fat, grain=1.3)
    canvas.paint(habitus.wall, tissues.muscle)
    # Layers of fat between the muscles of the flank.
    canvas.paint(habitus.wall.grown(-5.5) - habitus.wall.grown(-7), tissues.fat)

    def mesentery(grid: Grid, texture: Array) -> Array:
        """Fat with the small vessels that run in it."""
        vessels = np.clip(texture - np.float32(1.3), 0, 0.8) * np.float32(
            tissues.cava - tissues.fat
        )
        fat: Array = np.float32(tissues.fat) + np.float32(1.6 * tissues.mottle) * texture + vessels
        return fat

    canvas.paint(habitus.cavity, mesentery)


def _paint_muscles(canvas: Canvas) -> None:
    muscle = canvas.tissues.muscle
    for side in (-1, 1):
        canvas.paint(column((side * 31, 85), (28, 20), 0.3), muscle, grain=1.4)
        canvas.paint(column((side * 72, 74), (24, 14), 0.2), muscle)
        psoas: list[Triple] = [
            (side * 30, 58, 30),
            (side * 38, 52, -60),
            (side * 52, 38, -130),
            (side * 66, 0, -230),
        ]
        canvas.paint(tube(psoas, (8, 19, 24, 19)), muscle)
        crus: list[Triple] = [(side * 14, 32, 110), (side * 17, 42, 60), (side * 20, 50, 10)]
        canvas.paint(tube(crus, (4, 6, 5)), muscle)
        gluteal = ellipsoid((side * 72, 82, -200), (62, 40, 80))
        canvas.paint(gluteal, muscle, grain=1.5)
    rectus = column((-32, -94), (28, 7), 0.3) | column((32, -94), (28, 7), 0.3)
    canvas.paint(rectus, muscle)


def _bone(canvas: Canvas, shape: Shape, rim_mm: float) -> None:
    canvas.paint(shape, canvas.tissues.bone, Structure.NONE, grain=4)
    canvas.paint(shape.grown(-rim_mm), canvas.tissues.marrow, grain=5)


def _paint_ribs(canvas: Canvas, rng: np.random.Generator) -> None:
    width, depth = CAVITY_MM[0] + 5, CAVITY_MM[1] + 5
    start = float(rng.uniform(0, 30))
    angles = np.linspace(np.deg2rad(78), np.deg2rad(-62), 7)
    for rank in range(7):
        top = 52 + start + 29 * rank
        bend = angles[: 4 + min(rank, 3)]
        for side in (-1, 1):
            points: list[Triple] = [
                (side * width * np.cos(a), depth * np.sin(a), top - 42 * (angles[0] - a) / 1.6)
                for a in map(float, bend)
            ]
            canvas.paint(tube(points, [5.2] * len(points), 3), canvas.tissues.bone, grain=4)
            canvas.paint(tube(points, [2.6] * len(points), 3), canvas.tissues.marrow, grain=4)


def _paint_pelvis(canvas: Canvas) -> None:
    for side in (-1, 1):
        wing = ellipsoid((side * 92, 42, -172), (11, 58, 62), turn=side * 0.75, tilt=side * -0.25)
        _bone(canvas, wing, 3.0)
        _bone(canvas, ellipsoid((side * 88, 8, -242), (27, 27, 28)), 3.0)
    sacrum = ellipsoid((0, 74, -178), (50, 20, 58))
    _bone(canvas, sacrum, 2.5)


def _paint_spine(canvas: Canvas, rng: np.random.Generator) -> None:
    """Vertebrae with discs between them, the arch, and the canal with the cord."""
    tissues, phase = canvas.tissues, float(rng.uniform(0, VERTEBRA_MM))

    def level(grid: Grid) -> Array:
        """Distance in z from the middle of the nearest vertebra (mm)."""
        offset: Array = np.abs((grid.z + phase) % VERTEBRA_MM - VERTEBRA_MM / 2)
        return offset

    def body(grid: Grid, texture: Array) -> Array:
        disc = level(grid) > VERTEBRA_MM / 2 - 4.5
        bone: Array = np.where(disc, tissues.disc, tissues.marrow + 22 * texture * _hu(canvas))
        return bone

    def rim(grid: Grid, texture: Array) -> Array:
        disc = level(grid) > VERTEBRA_MM / 2 - 4.5
        bone: Array = np.where(disc, tissues.disc, 0.8 * tissues.bone).astype(np.float32)
        return bone

    above = everywhere(lambda g: np.float32(PELVIS_Z - 20) - g.z)
    vertebra = column((0, 62), (24, 17.5), 0.2) & above
    canvas.paint(vertebra, rim, Structure.NONE)
    canvas.paint(vertebra.grown(-2), body)
    _bone(canvas, column((0, 86), (17, 12)), 2.5)
    spine = column((0, 101), (4.5, 13)) & everywhere(lambda g: level(g) - 9)
    transverse = column((0, 82), (42, 5.5)) & everywhere(lambda g: level(g) - 7)
    canvas.paint(spine, tissues.bone, grain=4)
    canvas.paint(transverse, tissues.bone, grain=4)
    canvas.paint(column((0, 86), (11.5, 8.5)), 0.4 * tissues.fat + 0.6 * tissues.cord)
    canvas.paint(column((0, 86), (7, 5.5)), tissues.cord)


def _hu(canvas: Canvas) -> float:
    """Strength of bone's texture relative to that of CT's soft tissue."""
    return canvas.tissues.mottle / 6.0


def _paint_chest(canvas: Canvas, habitus: Habitus) -> tuple[tuple[Shape, Fill], ...]:
    """Lungs and heart, to be painted over what reaches up to the diaphragm."""
    tissues = canvas.tissues

    def lung(grid: Grid, texture: Array) -> Array:
        vessels = np.clip(texture - np.float32(1.5), 0, 1) * np.float32(tissues.muscle + 700)
        if tissues.lung > 0:  # MR: positive intensities, vessels dark
            vessels = vessels * np.float32(0)
        air: Array = np.float32(tissues.lung) + np.float32(4 * tissues.mottle) * texture + vessels
        return air

    chest = habitus.cavity.grown(-1)
    lungs = [
        (column((side * 76, 6), (62, 84), 0.3) & chest & _above_dome(side * 72, top), lung)
        for side, top in ((-1, 122.0), (1, 112.0))
    ]
    heart = ellipsoid((22, -38, 158), (64, 48, 42), turn=0.5)
    return (*lungs, (heart.grown(4), tissues.fat), (heart, tissues.heart))


def _above_dome(x: float, top: float) -> Shape:
    """Where the lung is: above one half of the diaphragm, which falls steeply to its rim."""

    def distance(grid: Grid) -> Array:
        u, v = (grid.x - np.float32(x)) / 66, (grid.y + 15) / 92
        height = np.float32(top) - np.float32(DOME_FALL_MM) * (u * u + v * v)
        return ((np.maximum(height, np.float32(RECESS_Z)) - grid.z) / 2).astype(np.float32)

    return everywhere(distance)
