"""Failures while networks run, as errors that say what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

from meddino.core.errors import MeddinoError
from meddino.models.memory import enough_memory, first_line

DAMAGED = ("blosc2", "Error while getting")
"""Starts of blosc2's messages about truncated or damaged preprocessed files."""
DEAD_WORKER = "background workers are no longer alive"
"""batchgenerators' words when a process that augments has died."""


@contextmanager
def explained(memory: str, workers: str = "") -> Iterator[None]:
    """Turn failures that other options avoid into errors that name these options.

    Args:
        memory: what to lower where memory does not suffice.
        workers: what to do where a process that augments has died; empty if there are none.

    Raises:
        MeddinoError: memory did not suffice, a process died, or a preprocessed file is damaged.
    """
    try:
        with enough_memory(memory):
            yield
    except RuntimeError as error:
        message = str(error)
        if message.startswith(DAMAGED):
            raise MeddinoError(
                f"a preprocessed file is missing or damaged: {first_line(error)}; delete the"
                " marker of its configuration (such as 2d.json) in the folder above it, and rerun"
            ) from error
        if DEAD_WORKER in message:
            raise MeddinoError(f"a process that augments died; {workers}") from error
        raise
