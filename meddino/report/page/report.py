"""The `report` verb: one self-contained HTML file with everything that a study found."""

import base64
import hashlib
import io
import math
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import vl_convert
import yaml
from PIL import Image

from meddino.core.errors import MeddinoError
from meddino.core.files import atomic, read_json, read_lines, sha256
from meddino.evaluate.scores import read_scores
from meddino.report.figures import charts, pictures
from meddino.report.figures.figures import chains
from meddino.report.figures.overlay import SUFFIX, encoded
from meddino.report.options import ReportOptions
from meddino.report.page import glance
from meddino.report.tables import tables

TEMPLATES = Path(__file__).with_name("templates")
SHOWN = {name: tables.METRICS[name] for name in ("DSC", "NSD", "HD95")}
METRICS = {
    name: (metric.column.format(protocol="paper"), 100.0 if metric.unit == "%" else 1.0)
    for name, metric in SHOWN.items()
}
"""What cases and structures are shown by: the column of the scores, and its factor."""
AXES = {name: f"{name} ({metric.unit})" for name, metric in SHOWN.items()}
CHARTED = ("pretraining", "probe", "finetuning_", "scores_", "overlap")
"""How the files of those figures begin that the page draws as charts, from the same numbers."""
COLUMNS = 4
"""Columns of the paper's that fit beside each other; of more, each metric is a table of its own."""
WIDEST = 1800
"""Pixels of a figure in the page; the file keeps all."""
FINE = 85
"""Quality of figures, whose lines and letters are to stay sharp."""
MEDIA = {".webp": "image/webp", ".png": "image/png"}


def run(
    options: ReportOptions,
    *,
    tables: list[Path],
    figures: list[Path],
    card: Path,
    scores: Path,
    overlays: list[Path],
    pretraining: list[Path],
    finetuning: list[Path],
    probes: list[Path],
    quarantine: list[Path],
    provenance: Path,
    output: Path,
) -> None:
    """Write the report; equal results and equal records give equal files.

    Args:
        options: title, notes, names, prices, and the configuration.
        tables: the tables' CSV files.
        figures: `figures.json` of several verbs, each beside its pictures.
        card: the data card, `card.json`, beside its own `figures.json`.
        scores: scores of all runs.
        overlays: `overlays/<benchmark>/index.json`, beside the pictures of cases.
        pretraining: `history.jsonl` of the stages, in order, beside their snapshots.
        finetuning: `finetune/<benchmark>/<method>/fold<k>/history.jsonl`.
        probes: results of `probe`, along the chain of stages.
        quarantine: reports of curation and of conversion: what was left out, and why.
        provenance: `provenance.json`, the records of all jobs before this one.
        output: `report.html`.

    Raises:
        MeddinoError: a file is missing or damaged.
    """
    data = _object(card, "datasets", "variants", "pairs", "overlap")
    made = _object(provenance, "summary", "without", "records")
    scored = _scored(scores)
    records = list(made["records"].values())
    rows = pd.concat(map(_rows, tables), ignore_index=True)
    counts = _counts(options, scored)
    drawn = {
        **_table_charts(options, rows),
        **_case_charts(options, scored),
        **_pretraining_charts(options, pretraining),
        **_finetuning_charts(options, finetuning),
        **_probe_charts(options, [_object(path, "variant", "scores") for path in probes]),
        **_overlap_chart(data),
    }
    reports = [_object(path, "quarantined") for path in quarantine]
    page = {
        "title": options.title,
        "notes": options.notes,
        "effort": glance.effort(records, options.prices),
        "hosts": glance.hosts(records),
        "stages": glance.stages(records, options.stages),
        "steps": glance.steps(made["summary"], data, counts),
        "headlines": glance.headlines(options, rows),
        "commands": glance.commands(records),
        "names": options,
        "counts": counts,
        "tables": [_table(options, part) for _, part in rows.groupby("table", sort=False)],
        "structures": _structures(options, scored),
        "figures": _figures([card.with_name("figures.json"), *figures]),
        "points": charts.POINTS,
        "charts": {key: chart._asdict() for key, chart in drawn.items()},
        "scores": {b: _scores(options, str(b), part) for b, part in _by_benchmark(scored)},
        "overlays": {path.parent.name: _overlays(path) for path in overlays},
        "card": data,
        "quarantined": _quarantined(reports),
        "remarks": _remarks(report for report in reports if "dataset" in report),
        "snapshots": [entry for path in pretraining for entry in _snapshots(options, path)],
        "provenance": made,
        "configuration": yaml.safe_dump(options.configuration, sort_keys=False, allow_unicode=True),
    }
    with atomic(output) as temporary:
        temporary.write_text(render(page), encoding="utf-8")


