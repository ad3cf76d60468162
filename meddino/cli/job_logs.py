"""What the logs of single jobs, and the histories of trainings, say of their state."""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from meddino.cli.snakemake import Job
from meddino.cli.tensorboard import HISTORIES, ITERATION

TAIL_BYTES = 20_000
"""How much of a job's log is read, from its end."""

_TRACKED = re.compile(r"^(.+?): (\d+)/(\d+), (\d+) s left$")
_EPOCH = re.compile(r"^epoch (\d+): (.*), ([\d.]+) s$")
_HOURS = re.compile(r"hours_left ([\d.e+-]+)")
_SLURM = re.compile(r"^(?:submitted |found )?SLURM job (\d+)(?:: (\S+))?")
_LOSSES = ("loss", "dino_global", "dino_local", "ibot", "koleo", "gram")


class Report(NamedTuple):
    """What a job last wrote of itself: in words, how much is done (0 to 1), seconds left."""

    text: str
    share: float | None
    left_s: float | None


def latest(job: Job) -> Report:
    """Read a job's last report from the end of its log."""
    text = f"SLURM job {job.slurm}" if job.slurm else ""
    share = left_s = None
    trains = False
    for line in [] if job.log is None else _tail(job.log):
        if match := _TRACKED.match(line):
            share, left_s = int(match[2]) / max(int(match[3]), 1), float(match[4])
            text = text if trains else match[1]  # losses tell more than a bar's numbers
        elif match := ITERATION.match(line):
            trains, text = True, f"iteration {match[1]}, {_losses(match[2])}"
            hours = _HOURS.search(match[2])
            left_s = float(hours[1]) * 3600 if hours else left_s
            share = _share(int(match[1]), job.length)
        elif match := _EPOCH.match(line):
            epochs = int(match[1]) + 1
            trains, text = True, f"epoch {epochs}, {match[2]}"
            share = _share(epochs, job.length)
            left_s = (job.length - epochs) * float(match[3]) if job.length else None
        elif match := _SLURM.match(line):
            text = f"SLURM job {match[1]} {match[2] or ''}".strip()
    return Report(text, share, left_s)


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
    """Each training so far, with the last line of its history in words; the newest first."""
    paths = [
        path
        for pattern in HISTORIES
        for nested in (pattern, f"*/{pattern}")
        for path in results.glob(nested)
    ]
    dated = []
    for path in paths:
        with suppress(OSError):  # a training is just replacing it
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


def last_words(rule: str, log: Path) -> str:
    """Why a job failed, in the words of its log, or that it was killed."""
    lines = [x for x in log.read_text(errors="replace").splitlines() if x] if log.exists() else []
    last = lines[-1] if lines else "none"
    begins = [number for number, line in enumerate(lines) if line.startswith("meddino ")]
    if begins:
        return " ".join(lines[begins[-1] :])
    if any(line.startswith("Traceback") for line in lines):
        return f"{rule} failed: {last} (see {log})"
    return (
        f"{rule} was killed, as by the kernel where memory, or space on a disk, is short; its"
        f" last words: {last} (see {log})"
    )
