"""Whether this machine has a way to the internet at all, found out within about a minute.

A compute node without one would else spend hours on retries that are meant for servers.
"""

import errno
import queue
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from meddino.core.errors import MeddinoError

WITNESSES = ("https://zenodo.org", "https://huggingface.co", "https://github.com")
"""Hosts of which one at least answers wherever there is a way to the internet. Package indices are
none of them: closed networks have copies."""
COMMAND = "snakemake --profile local --until fetch weights -- all"
"""What downloads on the very node that it is typed on, as a node for transfers."""
PAUSES_S = (0.0, 5.0, 10.0)
"""Pauses before each round of tries: a name server may be busy for a moment."""
LIMIT_S = 7.0
"""How long one connection may take."""
PORTS = {"http": 80, "https": 443}
UNREACHABLE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ETIMEDOUT}
CLIENTS_WORDS = {"ConnectTimeout", "ConnectTimeoutError", "EndpointConnectionError"}
"""Errors of clients' own that hide the system's."""
_reached: set["Door"] = set()


class NoRoute(MeddinoError):
    """This machine has no way to the internet, so that no retry and no mirror helps."""


class Door(NamedTuple):
    """Where the connection to a server begins: at itself, or at a proxy."""

    host: str
    port: int
    proxy: bool

    def __str__(self) -> str:
        """The host, and that it is a proxy."""
        return f"the proxy {self.host}:{self.port}" if self.proxy else self.host


def ensure(address: str) -> None:
    """Return if a server can be connected to, or if another one can: its troubles are its own then.

    Args:
        address: http or https address; the proxies of the environment are used.

    Raises:
        NoRoute: no host can be reached, in several tries.
    """
    door = _door(address)
    others = {_door(witness) for witness in WITNESSES} - {door}
    trouble: str | None = None
    for pause in PAUSES_S:
        if pause:
            time.sleep(pause)
        if door in _reached or (trouble := _knock([door])) is None:
            _reached.add(door)
            return
        if others and _knock(others) is None:
            return
    raise NoRoute(
        f"this node has no way to the internet: {door} cannot be reached ({trouble}), nor any"
        f" other host; fetch on a node that has one: run `{COMMAND}` there, or name its partition"
        " in the profile (set-resources: fetch: {slurm_partition: transfer}, and the same for"
        " weights)"
    )


def ensure_after(error: BaseException) -> None:
    """Where a client failed to connect, find out whether that is this machine's doing.

    Raises:
        NoRoute: no host can be reached.
    """
    if any(_unconnected(cause) for cause in _causes(error)):
        ensure(WITNESSES[0])


def _unconnected(error: BaseException) -> bool:
    refused = isinstance(error, socket.gaierror | ConnectionRefusedError)
    unreachable = isinstance(error, OSError) and error.errno in UNREACHABLE
    return refused or unreachable or type(error).__name__ in CLIENTS_WORDS


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        reason = getattr(error, "reason", None)  # of urllib and urllib3
        if isinstance(reason, BaseException):
            yield reason
        error = error.__cause__ or error.__context__


def _door(address: str) -> Door:
    parts = urlsplit(address)
    host = parts.hostname or ""
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy and not proxy_bypass(host):
        via = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
        return Door(via.hostname or "", via.port or PORTS.get(via.scheme, 80), True)
    return Door(host, parts.port or PORTS[parts.scheme], False)


def _knock(doors: Iterable[Door]) -> str | None:
    """None as soon as one door opens, else why the last one did not.

    Name servers that do not answer cannot be interrupted, hence threads that nobody waits for.
    """
    answers: queue.Queue[str | None] = queue.Queue()
    doors, trouble = list(doors), "no answer"
    for door in doors:
        threading.Thread(target=_connect, args=(door, answers), daemon=True).start()
    end = time.monotonic() + LIMIT_S
    for _ in doors:
        try:
            answer = answers.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            return trouble
        if answer is None:
            return None
        trouble = answer
    return trouble


def _connect(door: Door, answers: "queue.Queue[str | None]") -> None:
    try:
        socket.create_connection((door.host, door.port), timeout=LIMIT_S).close()
    except (OSError, UnicodeError) as error:
        answers.put(str(error))
    else:
        answers.put(None)
