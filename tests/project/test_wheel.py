"""A release: both distributions build, hold what they must, and work without the checkout."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from email.parser import HeaderParser
from importlib import metadata
from pathlib import Path

import ct3m_data as data
import pytest
import SimpleITK as sitk
import yaml
from packaging.requirements import Requirement
from places import ROOT
from test_probe import checkpoint
from test_segment import make_model

import meddino
from meddino.core.files import read_json

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
LEFT = ("__pycache__", ".*cache", "*.egg-info", "results", "resources", "logs", "build", "site",
        ".snakemake", ".venv", ".git", ".hypothesis", "*.sif")  # fmt: skip


def run(command: list[str], folder: Path, **variables: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **variables}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both distributions; the wheel is made from the source distribution alone."""
    pytest.importorskip("build")
    source, out = tmp_path_factory.mktemp("source") / "meddino", tmp_path_factory.mktemp("dist")
    shutil.copytree(ROOT, source, symlinks=True, ignore=shutil.ignore_patterns(*LEFT))
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out)], source)
    return out


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, installed into a folder of its own by pip."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    run([*pip, "--target", str(folder), str(wheel)], folder)
    return folder


def kept(folder: Path) -> set[str]:
    """Files of the package in the checkout."""
    return {
        path.relative_to(folder).as_posix()
        for path in (folder / "meddino").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("meddino/")}
        paper = archive.read("meddino/config.yaml")
    assert held == kept(ROOT)
    assert {"meddino/py.typed", "meddino/report/cards/model_card.md.j2"} <= held
    assert paper == (ROOT / "config.yaml").read_bytes(), "a link in the checkout, a file here"