def render(page: Mapping[str, Any]) -> str:
    """The page as HTML, with its style and scripts, which alone may run in it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,  # names of cases come from strangers' files
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.globals["counted"] = glance.counted
    environment.filters |= {
        "duration": glance.duration,
        "signed": lambda value: f"{value:+.2f}".replace("-", "\N{MINUS SIGN}"),
        "base64": lambda text: base64.b64encode(text.encode()).decode("ascii"),
    }
    scripts = {
        "theme": _source("theme.js"),
        "library": _library(),
        "behaviour": _source("report.js"),
    }
    allowed = " ".join(f"'sha256-{_digest(script)}'" for script in scripts.values())
    return environment.get_template("report.html.j2").render(
        **page, style=_source("report.css"), scripts=scripts, allowed=allowed
    )


def _source(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


@cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed in one script."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


# ---- inputs ---------------------------------------------------------------------------------


def _object(path: Path, *keys: str) -> dict[str, Any]:
    """A JSON file that must hold certain keys."""
    found: dict[str, Any] = read_json(path)
    if not isinstance(found, dict) or not set(keys) <= found.keys():
        raise MeddinoError(f"{path} holds no {', '.join(keys)}; delete it and rerun")
    return found


def _scored(path: Path) -> pd.DataFrame:
    """The scores, with all that the page shows of them."""
    scores = read_scores([path])
    for column, _ in METRICS.values():
        if column not in scores:
            raise MeddinoError(f"{path} holds no {column}; run evaluate and scores again")
    return scores


def _rows(path: Path) -> pd.DataFrame:
    """The rows of a table's CSV file."""
    if not path.is_file() or not path.read_bytes().endswith(b"\n"):
        raise MeddinoError(f"{path} is missing or cut off; delete it and rerun")
    try:
        rows = pd.read_csv(path)
    except ValueError as error:
        raise MeddinoError(f"{path} is damaged ({error}); delete it and rerun") from error
    if not {"table", "row", "benchmark", "metric", "protocol", "ours", "paper"} <= {*rows.columns}:
        raise MeddinoError(f"{path} is no table of results; delete it and rerun")
    return rows


# ---- tables ---------------------------------------------------------------------------------


def _table(options: ReportOptions, rows: pd.DataFrame) -> dict[str, Any]:
    """One table, by protocol: columns, and lines of label, variant of CT-3M, and cells."""
    name = str(rows["table"].iloc[0])
    told = next((table for table in options.tables if table.name == name), None)
    shown = told.table.protocol if told else "paper"
    protocols = {p: _protocol(options, part) for p, part in rows.groupby("protocol", sort=False)}
    here = rows[rows["protocol"] == shown]
    return {
        "name": name,
        "title": told.table.title if told else name,
        "shown": protocols.pop(shown),
        "others": protocols,
        "footnote": tables.footnote(told, here) if told else "",
        "metrics": rows["metric"].drop_duplicates().tolist(),
        "benchmarks": [
            (key, options.benchmarks.get(key, key))
            for key in rows["benchmark"].drop_duplicates().tolist()
        ],
    }


def _protocol(options: ReportOptions, part: pd.DataFrame) -> list[dict[str, Any]]:
    """A table as blocks that fit the page: its groups of columns, and its lines."""
    if len(part[["metric", "benchmark"]].drop_duplicates()) > COLUMNS:
        return [_block(options, one) for _, one in part.groupby("metric", sort=False)]
    return [_block(options, part)]


