"""Every command in README.md and docs/: run as it stands, or run by a named test, or marked.

A command stands in a fence of the kind `sh`. Without a mark it is run here, in a folder that is
like a checkout, and must succeed. What is run by another test is listed under `TESTED`. A fence
that says `needs="..."` is not run; its commands must still be ones that the real parsers take.
"""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import SimpleITK as sitk
import yaml
from places import ROOT
from processes import run_snakemake
from test_segment import make_model

from meddino.__main__ import main
from meddino.cli.stages import CHECK, stage_parser
from meddino.cli.study import PRELOAD
from meddino.core import layers
from meddino.pipeline.verbs import VERBS

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NEEDS = {"apptainer", "cluster", "data", "download", "gpu", "images", "results", "weights"}
KINDS = {"sh", "text", "yaml", "json", "python", "mermaid"}
TESTED = {
    # Makes the environment that all tests run in, and so does each target that follows.
    "make setup && source .venv/bin/activate": ".ci/run::make check",
    "source .venv/bin/activate": ".ci/run::make check",
    "make demo": "tests/workflow/test_study.py::test_tables_and_report_are_there",
    "make test": ".ci/run::make test",
    # The command before it plans the full study, which takes half a minute each time.
    "python -m meddino cost --gpu A100 --profile slurm": (
        "tests/cli/test_cost.py::test_the_estimate_is_printed_with_its_foundations"
    ),
    "python benchmarks/gpu.py --dry-run": (
        "tests/benchmarks/test_gpu.py::test_every_check_runs_on_a_cpu_or_says_why_not"
    ),
    "python -m meddino.pipeline.fingerprint": (
        "tests/pipeline/test_fingerprint.py::test_the_record_is_up_to_date"
    ),
}
"""Commands that something else runs: a test, or a line of CI."""
WIDTH = 100
PROGRAMS = {
    "$EDITOR", "apptainer", "cat", "export", "ls", "pip", "pre-commit", "source", "squeue", "tail",
    "tensorboard",
}  # fmt: skip
"""What may stand in a marked fence beside make, python, snakemake and nnU-Net's commands."""
SHORTER = {
    "leaves": {"count": 12},
    "phantom": {"btcv": {"cases": 6, "size_px": 48, "slices": 16}},
    "ct3m": {"sizes_px": [64]},
    "weights": {"dinov3": {"standin": None, "snapshot": "natural@4"}},
    "pretrain": {
        "stages": {
            "natural": {"iterations": 4, "snapshots": [4], "batch_size": 8},
            "stage1": {"iterations": 8, "snapshots": [4, 8], "batch_size": 8},
            "stage2": {"init": "stage1@8", "gram_teacher": "stage1@4", "iterations": 4,
                       "snapshots": [4], "batch_size": 8, "slices_px": 64},
            "stage3": {"init": "stage2@4", "gram_teacher": "stage1@4", "iterations": 4,
                       "snapshots": [4], "batch_size": 8, "slices_px": 64},
        }
    },
    "planning": {"foreground_samples": 5000},
    "training": {"epochs": 2, "iterations_per_epoch": 2, "val_iterations": 1},
    "methods": {"stage1": {"weights": "stage1@8"}, "stage2": {"weights": "stage2@4"},
                "meddinov3": {"weights": "stage3@4"}},
    "probe": {"slices_px": 64, "slices_per_case": 4, "patches_per_class": 30},
    "features": {"images": 1, "sizes_px": [96]},
}  # fmt: skip
"""Laid over the sandbox's profiles/demo/study.yaml: the commands are those of the page, the minutes
are not."""
FEWER = {"ct3m": {"datasets": ["btcv", "amos22"]}}
"""Laid over the sandbox's config.yaml: the pages that plan the full study plan 33 jobs of slices,
not 744. tests/workflow/test_golden_plan.py plans them all."""


@dataclass(frozen=True)
class Fence:
    """A fence of a page: its kind, what stands behind it, and its text."""

    page: str
    line: int
    kind: str
    marks: str
    text: str

    @property
    def needs(self) -> set[str]:
        found = re.fullmatch(r'needs="([a-z ]+)"', self.marks)
        return set(found[1].split()) if found else set()

    @property
    def commands(self) -> list[str]:
        """Its lines without comments; a line that ends in a backslash goes on."""
        joined = self.text.replace("\\\n", " ")
        lines = (re.sub(r"(^|\s+)#\s.*$", "", line).strip() for line in joined.splitlines())
        return [line for line in lines if line]


