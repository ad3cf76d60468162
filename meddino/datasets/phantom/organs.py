"""The organs of the made-up patient, painted from the back of the list to its front."""

from collections.abc import Sequence

import numpy as np

from meddino.datasets.phantom.canvas import Canvas, Fill
from meddino.datasets.phantom.shapes import Array, Grid, Shape, Triple, ellipsoid, tube
from meddino.datasets.phantom.tissues import Structure as S

BOWEL_LOOPS = 22


class Painter:
    """A canvas with the variation of one patient: places and sizes are drawn around given ones."""

    def __init__(self, canvas: Canvas, cavity: Shape, rng: np.random.Generator) -> None:
        """Paint on `canvas` inside `cavity`."""
        self.canvas, self.cavity, self.rng = canvas, cavity, rng
        self.tissues = canvas.tissues

    def near(self, point: Triple, mm: float = 4.0) -> Triple:
        """A point near another."""
        x, y, z = (float(c + self.rng.uniform(-mm, mm)) for c in point)
        return x, y, z

    def size(self, radii: Triple, share: float = 0.1) -> Triple:
        """Radii near others."""
        x, y, z = (float(r * self.rng.uniform(1 - share, 1 + share)) for r in radii)
        return x, y, z

    def organ(self, centre: Triple, radii: Triple, turn: float = 0.0, tilt: float = 0.0) -> Shape:
        """An ellipsoid near the given one."""
        bend = float(self.rng.uniform(-0.08, 0.08))
        return ellipsoid(self.near(centre), self.size(radii), turn + bend, tilt + bend)

    def vessel(self, points: Sequence[Triple], radii: Sequence[float], mm: float = 2.5) -> Shape:
        """A tube near the given one."""
        scale = float(self.rng.uniform(0.9, 1.15))
        return tube([self.near(p, mm) for p in points], [scale * r for r in radii])

    def hollow(
        self, shape: Shape, wall_mm: float, content: float, y: float, label: S | None
    ) -> None:
        """An organ with a wall and a content, on which gas floats in front of `y` (mm)."""
        self.canvas.paint(shape, self.tissues.wall, label)
        self.canvas.paint(shape.grown(-wall_mm), self._settled(content, y))

    def _settled(self, content: float, y: float) -> Fill:
        gas, mottle = np.float32(self.tissues.air), np.float32(self.tissues.mottle)

        def fill(grid: Grid, texture: Array) -> Array:
            settled: Array = np.where(grid.y < np.float32(y), gas, content + mottle * texture)
            return settled

        return fill


def paint_organs(
    canvas: Canvas,
    cavity: Shape,
    rng: np.random.Generator,
    lesions: bool,
    chest: Sequence[tuple[Shape, Fill]],
) -> None:
    """Paint all organs.

    Args:
        canvas: painted on.
        cavity: what bounds them.
        rng: source of their variation.
        lesions: whether liver and kidneys certainly bear tumours.
        chest: lungs and heart, which end what reaches up to the diaphragm.
    """
    painter = Painter(canvas, cavity, rng)
    _bowel(painter)
    _liver(painter, lesions)
    spleen = painter.organ((98, 38, 68), (27, 44, 50), turn=-0.25, tilt=-0.15)
    canvas.paint(spleen & cavity, canvas.tissues.spleen, S.SPLEEN)
    _stomach(painter)
    for shape, fill in chest:
        canvas.paint(shape, fill, S.NONE)
    _kidneys(painter, lesions)
    _pancreas_and_duodenum(painter)
    _vessels(painter)
    _adrenals(painter)
    _pelvic(painter)