def _block(options: ReportOptions, part: pd.DataFrame) -> dict[str, Any]:
    units = part.groupby("metric", sort=False)["unit"].first()
    pairs = part[["metric", "benchmark"]].drop_duplicates().values.tolist()
    lines = [
        {
            "label": label,
            "data": method["data"].iloc[0],
            "cells": _cells(method.set_index(["metric", "benchmark"]), part, pairs),
        }
        for label, method in part.groupby("row", sort=False)
    ]
    groups = [
        (f"{metric} ({unit})", [options.benchmarks.get(b, b) for m, b in pairs if m == metric])
        for metric, unit in units.items()
    ]
    return {"groups": groups, "lines": lines, "seen": bool((part["data"] != "none").any())}


def _cells(method: pd.DataFrame, part: pd.DataFrame, pairs: list[Any]) -> list[dict[str, Any]]:
    found = []
    for metric, benchmark in pairs:
        column = part[(part["metric"] == metric) & (part["benchmark"] == benchmark)]
        rank = tables.METRICS[metric].rank
        row = method.loc[(metric, benchmark)]
        cell = {key: _known(row[key]) for key in ("ours", "low", "high", "paper", "difference")}
        cell |= {"p": _known(row["p"]), "cases": int(row["cases"])}
        for key in ("ours", "paper"):
            best = column[key].map(rank).min()
            cell[f"best_{key}"] = rank(row[key]) == best  # never for NaN
        found.append(cell)
    return found


def _known(value: Any) -> float | None:
    return None if math.isnan(value) else float(value)


def _table_charts(options: ReportOptions, rows: pd.DataFrame) -> dict[str, charts.Chart]:
    """Each column of each table, by `table/<table>/<benchmark>/<metric>`."""
    if rows.empty:
        return {}
    shown = rows[rows["protocol"] == "paper"]
    made = {}
    for (table, benchmark, metric), part in shown.groupby(
        ["table", "benchmark", "metric"], sort=False
    ):
        lines = [
            {"row": row["row"], **{k: _known(row[k]) for k in ("ours", "low", "high", "paper")}}
            for row in part.to_dict("records")
        ]
        title = f"{metric} ({part['unit'].iloc[0]})"
        if any(line["ours"] is not None or line["paper"] is not None for line in lines):
            made[f"table/{table}/{benchmark}/{metric}"] = charts.against_paper(lines, title)
    return made


# ---- cases and structures -------------------------------------------------------------------


def _by_benchmark(scores: pd.DataFrame) -> Iterable[tuple[Any, pd.DataFrame]]:
    return scores.groupby("benchmark", sort=False)


def _counts(options: ReportOptions, scores: pd.DataFrame) -> dict[str, Any]:
    """What was finetuned and scored: models, methods, cases of each benchmark, and scores."""
    cases = scores.drop_duplicates(["benchmark", "case"]).groupby("benchmark", sort=False).size()
    return {
        "models": len(scores[["benchmark", "method", "fold"]].drop_duplicates()),
        "methods": _series(options, scores["method"]),
        "cases": {str(name): int(count) for name, count in cases.items()},
        "scores": len(scores),
    }


def _scores(options: ReportOptions, benchmark: str, scores: pd.DataFrame) -> dict[str, Any]:
    """A benchmark's cases for the page's charts, with names as printed."""
    places = {name: place for place, name in enumerate(_ordered(options, scores["method"]))}
    ordered = scores.assign(place=scores["method"].map(places))
    found = charts.case_scores(ordered.sort_values("place", kind="stable"), METRICS)
    labels = [options.methods.get(method, method) for method in found["methods"]]
    return {**found, "labels": labels, "label": options.benchmarks.get(benchmark, benchmark)}


def _ordered(options: ReportOptions, methods: Iterable[str]) -> list[str]:
    """Methods in the configuration's order; those that it does not name come last."""
    used = set(methods)
    return [name for name in options.order if name in used] + sorted(used - set(options.order))


def _series(options: ReportOptions, methods: Iterable[str]) -> list[str]:
    """Names of methods that ran, in order: each has the colour of its place in all charts."""
    return [options.methods.get(name, name) for name in _ordered(options, methods)]


