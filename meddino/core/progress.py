"""Progress of long work: a live bar in a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
LOG_EVERY_SECONDS = 30.0


def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yield `items`, showing how many of `total` are done and the remaining time."""
    if sys.stderr.isatty():
        yield from _bar(items, description, total)
        return
    start = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= LOG_EVERY_SECONDS or done == total:
            remaining_s = (now - start) / done * (total - done)
            print(
                f"{description}: {done}/{total}, {remaining_s:.0f} s left",
                file=sys.stderr,
                flush=True,
            )
            last = now


def _bar(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    # rich is a luxury here: pretraining must run where only torch, numpy and pyarrow are.
    try:
        from rich.console import Console
        from rich.progress import track as rich_track
    except ImportError:
        yield from items
        return
    console = Console(stderr=True)
    yield from rich_track(items, description=description, total=total, console=console)
