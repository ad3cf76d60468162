"""The sections of the page that a study has beyond the paper's tables, where it asks for them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from meddino.core.errors import MeddinoError
from meddino.report.options import ReportOptions
from meddino.report.page.charts.chart import Chart
from meddino.report.page.sections import backbones, failing, labels, stability, transfer

Content = dict[str, Any] | None
SINGLE = ("label_curve.json", "transfer.json", "backbones.json", "failures.json")
"""Files of which there is one."""
WORST = "worst.json"
"""File of the worst cases of a benchmark, beside their pictures."""
RANKS = ".ranks.csv"
"""How the names of tables of ranks end."""


class Beyond(NamedTuple):
    """The contents of these sections, read once; a section without its file is absent.

    Attributes:
        ranks: tables of ranks.
        worst: files of worst cases, beside their pictures.
        figures: descriptions of figures, each beside its pictures.
    """

    label_curve: Content
    transfer: Content
    ranks: list[pd.DataFrame]
    backbones: Content
    failures: Content
    worst: list[Path]
    figures: list[Path]

    @classmethod
    def of(cls, paths: Sequence[Path]) -> "Beyond":
        """Read files, which their names tell apart.

        Raises:
            MeddinoError: a file is of no section, missing or damaged.
        """
        ranks = [path for path in paths if path.name.endswith(RANKS)]
        worst = [path for path in paths if path.name == WORST]
        single = {path.name: path for path in paths if path not in [*ranks, *worst]}
        for name, path in single.items():
            if name not in SINGLE:
                raise MeddinoError(
                    f"{path} is of no section of the report; give {', '.join(SINGLE)}, {WORST}"
                    f" or <table>{RANKS} to --beyond"
                )
        curve, transferred, compared, failures = map(single.get, SINGLE)
        return cls(
            label_curve=labels.read(curve),
            transfer=transfer.section(transferred),
            ranks=[stability.read_ranks(path) for path in ranks],
            backbones=backbones.read(compared),
            failures=failing.read(failures),
            worst=worst,
            figures=backbones.figures(compared),
        )

    def charts(self, options: ReportOptions) -> dict[str, Chart]:
        """Charts by name."""
        return {
            **labels.charts(options, self.label_curve),
            **transfer.charts(self.transfer),
            **stability.rank_charts(options, self.ranks),
            **backbones.charts(self.backbones),
            **failing.charts(options, self.failures),
        }

    def contents(self, options: ReportOptions) -> dict[str, Any]:
        """What the templates show, by the name of the section."""
        return {
            "label_curve": labels.section(self.label_curve),
            "transfer": self.transfer,
            "ranks": stability.rank_sections(options, self.ranks),
            "backbones": backbones.section(self.backbones),
            "failures": failing.section(options, self.failures, self.worst),
        }
