"""Whether the licences of data and weights let a derived model be given away.

The table is licences.yaml. It is read strictly: what a licence says and the table does not know
makes the verdict `unknown`.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import yaml

from meddino.core.errors import MeddinoError
from meddino.core.options import Options
from meddino.report.options import Attribution

Verdict = Literal["allowed", "conditions", "unknown", "forbidden"]
ORDER: tuple[Verdict, ...] = ("allowed", "conditions", "unknown", "forbidden")
"""From the mildest to the strictest."""


class Term(Options):
    """A licence, or a phrase of one."""

    term: str
    """Regular expression of how it is written."""
    name: str
    """As printed."""
    verdict: Verdict
    """What it says of derived models."""
    conditions: tuple[str, ...] = ()
    """What whoever passes the model on has to keep to."""
    reason: str = ""
    """Why it is unknown or forbidden."""
    text: bool = False
    """Whether a copy of it must go with the model."""
    alike: str = ""
    """The licence under which alone derived works may be passed on."""
    acknowledgement: str = ""
    """A line that credits the owners."""
    source: str
    """Where this is written."""


class Table(Options):
    """The contents of licences.yaml."""

    terms: tuple[Term, ...]
    """In the order in which they are looked for."""
    filler: str
    """Words without a meaning of their own."""
    conflict: str
    """What marks readings that exclude each other."""


@dataclass(frozen=True)
class Judgement:
    """What the licence of one source says.

    Attributes:
        source: the data or weights.
        verdict: of the strictest of its terms.
        terms: all that its licence names.
        reason: why it is unknown or forbidden, otherwise empty.
        accepted: whether the person who makes the bundle answers for an unknown one.
    """

    source: Attribution
    verdict: Verdict
    terms: tuple[Term, ...]
    reason: str = ""
    accepted: bool = False

    @property
    def title(self) -> str:
        """Its name as its owners write it, or its key."""
        return self.source.title or self.source.name

    @property
    def texts(self) -> list[str]:
        """Names of licences of which a copy must go with the model."""
        return [term.name for term in self.terms if term.text]


@cache
def table() -> Table:
    """The table of licences."""
    path = Path(__file__).with_name("licences.yaml")
    return Table.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def judge(source: Attribution) -> Judgement:
    """Read the licence of a source."""
    rest, terms = source.licence, []
    for term in table().terms:
        rest, count = re.subn(term.term, " ", rest, flags=re.IGNORECASE)
        if count:
            terms.append(term)
    rest = re.sub(table().filler, " ", rest, flags=re.IGNORECASE)
    strange = " ".join(re.findall(r"[\w.-]*\w[\w.-]*", rest))
    if not terms:
        said = f"the table does not know {source.licence!r}" if strange else "it names no licence"
        return Judgement(source, "unknown", (), said)
    verdicts = {term.verdict for term in terms}
    verdict = max(verdicts, key=ORDER.index)
    reasons = [f"{term.name}: {term.reason}" for term in terms if term.verdict == verdict]
    if len(verdicts) > 1 and re.search(table().conflict, source.licence, re.IGNORECASE):
        verdict, reasons = "unknown", ["its sources contradict each other"]
    elif strange and verdict != "forbidden":
        verdict, reasons = "unknown", [f"the table does not know {strange!r}"]
    strict = verdict in ("unknown", "forbidden")
    return Judgement(source, verdict, tuple(terms), "; ".join(reasons) if strict else "")


def permit(sources: Iterable[Attribution], accepted: Collection[str]) -> list[Judgement]:
    """Judge all sources of a model.

    Args:
        sources: data and weights; one that is named twice is judged once.
        accepted: keys of sources of unknown terms that the person answers for.

    Returns:
        A judgement for each source; none is forbidden, and unknown ones are accepted.

    Raises:
        MeddinoError: a licence forbids giving the model away, or its terms are unknown and not
            accepted; or a source is accepted that need not or cannot be.
    """
    judgements = [judge(source) for source in {s.name + s.licence: s for s in sources}.values()]
    forbidden = [j for j in judgements if j.verdict == "forbidden"]
    if forbidden:
        raise MeddinoError(
            "this model must not be given away: " + "; ".join(map(_line, forbidden))
            + ". Train without it, or ask its owners"
        )  # fmt: skip
    unknown = {j.source.name for j in judgements if j.verdict == "unknown"}
    if needless := sorted(set(accepted) - unknown):
        raise MeddinoError(
            f"--accept-licence {' '.join(needless)}: no such source of unknown terms; there are"
            f" {', '.join(sorted(unknown)) or 'none'}"
        )
    open_ones = [j for j in judgements if j.source.name in unknown - set(accepted)]
    if open_ones:
        names = " ".join(dict.fromkeys(j.source.name for j in open_ones))
        raise MeddinoError(
            "it is not known whether this model may be given away: "
            + "; ".join(map(_line, open_ones))
            + f". If you have their owners' permission: --accept-licence {names}"
        )
    return [
        Judgement(j.source, j.verdict, j.terms, j.reason, accepted=j.source.name in unknown)
        for j in judgements
    ]


def _line(judgement: Judgement) -> str:
    source = judgement.source
    return f"{source.name} ({source.licence or 'no licence stated'}; {judgement.reason})"
