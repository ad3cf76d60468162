"""The sections of the page that a study has beyond the paper's tables, where it asks for them."""

from pathlib import Path
from typing import Any, NamedTuple

from meddino.report.options import ReportOptions
from meddino.report.page.charts.chart import Chart
from meddino.report.page.sections import backbones, failing, labels, stability, transfer


class Beyond(NamedTuple):
    """The files of these sections; a section without its file is absent."""

    label_curve: Path | None
    transfer: Path | None
    ranks: tuple[Path, ...]
    backbones: Path | None
    failures: Path | None
    worst: tuple[Path, ...]

    def files(self) -> list[Path]:
        """All files that there are."""
        single = (self.label_curve, self.transfer, self.backbones, self.failures)
        return [*filter(None, single), *self.ranks, *self.worst]

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

    def sections(self, options: ReportOptions) -> dict[str, Any]:
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
