"""A study's results in small, as the report takes them, with names from strangers' files."""

import json
from pathlib import Path
from typing import Any

import ct3m_data as data
import numpy as np
import pandas as pd
import SimpleITK as sitk
import torch

from meddino.core.files import write_json
from meddino.ct3m import duplicates, index
from meddino.ct3m.options import DuplicatesOptions, IndexOptions
from meddino.evaluate.failures import failures, lesions
from meddino.evaluate.failures.options import Failures, FailuresOptions, LesionsOptions
from meddino.report.cards import card, provenance
from meddino.report.figures import figures, overlays, worst_cases
from meddino.report.options import (
    CardOptions,
    FigureOptions,
    OverlayOptions,
    PlotOptions,
    ProvenanceOptions,
    ReportOptions,
    Table,
    TableOptions,
    WorstOptions,
)
from meddino.report.page import report as page

METHODS = ("nnunet", "meddinov3")
SCRIPT = "</script><script>alert(1)</script>"
HOSTILE = """c1 "quoted" 'too' $(id) `x` </script><img src=x onerror=alert(1)> \u2028 \u0416"""
"""A case's name as nobody should choose it; as a file's it lacks a slash."""
LESION = """tum'our "</script><b>&amp;"""
CASES = (HOSTILE.replace("/", ""), "c2")


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
        | dict.fromkeys(columns, np.nan if label == 2 and not place else 0.5 + 0.1 * place)
        for method in METHODS
        for place, case in enumerate(CASES)
        for label, structure in ((1, "liver"), (2, LESION))
    ]


RESULTS = ["ours", "low", "high", "difference", "contrast", "contrast_low", "contrast_high", "p"]
"""Columns of a table's lines that are empty where a method was not run."""


def table_lines() -> pd.DataFrame:
    return pd.DataFrame(
        {"table": "table2", "row": method, "method": method, "benchmark": "lits", "metric": "DSC"}
        | {"planned_px": "48 x 64"}
        | {"data": "paper" if method == "meddinov3" else "none"}
        | {"unit": "%", "protocol": protocol, "ours": 50.0 - 2 * (method == "nnunet"), "cases": 8}
        | {"low": 41.5, "high": 58.25, "tests": 1, "few": json.dumps({LESION: 1})}
        | dict.fromkeys(("contrast", "contrast_low", "contrast_high", "p"))
        | (
            {"contrast": -2.0, "contrast_low": -3.5, "contrast_high": -0.5}
            if method == "nnunet"
            else {}
        )
        | ({"p": 0.0004} if method == "nnunet" else {})
        | {"paper": 75.0 - (method == "nnunet") if protocol == "paper" else None}
        | {"difference": -25.0 - (method == "nnunet") if protocol == "paper" else None}
        for method in METHODS
        for protocol in ("paper", "area")
    )


