"""Memory that does not suffice, as an error that says what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from meddino.core.errors import MeddinoError

NO_MEMORY = ("not enough memory", "can't allocate memory", "CUDA out of memory")
"""Torch's words on CPUs and GPUs, also where they come out of a compiled network."""


@contextmanager
def enough_memory(advice: str) -> Iterator[None]:
    """Turn running out of memory into an error.

    Args:
        advice: what to lower.

    Raises:
        MeddinoError: memory did not suffice, on the CPU or a GPU.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        out_of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not (out_of_memory or any(words in str(error) for words in NO_MEMORY)):
            raise
        raise MeddinoError(f"not enough memory; {advice} ({first_line(error)})") from error


def first_line(error: Exception) -> str:
    """The start of an error's message."""
    return str(error).splitlines()[0][:200] if str(error) else "no details"
