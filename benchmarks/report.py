"""Weight and load time of a report as large as the full study's, and of a page of pictures.

    python benchmarks/report.py [--folder DIR] [--repeats N]

Synthetic results of the paper's study (four benchmarks with the validation cases that one fold of
each has, the methods of Tables 1 to 3, histories of full length) go through the verbs `overlays`
and `report` as they are. The peer holds the same in the plain way: each chart a PNG by matplotlib,
each method's prediction of each case a PNG of its own, all in one page. Both are opened in the same
headless Chromium, alternately, and the best time of each is given: from the start to the `load`
event, and until all is drawn (the charts of ours; the peer's pictures, decoded). Prints Markdown.
"""

import argparse
import base64
import io
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import SimpleITK as sitk
import torch
from phantoms import scanned
from PIL import Image
from selenium import webdriver

from meddino.core.files import read_json, write_json, write_lines
from meddino.report.cards.card import PAPER_SLICES
from meddino.report.figures import curves, layers, overlays, strips
from meddino.report.page import report
from meddino.report.page.charts.training import MEASURES
from meddino.report.pixels import grey
from meddino.report.style import bare, figure
from meddino.report.tables import tables
from meddino.study import jobs, targets
from meddino.study.model import Study, load

CASES = {"amos22": 72, "btcv": 6, "kits23": 98, "lits": 26}
"""Validation cases of one fold, an 80/20 split of docs/datasets.md's labelled cases."""
SIDE_PX, SLICES = 512, 12
STAGE_ITERATIONS = {"stage1": 100_000, "stage2": 10_000, "stage3": 10_000}


class Times(NamedTuple):
    """Of a page in the browser."""

    load_s: float
    drawn_s: float


def main() -> None:
    """Make both pages, open them, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="keep the pages there")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = arguments.folder or Path(scratch)
        study = load([Path(__file__).parents[1] / "config.yaml"])
        files = write_results(study, root)
        started = time.monotonic()
        report.run(jobs.report.report_options(study), **files, output=root / "report.html")
        took = time.monotonic() - started
        indices = {b: read_json(root / f"overlays/{b}/index.json") for b in CASES}
        charts = peer_charts(files)
        pages = {
            "report": root / "report.html",
            "report, no cases": root / "light.html",
            "pictures": root / "pictures.html",
            "pictures, no cases": root / "charts.html",
        }
        report.run(
            jobs.report.report_options(study),
            **{**files, "overlays": []},
            output=pages["report, no cases"],
        )
        write_peer(pages["pictures, no cases"], files, charts, [])
        write_peer(pages["pictures"], files, charts, composites(root, indices))
        times = measured(list(pages.values()), arguments.repeats)
    cases = sum(len(index["cases"]) for index in indices.values())
    print(
        f"{cases} cases of {sum(CASES.values())}, {len(targets.runs(study))} runs;"
        f" written in {took:.0f} s"
    )
    compare(pages, times)


def compare(pages: dict[str, Path], times: dict[Path, Times]) -> None:
    """Print the table; ratios are the peer's over ours."""
    print("| page | MB | loaded (s) | all drawn (s) |\n|---|---:|---:|---:|")
    numbers = {n: (SIZES[p] / 1e6, *times[p]) for n, p in pages.items()}
    for name, (size, loaded, drawn) in numbers.items():
        print(f"| {name} | {size:.2f} | {loaded:.2f} | {drawn:.2f} |")
    for suffix in ("", ", no cases"):
        ours, peer = numbers[f"report{suffix}"], numbers[f"pictures{suffix}"]
        ratios = " | ".join(f"{theirs / own:.2f}" for own, theirs in zip(ours, peer, strict=True))
        print(f"| ratio{suffix} | {ratios} |")


# ---- a study's results ------------------------------------------------------------------------


