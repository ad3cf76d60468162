"""The table of transfer as Markdown and as LaTeX, and what its numbers are, in sentences."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from meddino.evaluate.statistics import FEWEST_CASES
from meddino.report.corpus import variant_label
from meddino.report.options import TransferOptions, TransferPair
from meddino.report.tables.cells import number
from meddino.report.tables.footnotes import PROTOCOLS, VARIANTS
from meddino.report.tables.formats import Row, latex_rows, latex_table, markdown_rows
from meddino.report.tables.transfer_leaks import Leak

NORMALISATION = {True: "clip and scale HU as in their training data", False: "z-score each volume"}
"""What models do to intensities, by whether their channel is CT."""


class Estimate(NamedTuple):
    """A number of the table with its interval and its p, each None where there is none."""

    value: float | None
    low: float | None
    high: float | None
    p: float | None = None

    @classmethod
    def of(cls, line: Mapping[Any, Any], name: str, p: str = "") -> "Estimate":
        """The column of that name, with those of its interval."""
        keys = [name, f"{name}_low", f"{name}_high", *([p] if p else [])]
        return cls(*(None if line[key] is None else number(line[key]) for key in keys))

    def texts(self, *, signed: bool = False) -> tuple[str, str, str]:
        """The value, its interval, and what follows the letter p; each empty where it is absent."""
        sign = "+" if signed else "-"
        ends = [f"{end:{sign}z.1f}" for end in (self.low, self.high) if end is not None]
        return (
            "" if self.value is None else f"{self.value:{sign}z.2f}",
            " to ".join(ends) if len(ends) == 2 else "",
            "" if self.p is None else "< 0.001" if self.p < 0.001 else f"= {self.p:.3f}",
        )

    def plain(self, *, signed: bool = False) -> str:
        """All of it in one line."""
        value, interval, p = self.texts(signed=signed)
        ends = f" [{interval.replace(' to ', ', ')}]" if interval else ""
        return f"{value or '-'}{ends}{f', p {p}' if p else ''}"


def columns(pair: TransferPair | Mapping[str, Any], base: str | None) -> list[tuple[str, str, str]]:
    """Columns of a pair's table: the name of the number, that of its p, and the head.

    Args:
        pair: with labels, and whether there are models of the tested benchmark.
        base: name of the method that others are compared with.
    """
    shown = pair.model_dump() if isinstance(pair, TransferPair) else pair
    own = [("in_domain", "", f"trained on {shown['test_label']}")] if shown["in_domain"] else []
    drop = [("drop", "p", "drop")] if shown["in_domain"] else []
    what = "drop" if shown["in_domain"] else "result"
    contrast = [("contrast", "contrast_p", f"{what} less that of {base}")] if base else []
    return [*own, ("transferred", "", f"trained on {shown['train_label']}"), *drop, *contrast]


def pair_title(pair: TransferPair) -> str:
    """Heading of a pair."""
    return f"{pair.train_label} to {pair.test_label}"


def markdown(
    options: TransferOptions,
    lines: pd.DataFrame,
    structures: pd.DataFrame,
    remarks: Sequence[Sequence[str]],
) -> str:
    """The table with its heading, remarks and notes, in GitHub's Markdown.

    Args:
        options: pairs and methods.
        lines: as of `transfer_results.table_lines`.
        structures: as of `transfer_results.structure_lines`.
        remarks: sentences on each pair.
    """
    blocks = [f"## {options.title}"]
    for pair, sentences in zip(options.pairs, remarks, strict=True):
        blocks.append(f"### {pair_title(pair)}")
        for metric in options.metrics:
            heads, rows = _rows(options, pair, _part(options, lines, pair, metric), metric)
            blocks.append(markdown_rows(_description(options), heads, rows))
            means = _part(options, structures, pair, metric)
            blocks.append(_structures(options, pair, means, metric))
        blocks.append("\n".join(f"- {sentence}" for sentence in sentences))
    arrow = ["Of structures: the in-domain mean → the transferred one."]
    drops = any(pair.in_domain for pair in options.pairs)
    sentences = [*notes(options, lines), *(arrow if drops else [])]
    blocks.append("\n".join(f"- {sentence}" for sentence in sentences))
    return "\n\n".join(blocks) + "\n"


def latex(options: TransferOptions, lines: pd.DataFrame, remarks: Sequence[Sequence[str]]) -> str:
    """The same as a LaTeX table without its structures; it needs the package booktabs."""
    blocks = []
    for pair in options.pairs:
        for metric in options.metrics:
            heads, rows = _rows(options, pair, _part(options, lines, pair, metric), metric)
            title = f"{pair_title(pair)}: {heads[0]}"
            blocks.append(latex_rows(_description(options), [title, *heads[1:]], rows))
    named = [
        f"{pair_title(pair)}: {sentence}"
        for pair, sentences in zip(options.pairs, remarks, strict=True)
        for sentence in sentences
    ]
    return latex_table(options.title, [*notes(options, lines), *named], blocks)


def _part(
    options: TransferOptions, lines: pd.DataFrame, pair: TransferPair, metric: str
) -> pd.DataFrame:
    """Lines of a pair and a metric, of the protocol that is printed."""
    wanted = {"train": pair.train, "test": pair.test, "metric": metric}
    return lines[(lines[[*wanted]] == pd.Series(wanted)).all(axis=1)].query(
        "protocol == @options.protocol"
    )


def _description(options: TransferOptions) -> list[str]:
    return ["Method", options.corpus] if _pretrained(options) else ["Method"]


def _pretrained(options: TransferOptions) -> bool:
    return set(options.method_data.values()) != {"none"}


def _rows(
    options: TransferOptions, pair: TransferPair, lines: pd.DataFrame, metric: str
) -> tuple[list[str], list[Row]]:
    """Heads of the numbers, and a row for each method."""
    shown = columns(pair, options.method_labels.get(options.compare_with or ""))
    rows = []
    for line in lines.to_dict("records"):
        data = line["data"]
        described = [line["row"], "-" if data == "none" else variant_label(options.corpus, data)]
        texts = [
            (Estimate.of(line, name, p).plain(signed=name == "contrast"), False)
            for name, p, _ in shown
        ]
        rows.append(Row(described[: len(_description(options))], texts))
    return [f"{metric}, {head}" if not i else head for i, (*_, head) in enumerate(shown)], rows


def _structures(
    options: TransferOptions, pair: TransferPair, means: pd.DataFrame, metric: str
) -> str:
    """Means of structures, those of both models in a cell."""
    rows = []
    for name, part in means.groupby("structure", sort=False):
        cells = [
            f"{own}{_text(line['transferred'])}"
            for line in part.to_dict("records")
            for own in [f"{_text(line['in_domain'])} → " if pair.in_domain else ""]
        ]
        rows.append(Row([str(name)], [(cell, False) for cell in cells]))
    heads = [f"{metric}, {label}" for label in (options.method_labels[m] for m in options.methods)]
    return markdown_rows(["Structure"], heads, rows)


def _text(value: float) -> str:
    shown = number(value)
    return "-" if shown is None else f"{shown:.1f}"


# ---- sentences ----------------------------------------------------------------------------------


def notes(options: TransferOptions, lines: pd.DataFrame) -> list[str]:
    """What the numbers of all pairs are."""
    tests = int(lines.loc[lines["protocol"] == options.protocol, "tests"].max())
    variants = {variant_label(options.corpus, data) for data in options.method_data.values()}
    drops = any(pair.in_domain for pair in options.pairs)
    few = bool((lines["cases"] < FEWEST_CASES).any())
    sentences = {
        f"{' and '.join(options.metrics)} in %, of shared structures alone.": True,
        f"Protocol {options.protocol}: mean over cases, then over structures;"
        f" {PROTOCOLS[options.protocol]}.": True,
        f"NSD {_within(options)}.": "NSD" in options.metrics,
        "Both models of a row segment the same cases: the model of fold k those that fold k of the"
        " tested benchmark validates on.": drops,
        "Drop: the model trained on the tested benchmark less the transferred one.": drops,
        "Intervals: 95 %, over cases, paired for differences (Student's t).": True,
        "p: paired permutation test of the difference, corrected (Holm) over the table's tests,"
        f" {tests} in all.": tests > 0,
        f"With fewer than {FEWEST_CASES} cases there is no p.": few,
        **{f"{options.corpus} {name}: {VARIANTS[name]}": name in variants for name in VARIANTS},
    }
    return [text for text, applies in sentences.items() if applies]


def _within(options: TransferOptions) -> str:
    by = "by edge voxels" if options.protocol == "paper" else "by area"
    own = any(pair.tolerances_mm for pair in options.pairs) and options.protocol == "area"
    but = ", or the tested benchmark's own tolerance of a structure" if own else ""
    return f"{by} within {options.tolerance_mm:g} mm{but}"


def pair_notes(pair: TransferPair, leaked: Sequence[Leak], copies: int | None) -> list[str]:
    """What a pair is about: structures, cases, intensities, and leaks between the benchmarks.

    Args:
        pair: the two benchmarks.
        leaked: tested cases that were in training, and are left out.
        copies: pairs of copies between their datasets; None where nobody searched.
    """
    scored = [
        name if parts == (name,) else f"{name} ({' and '.join(parts)} of {pair.train_label})"
        for name, parts in ((name, pair.structures[name]) for name in pair.scored)
    ]
    used = {part for parts in pair.structures.values() for part in parts}
    alone = {
        pair.test_label: [name for name in pair.test_structures if name not in pair.structures],
        pair.train_label: [name for name in pair.train_structures if name not in used],
    }
    unshared = "; ".join(f"{label}: {', '.join(names)}" for label, names in alone.items() if names)
    unused = [name for name in pair.test_modalities if name not in pair.modalities]
    sentences = {
        f"{len(scored)} structures: {', '.join(scored)}.": True,
        f"Left out, as only one of the two has them ({unshared}).": bool(unshared),
        f"{' and '.join(unused)} cases of {pair.test_label} do not count.": bool(unused),
        f"No model is trained on {pair.test_label}: there is no drop.": not pair.in_domain,
        _intensities(pair): pair.in_domain
        and _is_ct(pair.train_channel) != _is_ct(pair.test_channel),
        _leaks(pair, leaked, copies): True,
    }
    return [text for text, applies in sentences.items() if applies]


def _intensities(pair: TransferPair) -> str:
    own, other = (NORMALISATION[_is_ct(c)] for c in (pair.train_channel, pair.test_channel))
    return (
        f"Models bring their normalisation: those of {pair.train_label} {own},"
        f" those of {pair.test_label} {other}."
    )


def _is_ct(channel: str) -> bool:
    """Whether nnU-Net normalises a channel of that name as CT."""
    return channel.upper() == "CT"


def _leaks(pair: TransferPair, leaked: Sequence[Leak], copies: int | None) -> str:
    """Which tested cases were in training."""
    searched = (
        "Nobody searched for copies between the two datasets"
        if copies is None
        else f"Copies between the two datasets: {copies}"
    )
    if not leaked:
        return f"{searched}; no tested case is known to be in training."
    reasons = {leak.case: leak.because for leak in leaked}
    named = ", ".join(f"{case} ({because})" for case, because in sorted(reasons.items()))
    return (
        f"{searched}. Tested cases that were in training, which are left out: {len(reasons)}"
        f" ({named})."
    )
