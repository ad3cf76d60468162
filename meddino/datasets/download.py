"""Files over HTTP: resumed after interruptions, retried, and complete when they get their name."""

import json
import os
import re
import sys
import time
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from meddino.core.errors import MeddinoError

T = TypeVar("T")
ATTEMPTS = 6
FIRST_PAUSE_S = 1.0
TIMEOUT_S = 60.0
PIECE_BYTES = 1 << 20
PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE = 206, 416
# No compression on the way: sizes and ranges are those of the file.
HEADERS = {"User-Agent": "meddino", "Accept-Encoding": "identity"}
# Answers that may be different soon: time-outs, rate limits, and troubles of the server.
PASSING = {408, 425, 429, 500, 502, 503, 504}
# An OSError of the disk is none of these: no retry mends it.
TROUBLES = (URLError, ConnectionError, TimeoutError, HTTPException, SSLError)


def download(url: str, target: Path, *, resume: bool) -> None:
    """Download a file; `target` appears only when all bytes are there.

    The bytes collect in `<target>.part`. A dropped connection is taken up where it broke.

    Args:
        url: http or https address.
        target: where the file goes.
        resume: whether a part left by an earlier run may be continued; only safe where a checksum
            is compared afterwards.

    Raises:
        MeddinoError: the address cannot be read, after several attempts.
    """
    part = target.with_name(f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not resume:
        part.unlink(missing_ok=True)
    _persist(lambda: _continue(url, part), url)
    os.replace(part, target)


def read_json_pages(url: str) -> list[Any]:
    """The items of a JSON list on the web, over all the pages that `Link: rel="next"` names."""
    items: list[Any] = []
    page: str | None = url
    while page is not None:
        text, page = _read(page)
        items.extend(json.loads(text))
    return items


def read_text(url: str) -> str:
    """The text of a small file on the web."""
    return _read(url)[0]


def _read(url: str) -> tuple[str, str | None]:
    """The text at an address, and the address of the page that follows it."""

    def read() -> tuple[str, str | None]:
        with urlopen(Request(url, headers=HEADERS), timeout=TIMEOUT_S) as answer:
            following = re.search(r'<([^>]+)>;\s*rel="next"', answer.headers.get("Link") or "")
            return answer.read().decode(), following[1] if following else None

    return _persist(read, url)


def _continue(url: str, part: Path) -> None:
    """Append to `part` what it lacks."""
    have = part.stat().st_size if part.exists() else 0
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
        with part.open("ab" if have else "wb") as file:
            while piece := answer.read(PIECE_BYTES):
                file.write(piece)
        length = answer.headers.get("Content-Length")
    if length is not None and part.stat().st_size != have + int(length):
        raise ConnectionError(f"cut off at {part.stat().st_size} of {have + int(length)} bytes")


def _persist(action: Callable[[], T], url: str) -> T:
    """Repeat an action over passing troubles of the network, with growing pauses."""
    for attempt in range(ATTEMPTS - 1):
        try:
            return action()
        except TROUBLES as error:
            if isinstance(error, HTTPError) and error.code not in PASSING:
                raise _unreachable(url, error) from error
            pause = FIRST_PAUSE_S * 2**attempt
            print(f"{url}: {error}; again in {pause:.0f} s", file=sys.stderr, flush=True)
            time.sleep(pause)
    try:
        return action()
    except TROUBLES as error:
        raise _unreachable(url, error) from error


def _unreachable(url: str, error: Exception) -> MeddinoError:
    return MeddinoError(
        f"cannot download {url}: {error}; rerun to go on where it stopped, or get the file yourself"
        " and give `folder` or `mirror` of this dataset, or `file` of these weights, in the"
        " configuration"
    )
