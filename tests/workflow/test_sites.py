"""Profiles of sites: what the examples say is what jobs ask for, and what they do not say stays."""

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import ROOT
from processes import run_snakemake

from meddino.cli.snakemake import Job, read_log
from meddino.datasets import route
from meddino.slurm.flags import Flags

EXAMPLES = sorted(path.parent for path in ROOT.glob("profiles/example-*/profile.yaml"))
APPTAINER = '#!/bin/sh\n[ "$1" = --version ] && echo apptainer version 1.4.5\n'


def profile(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((folder / "profile.yaml").read_text())
    return content


def dry_run(folder: Path, arguments: list[str]) -> dict[str, list[Job]]:
    """The jobs of the default study by rule, with an Apptainer that only tells its version."""
    shutil.copy(ROOT / "config.yaml", folder)
    (folder / "meddino.sif").touch()
    (folder / "bin").mkdir()
    (folder / "bin/apptainer").write_text(APPTAINER)
    (folder / "bin/apptainer").chmod(0o755)
    path = f"{folder}/bin:/usr/bin:/bin"
    variables = {"PATH": path, "MEDDINO_IMAGE": "meddino.sif"}
    result = run_snakemake(["--dry-run", "--nolock", *arguments], folder, variables)
    assert result.returncode == 0, result.stdout
    jobs: dict[str, list[Job]] = {}
    for job in read_log(result.stdout.splitlines()).jobs:
        jobs.setdefault(job.rule, []).append(job)
    return jobs


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_jobs_ask_for_what_the_example_of_a_site_says(example: Path, tmp_path: Path) -> None:
    layers = ["--profile", str(ROOT / "profiles/slurm"), "--profile", str(example)]
    jobs = dry_run(tmp_path, [*layers, "--", "all"])
    own = profile(example)
    assert len(jobs) > 20
    for rule, planned in jobs.items():
        wanted = own["default-resources"] | own["set-resources"].get(rule, {})
        for name in ("slurm_partition", "slurm_account", "qos", "constraint", "gpu", "sbatch"):
            if name in wanted and rule != "all":
                assert {job.resources.get(name) for job in planned} == {str(wanted[name])}, rule
    for rule, resources in own["set-resources"].items():
        if "runtime" in resources:
            assert {job.resources["runtime"] for job in jobs[rule]} == {str(resources["runtime"])}
    image = own.get("apptainer-args", "") and f"{own['apptainer-args']} meddino.sif"
    assert {job.resources["apptainer"] for job in jobs["pretrain_stage1"]} == {image}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_a_section_of_a_site_says_all_that_the_one_below_says(example: Path) -> None:
    """Snakemake replaces sections as wholes: a rule left out would lose its GPUs."""
    below, own = profile(ROOT / "profiles/slurm"), profile(example)
    for section in ("default-resources", "set-resources"):
        assert below[section].keys() <= own[section].keys()
    for rule, resources in below["set-resources"].items():
        assert resources.keys() <= own["set-resources"][rule].keys(), rule
        if "sbatch" in resources:
            Flags.parse(own["set-resources"][rule]["sbatch"])


def test_the_example_with_a_limit_of_a_day_keeps_it(tmp_path: Path) -> None:
    example = profile(ROOT / "profiles/example-offline")
    layers = [f"--profile={ROOT / 'profiles/slurm'}"]
    layers += [f"--profile={ROOT / 'profiles/example-offline'}"]
    jobs = dry_run(tmp_path, [*layers, "--", "all"])
    planned = [job for rule in jobs.values() for job in rule]
    assert all(int(job.resources.get("runtime", 0)) <= 1440 for job in planned)
    trainings = [r["sbatch"] for r in example["set-resources"].values() if "sbatch" in r]
    assert {Flags.parse(flags).minutes for flags in trainings} == {1440}


def test_the_command_for_a_node_for_transfers_downloads_there_and_nothing_else(
    tmp_path: Path,
) -> None:
    program, *arguments = shlex.split(route.COMMAND)
    assert program == "snakemake"
    at = arguments.index("--profile")
    arguments[at + 1] = str(ROOT / "profiles" / arguments[at + 1])
    assert "executor" not in profile(Path(arguments[at + 1]))
    jobs = dry_run(tmp_path, arguments)
    assert jobs.keys() == {"fetch", "weights"} and len(jobs["fetch"]) == 17
    pages = ("docs/site.md", "docs/datasets.md", "docs/full-study.md")
    for page in pages:
        assert route.COMMAND in (ROOT / page).read_text(), page
    everything = "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    assert not re.search(r"--profile slurm --until", everything), "it would submit them"
