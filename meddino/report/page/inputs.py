"""The files that the report is made of, each checked as it is read."""

import base64
from pathlib import Path
from typing import Any

import pandas as pd

from meddino.core.errors import MeddinoError
from meddino.core.files import read_json
from meddino.evaluate.scores import read_scores
from meddino.report.tables.cells import NUMBERS
from meddino.report.tables.metrics import METRICS

MEDIA = {".webp": "image/webp", ".png": "image/png"}
"""Media types of pictures, by the endings of their files."""

SHOWN = {name: METRICS[name] for name in ("DSC", "NSD", "HD95")}
SCORE_COLUMNS = {
    name: (metric.column.format(protocol="paper"), 100.0 if metric.unit == "%" else 1.0)
    for name, metric in SHOWN.items()
}
"""The metrics of cases and structures: the column of the scores, and its factor."""
AXES = {name: f"{name} ({metric.unit})" for name, metric in SHOWN.items()}
"""Names of these metrics with their units."""

TABLE_COLUMNS = {
    *("table", "row", "method", "data", "benchmark", "metric", "unit", "protocol", "cases"),
    *("tests", "few", "planned_px"),
    *NUMBERS,
}


def read_object(path: Path, *keys: str) -> dict[str, Any]:
    """A JSON file that must hold certain keys.

    Raises:
        MeddinoError: it is missing, damaged, or lacks one of them.
    """
    content: dict[str, Any] = read_json(path)
    if not isinstance(content, dict) or not set(keys) <= content.keys():
        raise MeddinoError(f"{path} holds no {', '.join(keys)}; delete it and rerun")
    return content


def read_all_scores(path: Path) -> pd.DataFrame:
    """The scores of all runs.

    Raises:
        MeddinoError: the file is damaged, or lacks a metric that the page shows.
    """
    scores = read_scores([path])
    for column, _ in SCORE_COLUMNS.values():
        if column not in scores:
            raise MeddinoError(f"{path} holds no {column}; run evaluate and scores again")
    return scores


def read_table(path: Path) -> pd.DataFrame:
    """The lines of a table's CSV file.

    Raises:
        MeddinoError: the file is missing, cut off, or no table.
    """
    lines = read_lines_of_table(path)
    if not set(lines.columns) >= TABLE_COLUMNS:
        raise MeddinoError(f"{path} is no table of results; delete it and rerun")
    return lines


def read_lines_of_table(path: Path) -> pd.DataFrame:
    """The lines of a CSV file with any columns.

    Raises:
        MeddinoError: the file is missing, cut off, or damaged.
    """
    # A table's last line ends in a line break, so that a file without one has been cut off.
    if not path.is_file() or not path.read_bytes().endswith(b"\n"):
        raise MeddinoError(f"{path} is missing or cut off; delete it and rerun")
    try:
        return pd.read_csv(path)
    except ValueError as error:
        raise MeddinoError(f"{path} is damaged ({error}); delete it and rerun") from error


def read_picture(path: Path, index: Path) -> bytes:
    """The bytes of a picture.

    Raises:
        MeddinoError: it is missing, although `index` names it.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise MeddinoError(f"{path} does not exist; delete {index} and rerun") from error


def data_uri(content: bytes, media_type: str) -> str:
    """A file's bytes as an address that holds them."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
