"""Seconds of something that a GPU does."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch


def seconds(action: Callable[[], Any], device: str) -> float:
    """What it takes until the device is done."""
    _wait(device)
    start = time.perf_counter()
    action()
    _wait(device)
    return time.perf_counter() - start


def median_seconds(
    action: Callable[[], Any], device: str, *, repeats: int = 10, warmups: int = 3
) -> float:
    """The median of some repeats, after others that warm up."""
    return statistics.median([seconds(action, device) for _ in range(warmups + repeats)][warmups:])


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