def _bowel(p: Painter) -> None:
    tissues, rng = p.tissues, p.rng
    colon: list[list[Triple]] = [
        [(-96, 5, -140), (-100, 12, -85), (-96, 0, -45)],
        [(-88, -40, -45), (-45, -68, -52), (25, -70, -40), (80, -40, 15)],
        [(100, 22, 10), (102, 30, -60), (94, 30, -140), (50, 40, -190), (5, 45, -215)],
    ]
    for way, radius in zip(colon, (22, 17, 15), strict=True):
        y = float(np.mean([q[1] for q in way])) - rng.uniform(-2, 14)
        p.hollow(p.vessel(way, [radius] * len(way), 5) & p.cavity, 3, tissues.stool, y, None)
    for _ in range(BOWEL_LOOPS):
        start = p.near((4, -34, -100), 1) + rng.uniform(-1, 1, 3) * (78, 38, 72)
        steps = np.cumsum(rng.normal(0, 1, (3, 3)) * (34, 16, 16), axis=0)
        way = [(float(a), float(b), float(c)) for a, b, c in start + np.vstack([[0, 0, 0], steps])]
        content = tissues.meal if rng.random() < 0.5 else tissues.wall
        y = float(start[1]) - rng.uniform(2, 30)
        p.hollow(tube(way, [12.5] * 4, 3) & p.cavity, 2.5, content, y, None)


def _liver(p: Painter, lesions: bool) -> None:
    canvas, tissues, rng = p.canvas, p.tissues, p.rng
    right_lobe = p.organ((-66, 2, 48), (72, 84, 88), tilt=0.15)
    left_lobe = p.organ((8, -48, 80), (72, 38, 42), tilt=0.2)
    liver = (right_lobe | left_lobe) & p.cavity
    canvas.paint(liver, tissues.liver, S.LIVER)
    hub: Triple = (-22, 24, 112)
    ends: list[Triple] = [(-110, 20, 80), (-75, -45, 70), (15, -55, 85)]
    for end in ends:
        middle: Triple = p.near(((hub[0] + end[0]) / 2, (hub[1] + end[1]) / 2, 98), 6)
        canvas.paint(p.vessel([hub, middle, end], (6, 4.5, 2.5)) & liver, tissues.cava)
    hilum: Triple = (-42, -14, 58)
    branches: list[Triple] = [(-100, 25, 45), (-95, -30, 40), (-70, 30, 85), (5, -50, 72)]
    for end in branches:
        middle = p.near(((hilum[0] + end[0]) / 2, (hilum[1] + end[1]) / 2, 60), 6)
        canvas.paint(p.vessel([hilum, middle, end], (6, 4.5, 2)) & liver, tissues.portal)
    count = int(rng.integers(1, 6)) if lesions else int(rng.poisson(0.7))
    for _ in range(count):
        way = rng.normal(0, 1, 3)
        way *= rng.uniform(0.2, 0.72) / np.linalg.norm(way)
        centre: Triple = (-66 + 72 * way[0], 2 + 84 * way[1], 48 + 80 * way[2])
        radius = float(rng.uniform(8, 26))
        tumour = ellipsoid(centre, p.size((radius, radius, radius), 0.25)) & liver.grown(-1)
        canvas.paint(tumour, tissues.liver_tumour, S.LIVER_TUMOUR, grain=1.5)
        if radius > 17:  # large ones are necrotic in the middle
            core = ellipsoid(centre, (radius / 2.2, radius / 2.4, radius / 2.2)) & liver.grown(-1)
            canvas.paint(core, 0.6 * tissues.liver_tumour + 0.4 * tissues.cyst)
    gallbladder = p.organ((-50, -52, 8), (15, 22, 27), turn=0.5)
    canvas.paint(gallbladder.grown(1.5), tissues.wall)
    canvas.paint(gallbladder, tissues.bile, S.GALLBLADDER, grain=0.6)


def _stomach(p: Painter) -> None:
    points: list[Triple] = [(52, 8, 100), (66, -22, 62), (52, -52, 22), (14, -58, 2), (-22, -44, 8)]
    stomach = p.vessel(points, (32, 32, 25, 19, 12), 5) & p.cavity
    p.hollow(stomach, 4, p.tissues.meal, float(p.rng.uniform(-66, -38)), S.STOMACH)


