"""The section of failures: cases and lesions in bins, calibration, abstention, worst cases."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from meddino.evaluate.statistics import FEWEST_CASES
from meddino.report.options import ReportOptions
from meddino.report.page.charts import failures as draw
from meddino.report.page.charts.chart import Chart, Row
from meddino.report.page.inputs import MEDIA, data_uri, read_object, read_picture
from meddino.report.page.names import benchmark_label, method_labels, ordered_methods

ALL = "all structures"
"""Printed name of what is over all structures."""
ORDERS = {
    "confidence": "least confident first",
    "random": "in random order",
    "oracle": "worst first (oracle)",
}
"""Orders in which cases are set aside, as printed."""
TABLES = (
    *("cases", "dsc", "false_positives", "lesions", "calibration", "reliability"),
    *("abstention", "rejection"),
)
FEW = " (n = {})"
"""End of the name of a bin that holds few cases, as in the other charts."""
Chosen = tuple[str, str]


def read(path: Path | None) -> dict[str, Any] | None:
    """The content of `failures.json`; None without a file.

    Raises:
        MeddinoError: the file is missing or damaged.
    """
    return None if path is None else read_object(path, *TABLES, "iou", "least_softmax")


def section(
    options: ReportOptions, content: dict[str, Any] | None, worst: Iterable[Path]
) -> dict[str, Any] | None:
    """What the page shows beside the charts.

    Args:
        options: names.
        content: as `read` gives it.
        worst: `failures/<benchmark>/worst.json`, beside the pictures.

    Returns:
        `benchmarks`, `structures`, `lesion_structures`, `criteria` (choices: key and name), `ways`
        (key and what cases are sorted by), `methods` (key and name), `unknown` (sentences), the
        rows of the tables, and the worst cases by benchmark; None without content.

    Raises:
        MeddinoError: a file of worst cases is missing or damaged.
    """
    if content is None:
        return None
    ways = _ways(content["dsc"])
    return {
        "benchmarks": [
            (b, benchmark_label(options, b)) for b in _unique(content["dsc"], "benchmark")
        ],
        "structures": _choices(options, _structures(content["calibration"])),
        "lesion_structures": _choices(options, _structures(content["lesions"])),
        "criteria": [
            (str(n), name) for n, name in enumerate(_unique(content["lesions"], "criterion"))
        ],
        "ways": [(str(n), by) for n, by in enumerate(ways)],
        "methods": [(str(n), name) for n, name in enumerate(_labels(options, content))],
        "unknown": _unknown(options, content["dsc"]),
        "iou": content["iou"],
        "least": 100 * content["least_softmax"],
        "changed": sum(row.get("changed_voxels") or 0 for row in content["cases"]),
        "dsc": _named(
            options, [r for r in content["dsc"] if r["structure"] == "" and r["by"] in ways]
        ),
        "lesions": _named(options, content["lesions"]),
        "false_positives": _named(options, content["false_positives"]),
        "calibration": _named(options, content["calibration"]),
        "rejection": _named(options, content["rejection"]),
        "worst": [_worst(options, p) for p in worst],
    }


def _unique(rows: Iterable[Row], key: str) -> list[str]:
    return list(dict.fromkeys(row[key] for row in rows))


def _labels(options: ReportOptions, content: dict[str, Any]) -> list[str]:
    return method_labels(options, _unique(content["dsc"], "method"))


def _named(options: ReportOptions, rows: list[Row]) -> list[Row]:
    """Rows in the order of methods, with printed names."""
    order = ordered_methods(options, _unique(rows, "method"))
    benchmarks = _unique(rows, "benchmark")
    ranked = sorted(
        rows, key=lambda r: (benchmarks.index(r["benchmark"]), order.index(r["method"]))
    )
    return [
        row
        | {"method": options.methods.get(row["method"], row["method"])}
        | {"benchmark": benchmark_label(options, row["benchmark"])}
        | {"structure": row.get("structure") or ALL}
        for row in ranked
    ]


def _structures(rows: Iterable[Row]) -> list[Chosen]:
    """Benchmarks with each of their structures."""
    return list(dict.fromkeys((row["benchmark"], row["structure"]) for row in rows))


def _keys(structures: Iterable[Chosen]) -> dict[Chosen, str]:
    """A key of each structure, since names may hold anything: `<benchmark>/<number>`."""
    keys: dict[Chosen, str] = {}
    for benchmark, structure in structures:
        count = sum(name == benchmark for name, _ in keys)
        keys[benchmark, structure] = f"{benchmark}/{count}"
    return keys


def _choices(options: ReportOptions, structures: list[Chosen]) -> list[tuple[str, str]]:
    return [
        (key, f"{benchmark_label(options, benchmark)}: {structure or ALL}")
        for (benchmark, structure), key in _keys(structures).items()
    ]


def _ways(rows: list[Row]) -> list[str]:
    """What cases are sorted by, where it divides the cases of a benchmark; size comes first."""
    bins: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        bins.setdefault((row["by"], row["benchmark"]), set()).add(row["bin"])
    ways = list(dict.fromkeys(by for (by, _), names in bins.items() if len(names) > 1))
    return sorted(ways, key=lambda by: by != "size")


def _unknown(options: ReportOptions, rows: list[Row]) -> list[str]:
    """What divides no benchmark's cases: unknown, or the same for all of them."""
    bins: dict[tuple[str, str], set[str]] = {}
    for row in (row for row in rows if row["by"] != "size"):
        bins.setdefault((row["benchmark"], row["by"]), set()).add(row["bin"])
    return [
        f"{benchmark_label(options, benchmark)}: {by} is {name} for all cases."
        for (benchmark, by), names in bins.items()
        if len(names) == 1
        for name in names
    ]


