"""Preprocessed arrays that come and go: freed once all trainings are done, made anew if need be.

The marker of a configuration stays when its arrays go, so that no finished training looks outdated.
"""

import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from meddino.core import receipts
from meddino.core.errors import MeddinoError
from meddino.core.files import read_json
from meddino.finetune.options import FreeArraysOptions, PreprocessOptions
from meddino.finetune.presets import plans_name

ENDINGS = (".b2nd", "_seg.b2nd", ".pkl")
"""Files of a case, as nnU-Net 2.8.1 writes them."""


def run(options: FreeArraysOptions, *, preprocessed: Path, output: Path) -> None:
    """Delete the arrays of one configuration; plans, splits and the marker stay.

    Args:
        options: which configuration.
        preprocessed: `DatasetNNN_x/<configuration>.json`, from `preprocess`.
        output: the receipt, `.freed.<configuration>.json` beside it, written before anything is
            deleted: `files` (path and bytes of each), `freed` (the date).

    Raises:
        MeddinoError: the marker is of another configuration, or names a folder elsewhere.
    """
    marker = read_json(preprocessed)
    if marker["configuration"] != options.configuration:
        raise MeddinoError(f"{preprocessed} is not of configuration {options.configuration!r}")
    folder = preprocessed.parent / marker["folder"]
    if folder.parent != preprocessed.parent or folder.is_symlink():
        raise MeddinoError(f"{preprocessed} names {folder}, elsewhere; nothing is deleted")
    with _locked(preprocessed):
        files = [file for file in _files(folder, marker["cases"]) if file.is_file()]
        receipts.write(
            output, f"preprocessed {options.configuration}", map(receipts.described, files)
        )
        for file in files:
            file.unlink()
        with suppress(OSError):  # something else is in it, or it is gone
            folder.rmdir()


def restore(preprocessed: Path, num_processes: int) -> None:
    """Preprocess anew what was freed, if it was; the marker and the records stay as they are.

    Args:
        preprocessed: `DatasetNNN_x/<configuration>.json`, from `preprocess`.
        num_processes: processes that resample volumes.

    Raises:
        MeddinoError: see `meddino.finetune.preprocess`.
    """
    if not receipts.of_arrays(preprocessed).exists():
        return
    from meddino.finetune import preprocess

    marker = read_json(preprocessed)
    with _locked(preprocessed):
        folder = preprocessed.parent / marker["folder"]
        if all(file.is_file() for file in _files(folder, marker["cases"])):
            return
        print(f"{folder} was freed; its volumes are preprocessed anew", file=sys.stderr)
        options = PreprocessOptions(
            configuration=marker["configuration"], num_processes=num_processes
        )
        plans = f"{plans_name(None, options.configuration)}.json"
        preprocess.make(options, preprocessed.with_name(plans))


def _files(folder: Path, cases: list[str]) -> list[Path]:
    return [folder / f"{case}{ending}" for case in cases for ending in ENDINGS]


@contextmanager
def _locked(preprocessed: Path) -> Iterator[None]:
    """Hold the arrays of a configuration, also against other hosts where their file system can."""
    with preprocessed.with_name(f".{preprocessed.stem}.lock").open("w") as file:
        with suppress(OSError):  # a file system without locks
            fcntl.lockf(file, fcntl.LOCK_EX)
        yield
