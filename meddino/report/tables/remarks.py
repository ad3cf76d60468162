"""Remarks on a table: inputs that are not the paper's, and published results of 3D networks."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from meddino.report.options import TableOptions


@cache
def published_3d() -> dict[str, Any]:
    """Results of 3D networks, `benchmark -> network -> %`, with their source, metric and notes."""
    content: dict[str, Any] = yaml.safe_load(
        Path(__file__).with_name("three_d.yaml").read_text(encoding="utf-8")
    )
    return content


def remarks(options: TableOptions, lines: pd.DataFrame) -> list[str]:
    """Sentences to read before a table is compared with the paper or with other work.

    Args:
        options: rows and columns.
        lines: of the table, as of `results.table_lines`.
    """
    return [*_other_inputs(options, lines), *_three_d(options)]


def _other_inputs(options: TableOptions, lines: pd.DataFrame) -> Iterator[str]:
    """Benchmarks on which nnU-Net planned another input than the paper states."""
    for benchmark, side in options.paper_patch_px.items():
        planned = lines.loc[lines["benchmark"] == benchmark, "planned_px"]
        # Empty (NaN, once read from CSV) where the table was made without the plans.
        sizes = {size for size in planned if isinstance(size, str) and size}
        for size in sorted(sizes - {f"{side} x {side}"}):
            yield (
                f"Another input: on {options.benchmark_labels[benchmark]} nnU-Net's configuration"
                f" 2d takes {size} px here; the paper states {side} x {side} px."
            )


def _three_d(options: TableOptions) -> Iterator[str]:
    """The published results in 3D on the benchmarks of a table of DSC."""
    published = published_3d()
    used = [name for name in options.table.benchmarks if name in published["results"]]
    if published["metric"] not in options.table.metrics or not used:
        return
    texts = []
    for name in used:
        note = f" ({published['notes'][name]})" if name in published["notes"] else ""
        values = ", ".join(f"{k} {value:.2f}" for k, value in published["results"][name].items())
        texts.append(f"{options.benchmark_labels[name]}{note}: {values}")
    yield (
        "Another setting, for context only: published 3D networks, mean of five folds,"
        f" {published['metric']} in % ({published['source']}): {'; '.join(texts)}. The paper's"
        " networks are 2D, trained on one fold."
    )
