"""Lines that every reader can tell apart: with protanopia, with deuteranopia, in both themes."""

import itertools
import re

import numpy as np
import numpy.typing as npt
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from meddino.report.options import FigureOptions
from meddino.report.page.charts.chart import COLOURS, key
from meddino.report.page.render import TEMPLATES
from meddino.report.style import INK, PATTERNS, marks

LINES = 10
APART = 15.0
"""CIEDE2000 from which on lines of 2 px are told apart without effort; 2.3 can just be seen."""

# Machado, Oliveira and Fernandes 2009 (doi 10.1109/TVCG.2009.113), severity 1.0: linear RGB.
VISIONS = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}


def as_seen(colour: str, vision: str) -> npt.NDArray[np.float64]:
    """A colour `#RRGGBB` as L*a*b*, as a reader sees it."""
    parts = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    seen = np.clip(VISIONS[vision] @ linear, 0, 1)
    encoded = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    return np.asarray(rgb2lab(encoded))


def apart(one: str, other: str) -> float:
    """The least difference of two colours over all readers."""
    return min(
        float(deltaE_ciede2000(as_seen(one, vision), as_seen(other, vision))) for vision in VISIONS
    )


def themes() -> dict[str, list[str]]:
    """The page's colours of series by theme."""
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    pairs = re.findall(r"--c\d+: light-dark\((#\w{6}), (#\w{6})\)", style)
    return dict(zip(("light", "dark"), map(list, zip(*pairs, strict=True)), strict=True))


def test_the_simulation_is_that_of_the_paper() -> None:
    assert apart("#0072b2", "#0072b2") == 0
    grey = as_seen("#808080", "protanopia")
    assert np.abs(grey[1:]).max() < 0.1, "grey stays grey"
    red, green = (as_seen(colour, "deuteranopia") for colour in ("#c0392b", "#7a6a1e"))
    normal = deltaE_ciede2000(as_seen("#c0392b", "normal"), as_seen("#7a6a1e", "normal"))
    assert float(deltaE_ciede2000(red, green)) < 0.5 * float(normal)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_ten_lines_of_the_page_differ_in_colour_or_in_dashes_and_shape(theme: str) -> None:
    colours = themes()[theme]
    assert len(colours) == COLOURS >= LINES
    for one, other in itertools.combinations(range(LINES), 2):
        first, second = key(one), key(other)
        patterns = first.dashes != second.dashes and first.shape != second.shape
        assert patterns or apart(colours[one], colours[other]) >= APART, (one, other)
        assert first.colour != second.colour


def test_ten_lines_of_a_figure_differ_in_colour_or_in_dashes_and_shape() -> None:
    for one, other in itertools.combinations(marks(FigureOptions(), LINES), 2):
        patterns = one.marker != other.marker
        assert patterns or apart(one.colour, other.colour) >= APART, (one, other)


def test_patterns_have_nothing_in_common() -> None:
    for part in zip(*PATTERNS, strict=True):
        assert len(set(part)) == len(PATTERNS)


def test_the_total_of_the_losses_is_like_none_of_them() -> None:
    losses = marks(FigureOptions(), 5)
    assert all(m.dashes != "-" or apart(INK, m.colour) >= APART for m in losses)
