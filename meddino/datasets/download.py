"""Files over HTTP: resumed after interruptions, retried, and complete when they get their name."""

import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from typing import TypeVar
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from meddino.core.errors import MeddinoError
from meddino.core.secrets import hidden
from meddino.datasets import route
from meddino.datasets.meter import Meter

T = TypeVar("T")
ATTEMPTS = 6
"""Failures in a row, without a byte gained between them, after which a download is given up."""
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 900.0
"""A server that asks for a longer pause is taken at its word, and the run ends."""
TIMEOUT_S = 60.0
PIECE_BYTES = 1 << 20
PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE = 206, 416
# No compression on the way: sizes and ranges are those of the file.
HEADERS = {"User-Agent": "meddino", "Accept-Encoding": "identity"}
# Answers that may be different soon: time-outs, rate limits, and troubles of the server.
PASSING = {408, 425, 429, 500, 502, 503, 504}
# An OSError of the disk is none of these: no retry mends it.
TROUBLES = (URLError, ConnectionError, TimeoutError, HTTPException, SSLError)


def download(url: str, target: Path, *, resume: bool, meter: Meter | None = None) -> None:
    """Download a file; `target` appears only when all bytes are there.

    The bytes collect in `<target>.part`. A dropped connection is taken up where it broke.

    Args:
        url: http or https address.
        target: where the file goes.
        resume: whether a part left by an earlier run may be continued; only safe where a checksum
            is compared afterwards.
        meter: told of the bytes that arrive.

    Raises:
        MeddinoError: the address cannot be read, after several attempts.
        NoRoute: this machine has no way to the internet.
    """
    part = target.with_name(f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not resume:
        part.unlink(missing_ok=True)
    meter = Meter(target.name, 1) if meter is None else meter
    _persist(lambda: _continue(url, part, meter), url, lambda: _size(part))
    os.replace(part, target)


def read_text(url: str) -> str:
    """The text of a small file on the web.

    Raises:
        MeddinoError: the address cannot be read, after several attempts.
        NoRoute: this machine has no way to the internet.
    """

    def read() -> str:
        with urlopen(Request(url, headers=HEADERS), timeout=TIMEOUT_S) as answer:
            text: str = answer.read().decode()
        return text

    return _persist(read, url)


def _continue(url: str, part: Path, meter: Meter) -> None:
    """Append to `part` what it lacks."""
    have = _size(part)
    headers = HEADERS | ({"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urlopen(Request(url, headers=headers), timeout=TIMEOUT_S)
    except HTTPError as error:
        if error.code != RANGE_NOT_SATISFIABLE:
            raise
        # Nothing is left to get, unless the part is of another file: then begin again.
        if error.headers.get("Content-Range", "").rpartition("/")[2] != str(have):
            part.unlink()
            raise ConnectionError("the part on disk does not belong to this file") from error
        return
    with answer:
        have = have if answer.status == PARTIAL_CONTENT else 0
        begins = answer.headers.get("Content-Range", f"bytes {have}-")
        if have and not begins.startswith(f"bytes {have}-"):
            raise ConnectionError(f"asked for bytes from {have} on, got {begins}")
        length = answer.headers.get("Content-Length")
        meter.announce(int(length or 0))
        with part.open("ab" if have else "wb") as file:
            while piece := answer.read(PIECE_BYTES):
                file.write(piece)
                meter.add(len(piece))
    if length is not None and _size(part) != have + int(length):
        raise ConnectionError(f"cut off at {_size(part)} of {have + int(length)} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _persist(action: Callable[[], T], url: str, reached: Callable[[], int] = lambda: 0) -> T:
    """Repeat an action over passing troubles of the network, with growing pauses.

    `reached` tells how far it came: an archive of many GB may break off often, so only failures
    without progress between them count.
    """
    route.ensure(url)
    failures, best = 0, reached()
    while True:
        try:
            return action()
        except TROUBLES as error:
            now = reached()
            failures, best = (1 if now > best else failures + 1), max(best, now)
            pause = max(FIRST_PAUSE_S * 2 ** (failures - 1), _asked_pause_s(error))
            lasting = isinstance(error, HTTPError) and error.code not in PASSING
            if lasting or failures == ATTEMPTS or pause > LONGEST_PAUSE_S:
                raise _unreachable(url, error) from error
            print(hidden(f"{url}: {error}; again in {pause:.0f} s"), file=sys.stderr, flush=True)
            time.sleep(pause)


def _asked_pause_s(error: Exception) -> float:
    """Seconds that the server asks to wait (Retry-After: seconds, or a date), or 0."""
    header = error.headers.get("Retry-After") if isinstance(error, HTTPError) else None
    if header is None:
        return 0.0
    if header.strip().isdigit():
        return float(header)
    try:
        when = parsedate_to_datetime(header)
    except ValueError:
        return 0.0
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _unreachable(url: str, error: Exception) -> MeddinoError:
    pause = _asked_pause_s(error)
    wait = f" (it asks to wait {pause:.0f} s)" if pause else ""
    return MeddinoError(
        f"cannot download {hidden(f'{url}: {error}')}{wait}; rerun to go on where it stopped, or"
        " get the file yourself and put it into the folder `<dataset>.incoming` beside the"
        " dataset's, or give `folder` or `mirror` of this dataset, or `file` of these weights, in"
        " the configuration"
    )
