"""Figures and report: whole, self-contained, deterministic, and safe against odd names."""

import json
import re
from pathlib import Path
from typing import Any

import ct3m_data as data
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch

from meddino.core.files import read_json, write_json
from meddino.ct3m import duplicates, index
from meddino.ct3m.options import DuplicatesOptions, IndexOptions
from meddino.report import card, figures, html, provenance
from meddino.report.options import CardOptions, FigureOptions, ProvenanceOptions, ReportOptions

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
        | {"data": "paper" if method == "meddinov3" else "none"}
        | {"unit": "%", "protocol": protocol, "ours": 50.0, "cases": 2}
        | {"low": 41.5, "high": 58.25, "p": 0.0004 if method == "nnunet" else None}
        | {"paper": 75.0 if protocol == "paper" else None}
        | {"difference": -25.0 if protocol == "paper" else None}
        for method in METHODS
        for protocol in ("paper", "area")
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the earlier stages leave, in small."""
    root = tmp_path_factory.mktemp("study")
    ct3m = root / "ct3m"
    curated(root / "scans", ct3m)
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
        "report": {
            "card": ct3m / "card/card.json",
            "tables": [root / "table2.csv"],
            "scores": root / "scores.parquet",
            "quarantine": [root / "0.json", root / "quarantine.json"],
            "checkpoints": pretraining,
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


@pytest.fixture(scope="module")
def drawn(study: dict[str, Any]) -> Path:
    card_options = CardOptions(figures=FigureOptions(dpi=60), sizes_px=(32,))
    card.run(card_options, **study["card"], output=study["report"]["card"])
    output = study["root"] / "figures/figures.json"
    figures.run(FigureOptions(dpi=60), **study["figures"], output=output)
    return output


def test_every_figure_exists_and_is_described(drawn: Path) -> None:
    sections = set()
    for path in (drawn, drawn.parent.parent / "ct3m/card/figures.json"):
        for entry in read_json(path):
            sections.add(entry["section"])
            assert (path.parent / entry["file"]).read_bytes().startswith(b"\x89PNG")
            assert entry["title"] and entry["caption"]
    assert sections == {"Curation", "Pretraining", "Finetuning", "Evaluation"}


def test_the_probes_caption_says_what_guessing_gives(
    study: dict[str, Any], drawn: Path, tmp_path: Path
) -> None:
    (caption,) = [e["caption"] for e in read_json(drawn) if e["file"] == "probe.png"]
    assert "2 classes (background, liver)" in caption and "50 %" in caption
    files = {**study["figures"], "probes": []}
    figures.run(FigureOptions(dpi=60), **files, output=tmp_path / "figures.json")
    assert all(e["file"] != "probe.png" for e in read_json(tmp_path / "figures.json"))


def test_figures_do_not_change_from_run_to_run(study: dict[str, Any], drawn: Path) -> None:
    again = study["root"] / "again/figures.json"
    figures.run(FigureOptions(dpi=60), **study["figures"], output=again)
    for entry in read_json(drawn):
        name = entry["file"]
        assert (again.parent / name).read_bytes() == (drawn.parent / name).read_bytes(), name


def report(study: dict[str, Any], drawn: Path, name: str = "report.html") -> str:
    options = ReportOptions(title="Study & more", notes=("Read <this> first.",))
    output = study["root"] / name
    html.run(options, **study["report"], figures=drawn, features=[], output=output)
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


def test_missing_runs_intervals_and_tests_are_in_the_report(
    study: dict[str, Any], drawn: Path
) -> None:
    text = report(study, drawn)
    assert "41.50 to 58.25" in text and "p &lt; 0.001" in text and "not run" not in text
    lines = table_lines()
    lines.loc[lines["method"] == "nnunet", ["ours", "low", "high", "p", "difference"]] = np.nan
    lines.loc[lines["method"] == "nnunet", "cases"] = 0
    lines.assign(metric="HD95", unit="mm").to_csv(study["root"] / "missing.csv", index=False)
    changed = study | {"report": study["report"] | {"tables": [study["root"] / "missing.csv"]}}
    text = report(changed, drawn, "missing.html")
    assert "<td>not run" in text and "lits HD95 (mm)" in text and ">nan" not in text
    assert "paper 75.00" in text, "the paper's value stays"


def test_the_card_counts_against_the_paper_and_says_what_each_variant_lacks(
    study: dict[str, Any], drawn: Path
) -> None:
    found = read_json(study["report"]["card"])
    (toy,) = found["datasets"]
    assert (toy["volumes"], toy["slices"], toy["quarantined"]) == (3, 30, 1)
    assert toy["bytes"] == (study["root"] / "ct3m/shards/toy/0.32.parquet").stat().st_size
    paper, leak_free = found["variants"]
    assert (paper["variant"], paper["slices"], paper["removed"]) == ("paper", 30, [])
    assert (leak_free["variant"], leak_free["slices"]) == ("leak-free", 10)
    assert [entry["because"] for entry in leak_free["removed"]] == [
        "toys validates on it",
        "copy of toy/a",
    ]
    assert found["overlap"] == {"datasets": ["toy"], "counts": [[3, 2]]}
    markdown = study["report"]["card"].with_name("card.md").read_text()
    text = report(study, drawn)
    for shown in (markdown, text):
        assert ("3,868,833" in shown and "cannot be read" in shown) or shown is text
        assert "every copy of them" in shown
    assert "copy of toy/a" in text
    assert '<td>meddinov3</td><td class="text word">paper</td>' in text
    assert '<td>nnunet</td><td class="text word">-</td>' in text


def test_names_from_files_are_escaped(study: dict[str, Any], drawn: Path) -> None:
    text = report(study, drawn)
    assert SCRIPT not in text and "&lt;script&gt;" in text
    assert "Study &amp; more" in text and "Read &lt;this&gt; first." in text


def test_equal_studies_give_equal_reports(study: dict[str, Any], drawn: Path) -> None:
    assert report(study, drawn, "a.html") == report(study, drawn, "b.html")