def _worst(options: ReportOptions, path: Path) -> dict[str, Any]:
    """The worst cases of a benchmark with their pictures inside."""
    index = read_object(path, "cases", "structures")

    def uri(name: str) -> str:
        return data_uri(read_picture(path.parent / name, path), MEDIA[Path(name).suffix])

    benchmark = path.parent.name
    cases = [
        case | {side: uri(case[side]) for side in ("reference", "predicted")}
        for case in index["cases"]
    ]
    groups = [
        (options.methods.get(method, method), [c for c in cases if c["method"] == method])
        for method in ordered_methods(options, _unique(cases, "method"))
    ]
    return {
        "benchmark": benchmark,
        "label": benchmark_label(options, benchmark),
        "structures": index["structures"],
        "methods": groups,
    }


# ---- charts -------------------------------------------------------------------------------------


def charts(options: ReportOptions, content: dict[str, Any] | None) -> dict[str, Chart]:
    """Charts by `failures/<kind>/...`, as the template asks for them; none without content."""
    if content is None:
        return {}
    series = _labels(options, content)
    structures = _keys(_structures(content["calibration"]))
    frames = {name: pd.DataFrame(content[name]) for name in TABLES}
    return {
        **_dsc_charts(options, frames["dsc"], _ways(content["dsc"]), structures, series),
        **_lesion_charts(options, frames["lesions"], series),
        **_reliability_charts(options, frames["reliability"], structures, series),
        **_abstention_charts(options, frames["abstention"], series),
    }


def _rounded(value: float) -> float | None:
    return None if pd.isna(value) else round(float(value), 2)


def _rows(
    options: ReportOptions, table: pd.DataFrame, value: str, low: str, high: str
) -> list[Row]:
    """Rows of `draw.binned`, of bins in their order."""
    cases = table.groupby("bin")["cases"].max()
    few = set(table.loc[table["few"].astype(bool), "bin"])
    return [
        {
            "bin": row["bin"] + (FEW.format(cases[row["bin"]]) if row["bin"] in few else ""),
            "series": options.methods.get(row["method"], row["method"]),
            **{k: _rounded(row[f]) for k, f in (("value", value), ("low", low), ("high", high))},
            "cases": int(row["cases"]),
        }
        for row in table.sort_values("place", kind="stable").to_dict("records")
        if not pd.isna(row[value])
    ]