def write_results(study: Study, root: Path) -> dict[str, Any]:
    """Write everything that the report reads; give the files by flag."""
    rng = np.random.default_rng(0)
    scores = scored(study, rng)
    scores.to_parquet(root / "scores.parquet")
    csv = []
    for name in study.tables:
        csv.append(root / f"tables/{name}.csv")
        tables.run(
            jobs.report.tables_options(study, name),
            scores=[root / "scores.parquet"],
            output=csv[-1],
        )
    pretraining = [
        write(root / f"pretrain/{stage}/history.jsonl", stage_lines(count, rng))
        for stage, count in STAGE_ITERATIONS.items()
    ]
    meta = {"origin": {"init": None, "gram_teacher": None}}
    for path in pretraining:
        torch.save({"meta": meta}, path.with_name("010000.pth"))
    finetuning = [
        write(
            root / f"finetune/{run.benchmark}/{run.method}/fold0/history.jsonl",
            [epoch(n, rng) for n in range(1000)],
        )
        for run in targets.runs(study)
    ]
    drawn = [overlaid(study, benchmark, root, scores, rng) for benchmark in CASES]
    files = {"scores": scores, "pretraining": pretraining, "finetuning": finetuning}
    return {
        "tables": csv,
        "figures": [pictures(study, root / "figures", rng), curves_of(study, files, root)],
        "card": card(study, root / "card", rng),
        "scores": root / "scores.parquet",
        "overlays": drawn,
        "pretraining": pretraining,
        "finetuning": finetuning,
        "probes": [],
        "quarantine": [quarantine(root / "0.json")],
        "provenance": provenance(root / "provenance.json", len(targets.runs(study))),
    }


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    write_lines(path, lines)
    return path


def scored(study: Study, rng: np.random.Generator) -> pd.DataFrame:
    """Scores of all runs: methods and structures differ, cases more so."""
    rows = []
    for run in targets.runs(study):
        for place, structure in enumerate(study.benchmarks[run.benchmark].labels):
            for number in range(CASES[run.benchmark]):
                dsc = float(np.clip(0.9 - 0.02 * place - rng.gamma(1.2, 0.06), 0, 1))
                where = {"case": f"{run.benchmark}_{number:04d}", "label": place + 1}
                values = {
                    f"{m}_{p}": dsc - 0.1 * (m == "nsd")
                    for m in ("dsc", "nsd")
                    for p in ("paper", "area")
                }
                volumes = {"reference_ml": 9.0, "predicted_ml": 9.0, "volume_difference_ml": 0.0}
                rows.append(
                    {
                        **run._asdict(),
                        **where,
                        "structure": structure,
                        "hd95_mm": 50 * (1 - dsc),
                        **values,
                        **volumes,
                    }
                )
    return pd.DataFrame(rows)


