"""Snakemake, as the command line runs it and reads its log, also that of a dry run."""

import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from meddino.core import layers
from meddino.core.errors import MeddinoError

LOG = Path("logs/snakemake.log")
"""Where `study` keeps Snakemake's whole log."""
LOGS = Path(".snakemake/log")
"""Where Snakemake keeps its own logs."""
HEAD_BYTES = 20_000
"""The table of jobs stands within these first bytes of a log."""
NO_WORKFLOW = (
    "no workflow here: run this in a checkout of meddino, or in its source distribution, unpacked"
    " (`pip download --no-deps --no-binary meddino meddino`); an installed package holds the verbs"
    " alone"
)

_TIME = re.compile(r"^\[(\w{3} \w{3} +\d+ [\d:]{8} \d{4})\]")
# Jobs of a group are indented below a line that names the group.
_GROUP = re.compile(r"^\[.*\] Group job ")
_RULE = re.compile(r"^(?P<grouped> *)(?P<local>(?:local)?)(?:rule|checkpoint) (?P<rule>\w+):")
_ERROR = re.compile(r"^ *Error in rule (\w+)(?:, jobid: (\d+)|:)")
_DETAIL = re.compile(r"^ {4,}(jobid|log|output|reason|resources|threads|wildcards): (.*)$")
_COMMAND = re.compile(r"^ *Shell command: (.*)$")
_LENGTH = re.compile(r'"(?:epochs|iterations)":(\d+)')
_FINISHED = re.compile(r"^Finished jobid: (\d+)")
_SUBMITTED = re.compile(r"^Job (\d+) has been submitted with SLURM jobid (\w+)")
_DONE = re.compile(r"^(\d+) of (\d+) steps")
_COUNT = re.compile(r"^(\w+) +(\d+)$")
_CHECK_LOG = re.compile(r" \(check log file.*$")
_SBATCH = re.compile(r"^ +message: SLURM sbatch failed\. The error message was '(.*)$")
_REFUSED = re.compile(
    r'^MeddinoError in file .*, line \d+:\n(?P<read>(?s:.*?))(?=^  File "|\Z)'
    r"|^  MeddinoError: (?P<planned>(?s:.*?))(?=^Wildcards:|^Traceback:|\Z)",
    re.MULTILINE,
)
_FILES = re.compile(r"(?::| )\s*[^\s:]*/.*$")
_ENDINGS = {
    "Exiting because a job execution failed": "failed",
    "At least one job did not complete": "failed",
    "WorkflowError": "failed",
    "Nothing to be done": "up to date",
    "Cancelling snakemake": "stopped",
    "Terminating processes on user request": "stopped",
}


@dataclass
class Job:
    """A job, as Snakemake's log describes it."""

    rule: str
    grouped: bool = False
    local: bool = False
    runs: bool = False
    """Whether it has a command; a rule such as `all` has none."""
    number: int | None = None
    output: tuple[str, ...] = ()
    log: Path | None = None
    reason: str = ""
    threads: int = 1
    wildcards: dict[str, str] = field(default_factory=dict)
    resources: dict[str, str] = field(default_factory=dict)
    length: int | None = None
    """Epochs or iterations, of a job that trains."""
    slurm: str = ""
    """Number of the SLURM job that Snakemake's executor has submitted for it."""
    started: float | None = None
    """When it started (s since 1970), and below when it ended."""
    ended: float | None = None
    failed: bool = False

    @property
    def name(self) -> str:
        """Rule and wildcards, such as `predict amos22 meddinov3 0`."""
        return " ".join([self.rule, *self.wildcards.values()])

    @property
    def submitted(self) -> bool:
        """Whether a scheduler gets it as a job of its own.

        A job with flags for `sbatch` runs locally, but submits itself and waits.
        """
        return (
            self.runs
            and not self.grouped
            and (not self.local or bool(self.resources.get("sbatch")))
        )

    def describe(self, key: str, value: str) -> None:
        """Take in one indented line of the log; half a value, as of a growing log, is ignored."""
        match key:
            case "jobid" | "threads" if value.isdecimal():
                setattr(self, {"jobid": "number", "threads": "threads"}[key], int(value))
            case "log":
                self.log = Path(_CHECK_LOG.sub("", value).split(", ")[0])
            case "output":
                self.output = tuple(value.split(", "))
            case "reason":
                self.reason = _FILES.sub("", value)
            case "wildcards" | "resources":
                pairs = (pair.partition("=") for pair in value.split(", ") if pair)
                setattr(self, key, {name: content for name, _, content in pairs})


