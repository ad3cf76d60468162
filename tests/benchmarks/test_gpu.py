"""`make gpu-test` where there is no GPU: every check runs small, and failures stay apart."""

import getpass
import json
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from places import ROOT

from meddino.study.model import load

sys.path.append(str(ROOT / "benchmarks"))
import gpu
from gpu_checks import attention, graphs, others, private, speed, stages, tables, waits

BENCHMARKS = ROOT / "benchmarks"
BARE = """
import importlib.machinery as machinery
import sys

ALLOWED = {
    # torch, NumPy and PyArrow, with what torch itself needs
    "torch", "torchgen", "functorch", "triton", "sympy", "mpmath", "networkx", "jinja2",
    "markupsafe", "filelock", "fsspec", "typing_extensions", "nvidia", "numpy", "pyarrow",
    "meddino", "gpu", "gpu_checks",
}


class Bare(machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in ALLOWED | sys.stdlib_module_names and not top.startswith("_"):
            return None
        return super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(machinery.PathFinder)] = Bare
"""
"""A `sitecustomize` under which nothing else that is installed can be found."""
BAD = """
import os
import subprocess
import time
from pathlib import Path


def raises(bench):
    raise ValueError(f"no such {bench.folder}/thing")


def hangs(bench):
    child = subprocess.Popen(["sleep", "600"])
    Path("child").write_text(str(child.pid))
    time.sleep(600)


def dies(bench):
    print("last words", flush=True)
    os.abort()


def works(bench):
    return {"device": bench.device}
"""
RUN = """
import sys
from pathlib import Path

import gpu

if __name__ == "__main__":
    names = ("raises", "hangs", "dies", "works")
    limits = {"hangs": 3}
    checks = [gpu.Check(name, f"bad:{name}", limits.get(name, 300)) for name in names]
    settings = {"device": "cpu", "small": True, "peer": None}
    sys.exit(gpu.run(checks, settings, Path("gpu-test.json")))
"""
ALL = [check.name for check in gpu.CHECKS]


def started(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder), str(ROOT), str(BENCHMARKS)])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, **variables},
        capture_output=True,
        text=True,
    )


# ---- the command --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dry(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str, Path]:
    """What a bare machine leaves and prints."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "sitecustomize.py").write_text(BARE)
    script = str(BENCHMARKS / "gpu.py")
    done = started(folder, script, "--dry-run", PYTHONPATH=str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "gpu-test.json").read_text()), done.stdout, folder


def test_every_check_runs_on_a_cpu_or_says_why_not(dry: tuple[Any, str, Path]) -> None:
    report, _, _ = dry
    checks = {check["name"]: check for check in report["checks"]}
    assert list(checks) == ALL
    skipped = {name for name, check in checks.items() if check["status"] == "skipped"}
    assert skipped == {"waits", "finetuning", "public"}
    assert checks["waits"]["reason"].startswith("no GPU")
    assert checks["finetuning"]["reason"].startswith("no nnunetv2, SimpleITK, pydantic, yaml here")
    assert "facebookresearch/dinov3" in checks["public"]["reason"]
    assert {check["status"] for check in checks.values()} == {"ok", "skipped"}


def test_figures_of_a_cpu_are_as_they_must_be(dry: tuple[Any, str, Path]) -> None:
    figures = {check["name"]: check.get("figures", {}) for check in dry[0]["checks"]}
    assert figures["environment"]["torch"] == torch.__version__
    assert figures["parity"]["vittiny8 fp32"]["difference"] == 0
    assert 0 < figures["parity"]["vittiny8 bf16"]["difference"] < 0.05
    assert figures["resume"]["deterministic"]["to_the_bit"]
    assert figures["stage1"]["slices_per_second"] > 0
    assert figures["stage3_all"]["kinds"] == len(stages.STAGE3.resolutions)
    assert figures["ddp"]["module"] == "DistributedDataParallel"
    assert figures["fsdp"]["module"].startswith("FSDP")


def test_what_is_sent_names_nobody(dry: tuple[Any, str, Path]) -> None:
    report, printed, folder = dry
    text = json.dumps(report["checks"])
    for name in (str(ROOT), str(folder), str(Path.home()), sys.prefix, socket.gethostname()):
        assert name not in text
    assert "Send back gpu-test.json" in printed and "| stage1 |" in printed
    again = started(folder, str(BENCHMARKS / "gpu.py"), "--table", "gpu-test.json")
    assert again.returncode == 0 and again.stdout.strip() in printed


def test_checks_that_fail_hang_or_die_cost_no_other(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(BAD)
    (tmp_path / "drive.py").write_text(RUN)
    done = started(tmp_path, "drive.py")
    assert done.returncode == 1, done.stdout + done.stderr
    checks = json.loads((tmp_path / "gpu-test.json").read_text())["checks"]
    raises, hangs, dies, works = checks
    assert [check["status"] for check in checks] == ["failed", "failed", "failed", "ok"]
    assert raises["error"].splitlines()[-1].startswith("ValueError: no such <tmp>/")
    assert 'File "bad.py", line' in raises["error"]
    assert hangs["error"].startswith("stopped, since it took more than 3 s")
    assert dies["error"] == "it ended with -6 and left no result"
    assert "last words" in dies["log"]
    assert works["figures"] == {"device": "cpu"}
    assert not lives(int((tmp_path / "child").read_text()))


def lives(pid: int) -> bool:
    """Whether a process still runs a moment after it was killed."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
        except (ProcessLookupError, FileNotFoundError):
            return False
        if state == "Z":
            return False
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    return True


