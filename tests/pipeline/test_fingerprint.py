"""The digest that makes forgetting to raise a revision loud."""

import shutil
from pathlib import Path

import pytest

from meddino.core.files import read_json
from meddino.pipeline import fingerprint
from meddino.pipeline.verbs import VERBS


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return Path(
        shutil.copytree(
            fingerprint.PACKAGE,
            tmp_path / "meddino",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    )


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{path} no longer holds {old!r}: choose another place to edit"
    path.write_text(text.replace(old, new))


def digests(package: Path) -> dict[str, str]:
    return {n: fingerprint.digest(v.module, package) for n, v in VERBS.items() if v.options}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def test_docstrings_comments_and_layout_leave_every_digest(package: Path) -> None:
    before = digests(package)
    losses = package / "pretrain" / "losses.py"
    losses.write_text(
        '"""Another docstring."""\n# a comment\n\n' + losses.read_text().split('"""', 2)[2]
    )
    assert changed(before, digests(package)) == set()


def test_code_of_the_losses_moves_pretraining_alone(package: Path) -> None:
    before = digests(package)
    with (package / "pretrain" / "losses.py").open("a") as handle:
        handle.write("\nEXTRA = 1\n")
    assert changed(before, digests(package)) == {"pretrain"}


def test_shared_code_moves_all_that_import_it(package: Path) -> None:
    before = digests(package)
    with (package / "models" / "vit.py").open("a") as handle:
        handle.write("\nEXTRA = 1\n")
    moved = changed(before, digests(package))
    assert {"pretrain", "finetune", "predict", "weights"} <= moved
    assert not moved & {"phantom", "fetch", "slices", "index", "evaluate", "tables", "report"}


def test_the_record_is_up_to_date() -> None:
    assert fingerprint.drift() == [], (
        "raise the revision in meddino/pipeline/verbs.py, or `make accept`"
    )
    assert set(read_json(fingerprint.RECORD)) == set(fingerprint.current())
