"""nnU-Net as a library: its folders, its quiet, and its pools without processes."""

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from meddino.core.files import read_json
from meddino.volumes.reader import check_made


@contextmanager
def folders(num_processes: int = 1, **paths: Path) -> Iterator[None]:
    """Tell nnU-Net its folders, which it can only learn from the environment.

    Args:
        num_processes: workers of its augmentation; 0 augments in this process.
        paths: any of `raw`, `preprocessed` and `results`, each the parent of `DatasetNNN_x`.
    """
    names = {f"nnUNet_{name}": str(path) for name, path in paths.items()}
    workers = {"nnUNet_n_proc_DA": str(num_processes), "nnUNet_def_n_proc": "1"}
    with mock.patch.dict(os.environ, {**names, **workers}):
        yield


@contextmanager
def pools(num_processes: int) -> Iterator[None]:
    """Let nnU-Net's process pools be a thread of this process if one worker is asked for.

    It always spawns processes, each of which takes seconds to import torch: longer than a small
    data set takes altogether.
    """
    if num_processes > 1:
        yield
        return
    real = multiprocessing.get_context

    def context(method: str | None = None) -> Any:
        return SimpleNamespace(Pool=ThreadPool) if method == "spawn" else real(method)

    with mock.patch.object(multiprocessing, "get_context", context):
        yield


def check_raw(dataset: Path, num_processes: int) -> None:
    """Refuse a benchmark with a volume that is not whole: nnU-Net would read it, in part as zeros.

    Args:
        dataset: `dataset.json`, raw or with paths to the raw volumes.
        num_processes: files that are read at a time.

    Raises:
        MeddinoError: names the file, and what makes it anew.
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
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield
