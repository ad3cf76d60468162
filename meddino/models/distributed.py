"""Processes that train together: one a GPU, or a few on CPUs.

Started by `torchrun` (or whatever sets its variables) they find each other; otherwise they are
started here, on this machine.
"""

import atexit
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from meddino.core.errors import MeddinoError, Stopped
from meddino.core.files import atomic
from meddino.models import device as devices

STOPPING = (signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP)
"""Signals that ask for a checkpoint and an end: time limit, preemption, a terminal that closed."""
GRACE_SECONDS = 15.0
"""What the other processes get to end by themselves when one has failed."""


class Team(NamedTuple):
    """This process among those that train together."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Mean over all processes, element by element."""
        if self.size > 1:
            dist.all_reduce(values)
            values /= self.size
        return values

    def gather(self, value: Any) -> list[Any]:
        """The `value` of each process, by rank."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Wait for the others."""
        if self.size > 1:
            dist.barrier()


def of_neighbours(values: Tensor, size: int) -> Tensor:
    """Tensors of processes that follow each other, each as large, joined by their second dimension.

    Differentiable: the gradient of what a process gives is the sum over all that get it. Processes
    0 to size - 1 are neighbours, then the next ones, and so on; all processes call it.

    Args:
        values: (n, B, ...).
        size: number of neighbours; one process alone, or a size below 2, has none.

    Returns:
        (n, size * B, ...), by rank.
    """
    if size < 2 or not dist.is_initialized():
        return values
    joined: Tensor = _Neighbours.apply(values, size)  # type: ignore[no-untyped-call]
    return joined


class _Neighbours(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor, size: int) -> Tensor:
        context.size, context.length = size, values.shape[1]
        every = [torch.empty_like(values) for _ in range(dist.get_world_size())]
        dist.all_gather(every, values.contiguous())
        first = dist.get_rank() // size * size
        return torch.cat(every[first : first + size], dim=1)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # A sum over all processes: a group of processes for each few of them would have to be made.
        rank, size, length = dist.get_rank(), context.size, context.length
        n, _, *shape = gradient.shape
        every = gradient.new_zeros(n, dist.get_world_size() * length, *shape)
        first = rank // size * size
        every[:, first * length : (first + size) * length] = gradient
        dist.all_reduce(every)
        return every[:, rank * length : (rank + 1) * length].contiguous(), None


def launch(
    work: Callable[..., None],
    device: str,
    processes: int | None,
    *arguments: Any,
    divides: Callable[[int], bool] = lambda size: True,
) -> None:
    """Call `work(team, *arguments)` in every process.

    Args:
        work: importable by name, as it is sent to new processes.
        device: `auto`, `cpu` or `cuda`.
        processes: how many to start; None is one a GPU, or as many as can share the work. Without
            effect where several were started.
        arguments: further arguments.
        divides: whether a number of processes can share the work.

    Raises:
        MeddinoError: raised by one of the processes, or one died; the others are stopped.
        Stopped: raised by one of the processes.
    """
    kind = devices.kind(device)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        with _joined(kind, "env://", int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) as t:
            work(t, *arguments)
        return
    gpus = torch.cuda.device_count() if kind.type == "cuda" else 0
    size = _most(gpus, divides) if processes is None else processes
    if kind.type == "cuda" and size > gpus:
        raise MeddinoError(f"processes: {size} are asked for, but torch sees {gpus} GPUs")
    if size == 1:
        work(Team(devices.choose(device)), *arguments)
        return
    with tempfile.TemporaryDirectory() as meeting:
        _start(work, kind, size, Path(meeting), arguments)


def _most(gpus: int, divides: Callable[[int], bool]) -> int:
    """The largest number of processes, at most one a GPU, that can share the work."""
    size = next((size for size in range(gpus, 1, -1) if divides(size)), 1)
    if size < gpus:
        print(f"training on {size} of {gpus} GPUs: no more can share a batch", file=sys.stderr)
    return size


def _start(
    work: Callable[..., None],
    kind: torch.device,
    size: int,
    meeting: Path,
    work_arguments: tuple[Any, ...],
) -> None:
    """Start `size` processes, pass signals on to them, and wait."""
    threads = max(1, torch.get_num_threads() // size)
    arguments = (work, kind, size, meeting, threads, work_arguments)
    context = spawn(_enter, arguments, nprocs=size, join=False)
    assert context is not None

    def pass_on(number: int, _: Any) -> None:
        for process in context.processes:
            if process.is_alive():
                os.kill(process.pid, number)

    with on_signals(pass_on):
        try:
            while not context.join(grace_period=GRACE_SECONDS):
                pass
        except Exception as error:
            # The first: others may only have lost it.
            reports = sorted(meeting.glob("error.*"), key=lambda path: path.stat().st_mtime_ns)
            for report in reports:
                _, status, rank = report.name.split(".")
                message = report.read_text(encoding="utf-8")
                if int(status) == Stopped.status:
                    raise Stopped(message) from error
                raise MeddinoError(f"training process {rank} of {size}: {message}") from error
            raise MeddinoError(f"a training process died: {error}") from error


def _enter(
    rank: int,
    work: Callable[..., None],
    kind: torch.device,
    size: int,
    meeting: Path,
    threads: int,
    work_arguments: tuple[Any, ...],
) -> None:
    """One of the processes; an error that the user can mend is left in a file for the parent."""
    torch.set_num_threads(threads)
    try:
        with _joined(kind, f"file://{meeting}/rendezvous", rank, size) as team:
            work(team, *work_arguments)
    except MeddinoError as error:
        report = meeting / f"error.{error.status}.{rank}"
        with atomic(report) as temporary:
            temporary.write_text(str(error), encoding="utf-8")
        _leave(error.status)
    except BaseException:
        traceback.print_exc()
        _leave(1)


def _leave(status: int) -> NoReturn:
    """End this process at once: what remains of its team could be waited for without end."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


@contextmanager
def _joined(kind: torch.device, where: str, rank: int, size: int) -> Iterator[Team]:
    device = kind
    if kind.type == "cuda":
        # A launcher may show each of its processes one GPU alone, which is then number 0.
        local = int(os.environ.get("LOCAL_RANK", rank)) % torch.cuda.device_count()
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=where,
        rank=rank,
        world_size=size,
        device_id=device if device.type == "cuda" else None,
    )
    try:
        yield Team(device, rank, size)
    except BaseException as error:
        # Not destroyed: that may wait for processes that wait for this one. The interpreter's end
        # would do it, too.
        atexit.register(_leave, getattr(error, "status", 1))
        raise
    dist.destroy_process_group()


@contextmanager
def on_signals(handle: Callable[[int, Any], None]) -> Iterator[None]:
    """Call `handle` on each signal of STOPPING instead of dying of it."""
    before = {number: signal.signal(number, handle) for number in STOPPING}
    if before[signal.SIGHUP] == signal.SIG_IGN:  # by `nohup`
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
