"""The study at a glance, from the records of its jobs: what ran, on what, how long."""

import json
import shlex
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import pandas as pd

from meddino.report.options import Prices, ReportOptions
from meddino.report.page.names import benchmark_label

Record = dict[str, Any]


def effort(records: Iterable[Record], prices: Prices) -> dict[str, Any]:
    """Time, energy and cost of all jobs together.

    Args:
        records: records of the jobs.
        prices: prices of time.

    Returns:
        `jobs`; `started`, `ended` (ISO 8601, or None) and `elapsed_s` from the first job's start to
        the last one's end, `wall_s` of all jobs added up; `core_h` (hours of cores that were busy),
        `gpu_h` (hours of jobs that could use GPUs, times their number); `energy_kj` of the
        processors as far as `metered` jobs could read it; `cost`, None where no price is given.
    """
    jobs = list(records)
    starts, ends = (sorted(job[key] for job in jobs) for key in ("started", "ended"))
    metered = [job["cpu_energy_j"] for job in jobs if job["cpu_energy_j"] is not None]
    core_h = sum(job["cpu_s"] for job in jobs) / 3600
    gpu_h = sum(job["wall_s"] * len(job["host"]["gpus"]) for job in jobs) / 3600
    return {
        "jobs": len(jobs),
        "started": starts[0] if jobs else None,
        "ended": ends[-1] if jobs else None,
        "elapsed_s": _seconds(starts[0], ends[-1]) if jobs else 0.0,
        "wall_s": sum(job["wall_s"] for job in jobs),
        "core_h": core_h,
        "gpu_h": gpu_h,
        "energy_kj": sum(metered) / 1e3 if metered else None,
        "metered": len(metered),
        "cost": _cost(jobs, prices),
    }


