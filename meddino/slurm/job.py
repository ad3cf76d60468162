"""What runs in the job: submitit unpickles `Work` there, in each process of the job."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from meddino.core.errors import Stopped

LEAVE_SECONDS = 600.0
"""How long a process that was told to stop waits until SLURM ends it."""


class Work:
    """What each process of the job does: submitit calls it, and `checkpoint` at the time limit."""

    def __init__(self, command: list[str]) -> None:
        """Take the command that each process runs."""
        self.command = command
        self.code: int | None = None
        self.signalled = False
        self.kill: Callable[[int], None] = lambda number: None

    def __call__(self) -> None:
        """Run the verb to its end."""
        from submitit.helpers import TorchDistributedEnvironment

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        # SLURM sends SIGUSR2 to all processes of a job, and it would kill a verb that has not yet
        # installed its handler.
        quiet = partial(signal.signal, signal.SIGUSR2, signal.SIG_IGN)
        child = subprocess.Popen(self.command, preexec_fn=quiet)
        self.kill = child.send_signal
        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, partial(self._pass_on, signal.getsignal(number)))
        # In a thread: the handler of a signal waits for the verb too, while it interrupts the main
        # thread at any point, also inside `wait`.
        threading.Thread(target=lambda: setattr(self, "code", child.wait()), daemon=True).start()
        with suppress(_Finished):
            while self.code is None:
                time.sleep(0.1)
            if self.code == Stopped.status or (self.code and self.signalled):
                # SLURM, which sent the signal, also ends or requeues the job. A process that exits
                # before that counts as failed.
                time.sleep(LEAVE_SECONDS)
            if self.code:
                sys.exit(self.code)  # the verb has printed why

    def checkpoint(self) -> Any:
        """Stop the verb, and return what submitit queues next: the same work.

        Raises:
            _Finished: the verb has just ended.
        """
        from submitit.helpers import DelayedSubmission

        while self.code is None:
            self.kill(signal.SIGUSR2)  # repeatedly: its handler may not be installed yet
            time.sleep(1)
        if self.code == 0:
            raise _Finished
        return DelayedSubmission(Work(self.command))

    def _pass_on(self, submitit_handler: Any, number: int, frame: Any) -> None:
        """Pass a signal on to the verb, in case SLURM sent it to this process alone."""
        self.signalled = True
        self.kill(number)
        submitit_handler(number, frame)


class _Finished(Exception):
    """The verb ended while it was asked to stop."""