def study(root: Path) -> dict[str, Any]:
    """Write what the earlier stages leave, in small; give the files by verb and flag."""
    ct3m = root / "ct3m"
    curated(root / "scans", ct3m)
    dataset = root / "nnunet/raw/Dataset704_lits/dataset.json"
    rng = np.random.default_rng(0)
    cases = {}
    for case in CASES:
        label = np.zeros((4, 20, 24), np.uint8)
        label[1:3, 4:12, 4:12] = 1
        label[2, 6:8, 6:8] = 2
        image = rng.normal(40, 30, label.shape).astype(np.int16)
        write_volume(dataset.parent / f"imagesTr/{case}_0000.nii.gz", image)
        write_volume(dataset.parent / f"labelsTr/{case}.nii.gz", label)
        for shift, method in enumerate(METHODS[::-1]):  # the first method is off by some pixels
            predicted = np.roll(label, 3 * shift, axis=2)
            write_volume(root / f"predictions/lits/{method}/fold0/{case}.nii.gz", predicted)
        cases[case] = {
            "images": [f"imagesTr/{case}_0000.nii.gz"],
            "label": f"labelsTr/{case}.nii.gz",
        }
    names = {"background": 0, "liver": 1, LESION: 2}
    write_json(dataset, {"labels": names, "dataset": cases})
    done = [root / f"predictions/lits/{method}/fold0/done.json" for method in METHODS]
    for path in done:
        write_json(path, {"cases": list(CASES), "fold": 0})
    steps = [{"iteration": i, "loss": 5 - i, "ibot": 3.0, "koleo": -0.2} for i in (1, 2, 3)]
    pretraining = [
        write_lines(root / "pretrain/stage1/history.jsonl", steps),
        write_lines(root / "pretrain/stage2/history.jsonl", []),
    ]
    init = {"stage": "natural", "iteration": 9, "sha256": "0123456789"}
    meta = {"origin": {"init": init, "gram_teacher": None}}
    torch.save({"meta": meta}, root / "pretrain/stage1/000003.pth")
    accuracies = {"random": [0.3], "stage1": [0.5, 0.6], "stage1_leakfree": [0.4, 0.5]}
    variants = dict(zip(accuracies, ("none", "paper", "leak-free"), strict=True))
    probes = [root / f"probe/{source}.json" for source in accuracies]
    for path in probes:
        scores = [
            {"name": f"{path.stem}@{number}"}
            | {kind: {"balanced_accuracy": value} for kind in ("knn", "linear")}
            for number, value in enumerate(accuracies[path.stem])
        ]
        patches = {"train": 2000, "val": 500}
        content = {"classes": ["background", "liver"], "patches": patches, "scores": scores}
        write_json(path, {"variant": variants[path.stem], **content})
    epochs = [{"epoch": 0, "train_loss": 1.0, "pseudo_dice": [0.5, None]}]
    finetuning = [
        write_lines(root / f"finetune/lits/{method}/fold0/history.jsonl", lines)
        for method, lines in zip(METHODS, (epochs, []), strict=True)
    ]
    pd.DataFrame(score_rows()).to_parquet(root / "scores.parquet")
    table_lines().to_csv(root / "table2.csv", index=False)
    counts = {"volumes": 5, "slices": 100}
    bad = {"case": SCRIPT, "path": "/data/x.nii.gz", "reason": "truncated; fetch it again"}
    chunk = {"dataset": "lits", "chunk": 0, **counts, "quarantined": [bad], "remarks": []}
    write_json(root / "0.json", chunk)
    entry = {"case": "c9", "path": "/l.nii.gz", "reason": "on another grid; mend it"}
    write_json(root / "quarantine.json", {"benchmark": "LiTS", "quarantined": [entry]})
    provenance.run(
        ProvenanceOptions(title="Study"),
        results=[root / "table2.csv"],
        output=root / "ro-crate-metadata.json",
    )
    return {
        "root": root,
        "card": {
            "reports": [ct3m / "shards/toy/0.json"],
            "index": ct3m / "index.32.parquet",
            "cards": [ct3m / "index.32.card.json", ct3m / "index.leak-free.32.card.json"],
            "duplicates": ct3m / "duplicates.parquet",
            "overlap": ct3m / "overlap.csv",
        },
        "figures": {
            "scores": root / "scores.parquet",
            "pretraining": pretraining,
            "finetuning": finetuning,
            "predictions": done,
            "datasets": [dataset],
            "probes": probes,
        },
        "overlays": {"dataset": dataset, "predictions": done, "scores": [root / "scores.parquet"]},
        "report": {
            "card": ct3m / "card/card.json",
            "tables": [root / "table2.csv"],
            "scores": root / "scores.parquet",
            "pretraining": pretraining,
            "finetuning": finetuning,
            "probes": probes,
            "quarantine": [root / "0.json", root / "quarantine.json"],
            "provenance": root / "provenance.json",
        },
    }


def curated(scans: Path, ct3m: Path) -> None:
    """Three volumes, one of them a mirrored copy of a validation case; and one that is none."""
    for name, seed in (("a", 1), ("b", 2), ("copy", 1)):
        array = data.body(seed)
        array[8:14, 8:14] += 300 * (name == "b")
        data.save(scans / f"{name}.nii.gz", array[::-1] if name == "copy" else array)
    (scans / "bad.nii.gz").write_bytes(b"junk")
    data.run(scans, ct3m / "shards/toy", sizes_px=(32,))
    reports, pairs = [ct3m / "shards/toy/0.json"], ct3m / "duplicates.parquet"
    duplicates.run(DuplicatesOptions(size_px=32), reports=reports, output=pairs)
    index.run(IndexOptions(size_px=32), reports=reports, output=ct3m / "index.32.parquet")
    split = ct3m / "Dataset001_toys/splits_final.json"
    write_json(split, [{"train": ["b"], "val": ["a"]}])
    index.run(
        IndexOptions(size_px=32, benchmarks={"toys": "toy"}),
        reports=reports,
        duplicates=pairs,
        splits=[split],
        output=ct3m / "index.leak-free.32.parquet",
    )


