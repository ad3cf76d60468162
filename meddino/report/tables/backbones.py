"""The `backbones` verb: pretrained ViTs beside each other: scores, size, licences and sources.

The DSC and its interval are those of the study's table. Parameters and operations are counted on
the very network that `finetune` trained, rebuilt from its description.
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from meddino.core.errors import MeddinoError
from meddino.core.files import read_json, write_json, write_text
from meddino.finetune import model
from meddino.models.size import size_of
from meddino.report.tables.backbones_picture import draw
from meddino.report.tables.backbones_text import markdown, notes
from meddino.report.tables.cells import number
from meddino.report.tables.options import BackbonesOptions, Compared

PROBES = {"linear": "probe_linear", "knn": "probe_knn"}
"""Classifiers of the probe, and their fields of a row."""


def run(
    options: BackbonesOptions,
    *,
    table: Path,
    models: list[Path],
    probes: list[Path],
    output: Path,
) -> None:
    """Put backbones beside each other.

    Args:
        options: what is compared, its names, and where its weights are from.
        table: CSV of the study's table, from which DSC is taken.
        models: `finetune/<benchmark>/<method>/fold<k>/model.json`, one of each run.
        probes: results of `probe` for the frozen weights; none where they are not probed.
        output: a JSON of `rows`, one for each method and benchmark: `dsc` with `low` and `high`
            (%, 95 % interval), `parameters` and `backbone_parameters`, `gflop` and
            `backbone_gflop` of one input of `input_px`, `probe_linear` and `probe_knn` (balanced
            accuracy, %), `start`, `licences` and `homes`; null where there is nothing. Beside it
            appear the same as CSV, as Markdown for people, and a figure.

    Raises:
        MeddinoError: a file is damaged, or lacks a method.
    """
    scores = pd.read_csv(table)
    frozen = {score["name"]: score for path in probes for score in read_json(path)["scores"]}
    descriptions = {path.parts[-4:-2]: path for path in models}
    rows = [
        {
            **_described(compared),
            "benchmark": benchmark,
            **_size(descriptions, benchmark, compared.method),
            **_dsc(scores, options.protocol, benchmark, compared.method),
            **_probed(frozen, compared.probed),
        }
        for benchmark in options.benchmarks
        for compared in options.methods
    ]
    _write(options, rows, output)


def _write(options: BackbonesOptions, rows: list[dict[str, Any]], output: Path) -> None:
    """All files; the JSON, by which the workflow knows that they are there, comes last."""
    pictures = list(draw(options, rows, output.parent))
    write_json(output.with_name("figures.json"), [figure._asdict() for figure in pictures])
    flat = pd.DataFrame(rows).assign(
        **{key: [json.dumps(row[key]) for row in rows] for key in ("input_px", "homes")},
        licences=["; ".join(row["licences"]) for row in rows],
    )
    write_text(output.with_suffix(".csv"), flat.to_csv(index=False, float_format="%.6g"))
    write_text(output.with_suffix(".md"), markdown(options, rows))
    content = {"title": options.title, "benchmarks": options.benchmarks, "rows": rows}
    write_json(output, {**content, "notes": notes(options, rows)})


def _described(compared: Compared) -> dict[str, Any]:
    weights = compared.weights
    return {
        "method": compared.method,
        "label": compared.label,
        "backbone": compared.backbone,
        "start": compared.start,
        "licences": [entry.licence for entry in weights if entry.licence],
        "homes": [entry.home for entry in weights if entry.home],
    }


def _size(descriptions: dict[tuple[str, ...], Path], benchmark: str, method: str) -> dict[str, Any]:
    """The input of a trained network (height and width, px), its parameters and operations."""
    path = descriptions.get((benchmark, method))
    if path is None:
        raise MeddinoError(f"no model of {method} on {benchmark} among --models; run finetune")
    rebuilt = model.rebuild(path)
    side = [int(length) for length in rebuilt.configuration.patch_size]
    size = size_of(rebuilt.network, tuple(side))
    return {"input_px": side, **{key: number(value) for key, value in size._asdict().items()}}


def _dsc(scores: pd.DataFrame, protocol: str, benchmark: str, method: str) -> dict[str, Any]:
    """DSC of a row of the table, with its interval (%), and the number of cases."""
    keys = {"method": method, "benchmark": benchmark, "metric": "DSC", "protocol": protocol}
    lines = scores
    for key, value in keys.items():
        lines = lines[lines[key] == value]
    if len(lines) != 1:
        raise MeddinoError(f"the table has no DSC of {method} on {benchmark}; run tables again")
    line = lines.iloc[0]
    values = {"dsc": "ours", "low": "low", "high": "high"}
    return {
        **{key: number(line[column]) for key, column in values.items()},
        "cases": int(line["cases"]),
    }


def _probed(frozen: dict[str, Any], name: str | None) -> dict[str, float | None]:
    """Balanced accuracy of the probes (%)."""
    if name is None:
        return dict.fromkeys(PROBES.values())
    if name not in frozen:
        raise MeddinoError(f"no probe of {name} among --probes; run probe")
    return {field: 100 * frozen[name][key]["balanced_accuracy"] for key, field in PROBES.items()}
