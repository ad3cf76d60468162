"""What tissues look like: CT numbers per phase and patient, or MR intensities.

Organs are drawn close to one another on purpose. In every case the liver, spleen, kidneys, pancreas
and muscle lie within some tens of HU, with an order that changes from patient to patient: no
threshold tells them apart, only place, shape and neighbours do.
"""

from dataclasses import dataclass, fields
from enum import IntEnum

import numpy as np


class Structure(IntEnum):
    """What the phantom knows of every voxel; each dataset labels its own part of it.

    The first fifteen are the label values of AMOS22.
    """

    NONE = 0
    SPLEEN = 1
    RIGHT_KIDNEY = 2
    LEFT_KIDNEY = 3
    GALLBLADDER = 4
    OESOPHAGUS = 5
    LIVER = 6
    STOMACH = 7
    AORTA = 8
    POSTCAVA = 9
    PANCREAS = 10
    RIGHT_ADRENAL = 11
    LEFT_ADRENAL = 12
    DUODENUM = 13
    BLADDER = 14
    PROSTATE = 15
    PORTAL_VEIN = 16
    LIVER_TUMOUR = 17
    RIGHT_KIDNEY_TUMOUR = 18
    LEFT_KIDNEY_TUMOUR = 19
    RIGHT_KIDNEY_CYST = 20
    LEFT_KIDNEY_CYST = 21


@dataclass(frozen=True, kw_only=True)
class Tissues:
    """Mean intensity of every tissue in one case (HU for CT), and `mottle`, its texture."""

    air: float
    lung: float
    fat: float
    skin: float
    muscle: float
    liver: float
    liver_tumour: float
    spleen: float
    cortex: float
    medulla: float
    kidney_tumour: float
    cyst: float
    pancreas: float
    adrenal: float
    aorta: float
    cava: float
    portal: float
    heart: float
    wall: float
    bile: float
    meal: float
    stool: float
    urine: float
    bone: float
    marrow: float
    disc: float
    cord: float
    table: float
    mottle: float


def ct_tissues(rng: np.random.Generator) -> Tissues:
    """Draw the CT numbers of one patient in one contrast phase (HU)."""
    u = rng.uniform
    liver = u(62, 112)
    cortex = liver + u(2, 38)
    # Oral contrast in a third of the patients, water or food in the others.
    meal = u(140, 300) if rng.random() < 0.35 else u(5, 45)
    return Tissues(
        air=-1000.0,
        lung=u(-890, -820),
        fat=u(-112, -95),
        skin=u(10, 40),
        muscle=u(50, 68),
        liver=liver,
        liver_tumour=liver - u(22, 55),
        spleen=liver + u(-14, 20),
        cortex=cortex,
        medulla=cortex - u(10, 32),
        kidney_tumour=cortex - u(15, 60),
        cyst=u(0, 16),
        pancreas=liver - u(0, 30),
        adrenal=liver - u(5, 30),
        aorta=liver + u(20, 90),
        cava=liver + u(-5, 45),
        portal=liver + u(10, 48),
        heart=liver + u(5, 60),
        wall=liver - u(5, 35),
        bile=u(2, 18),
        meal=meal,
        stool=u(10, 60),
        urine=u(-2, 14),
        bone=u(420, 720),
        marrow=u(130, 230),
        disc=u(70, 105),
        cord=u(25, 45),
        table=u(-250, -80),
        mottle=u(4, 8),
    )


def mr_tissues(rng: np.random.Generator) -> Tissues:
    """Draw MR intensities of one patient: positive, of an arbitrary scale, T1- or T2-like."""
    u = rng.uniform
    water = u(0.75, 1.0) if rng.random() < 0.5 else u(0.1, 0.2)
    blood = u(0.6, 0.9) if rng.random() < 0.5 else u(0.08, 0.2)
    liver = u(0.35, 0.5)
    relative = Tissues(
        air=0.015,
        lung=0.05,
        fat=u(0.55, 0.95),
        skin=u(0.3, 0.5),
        muscle=u(0.18, 0.3),
        liver=liver,
        liver_tumour=0.6 * liver + 0.4 * water,
        spleen=liver + (water - 0.5) * u(0.2, 0.5),
        cortex=u(0.4, 0.6),
        medulla=u(0.3, 0.5),
        kidney_tumour=u(0.3, 0.6),
        cyst=water,
        pancreas=u(0.35, 0.5),
        adrenal=u(0.25, 0.4),
        aorta=blood,
        cava=0.9 * blood + 0.03,
        portal=0.8 * blood + 0.05,
        heart=0.5 * blood + 0.15,
        wall=u(0.25, 0.4),
        bile=water,
        meal=0.8 * water,
        stool=u(0.15, 0.4),
        urine=water,
        bone=0.06,
        marrow=u(0.35, 0.6),
        disc=u(0.15, 0.5),
        cord=u(0.35, 0.5),
        table=0.015,
        mottle=0.03,
    )
    scale = u(400, 1800)
    return Tissues(**{f.name: scale * getattr(relative, f.name) for f in fields(Tissues)})
