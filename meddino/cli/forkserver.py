"""A process that has imported everything, and forks one process for each job of this machine.

Importing torch and nnU-Net takes seconds, more than many a job of a small study. With
`python -m meddino study --preload`, one process imports them once. A job then starts as always,
`python -m meddino VERB`, but hands its work over (`hand_over`) to a fork of that process: with the
arguments, environment, working directory and open files of the job. Signals that reach the job are
passed on, the job ends as the fork does, and a fork ends with its job and with the server.
"""

import array
import gc
import json
import multiprocessing
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn

from meddino.core.parallel import end_with, granted

ADDRESS = "MEDDINO_FORKSERVER"
"""Environment variable: the socket of the server that takes over jobs."""
PRELOADED = (
    *("pandas", "pyarrow.parquet", "SimpleITK", "scipy.ndimage", "sklearn.model_selection"),
    *(
        "skimage.measure",
        "matplotlib.pyplot",
        "rich.progress",
        "torch._dynamo",
        "torch.nn.parallel",
    ),
    "nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor",
    "nnunetv2.preprocessing.preprocessors.default_preprocessor",
    "nnunetv2.training.nnUNetTrainer.nnUNetTrainer",
    "nnunetv2.inference.predict_from_raw_data",
)
"""Libraries that take long to import. What is not installed, verbs that need it will name."""
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
STANDARD = (0, 1, 2)
FORKS = multiprocessing.get_context("fork")
LENGTH_BYTES = 8
Job = dict[str, Any]


def hand_over(arguments: Sequence[str]) -> int | None:
    """Have a fork of the server do what this process was started for.

    Returns:
        The exit status of the fork; None where there is no server for this process.
    """
    address = os.environ.get(ADDRESS)
    if not address:
        return None
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(address)
        except OSError:  # the study that started the server is over, or on another machine
            return None
        job = {
            "arguments": list(arguments),
            "environment": dict(os.environ),
            "folder": os.getcwd(),
            "ignored": [n for n in PASSED_ON if signal.getsignal(n) == signal.SIG_IGN],
            "identity": _identity(),
        }
        text = json.dumps(job).encode()
        descriptors = array.array("i", STANDARD)
        connection.sendmsg(
            [len(text).to_bytes(LENGTH_BYTES)],
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)],
        )
        connection.sendall(text)
        with connection.makefile("r") as answers:
            return _follow(answers)


def _identity() -> list[str | None]:
    """What a job and a server share: interpreter, package, and the job of a scheduler."""
    return [sys.executable, str(Path(__file__).parents[1]), os.environ.get("SLURM_JOB_ID")]


def _follow(answers: Any) -> int | None:
    """Pass signals on to the fork until it ends, and then end as it did."""
    process = int(answers.readline() or 0)
    if not process:
        return None

    def pass_on(number: int, _: object) -> None:
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(process, number)

    for number in PASSED_ON:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, pass_on)
    line = answers.readline()
    if not line:
        print("meddino: the process that forks jobs was killed; rerun to go on", file=sys.stderr)
        return 1
    status = int(line)
    if status < 0:  # a signal has ended it
        if -status in PASSED_ON:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


@contextmanager
def forkserver() -> Iterator[dict[str, str]]:
    """Run a server in the block; yield the variable that jobs find it by.

    There is none on systems other than Linux, where jobs start as always.
    """
    if not hasattr(os, "pidfd_open"):
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="meddino-") as folder:
        address = os.path.join(folder, "socket")
        command = [sys.executable, "-m", "meddino.cli.forkserver", address]
        # Its libraries must start no threads of their own: a fork would be without them.
        quiet = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=quiet)
        assert server.stdin is not None and server.stdout is not None
        try:
            server.stdout.readline()  # it listens
            yield {ADDRESS: address}
        finally:
            server.stdin.close()  # it ends, and its forks with it
            server.wait()
            server.stdout.close()