@cache
def fences() -> list[Fence]:
    found = []
    for page in PAGES:
        lines = page.read_text("utf-8").splitlines()
        begin: tuple[int, re.Match[str]] | None = None
        for number, line in enumerate(lines):
            match = re.match(r"^( *)```(?P<kind>[^`\s]*) ?(?P<marks>[^`]*)$", line)
            if match and begin is None:
                begin = number, match
            elif match and begin is not None:
                first, opening = begin
                text = "\n".join(each[len(opening[1]) :] for each in lines[first + 1 : number])
                name = page.relative_to(ROOT).as_posix()
                found.append(Fence(name, first + 1, opening["kind"], opening["marks"], text))
                begin = None
        assert begin is None, f"{page}: a fence is not closed"
    return found


SHELL = [fence for fence in fences() if fence.kind == "sh"]
TO_RUN = {
    page: [fence for fence in SHELL if fence.page == page and not fence.needs]
    for page in dict.fromkeys(fence.page for fence in SHELL if not fence.needs)
}


# ---- what is run --------------------------------------------------------------------------------


def sandbox(folder: Path) -> Path:
    """A folder like a checkout after `make setup`, with a short demo, a scan, and a model."""
    for name in ("config.yaml", "config.leak-free.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for name in ("meddino", "profiles", "workflow", "envs"):
        ignored = shutil.ignore_patterns("__pycache__", "lock*.txt")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("local", "slurm"):
        (folder / name).symlink_to(f"profiles/{name}")
    for name, overlay in (("config.yaml", FEWER), ("profiles/demo/study.yaml", SHORTER)):
        values = layers.merge(layers.read([folder / name]), overlay)
        (folder / name).write_text(yaml.safe_dump(values))
    for fence in fences():
        if title := re.fullmatch(r'title="(\w+\.yaml)"', fence.marks):
            (folder / title[1]).write_text(fence.text)
    return folder


def furnish(folder: Path) -> None:
    """What pages take as given: scans, a trained model, a checkpoint, results with a record."""
    generator = np.random.default_rng(0)
    image = sitk.GetImageFromArray(generator.normal(0, 100, (4, 36, 40)).astype(np.int16))
    for name in ("ct.nii.gz", "scans/one.nii.gz", "scans/two.nii.gz", "scan2.mha"):
        (folder / name).parent.mkdir(exist_ok=True)
        sitk.WriteImage(image, str(folder / name))
    (folder / "series1").mkdir()
    sitk.WriteImage(image, str(folder / "series1/a.nii.gz"))
    model = make_model(folder / "results/finetune/amos22/meddinov3/fold0")
    (folder / "FOLDER").symlink_to(model)
    (folder / "results/pretrain/stage3").mkdir(parents=True)
    write_checkpoint(folder / "results/pretrain/stage3/010000.pth")
    history = folder / "results/pretrain/stage3/history.jsonl"
    history.write_text('{"iteration": 1, "loss": 2.0}\n')
    leaves = ["leaves", "--options", '{"count": 1, "size_px": 16}']
    main([*leaves, "--output", str(folder / "results/leaves/index.16.parquet")])


def write_checkpoint(path: Path) -> None:
    """A small ViT as a stage stores its teacher's."""
    import torch

    from meddino.models.vit import build

    vit = build("vittiny8")
    state = {f"backbone.{key}": value for key, value in vit.state_dict().items()}
    torch.save({"teacher": state}, path)


def script_of(fence: Fence) -> str:
    lines = [line for line in fence.commands if line not in TESTED]
    return "\n".join(["set -eux", *lines])


@pytest.mark.study
@pytest.mark.parametrize("page", TO_RUN)
def test_commands_of_a_page_succeed(page: str, tmp_path: Path) -> None:
    fences = [fence for fence in TO_RUN[page] if script_of(fence).count("\n")]
    if not fences:
        return  # all of them are run by other tests
    folder = sandbox(tmp_path)
    furnish(folder)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    here = {"PATH": path, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    for fence in fences:
        done = subprocess.run(
            ["bash", "-c", script_of(fence)],
            cwd=folder,
            env={**os.environ, **here},
            capture_output=True,
            text=True,
        )
        logs = "".join(log.read_text()[-500:] for log in (folder / "logs").rglob("*.log"))
        said = (done.stdout + done.stderr)[-3000:]
        assert done.returncode == 0, f"{page}:{fence.line}\n{said}\n{logs[-3000:]}"
    check_made(page, folder)


def check_made(page: str, folder: Path) -> None:
    """That what a page promises is there."""
    if page == "docs/tutorial.md":
        assert (folder / "results/mine/report.html").stat().st_size > 10_000
        assert (folder / "my/labels.nii.gz").exists()
        assert "MedDINOv3" in (folder / "results/mine/tables/table2.md").read_text()
        assert (folder / "results/mine/ct3m/card/card.md").exists()
    if page == "docs/inference.md":
        assert {p.name for p in (folder / "segmented").glob("*.nii.gz")} >= {"one.nii.gz"}
    if page == "docs/checkpoints.md":
        assert (folder / "out/model.safetensors").exists()
    if page == "docs/watching.md":
        assert list((folder / "logs/tensorboard/pretrain/stage3").glob("events.*"))


# ---- what is not run ----------------------------------------------------------------------------


def test_every_fence_has_a_known_kind_and_mark() -> None:
    for fence in fences():
        where = f"{fence.page}:{fence.line}"
        assert fence.kind in KINDS, f"{where}: say what it is, `sh` for commands, else `text`"
        assert fence.needs <= NEEDS, where
        marked = fence.needs if fence.kind == "sh" else fence.marks.startswith('title="')
        assert marked or not fence.marks, f"{where}: {fence.marks!r} is no mark"


def test_no_line_of_code_is_cut_off() -> None:
    """docs/assets/site.css has room for so many characters in a window of 1,280 px."""
    wide = [
        f"{fence.page}:{fence.line}: {line}"
        for fence in fences()
        for line in fence.text.splitlines()
        if len(line) > WIDTH and fence.kind != "mermaid"  # drawn
    ]
    assert wide == []


def test_fences_of_commands_are_found() -> None:
    """So that the tests above are about something."""
    assert len(SHELL) > 20 and sum(len(fence.commands) for fence in SHELL) > 45
    assert {"README.md", "docs/tutorial.md", "docs/slurm.md", "docs/cost.md"} <= {
        fence.page for fence in SHELL
    }
    stands = {line for fence in SHELL for line in fence.commands}
    assert set(TESTED) <= stands, "what no page says any more needs no entry"


@pytest.mark.parametrize("test", sorted(set(TESTED.values())))
def test_what_runs_a_command_exists(test: str) -> None:
    file, _, name = test.partition("::")
    text = (ROOT / file).read_text("utf-8")
    if file.endswith(".py"):
        tree = ast.parse(text)
        assert name in {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
    else:
        assert name in text.splitlines()


def simple(line: str) -> list[list[str]]:
    """The words of each command of a line, without variables that are set before it."""
    line = re.sub(r"\$\(.*?\)(?=\s|$|\))", "SUBSTITUTED", line)
    words = shlex.split(line)
    commands: list[list[str]] = [[]]
    for word in words:
        if word in ("&&", "||", ";", "|"):
            commands.append([])
        elif not (re.fullmatch(r"\w+=.*", word) and not commands[-1]):
            commands[-1].append(word)
    return [command for command in commands if command]


@pytest.mark.parametrize(
    "line", sorted({line for fence in SHELL for line in fence.commands}), ids=lambda x: x[:50]
)
def test_a_command_is_one_that_the_real_parsers_take(line: str) -> None:
    for words in simple(line):
        check_command(words)


def check_command(words: list[str]) -> None:
    program, *rest = words
    if program == "make":
        check_make(rest)
    elif program == "snakemake":
        check_snakemake(rest)
    elif program == "meddino" or words[:3] == ["python", "-m", "meddino"]:
        check_verb(*(rest if program == "meddino" else rest[2:]))
    elif program == "python":
        assert rest[0] in ("-m", "-c") or (ROOT / rest[0]).exists(), words
    elif program == "pip":
        check_pip(rest)
    elif program == "apptainer" and rest[0] == "run":
        check_verb(*rest[rest.index("containers/meddino.sif") + 1 :])
    elif program.startswith("nnUNetv2_"):
        scripts = [p.name for p in Path(sys.executable).parent.glob("nnUNetv2_*")]
        assert program in scripts
    else:
        assert program in PROGRAMS, f"{program}: a program that no page used so far"


@cache
def targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def check_make(words: list[str]) -> None:
    asked = [word for word in words if "=" not in word]
    assert asked and set(asked) <= targets(), asked
    for word in words:
        name, is_variable, _ = word.partition("=")
        assert not is_variable or f"$({name})" in (ROOT / "Makefile").read_text(), word


def check_snakemake(words: list[str]) -> None:
    from snakemake.cli import get_argument_parser

    try:
        given, unknown = get_argument_parser().parse_known_args(words)
    except SystemExit as error:
        raise AssertionError(f"Snakemake does not take {words}") from error
    assert unknown == []
    for profile in given.profile or ():
        assert (ROOT / profile / "profile.yaml").exists(), profile
    rules = "".join(p.read_text() for p in (ROOT / "workflow").rglob("*") if p.is_file())
    for target in given.targets or ():
        if "/" in target:
            assert plans(target, tuple(given.configfile or ())), f"no rule makes {target}"
        else:
            assert f"rule {target}:" in rules, f"{target} is no rule"


@cache
def plans(target: str, overlays: tuple[str, ...]) -> bool:
    """Whether Snakemake knows how to make a file."""
    configs = [str(ROOT / name) for name in ("config.yaml", *overlays)]
    with TemporaryDirectory() as folder:
        words = ["--dry-run", "--quiet", "--nolock", "--cores", "1", "--configfile", *configs]
        return run_snakemake([*words, "--", target], Path(folder)).returncode == 0


def check_verb(name: str, *words: str) -> None:
    """Parse the flags of a verb as it would itself, but run nothing."""
    if name in ("-h", "--help", "--version"):
        return
    verb = VERBS[name]
    if verb.usage:
        at = words.index("--gpu") if "--gpu" in words else None
        rest = list(words) if at is None else [*words[:at], *words[at + 2 :]]
        check_snakemake([word for word in rest if (name, word) != ("study", PRELOAD)])
    elif verb.options is not None:
        checks = verb.check and CHECK in words
        parser = (
            import_module(verb.check).flags()
            if checks
            else stage_parser(name, import_module(verb.module).run)
        )
        try:
            parser.parse_intermixed_args([word for word in words if not checks or word != CHECK])
        except SystemExit as error:
            raise AssertionError(f"{name} does not take {words}") from error
    else:
        known = set(re.findall(r"(?<![\w-])(--?[a-z][\w-]*)", help_of(name)))
        flags = words[: words.index("--")] if "--" in words else words
        wrong = {flag.split("=")[0] for flag in flags if flag.startswith("-")} - known
        assert not wrong, f"{name} knows no {wrong}"


@cache
def help_of(name: str) -> str:
    import contextlib
    import io

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([name, "--help"])
    return printed.getvalue()


def check_pip(words: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for word in words:
        if found := re.fullmatch(r"(?:\.|meddino)\[([\w,-]+)\]", word):
            assert set(found[1].split(",")) <= set(project["optional-dependencies"]), word


@pytest.mark.parametrize("page", [page.relative_to(ROOT).as_posix() for page in PAGES])
def test_commands_in_the_text_exist(page: str) -> None:
    """Targets, verbs and extras that are named in passing."""
    text = re.sub(r"^ *```.*?^ *```", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    for code in re.findall(r"`([^`\n]+)`", text):
        if found := re.match(r"make ([a-z-]+)$", code):
            assert found[1] in targets(), code
        if found := re.match(r"python -m meddino ([a-z_]+)", code):
            assert found[1] in VERBS, code
        if code.startswith(("pip install ", "'.[")):
            check_pip(shlex.split(code))
