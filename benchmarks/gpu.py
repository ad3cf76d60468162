"""Everything that only a GPU can tell, in one command: `make gpu-test` (docs/gpu.md).

    python benchmarks/gpu.py [--only stage1 waits] [--peer CHECKOUT] [--output gpu-test.json]
    python benchmarks/gpu.py --dry-run              the same checks on a CPU, tiny, in a minute
    python benchmarks/gpu.py --table gpu-test.json  the tables of what somebody sent

Needs Python 3.11, torch, NumPy and PyArrow; nothing need be installed of this project. Finetuning
is compared where nnU-Net is there too, and pretraining with the public trainer where CHECKOUT is a
clone of facebookresearch/dinov3. Each check is a process with a limit of time, so that one that
fails or hangs costs no other; what came of all so far is in the JSON at any time. Exits with 1 when
a check failed.
"""

import argparse
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
NEEDED = ("torch", "numpy", "pyarrow")


class Check(NamedTuple):
    """A check, and how long it may take."""

    name: str
    place: str
    """MODULE:FUNCTION."""
    limit_s: float


CHECKS = (
    Check("environment", "gpu_checks.environment:environment", 120),
    Check("parity", "gpu_checks.parity:parity", 240),
    Check("resume", "gpu_checks.resume:resume", 300),
    Check("waits", "gpu_checks.waits:waits", 240),
    Check("attention", "gpu_checks.attention:attention", 240),
    Check("stage1", "gpu_checks.speed:stage1", 400),
    Check("stage2", "gpu_checks.speed:stage2", 400),
    Check("stage3_512", "gpu_checks.speed:stage3_512", 500),
    Check("stage3_768", "gpu_checks.speed:stage3_768", 500),
    Check("stage3_all", "gpu_checks.speed:stage3_all", 600),
    Check("ddp", "gpu_checks.teams:ddp", 240),
    Check("fsdp", "gpu_checks.teams:fsdp", 240),
    Check("collapse", "gpu_checks.collapse:collapse", 240),
    Check("finetuning", "gpu_checks.others:finetuning", 1200),
    Check("public", "gpu_checks.others:public", 600),
)
LOG_LINES = 20
"""Of what a failed check has printed."""
SEND_BACK = """
Send back {name}: attach it to an issue of this project, or give it to whoever asked you for this.
It tells of the GPU, the driver, the libraries and the figures above. It holds no name of you or of
your machine, and no path of yours: look into it, it is plain text. A failure is worth as much as a
figure.
"""


def main() -> int:
    """Run the checks that are asked for, and print what came of them."""
    arguments = _arguments()
    missing = [name for name in NEEDED if find_spec(name) is None]
    if sys.version_info < (3, 11) or missing:
        lacks = [f"Python 3.11 (this is {sys.version.split()[0]})", *missing]
        print(f"needs {', '.join(lacks[sys.version_info >= (3, 11) :])}", file=sys.stderr)
        return 1
    if arguments.dry_run:
        os.environ["OMP_NUM_THREADS"] = "1"  # more threads only wait for each other over so little
    _make_importable()
    if arguments.table:
        return _print_tables(arguments.table)
    if not arguments.dry_run and (reason := _no_gpu()):
        print(f"no GPU: {reason}; --dry-run tries all on the CPU", file=sys.stderr)
        return 1
    names = [check.name for check in CHECKS]
    chosen = [check for check in CHECKS if check.name in (arguments.only or names)]
    settings = {
        "device": "cpu" if arguments.dry_run else "cuda",
        "small": arguments.dry_run,
        "peer": arguments.peer and arguments.peer.resolve(),
    }
    # A scheduler's time limit is an end like Ctrl-C: nothing goes on, and what is done is kept.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return run(chosen, settings, arguments.output)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [check.name for check in CHECKS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="CHECK", help=", ".join(names))
    parser.add_argument("--peer", type=Path, help="clone of facebookresearch/dinov3")
    parser.add_argument("--output", type=Path, default=Path("gpu-test.json"))
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, with a tiny network")
    parser.add_argument("--table", type=Path, help="print the tables of such a file, run nothing")
    return parser.parse_args()


def _make_importable() -> None:
    """Let this process and those that it starts import the project from this checkout."""
    folders = [str(ROOT), str(ROOT / "benchmarks")]
    sys.path[:1] = folders
    inherited = filter(None, [os.environ.get("PYTHONPATH")])
    os.environ["PYTHONPATH"] = os.pathsep.join([*folders, *inherited])


def _no_gpu() -> str:
    """Why there is no GPU; empty where there is one."""
    import torch

    from meddino.models.device import obstacle

    return "" if torch.cuda.is_available() else obstacle(os.environ)


def run(checks: Sequence[Check], settings: dict[str, Any], output: Path) -> int:
    """Run checks one after the other, and keep what came of them.

    Args:
        checks: in their order.
        settings: fields of `gpu_checks.bench.Bench`, but the folder.
        output: JSON, written whole after each check.

    Returns:
        The exit status: 1 when a check failed, 130 when the user stopped it.
    """
    from gpu_checks.private import anonymous
    from gpu_checks.tables import brief, tables

    from meddino.core.files import write_json

    report: dict[str, Any] = {**_origin(), "dry_run": settings["small"], "checks": []}
    status = 0
    with tempfile.TemporaryDirectory(prefix="meddino-gpu-") as folder:
        for number, check in enumerate(checks, start=1):
            print(f"[{number}/{len(checks)}] {check.name} ...", end=" ", flush=True)
            start = time.monotonic()
            try:
                outcome = _outcome(check, settings, Path(folder))
            except KeyboardInterrupt:
                print("stopped")
                status = 130
                break
            outcome = {**anonymous(outcome), "seconds": round(time.monotonic() - start, 1)}
            report["checks"].append({"name": check.name, **outcome})
            write_json(output, report)
            print(brief(outcome), flush=True)
            status = max(status, outcome["status"] == "failed")
    if report["checks"]:
        print(f"\n{tables(report)}{SEND_BACK.format(name=output.name)}")
    return int(status)


def _outcome(check: Check, settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What a check's process leaves, or how it ended when it leaves nothing."""
    from gpu_checks import child

    from meddino.core.files import read_json

    result, log = (folder / f"{check.name}.{part}" for part in ("result", "log"))
    # Forked from a process that has imported torch, and has not looked for a GPU.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["gpu_checks.bench"])
    process = processes.Process(
        target=child.work, args=(check.place, {**settings, "folder": folder}, result, log)
    )
    process.start()
    try:
        process.join(check.limit_s)
        ending = f"it ended with {process.exitcode} and left no result"
        if process.is_alive():
            ending = f"stopped, since it took more than {check.limit_s:g} s"
    finally:
        _end(process)
    outcome: dict[str, Any] = {"status": "failed", "error": ending}
    if result.exists():
        outcome = read_json(result)
    if outcome["status"] == "failed" and log.exists():
        outcome["log"] = log.read_text("utf-8", errors="replace").splitlines()[-LOG_LINES:]
    return outcome


def _end(process: Any) -> None:
    """Stop a check that still runs, and what it has started."""
    if process.is_alive():
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
    process.join()


def _origin() -> dict[str, Any]:
    """Which version of the project this is."""
    import meddino
    from meddino.core.checkout import checkout

    commit = "not known"
    if state := checkout(ROOT):
        commit = f"{state['commit'][:7]}{'-dirty' * state['dirty']}"
    return {"meddino": meddino.__version__, "commit": commit}


def _print_tables(path: Path) -> int:
    from gpu_checks.tables import tables

    print(tables(json.loads(path.read_text("utf-8"))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
