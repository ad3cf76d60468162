"""The `report` verb: one self-contained HTML file with all results of a study."""

from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from meddino.core.files import write_text
from meddino.evaluate.scores import over_trainings
from meddino.report.options import ReportOptions
from meddino.report.page import inputs
from meddino.report.page.charts.chart import Chart, key
from meddino.report.page.render import render
from meddino.report.page.sections import (
    cases,
    checkpoints,
    curation,
    glance,
    opening,
    pictures,
    results,
)
from meddino.report.page.sections.beyond import Beyond
from meddino.report.page.sections.training import (
    finetuning_charts,
    pretraining_charts,
    probe_charts,
)

DATA_CARD = ("datasets", "variants", "pairs", "overlap")
"""Keys of the data card that the page shows."""


def run(
    options: ReportOptions,
    *,
    tables: list[Path],
    figures: list[Path],
    card: Path | None = None,
    scores: Path,
    overlays: list[Path],
    pretraining: list[Path],
    finetuning: list[Path],
    probes: list[Path],
    quarantine: list[Path],
    provenance: Path,
    beyond: tuple[Path, ...] = (),
    output: Path,
) -> None:
    """Write the report; equal results and equal records give equal files.

    Args:
        options: title, notes, names, prices, and the configuration.
        tables: the tables' CSV files.
        figures: `figures.json` of several verbs, each beside its pictures.
        card: the data card beside its `figures.json`; none where nothing is curated.
        scores: scores of all runs.
        overlays: `overlays/<benchmark>/index.json`, beside the pictures of cases.
        pretraining: `history.jsonl` of the stages, in order, beside their snapshots.
        finetuning: `finetune/<benchmark>/<method>/fold<k>/history.jsonl`.
        probes: results of `probe`, along the chain of stages.
        quarantine: reports of curation and of conversion: what was left out, and why.
        provenance: `provenance.json`, the records of all jobs.
        beyond: files of the sections that a study asks for beyond the paper (`Beyond`).
        output: `report.html`.

    Raises:
        MeddinoError: a file is missing or damaged.
    """
    sections = Beyond.of(beyond)
    data = card if card is None else inputs.read_object(card, *DATA_CARD)
    lines = pd.concat(map(inputs.read_table, tables), ignore_index=True)
    all_scores = inputs.read_all_scores(scores)
    charts = _result_charts(options, lines, over_trainings(all_scores), data)
    charts |= _training_charts(options, pretraining, finetuning, probes) | sections.charts(options)
    records = inputs.read_object(provenance, "summary", "without", "records")
    reports = [inputs.read_object(path, "quarantined") for path in quarantine]
    files = [*tables, *beyond, *figures, *filter(None, [card]), scores, *overlays]
    files += [*quarantine, *pretraining, *finetuning, *probes]
    page = {
        **_study(options),
        **_jobs(options, records),
        **_results(options, lines, all_scores),
        **_curation(data, reports),
        **_drawn([*curation.figures(card), *sections.figures, *figures], charts),
        **_cases(options, overlays),
        **sections.contents(options),
        **_verified(records, files),
        **_state(options, lines, data, reports, pretraining),
    }
    page["steps"] = glance.steps(records["summary"], data, page["counts"], page["has_paper"])
    write_text(output, render(page))


def _state(
    options: ReportOptions,
    lines: pd.DataFrame,
    card: dict[str, Any] | None,
    reports: list[dict[str, Any]],
    pretraining: list[Path],
) -> dict[str, Any]:
    """Badges of what was checked, and the checkpoints that are there."""
    return {
        "badges": opening.checks(options, lines, card, reports, pretraining),
        "snapshots": checkpoints.snapshots(options, pretraining),
    }


def _study(options: ReportOptions) -> dict[str, Any]:
    """What the configuration says of the study."""
    return {
        "title": options.title,
        "notes": options.notes,
        "names": options,
        "configuration": yaml.safe_dump(options.configuration, sort_keys=False, allow_unicode=True),
    }


def _jobs(options: ReportOptions, provenance: dict[str, Any]) -> dict[str, Any]:
    """What ran, on which machines and for how long, from the records of all jobs."""
    records = list(provenance["records"].values())
    return {
        "provenance": provenance,
        "effort": glance.effort(records, options.prices),
        "hosts": glance.hosts(records),
        "stages": glance.stages(records, options.stages),
        "commands": glance.commands(records),
    }


def _results(options: ReportOptions, lines: pd.DataFrame, scores: pd.DataFrame) -> dict[str, Any]:
    """Tables, and scores of cases and structures."""
    return {
        "headlines": glance.headlines(options, lines),
        "summary": opening.summary(options, lines),
        "has_paper": bool(lines["paper"].notna().any()),
        "tables": [
            results.table_section(options, part) for _, part in lines.groupby("table", sort=False)
        ],
        "counts": cases.counts(options, scores),
        "structures": cases.structure_rows(options, over_trainings(scores)),
        "scores": cases.scores_by_benchmark(options, over_trainings(scores)),
    }


def _curation(card: dict[str, Any] | None, reports: list[dict[str, Any]]) -> dict[str, Any]:
    """The slices pretrained on, and what was left out of them and of the benchmarks."""
    return {
        "card": card,
        "quarantined": curation.quarantined(reports),
        "remarks": curation.remarks(reports),
    }


def _verified(provenance: dict[str, Any], files: list[Path]) -> dict[str, Any]:
    """Whether the files of the page are those that were recorded, and which are not."""
    badge, other_files = opening.verified(provenance, files)
    return {"verified": badge, "other_files": other_files}


def _cases(options: ReportOptions, overlays: list[Path]) -> dict[str, Any]:
    """Pictures of cases, and the one of the first screen."""
    return {
        "overlays": {path.parent.name: cases.case_pictures(path) for path in overlays},
        "segmentation": opening.segmentation(options, overlays),
    }


def _result_charts(
    options: ReportOptions,
    lines: pd.DataFrame,
    scores: pd.DataFrame,
    card: dict[str, Any] | None,
) -> dict[str, Chart]:
    """Charts of tables, of cases and of copies."""
    return {
        **results.table_charts(lines),
        **cases.case_charts(options, scores),
        **(curation.overlap_chart(card) if card else {}),
    }


def _training_charts(
    options: ReportOptions, pretraining: list[Path], finetuning: list[Path], probes: list[Path]
) -> dict[str, Chart]:
    """Charts of pretraining, of finetuning, and of the probes of the chain."""
    frozen = [inputs.read_object(path, "variant", "scores") for path in probes]
    return {
        **pretraining_charts(options, pretraining),
        **finetuning_charts(options, finetuning),
        **probe_charts(options, frozen),
    }


def _drawn(figures: list[Path], charts: dict[str, Chart]) -> dict[str, Any]:
    """Charts, how each of their series is drawn, and the figures that are pictures."""
    most = max((len(chart.series) for chart in charts.values()), default=0)
    return {
        "charts": {name: chart._asdict() for name, chart in charts.items()},
        "keys": [key(number)._asdict() for number in range(most)],
        "figures": pictures.pictures(figures, charted=False),
        "charted": pictures.pictures(figures, charted=True),
    }