class Server:
    """Forks a process for each job that connects."""

    def __init__(self, listener: socket.socket) -> None:
        """Take the socket that jobs connect to."""
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._selector.register(sys.stdin, selectors.EVENT_READ, lambda _: sys.exit())
        self._forks: dict[socket.socket, BaseProcess] = {}

    def serve(self) -> NoReturn:
        """Serve until standard input is closed."""
        try:
            while True:
                for key, _ in self._selector.select():
                    key.data(key.fileobj)
        finally:
            for fork in self._forks.values():
                fork.kill()

    def _accept(self, listener: socket.socket) -> None:
        """Fork for a job."""
        connection, _ = listener.accept()
        try:
            job, descriptors = _receive(connection)
        except (OSError, ValueError):  # the job was killed before all of it had come
            connection.close()
            return
        if job["identity"] == _identity():
            fork = FORKS.Process(target=_work, args=(job, descriptors, os.getpid()))
            fork.start()
            assert fork.pid is not None
            self._forks[connection] = fork
            connection.sendall(f"{fork.pid}\n".encode())
            self._selector.register(connection, selectors.EVENT_READ, self._kill)
            # Not the sentinel of multiprocessing, which also fires where a job turns into another.
            ended = os.pidfd_open(fork.pid)
            self._selector.register(
                ended, selectors.EVENT_READ, lambda _: self._report(connection, ended)
            )
        else:
            connection.sendall(b"0\n")
            connection.close()
        for descriptor in descriptors:
            os.close(descriptor)

    def _kill(self, connection: socket.socket) -> None:
        """Kill the fork of a job that was killed."""
        self._selector.unregister(connection)
        self._forks[connection].kill()

    def _report(self, connection: socket.socket, ended: int) -> None:
        """Tell a job how its fork has ended."""
        fork = self._forks.pop(connection)
        self._selector.unregister(ended)
        os.close(ended)
        with suppress(KeyError):
            self._selector.unregister(connection)
        fork.join()
        with suppress(OSError):
            connection.sendall(f"{fork.exitcode}\n".encode())
        connection.close()
        fork.close()


def _preload() -> None:
    """Import the libraries and all verbs."""
    from meddino.pipeline.verbs import VERBS

    verbs = [verb.module for verb in VERBS.values() if verb.options is not None]
    for name in (*PRELOADED, "meddino.cli.main", *verbs):
        with suppress(ModuleNotFoundError):
            import_module(name)
    gc.collect()
    gc.freeze()  # what forks share is never looked through again, which would copy it


def _receive(connection: socket.socket) -> tuple[Job, list[int]]:
    """What `hand_over` sends: a job, and its standard input, output and error."""
    head, descriptors, _, _ = socket.recv_fds(connection, LENGTH_BYTES, len(STANDARD))
    text = bytearray()
    length = int.from_bytes(head)
    while len(text) < length:
        piece = connection.recv(length - len(text))
        if not piece:
            raise ValueError("cut off")
        text += piece
    return json.loads(text), list(descriptors)


def _work(job: Job, descriptors: list[int], server: int) -> None:
    """In a fork: take on what the job was started with, and do its work."""
    end_with(server)
    os.setpgid(0, 0)  # signals to the group of the job come by way of the job
    for name in PASSED_ON:
        signal.signal(name, signal.SIG_IGN if name in job["ignored"] else signal.SIG_DFL)
    if signal.SIGINT not in job["ignored"]:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for source, target in zip(descriptors, STANDARD, strict=True):
        os.dup2(source, target)
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environment"])
    _fresh_state()

    from meddino.cli.main import main

    sys.argv[1:] = job["arguments"]
    sys.exit(main())


def _fresh_state() -> None:
    """What a new process draws or counts for itself: random numbers and threads."""
    import numpy as np
    import threadpoolctl
    import torch

    np.random.seed()
    torch.seed()
    torch.set_num_threads(granted())
    threadpoolctl.threadpool_limits(granted())


def main(address: str) -> NoReturn:
    """Serve at an address."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they end the jobs, and then the study ends this
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(128)
        print("ready", flush=True)  # jobs that come now wait until all is imported
        _preload()
        Server(listener).serve()


if __name__ == "__main__":
    main(sys.argv[1])
