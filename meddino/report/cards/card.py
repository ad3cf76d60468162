"""The `card` verb: the data card of CT-3M, its volumes and slices in numbers and figures."""

import html
import os
from collections import Counter
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import yaml

from meddino.core.errors import MeddinoError
from meddino.core.files import read_json, write_json, write_text
from meddino.core.parquet import read_frame
from meddino.ct3m import codec, shards
from meddino.ct3m.index import COUNTED, quarantined
from meddino.ct3m.slices import HU_BIN, HU_BINS, HU_LOWEST
from meddino.report import corpus
from meddino.report.options import CardOptions, FigureOptions
from meddino.report.pixels import grey
from meddino.report.style import MUTED, Figure, bare, figure

PAPER_SLICES = 3_868_833
"""Slices of CT-3M (3.2)."""
NAMED = 5
"""Images that are named of those that no pattern finds."""
COLUMNS = 8
"""Slices of each dataset that are shown."""
VARIANTS = {
    "paper": "everything: nothing is removed for a benchmark's sake",
    "leak-free": "without the benchmarks' validation cases and every copy of them",
}


def run(
    options: CardOptions,
    *,
    reports: list[Path],
    index: Path,
    cards: list[Path],
    duplicates: Path,
    overlap: Path,
    output: Path,
    fetched: tuple[Path, ...] = (),
) -> None:
    """Write the data card.

    Args:
        options: look of the figures, and sizes of the slices.
        reports: reports of the stage `slices`; the shards lie beside them.
        index: index of the slices of one size, as in the paper.
        cards: `index.<size>.card.json` and those of the other variants that are used.
        duplicates: pairs of volumes that are copies.
        overlap: the same as a matrix of datasets, CSV.
        output: `card.json`; beside it appear `card.md`, for people, and for the report
            `figures.json` with its pictures; and README.md in the folder of all shards.
        fetched: manifests of datasets in folders of yours, which name images that no pattern finds.
    """
    folder = output.parent
    chunks = [(read_json(path), path) for path in reports]
    matrix = _matrix(overlap)
    card = {
        "datasets": _datasets(chunks, options.sizes_px),
        "corpus": options.corpus,
        "paper_slices": PAPER_SLICES if options.corpus == corpus.PAPER else None,
        "variants": [_variant(options, read_json(path)) for path in cards],
        "pairs": Counter(read_frame(duplicates, ["kind"])["kind"].tolist()),
        "overlap": {"datasets": matrix.index.tolist(), "counts": matrix.values.tolist()},
        "quarantined": quarantined([report for report, _ in chunks]),
        "unmatched": {m["dataset"]: m["unmatched"] for m in map(read_json, fetched)},
        "remarks": remarks_by_kind([report for report, _ in chunks]),
    }
    look = options.figures
    entries = [
        contact_sheet(look, index, folder / "slices.png"),
        histograms(look, index, [report for report, _ in chunks], folder / "histograms.png"),
        overlap_matrix(look, matrix, folder / "overlap.png"),
    ]
    write_json(folder / "figures.json", [entry._asdict() for entry in entries])
    write_text(folder / "card.md", _markdown(card, entries))
    describe_shards(Path(os.path.commonpath([path.parent.parent for path in reports])), options)
    write_json(output, card)


def describe_shards(folder: Path, options: CardOptions) -> None:
    """Write README.md for the folder that holds each dataset's folder of shards.

    Its head names the files of each size, so that Hugging Face `datasets` loads them without code.
    """
    configs = [
        {"config_name": f"{size}px", "data_files": f"*/*.{size}.parquet"}
        for size in options.sizes_px
    ]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    text = environment.get_template("shards.md.j2").render(
        front=yaml.safe_dump({"configs": configs}, sort_keys=False),
        sizes=options.sizes_px,
        recipe=codec.RECIPE,
    )
    write_text(folder / "README.md", text)


def _matrix(overlap: Path) -> pd.DataFrame:
    """Volumes of data sets, and copies between them: a row and a column for each."""
    try:
        matrix = pd.read_csv(overlap, index_col="dataset").astype(int)
    except ValueError as error:
        raise MeddinoError(f"{overlap} is damaged ({error}); delete it and rerun") from error
    if ["volumes", *matrix.index] != matrix.columns.tolist():
        raise MeddinoError(f"{overlap} is cut off; delete it and rerun")
    return matrix