def stage_lines(iterations: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    keys = [key for _, names in MEASURES.values() for key in names]
    steps = range(20, iterations + 1, 20)
    noise = rng.normal(size=(len(steps), len(keys)))
    return [
        {"iteration": step, **{k: 3 + v for k, v in zip(keys, line, strict=True)}}
        for step, line in zip(steps, noise.tolist(), strict=True)
    ]


def epoch(number: int, rng: np.random.Generator) -> dict[str, Any]:
    dice = rng.uniform(0.5, 0.9, 3).tolist()
    loss = -0.8 + float(rng.normal(0, 0.02))
    rest = {"lr": [1e-4], "train_loss": loss, "val_loss": loss, "seconds": 60.0}
    return {"epoch": number, "pseudo_dice": dice, **rest}


def overlaid(
    study: Study, benchmark: str, root: Path, scores: pd.DataFrame, rng: np.random.Generator
) -> Path:
    """Cases with predictions on the disk, and their pictures by `overlays`."""
    labels = study.benchmarks[benchmark].labels
    dataset = root / f"raw/Dataset001_{benchmark}/dataset.json"
    methods = [run.method for run in targets.runs(study) if run.benchmark == benchmark]
    names = sorted(scores[scores["benchmark"] == benchmark]["case"].unique())
    done = [root / f"predictions/{benchmark}/{m}/fold0/done.json" for m in methods]
    files = {}
    bodies = [scanned(SIDE_PX, SLICES, rng) for _ in range(4)]
    for number, case in enumerate(names):
        body = bodies[number % len(bodies)]
        noisy = (body.image + rng.normal(0, 10, body.image.shape)).astype(np.int16)
        reference = (body.truth % (len(labels) + 1)).astype(np.uint8)
        files[case] = {"images": [f"imagesTr/{case}.nii.gz"], "label": f"labelsTr/{case}.nii.gz"}
        volume(dataset.parent / files[case]["images"][0], noisy)
        volume(dataset.parent / files[case]["label"], reference)
        for place, path in enumerate(done):
            volume(path.with_name(f"{case}.nii.gz"), np.roll(reference, 3 * place + 2, axis=2))
    described = {name: place + 1 for place, name in enumerate(labels)}
    write_json(dataset, {"labels": {"background": 0, **described}, "dataset": files})
    for path in done:
        write_json(path, {"cases": names, "fold": 0})
    part = root / f"scores.{benchmark}.parquet"
    scores[scores["benchmark"] == benchmark].to_parquet(part)
    output = root / f"overlays/{benchmark}/index.json"
    overlays.run(
        jobs.report.overlays_options(study),
        dataset=dataset,
        predictions=done,
        scores=[part],
        output=output,
    )
    return output


def volume(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(
        sitk.GetImageFromArray(values), str(path), useCompression=True, compressionLevel=1
    )


def pictures(study: Study, folder: Path, rng: np.random.Generator) -> Path:
    """Panels of predictions and of features, as many as `figures` and `feature_figures` draw."""
    slices = [scanned(SIDE_PX, 4, rng).image[2] for _ in range(4)]
    entries = []
    sizes = [("predictions_" + b, "Evaluation", 6, 8) for b in CASES]
    sizes += [(f"features_{n}", "Features", 3, 5) for n in range(3)]
    for name, section, rows, columns in sizes:
        with figure(study.figures, folder / f"{name}.png", rows, columns, (1.7, 1.8)) as axes:
            for axis in axes.flat:
                axis.imshow(grey(slices[rng.integers(4)], (40, 400)), cmap="gray")
                bare(axis)
        entry = {"file": f"{name}.png", "section": section, "title": name, "caption": "Made up."}
        entries.append(entry)
    write_json(folder / "figures.json", entries)
    return folder / "figures.json"


def curves_of(study: Study, files: dict[str, Any], root: Path) -> Path:
    """The charts as pictures, by the code of the verb `figures`."""
    folder = root / "pictures"
    look = jobs.report.figures_options(study)
    runs = [root / run.benchmark / run.method / "fold0/done.json" for run in targets.runs(study)]
    entries = [
        *curves.pretraining_curves(look, files["pretraining"], folder / "pretraining.png"),
        *curves.finetuning_curves(look, files["finetuning"], folder),
        *strips.structure_scores(look, files["scores"], runs, folder),
    ]
    write_json(folder / "figures.json", [entry._asdict() for entry in entries])
    return folder / "figures.json"


def card(study: Study, folder: Path, rng: np.random.Generator) -> Path:
    """A data card of all datasets, with a contact sheet."""
    names = list(study.ct3m.datasets)
    slices = [scanned(256, 4, rng).image[2] for _ in range(4)]
    with figure(study.figures, folder / "slices.png", len(names), 8, (1.15, 1.2)) as axes:
        for axis in axes.flat:
            axis.imshow(grey(slices[rng.integers(4)], (40, 400)), cmap="gray")
            bare(axis)
    sheet = {"file": "slices.png", "section": "Curation", "title": "Slices", "caption": "Made up."}
    write_json(folder / "figures.json", [sheet])
    counts = {"volumes": 800, "slices": 200_000, "air_slices": 9, "other_modality": 0}
    copies = (rng.random((len(names), len(names))) < 0.2) * 30
    variant = {"variant": "paper", "meaning": "all", "volumes": 14_000, "slices": PAPER_SLICES}
    variant |= {"dedupe": "off", "repeated": 0, "removed": [], "without_slices": []}
    content = {
        "datasets": [{"dataset": n, **counts, "quarantined": 1, "bytes": 10**9} for n in names],
        "paper_slices": PAPER_SLICES,
        "variants": [variant],
        "pairs": {"exact": 300},
        "overlap": {"datasets": names, "counts": np.c_[np.full(len(names), 800), copies].tolist()},
    }
    write_json(folder / "card.json", content)
    return folder / "card.json"


def quarantine(path: Path) -> Path:
    entry = {"path": "/data/lits/volume.nii.gz", "reason": "the file is cut off; fetch it again"}
    left_out = [{"case": f"case{n}", **entry} for n in range(300)]
    write_json(path, {"dataset": "lits", "quarantined": left_out, "remarks": left_out_remarks()})
    return path


def left_out_remarks() -> list[dict[str, str]]:
    return [{"case": f"case{n}", "remark": "spacing mended"} for n in range(300)]


def provenance(path: Path, runs: int) -> Path:
    """Records of as many jobs as the full study has, of the verbs that trained."""
    host = {"name": "node1", "cpus": 64, "gpus": ["H100"], "system": "Linux"}
    took = {"wall_s": 3600.0, "cpu_s": 7200.0, "cpu_energy_j": None, "peak_memory_bytes": 10**9}
    when = {"started": "2026-01-01T00:00:00.000+00:00", "ended": "2026-01-02T00:00:00.000+00:00"}
    file = {"path": "results/x", "sha256": "0" * 64, "bytes": 1}
    record = {"verb": "slices", "options": {"a": 1}, "inputs": {"raw": [file]}, "outputs": [file]}
    record |= {"host": host, **took, **when, "versions": {"torch": "2"}, "git": None}
    records = {f"r{n}": record for n in range(860 + runs)}
    for stage, iterations in STAGE_ITERATIONS.items():
        options = {"name": stage, "stage": {"iterations": iterations, "batch_size": 512}}
        records[stage] = {**record, "verb": "pretrain", "options": options}
    verb = {"verb": "slices", "jobs": len(records), "files": 1, "bytes": 1, **took}
    summary = {"results": len(records), "without": 0, "commits": {"0" * 40: len(records)}}
    summary |= {"hosts": {"node1": 1}, "gpus": {"H100": 1}, "versions": {"torch": ["2"]}}
    write_json(path, {"summary": {**summary, "verbs": [verb]}, "without": [], "records": records})
    return path


# ---- the peer ---------------------------------------------------------------------------------


def peer_charts(files: dict[str, Any]) -> list[bytes]:
    """All figures, as they lie on the disk."""
    paths = [path.parent / e["file"] for path in files["figures"] for e in read_json(path)]
    paths.append(files["card"].with_name("slices.png"))
    return [path.read_bytes() for path in paths]


def composites(root: Path, indices: dict[str, Any]) -> Iterator[bytes]:
    """Each slice's image, and it under the labels of reference and methods, as PNGs."""
    for benchmark, index in indices.items():
        folder = root / f"overlays/{benchmark}"
        for case in index["cases"]:
            width, height = case["size_px"]
            names = (case["reference"], *case["methods"].values())
            image, *labels = (Image.open(folder / name) for name in (case["image"], *names))
            colours = [entry["colour"] for entry in index["structures"]]
            for row in range(len(case["shown"])):
                box = (0, row * height, width, (row + 1) * height)
                yield png(image.crop(box))
                for picture in labels:
                    parts = image.crop(box), picture.crop(box)
                    yield png(layers.overlaid(*parts, colours, max(width, height)))


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def write_peer(path: Path, files: dict[str, Any], charts: list[bytes], cases: Any) -> None:
    """One page with the tables as they are and all pictures."""
    with path.open("w", encoding="utf-8") as page:
        page.write("<!doctype html><meta charset=utf-8><title>peer</title>")
        for table in files["tables"]:
            page.write(pd.read_csv(table).to_html())
        for content in (*charts, *cases):
            encoded = base64.b64encode(content).decode("ascii")
            page.write(f'<img src="data:image/png;base64,{encoded}">')


# ---- the browser --------------------------------------------------------------------------------

SIZES: dict[Path, int] = {}
DRAWN = """
const done = arguments[0];
const now = () => performance.now() / 1000;
const loaded = () => performance.getEntriesByType("navigation")[0].loadEventEnd / 1000;
const wait = () => {
  const root = document.documentElement;
  if (document.getElementById("charts")) {
    root.dataset.drawn && loaded() ? done([loaded(), now()]) : setTimeout(wait, 5);
  } else if (document.readyState === "complete" && loaded()) {
    Promise.all([...document.images].map((i) => i.decode())).then(() => done([loaded(), now()]));
  } else setTimeout(wait, 5);
};
wait();
"""


def measured(pages: list[Path], repeats: int) -> dict[Path, Times]:
    """Best times of each page, opened in turn, in a new browser each time."""
    SIZES.update({page: page.stat().st_size for page in pages})
    all_times: dict[Path, list[Times]] = {page: [] for page in pages}
    for _ in range(repeats):
        for page in pages:
            all_times[page].append(opened(page))
    return {page: Times(*map(min, zip(*times, strict=True))) for page, times in all_times.items()}


def opened(page: Path) -> Times:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("chrome") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with webdriver.Chrome(options, service) as driver:
        driver.set_script_timeout(300)
        driver.get(page.as_uri())
        return Times(*driver.execute_async_script(DRAWN))


if __name__ == "__main__":
    main()
