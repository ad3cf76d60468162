"""Show a running study, from files only: where it is, what runs, losses, failures, time left.

Nothing is asked of Snakemake or SLURM, and nothing is written: whoever can read the folder can
watch, from any host, also a study that plain `snakemake` runs. It is told by Snakemake's own log,
the logs of the jobs, and the histories of what trains.
"""

import argparse
import json
import re
import socket
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from meddino.cli.alone import LOCKS, RECORD
from meddino.cli.study import LOG, last_words
from meddino.cli.tensorboard import HISTORIES, ITERATION
from meddino.core.errors import MeddinoError

SNAKEMAKES = Path(".snakemake/log")
"""Where Snakemake keeps its own log, also where nobody keeps another."""
TAIL_BYTES = 20_000
"""How much of a job's log is read: what it said last."""
REFRESH_S = 2.0
SHOWN = 12
"""Most running jobs, trainings and failures that are listed; the rest is counted."""

_TIME = re.compile(r"^\[(\w{3} \w{3} +\d+ [\d:]{8} \d{4})\]")
_RULE = re.compile(r"^ *(?:local)?(?:rule|checkpoint) (\w+):")
_DETAIL = re.compile(r"^ {4,}(jobid|log|wildcards): (.*)$")
_SHELL = re.compile(r"^ *Shell command: (.*)$")
_LENGTH = re.compile(r'"(?:epochs|iterations)":(\d+)')
_FINISHED = re.compile(r"^Finished jobid: (\d+)")
_SUBMITTED = re.compile(r"^Job (\d+) has been submitted with SLURM jobid (\w+)")
_DONE = re.compile(r"^(\d+) of (\d+) steps")
_COUNT = re.compile(r"^(\w+) +(\d+)$")
_ERROR = re.compile(r"^ *Error in rule (\w+)(?:, jobid: (\d+)|:)")
_CHECKED = re.compile(r" \(check log file.*$")
_OVER = {
    "Exiting because a job execution failed": "failed",
    "At least one job did not complete": "failed",
    "WorkflowError": "failed",
    "Nothing to be done": "up to date",
    "Cancelling snakemake": "stopped",
    "Terminating processes on user request": "stopped",
}

_TRACKED = re.compile(r"^(.+?): (\d+)/(\d+), (\d+) s left$")
_EPOCH = re.compile(r"^epoch (\d+): (.*), ([\d.]+) s$")
_HOURS = re.compile(r"hours_left ([\d.e+-]+)")
_SLURM = re.compile(r"^(?:submitted |found )?SLURM job (\d+)(?:: (\S+))?")
_LOSSES = ("loss", "dino_global", "dino_local", "ibot", "koleo", "gram")


@dataclass
class Job:
    """A job, as Snakemake's log tells of it."""

    rule: str
    started: float | None
    number: int | None = None
    wildcards: str = ""
    log: Path | None = None
    length: int | None = None
    """Epochs or iterations, of what trains."""
    slurm: str = ""
    """Number of the job of SLURM that Snakemake has submitted for it."""
    ended: float | None = None
    failed: bool = False

    @property
    def name(self) -> str:
        """Rule and what it is for, such as `predict amos22 meddinov3 0`."""
        values = [pair.partition("=")[2] for pair in self.wildcards.split(", ") if pair]
        return " ".join([self.rule, *values])


@dataclass
class Progress:
    """A run of the workflow, as Snakemake's log tells of it."""

    jobs: dict[int, Job] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    """Rule -> how many jobs there are."""
    done: int = 0
    total: int = 0
    began: float | None = None
    last: float | None = None
    """When something was last said (s since 1970)."""
    over: str = ""
    """How it ended, if its log says so."""

    def running(self) -> list[Job]:
        """Jobs that have begun and not ended, the first first."""
        return [job for job in self.jobs.values() if job.ended is None and not job.failed]

    def failures(self) -> list[Job]:
        """Jobs that failed, and were not started again."""
        return [job for job in self.jobs.values() if job.failed]


class Said(NamedTuple):
    """What a job says of itself."""

    text: str
    share: float | None
    left_s: float | None


