"""Files that README.md, docs/ and the help of the verbs name: they exist, or a rule makes them."""

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from places import ROOT
from test_documented_commands import PAGES, help_of

from meddino.finetune.segment import _parser
from meddino.pipeline.verbs import VERBS
from meddino.volumes.inputs import RECORD

FOLDERS = tuple(
    f"{path.name}/" for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")
)
MADE = ("results/", "resources/", "logs/", "build/", "site/")
"""What a study or `make` leaves, and the repository does not hold."""
ELSEWHERE = {
    "containers/meddino.sif": "an image, by `make container`",
    "containers/meddino.sbom.cdx.json": "beside the image",
    "envs/lock-torch-cu126.txt": "by `make setup TORCH=cu126`",
}
OTHER_STUDIES = {
    "resources/raw/<dataset>.<piece>/": "within a quota",
    "resources/weights/<name>.pth": "of published weights",
    "results/ct3m/index.leak-free.<px>.parquet": "where a method asks for it",
    "results/ct3m/index.<variant>.<px>.parquet": "where a method asks for it",
    "results/label_curve/": "where a study asks for it",
    "results/label_curve/{points,needed}.csv": "where a study asks for it",
    "resources/raw/<dataset>.incoming": "put there by hand",
    "resources/raw/lits.incoming": "put there by hand",
    "results/figures/predictions_spleen.png": "of docs/real-scans.md",
    "results/tables/released.md": "with config.released.yaml",
    "results/tables/transfer.{csv,md,tex}": "with config.transfer.yaml",
    "results/tables/transfer.structures.csv": "with config.transfer.yaml",
    "results/transfer/": "with config.transfer.yaml",
    "results/tables/<table>.ranks.csv": "where a study asks for it",
    "results/backbones/": "where a study asks for it",
    "results/failures/": "where a study asks for it",
    "results/failures/failures.json": "where a study asks for it",
    "results/confidence/<benchmark>/<method>/fold0.parquet": "where a study asks for failures",
    "results/lesions/<benchmark>/<method>/fold0.parquet": "where a study asks for failures",
    "results/spleen_gpu/tables/table2.md": "of docs/real-scans.md",
    "results/finetune/.../README.md": "tested by its whole name",
    "logs/check/<benchmark>.log": "of a folder of yours",
    "logs/snakemake.log": "by `study`, which calls Snakemake",
    "logs/tensorboard": "by `tensorboard`",
    "results/runs/<verb>/<run>.job/": "on a cluster, while a job runs",
}
"""Files that the short demo does not have."""


def prose(page: Path) -> str:
    """A page without its fences."""
    text = page.read_text("utf-8")
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)


def quoted(text: str) -> Iterator[str]:
    """Code in a text that has no blank: it may be a path."""
    yield from re.findall(r"`([^`\s]+)`", text)


def pattern(name: str) -> list[str]:
    """A path as pages write it, as patterns: `<...>` is any name, `{a,b}` either of two."""
    name = re.sub(r"(<[^>]+>|NNN\w*|\.\.\.|\*)+", "*", name)
    parts = [part.split(",") for part in re.split(r"[{}]", name)]
    alternatives = [part if number % 2 else [",".join(part)] for number, part in enumerate(parts)]
    return ["".join(choice) for choice in product(*alternatives)]


def tree() -> list[str]:
    """The paths of the tree in docs/outputs.md, which stand at its left."""
    block = (ROOT / "docs/outputs.md").read_text("utf-8").split("```text\n")[1].split("```")[0]
    names = re.findall(r"^( {0,2})(\S+)", block, flags=re.MULTILINE)
    return [("results/" if indent else "") + name for indent, name in names]


def test_the_tree_is_read() -> None:
    assert {"results/report.html", "results/ct3m/overlap.csv", "logs/<rule>/"} <= set(tree())


@pytest.mark.parametrize("page", [page.relative_to(ROOT).as_posix() for page in PAGES])
def test_files_of_the_repository_exist(page: str) -> None:
    for name in quoted(prose(ROOT / page)):
        name, _, test = name.partition("::")
        if name.startswith(FOLDERS) and not name.startswith(MADE) and name not in ELSEWHERE:
            assert all(any(ROOT.glob(each)) for each in pattern(name)), f"{page}: {name}"
            assert f"def {test.partition('[')[0]}" in (ROOT / name).read_text() if test else True


@pytest.mark.parametrize("name", VERBS)
def test_help_names_files_of_the_repository_that_exist(name: str) -> None:
    for path in re.findall(
        r"(?<![\w/.])(?:docs|profiles|config)[\w/.-]*\.(?:md|yaml)", help_of(name)
    ):
        assert (ROOT / path).exists(), path


def test_the_help_of_segment_names_its_record() -> None:
    description = " ".join((_parser().description or "").split())
    assert f"OUTPUT.{RECORD}" in description and f"OUTPUT/{RECORD}" in description


def mentioned() -> set[str]:
    """Code in the pages' text, files of the tutorials' studies as those of any study."""
    names = {name for page in PAGES for name in quoted(prose(page))}
    return {re.sub(r"results/(mine|spleen)/", "results/", name) for name in names}


def named() -> set[str]:
    """Files of a study that pages name, those of another study left out."""
    names = mentioned() | set(tree())
    return {name for name in names if name.startswith(MADE[:3])} - set(OTHER_STUDIES)


def test_files_of_other_studies_are_named() -> None:
    pages = mentioned() | set(tree())
    assert set(OTHER_STUDIES) | set(ELSEWHERE) <= pages, "what no page says needs no entry"
