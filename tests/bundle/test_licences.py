"""What the table of licences says of each source, and what is refused."""

from pathlib import Path

import pytest

from meddino.bundle.licences import judge, permit, table
from meddino.core.errors import MeddinoError
from meddino.datasets import registry
from meddino.report.options import Attribution
from meddino.study.model import load


def source(licence: str, name: str = "x") -> Attribution:
    return Attribution(name=name, title="", home="", licence=licence)


@pytest.mark.parametrize(
    ("licence", "verdict"),
    [
        ("CC0 1.0", "allowed"),
        ("CC BY 4.0", "conditions"),
        ("CC BY-NC-SA 4.0", "conditions"),
        ("CC BY 4.0 on Zenodo; CC BY-SA 4.0 in its dataset.json", "conditions"),
        ("Apache-2.0", "conditions"),
        ("DINOv3 License", "conditions"),
        ("CC BY-NC-ND", "forbidden"),
        ("CC BY-ND 4.0", "forbidden"),
        ("CC BY-NC-ND 4.0, with words that nobody knows", "forbidden"),
        ("conflicting (CC BY-NC-ND 4.0 in some catalogues, CC BY-SA 4.0 in others)", "unknown"),
        ("CC BY 4.0, for members of the consortium", "unknown"),
        ("GPL-3.0; research use only", "unknown"),
        ("not stated by the owners; terms of the challenge", "unknown"),
        ("a licence of our own", "unknown"),
        ("", "unknown"),
    ],
)
def test_the_strictest_term_decides(licence: str, verdict: str) -> None:
    assert judge(source(licence)).verdict == verdict


def test_every_source_of_the_study_is_known_to_the_table(root: Path) -> None:
    """A new licence in the registry needs a row here; four sets need their owners' permission."""
    study = load([root / "config.yaml"])
    datasets = {name: study.dataset(name).licence for name in registry.entries()}
    weights = {name: entry.licence for name, entry in study.weights.items()}
    verdicts = {}
    for name, licence in {**datasets, **weights}.items():
        judgement = judge(source(licence, name))
        assert "the table does not know" not in judgement.reason, name
        verdicts[name] = judgement.verdict
    unknown = {name for name, verdict in verdicts.items() if verdict == "unknown"}
    assert unknown == {"abdomenatlas3", "btcv", "lits", "word"}
    assert "forbidden" not in verdicts.values()


def test_every_row_says_where_it_stands_and_what_it_asks() -> None:
    for term in table().terms:
        assert term.source, term.name
        assert bool(term.conditions) == (term.verdict == "conditions"), term.name
        assert bool(term.reason) == (term.verdict in ("unknown", "forbidden")), term.name


def test_no_derivatives_cannot_be_accepted() -> None:
    with pytest.raises(MeddinoError, match=r"must not be given away: flexict \(CC BY-NC-ND; "):
        permit([source("CC BY 4.0", "a"), source("CC BY-NC-ND", "flexict")], ["flexict"])


def test_unknown_terms_are_named_until_accepted() -> None:
    sources = [source("", "a"), source("CC BY 4.0", "b"), source("ask us", "c")]
    with pytest.raises(MeddinoError, match=r"not known.*--accept-licence a c$"):
        permit(sources, [])
    with pytest.raises(MeddinoError, match=r"--accept-licence c$"):
        permit(sources, ["a"])
    accepted = {j.source.name: j.accepted for j in permit(sources, ["a", "c"])}
    assert accepted == {"a": True, "b": False, "c": True}
    with pytest.raises(MeddinoError, match="--accept-licence b d: no such source"):
        permit(sources, ["a", "b", "c", "d"])
