"""How far a study is: alive or not, and the time that it still takes."""

import json
import socket
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from meddino.cli.job_logs import Report
from meddino.cli.lock import LOCKS, RECORD
from meddino.cli.snakemake import Run


def state(run: Run, folder: Path, now: float) -> str:
    """How the run is, in words; its lock and its record tell whether it is alive."""
    if run.over:
        return run.over
    quiet = "" if run.last is None else f", last word {span(now - run.last)} ago"
    record: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        record = json.loads((folder / RECORD).read_bytes())
    if record.get("host") == socket.gethostname() and isinstance(record.get("group"), int):
        alive = psutil.pid_exists(record["group"])
        return f"running{quiet}" if alive else "was killed; rerun to go on"
    locked = any((folder / LOCKS).glob("*.lock"))
    return f"running{quiet}" if locked else f"not running (no lock){quiet}"


def left_s(run: Run, reports: dict[int, Report], now: float) -> float | None:
    """Estimate the seconds left from the mean time of ended jobs; None before the first has ended.

    A rule without ended jobs takes the mean of all. As many jobs as run now are assumed to run side
    by side until the end, and the study ends no earlier than the last running job.
    """
    ended = [job for job in run.numbered.values() if job.ended and job.started and not job.failed]
    if not ended:
        return None
    times: dict[str, list[float]] = {}
    for job in ended:
        times.setdefault(job.rule, []).append(float(job.ended or 0) - float(job.started or 0))
    overall = sum(map(sum, times.values())) / len(ended)
    means = {rule: sum(seconds) / len(seconds) for rule, seconds in times.items()}
    running = run.running()
    waiting = Counter({rule: n for rule, n in run.planned.items() if rule != "all"})
    waiting.subtract(job.rule for job in run.numbered.values())
    work = sum(max(n, 0) * means.get(rule, overall) for rule, n in waiting.items())
    remaining = []
    for job in running:
        own = reports[job.number].left_s if job.number in reports else None
        mean = means.get(job.rule, overall)
        remaining.append(max(mean - (now - (job.started or now)), 0) if own is None else own)
    return max([(work + sum(remaining)) / max(len(running), 1), *remaining])


def span(seconds: float) -> str:
    """A time as people say it: 45 s, 12 min, 3.5 h, 2.1 d."""
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min")):
        if seconds < limit:
            return f"{max(seconds, 0) / unit:.0f} {name}"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} d"
