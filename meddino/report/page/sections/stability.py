"""The section of ranks: how sure the order of each table's rows is, and effect sizes."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from meddino.core.errors import MeddinoError
from meddino.evaluate.statistics import FEWEST_CASES
from meddino.report.options import ReportOptions
from meddino.report.page.charts.chart import Chart
from meddino.report.page.charts.ranks import stability
from meddino.report.page.inputs import read_lines_of_table
from meddino.report.page.names import benchmark_label
from meddino.report.tables.cells import number

COLUMNS = {
    *("table", "row", "method", "benchmark", "metric", "mean", "rank", "rank_low", "rank_high"),
    *("share_1", "tau", "tau_low", "tau_high", "cases", "draws"),
}


def read_ranks(path: Path) -> pd.DataFrame:
    """The lines of a `<table>.ranks.csv`.

    Raises:
        MeddinoError: the file is missing, cut off, or of something else.
    """
    lines = read_lines_of_table(path)
    if not set(lines.columns) >= COLUMNS:
        raise MeddinoError(f"{path} is no table of ranks; delete it and rerun")
    return lines


def _columns(lines: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """Benchmark, metric and lines of each column, its methods from the best to the worst."""
    return [
        (str(benchmark), str(metric), part.sort_values(["rank", "rank_low"], kind="stable"))
        for (metric, benchmark), part in lines.groupby(["metric", "benchmark"], sort=False)
    ]


def rank_charts(options: ReportOptions, ranked: list[pd.DataFrame]) -> dict[str, Chart]:
    """A chart of each column of each table, by `ranks/<table>/<benchmark>/<metric>`."""
    charts = {}
    for lines in ranked:
        table = lines["table"].iloc[0]
        for benchmark, metric, part in _columns(lines):
            rows = [
                {"method": line["row"], "place": place, "share": round(100 * share, 1)}
                for line in part.to_dict("records")
                for place in range(1, len(part) + 1)
                if (share := line[f"share_{place}"]) > 0
            ]
            title = f"{benchmark_label(options, benchmark)}, {metric}"
            charts[f"ranks/{table}/{benchmark}/{metric}"] = stability(
                rows, part["row"].tolist(), title
            )
    return charts


def rank_sections(options: ReportOptions, ranked: list[pd.DataFrame]) -> list[dict[str, Any]]:
    """A section for each table: its title, the row it compares with, `draws`, and its `columns`.

    A column has its names, `cases`, whether they are `few`, Kendall's `tau`, and `lines` of a
    method's numbers.
    """
    titles = {table.name: table for table in options.tables}
    sections = []
    for lines in ranked:
        name = str(lines["table"].iloc[0])
        table = titles.get(name)
        base = table.method_labels.get(table.table.compare_with or "") if table else None
        sections.append(
            {
                "name": name,
                "title": table.table.title if table else name,
                "base": base if "dz" in lines else None,
                "draws": int(lines["draws"].iloc[0]),
                "seeds": table is not None and table.seed is not None,
                "columns": [
                    {
                        "key": f"ranks/{name}/{benchmark}/{metric}",
                        "title": f"{benchmark_label(options, benchmark)}, {metric}",
                        "cases": int(part["cases"].iloc[0]),
                        "few": bool(part["cases"].iloc[0] < FEWEST_CASES),
                        "tau": _tau(part.iloc[0]),
                        "lines": [_line(line) for line in part.to_dict("records")],
                    }
                    for benchmark, metric, part in _columns(lines)
                ],
            }
        )
    return sections


def _tau(line: Any) -> str:
    if number(line["tau"]) is None:
        return "none, since all methods are equal"
    return f"{line['tau']:.2f} ({line['tau_low']:.2f} to {line['tau_high']:.2f})"


def _line(line: Mapping[Any, Any]) -> dict[str, Any]:
    """A method's numbers; no effect, None, of the row that others are compared with."""
    rank, low, high = (int(line[key]) for key in ("rank", "rank_low", "rank_high"))
    share = number(line.get("superiority", math.nan))
    return {
        "label": line["row"],
        "rank": rank,
        "interval": f"{low}" if low == high else f"{low} to {high}",
        "same": 100 * line[f"share_{rank}"],
        "first": 100 * line["share_1"],
        "dz": number(line.get("dz", math.nan)),
        "superiority": None if share is None else 100 * share,
    }
