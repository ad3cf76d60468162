"""The section of CT-3M: copies between datasets, and the volumes left out."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from meddino.report.page.charts.chart import Chart
from meddino.report.page.charts.results import overlap


def overlap_chart(card: dict[str, Any]) -> dict[str, Chart]:
    """The chart `overlap` of copies between datasets, where there are any."""
    chart = overlap(card["overlap"]["datasets"], card["overlap"]["counts"])
    return {} if chart is None else {"overlap": chart}


def figures(card: Path | None) -> list[Path]:
    """The list of figures beside a data card, where there is a card."""
    return [] if card is None else [card.with_name("figures.json")]


def quarantined(reports: Iterable[dict[str, Any]]) -> list[dict[str, str]]:
    """Volumes and cases left out: `where`, `case`, `path` and `reason`.

    Args:
        reports: of curation, which name a `dataset`, and of conversion, which name a `benchmark`.
    """
    return [
        {"where": report.get("dataset") or f"benchmark {report['benchmark']}", **entry}
        for report in reports
        for entry in report["quarantined"]
    ]


def remarks(reports: Iterable[dict[str, Any]]) -> list[dict[str, str]]:
    """Remarks of curation on volumes that it took."""
    return [
        {"where": report["dataset"], **entry}
        for report in reports
        if "dataset" in report
        for entry in report.get("remarks", [])
    ]