def _case_charts(options: ReportOptions, scores: pd.DataFrame) -> dict[str, charts.Chart]:
    """Of each benchmark and metric, `cases/...` and `structures/...`."""
    series = _series(options, scores["method"])
    made = {}
    for benchmark, part in _by_benchmark(scores):
        here = _series(options, part["method"])
        for metric, (column, factor) in METRICS.items():
            key = f"{benchmark}/{metric}"
            made[f"cases/{key}"] = charts.cases(here, series, AXES[metric])
            means = part.assign(value=part[column] * factor).sort_values("label", kind="stable")
            means = means.groupby(["structure", "method"], sort=False)["value"].mean().reset_index()
            rows = [
                {
                    "structure": row["structure"],
                    "method": options.methods.get(row["method"], row["method"]),
                    "value": _known(round(row["value"], 2)),
                }
                for row in means.to_dict("records")
            ]
            better = "low" if metric == "HD95" else "high"
            made[f"structures/{key}"] = charts.structures(rows, here, AXES[metric], better)
    return made


def _structures(options: ReportOptions, scores: pd.DataFrame) -> list[dict[str, Any]]:
    """Mean of each structure, for every run; names as printed, None where nothing was counted."""
    columns = [column for column, _ in METRICS.values()]
    keys = ["benchmark", "structure", "method"]
    means = scores.groupby(keys, sort=False, as_index=False)[columns].mean()
    return [
        {
            "benchmark": options.benchmarks.get(row["benchmark"], row["benchmark"]),
            "structure": row["structure"],
            "method": options.methods.get(row["method"], row["method"]),
            "values": [_known(row[column] * factor) for column, factor in METRICS.values()],
        }
        for row in means.to_dict("records")
    ]


def _overlays(path: Path) -> dict[str, Any]:
    """Cases of a benchmark with their pictures, as the page holds them."""
    found = _object(path, "cases", "structures")

    def uri(name: str) -> str:
        return _uri(_bytes(path.parent / name, path), MEDIA[Path(name).suffix])

    for case in found["cases"]:
        case |= {key: uri(case[key]) for key in ("image", "reference")}
        case["methods"] = {method: uri(name) for method, name in case["methods"].items()}
    return found


# ---- training -------------------------------------------------------------------------------


def _pretraining_charts(options: ReportOptions, histories: list[Path]) -> dict[str, charts.Chart]:
    """By `pretraining/<stage>/<measure>`."""
    return {
        f"pretraining/{stage}/{key}": chart
        for path in histories
        for stage in [path.parent.name]
        for key, chart in charts.pretraining(
            options.stages.get(stage, stage), read_lines(path)
        ).items()
    }


def _finetuning_charts(options: ReportOptions, histories: list[Path]) -> dict[str, charts.Chart]:
    """By `finetuning/<benchmark>/<measure>`; of several folds the first is shown."""
    runs = pictures.by_benchmark(histories)
    series = _series(options, [method for part in runs.values() for method in part])
    return {
        f"finetuning/{benchmark}/{key}": chart
        for benchmark, part in runs.items()
        for key, chart in charts.finetuning(
            options.benchmarks.get(benchmark, benchmark),
            {options.methods.get(m, m): read_lines(path) for m, path in part.items()},
            series,
        ).items()
    }


def _probe_charts(options: ReportOptions, probes: list[dict[str, Any]]) -> dict[str, charts.Chart]:
    """By `probe/<variant>`: the chain of each variant of CT-3M."""
    made = {}
    for variant, scores in chains(probes).items():
        chain = [
            {
                "checkpoint": _checkpoint(options, score["name"]),
                **{k: round(100 * score[k]["balanced_accuracy"], 2) for k in ("linear", "knn")},
            }
            for score in scores
        ]
        made[f"probe/{variant}"] = charts.probes(chain, len(probes[0]["classes"]))
    return made


