"""The footnote of a table: what its numbers are, in sentences."""

import pandas as pd

from meddino.evaluate import statistics
from meddino.report.corpus import variant_label
from meddino.report.options import TableOptions
from meddino.report.tables.metrics import METRICS

PROTOCOLS = {
    "paper": "a structure that the reference lacks is left out",
    "area": "a structure predicted where the reference lacks it counts as 0",
}
VARIANTS = {
    "paper": "pretraining saw all test images, as the authors' did.",
    "all": "nothing was held back for a benchmark's sake.",
    "leak-free": "it saw no validation case and no copy of one.",
}
RECIPES = {
    "controlled": ("rows differ as they say, in nothing else", "the authors' code differs"),
    "official": ("rows as in the authors' code", "`controlled` differs"),
}
"""What a recipe is, and how its footnote introduces where the other one differs."""


def footnote(options: TableOptions, lines: pd.DataFrame) -> str:
    """The sentences that apply to a table.

    Args:
        options: rows and columns.
        lines: of its protocol, as of `results.table_lines`.
    """
    cases = lines.groupby("benchmark", sort=False)["cases"].max()
    counts = ", ".join(f"{options.benchmark_labels[str(b)]} {n}" for b, n in cases.items())
    metrics, protocol = options.table.metrics, options.table.protocol
    shares = " and ".join(metric for metric in metrics if METRICS[metric].unit == "%")
    variants = {variant_label(options.corpus, data) for data in options.method_data.values()}
    sentences = {
        "This run (the paper, the difference).": bool(lines["paper"].notna().any()),
        f"{shares} in %.": bool(shares),
        f"Protocol {protocol}: mean over cases, then over structures; {PROTOCOLS[protocol]}.": True,
        _within(options): "NSD" in metrics,
        "HD95 by area, where both have the structure.": "HD95" in metrics,
        "VD: predicted less reference volume, the mean with its sign.": "VD" in metrics,
        **_uncertainty(options),
        **{f"{options.corpus} {name}: {text}": name in variants for name, text in VARIANTS.items()},
        _recipe(options): True,
        f"Cases: {counts}.": True,
    }
    return " ".join(text for text, applies in sentences.items() if applies)


def _uncertainty(options: TableOptions) -> dict[str, bool]:
    """Sentences on intervals and p, and whether they apply."""
    base = options.table.compare_with
    label = options.method_labels[base] if base else ""
    return {
        f"In brackets: 95 % bootstrap interval over cases ({statistics.DRAWS:,} draws); the paper"
        " has none.": options.table.intervals,
        f"p: paired Wilcoxon test of cases against {label}, corrected (Holm) within a column; the"
        " paper has none.": base is not None,
    }


def _within(options: TableOptions) -> str:
    """How the NSD counts surfaces, and within which distances."""
    if options.table.protocol == "paper":
        return f"NSD by edge voxels within {options.tolerance_mm:g} mm."
    exceptions = []
    for benchmark in options.table.benchmarks:
        by_mm: dict[float, list[str]] = {}
        for structure, mm in options.tolerances_mm.get(benchmark, {}).items():
            by_mm.setdefault(mm, []).append(structure)
        groups = [f"{', '.join(names)} {mm:g} mm" for mm, names in sorted(by_mm.items())]
        if groups:
            exceptions.append(f"{options.benchmark_labels[benchmark]}: {'; '.join(groups)}")
    but = f" but for some ({'. '.join(exceptions)})" if exceptions else ""
    return f"NSD by area within {options.tolerance_mm:g} mm{but}."


def _recipe(options: TableOptions) -> str:
    """Which recipe ran, and for which rows the other one has other values."""
    labels = options.method_labels
    # Labels have commas of their own.
    changes = ", ".join(
        f"{key} ({'; '.join(labels[method] for method in methods)})"
        for key, methods in options.recipe_changes.items()
    )
    meaning, introduction = RECIPES[options.recipe]
    differences = f"; {introduction} in {changes}" if changes else ""
    return f"Recipe {options.recipe}: {meaning}{differences}."
