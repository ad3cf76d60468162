"""What goes wrong while networks run, in words that say what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from meddino.core.errors import MeddinoError

NO_MEMORY = ("not enough memory", "can't allocate memory", "CUDA out of memory")
"""Torch's words on CPUs and GPUs, also where they come out of a compiled network."""
DAMAGED = ("blosc2", "Error while getting")
"""How blosc2's complaints of nnU-Net's preprocessed files begin that are cut off or damaged."""
DEAD_WORKER = "background workers are no longer alive"
"""batchgenerators' words when a process that augments has died."""


@contextmanager
def explained(memory: str, workers: str = "") -> Iterator[None]:
    """Raise failures that options mend as errors that name them.

    Args:
        memory: what to lower where memory does not suffice.
        workers: what to do where a process that augments has died, if there are any.

    Raises:
        MeddinoError: memory did not suffice, a process died, or a preprocessed file is damaged.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        said = str(error)
        lacking = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if lacking or any(words in said for words in NO_MEMORY):
            raise MeddinoError(f"not enough memory; {memory} ({_first_line(said)})") from error
        if said.startswith(DAMAGED):
            raise MeddinoError(
                f"a preprocessed file is missing or damaged: {_first_line(said)}; delete the marker"
                " of its configuration (such as 2d.json) in the folder above it, and rerun"
            ) from error
        if DEAD_WORKER in said:
            raise MeddinoError(f"a process that augments died; {workers}") from error
        raise


def _first_line(said: str) -> str:
    return said.splitlines()[0][:200] if said else "no details"