def read_log(lines: Iterable[str]) -> Progress:
    """Read Snakemake's log as far as it has come; a line that is cut off is as none."""
    found = Progress()
    job: Job | None = None
    failed: Job | None = None
    for line in lines:
        if match := _TIME.match(line):
            found.last = _seconds(match[1], found.last)
            found.began = found.began or found.last
        if match := _RULE.match(line):
            job, failed = Job(match[1], found.last), None
        elif match := _ERROR.match(line):
            job, failed = None, Job(match[1], None, failed=True)
            if match[2]:
                _fail(found, int(match[2]))
        elif match := _DETAIL.match(line):
            _detail(found, job or failed, match[1], match[2])
        elif job and (match := _SHELL.match(line)):
            length = _LENGTH.search(match[1])
            job.length = int(length[1]) if length else None
        elif match := _FINISHED.match(line):
            if ended := found.jobs.get(int(match[1])):
                ended.ended, ended.failed = found.last, False
        elif match := _SUBMITTED.match(line):
            if submitted := found.jobs.get(int(match[1])):
                submitted.slurm = match[2]
        elif match := _DONE.match(line):
            found.done, found.total = int(match[1]), int(match[2])
        elif match := _COUNT.match(line):
            _count(found, match[1], int(match[2]))
        else:
            found.over = next((v for k, v in _OVER.items() if line.startswith(k)), found.over)
    if found.total and found.done >= found.total:
        found.over = "complete"
    return found


def _detail(found: Progress, job: Job | None, key: str, value: str) -> None:
    if job is None:
        return
    if key == "jobid" and value.isdecimal():
        if job.failed:
            _fail(found, int(value))
        else:
            job.number = int(value)
            found.jobs[job.number] = job  # one that is tried again takes the place of the first
    elif key == "log":
        job.log = Path(_CHECKED.sub("", value).split(", ")[0])
    elif key == "wildcards":
        job.wildcards = value


def _fail(found: Progress, number: int) -> None:
    if job := found.jobs.get(number):
        job.failed, job.ended = True, found.last


def _count(found: Progress, rule: str, count: int) -> None:
    if rule == "total":
        found.total = count
    elif not found.jobs:  # the table stands before all jobs
        found.counts[rule] = count


def _seconds(text: str, otherwise: float | None) -> float | None:
    with suppress(ValueError):
        return time.mktime(time.strptime(text, "%a %b %d %H:%M:%S %Y"))
    return otherwise


def find_log(folder: Path) -> Path:
    """The log of the run of the workflow that is under way in a folder, or was the last.

    Raises:
        MeddinoError: there was none.
    """
    logs = [folder / LOG, *(folder / SNAKEMAKES).glob("*.snakemake.log")]
    there = [path for path in logs if path.is_file()]
    # Planning, as `status` does, leaves a log that says nothing.
    telling = [path for path in there if _has_jobs(path)]
    if not there:
        raise MeddinoError(
            f"no study has run in {folder.resolve()}: there is neither {LOG} nor {SNAKEMAKES};"
            " change to the folder that it runs in, or start one with `python -m meddino study`"
        )
    return max(telling or there, key=lambda path: path.stat().st_mtime)


def _has_jobs(path: Path) -> bool:
    with path.open("rb") as file:
        return b"Job stats:" in file.read(TAIL_BYTES)


def state(progress: Progress, folder: Path, now: float) -> str:
    """How the run is, in words; whether it is alive is known by the locks that it holds."""
    if progress.over:
        return progress.over
    quiet = "" if progress.last is None else f", last word {_span(now - progress.last)} ago"
    record: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        record = json.loads((folder / RECORD).read_bytes())
    if record.get("host") == socket.gethostname() and isinstance(record.get("group"), int):
        alive = psutil.pid_exists(record["group"])
        return f"running{quiet}" if alive else "was killed; rerun to go on"
    locked = any((folder / LOCKS).glob("*.lock"))
    return f"running{quiet}" if locked else f"not running (no lock){quiet}"


def left_s(progress: Progress, said: dict[int, Said], now: float) -> float | None:
    """Seconds that are left, by the mean time of the jobs that have ended; None while none has.

    A rule of which none has ended counts as the mean of all. What runs beside each other now is
    taken to do so until the end, and nothing ends before the last job that runs.
    """
    ended = [job for job in progress.jobs.values() if job.ended and job.started and not job.failed]
    if not ended:
        return None
    times: dict[str, list[float]] = {}
    for job in ended:
        times.setdefault(job.rule, []).append(float(job.ended or 0) - float(job.started or 0))
    overall = sum(map(sum, times.values())) / len(ended)
    means = {rule: sum(each) / len(each) for rule, each in times.items()}
    running = progress.running()
    waiting = Counter({rule: n for rule, n in progress.counts.items() if rule != "all"})
    waiting.subtract(job.rule for job in progress.jobs.values())
    work = sum(max(n, 0) * means.get(rule, overall) for rule, n in waiting.items())
    still = []
    for job in running:
        own = said[job.number].left_s if job.number in said else None
        mean = means.get(job.rule, overall)
        still.append(max(mean - (now - (job.started or now)), 0) if own is None else own)
    return max([(work + sum(still)) / max(len(running), 1), *still])


