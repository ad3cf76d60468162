"""How tests start processes that they send signals to, and Snakemake."""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import MappingProxyType

from places import ROOT

from meddino.cli.forkserver import forkserver

SNAKEFILE = ROOT / "workflow" / "Snakefile"
IMPORTED = [
    "snakemake.cli",
    "meddino.study.jobs",
    "meddino.pipeline.options",
    "meddino.slurm.queue",
]
"""What a dry run imports, which takes longer than the rest of it."""
NONE: Mapping[str, str] = MappingProxyType({})
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(IMPORTED)


def heed_all() -> None:
    """Undo, in a process to come, that tests in the background or under `nohup` ignore signals."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def snakemake_environment(package: Path = ROOT) -> dict[str, str]:
    """Variables under which Snakemake and its jobs use `meddino` from the folder `package`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PYTHONPATH": str(package), "PATH": path}


@cache
def preloaded() -> dict[str, str]:
    """Have jobs forked as with `study --preload`, until the tests of this process end."""
    server = forkserver()
    atexit.register(server.__exit__, None, None, None)
    return server.__enter__()


def start_snakemake(
    arguments: list[str],
    folder: Path,
    printed: Path,
    variables: Mapping[str, str] = NONE,
) -> BaseProcess:
    """Start `python -m snakemake` with this checkout's workflow, in a process group of its own.

    The process is forked from a server that has imported Snakemake and `meddino`, which saves two
    thirds of the time of a dry run. Its jobs are ordinary processes.

    Args:
        arguments: What follows `--snakefile Snakefile`.
        folder: The working directory.
        printed: A file for all that the process prints.
        variables: Of the environment, beside those of `snakemake_environment`.
    """
    words = ["--snakefile", str(SNAKEFILE), *arguments]
    process = FORKS.Process(
        target=_be_snakemake,
        args=(words, folder, printed, {**snakemake_environment(), **variables}),
    )
    process.start()
    return process


def _be_snakemake(
    arguments: list[str], folder: Path, printed: Path, variables: Mapping[str, str]
) -> None:
    """Make a forked process like one that a shell started, and run Snakemake's command."""
    import capture
    from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

    import meddino

    ExecutorPluginRegistry().register_plugin("snakemake_executor_plugin_capture", capture)
    if missing := set(IMPORTED) - set(sys.modules):  # the server ignores what it cannot import
        raise RuntimeError(f"no modules of these names: {missing}")
    if Path(str(meddino.__file__)).parents[1] != ROOT:
        raise RuntimeError(f"{meddino.__file__} is not of {ROOT}: set PYTHONPATH")
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    output = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = ["snakemake", *arguments]
    runpy.run_module("snakemake", run_name="__main__", alter_sys=True)


def run_snakemake(
    arguments: list[str], folder: Path, variables: Mapping[str, str] = NONE
) -> subprocess.CompletedProcess[str]:
    """Run Snakemake to its end (see `start_snakemake`); `stdout` holds all that it prints."""
    with tempfile.NamedTemporaryFile("r", encoding="utf-8", suffix=".log") as printed:
        process = start_snakemake(arguments, folder, Path(printed.name), variables)
        try:
            process.join()
        finally:
            process.kill()
        assert process.exitcode is not None
        return subprocess.CompletedProcess(arguments, process.exitcode, printed.read(), "")
