"""Seconds of something that a GPU does."""

import statistics
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def timed(action: Callable[[], T], device: str) -> tuple[float, T]:
    """Seconds until the device is done, and what the action returns."""
    _wait(device)
    start = time.perf_counter()
    result = action()
    _wait(device)
    return time.perf_counter() - start, result


def seconds(action: Callable[[], Any], device: str) -> float:
    """What it takes until the device is done."""
    return timed(action, device)[0]


def median_seconds(
    action: Callable[[], Any], device: str, *, repeats: int = 10, warmups: int = 3
) -> float:
    """The median of some repeats, after others that warm up."""
    return statistics.median([seconds(action, device) for _ in range(warmups + repeats)][warmups:])


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