# ---- what jobs say ---------------------------------------------------------------------------


def listen(job: Job) -> Said:
    """What a job has said last, how far it is (a share), and the seconds that it has left."""
    text = f"SLURM job {job.slurm}" if job.slurm else ""
    share = left = None
    trains = False
    for line in [] if job.log is None else _tail(job.log):
        if match := _TRACKED.match(line):
            share, left = int(match[2]) / max(int(match[3]), 1), float(match[4])
            text = text if trains else match[1]  # losses say more
        elif match := ITERATION.match(line):
            trains, text = True, f"iteration {match[1]}, {_losses(match[2])}"
            hours = _HOURS.search(match[2])
            left = float(hours[1]) * 3600 if hours else left
            share = _share(int(match[1]), job.length)
        elif match := _EPOCH.match(line):
            done = int(match[1]) + 1
            trains, text = True, f"epoch {done}, {match[2]}"
            share = _share(done, job.length)
            left = (job.length - done) * float(match[3]) if job.length else None
        elif match := _SLURM.match(line):
            text = f"SLURM job {match[1]} {match[2] or ''}".strip()
    return Said(text, share, left)


def _share(done: int, length: int | None) -> float | None:
    return done / length if length else None


def _losses(text: str) -> str:
    """Of `loss 6.1, koleo 0.3, seconds 0.2`, the losses."""
    return ", ".join(part for part in text.split(", ") if part.split(" ")[0] in _LOSSES)


