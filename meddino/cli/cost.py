"""What a study would take, before anything is submitted: time, disk, and jobs for a scheduler.

Snakemake's dry run says which jobs would run, and `cost.yaml` what each takes and how that is
known. If jobs of a rule have run in this study, their records correct the estimate for the others.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from meddino.cli import snakemake
from meddino.cli.estimate import Assumptions, Effort, Estimator, Figure, Figures, together
from meddino.cli.snakemake import Run
from meddino.core import layers
from meddino.core.errors import MeddinoError
from meddino.study.model import Study, load


def configuration(arguments: Sequence[str]) -> Study:
    """The study that `snakemake ARGUMENTS` would run.

    Raises:
        MeddinoError: values are given on the command line, or a file does not fit.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--configfile", "--configfiles", nargs="+")
    parser.add_argument("--config", "-C", nargs="+")
    flags, _ = parser.parse_known_args(arguments)
    if flags.config:
        raise MeddinoError("--config: put these values into a file, and name it by --configfile")
    return load(["config.yaml", *(flags.configfile or _profile(arguments).get("configfile", []))])


def _profile(arguments: Sequence[str]) -> dict[str, Any]:
    """What stands in the profiles that arguments name; a section of a later one replaces others.

    Files under `configfile` are named from the working directory.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--profile", default=[], type=Path, action="append")
    merged: dict[str, Any] = {}
    for folder in parser.parse_known_args(arguments)[0].profile:
        path = folder / "profile.yaml"
        content = layers.read([path]) if path.exists() else {}
        if files := content.get("configfile"):
            content["configfile"] = [
                folder / f for f in ([files] if isinstance(files, str) else files)
            ]
        merged |= content
    return merged


def main(arguments: Sequence[str]) -> None:
    """Print what `snakemake ARGUMENTS` would take; `--gpu NAME` supposes another GPU.

    Raises:
        MeddinoError: the workflow does not parse, or the GPU is not known.
    """
    from meddino.pretrain.meter import PEAK_FLOPS  # loads torch

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--gpu")
    flags, rest = parser.parse_known_args(arguments)
    rest = rest or ["--profile", "slurm"]
    figures = Figures.read()
    gpu = flags.gpu or figures.gpu
    if gpu not in PEAK_FLOPS:
        raise MeddinoError(f"--gpu: {gpu!r} is not one of {', '.join(PEAK_FLOPS)}")
    estimator = Estimator(configuration(rest), figures, PEAK_FLOPS[gpu])
    many = ["--cores", "100000"]  # else the dry run cuts threads to those of this machine
    with ThreadPoolExecutor(2) as pool:
        study_run, todo = pool.map(
            snakemake.dry_run, (["--forceall", *many, *rest], [*many, *rest])
        )
    unfinished = {job.output for job in todo.jobs}
    measured = estimator.correct(job for job in study_run.jobs if job.output not in unfinished)
    queued = "--executor" in rest or "executor" in _profile(rest)
    report(Console(), estimator, study_run, todo, measured, gpu, queued)


def report(
    console: Console,
    estimator: Estimator,
    study_run: Run,
    todo: Run,
    measured: Counter[str],
    gpu: str,
    queued: bool,
) -> None:
    """Print the estimate, and what it rests on; submissions where a scheduler takes them."""
    efforts: dict[str, list[Effort]] = defaultdict(list)
    for job in todo.jobs:
        efforts[job.rule].append(estimator.effort(job))
    table = Table("rule", "jobs", "h each", "core-h", "GPU-h", "disk (GB)", "time is")
    for rule, jobs in efforts.items():
        total = together(jobs)
        table.add_row(
            rule, str(len(jobs)), hours(total.wall_s / len(jobs)), hours(total.core_s),
            hours(total.gpu_s), f"{total.disk_gb:,.0f}", _basis(estimator, rule, measured),
        )  # fmt: skip
    if todo.jobs:
        console.print(table)
    _summary(console, estimator, "to run", todo, queued)
    if len(study_run.jobs) != len(todo.jobs):
        _summary(console, estimator, "the whole study", study_run, queued)
    if todo.jobs:
        _foundations(console, estimator, efforts, gpu)


def hours(seconds: float) -> str:
    """Seconds as hours of two digits or more; `-` for none."""
    spent = seconds / 3600
    return "-" if not spent else f"{spent:,.0f}" if spent >= 10 else f"{spent:.2g}"


def _basis(estimator: Estimator, rule: str, measured: Counter[str]) -> str:
    key = estimator.figures.key(rule)
    if measured[key]:
        return f"corrected by {measured[key]} job{'s' if measured[key] > 1 else ''} that ran"
    rate = estimator.figures.rules.get(key)
    return rate.basis if rate else "nothing to do"


def _summary(console: Console, estimator: Estimator, what: str, plan: Run, queued: bool) -> None:
    total, space = together(map(estimator.effort, plan.jobs)), estimator.disk.usage(plan.jobs)
    submissions = f" in {plan.submissions} submissions" if queued else ""
    console.print(
        f"{what}: {len(plan.jobs)} jobs{submissions}, {hours(total.gpu_s)} GPU-hours, "
        f"{hours(total.core_s)} core-hours held",
        highlight=False,
    )
    console.print(
        f"disk of these jobs: at most {space.peak.gb:,.0f} GB and {space.peak.files:,.0f} files;"
        f" {space.final.gb:,.0f} GB and {space.final.files:,.0f} files stay",
        highlight=False,
    )


def _foundations(console: Console, estimator: Estimator, rules: Iterable[str], gpu: str) -> None:
    """Every figure that was used, with where it is from."""
    figures = estimator.figures
    table = Table("figure", "value", "known", "from (benchmarks/RESULTS.md, if no more is said)")
    for name in Assumptions.model_fields:
        figure: Figure = getattr(figures.assumptions, name)
        table.add_row(name.replace("_", " "), f"{figure.value:g}", figure.basis, figure.source)
    study = estimator.study
    rows = [study.methods[name] for shown in study.tables.values() for name in shown.rows]
    for name in dict.fromkeys(m.preset or "default" for m in rows if not m.in_paper):
        figure = figures.unet_hours[name]
        table.add_row(f"unet hours, {name}", f"{figure.value:g}", figure.basis, figure.source)
    for key in dict.fromkeys(figures.key(rule) for rule in rules):
        if rate := figures.rules.get(key):
            table.add_row(key, f"{rate.seconds:g} s a {rate.per}", rate.basis, rate.source)
    console.print(table)
    console.print(
        f"GPU-hours are those of {gpu}s, by floating point operations: none was measured on a GPU."
        " The most on the disk is a bound in whatever order jobs run, with one download at a time"
        " where `keep_raw` is false; checkpoints under way are left out. Retries and waiting for a"
        " place are not counted."
    )
