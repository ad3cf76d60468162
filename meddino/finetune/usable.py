"""Which cases a benchmark can use, and whether they suffice: as `convert` does, and before a study.

A study would otherwise pretrain for days before it says that no label map fits.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from meddino.core.errors import MeddinoError
from meddino.core.files import write_text
from meddino.core.parallel import granted
from meddino.core.progress import track
from meddino.datasets.cases import EXCLUDE, Case, by_identity
from meddino.finetune.options import Benchmark, ConvertOptions
from meddino.volumes import reader

THREADS = 8
"""Labels that are read at the same time: each may take as much memory as an image."""
NAMED = 5
"""Cases, and reasons, that a message names."""
_UNKNOWN = re.compile(r"label value (\d+(?:, \d+)*)")


class Rejected(NamedTuple):
    """A case that is left out, and the file that caused it."""

    case: str
    path: str
    reason: str


def labelled(options: ConvertOptions, root: Path) -> list[Case]:
    """All labelled cases of the benchmark, also those that `exclude_cases` names."""
    layout = options.dataset.model_copy(update={"exclude_cases": ()})
    return [
        case
        for case in layout.cases(root)
        if case.label is not None and case.modality in options.benchmark.modalities
    ]


def check(options: ConvertOptions, root: Path, name: str, log: Path) -> list[Rejected]:
    """Read the labels of a benchmark and say which cases conversion would leave out for them.

    Args:
        options: the benchmark, and how its data set is laid out.
        root: the folder of the data set.
        name: the benchmark's key in the configuration.
        log: where each case that is left out is listed, with the file and the reason.

    Raises:
        MeddinoError: fewer cases than folds would be left.
    """
    excluded = options.dataset.exclude_cases
    cases = [case for case in labelled(options, root) if case.id not in excluded]
    with ThreadPoolExecutor(min(THREADS, granted())) as pool:
        problems = pool.map(lambda case: _problem(case, options.benchmark), cases)
        rejected = [p for p in track(problems, f"checking labels of {name}", len(cases)) if p]
    write_text(log, "".join(f"{p.case}: {p.path}: {p.reason}\n" for p in rejected))
    refuse_too_few(options, root, name, len(cases) - len(rejected), rejected)
    return rejected


def _problem(case: Case, benchmark: Benchmark) -> Rejected | None:
    assert case.label is not None, "only labelled cases are checked"
    if not case.image.exists():
        return Rejected(case.id, str(case.image), "does not exist, or is a link to nowhere")
    try:
        refuse_unknown(reader.label_values(case.label), benchmark)
    except reader.BadVolume as error:
        return Rejected(case.id, str(case.label), error.advised(EXCLUDE))
    return None


def refuse_unknown(values: Sequence[int], benchmark: Benchmark) -> None:
    """Refuse label values that are neither 0 nor in the benchmark's label map.

    Raises:
        BadVolume: names them.
    """
    unknown = sorted(set(values) - {0, *benchmark.values})
    if unknown and not benchmark.open:
        raise reader.BadVolume(
            f"label value {', '.join(map(str, unknown))} is not in the benchmark's label map",
            "add it to `labels` of this benchmark, or name a structure whose value is `rest`",
        )


def refuse_too_few(
    options: ConvertOptions, root: Path, name: str, usable: int, rejected: Sequence[Rejected]
) -> None:
    """Refuse a benchmark that has fewer usable cases than folds.

    Raises:
        MeddinoError: says why cases are left out, and what mends it.
    """
    folds, key = options.benchmark.folds, f"benchmarks.{name}"
    if usable >= folds:
        return
    total = len(labelled(options, root))
    if not total:
        raise MeddinoError(f"{key}: {_no_label(options, root)}")
    remedy = f"set {key}.folds to {usable}, or add cases" if usable > 1 else "it takes two or more"
    reasons = f"; {len(rejected)} are left out: {grouped(rejected)}" if rejected else ""
    raise MeddinoError(
        f"{key}: {usable} of {total} labelled cases can be used, too few for {folds} folds;"
        f" {remedy}{reasons}"
    )


def grouped(rejected: Sequence[Rejected]) -> str:
    """Reasons, the most frequent first, each with its cases; unknown label values are put together.

    Args:
        rejected: the cases that are left out.
    """
    cases: dict[str, list[str]] = defaultdict(list)
    values: dict[str, set[int]] = defaultdict(set)
    for problem in rejected:
        match = _UNKNOWN.match(problem.reason)
        reason = problem.reason[match.end() :] if match else problem.reason
        cases[reason].append(problem.case)
        values[reason] |= set(map(int, match[1].split(", "))) if match else set()
    reasons = sorted(cases, key=lambda reason: -len(cases[reason]))
    texts = [
        f"{_some(cases[r])}: {f'label value {_ranges(values[r])}' if values[r] else ''}{r}"
        for r in reasons[:NAMED]
    ]
    more = len(reasons) - NAMED
    return "; ".join([*texts, *([f"and {more} more reasons"] if more > 0 else [])])


def _ranges(values: Iterable[int]) -> str:
    """Numbers as people write them: 1-4, 6, 9-11."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(f"{run[0]}-{run[-1]}" if run[1:] else f"{run[0]}" for run in runs)


def _no_label(options: ConvertOptions, root: Path) -> str:
    """Why no case has both an image and a label."""
    layout, dataset = options.dataset, f"datasets.{options.benchmark.dataset}"
    labels = by_identity(layout, root, layout.labels)
    if not labels:
        patterns = " or ".join(layout.labels) or "none is given"
        return f"no label is found below {root} ({patterns}); mend `labels` of {dataset}"
    images = by_identity(layout, root, layout.images)
    if images.keys() & labels.keys():
        kinds = " and ".join(options.benchmark.modalities)
        return f"no labelled case is {kinds}; mend `modalities` of it, or `mr_cases` of {dataset}"
    return (
        f"no image has a label: there are images of {_some(sorted(images))}, and labels of"
        f" {_some(sorted(labels))}; let `case` of {dataset} match what an image and its label share"
    )


def _some(cases: Sequence[str]) -> str:
    named = ", ".join(cases[:NAMED]) + (", ..." if cases[NAMED:] else "")
    return f"{len(cases)} case{'s' if len(cases) > 1 else ''} ({named})"
