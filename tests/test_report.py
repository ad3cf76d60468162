"""Figures and report: whole, self-contained, deterministic, and safe against odd names."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch

from meddino.core.files import read_json, write_json
from meddino.pretrain import leaves
from meddino.pretrain.options import LeavesOptions
from meddino.report import figures, html
from meddino.report.options import FigureOptions, ReportOptions

METHODS = ("nnunet", "meddinov3")
SCRIPT = "<script>alert(1)</script>"


def write_volume(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path))


def write_lines(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def score_rows() -> list[dict[str, Any]]:
    columns = ("dsc_paper", "nsd_paper", "dsc_area", "nsd_area")
    return [
        {"benchmark": "lits", "method": method, "fold": 0, "case": case, "label": label}
        | {"structure": structure, "hd95_mm": 3.0, "reference_ml": 1.0, "predicted_ml": 1.0}
        | dict.fromkeys(columns, np.nan if structure == "tumour" and case == "c1" else 0.5)
        for method in METHODS
        for case in ("c1", "c2")
        for label, structure in ((1, "liver"), (2, "tumour"))
    ]


def table_lines() -> pd.DataFrame:
    return pd.DataFrame(
        {"table": "table2", "row": method, "method": method, "benchmark": "lits", "metric": "DSC"}
        | {"protocol": protocol, "ours": 50.0, "cases": 2}
        | {"paper": 75.0 if protocol == "paper" else None}
        | {"difference": -25.0 if protocol == "paper" else None}
        for method in METHODS
        for protocol in ("paper", "area")
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the earlier stages leave, in small."""
    root = tmp_path_factory.mktemp("study")
    leaves.run(LeavesOptions(count=40, size_px=32), output=root / "ct3m/index.32.parquet")
    dataset = root / "nnunet/raw/Dataset704_lits/dataset.json"
    rng = np.random.default_rng(0)
    cases = {}
    for case in ("c1", "c2"):
        label = np.zeros((4, 20, 24), np.uint8)
        label[1:3, 4:12, 4:12] = 1
        label[2, 6:8, 6:8] = 2
        image = rng.normal(40, 30, label.shape).astype(np.int16)
        write_volume(dataset.parent / f"imagesTr/{case}_0000.nii.gz", image)
        write_volume(dataset.parent / f"labelsTr/{case}.nii.gz", label)
        for method in METHODS:
            write_volume(root / f"predictions/lits/{method}/fold0/{case}.nii.gz", label)
        cases[case] = {
            "images": [f"imagesTr/{case}_0000.nii.gz"],
            "label": f"labelsTr/{case}.nii.gz",
        }
    names = {"background": 0, "liver": 1, "tumour": 2}
    write_json(dataset, {"labels": names, "dataset": cases})
    done = [root / f"predictions/lits/{method}/fold0/done.json" for method in METHODS]
    for path in done:
        write_json(path, {"cases": ["c1", "c2"], "fold": 0})
    steps = [{"iteration": i, "loss": 5 - i, "ibot": 3.0, "koleo": -0.2} for i in (1, 2, 3)]
    pretraining = [
        write_lines(root / "pretrain/stage1/history.jsonl", steps),
        write_lines(root / "pretrain/stage2/history.jsonl", []),
    ]
    torch.save({}, root / "pretrain/stage1/000003.pth")
    epochs = [{"epoch": 0, "train_loss": 1.0, "pseudo_dice": [0.5, None]}]
    finetuning = [
        write_lines(root / f"finetune/lits/{method}/fold0/history.jsonl", lines)
        for method, lines in zip(METHODS, (epochs, []), strict=True)
    ]
    pd.DataFrame(score_rows()).to_parquet(root / "scores.parquet")
    table_lines().to_csv(root / "table2.csv", index=False)
    counts = {"volumes": 5, "slices": 100, "air_slices": 3, "other_modality": 0}
    bad = {"case": SCRIPT, "path": "/data/x.nii.gz", "reason": "truncated; fetch it again"}
    chunk = {"dataset": "lits", "chunk": 0, **counts, "quarantined": [bad], "remarks": []}
    write_json(root / "0.json", chunk)
    entry = {"case": "c9", "path": "/l.nii.gz", "reason": "on another grid; mend it"}
    write_json(root / "quarantine.json", {"benchmark": "LiTS", "quarantined": [entry]})
    return {
        "root": root,
        "figures": {
            "scores": root / "scores.parquet",
            "index": root / "ct3m/index.32.parquet",
            "pretraining": pretraining,
            "finetuning": finetuning,
            "predictions": done,
            "datasets": [dataset],
        },
        "report": {
            "tables": [root / "table2.csv"],
            "scores": root / "scores.parquet",
            "quarantine": [root / "0.json", root / "quarantine.json"],
            "checkpoints": pretraining,
        },
    }


@pytest.fixture(scope="module")
def drawn(study: dict[str, Any]) -> Path:
    output = study["root"] / "figures/figures.json"
    figures.run(FigureOptions(dpi=60), **study["figures"], output=output)
    return output


def test_every_figure_exists_and_is_described(drawn: Path) -> None:
    entries = read_json(drawn)
    sections = {entry["section"] for entry in entries}
    assert sections == {"Curation", "Pretraining", "Finetuning", "Evaluation"}
    for entry in entries:
        picture = (drawn.parent / entry["file"]).read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert entry["title"] and entry["caption"]


def test_figures_do_not_change_from_run_to_run(study: dict[str, Any], drawn: Path) -> None:
    again = study["root"] / "again/figures.json"
    figures.run(FigureOptions(dpi=60), **study["figures"], output=again)
    for entry in read_json(drawn):
        name = entry["file"]
        assert (again.parent / name).read_bytes() == (drawn.parent / name).read_bytes(), name


def report(study: dict[str, Any], drawn: Path, name: str = "report.html") -> str:
    options = ReportOptions(title="Study & more", notes=("Read <this> first.",))
    output = study["root"] / name
    html.run(options, **study["report"], figures=drawn, output=output)
    return output.read_text()


def test_the_report_is_one_file_that_asks_nothing_of_the_network(
    study: dict[str, Any], drawn: Path
) -> None:
    text = report(study, drawn)
    sources = re.findall(r"""(?:src|href)\s*=\s*["']([^"']+)""", text)
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert "url(" not in text and "@import" not in text
    anchors = {source[1:] for source in sources if source.startswith("#")}
    assert anchors <= set(re.findall(r'id="([^"]+)"', text))


def test_the_report_says_what_was_left_out_and_why(study: dict[str, Any], drawn: Path) -> None:
    text = report(study, drawn)
    assert "2 volumes could not be trusted" in text
    assert "truncated; fetch it again" in text and "on another grid; mend it" in text
    assert "benchmark LiTS" in text
    assert "-25.00" in text and "paper 75.00" in text


def test_names_from_files_are_escaped(study: dict[str, Any], drawn: Path) -> None:
    text = report(study, drawn)
    assert SCRIPT not in text and "&lt;script&gt;" in text
    assert "Study &amp; more" in text and "Read &lt;this&gt; first." in text


def test_equal_studies_give_equal_reports(study: dict[str, Any], drawn: Path) -> None:
    assert report(study, drawn, "a.html") == report(study, drawn, "b.html")
