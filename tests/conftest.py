"""What every test starts from: a neutral environment, and an empty folder as working directory."""

import locale
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT

FORGOTTEN = (
    *("CUDA_", "NVIDIA_", "RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "MASTER_", "TORCH"),
    *("SLURM_", "SBATCH_", "SNAKEMAKE_", "APPTAINER", "SINGULARITY", "GIT_", "nnUNet"),
    *("OMP_", "MKL_", "OPENBLAS_", "ITK_", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_"),
    *("CLICOLOR", "LANG", "LC_", "PYTHONWARNINGS", "PYTHONOPTIMIZE", "MPL"),
)
"""Beginnings of variables that a shell, a scheduler or a git hook may have set."""
FIXED = {
    "CUDA_VISIBLE_DEVICES": "",  # a test that needs a GPU says so: `python -m pytest -m gpu`
    "LC_ALL": "C.UTF-8",
    "OMP_NUM_THREADS": "1",  # arrays of tests only lose by more, and workers share the cores
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1",
    "TERM": "dumb",
    "TZ": "UTC",
}
STUDY = ("results", "logs", "resources", ".snakemake")
"""Folders of a study in the checkout: the developer's own, which no test may touch."""
CACHE = ".snakemake/iocache/"
"""Rewritten whenever Snakemake plans, as the build of the documentation does; it is no result."""
LONGEST = ("test_study", "test_documented_commands", "test_workflow", "test_security")
Files = dict[str, tuple[int, int]]


def pytest_configure(config: pytest.Config) -> None:
    """Make the environment the same everywhere, before torch and its like are imported."""
    for name in list(os.environ):
        own = name.startswith("MEDDINO_") and not name.startswith("MEDDINO_TEST_")
        if own or name.startswith(FORGOTTEN):
            if name.startswith("CUDA_") and config.option.markexpr == "gpu":
                continue
            del os.environ[name]
    fixed = dict(FIXED)
    if config.option.markexpr == "gpu":
        del fixed["CUDA_VISIBLE_DEVICES"]
    os.environ.update(fixed)
    time.tzset()
    # What tests start is of this checkout and of this interpreter's environment.
    prepend("PYTHONPATH", str(ROOT))
    prepend("PATH", str(Path(sys.executable).parent))


def prepend(name: str, folder: str) -> None:
    """Put a folder first in a variable that lists some."""
    folders = [folder, *filter(None, os.environ.get(name, "").split(os.pathsep))]
    os.environ[name] = os.pathsep.join(dict.fromkeys(folders))


def study_files() -> Files:
    """Size and time of every file of a study in the checkout."""
    files: Files = {}
    for area in STUDY:
        for folder, _, names in os.walk(ROOT / area):
            for name in names:
                path = os.path.join(folder, name)
                if CACHE in path:
                    continue
                status = os.lstat(path)
                files[path] = (status.st_size, status.st_mtime_ns)
    return files


class Guard:
    """Fail a session in which a test wrote into the checkout's study."""

    def __init__(self) -> None:
        self.before = study_files()
        self.touched: list[str] = []

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        after = study_files()
        self.touched = sorted(path for path, _ in self.before.items() ^ after.items())
        if self.touched and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        paths = list(dict.fromkeys(self.touched))
        for path in paths[:20]:
            terminalreporter.write_line(f"a test (or a study that runs here) changed {path}")


def pytest_sessionstart(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):  # once, not in each worker of pytest-xdist
        session.config.pluginmanager.register(Guard())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest modules first, so that no worker of pytest-xdist ends with one of them."""
    order = {f"{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="session", autouse=True)
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Take fixtures of modules out of the folder that pytest was started in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("outside"))
        yield


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test in its own empty folder, in one locale.

    Writing DICOM (SimpleITK 2.5) leaves a process in the locale C, where text is ASCII.
    """
    monkeypatch.chdir(tmp_path)
    locale.setlocale(locale.LC_ALL, FIXED["LC_ALL"])


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT
