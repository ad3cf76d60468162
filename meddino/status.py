"""What would rerun, and why, before a GPU-day is spent on it."""

import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from meddino import fingerprint
from meddino.core.errors import MeddinoError

_RULE = re.compile(r"^(?:local)?rule (\w+):")
_REASON = re.compile(r"^    reason: (.*)$")
_FILES = re.compile(r"(?::| )\s*[^\s:]*/.*$")


@dataclass
class Plan:
    """Jobs that a dry run lists: how many of each rule, and for which reasons."""

    jobs: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))


def plan(arguments: Sequence[str]) -> Plan:
    """Ask Snakemake what `snakemake ARGUMENTS` would run.

    Raises:
        MeddinoError: the workflow does not parse; Snakemake's own words are passed on.
    """
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--nolock", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise MeddinoError(f"Snakemake cannot plan the study:\n{result.stdout}{result.stderr}")
    return read_plan((result.stdout + result.stderr).splitlines())


def read_plan(lines: Iterable[str]) -> Plan:
    """Read a dry run's log."""
    found, rule = Plan(), ""
    for line in lines:
        if match := _RULE.match(line):
            rule = match[1]
            found.jobs[rule] += 1
        elif rule and (match := _REASON.match(line)):
            found.reasons[rule][_FILES.sub("", match[1])] += 1
    return found


def main(arguments: Sequence[str]) -> None:
    """Print the jobs that would run, with reasons, and whether code changed without a word.

    Raises:
        MeddinoError: the workflow does not parse.
    """
    found = plan(arguments or ["--profile", "local"])
    console = Console()
    if not found.jobs:
        console.print("Everything is up to date: nothing would run.")
    else:
        table = Table("rule", "jobs", "why", title=f"{found.jobs.total()} jobs would run")
        for rule, count in found.jobs.items():
            why = "; ".join(f"{reason} ({n})" for reason, n in found.reasons[rule].most_common())
            table.add_row(rule, str(count), why)
        console.print(table)
    if fingerprint.RECORD.exists() and (changed := fingerprint.drift()):
        console.print(
            f"The code of {', '.join(changed)} changed, and Snakemake does not see that: raise the "
            "revision in meddino/verbs.py, or `make accept` if results are the same."
        )
