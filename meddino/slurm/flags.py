"""Flags of sbatch, as a configuration or a person gives them for one job."""

import shlex
from typing import NamedTuple

from meddino.core.errors import MeddinoError

NOTICE_SECONDS = 300
"""Before the time limit the job is told to stop: enough for an iteration and a checkpoint."""
RESERVED = ("job-name", "output", "error", "open-mode", "requeue", "array", "wrap", "chdir")
"""Flags of sbatch that meddino sets itself."""


class Flags(NamedTuple):
    """What a job asks of the cluster: `minutes` until its time limit, `notice` (s) before it."""

    nodes: int
    tasks_per_node: int
    minutes: int
    notice: int
    others: dict[str, str | bool]

    @classmethod
    def parse(cls, text: str) -> "Flags":
        """Read flags of sbatch in their long form, such as `--gpus-per-node=8 --time=2-00:00:00`.

        Raises:
            MeddinoError: a flag is in its short form or reserved, or there is no time limit.
        """
        flags = _long_flags(text)
        if reserved := sorted(set(flags) & set(RESERVED)):
            name = reserved[0]
            raise MeddinoError(f"sbatch: --{name} is set by meddino; leave it out of {text!r}")
        # One process drives one GPU, unless the user sets the number of processes.
        gpus = str(flags.get("gpus-per-node", "")).rpartition(":")[2]
        tasks = flags.pop("ntasks-per-node", gpus or "1")
        nodes, limit = flags.pop("nodes", "1"), flags.pop("time", "none")
        notice = str(flags.pop("signal", f"USR2@{NOTICE_SECONDS}")).rpartition("@")[2]
        try:
            return cls(int(nodes), int(tasks), _minutes(str(limit)), int(notice), flags)
        except ValueError as error:
            raise MeddinoError(
                f"sbatch: cannot read {text!r}; give --time too ({error})"
            ) from error


def _long_flags(text: str) -> dict[str, str | bool]:
    flags: dict[str, str | bool] = {}
    words = shlex.split(text)
    while words:
        word = words.pop(0)
        if not word.startswith("--") or len(word) < 3:
            raise MeddinoError(f"sbatch: write flags as --key=value, not {word!r}, in {text!r}")
        key, equals, value = word[2:].partition("=")
        value_follows = bool(words) and not words[0].startswith("-")
        flags[key] = value if equals else words.pop(0) if value_follows else True
    return flags


def _minutes(text: str) -> int:
    """SLURM's ways to write a time, `minutes[:seconds]` or `[days-]hours[:minutes[:seconds]]`."""
    days, dash, clock = text.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if len(parts) < 3:
        parts = [*parts, 0, 0][:3] if dash else [0, *parts, 0][:3]
    hours, minutes, seconds = parts
    return max(1, int(days or 0) * 1440 + hours * 60 + minutes + (seconds + 59) // 60)