def _checkpoint(options: ReportOptions, name: str) -> str:
    """What was probed, `stage@iteration` or a name of weights, as printed."""
    stage, at, iteration = name.partition("@")
    label = options.stages.get(stage, stage)
    if at:
        return f"{label} at {int(iteration):,}"
    return "random initialisation" if name == "random" else label


def _overlap_chart(card: dict[str, Any]) -> dict[str, charts.Chart]:
    chart = charts.overlap(card["overlap"]["datasets"], card["overlap"]["counts"])
    return {} if chart is None else {"overlap": chart}


# ---- pictures -------------------------------------------------------------------------------


def _figures(paths: list[Path]) -> dict[str, list[dict[str, Any]]]:
    """Figures by section, each with its picture; what the page draws itself is left out."""
    sections: dict[str, list[dict[str, Any]]] = {}
    for path in paths:
        for entry in read_json(path):
            if not entry["file"].startswith(CHARTED):
                shown = _shrunk(_bytes(path.parent / entry["file"], path))
                names = [entry["file"], str(Path(entry["file"]).with_suffix(".pdf"))]
                files = [name for name in names if (path.parent / name).exists()]
                found = {**entry, **shown, "files": files}
                sections.setdefault(entry["section"], []).append(found)
    return sections


def _bytes(path: Path, marker: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise MeddinoError(f"{path} does not exist; delete {marker} and rerun") from error


def _shrunk(png: bytes) -> dict[str, Any]:
    """A figure as the page holds it: `uri`, `width`, `height`; in the smallest form.

    Raises:
        MeddinoError: it is no picture.
    """
    try:
        picture = Image.open(io.BytesIO(png)).convert("RGB")
    except OSError as error:
        raise MeddinoError(f"a figure is damaged ({error}); run `figures` again") from error
    whole = picture.width <= WIDEST
    if not whole:
        height = round(picture.height * WIDEST / picture.width)
        picture = picture.resize((WIDEST, height), Image.Resampling.LANCZOS)
    forms = {MEDIA[SUFFIX]: encoded(picture, FINE)}
    if whole:
        forms["image/png"] = png
    kind, content = min(forms.items(), key=lambda item: len(item[1]))
    return {"uri": _uri(content, kind), "width": picture.width, "height": picture.height}


def _uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


# ---- what was left out, and checkpoints -------------------------------------------------------


def _quarantined(reports: list[Any]) -> list[dict[str, str]]:
    return [
        {"where": report.get("dataset") or f"benchmark {report['benchmark']}", **entry}
        for report in reports
        for entry in report["quarantined"]
    ]


def _remarks(chunks: Iterable[Any]) -> list[dict[str, str]]:
    return [{"where": c["dataset"], **entry} for c in chunks for entry in c.get("remarks", [])]


def _snapshots(options: ReportOptions, history: Path) -> list[dict[str, Any]]:
    """Checkpoints that lie beside a stage's history, and what they say that they started from."""
    found = []
    for path in sorted(history.parent.glob("[0-9]*.pth")):
        origin = _meta(path)["origin"]
        found.append(
            {
                "stage": options.stages.get(history.parent.name, history.parent.name),
                "iteration": int(path.stem),
                "init": _origin(options, origin["init"]),
                "gram_teacher": _origin(options, origin["gram_teacher"]),
                "megabytes": path.stat().st_size / 1e6,
                "sha256": sha256(path),
            }
        )
    return found


def _meta(path: Path) -> dict[str, Any]:
    """What a checkpoint of a stage records of itself; its tensors stay on the disk."""
    import torch  # seconds, for a few words

    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        meta: dict[str, Any] = content["meta"]
    except Exception as error:  # torch raises nearly anything for a damaged file
        raise MeddinoError(
            f"{path} is no checkpoint of a stage ({error}); delete it and rerun"
        ) from error
    return meta


def _origin(options: ReportOptions, entry: dict[str, Any] | None) -> str:
    """A checkpoint that another started from, by stage, iteration and the start of its SHA-256."""
    if entry is None:
        return "none"
    stage = options.stages.get(entry["stage"], entry["stage"])
    where = f"{stage} at {entry['iteration']:,}" if stage else "published weights"
    return f"{where} ({entry['sha256'][:8]})"