def _tail(path: Path) -> list[str]:
    """Whole lines at the end of a file; none where it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - TAIL_BYTES, 0))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return text.splitlines()[: None if text.endswith("\n") else -1]


def histories(results: Path) -> Iterator[tuple[str, str]]:
    """What has been trained so far, with the last line of its history; the newest first."""
    found = [
        path
        for pattern in HISTORIES
        for below in (pattern, f"*/{pattern}")
        for path in results.glob(below)
    ]
    dated = []
    for path in found:
        with suppress(OSError):  # one that is just being replaced
            dated.append((path.stat().st_mtime, path))
    for _, path in sorted(dated, reverse=True):
        for line in reversed(_tail(path)):
            with suppress(ValueError):
                if isinstance(values := json.loads(line), dict):
                    yield " ".join(path.parts[path.parts.index(_kind(path)) :][:-1]), _last(values)
                    break


def _kind(path: Path) -> str:
    return "pretrain" if "pretrain" in path.parts else "finetune"


def _last(values: dict[str, Any]) -> str:
    if "epoch" in values:
        dice = [x for x in values.get("pseudo_dice", []) if x is not None]
        mean = f", pseudo Dice {sum(dice) / len(dice):.3f}" if dice else ""
        return (
            f"epoch {values['epoch'] + 1}, loss {values.get('train_loss', float('nan')):.3f}{mean}"
        )
    losses = ", ".join(f"{key} {values[key]:.4g}" for key in _LOSSES if key in values)
    return f"iteration {values.get('iteration', '?')}, {losses}"


# ---- display ---------------------------------------------------------------------------------


def view(folder: Path, results: Path, now: float) -> tuple[RenderableType, bool]:
    """Everything that is to be seen, and whether the run is over.

    Raises:
        MeddinoError: no study has run here.
    """
    log = find_log(folder)
    progress = read_log(log.read_text(encoding="utf-8", errors="replace").splitlines())
    said = {job.number: listen(_placed(job, folder)) for job in progress.running() if job.number}
    tables = [
        _rules(progress),
        _running(progress, said, now),
        _training(list(histories(results))),
        _failures(progress, folder),
    ]
    parts: list[RenderableType] = [_head(progress, said, folder, log, now)]
    if progress.total:
        parts.append(_bar(progress))
    for table in tables:
        if table is not None:
            parts += [Text(), table]
    return Group(*parts), bool(progress.over)


def _bar(progress: Progress) -> Table:
    grid = Table.grid()  # which ends its line, unlike a bar
    grid.add_row(ProgressBar(progress.total, progress.done, width=60))
    return grid


def _placed(job: Job, folder: Path) -> Job:
    return job if job.log is None else replace(job, log=folder / job.log)


def _head(progress: Progress, said: dict[int, Said], folder: Path, log: Path, now: float) -> Text:
    how = state(progress, folder, now)
    end = now if how.startswith("running") else progress.last or now
    words = [f"{progress.done} of {progress.total} steps", how]
    if progress.began:
        words.append(f"{_span(end - progress.began)} so far")
    left = left_s(progress, said, now) if how.startswith("running") else None
    if left is not None:
        words.append(f"about {_span(left)} left")
    style = "red" if how in ("failed", "stopped") or progress.failures() else "bold"
    return Text(f"{', '.join(words)} ({log})", style=style)


def _rules(progress: Progress) -> Table:
    """Stages in the order in which they are listed, those that are done or run."""
    table = _table("stage", "done", "running", "failures", "mean time")
    by_rule: dict[str, list[Job]] = {rule: [] for rule in progress.counts if rule != "all"}
    for job in progress.jobs.values():
        by_rule.setdefault(job.rule, []).append(job)
    for rule, jobs in by_rule.items():
        ended = [j for j in jobs if j.ended and not j.failed]
        times = [(j.ended or 0) - j.started for j in ended if j.started]
        running = sum(j.ended is None and not j.failed for j in jobs)
        failed = sum(j.failed for j in jobs)
        count = max(progress.counts.get(rule, 0), len(jobs))
        mean = _span(sum(times) / len(times)) if times else ""
        cells = (f"{len(ended)} of {count}", str(running or ""), str(failed or ""), mean)
        style = "red" if failed else "bold" if running else "dim" if len(ended) == count else ""
        table.add_row(Text(rule), *cells, style=style)
    return table


def _running(progress: Progress, said: dict[int, Said], now: float) -> Table | None:
    jobs = progress.running()
    if not jobs or progress.over:
        return None
    table = _table("running", "for", "done", "left", "says")
    for job in jobs[:SHOWN]:
        words = said.get(job.number or -1, Said("", None, None))
        share = "" if words.share is None else f"{100 * words.share:.0f} %"
        left = "" if words.left_s is None else _span(words.left_s)
        since = "" if job.started is None else _span(now - job.started)
        table.add_row(Text(job.name), since, share, left, Text(words.text))
    return _more(table, len(jobs))


def _training(found: Sequence[tuple[str, str]]) -> Table | None:
    if not found:
        return None
    table = _table("trained last", "with")
    for name, words in found[:SHOWN]:
        table.add_row(Text(name), Text(words))
    return _more(table, len(found))


def _failures(progress: Progress, folder: Path) -> Table | None:
    jobs = progress.failures()
    if not jobs:
        return None
    table = _table("failed")
    for job in jobs[:SHOWN]:
        why = "it has no log" if job.log is None else last_words(job.rule, folder / job.log)
        where = "" if job.log is None or str(job.log) in why else f" (see {job.log})"
        table.add_row(Text(f"{job.name}: {' '.join(why.split())}{where}"), style="red")
    return _more(table, len(jobs))


def _table(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="underline")
    for head in heads:
        wide = head in ("says", "with", "failed")
        table.add_column(head, overflow="fold", no_wrap=not wide)
    return table


def _more(table: Table, count: int) -> Table:
    if count > SHOWN:
        table.caption = f"and {count - SHOWN} more"
    return table


def _span(seconds: float) -> str:
    """A time as people say it: 45 s, 12 min, 3.5 h, 2.1 d."""
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min")):
        if seconds < limit:
            return f"{max(seconds, 0) / unit:.0f} {name}"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} d"


def main(arguments: Sequence[str]) -> None:
    """Show the study in this folder, again and again in a terminal, else once.

    Raises:
        MeddinoError: no study has run here.
    """
    parser = argparse.ArgumentParser(prog="python -m meddino watch", description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="FOLDER")
    parser.add_argument("--once", action="store_true", help="print the state once, and end")
    given = parser.parse_args(arguments)
    console = Console()
    shown, over = view(Path(), given.results, time.time())
    if given.once or not console.is_terminal:
        console.print(shown, soft_wrap=False)
        return
    with suppress(KeyboardInterrupt), Live(shown, console=console, refresh_per_second=4) as live:
        while not over:
            time.sleep(REFRESH_S)
            shown, over = view(Path(), given.results, time.time())
            live.update(shown)