def test_without_a_gpu_one_line_says_so(tmp_path: Path) -> None:
    done = started(tmp_path, str(BENCHMARKS / "gpu.py"))
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("no GPU: ") and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


# ---- its parts ----------------------------------------------------------------------------------


def test_every_check_can_be_found() -> None:
    for check in gpu.CHECKS:
        module, _, name = check.place.partition(":")
        assert callable(getattr(import_module(module), name))


def test_the_page_has_a_row_for_each_check() -> None:
    page = (ROOT / "docs/gpu.md").read_text()
    assert [name for name in ALL if f"`{name}`" not in page] == []


def test_the_stages_are_those_of_the_papers_study() -> None:
    pretrain = load([ROOT / "config.yaml"]).pretrain
    assert pretrain.backbone == stages.BACKBONE
    for name, stage in stages.STAGES.items():
        assert stage == replace(pretrain.stages[name], micro_batch=stage.group_size)


def test_attention_has_the_shapes_of_the_stages() -> None:
    bench = speed.Bench(device="cuda", folder=Path())
    shapes = {label: rest for label, *rest in attention._shapes(bench)}
    assert shapes["global 256 px"] == [128, 256]
    assert shapes["Gram 1152 px"] == [32, 1152]
    assert len(shapes) == 5


def test_first_iterations_do_not_count() -> None:
    """Two iterations of 10 s and 1 TFLOP each, then two of 1 s."""
    lines = [
        {"seconds": seconds / count, "tflops": count / seconds, "mfu": count / seconds / 4}
        for count, seconds in ((1, 10.0), (2, 20.0), (3, 21.0), (4, 22.0))
    ]
    rates = speed.rates(lines, 2, batch_size=8)
    assert rates["slices_per_second"] == pytest.approx(8)
    assert rates["tflops"] == pytest.approx(1)
    assert rates["mfu"] == pytest.approx(0.25)
    assert rates["warmup_seconds"] == pytest.approx(20)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    from torch._dynamo.utils import clear_compilation_metrics, counters

    def clear() -> None:
        torch._dynamo.reset()
        counters.clear()
        clear_compilation_metrics()

    clear()
    with torch._dynamo.config.patch(recompile_limit=2):  # which monkeypatch would delete at its end
        yield
    clear()


def test_graphs_and_what_was_given_up_are_counted(fresh_compiler: None) -> None:
    scaled = torch.compile(lambda x, factor: x * factor, backend="eager", dynamic=False)
    for factor in (1.5, 2.5, 3.5):
        scaled(torch.ones(3), factor)
    figures = graphs.graphs()
    assert (figures["graphs"], figures["graph_breaks"], figures["given_up"]) == (2, 0, 1)
    assert figures["recompilations"] == 2 and "factor == 1.5" in figures["reasons"][0]


def test_waits_are_those_of_a_step() -> None:
    with waits.counted() as places:
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    (place,) = places
    assert place.startswith("test_gpu.py:") and places[place] == 3
    short = Counter({"start.py:1": 5, "step.py:2": 4, "step.py:3": 8})
    long = Counter({"start.py:1": 5, "step.py:2": 12, "step.py:3": 24})
    figures = waits.per_step(short, long, steps=8)
    assert figures["lines"] == {"step.py:2": 1, "step.py:3": 2} and figures["waits_a_step"] == 3


def test_paths_and_names_are_cut_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "node17.example.org")
    monkeypatch.setattr(getpass, "getuser", lambda: "jdoe")
    monkeypatch.setenv("HOME", "/home/John Doe")
    cut = private.anonymous(
        {
            "error": f'File "{ROOT}/meddino/core/files.py", line 3',
            "lines": [
                'File "/home/John Doe/venv/lib/python3.11/site-packages/torch/nn.py", line 9',
                "no /data/secret/patients/scan.nii.gz on node17 for jdoe (torch/nn/a.py, 1/2 s)",
            ],
            "count": 3,
        }
    )
    assert cut == {
        "error": 'File "meddino/core/files.py", line 3',
        "lines": [
            'File "torch/nn.py", line 9',
            "no scan.nii.gz on <host> for <user> (torch/nn/a.py, 1/2 s)",
        ],
        "count": 3,
    }


def test_a_benchmarks_table_is_read() -> None:
    lines = ["| trainer | it/s |", "|---|---:|", "| ours | 2 |", "| theirs | 1 |"]
    text = "\n".join(["a line", "", *lines, "", "| other |", "|---|"])
    assert others.table(text) == {"ours": {"it/s": "2"}, "theirs": {"it/s": "1"}}
    with pytest.raises(ValueError, match="no table in 'a line'"):
        others.table("a line")


def test_failures_stand_in_the_table() -> None:
    checks = [
        {"name": "ddp", "status": "failed", "seconds": 1.0, "error": "File x\nValueError: a | b"},
        {"name": "stage1", "status": "failed", "seconds": 1.0, "error": "CUDA out of memory"},
    ]
    report = {"meddino": "0.1.0", "commit": "abc", "dry_run": False, "checks": checks}
    assert tables.tables(report).rstrip().splitlines()[-2:] == [
        "| ddp | failed: ValueError: a / b | - |",
        "| stage1 | failed: CUDA out of memory | - |",
    ]