def _seconds(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def _cost(jobs: Sequence[Record], prices: Prices) -> float | None:
    """Price of all hours: of GPUs where a job had some, else of its busy cores."""
    if prices.gpu_hour is None and prices.core_hour is None:
        return None
    with_gpu = sum(job["wall_s"] * len(job["host"]["gpus"]) for job in jobs)
    without = sum(job["cpu_s"] for job in jobs if not job["host"]["gpus"])
    return ((prices.gpu_hour or 0) * with_gpu + (prices.core_hour or 0) * without) / 3600


def hosts(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Machines: `name`, `system`, `cpus`, `gpus` (kinds and numbers as text), `jobs`."""
    by_name: dict[str, dict[str, Any]] = {}
    for job in records:
        host = job["host"]
        entry = by_name.setdefault(host["name"], {**host, "gpus": "", "jobs": 0})
        entry["jobs"] += 1
        kinds = {name: host["gpus"].count(name) for name in sorted(set(host["gpus"]))}
        entry["gpus"] = entry["gpus"] or ", ".join(f"{n} x {name}" for name, n in kinds.items())
    return [by_name[name] for name in sorted(by_name)]


def stages(records: Iterable[Record], names: dict[str, str]) -> list[dict[str, Any]]:
    """Stages of pretraining as they ran: `name`, `iterations`, `batch`, `wall_s`."""
    jobs = sorted((job for job in records if job["verb"] == "pretrain"), key=_ended)
    return [
        {
            "name": names.get(options["name"], options["name"]),
            "iterations": options["stage"]["iterations"],
            "batch": options["stage"]["batch_size"],
            "wall_s": job["wall_s"],
        }
        for job in jobs
        for options in [job["options"]]
    ]


def steps(
    summary: dict[str, Any],
    card: dict[str, Any] | None,
    counts: dict[str, Any],
    has_paper: bool,
) -> list[Any]:
    """The pipeline as boxes: `title`, `what` it does, its `result`, and `wall_s` of all its jobs.

    Args:
        summary: summary of the records of all jobs.
        card: the data card; None where nothing is curated.
        counts: `models`, `cases` of each benchmark, and `scores`, from `cases.counts`.
        has_paper: whether a table has values of the paper.
    """
    wall_s = {entry["verb"]: entry["wall_s"] for entry in summary["verbs"]}
    jobs = {entry["verb"]: entry["jobs"] for entry in summary["verbs"]}
    boxes = [
        ("Fetch", "public CT datasets", counted(jobs.get("fetch", 0), "dataset"),
         ("fetch", "phantom")),
        *([] if card is None else [_curate(card)]),
        ("Pretrain", "DINOv3 on CT, stage by stage", counted(jobs["pretrain"], "stage"),
         ("pretrain", "leaves", "weights"))
        if jobs.get("pretrain")
        else ("Weights", "published ones, checked", counted(jobs.get("weights", 0), "checkpoint"),
              ("weights",)),
        ("Finetune", "each method, inside nnU-Net", counted(counts["models"], "model"),
         ("convert", "plan", "preprocess", "finetune")),
        ("Segment", "validation cases", counted(sum(counts["cases"].values()), "case"),
         ("predict",)),
        ("Score", "DSC and NSD, beside the paper" if has_paper else "DSC and NSD",
         counted(counts["scores"], "score"),
         ("evaluate", "probe", "scores", "tables", "figures", "overlays")),
    ]  # fmt: skip
    return [
        {
            "title": title,
            "what": what,
            "result": result,
            "wall_s": sum(wall_s.get(verb, 0) for verb in verbs),
        }
        for title, what, result, verbs in boxes
    ]


def _curate(card: dict[str, Any]) -> tuple[str, str, str, tuple[str, ...]]:
    volumes, slices = (sum(d[key] for d in card["datasets"]) for key in ("volumes", "slices"))
    result = f"{counted(volumes, 'volume')}, {counted(slices, 'slice')}"
    return "Curate", "axial slices, copies found", result, ("slices", "duplicates", "index", "card")


def counted(count: int, name: str) -> str:
    """A number with its noun: `1 slice`, `1,100 slices`."""
    return f"{count:,} {name}{'' if count == 1 else 's'}"


def headlines(options: ReportOptions, lines: pd.DataFrame) -> dict[str, list[str]]:
    """Rows with the highest DSC, each with the names of the benchmarks where it has it.

    Args:
        options: names of the benchmarks.
        lines: lines of all tables.
    """
    scores = lines[(lines["protocol"] == "paper") & (lines["metric"] == "DSC")]
    best: dict[str, list[str]] = {}
    for benchmark, part in scores.dropna(subset=["ours"]).groupby("benchmark", sort=False):
        row = part.sort_values("ours", kind="stable")["row"].iloc[-1]
        best.setdefault(str(row), []).append(benchmark_label(options, str(benchmark)))
    return best


def commands(records: Iterable[Record]) -> list[dict[str, str]]:
    """One job of each verb as a command line, in the order in which verbs first ended."""
    by_verb: dict[str, str] = {}
    for job in sorted(records, key=_ended):
        by_verb.setdefault(job["verb"], command(job))
    return [{"verb": verb, "command": line} for verb, line in by_verb.items()]


def command(job: Record) -> str:
    """The command line that repeats a job, from its record, for a POSIX shell.

    The folder that a trainer resumes in is left out, so that the line starts afresh.
    """
    words = ["python", "-m", "meddino", job["verb"]]
    words += ["--options", json.dumps(job["options"], sort_keys=True, separators=(",", ":"))]
    for flag, entries in job["inputs"].items():
        words += [f"--{flag.replace('_', '-')}", *(entry["path"] for entry in entries)]
    return shlex.join([*words, "--output", job["outputs"][0]["path"]])


def _ended(job: Record) -> tuple[str, str]:
    return job["ended"], job["verb"]


def duration(seconds: float) -> str:
    """Seconds in their two largest units: `42 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    total = round(seconds)
    for size, inner, unit, smaller in (
        (86400, 3600, "d", "h"),
        (3600, 60, "h", "min"),
        (60, 1, "min", "s"),
    ):
        if total >= size:
            rest = total % size // inner
            return f"{total // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{total} s" if total else "< 1 s"
