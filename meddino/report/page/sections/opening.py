"""The first screen: what was done in a sentence, badges, a segmentation, and the main table."""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from meddino.core import records
from meddino.core.files import read_lines, sha256
from meddino.report.figures import layers
from meddino.report.options import ReportOptions, TableOptions
from meddino.report.page.inputs import MEDIA, data_uri, read_object, read_picture
from meddino.report.page.names import benchmark_label, stage_label
from meddino.report.page.sections.glance import counted
from meddino.report.tables.beyond import mark
from meddino.report.tables.cells import column_cells

State = Literal["good", "warn", "bad", "unknown"]

SIDE_PX = 320
"""Longer side of the first screen's pictures (px)."""
QUALITY = 80
"""Of these pictures."""
FADED = 0.95
"""Mean cosine between the patches of a slice from which on they all say the same."""
COLLAPSED = 0.5
"""Share of its first rank below which a stage's features have collapsed."""


class Badge(NamedTuple):
    """A check of the study, and where the report says more.

    Attributes:
        name: what is checked.
        finding: the result in a few words.
        state: how good it is.
        section: identity of the section that it links to.
    """

    name: str
    finding: str
    state: State
    section: str


# ---- badges -------------------------------------------------------------------------------------


def checks(
    options: ReportOptions,
    lines: pd.DataFrame,
    card: Mapping[str, Any] | None,
    reports: Sequence[Mapping[str, Any]],
    histories: Sequence[Path],
) -> list[Badge]:
    """All badges of a study but the one of its records.

    Args:
        options: names, and the benchmarks' datasets.
        lines: of all tables.
        card: the data card; None where nothing is curated.
        reports: of curation and of conversion.
        histories: `pretrain/<stage>/history.jsonl`.
    """
    return [
        partial(lines),
        left_out(reports),
        leak(options, lines, card),
        collapse(options, histories),
    ]


def left_out(reports: Iterable[Mapping[str, Any]]) -> Badge:
    """Whether volumes were left out, by the reports of curation and conversion."""
    count = sum(len(report["quarantined"]) for report in reports)
    finding = counted(count, "volume") if count else "none"
    return Badge("Left out", finding, "warn" if count else "good", "quarantine")


def leak(options: ReportOptions, lines: pd.DataFrame, card: Mapping[str, Any] | None) -> Badge:
    """Whether pretraining saw validation cases of benchmarks that its rows are scored on."""
    if card is None:
        return Badge("Leak", "nothing pretrained", "unknown", "training")
    curated = {entry["dataset"] for entry in card["datasets"]}
    # Other variants hold nothing back for a benchmark's sake.
    saw = lines.loc[~lines["data"].isin(["none", "leak-free"]), "benchmark"].drop_duplicates()
    leaked = [b for b in saw if options.benchmark_datasets.get(str(b)) in curated]
    if not leaked:
        return Badge("Leak", "none", "good", "data")
    finding = f"{counted(len(leaked), 'benchmark')} seen"
    return Badge("Leak", finding, "warn", "data")


def collapse(options: ReportOptions, histories: Iterable[Path]) -> Badge:
    """Whether features of a stage collapsed, by the signals that pretraining logs."""
    measured, collapsed = False, []
    for path in histories:
        lines = [line for line in read_lines(path) if "rank_patch" in line]
        measured |= bool(lines)
        if lines and _has_collapsed(lines[0], lines[-1]):
            collapsed.append(stage_label(options, path.parent.name))
    if not measured:
        return Badge("Collapse", "not measured", "unknown", "training")
    return Badge(
        "Collapse", ", ".join(collapsed) or "none", "bad" if collapsed else "good", "training"
    )


def _has_collapsed(first: Mapping[str, float], last: Mapping[str, float]) -> bool:
    fell = any(last[key] < COLLAPSED * first[key] for key in ("rank_patch", "rank_cls"))
    return fell or last["patch_similarity"] > FADED


def verified(provenance: Mapping[str, Any], files: Iterable[Path]) -> tuple[Badge, list[str]]:
    """Whether the files that the page is made of are those that their jobs' records describe.

    Args:
        provenance: `provenance.json`.
        files: the files.

    Returns:
        The badge, and the paths of the files that differ or have no record.
    """
    recorded = {
        output["path"]: output["sha256"]
        for record in provenance["records"].values()
        for output in record["outputs"]
    }
    paths = {records.located(path): path for path in files}
    other = [name for name, path in paths.items() if recorded.get(name) != sha256(path)]
    if other:
        finding = f"{len(other)} of {counted(len(paths), 'file')} differ"
        return Badge("Verified", finding, "bad", "provenance"), other
    return Badge("Verified", counted(len(paths), "file"), "good", "provenance"), other


