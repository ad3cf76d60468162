"""Progress of downloads in bytes, counted over all that run at the same time."""

import sys
import threading
import time
from types import TracebackType
from typing import Self

LOG_EVERY_SECONDS = 30.0
TERMINAL_EVERY_SECONDS = 1.0


class DownloadStopped(Exception):
    """Raised in a download once the run that it belongs to has failed or was interrupted."""


class Meter:
    """Counts files and bytes, prints a line now and then, ends downloads when the run fails."""

    def __init__(self, title: str, files: int) -> None:
        """Begin at nothing.

        Args:
            title: how the line begins.
            files: how many files there are.
        """
        self._title, self._files, self._done = title, files, 0
        self._bytes = self._announced = 0
        self._lock = threading.Lock()
        self._start = self._last = time.monotonic()
        self._live = sys.stderr.isatty()
        self._every = TERMINAL_EVERY_SECONDS if self._live else LOG_EVERY_SECONDS
        self._stopped = threading.Event()

    def announce(self, size_bytes: int) -> None:
        """Count what a server says is to come."""
        with self._lock:
            self._announced += size_bytes

    def add(self, size_bytes: int) -> None:
        """Count bytes that arrived.

        Raises:
            DownloadStopped: the run that this belongs to is over.
        """
        if self._stopped.is_set():
            raise DownloadStopped
        with self._lock:
            self._bytes += size_bytes
            self._show()

    def done(self) -> None:
        """Count a file that is in place."""
        with self._lock:
            self._done += 1
            self._show(last=self._done == self._files)

    def __enter__(self) -> Self:
        """Begin a run."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        """Where the run failed or was interrupted, end every download at its next piece."""
        if kind is not None:
            self._stopped.set()

    def _show(self, *, last: bool = False) -> None:
        now = time.monotonic()
        if now - self._last < self._every and not last:
            return
        self._last = now
        speed = self._bytes / max(now - self._start, 1e-9)
        remaining_s = (self._announced - self._bytes) / speed if speed else 0
        line = (
            f"{self._title}: {self._done}/{self._files} files, {self._bytes / 1e9:.2f} of"
            f" {max(self._announced, self._bytes) / 1e9:.2f} GB begun, {speed / 1e6:.1f} MB/s,"
            f" {max(remaining_s, 0):.0f} s left for these"
        )
        end = "\r" if self._live and not last else "\n"
        print(line, end=end, file=sys.stderr, flush=True)
