"""Studies that users start from, planned on one machine and for a cluster.

For the cluster, every line with which SLURM's executor would submit a job is made, for a first try
and for those after failures (tests/capture.py).
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from capture import CAPTURED
from places import ROOT
from processes import run_snakemake
from test_own_data import STUDY as OWN_STUDY

from meddino.cli.snakemake import read_log
from meddino.slurm.flags import Flags

SUBMISSIONS = 150
"""Of the whole study; a cluster's users share its queue."""
OWN_DATA = {key: OWN_STUDY[key] for key in ("datasets", "ct3m")}
STUDIES: dict[str, list[str | dict[str, Any]]] = {
    "default": [],
    "leak-free": ["config.leak-free.yaml"],
    "released": ["config.released.yaml"],
    "five folds": [{"folds": [0, 1, 2, 3, 4]}],
    "keep-first": [{"ct3m": {"dedupe": "keep-first"}}],
    "own data": [OWN_DATA],
    "both recipes": ["config.recipes.yaml"],
    "label curve": ["config.label-curve.yaml"],
    "data ablations": ["config.data-ablations.yaml"],
    "quota": ["config.quota.yaml"],
    "transfer": ["config.transfer.yaml"],
    "3D": ["config.3d.yaml"],
    "engine dinov3": [{"pretrain": {"engine": "dinov3"}}],
}
"""What is laid over config.yaml: files, or keys."""


class Submission(NamedTuple):
    """How a job is submitted at an attempt."""

    rules: set[str]
    attempt: int
    own: bool
    minutes: int
    mem_mb: int


@pytest.fixture
def arguments(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """What names a study, whose folder is `tmp_path`."""
    shutil.copy(ROOT / "config.yaml", tmp_path)
    for name in ("ct.nii.gz", "seg.nii.gz"):
        path = tmp_path / "scans" / "s1" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"scan")
    files = [tmp_path / "config.yaml"]
    for number, layer in enumerate(STUDIES[request.param]):
        if isinstance(layer, str):
            files.append(ROOT / layer)
        else:
            files.append(tmp_path / f"{number}.yaml")
            files[-1].write_text(yaml.safe_dump(layer))
    return ["--nolock", "--configfile", *map(str, files), "--"]


# The other studies are planned on one machine by test_golden_plan.py.
@pytest.mark.parametrize(
    "arguments", sorted(STUDIES.keys() - {"default", "leak-free", "own data"}), indirect=True
)
def test_one_machine_can_run_it(arguments: list[str], tmp_path: Path) -> None:
    profile = ["--dry-run", "--profile", str(ROOT / "profiles" / "local")]
    done = run_snakemake([*profile, *arguments, "all"], tmp_path)
    assert done.returncode == 0, done.stdout
    assert read_log(done.stdout.splitlines()).rules["report"] == 1


@pytest.mark.parametrize("arguments", STUDIES, indirect=True)
def test_a_cluster_can_run_it(arguments: list[str], tmp_path: Path) -> None:
    profile = ROOT / "profiles" / "slurm"
    limits = yaml.safe_load((profile / "profile.yaml").read_text())["default-resources"]
    submissions = capture(["--profile", str(profile), *arguments, "all"], tmp_path)
    first = [submission for submission in submissions if submission.attempt == 1]
    assert {"finetune"} in [submission.rules for submission in first]
    if arguments[2:-1] == [str(tmp_path / "config.yaml")]:  # the whole study, as the paper has it
        assert len(first) <= SUBMISSIONS
    for submission in submissions:
        assert 0 < submission.minutes <= limits["max_runtime"], submission
        assert 0 < submission.mem_mb <= limits["max_mem_mb"] or submission.own, submission


def capture(arguments: list[str], folder: Path) -> list[Submission]:
    """All submissions of a study, at all attempts."""
    captured = folder / "captured.jsonl"
    variables = {CAPTURED: str(captured)}
    done = run_snakemake(["--executor", "capture", *arguments], folder, variables)
    assert done.returncode == 0, done.stdout
    return [_read(json.loads(line)) for line in captured.read_text().splitlines()]


def _read(line: dict[str, Any]) -> Submission:
    call = line["call"]
    if line["own"]:
        flags = Flags.parse(call)
        mem_mb = int(str(flags.others["mem"]).removesuffix("G")) * 1000
        return Submission(set(line["rules"]), line["attempt"], True, flags.minutes, mem_mb)
    time, memory = re.search(r" -t (\d+)", call), re.search(r" --mem (\d+)", call)
    assert time and memory, call
    return Submission(set(line["rules"]), line["attempt"], False, int(time[1]), int(memory[1]))
