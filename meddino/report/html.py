"""The `report` verb: one self-contained HTML file with everything that a study found."""

import base64
import math
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from meddino.core.errors import MeddinoError
from meddino.core.files import atomic, read_json, sha256
from meddino.evaluate import merge
from meddino.report.options import ReportOptions


def run(
    options: ReportOptions,
    *,
    tables: list[Path],
    figures: Path,
    features: list[Path],
    card: Path,
    scores: Path,
    quarantine: list[Path],
    checkpoints: list[Path],
    provenance: Path,
    output: Path,
) -> None:
    """Write the report; equal results and equal records give equal files.

    Args:
        options: title and notes.
        tables: the tables' CSV files.
        figures: `figures.json`, beside the pictures.
        features: the same of dense features; none where nothing is pretrained.
        card: the data card, `card.json`, beside its own `figures.json`.
        scores: scores of all runs.
        quarantine: reports of curation and of conversion: what was left out, and why.
        checkpoints: `history.jsonl` of the stages, beside their snapshots.
        provenance: `provenance.json`, the records of all jobs before this one.
        output: `report.html`.

    Raises:
        MeddinoError: a file is missing or damaged.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # names of cases come from strangers' files
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    reports = [read_json(path) for path in quarantine]
    chunks = [report for report in reports if "dataset" in report]
    data = read_json(card)
    scored = merge.read([scores])
    text = environment.get_template("report.html.j2").render(
        style=Path(__file__).with_name("report.css").read_text(encoding="utf-8"),
        title=options.title,
        notes=options.notes,
        headline=_headline(data, scored),
        tables=[_table(_rows(path)) for path in tables],
        figures=_figures([card.with_name("figures.json"), *features, figures]),
        structures=_structures(scored),
        card=data,
        quarantined=_quarantined(reports),
        remarks=_remarks(chunks),
        snapshots=[entry for path in checkpoints for entry in _snapshots(path)],
        provenance=read_json(provenance),
    )
    with atomic(output) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _headline(card: dict[str, Any], scores: pd.DataFrame) -> list[tuple[str, str]]:
    runs = scores[["benchmark", "method", "fold"]].drop_duplicates()
    return [
        ("volumes curated", f"{sum(entry['volumes'] for entry in card['datasets']):,}"),
        ("slices", f"{sum(entry['slices'] for entry in card['datasets']):,}"),
        ("models finetuned", str(len(runs))),
        ("cases scored", f"{len(scores.drop_duplicates(['benchmark', 'case'])):,}"),
    ]


def _rows(path: Path) -> pd.DataFrame:
    """The rows of a table's CSV file."""
    if not path.is_file() or not path.read_bytes().endswith(b"\n"):
        raise MeddinoError(f"{path} is missing or cut off; delete it and rerun")
    return pd.read_csv(path)


def _table(rows: pd.DataFrame) -> dict[str, Any]:
    """One table, by protocol: heads, and lines of label, variant of CT-3M, and cells."""
    protocols = {}
    for protocol, part in rows.groupby("protocol", sort=False):
        columns = part[["metric", "benchmark"]].drop_duplicates().values.tolist()
        lines = []
        for label, method in part.groupby("row", sort=False):
            cells = method.set_index(["metric", "benchmark"])
            found = [_cell(cells.loc[tuple(column)]) for column in columns]
            lines.append((label, method["data"].iloc[0], found))
        units = part.groupby("metric")["unit"].first()
        heads = [f"{b} {m}" + (f" ({units[m]})" if units[m] != "%" else "") for m, b in columns]
        protocols[protocol] = {"heads": heads, "lines": lines}
    return {"name": rows["table"].iloc[0], "protocols": protocols}


def _cell(row: Any) -> dict[str, Any]:
    keys = ("ours", "low", "high", "paper", "difference", "p")
    number = {key: float(row[key]) for key in keys}
    known = {key: None if math.isnan(value) else value for key, value in number.items()}
    return {**known, "cases": int(row["cases"])}


def _figures(paths: list[Path]) -> dict[str, list[dict[str, str]]]:
    """Figures by section, each with its bytes."""
    sections: dict[str, list[dict[str, str]]] = {}
    for path in paths:
        for entry in read_json(path):
            data = base64.b64encode((path.parent / entry["file"]).read_bytes()).decode("ascii")
            sections.setdefault(entry["section"], []).append({**entry, "data": data})
    return sections


def _structures(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """Mean of each structure, for every run."""
    columns = ["dsc_paper", "nsd_paper", "hd95_mm"]
    keys = ["benchmark", "structure", "method"]
    means = scores.groupby(keys, sort=False, as_index=False)[columns].mean()
    return [
        {**row, "dsc_paper": 100 * row["dsc_paper"], "nsd_paper": 100 * row["nsd_paper"]}
        for row in map(_named, means.to_dict("records"))
    ]


def _named(row: Any) -> dict[str, Any]:
    return {str(key): value for key, value in row.items()}


def _quarantined(reports: list[Any]) -> list[dict[str, str]]:
    return [
        {"where": report.get("dataset") or f"benchmark {report['benchmark']}", **entry}
        for report in reports
        for entry in report["quarantined"]
    ]


def _remarks(chunks: list[Any]) -> list[dict[str, str]]:
    return [{"where": c["dataset"], **entry} for c in chunks for entry in c.get("remarks", [])]


def _snapshots(history: Path) -> list[dict[str, Any]]:
    """Checkpoints that lie beside a stage's history, and what they say that they started from."""
    found = []
    for path in sorted(history.parent.glob("[0-9]*.pth")):
        origin = _meta(path)["origin"]
        found.append(
            {
                "stage": history.parent.name,
                "iteration": int(path.stem),
                "init": _origin(origin["init"]),
                "gram_teacher": _origin(origin["gram_teacher"]),
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


def _origin(entry: dict[str, Any] | None) -> str:
    """A checkpoint that another started from, by stage, iteration and the start of its SHA-256."""
    if entry is None:
        return "none"
    where = f"{entry['stage']}@{entry['iteration']}" if entry["stage"] else "published weights"
    return f"{where} ({entry['sha256'][:8]})"
