"""What would rerun, and why, before a GPU-day is spent on it."""

import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from meddino.core import layers
from meddino.core.errors import MeddinoError
from meddino.pipeline import fingerprint

# Jobs of a group are indented below a line that names it.
_RULE = re.compile(r"^(?P<grouped> *)(?P<local>(?:local)?)rule (?P<rule>\w+):")
_DETAIL = re.compile(r"^ {4,}(output|reason|threads|resources|wildcards): (.*)$")
_COMMAND = re.compile(r"^Shell command: (?!None)")
_GROUP = re.compile(r"^\[.*\] Group job ")
_FILES = re.compile(r"(?::| )\s*[^\s:]*/.*$")


NO_WORKFLOW = (
    "no workflow here: run this in a checkout of meddino, or in its source distribution, unpacked"
    " (`pip download --no-deps --no-binary meddino meddino`); an installed package holds the verbs"
    " alone"
)


@dataclass
class Job:
    """One job of a dry run, as Snakemake describes it."""

    rule: str
    grouped: bool = False
    local: bool = False
    runs: bool = False
    """Whether it has a command; a rule such as `all` has none."""
    output: tuple[str, ...] = ()
    threads: int = 1
    wildcards: dict[str, str] = field(default_factory=dict)
    resources: dict[str, str] = field(default_factory=dict)

    @property
    def submitted(self) -> bool:
        """Whether it goes to a scheduler by itself; one with `sbatch` is waited for here."""
        return (
            self.runs
            and not self.grouped
            and (not self.local or bool(self.resources.get("sbatch")))
        )


@dataclass
class Plan:
    """Jobs that a dry run lists: how many of each rule, for which reasons, in how many groups."""

    jobs: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    listed: list[Job] = field(default_factory=list)
    groups: int = 0

    @property
    def submissions(self) -> int:
        """What a scheduler gets to see: groups, and jobs that are in none or submit themselves."""
        return self.groups + sum(job.submitted for job in self.listed)


def lacks_workflow(said: str) -> bool:
    """Whether Snakemake has found neither workflow nor profile, as where there is no checkout."""
    return "No Snakefile found" in said or "no profile.yaml (or config.yaml) found" in said


def plan(arguments: Sequence[str]) -> Plan:
    """Ask Snakemake what `snakemake ARGUMENTS` would run.

    Raises:
        MeddinoError: a configuration is refused, or the workflow does not parse; Snakemake's own
            words are passed on.
    """
    # Snakemake would run what some of them hold.
    layers.read([path for path in arguments if path.endswith((".yaml", ".yml"))])
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--nolock", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if lacks_workflow(result.stdout + result.stderr):
        raise MeddinoError(NO_WORKFLOW)
    if result.returncode:
        raise MeddinoError(f"Snakemake cannot plan the study:\n{result.stdout}{result.stderr}")
    return read_plan((result.stdout + result.stderr).splitlines())


def read_plan(lines: Iterable[str]) -> Plan:
    """Read a dry run's log."""
    found, job = Plan(), Job("")
    for line in lines:
        if match := _RULE.match(line):
            job = Job(match["rule"], bool(match["grouped"]), bool(match["local"]))
            found.jobs[job.rule] += 1
            found.listed.append(job)
        elif job.rule and (match := _DETAIL.match(line)):
            if match[1] == "reason":
                found.reasons[job.rule][_FILES.sub("", match[2])] += 1
            else:
                _describe(job, match[1], match[2])
        elif _COMMAND.match(line):
            job.runs = True
        elif _GROUP.match(line):
            found.groups += 1
    return found


def _describe(job: Job, key: str, value: str) -> None:
    if key == "threads":
        job.threads = int(value)
    elif key == "output":
        job.output = tuple(value.split(", "))
    else:
        pairs = (pair.partition("=") for pair in value.split(", "))
        setattr(job, key, {name: content for name, _, content in pairs})


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
            "revision in meddino/pipeline/verbs.py, or `make accept` if results are the same."
        )