def _dsc_charts(
    options: ReportOptions,
    table: pd.DataFrame,
    ways: list[str],
    structures: dict[Chosen, str],
    series: list[str],
) -> dict[str, Chart]:
    """`failures/dsc/<way>/<benchmark>/<structure>`."""
    charts = {}
    for (benchmark, structure, by), part in table.groupby(
        ["benchmark", "structure", "by"], sort=False
    ):
        place = structures.get((str(benchmark), str(structure)))
        if by in ways and place is not None:
            rows = _rows(options, part, "mean", "low", "high")
            key = f"failures/dsc/{ways.index(by)}/{place}"
            charts[key] = draw.binned(rows, series, str(by), "DSC (%)", 100)
    return charts


def _lesion_charts(
    options: ReportOptions, table: pd.DataFrame, series: list[str]
) -> dict[str, Chart]:
    """`failures/sensitivity/<benchmark>/<structure>/<criterion>`, and `failures/false/...`."""
    charts: dict[str, Chart] = {}
    if table.empty:
        return charts
    pairs = zip(table["benchmark"], table["structure"], strict=True)
    structures = _keys(dict.fromkeys((str(b), str(s)) for b, s in pairs))
    criteria = list(table["criterion"].unique())
    sized = table[table["size"] != "all"].rename(columns={"size": "bin"})
    for keys, part in sized.groupby(["benchmark", "structure", "criterion"], sort=False):
        benchmark, structure, criterion = map(str, keys)
        key = f"{structures[benchmark, structure]}/{criteria.index(criterion)}"
        hit = part[part["lesions"] > 0].assign(cases=part["cases_with"])
        if rows := _rows(options, hit, "sensitivity", "low", "high"):
            name = f"failures/sensitivity/{key}"
            charts[name] = draw.binned(rows, series, "diameter", "Lesions that are hit (%)", 100)
        wrong = part.assign(few=part["cases"] < FEWEST_CASES)
        rows = _rows(options, wrong, "per_case", "per_case_low", "per_case_high")
        name = f"failures/false/{key}"
        charts[name] = draw.binned(rows, series, "diameter", "False positives a case", None)
    return charts


def _reliability_charts(
    options: ReportOptions,
    table: pd.DataFrame,
    structures: dict[Chosen, str],
    series: list[str],
) -> dict[str, Chart]:
    """`failures/reliability/<benchmark>/<structure>`."""
    charts = {}
    for (benchmark, structure), part in table.groupby(["benchmark", "structure"], sort=False):
        rows = [
            {"series": options.methods.get(row["method"], row["method"])}
            | {"x": _rounded(row["softmax"]), "y": _rounded(row["correct"])}
            | {"share": _rounded(row["share"])}
            for row in part.to_dict("records")
        ]
        key = f"failures/reliability/{structures[str(benchmark), str(structure)]}"
        charts[key] = draw.reliability(rows, series, str(structure) or ALL)
    return charts


def _abstention_charts(
    options: ReportOptions, table: pd.DataFrame, series: list[str]
) -> dict[str, Chart]:
    """`failures/abstention/<method>/<benchmark>`."""
    charts = {}
    for (benchmark, method), part in table.groupby(["benchmark", "method"], sort=False):
        label = options.methods.get(str(method), str(method))
        rows = [
            {"series": name, "x": _rounded(row["share"]), "y": _rounded(row["dsc"])}
            for order, name in ORDERS.items()
            for row in part[part["order"] == order].to_dict("records")
        ]
        key = f"failures/abstention/{series.index(label)}/{benchmark}"
        charts[key] = draw.abstention(rows, list(ORDERS.values()), label)
    return charts