def test_its_metadata_is_that_of_the_project(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        folder = f"meddino-{meddino.__version__}.dist-info"
        head = HeaderParser().parsestr(archive.read(f"{folder}/METADATA").decode())
        licence = archive.read(f"{folder}/licenses/LICENSE").decode()
    assert (head["Name"], head["Version"]) == ("meddino", meddino.__version__)
    assert head["License-Expression"] == "Apache-2.0" and "Apache License" in licence
    assert head["Requires-Python"] == ">=3.11"
    extras = set(head.get_all("Provides-Extra"))
    assert {"slurm", "dinov3", "download", "report", "docs", "dev"} <= extras


def test_the_source_distribution_is_a_checkout(built: Path) -> None:
    """Whoever has no checkout gets workflow, profiles, tests and docs from it."""
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = ["config.yaml", "config.leak-free.yaml", "Makefile", "mkdocs.yml", "CITATION.cff"]
    wanted += ["LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "DECISIONS.md"]
    for folder in ("workflow", "profiles", "envs", "tests", "docs", "benchmarks", "containers"):
        wanted += [
            path.relative_to(ROOT).as_posix()
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and not path.match("*.sif") and "__pycache__" not in path.parts
            and not path.match("*.sbom.cdx.json")
        ]  # fmt: skip
    assert set(wanted) - names == set()
    assert not [name for name in names if name.startswith(("results/", "resources/", ".venv"))]


# ---- it works without the checkout ---------------------------------------------------------------


def by(site: Path, folder: Path, *arguments: object) -> str:
    """Run the installed command line outside of the checkout, before all else on the path."""
    command = [sys.executable, "-m", "meddino", *map(str, arguments)]
    return run(command, folder, PYTHONPATH=str(site), OMP_NUM_THREADS="1")


def test_it_is_the_installed_package_that_runs(site: Path, tmp_path: Path) -> None:
    code = "import meddino; print(meddino.__file__)"
    where = run([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(site))
    assert Path(where.strip()).parent.parent == site
    script = run([str(site / "bin/meddino"), "--version"], tmp_path, PYTHONPATH=str(site))
    assert script.strip() == f"meddino {meddino.__version__}"


def test_it_segments(site: Path, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    scan = data.save(tmp_path / "ct.nii.gz", data.body())
    by(site, tmp_path, "segment", scan, tmp_path / "labels.nii.gz", "--model", model)
    labels = sitk.ReadImage(str(tmp_path / "labels.nii.gz"))
    assert labels.GetSize() == sitk.ReadImage(str(scan)).GetSize()
    assert sitk.GetArrayFromImage(labels).any()


def test_it_cuts_slices(site: Path, tmp_path: Path) -> None:
    data.save(tmp_path / "scans/one.nii.gz", data.body())
    config = tmp_path / "mine.yaml"
    mine = {
        "title": "Mine",
        "folder": "scans",
        "images": ["*.nii.gz"],
        "case": "(?P<case>.+)[.]nii",
    }
    config.write_text(yaml.safe_dump({"datasets": {"mine": mine}, "ct3m": {"datasets": ["mine"]}}))
    paper = site / "meddino/config.yaml"
    settings = ["--config", paper, config, "--dataset", "mine"]
    by(site, tmp_path, "fetch", *settings, "--output", "raw/.fetched.json")
    out = tmp_path / "shards/0.json"
    by(site, tmp_path, "slices", *settings, "--chunk", "0", "--raw", "raw/.fetched.json",
       "--output", out)  # fmt: skip
    assert read_json(out)["volumes"] and list(out.parent.glob("*.parquet"))


def test_it_shows_features(site: Path, tmp_path: Path) -> None:
    scan = data.save(tmp_path / "ct.nii.gz", data.body())
    vit = checkpoint(tmp_path / "vit.pth", 0)
    by(site, tmp_path, "features", scan, "--model", vit, "--size", "64", "--output", "shown")
    assert {"shown.png", "shown.pdf", "shown.npz"} <= {path.name for path in tmp_path.iterdir()}


def test_where_there_is_no_workflow_it_says_where_that_is(site: Path, tmp_path: Path) -> None:
    for verb in ("study", "status"):
        done = subprocess.run(
            [sys.executable, "-m", "meddino", verb, "--cores", "1"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2
        assert "in a checkout of meddino, or in its source distribution" in done.stderr


def test_what_an_extra_lacks_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['altair'] = None\n"
        "from meddino.__main__ import main; sys.exit(main(['report', '--help']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'meddino[report]'" in done.stderr


# ---- what goes with it ---------------------------------------------------------------------------


def test_there_is_one_version() -> None:
    assert PROJECT["dynamic"] == ["version"] and "version" not in PROJECT
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == meddino.__version__
    assert f"## {meddino.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_citation_is_valid() -> None:
    """What the format 1.2.0 requires, and its licence is the project's."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["license"] == PROJECT["license"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", citation["date-released"])
    (paper,) = citation["references"]
    assert paper["authors"] and paper["title"].startswith("MedDINOv3")


def test_hooks_check_what_make_check_checks() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    recipe = re.search(r"^check:.*?\n\n", (ROOT / "Makefile").read_text(), re.M | re.S)
    assert recipe is not None
    asked = {
        word for line in recipe[0].splitlines()[1:] for word in line.strip("\t@").split(" && ")
    } - {""}
    bare = {re.sub(r" (--check|--fix|\.|workflow)(?= |$)", "", command) for command in asked}
    ours = {
        re.sub(r" (--check|--fix)(?= |$)", "", hook["entry"].removeprefix(".venv/bin/"))
        for hook in hooks
    }
    assert bare == ours


def test_templates_of_issues_are_forms() -> None:
    for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text("utf-8"))
        if path.stem == "config":
            continue
        assert form["name"] and form["description"]
        names = [field["id"] for field in form["body"]]
        assert len(set(names)) == len(names)
        assert all(field["attributes"]["label"] for field in form["body"])


COPYLEFT = re.compile(r"\b(A?GPL|GNU (Affero )?General Public|non-?commercial|CC-BY-NC)", re.I)


MIXED = {"docutils"}
"""Its GPL is that of a file for Emacs, which an installation does not have."""


def requirements(name: str, extra: str = "") -> Iterator[str]:
    for line in metadata.requires(name) or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement.name


def closure() -> set[str]:
    """What an installation without extras brings along."""
    queue, seen = [Requirement(line).name for line in PROJECT["dependencies"]], set()
    while queue:
        name = queue.pop()
        if name not in seen:
            seen.add(name)
            queue += requirements(name)
    return seen


def terms(name: str) -> str:
    head = metadata.metadata(name)
    said = [head.get("License-Expression", ""), *head.get_all("Classifier", [])]
    text = " ".join(line for line in said if (line and "::" not in line) or "License ::" in line)
    return text or (head.get("License") or "")[:200]


def test_no_dependency_has_a_licence_that_binds_what_uses_it() -> None:
    """Weak copyleft (MPL, LGPL) is none: it binds changes of the library itself."""
    known = {name: terms(name) for name in closure()}
    assert len(known) > 40 and sum(map(bool, known.values())) > 0.9 * len(known)
    bound = {n: t for n, t in known.items() if COPYLEFT.search(re.sub(r"L(?:esser )?GPL", "", t))}
    assert bound.keys() <= MIXED, bound