def _kidneys(p: Painter, lesions: bool) -> None:
    choice = int(p.rng.integers(2))
    for rank, side in enumerate((-1, 1)):
        ids = (
            (S.RIGHT_KIDNEY, S.RIGHT_KIDNEY_TUMOUR, S.RIGHT_KIDNEY_CYST),
            (S.LEFT_KIDNEY, S.LEFT_KIDNEY_TUMOUR, S.LEFT_KIDNEY_CYST),
        )[rank]
        centre = p.near((side * 62, 44, -8 if side < 0 else 4), 4)
        _kidney(p, side, centre, ids[0])
        if (lesions and rank == choice) or p.rng.random() < 0.15:
            radius = float(p.rng.uniform(9, 27))
            _kidney_lesion(p, side, centre, radius, p.tissues.kidney_tumour, ids[1])
        if p.rng.random() < (0.45 if lesions else 0.2):
            _kidney_lesion(p, side, centre, float(p.rng.uniform(7, 16)), p.tissues.cyst, ids[2])


def _kidney(p: Painter, side: int, centre: Triple, label: S) -> None:
    canvas, tissues = p.canvas, p.tissues
    radii, turn = p.size((29, 25, 54)), side * 0.45
    x, y, z = centre
    kidney = ellipsoid(centre, radii, turn, side * -0.12)
    canvas.paint(kidney.grown(4), tissues.fat, S.NONE)
    canvas.paint(kidney, tissues.cortex, label)

    def pyramids(grid: Grid, texture: Array) -> Array:
        angle = np.arctan2(grid.z - np.float32(z), (grid.x - np.float32(x)) * 2)
        around = np.arctan2(grid.y - np.float32(y), grid.x - np.float32(x))
        inner = np.cos(9 * angle) + np.cos(5 * around) > np.float32(-0.5)
        value: Array = np.where(inner, tissues.medulla, tissues.cortex)
        return value + np.float32(tissues.mottle) * texture

    canvas.paint(ellipsoid(centre, (radii[0] - 7, radii[1] - 7, radii[2] - 8), turn), pyramids)
    sinus = ellipsoid((x - side * 13, y - 7, z), (15, 8, 24), turn)
    canvas.paint(sinus, tissues.fat, S.NONE)
    canvas.paint(ellipsoid((x - side * 12, y - 7, z - 4), (8, 4, 12), turn), tissues.urine)
    hilum: Triple = (x - side * 16, y - 8, z)
    canvas.paint(tube([(side * 10, 32, z + 8), hilum], (3.2, 3)), tissues.aorta)
    canvas.paint(tube([(-14, 24, z + 2), (side * 20, 22, z + 2), hilum], (5, 4.5, 4)), tissues.cava)


def _kidney_lesion(
    p: Painter, side: int, centre: Triple, radius: float, value: float, label: S
) -> None:
    """A round lesion half in the kidney's lateral surface."""
    angle, height = p.rng.uniform(-1.1, 1.1), float(p.rng.uniform(-34, 34))
    place: Triple = (
        centre[0] + side * 25 * float(np.cos(angle)),
        centre[1] + 22 * float(np.sin(angle)),
        centre[2] + height,
    )
    shape = ellipsoid(place, p.size((radius, radius, radius), 0.12)) & p.cavity
    p.canvas.paint(shape, value, label, grain=0.7 if value == p.tissues.cyst else 1.6)


def _pancreas_and_duodenum(p: Painter) -> None:
    canvas, tissues = p.canvas, p.tissues
    way: list[Triple] = [
        (-24, -42, 8),
        (-46, -26, 2),
        (-50, -6, -22),
        (-32, 4, -48),
        (5, 2, -46),
        (28, -10, -30),
    ]
    duodenum = p.vessel(way, [12.5] * 6) & p.cavity
    p.hollow(duodenum, 3.5, 0.5 * (tissues.meal + tissues.wall), -34, S.DUODENUM)
    head = p.organ((-28, -12, -12), (16, 15, 24))
    points: list[Triple] = [(-24, -16, -4), (-2, -26, 14), (28, -14, 24), (56, 4, 36), (78, 18, 48)]
    pancreas = (head | p.vessel(points, (13, 11, 12, 12, 10), 4)) & p.cavity
    canvas.paint(pancreas, tissues.pancreas, S.PANCREAS, grain=2.2)


