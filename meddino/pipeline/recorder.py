"""Write down how a result came to be, beside the result.

Nothing here changes what a verb makes. A job that is killed between its result and the record
leaves a result without one, which `verify` names and Snakemake does not mind. A record that cannot
be written fails the job: results without one cannot be verified.
"""

import json
import os
import platform
import resource
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from meddino import __version__
from meddino.core import records
from meddino.core.checkout import checkout
from meddino.core.energy import Energy
from meddino.core.files import write_json
from meddino.pipeline import fingerprint
from meddino.pipeline.verbs import VERBS

PACKAGES = (
    "torch", "nnunetv2", "numpy", "pandas", "pyarrow", "SimpleITK", "scikit-image", "scikit-learn",
    "scipy", "timm", "transformers", "pydantic", "snakemake",
)  # fmt: skip
"""What results depend on, as far as it is installed."""
NO_INPUTS = {"output", "state"}


@contextmanager
def recorded(verb: str, options: Any, files: dict[str, Any]) -> Iterator[None]:
    """Record the run of a verb in the block, if it succeeds and this process leads its team.

    Args:
        verb: its name.
        options: what it was told.
        files: its files by flag; `output` is its main result.

    Raises:
        MeddinoError: the record cannot be written.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    output = files["output"]
    with suppress(OSError):  # whoever cannot write there says so better
        records.record_path(output).unlink(missing_ok=True)
    record = {**_what(verb, options), "inputs": _inputs(files), "host": _host()}
    started, clock = datetime.now(UTC), time.monotonic()
    with Energy() as energy:
        yield
    record |= {
        "started": started.isoformat(timespec="milliseconds"),
        "ended": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "wall_s": round(time.monotonic() - clock, 3),
        "cpu_s": round(_cpu_seconds(), 3),
        "peak_memory_bytes": _peak_memory(),
        "cpu_energy_j": energy.joules,
    }
    record["host"]["gpus"] = _gpus()
    made = [records.entry(path) for path in outputs(verb, options, output)]
    write_json(records.record_path(output), {**record, "outputs": made})


def outputs(verb: str, options: Any, output: Path) -> list[Path]:
    """The files of a result: the main one first, then those that its verb makes beside it."""
    patterns = [each.format(stem=output.stem, options=options) for each in VERBS[verb].beside]
    found = {path for pattern in patterns for path in output.parent.glob(pattern)}
    visible = (path for path in found if path.is_file() and not path.name.startswith("."))
    return [output, *sorted(set(visible) - {output})]


def _what(verb: str, options: Any) -> dict[str, Any]:
    told = TypeAdapter(type(options)).dump_json(options)
    return {
        "verb": verb,
        "revision": VERBS[verb].revision,
        "code": fingerprint.digest(VERBS[verb].module),
        "git": checkout(fingerprint.PACKAGE.parent),
        "versions": _versions(),
        "options": json.loads(told),
    }


def _inputs(files: dict[str, Any]) -> dict[str, list[records.Entry]]:
    """Inputs by flag; those that are not there are left to the verb, which knows the remedy."""
    given = {
        key: [path for path in (paths if isinstance(paths, list) else [paths]) if path]
        for key, paths in files.items()
        if key not in NO_INPUTS
    }
    said = records.listed({path.parent for paths in given.values() for path in paths})
    found = {
        key: [_input(path, said) for path in paths if path.is_file()]
        for key, paths in given.items()
    }
    return {key: entries for key, entries in found.items() if entries}


def _input(path: Path, said: dict[str, records.Entry]) -> records.Entry:
    """An input, as the record of its maker has it if it was not touched since."""
    found = said.get(records.located(path))
    if found is None or not records.untouched(found):
        found = records.entry(path)
    return {key: found[key] for key in ("path", "sha256", "bytes")}


def _versions() -> dict[str, str]:
    found = {"meddino": __version__, "Python": platform.python_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _host() -> dict[str, Any]:
    job = os.environ.get("SLURM_JOB_ID")
    about = {"name": socket.gethostname(), "system": platform.platform(), "cpus": os.cpu_count()}
    return about if job is None else {**about, "slurm_job": job}


def _gpus() -> list[str]:
    """GPUs that torch can use, if the verb loaded torch."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(each) for each in range(torch.cuda.device_count())]


def _cpu_seconds() -> float:
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    used = [resource.getrusage(kind) for kind in kinds]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _peak_memory() -> int:
    """Most that this process or one of its children held (bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    try:  # Not ru_maxrss, which a process inherits from the one that starts it.
        status = Path("/proc/self/status").read_text(encoding="utf-8").split()
        own = int(status[status.index("VmHWM:") + 1]) * 1024
    except (OSError, ValueError):
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return max(own, children)
