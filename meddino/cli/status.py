"""What would rerun, and why, before a GPU-day is spent on it."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.table import Table

from meddino.cli import scans
from meddino.cli.cost import configuration
from meddino.cli.snakemake import dry_run
from meddino.core import receipts
from meddino.core.errors import MeddinoError
from meddino.pipeline import fingerprint


def main(arguments: Sequence[str]) -> None:
    """Print the jobs that would run, with reasons, and verbs whose code changed unannounced.

    Raises:
        MeddinoError: the workflow does not parse.
    """
    arguments = arguments or ["--profile", "local"]
    plan = dry_run(arguments)
    console = Console()
    if not plan.jobs:
        console.print("Everything is up to date: nothing would run.")
    else:
        table = Table("rule", "jobs", "why", title=f"{len(plan.jobs)} jobs would run")
        for rule, count in plan.rules.items():
            why = "; ".join(f"{reason} ({n})" for reason, n in plan.reasons(rule).most_common())
            table.add_row(rule, str(count), why)
        console.print(table)
    manifests = [Path(job.output[0]) for job in plan.jobs if job.rule.startswith("fetch")]
    if differing := {
        file: state for path in manifests for file, state in scans.states(path).items()
    }:
        console.print(f"Scans in folders of yours: {scans.summary(differing)}.", highlight=False)
    with suppress(MeddinoError):  # values on the command line: the folders are not known
        study = configuration(arguments)
        folders = [Path(study.resources), Path(study.results)]
        if freed := receipts.summary(receipts.find(folders)):
            console.print(freed, highlight=False)
    if fingerprint.RECORD.exists() and (changed := fingerprint.drift()):
        console.print(
            f"The code of {', '.join(changed)} changed, and Snakemake does not see that: raise the "
            "revision in meddino/pipeline/verbs.py, or `make accept` if results are the same."
        )
