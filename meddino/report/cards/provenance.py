"""The `provenance` verb: the records of everything that a study's results were made from."""

import base64
import urllib.parse
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from meddino.core import records
from meddino.core.files import write_json
from meddino.report.options import ProvenanceOptions

Record = dict[str, Any]
CRATE = "https://w3id.org/ro/crate/1.1"
DESCRIPTOR = {
    "@id": "ro-crate-metadata.json",
    "@type": "CreativeWork",
    "about": {"@id": "./"},
    "conformsTo": {"@id": CRATE},
}
PROFILE = {
    "@id": "https://w3id.org/ro/wfrun/process/0.5",
    "@type": "CreativeWork",
    "name": "Process Run Crate",
    "version": "0.5",
}
TERMS = {
    "@id": "#terms",
    "@type": "CreativeWork",
    "name": "Terms of the sources",
    "description": "Data and weights have licences of their own, which the model cards (README.md"
    " beside each model) list.",
}
MEDIA_TYPES = {
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".csv": "text/csv",
    ".md": "text/markdown",
    ".tex": "application/x-tex",
    ".html": "text/html",
    ".png": "image/png",
    ".parquet": "application/vnd.apache.parquet",
    ".gz": "application/gzip",
    ".zip": "application/zip",
    ".tar": "application/x-tar",
}
UNKNOWN = "application/octet-stream"


def run(options: ProvenanceOptions, *, results: list[Path], output: Path) -> None:
    """Collect the records of results, and of what they were made from, back to the raw data.

    Args:
        options: title of the study.
        results: final results of the study.
        output: `ro-crate-metadata.json`, which makes its folder a Process Run Crate 0.5 (RO-Crate
            1.1); beside it appears `provenance.json`: `summary`, `without` (files that have no
            record) and `records`, by the path of each.
    """
    lineage, without = records.lineage(results)
    path = output.with_name("provenance.json")
    content = {"summary": summary(lineage, without), "without": without, "records": lineage}
    write_json(path, content)
    write_json(output, crate(options, lineage, output.parent, path))


def summary(lineage: dict[str, Record], without: list[str]) -> dict[str, Any]:
    """Totals over all jobs: commits, hosts, versions, and effort by verb.

    Args:
        lineage: records of the jobs by the path of each.
        without: files that have no record.
    """
    jobs = sorted(lineage.values(), key=lambda record: (record["ended"], record["verb"]))
    versions: dict[str, set[str]] = {}
    for name, number in (item for record in jobs for item in record["versions"].items()):
        versions.setdefault(name, set()).add(number)
    return {
        "results": len(jobs),
        "without": len(without),
        "commits": dict(Counter(_commit(record) for record in jobs)),
        "hosts": dict(Counter(record["host"]["name"] for record in jobs)),
        "gpus": dict(Counter(name for record in jobs for name in set(record["host"]["gpus"]))),
        "versions": {name: sorted(numbers) for name, numbers in versions.items()},
        "verbs": [
            {"verb": verb, **_effort([record for record in jobs if record["verb"] == verb])}
            for verb in dict.fromkeys(record["verb"] for record in jobs)
        ],
    }


def _effort(jobs: list[Record]) -> dict[str, Any]:
    """Time, memory, energy and files of jobs together; energy is None where no job read it."""
    energy = [job["cpu_energy_j"] for job in jobs if job["cpu_energy_j"] is not None]
    files = [file for job in jobs for file in job["outputs"]]
    return {
        "jobs": len(jobs),
        "wall_s": round(sum(job["wall_s"] for job in jobs), 1),
        "cpu_s": round(sum(job["cpu_s"] for job in jobs), 1),
        "peak_memory_bytes": max(job["peak_memory_bytes"] for job in jobs),
        "cpu_energy_j": sum(energy) if energy else None,
        "files": len(files),
        "bytes": sum(file["bytes"] for file in files),
    }