def partial(lines: pd.DataFrame) -> Badge:
    """Whether runs that a table shows are missing, or have scored fewer cases than others."""
    most = lines.groupby("benchmark")["cases"].transform("max")
    fewer = lines.assign(fewer=(lines["cases"] < most) | (lines["cases"] == 0))
    missing = fewer.groupby(["benchmark", "method"])["fewer"].any()
    if missing.any():
        finding = f"{int(missing.sum())} of {counted(len(missing), 'run')} missing"
        return Badge("Partial", finding, "warn", "tables")
    return Badge("Complete", counted(len(missing), "run"), "good", "tables")


# ---- the main table -----------------------------------------------------------------------------


def main_table(options: ReportOptions) -> TableOptions | None:
    """The table with most benchmarks; of equals, the first one."""
    return max(options.tables, key=lambda table: len(table.table.benchmarks), default=None)


def summary(options: ReportOptions, lines: pd.DataFrame) -> dict[str, Any] | None:
    """The main table in short: its first metric, as it is printed.

    Returns:
        `title`, `metric`, `benchmarks` (names), `compared` (method), and `rows` of `method`,
        `label`, `mark` and `cells`; None where the study has no table.
    """
    table = main_table(options)
    if table is None:
        return None
    part = lines[(lines["table"] == table.name) & (lines["protocol"] == table.table.protocol)]
    metric = str(part["metric"].iloc[0])
    columns = [column_cells(part, b, metric) for b in table.table.benchmarks]
    unit = part.loc[part["metric"] == metric, "unit"].iloc[0]
    return {
        "title": table.table.title,
        "metric": f"{metric} ({unit})",
        "benchmarks": [table.benchmark_labels[b] for b in table.table.benchmarks],
        "compared": table.table.compare_with,
        "rows": [
            {
                "method": method,
                "label": table.method_labels[method],
                "mark": mark(table, method),
                "cells": [column[method] for column in columns],
            }
            for method in table.table.rows
        ],
    }


# ---- a segmentation -----------------------------------------------------------------------------


def segmentation(options: ReportOptions, overlays: Sequence[Path]) -> dict[str, Any] | None:
    """A slice beside its reference and two methods' segmentations; nobody picks it.

    It is the telling slice of the median case of the main table's first benchmark. The methods are
    the row that the table compares with, and the first of the others.

    Args:
        options: names, and the tables.
        overlays: `overlays/<benchmark>/index.json`, beside the pictures of cases.

    Returns:
        `case`, `rank`, `benchmark`, `structures` (name and colour of those that show) and
        `panels` (`title`, `uri`, `width`, `height`); None where nothing is drawn.

    Raises:
        MeddinoError: an index is damaged, or a picture is missing.
    """
    table = main_table(options)
    indices = {path.parent.name: path for path in overlays}
    benchmarks = table.table.benchmarks if table else ()
    path = next((indices[name] for name in benchmarks if name in indices), None)
    if table is None or path is None:
        return None
    index = read_object(path, "cases", "structures")
    case = next((c for c in index["cases"] if c["rank"] == "median"), (index["cases"] or [None])[0])
    if case is None:
        return None
    base = table.table.compare_with
    rows = dict.fromkeys([*([base] if base else []), *table.table.rows])
    methods = [method for method in rows if method in case["methods"]][:2]
    files = {"Reference": case["reference"]}
    files |= {table.method_labels[method]: case["methods"][method] for method in methods}
    image = _slice_of(path.with_name(case["image"]), path, case)
    maps = {title: _slice_of(path.with_name(file), path, case) for title, file in files.items()}
    colours = [entry["colour"] for entry in index["structures"]]
    visible = np.unique([np.asarray(labels.convert("L")) for labels in maps.values()])
    return {
        "case": case["case"],
        "rank": case["rank"],
        "benchmark": benchmark_label(options, path.parent.name),
        "structures": [s for place, s in enumerate(index["structures"], 1) if place in visible],
        "panels": [
            {"title": title, **_panel(layers.overlaid(image, labels, colours, SIDE_PX))}
            for title, labels in maps.items()
        ],
    }


def _slice_of(path: Path, index: Path, case: Mapping[str, Any]) -> Image.Image:
    """The telling slice of a case's picture of slices."""
    width, height = case["size_px"]
    picture = Image.open(io.BytesIO(read_picture(path, index)))
    return picture.crop((0, case["first"] * height, width, (case["first"] + 1) * height))


def _panel(picture: Image.Image) -> dict[str, Any]:
    uri = data_uri(layers.encoded(picture, QUALITY), MEDIA[layers.SUFFIX])
    return {"uri": uri, "width": picture.width, "height": picture.height}
