"""Failures while networks run, as errors that say what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from meddino.core.errors import MeddinoError

NO_MEMORY = ("not enough memory", "can't allocate memory", "CUDA out of memory")
"""Torch's words on CPUs and GPUs, also where they come out of a compiled network."""
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
        yield
    except (MemoryError, RuntimeError) as error:
        message = str(error)
        out_of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if out_of_memory or any(words in message for words in NO_MEMORY):
            raise MeddinoError(f"not enough memory; {memory} ({_first_line(message)})") from error
        if message.startswith(DAMAGED):
            raise MeddinoError(
                f"a preprocessed file is missing or damaged: {_first_line(message)}; delete the"
                " marker of its configuration (such as 2d.json) in the folder above it, and rerun"
            ) from error
        if DEAD_WORKER in message:
            raise MeddinoError(f"a process that augments died; {workers}") from error
        raise


def _first_line(message: str) -> str:
    return message.splitlines()[0][:200] if message else "no details"
