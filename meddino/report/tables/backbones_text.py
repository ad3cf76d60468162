"""The comparison of backbones as text: numbers as printed, Markdown, and remarks."""

from typing import Any

from meddino.report.tables.options import BackbonesOptions


def markdown(options: BackbonesOptions, rows: list[dict[str, Any]]) -> str:
    """The comparison in GitHub's Markdown: a table of each benchmark, then licences and sources."""
    heads = ["Backbone", "DSC (%) [95 % interval]", "Linear probe (%)", "k-NN probe (%)"]
    heads += ["Parameters, ViT / all (M)", "GFLOP of one input, ViT / all", "Input (px)"]
    blocks = [f"# {options.title}"]
    for benchmark, label in options.benchmarks.items():
        part = [row for row in rows if row["benchmark"] == benchmark]
        blocks += [f"## {label}", _grid(heads, [_numbers(row) for row in part])]
    first = {row["method"]: row for row in rows}.values()
    terms = [[row["label"], *origin(row)] for row in first]
    blocks += ["## Licences and sources"]
    blocks += [_grid(["Backbone", "Starts from", "Licence", "Source"], terms)]
    blocks += [*(f"- {note}" for note in notes(options, rows))]
    return "\n\n".join(blocks) + "\n"


def _grid(heads: list[str], lines: list[list[str]]) -> str:
    texts = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in texts)


def _numbers(row: dict[str, Any]) -> list[str]:
    interval = "" if row["low"] is None else f" [{row['low']:.1f}, {row['high']:.1f}]"
    return [
        row["label"],
        text(row["dsc"], ".2f") + interval,
        text(row["probe_linear"], ".1f"),
        text(row["probe_knn"], ".1f"),
        f"{millions(row['backbone_parameters'])} / {millions(row['parameters'])}",
        f"{text(row['backbone_gflop'], '.4g')} / {text(row['gflop'], '.4g')}",
        " x ".join(map(str, row["input_px"])),
    ]


def text(value: float | None, form: str) -> str:
    """A number as printed, or a dash where there is none."""
    return "-" if value is None else f"{value:{form}}"


def millions(count: float | None) -> str:
    """A number of parameters in millions."""
    return text(None if count is None else count / 1e6, ".3g" if (count or 0) < 1e8 else ".0f")


def origin(row: dict[str, Any]) -> list[str]:
    """What a row starts from, its licences, and its sources."""
    return [row["start"], "; ".join(row["licences"]) or "-", " ".join(row["homes"]) or "-"]


def notes(options: BackbonesOptions, rows: list[dict[str, Any]]) -> list[str]:
    """What a reader must know before comparing the numbers."""
    remarks = [
        "GFLOP: 1e9 operations of a forward pass of one input, counted by torch: of matrix"
        " products, attention and convolutions, a multiplication and an addition counting as two."
    ]
    if any(row["probe_linear"] is not None for row in rows):
        remarks.append(
            f"Probes: organs of {options.probe_benchmark} told from single, frozen patch tokens of"
            " the last block; mean recall of all classes. Patches of another size are other patches"
            " and tell other pixels apart, so that their scores compare only roughly."
        )
    if any(not row["licences"] and row["homes"] for row in rows):
        remarks.append("Where no licence stands, its owners name none that we know of.")
    return remarks