@dataclass
class Run:
    """A run of the workflow, dry or real, as far as its log has come."""

    jobs: list[Job] = field(default_factory=list)
    """In the order of the log; a job that is tried again is listed again."""
    numbered: dict[int, Job] = field(default_factory=dict)
    """The last try of each job, by Snakemake's number."""
    planned: Counter[str] = field(default_factory=Counter)
    """Rule -> number of its jobs, from the table at the top."""
    groups: int = 0
    done: int = 0
    total: int = 0
    began: float | None = None
    last: float | None = None
    """When the log was last written (s since 1970)."""
    failed_logs: dict[Path, str] = field(default_factory=dict)
    """Log of a job that failed -> its rule."""
    clock_warnings: list[str] = field(default_factory=list)
    ending: str = ""
    sbatch: list[str] = field(default_factory=list)
    """What sbatch said when it last refused a job."""
    _refusing: bool = False
    """Whether further lines are still sbatch's words."""
    _block: Job | None = None
    """The job, or the error, that indented lines describe."""

    @property
    def over(self) -> str:
        """How the run ended; empty while it has not."""
        complete = self.total and self.done >= self.total
        return "complete" if complete else self.ending

    @property
    def rules(self) -> Counter[str]:
        """How many jobs of each rule are listed."""
        return Counter(job.rule for job in self.jobs)

    @property
    def submissions(self) -> int:
        """What a scheduler gets: groups, and jobs outside of groups."""
        return self.groups + sum(job.submitted for job in self.jobs)

    def reasons(self, rule: str) -> Counter[str]:
        """Why jobs of a rule run, and how many for each reason."""
        return Counter(job.reason for job in self.jobs if job.rule == rule and job.reason)

    def running(self) -> list[Job]:
        """Jobs that have started and not ended, in the order of their start."""
        return [job for job in self.numbered.values() if job.ended is None and not job.failed]

    def failures(self) -> list[Job]:
        """Jobs whose last try failed."""
        return [job for job in self.numbered.values() if job.failed]

    def read(self, line: str) -> None:
        """Take in the next line of the log."""
        line = line.rstrip()
        if match := _SBATCH.match(line):
            self.sbatch, self._refusing = [], True
            line = match[1]
        if self._refusing:
            self._refusing = not line.endswith("'.") and "sbatch call:" not in line
            self.sbatch += [line.removesuffix("'.")] if "sbatch call:" not in line else []
            return
        if match := _TIME.match(line):
            self.last = _seconds(match[1], self.last)
            self.began = self.began or self.last
        if match := _RULE.match(line):
            self._block = Job(
                match["rule"], bool(match["grouped"]), bool(match["local"]), started=self.last
            )
            self.jobs.append(self._block)
        elif match := _ERROR.match(line):
            self._block = Job(match[1], failed=True)
            if match[2]:
                self._fail(int(match[2]))
        elif match := _DETAIL.match(line):
            self._describe(match[1], match[2])
        elif match := _COMMAND.match(line):
            self._command(match[1])
        else:
            self._read_event(line)

    def _describe(self, key: str, value: str) -> None:
        block = self._block
        if block is None:
            return
        block.describe(key, value)
        if block.failed and key == "log" and block.log:
            self.failed_logs[block.log] = block.rule
        if key == "jobid" and block.number is not None:
            if block.failed:
                self._fail(block.number)
            else:
                self.numbered[block.number] = block

    def _command(self, command: str) -> None:
        if self._block and not self._block.failed:
            length = _LENGTH.search(command)
            self._block.runs = not command.startswith("None")
            self._block.length = int(length[1]) if length else None

    def _read_event(self, line: str) -> None:
        """Take in a line that is neither the head of a job nor one of its details."""
        if _GROUP.match(line):
            self.groups += 1
        elif match := _FINISHED.match(line):
            if job := self.numbered.get(int(match[1])):
                job.ended, job.failed = self.last, False
        elif match := _SUBMITTED.match(line):
            if job := self.numbered.get(int(match[1])):
                job.slurm = match[2]
        elif match := _DONE.match(line):
            self.done, self.total = int(match[1]), int(match[2])
        elif match := _COUNT.match(line):
            self._count(match[1], int(match[2]))
        elif "clock skew" in line:
            self.clock_warnings.append(line.strip())
        else:
            endings = (state for start, state in _ENDINGS.items() if line.startswith(start))
            self.ending = next(endings, self.ending)

    def _fail(self, number: int) -> None:
        if job := self.numbered.get(number):
            job.failed, job.ended = True, self.last

    def _count(self, rule: str, count: int) -> None:
        if rule == "total":
            self.total = count
        elif not self.jobs:  # the table stands above all jobs
            self.planned[rule] = count