def _datasets(chunks: list[tuple[Any, Path]], sizes_px: tuple[int, ...]) -> list[dict[str, Any]]:
    """Counts and disk use of every dataset, by name."""
    totals: dict[str, Counter[str]] = {}
    for report, path in chunks:
        counts = {key: report[key] for key in COUNTED}
        counts["quarantined"] = len(report["quarantined"])
        files = [shards.beside(path, size) for size in sizes_px]
        counts["bytes"] = sum(file.stat().st_size for file in files)
        totals.setdefault(report["dataset"], Counter()).update(counts)
    return [{"dataset": name, **counts} for name, counts in sorted(totals.items())]


def remarks_by_kind(reports: list[Any]) -> list[dict[str, Any]]:
    """What the reader mended or doubts, by kind: the words of a remark before its colon."""
    volumes = {
        (report["dataset"], entry["remark"].partition(":")[0], entry["case"])
        for report in reports
        for entry in report["remarks"]
    }
    counts = Counter((dataset, kind) for dataset, kind, _ in volumes)
    return [
        {"dataset": dataset, "remark": kind, "volumes": count}
        for (dataset, kind), count in sorted(counts.items())
    ]


def _variant(options: CardOptions, card: dict[str, Any]) -> dict[str, Any]:
    """One variant's counts, and what was removed from it."""
    removal = card.get("leak_free")
    name = "paper" if removal is None else "leak-free"
    name = card.get("variant", {}).get("name", name)
    return {
        "variant": name,
        "meaning": {**VARIANTS, **options.meanings}[name],
        "volumes": card["indexed_volumes"],
        "slices": card["indexed_slices"],
        "dedupe": card["dedupe"],
        "repeated": card["slices_left_out_as_repeated"],
        **(removal or {"removed": [], "without_slices": [], "slices_removed": 0}),
    }


# ---- figures --------------------------------------------------------------------------------


def contact_sheet(look: FigureOptions, index: Path, path: Path) -> Figure:
    """Slices drawn at random from each dataset, a row for each, from the feet up."""
    columns = ["dataset", "case", "slice", "shard", "group", "row"]
    table = read_frame(index, columns).astype({"dataset": str})
    shuffled = table.sample(frac=1, random_state=0).groupby("dataset", sort=True).head(COLUMNS)
    names = sorted(table["dataset"].unique())
    with figure(look, path, len(names), COLUMNS, (1.15, 1.2)) as axes:
        for axis in axes.flat:
            bare(axis)
        for line, name in zip(axes, names, strict=True):
            picked = shuffled[shuffled["dataset"] == name].sort_values(["slice", "case"])
            line[0].set_title(name, fontsize=7, color=MUTED, pad=2, loc="left")
            for axis, (_, row) in zip(line, picked.iterrows(), strict=False):
                shard = index.parent / str(row["shard"])
                pixels = shards.read_slice(shard, int(row["group"]), int(row["row"]))
                axis.imshow(grey(pixels, look.window_hu), cmap="gray", vmin=0, vmax=1)
    caption = (
        f"Slices of each data set at random, window {look.window_hu[0]:g}/{look.window_hu[1]:g} HU."
        f" {len(table)} slices in all."
    )
    return Figure(path.name, "Curation", "What the ViT learns from", caption)


def histograms(look: FigureOptions, index: Path, chunks: list[Any], path: Path) -> Figure:
    """Spacings of the volumes, and HU of the stored pixels."""
    columns = ["dataset", "case", "spacing_mm_x", "spacing_mm_z"]
    volumes = read_frame(index, columns).drop_duplicates(columns[:2])
    with figure(look, path, 1, 3, (3.3, 2.6)) as axes:
        for axis, column, title in (
            (axes[0, 0], "spacing_mm_x", "spacing in plane (mm)"),
            (axes[0, 1], "spacing_mm_z", "spacing of slices (mm)"),
        ):
            axis.hist(volumes[column], bins=30, color=look.colours[0])
            axis.set_title(title)
        axes[0, 0].set_ylabel("volumes")
        edges = HU_LOWEST + HU_BIN * np.arange(HU_BINS + 1)
        for name in sorted({chunk["dataset"] for chunk in chunks}):
            counts = np.sum([c["hu_histogram"] for c in chunks if c["dataset"] == name], axis=0)
            if counts.sum():
                axes[0, 2].stairs(100 * counts / counts.sum(), edges, label=name, lw=0.9)
        axes[0, 2].set_title("pixels (HU)")
        axes[0, 2].set_ylabel(f"% per {HU_BIN} HU")
        axes[0, 2].set_yscale("log")
        axes[0, 2].yaxis.set_major_formatter("{x:g}")  # the default writes mathematics
        axes[0, 2].legend(fontsize=5, ncols=2)
    caption = (
        f"Spacing of {len(volumes)} volumes as acquired, and values of all stored pixels by data"
        " set; the outermost bins hold what lies beyond."
    )
    return Figure(path.name, "Curation", "Spacing and HU", caption)