def _vessels(p: Painter) -> None:
    canvas, tissues = p.canvas, p.tissues
    confluence: Triple = (-8, -10, 8)
    trunk = p.vessel([confluence, (-26, -14, 34), (-44, -14, 60)], (8, 7.5, 7))
    splenic = p.vessel([confluence, (22, 0, 24), (52, 16, 38), (82, 26, 52)], (6, 5, 5, 4.5))
    mesenteric = p.vessel([confluence, (-6, -18, -40), (0, -26, -90)], (6.5, 5.5, 4))
    canvas.paint(mesenteric, tissues.portal, S.NONE)
    canvas.paint(trunk | splenic, tissues.portal, S.PORTAL_VEIN)
    cava = [(-24, 22, 118), (-24, 26, 60), (-20, 30, 0), (-16, 32, -85)]
    canvas.paint(p.vessel(cava, (12, 12.5, 11.5, 11)), tissues.cava, S.POSTCAVA)
    for side in (-1, 1):
        fork: list[Triple] = [(side * 10, 33, -92), (side * 34, 34, -135), (side * 52, -10, -230)]
        canvas.paint(p.vessel(fork, (8, 7, 5.5)), tissues.cava)
    aorta: list[Triple] = [(14, 36, 200), (10, 34, 110), (8, 32, 30), (6, 32, -85)]
    shape = p.vessel(aorta, (12.5, 11.5, 10.5, 9.5))
    canvas.paint(shape, tissues.aorta, S.AORTA)
    artery = [(6, 20, 18), (2, -8, 4), (2, -22, -60)]
    canvas.paint(tube(artery, (4, 4, 3)), tissues.aorta, S.NONE)
    celiac = [(8, 22, 34), (4, 0, 42), (-30, -8, 46)]
    canvas.paint(tube(celiac, (3.5, 3, 2.5)), tissues.aorta, S.NONE)
    for side in (-1, 1):
        fork = [(side * 6, 30, -86), (side * 30, 26, -130), (side * 58, -18, -230)]
        canvas.paint(p.vessel(fork, (7, 6.5, 5)), tissues.aorta)
    way: list[Triple] = [(8, 18, 200), (12, 14, 140), (20, 6, 112), (38, 0, 96)]
    oesophagus = p.vessel(way, (9, 9, 9.5, 10))
    canvas.paint(oesophagus, tissues.wall, S.OESOPHAGUS)


def _adrenals(p: Painter) -> None:
    """An upside-down V or Y on top of each kidney: a body and two limbs."""
    tissues = p.tissues
    for side, label, top in ((-1, S.RIGHT_ADRENAL, 62.0), (1, S.LEFT_ADRENAL, 62.0)):
        x, y, z = p.near((side * 32, 28, top), 3)
        body = tube([(x, y, z), (x, y + 4, z - 30)], (4.6, 5))
        inner = tube([(x, y + 2, z - 5), (x - side * 1, y + 17, z - 26)], (4, 3.6))
        outer = tube([(x, y + 2, z - 5), (x + side * 13, y + 15, z - 26)], (4, 3.6))
        p.canvas.paint(body.grown(4) | outer.grown(4), tissues.fat, S.NONE)
        p.canvas.paint(body | inner | outer, tissues.adrenal, label)


def _pelvic(p: Painter) -> None:
    canvas, tissues = p.canvas, p.tissues
    bladder = p.organ((0, -34, -203), (44, 36, 33))
    canvas.paint(bladder.grown(3), tissues.wall)
    canvas.paint(bladder, tissues.urine, S.BLADDER, grain=0.6)
    prostate = p.organ((0, -8, -238), (25, 19, 20))
    canvas.paint(prostate, tissues.wall + 0.1 * abs(tissues.wall), S.PROSTATE)
