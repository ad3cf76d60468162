"""The footnotes of a table: what its numbers are, in sentences."""

import json

import pandas as pd

from meddino.evaluate import statistics
from meddino.report.corpus import variant_label
from meddino.report.options import TableOptions
from meddino.report.tables.beyond import notes
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


def footnotes(options: TableOptions, lines: pd.DataFrame) -> list[str]:
    """The sentences that apply to a table.

    Args:
        options: rows and columns.
        lines: of its protocol, as of `results.table_lines`.
    """
    metrics, protocol = options.table.metrics, options.table.protocol
    shares = " and ".join(metric for metric in metrics if METRICS[metric].unit == "%")
    variants = {variant_label(options.corpus, data) for data in options.method_data.values()}
    sentences = {
        f"{shares} in %.": bool(shares),
        f"Protocol {protocol}: mean over cases, then over structures; {PROTOCOLS[protocol]}.": True,
        _within(options): "NSD" in metrics,
        "HD95 by area, where both have the structure.": "HD95" in metrics,
        "VD: predicted less reference volume, the mean with its sign.": "VD" in metrics,
        **dict.fromkeys(notes(options), True),
        **_uncertainty(options, lines),
        **{f"{options.corpus} {name}: {text}": name in variants for name, text in VARIANTS.items()},
        **{f"{options.corpus} {name}: {text}.": True for name, text in options.variants.items()},
        _recipe(options): True,
        **_counts(options, lines),
    }
    return [text for text, applies in sentences.items() if applies]


def _uncertainty(options: TableOptions, lines: pd.DataFrame) -> dict[str, bool]:
    """Sentences on intervals and p, and whether they apply."""
    tests = int(lines["tests"].max())
    shown = options.table.intervals or options.table.compare_with is not None
    missing = bool((lines["ours"].notna() & lines["low"].isna()).any())
    several = options.seed is not None
    return {
        "Intervals: over cases, by Student's t, each for itself.": shown and not several,
        **(_trainings(options, lines) if several else {}),
        "No interval where a single case has a structure, whose spread is then unknown.": shown
        and missing,
        "p: paired permutation test of the difference, corrected (Holm) over the table's tests,"
        f" {tests} in all.": tests > 0 and not several,
    }


def _trainings(options: TableOptions, lines: pd.DataFrame) -> dict[str, bool]:
    """Sentences on several trainings of a method, and whether they apply."""
    tests, folds = int(lines["tests"].max()), int(lines["folds"].max())
    shown = options.table.intervals or options.table.compare_with is not None
    run = lines[lines["cases"] > 0]
    seeds = " or ".join(f"{count}" for count in sorted(set(run["seeds"]), reverse=True))
    nested = f" in each of {folds} folds, whose trainings are independent" if folds > 1 else ""
    once = run[run["seeds"] == 1]
    single: dict[str, list[str]] = {}
    for line in once.drop_duplicates(["method", "benchmark"]).to_dict("records"):
        label = options.benchmark_labels[line["benchmark"]]
        single.setdefault(options.method_labels[line["method"]], []).append(label)
    names = "; ".join(f"{method}: {', '.join(where)}" for method, where in single.items())
    of_base = once.loc[once["method"] == options.table.compare_with, "benchmark"]
    pairs = once[once["benchmark"].isin(of_base) & (once["method"] != options.table.compare_with)]
    test = "t-test of the difference over cases (paired) and trainings (not paired)"
    if len(pairs):
        test += ", but a paired permutation test where both rows have one training"
    return {
        f"Trainings: each row with {seeds} seeds{nested}; values are means over them.": True,
        "Intervals: over other cases and other trainings, by Student's t, each for itself.": shown,
        f"Rows with one training, whose own scatter is in no interval and no p ({names}).": shown
        and bool(names),
        f"p: {test}, corrected (Holm) over the table's tests, {tests} in all.": tests > 0,
    }


def _counts(options: TableOptions, lines: pd.DataFrame) -> dict[str, bool]:
    """Sentences on numbers of cases, and whether they apply."""
    fewest = statistics.FEWEST_CASES
    cases = lines.groupby("benchmark", sort=False)["cases"].max()
    counts = ", ".join(f"{options.benchmark_labels[str(b)]} {n}" for b, n in cases.items())
    structures = "; ".join(
        f"{options.benchmark_labels[str(benchmark)]}: {', '.join(names)}"
        for benchmark, few in lines.groupby("benchmark", sort=False)["few"]
        # Of a benchmark with few cases, all structures have few.
        if cases[benchmark] >= fewest and (names := _few(few))
    )
    return {
        f"Cases: {counts}.": True,
        "Bold: the best of a column.": bool((cases >= fewest).any()),
        f"With fewer than {fewest} cases there is no p, which could not fall below 0.05, and no"
        " bold.": bool((cases < fewest).any()) and options.seed is None,
        f"With fewer than {fewest} cases there is no p and no bold.": bool((cases < fewest).any())
        and options.seed is not None,
        f"Structures with fewer than {fewest} cases, which say little ({structures}).": bool(
            structures
        ),
    }


def _few(few: pd.Series) -> list[str]:
    """Structures of a benchmark with few cases, each with the fewest that any of its lines has."""
    counts: dict[str, int] = {}
    for text in few:
        for name, count in json.loads(text).items():
            counts[name] = min(count, counts.get(name, count))
    return [f"{name} {count}" for name, count in counts.items()]


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
    by_methods: dict[tuple[str, ...], list[str]] = {}
    for key, methods in options.recipe_changes.items():
        by_methods.setdefault(tuple(methods), []).append(key)
    changes = "; ".join(
        f"{', '.join(keys)} ({_names(options, methods)})" for methods, keys in by_methods.items()
    )
    meaning, introduction = RECIPES[options.recipe]
    differences = f"; {introduction} in {changes}" if changes else ""
    return f"Recipe {options.recipe}: {meaning}{differences}."


def _names(options: TableOptions, methods: tuple[str, ...]) -> str:
    """Rows by their labels, which have commas of their own."""
    if set(methods) == set(options.table.rows):
        return "all rows"
    return "; ".join(options.method_labels[method] for method in methods)