def look(**changes: Any) -> OverlayOptions:
    """Options of the pictures of cases."""
    values = {"size_px": 64, "window_hu": (40, 400), "colours": FigureOptions().colours}
    return OverlayOptions(**{**values, **changes})


def report_options(**changes: Any) -> ReportOptions:
    """Options of the report."""
    table = Table(
        title="Table 2: <all>",
        rows=METHODS,
        benchmarks=("lits",),
        intervals=True,
        compare_with="meddinov3",
    )
    labels = {"nnunet": "nnU-Net", "meddinov3": "MedDINOv3"}
    options = TableOptions(
        name="table2",
        table=table,
        method_labels=labels,
        method_data={"nnunet": "none", "meddinov3": "paper"},
        benchmark_labels={"lits": "LiTS"},
        tolerance_mm=1.0,
        paper_patch_px={"lits": 640},
    )
    values = {"title": "Study & more", "notes": ("Read <this> first.",), "tables": (options,)}
    values |= {
        "methods": labels,
        "order": METHODS,
        "benchmarks": {"lits": "LiTS"},
        "stages": {"stage1": "Stage 1"},
    }
    values |= {"configuration": {"title": "Study & more", "notes": [SCRIPT]}}
    return ReportOptions(**{**values, **changes})


def draw(study: dict[str, Any]) -> None:
    """Run what the report shows pictures of, and add its files to those of the report."""
    root = study["root"]
    options = CardOptions(figures=FigureOptions(dpi=60), sizes_px=(32,))
    card.run(options, **study["card"], output=study["report"]["card"])
    figures.run(
        PlotOptions(look=FigureOptions(dpi=60)),
        **study["figures"],
        output=root / "figures/figures.json",
    )
    overlays.run(look(), **study["overlays"], output=root / "overlays/lits/index.json")
    study["report"]["figures"] = [root / "figures/figures.json"]
    study["report"]["overlays"] = [root / "overlays/lits/index.json"]


def failing(study: dict[str, Any]) -> dict[str, Any]:
    """Look at where the runs of a small study fail; give the files that the report shows of it."""
    root, files = study["root"], study["overlays"]
    scores = pd.read_parquet(root / "scores.parquet")
    listed, softmax = [], []
    for method, done in zip(METHODS, files["predictions"], strict=True):
        names = {"benchmark": "lits", "method": method, "fold": 0}
        options = LesionsOptions(**names, structures=(LESION,), iou=0.1)
        listed.append(root / f"lesions/lits/{method}/fold0.parquet")
        lesions.run(options, predictions=done, dataset=files["dataset"], output=listed[-1])
        softmax.append(root / f"confidence/lits/{method}/fold0.parquet")
        softmax[-1].parent.mkdir(parents=True)
        softmax_rows(scores[scores["method"] == method]).to_parquet(softmax[-1])
    section = Failures(lesions={"lits": (LESION,)}, sources={"lits": {"<b>ours": "c2"}})
    failures.run(
        FailuresOptions(failures=section),
        scores=[root / "scores.parquet"],
        datasets=[files["dataset"]],
        lesions=listed,
        confidence=softmax,
        metadata=[],
        output=root / "failures/failures.json",
    )
    appearance = FigureOptions()
    worst_cases.run(
        WorstOptions(
            worst=1, size_px=64, window_hu=appearance.window_hu, colours=appearance.colours
        ),
        dataset=files["dataset"],
        predictions=files["predictions"],
        scores=files["scores"],
        output=root / "failures/lits/worst.json",
    )
    return {
        "beyond": [root / "failures/failures.json", root / "failures/lits/worst.json"],
    }


def softmax_rows(scores: pd.DataFrame) -> pd.DataFrame:
    """Rows of `confidence` for these scores."""
    return pd.DataFrame(
        {"case": row["case"], "label": row["label"], "structure": row["structure"]}
        | {"count": [10, 10], "correct": [2, 8], "confidence": [3.0, 9.0], "mass": 10.0}
        | {"predicted_mass": 8.0 + row["label"], "predicted_voxels": 11, "changed_voxels": 0}
        for row in scores.to_dict("records")
    )


def report(study: dict[str, Any], name: str = "report.html", **changes: Any) -> Path:
    """Write the report with other files, and give its path."""
    output = study["root"] / name
    page.run(report_options(), **{**study["report"], **changes}, output=output)
    return output