def _commit(record: Record) -> str:
    """Commit of the code, with a mark if files were edited; a digest where there is no checkout."""
    git = record["git"]
    if git is None:
        return f"meddino {record['versions']['meddino']}, installed"
    return f"{git['commit']}{', edited' if git['dirty'] else ''}"


def crate(
    options: ProvenanceOptions, lineage: dict[str, Record], folder: Path, path: Path
) -> dict[str, Any]:
    """The records as an RO-Crate: each job an action that a verb does, from files, to files.

    Files outside the crate, which its standard names by absolute URIs only, are named by their
    contents (RFC 6920).

    Args:
        options: title of the study.
        lineage: records of the jobs.
        folder: the crate.
        path: `provenance.json` in it.
    """
    entities: dict[str, Record] = {path.name: _all_records(path)}
    for record in lineage.values():
        outputs = [_file(file, folder) for file in record["outputs"]]
        used = [_file(file, folder) for group in record["inputs"].values() for file in group]
        tool = _tool(record)
        for entity in (*outputs, *used, tool, _action(record, outputs, used, tool)):
            entities.setdefault(entity["@id"], entity)
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": options.title,
        "description": "Results of a study by meddino, with how each of them was made.",
        "datePublished": max(
            (record["ended"] for record in lineage.values()), default="1970-01-01"
        ),
        "license": {"@id": TERMS["@id"]},
        "conformsTo": {"@id": PROFILE["@id"]},
        "hasPart": _references(e for e in entities.values() if e["@type"] == "File"),
        "mentions": _references(e for e in entities.values() if e["@type"] == "CreateAction"),
    }
    graph = [DESCRIPTOR, root, PROFILE, TERMS, *entities.values()]
    return {"@context": f"{CRATE}/context", "@graph": graph}


def _references(entities: Iterable[Record]) -> Record | list[Record]:
    """Links to entities: a list, or a single link by itself, as RO-Crates have it."""
    links = [{"@id": entity["@id"]} for entity in entities]
    return links[0] if len(links) == 1 else links


def _all_records(path: Path) -> Record:
    return {
        "@id": path.name,
        "@type": "File",
        "name": "Records of all jobs",
        "encodingFormat": MEDIA_TYPES[".json"],
        "description": "Options, code, versions, hosts, times, memory and files of every job.",
    }


def _file(entry: records.Entry, folder: Path) -> Record:
    path = Path(entry["path"])
    inside = records.located(folder) in map(str, path.parents)
    return {
        "@id": urllib.parse.quote(str(path.relative_to(records.located(folder))))
        if inside
        else _by_contents(entry["sha256"]),
        "@type": "File",
        "name": entry["path"],
        "encodingFormat": MEDIA_TYPES.get(path.suffix, UNKNOWN),
        "contentSize": str(entry["bytes"]),
        "sha256": entry["sha256"],
    }


def _by_contents(sha256: str) -> str:
    digest = base64.urlsafe_b64encode(bytes.fromhex(sha256)).decode("ascii").rstrip("=")
    return f"ni:///sha-256;{digest}"


def _tool(record: Record) -> Record:
    version = (
        f"{record['versions']['meddino']}, revision {record['revision']}, code {record['code']}"
    )
    return {
        "@id": f"#{record['verb']}-{record['revision']}-{record['code']}",
        "@type": "SoftwareApplication",
        "name": f"meddino {record['verb']}",
        "softwareVersion": version,
    }


def _action(record: Record, outputs: list[Record], used: list[Record], tool: Record) -> Record:
    return {
        "@id": f"#made-{outputs[0]['sha256'][:16]}-{outputs[0]['name']}",
        "@type": "CreateAction",
        "name": f"{record['verb']}: {outputs[0]['name']}",
        "instrument": {"@id": tool["@id"]},
        "object": _references(used),
        "result": _references(outputs),
        "startTime": record["started"],
        "endTime": record["ended"],
        "description": f"{record['wall_s']} s on {record['host']['name']}, by {_commit(record)}",
    }