def overlap_matrix(look: FigureOptions, matrix: pd.DataFrame, path: Path) -> Figure:
    """How many volumes of each dataset have a copy in each other one.

    Args:
        look: colours and resolution.
        matrix: rows are datasets, columns `volumes` and the datasets.
        path: where it goes.
    """
    names, counts = matrix.index.tolist(), matrix.drop(columns="volumes").to_numpy()
    share = counts / np.maximum(matrix["volumes"].to_numpy(), 1)[:, None]
    side = max(3.0, 0.42 * len(names) + 1.4)
    with figure(look, path, 1, 1, (side, side * 0.9)) as axes:
        axis = axes[0, 0]
        axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.argwhere(counts > 0):
            dark = share[row, column] > 0.5
            axis.text(
                column,
                row,
                counts[row, column],
                ha="center",
                va="center",
                fontsize=6,
                color="white" if dark else "black",
            )
        axis.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        labels = [f"{name} ({total})" for name, total in matrix["volumes"].items()]
        axis.set_yticks(range(len(names)), labels, fontsize=7)
        axis.grid(False)
    caption = (
        "Volumes of the row's data set (how many there are) that have a copy in the column's, in"
        " whole or in part; on the diagonal, within it. Copies are found by what slices show,"
        " however it is turned, cropped, resampled or stored. Shade: share of the row's volumes."
    )
    return Figure(path.name, "Curation", "Copies between data sets", caption)


# ---- text -----------------------------------------------------------------------------------


def _markdown(card: dict[str, Any], figures: list[Figure]) -> str:
    datasets = card["datasets"]
    total = {key: sum(d[key] for d in datasets) for key in datasets[0] if key != "dataset"}
    heads = ["volumes", "slices", "slices of air", "not CT", "left out", "MB"]
    keys = [*COUNTED, "quarantined"]
    paper = f"; the paper has {card['paper_slices']:,}" if card["paper_slices"] else ""
    lines = [f"# {card['corpus']}", "", f"{total['slices']:,} slices{paper}.", ""]
    lines += [f"| Dataset | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for entry in [*datasets, {"dataset": "**all**", **total}]:
        cells = [f"{entry[key]:,}" for key in keys] + [f"{entry['bytes'] / 1e6:,.1f}"]
        lines.append(f"| {entry['dataset']} | {' | '.join(cells)} |")
    lines += ["", "## Variants", ""]
    for variant in card["variants"]:
        name = corpus.variant_label(card["corpus"], variant["variant"])
        lines.append(f"- **{name}**: {variant['meaning']}. {_counts(variant)}")
    for entry in figures:
        lines += ["", f"## {entry.title}", "", f"![{entry.title}]({entry.file})", "", entry.caption]
    if card["remarks"]:
        lines += [
            "",
            "## Remarks",
            "",
            "What was mended or is doubtful in volumes that are kept.",
            "",
        ]
        lines += ["| Dataset | remark | volumes |", "|---|---|---:|"]
        lines += [
            f"| {e['dataset']} | {_inert(e['remark'])} | {e['volumes']:,} |"
            for e in card["remarks"]
        ]
    lines += ["", f"## Left out ({len(card['quarantined'])})", ""]
    lines += [
        f"- {e['dataset']}/{_inert(e['case'])}: {_inert(e['reason'])}" for e in card["quarantined"]
    ]
    lines += _unmatched(card.get("unmatched", {}))
    return "\n".join(lines) + "\n"


def _unmatched(files: dict[str, list[str]]) -> list[str]:
    """Images in folders of yours that no pattern finds: how many, and some by name."""
    lines = ["", f"## Images that no pattern finds ({sum(map(len, files.values()))})", ""]
    for dataset, names in files.items():
        some = ", ".join(names[:NAMED]) + (", ..." if names[NAMED:] else "")
        lines += [f"- {dataset}: {len(names)}, such as {_inert(some)}"] if names else []
    return lines if files else []


def _inert(text: str) -> str:
    """Names and reasons come from strangers' files: no markup, no lines of their own."""
    return html.escape(" ".join(text.split()), quote=False)


def _counts(variant: dict[str, Any]) -> str:
    text = f"{variant['slices']:,} slices of {variant['volumes']:,} volumes"
    if variant["dedupe"] != "off":
        text += f"; {variant['repeated']:,} repeated slices left out ({variant['dedupe']})"
    if variant["variant"] == "leak-free":
        text += (
            f"; {len(variant['removed'])} volumes ({variant['slices_removed']:,} slices) removed;"
            f" {len(variant['without_slices'])} validation cases had no slices to compare"
        )
    return f"{text}."
