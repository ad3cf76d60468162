"""The device that a job runs on."""

import torch

from meddino.core.errors import MeddinoError


def choose(name: str) -> torch.device:
    """The device called `name`; `auto` takes a GPU if there is one.

    Raises:
        MeddinoError: a GPU is asked for where there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise MeddinoError("device: cuda is asked for, but torch sees no GPU; use auto or cpu")
    use_gpu = name == "cuda" or (name == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if use_gpu else "cpu")
