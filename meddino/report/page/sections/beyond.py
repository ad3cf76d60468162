"""The sections of the page that a study has beyond the paper's tables, where it asks for them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from meddino.core.errors import MeddinoError
from meddino.report.options import ReportOptions
from meddino.report.page.charts.chart import Chart
from meddino.report.page.sections import backbones, failing, labels, stability, transfer

SINGLE = ("label_curve.json", "transfer.json", "backbones.json", "failures.json")
"""Files of which there is one."""
WORST = "worst.json"
"""File of the worst cases of a benchmark, beside their pictures."""
RANKS = ".ranks.csv"
"""How the names of tables of ranks end."""


class Beyond(NamedTuple):
    """The files of these sections; a section without its file is absent."""

    ranks: tuple[Path, ...]
    worst: tuple[Path, ...]
    label_curve: Path | None = None
    transfer: Path | None = None
    backbones: Path | None = None
    failures: Path | None = None

    @classmethod
    def of(cls, paths: Sequence[Path]) -> "Beyond":
        """Sort files by their names.

        Raises:
            MeddinoError: a file is of no section.
        """
        ranks = tuple(path for path in paths if path.name.endswith(RANKS))
        worst = tuple(path for path in paths if path.name == WORST)
        single = {path.stem: path for path in paths if path not in {*ranks, *worst}}
        for path in single.values():
            if path.name not in SINGLE:
                raise MeddinoError(
                    f"{path} is of no section of the report; give {', '.join(SINGLE)}, {WORST}"
                    f" or <table>{RANKS} to --beyond"
                )
        return cls(ranks=ranks, worst=worst, **single)

    def figures(self) -> list[Path]:
        """Descriptions of figures, each beside its pictures."""
        return backbones.figures(self.backbones)

    def charts(self, options: ReportOptions) -> dict[str, Chart]:
        """Charts by name."""
        return {
            **labels.charts(options, labels.read(self.label_curve)),
            **transfer.charts(transfer.section(self.transfer)),
            **stability.rank_charts(options, self._ranked()),
            **backbones.charts(self.backbones),
            **failing.charts(options, self.failures),
        }

    def contents(self, options: ReportOptions) -> dict[str, Any]:
        """What the templates show, by the name of the section."""
        return {
            "label_curve": labels.section(labels.read(self.label_curve)),
            "transfer": transfer.section(self.transfer),
            "ranks": stability.rank_sections(options, self._ranked()),
            "backbones": backbones.section(self.backbones),
            "failures": failing.section(options, self.failures, self.worst),
        }

    def _ranked(self) -> list[Any]:
        return [stability.read_ranks(path) for path in self.ranks]
