"""nnU-Net as a library: its folders, its output, and checks of the volumes that it reads."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from multiprocessing.pool import ThreadPool
from pathlib import Path

from meddino.core.files import read_json
from meddino.volumes.reader import check_made


@contextmanager
def folders(num_processes: int = 1, **paths: Path) -> Iterator[None]:
    """Set nnU-Net's folders in the environment, the only place that it reads them from.

    Args:
        num_processes: workers of its augmentation; 0 augments in this process.
        paths: any of `raw`, `preprocessed` and `results`, each the parent of `DatasetNNN_x`.
    """
    variables = {f"nnUNet_{name}": str(path) for name, path in paths.items()}
    variables |= {"nnUNet_n_proc_DA": str(num_processes), "nnUNet_def_n_proc": "1"}
    previous = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in previous.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def check_raw(dataset: Path, num_processes: int) -> None:
    """Refuse a benchmark with a truncated volume: nnU-Net would read the missing part as zeros.

    Args:
        dataset: `dataset.json`, raw or with paths to the raw volumes.
        num_processes: files that are read at a time.

    Raises:
        MeddinoError: a volume is truncated; names the file and the remedy.
    """
    paths = [
        Path(os.path.normpath(dataset.parent / name))
        for files in read_json(dataset)["dataset"].values()
        for name in (*files["images"], files["label"])
    ]
    raw = paths[0].parent.parent / "dataset.json"
    read_json(raw.with_name("splits_final.json"), raw)
    with ThreadPool(num_processes) as pool:
        pool.map(lambda path: check_made(path, raw), paths)


@contextmanager
def quiet() -> Iterator[None]:
    """Drop what nnU-Net prints: pages of plans and banners. Its errors are exceptions."""
    with open(os.devnull, "w", encoding="utf-8") as devnull, redirect_stdout(devnull):
        yield
