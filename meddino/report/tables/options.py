"""Options of the comparison of backbones (the workflow loads this module: nothing heavy here)."""

from typing import Literal

from meddino.core.options import Options
from meddino.report.options import Attribution, FigureOptions


class Backbones(Options):
    """A comparison of pretrained ViTs: scores after finetuning and frozen, size, and terms."""

    table: str
    """Key of the table, which must show DSC, whose rows are compared on its benchmarks."""
    probe: bool = True
    """Whether the frozen weights of each row are probed as well, as `probe` says."""


class Compared(Options):
    """One of the methods that are compared."""

    method: str
    """Key of the method."""
    label: str
    """Name of the method, as printed."""
    backbone: str | None
    """Its ViT, as the configuration names it; null for a network without one."""
    start: str
    """What it starts from, as printed."""
    weights: tuple[Attribution, ...]
    """Published weights that it derives from."""
    probed: str | None
    """Name of its frozen weights in the results of `probe`; null where they are not probed."""


class BackbonesOptions(Options):
    """What `backbones` needs of a study."""

    title: str
    """Heading."""
    protocol: Literal["paper", "area"]
    """How DSC is counted."""
    methods: tuple[Compared, ...]
    """What is compared, in order."""
    benchmarks: dict[str, str]
    """Benchmarks, in order, and their names as printed."""
    probe_benchmark: str
    """Name of the benchmark whose organs are probed, as printed."""
    look: FigureOptions
    """Look of the figure."""