def _seconds(text: str, otherwise: float | None) -> float | None:
    with suppress(ValueError):
        return time.mktime(time.strptime(text, "%a %b %d %H:%M:%S %Y"))
    return otherwise


def read_log(lines: Iterable[str]) -> Run:
    """Read Snakemake's log, as far as it has come, or the output of a dry run."""
    run = Run()
    for line in lines:
        run.read(line)
    return run


def command(arguments: Sequence[str]) -> list[str]:
    """`snakemake ARGUMENTS` with this interpreter.

    Raises:
        MeddinoError: a configuration is refused: Snakemake would run code that stands in it.
    """
    layers.read([path for path in arguments if path.endswith((".yaml", ".yml"))])
    return [sys.executable, "-m", "snakemake", *arguments]


def dry_run(arguments: Sequence[str]) -> Run:
    """Ask Snakemake what `snakemake ARGUMENTS` would run.

    Raises:
        MeddinoError: a configuration is refused, or the workflow does not parse; the message holds
            what Snakemake printed.
    """
    result = subprocess.run(
        command(["--dry-run", "--nolock", *arguments]), capture_output=True, text=True, check=False
    )
    output = result.stdout + result.stderr
    if lacks_workflow(output):
        raise MeddinoError(NO_WORKFLOW)
    if result.returncode and (reason := our_error(output)):
        raise MeddinoError(reason)
    if result.returncode:
        raise MeddinoError(f"Snakemake cannot plan the study:\n{output}")
    return read_log(output.splitlines())


def our_error(output: str) -> str:
    """The message of an error of meddino that ended Snakemake before any job, without its frames.

    Snakemake prints it in one way where it reads the workflow, and in another where it plans a job.
    """
    match = _REFUSED.search(output)
    return (match["read"] or match["planned"]).strip() if match else ""


def lacks_workflow(output: str) -> bool:
    """Whether Snakemake found no workflow or profile, as outside of a checkout."""
    return "No Snakefile found" in output or "no profile.yaml (or config.yaml) found" in output


def refusal(lines: Iterable[str]) -> str:
    """The error of the operating system that ended Snakemake, or nothing.

    An error without a file name is completed by the folders that Snakemake writes to.
    """
    errors = [line.strip() for line in lines if line.startswith("OSError: [Errno ")]
    if not errors or "'" in errors[-1]:
        return errors[-1] if errors else ""
    return f"{errors[-1]} (in the working folder, or in {os.environ.get('TMPDIR', '/tmp')})"


def find_log(folder: Path) -> Path:
    """The log of the workflow's run in a folder: of the one under way, or of the last.

    Raises:
        MeddinoError: no study has run there.
    """
    logs = [folder / LOG, *(folder / LOGS).glob("*.snakemake.log")]
    logs = [path for path in logs if path.is_file()]
    if not logs:
        raise MeddinoError(
            f"no study has run in {folder.resolve()}: there is neither {LOG} nor {LOGS};"
            " change to the folder that it runs in, or start one with `python -m meddino study`"
        )
    # A dry run, such as that of `status`, leaves a log without jobs.
    with_jobs = [path for path in logs if _has_jobs(path)]
    return max(with_jobs or logs, key=lambda path: path.stat().st_mtime)


def _has_jobs(path: Path) -> bool:
    with path.open("rb") as file:
        return b"Job stats:" in file.read(HEAD_BYTES)
