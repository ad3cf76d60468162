"""Checkpoints that a killed run resumes from: the last ones, whole or passed over."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from meddino.core.errors import MeddinoError
from meddino.core.files import atomic
from meddino.models import loading
from meddino.models.distributed import Team

KEPT = 2
"""Checkpoints to resume from: the one before the last, in case that the last is damaged."""


def save(state: Path, done: int, content: dict[str, Any]) -> None:
    """Write `content` to resume from, and forget all but the last ones before it.

    A full disk is no reason to lose what is in memory: the previous checkpoint stays, and training
    goes on with a warning.

    Args:
        state: the folder.
        done: iterations or epochs that are done.
        content: tensors and plain values.
    """
    try:
        write(state / f"checkpoint-{done:09d}.pt", content)
    except MeddinoError as error:
        print(f"no checkpoint: {error}", file=sys.stderr, flush=True)
        return
    for old in found(state)[KEPT:]:
        old.unlink()


def found(state: Path) -> list[Path]:
    """Checkpoints to resume from, the newest first."""
    return sorted(state.glob("checkpoint-*.pt"), reverse=True)


def newest(state: Path) -> dict[str, Any] | None:
    """The last checkpoint that can be read, or None."""
    paths = found(state)
    for path in paths:
        try:
            return loading.read(path)
        except MeddinoError as error:
            print(f"passed over: {error}", file=sys.stderr, flush=True)
    if paths:
        print(f"starting anew: no checkpoint in {state} is whole", file=sys.stderr, flush=True)
    return None


def agreed(state: Path, team: Team) -> dict[str, Any] | None:
    """`newest`, of which all processes of a team see the same.

    Raises:
        MeddinoError: they see different ones.
    """
    content = newest(state)
    done = team.gather(None if content is None else content.get("iteration", content.get("epoch")))
    if len(set(done)) > 1:
        raise MeddinoError(
            f"the last checkpoint in {state} that can be read is not the same for all processes:"
            f" {', '.join(f'{number} ({rank})' for rank, number in enumerate(done))} (process);"
            " put `results` on a file system that all nodes see alike, or delete what is damaged"
        )
    return content


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint atomically.

    Raises:
        MeddinoError: it cannot be written; what was at `path` is still there.
    """
    with atomic(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:
            # torch's own writer does not say why; a full disk is what there is to mend.
            raise MeddinoError(
                f"cannot write {path} ({str(error).splitlines()[0]}); free space, then rerun"
            ) from error


class Writer:
    """Writes in a thread while training goes on: never more than one thing at a time."""

    def __init__(self, thread: ThreadPoolExecutor) -> None:
        """Let it write in `thread`."""
        self._thread = thread
        self._writing: Future[None] | None = None

    def start(self, write: Callable[[], None]) -> None:
        """Have `write` called as soon as what was started before it is done.

        Raises:
            MeddinoError: that could not be written.
        """
        self.wait()
        self._writing = self._thread.submit(write)

    def check(self) -> None:
        """Raise the error of what was started, if it has met one by now."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Wait until all that was started is written.

        Raises:
            MeddinoError: it could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


@contextmanager
def writer() -> Iterator[Writer]:
    """Yield a `Writer`, and wait for it at the end of the block, also of one that fails.

    Raises:
        MeddinoError: the last thing that was started could not be written.
    """
    with ThreadPoolExecutor(1) as thread:
        writer = Writer(thread)
        yield writer
        writer.wait()
