"""Work that is shared among cores: how many there are, and processes that use them."""

import ctypes
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from meddino.core.errors import MeddinoError

Item = TypeVar("Item")
Result = TypeVar("Result")

PR_SET_PDEATHSIG = 1
"""Of Linux' <sys/prctl.h>."""
WORTH_A_PROCESS = 4
"""Items that pay for the start of a process, which takes a second or two."""


def granted() -> int:
    """Cores that Snakemake grants this job, or, outside of a job, those that the process may use.

    Snakemake exports a rule's threads to its job as OMP_NUM_THREADS.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_order(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Do work on items in a process for each core that is granted; yield results in their order.

    Few items are worked on by fewer processes, or by this one.

    Args:
        work: a function that other processes can import, or a `partial` of one.
        items: what it is done on.

    Raises:
        MeddinoError: a process was killed. What the work raises is raised here.
    """
    workers = min(granted(), len(items) // WORTH_A_PROCESS)
    if workers < 2:
        yield from map(work, items)
        return
    pool = ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=end_with, initargs=(os.getpid(),)
    )
    try:
        yield from a_few_ahead(pool, work, items, 2 * workers)
    except BrokenProcessPool as error:
        raise MeddinoError(
            f"one of {workers} processes was killed, as where memory is short: grant this rule"
            " fewer threads or more memory in the profile"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def a_few_ahead(
    pool: Executor, work: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """Do work on items in a pool; yield results in their order.

    Args:
        pool: who works.
        work: what is done.
        items: what it is done on.
        ahead: items that are begun before the first result is taken: results take memory, or the
            disk, until it is their turn.
    """
    running: deque[Future[Result]] = deque()
    for item in items:
        running.append(pool.submit(work, item))
        if len(running) > ahead:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


def end_with(parent: int) -> None:
    """Have the system kill this process when its parent ends, even by SIGKILL (on Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
