"""Show a running study, from files only: where it is, what runs, losses, failures, time left.

It asks neither Snakemake nor SLURM, and writes nothing. Anyone who can read the folder can watch,
from any host, even a study that plain `snakemake` runs. It reads Snakemake's own log, the logs of
the jobs, and the histories of trainings.
"""

import argparse
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from meddino.cli.job_logs import Report, histories, last_words, latest
from meddino.cli.run_state import left_s, span, state
from meddino.cli.snakemake import Job, Run, find_log, read_log

REFRESH_S = 2.0
SHOWN = 12
"""Most running jobs, trainings and failures that are listed; the rest is counted."""


def main(arguments: Sequence[str]) -> None:
    """Show the study in this folder, again and again in a terminal, else once.

    Raises:
        MeddinoError: no study has run here.
    """
    parser = argparse.ArgumentParser(prog="python -m meddino watch", description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="FOLDER")
    parser.add_argument("--once", action="store_true", help="print the state once, and end")
    options = parser.parse_args(arguments)
    console = Console()
    picture, over = view(Path(), options.results, time.time())
    if options.once or not console.is_terminal:
        console.print(picture, soft_wrap=False)
        return
    with suppress(KeyboardInterrupt), Live(picture, console=console, refresh_per_second=4) as live:
        while not over:
            time.sleep(REFRESH_S)
            picture, over = view(Path(), options.results, time.time())
            live.update(picture)


def view(folder: Path, results: Path, now: float) -> tuple[RenderableType, bool]:
    """The state of a study to print, and whether the run is over.

    Raises:
        MeddinoError: no study has run here.
    """
    log = find_log(folder)
    run = read_log(log.read_text(encoding="utf-8", errors="replace").splitlines())
    reports = {job.number: latest(_placed(job, folder)) for job in run.running() if job.number}
    tables = [
        _rules(run),
        _running(run, reports, now),
        _training(list(histories(results))),
        _failures(run, folder),
    ]
    parts: list[RenderableType] = [_head(run, reports, folder, log, now)]
    if run.total:
        parts.append(_bar(run))
    for table in tables:
        if table is not None:
            parts += [Text(), table]
    return Group(*parts), bool(run.over)


def _bar(run: Run) -> Table:
    grid = Table.grid()  # a bar alone would not end its line
    grid.add_row(ProgressBar(run.total, run.done, width=60))
    return grid


def _placed(job: Job, folder: Path) -> Job:
    return job if job.log is None else replace(job, log=folder / job.log)


def _head(run: Run, reports: dict[int, Report], folder: Path, log: Path, now: float) -> Text:
    how = state(run, folder, now)
    end = now if how.startswith("running") else run.last or now
    words = [f"{run.done} of {run.total} steps", how]
    if run.began:
        words.append(f"{span(end - run.began)} so far")
    remaining_s = left_s(run, reports, now) if how.startswith("running") else None
    if remaining_s is not None:
        words.append(f"about {span(remaining_s)} left")
    style = "red" if how in ("failed", "stopped") or run.failures() else "bold"
    return Text(f"{', '.join(words)} ({log})", style=style)


def _rules(run: Run) -> Table:
    """Rules in the order of the log's table: how many jobs are done, run and failed."""
    table = _table("stage", "done", "running", "failures", "mean time")
    by_rule: dict[str, list[Job]] = {rule: [] for rule in run.planned if rule != "all"}
    for job in run.numbered.values():
        by_rule.setdefault(job.rule, []).append(job)
    for rule, jobs in by_rule.items():
        ended = [j for j in jobs if j.ended and not j.failed]
        times = [(j.ended or 0) - j.started for j in ended if j.started]
        running = sum(j.ended is None and not j.failed for j in jobs)
        failed = sum(j.failed for j in jobs)
        count = max(run.planned.get(rule, 0), len(jobs))
        mean = span(sum(times) / len(times)) if times else ""
        cells = (f"{len(ended)} of {count}", str(running or ""), str(failed or ""), mean)
        style = "red" if failed else "bold" if running else "dim" if len(ended) == count else ""
        table.add_row(Text(rule), *cells, style=style)
    return table


def _running(run: Run, reports: dict[int, Report], now: float) -> Table | None:
    jobs = run.running()
    if not jobs or run.over:
        return None
    table = _table("running", "for", "done", "left", "says")
    for job in jobs[:SHOWN]:
        report = reports.get(job.number or -1, Report("", None, None))
        share = "" if report.share is None else f"{100 * report.share:.0f} %"
        left_text = "" if report.left_s is None else span(report.left_s)
        since = "" if job.started is None else span(now - job.started)
        table.add_row(Text(job.name), since, share, left_text, Text(report.text))
    return _more(table, len(jobs))


def _training(trainings: Sequence[tuple[str, str]]) -> Table | None:
    if not trainings:
        return None
    table = _table("trained last", "with")
    for name, words in trainings[:SHOWN]:
        table.add_row(Text(name), Text(words))
    return _more(table, len(trainings))


def _failures(run: Run, folder: Path) -> Table | None:
    jobs = run.failures()
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
