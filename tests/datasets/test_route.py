"""A machine without a way to the internet says so, soon, and in one line."""

import errno
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from meddino.cli.main import main
from meddino.core.errors import MeddinoError
from meddino.datasets import clients, download, fetch, route
from meddino.datasets.options import FetchOptions, Origin
from meddino.models import weights
from meddino.models.options import WeightsOptions

NOWHERE = "no-such-host.invalid"
"""A name that no server of names resolves (RFC 2606)."""
LONGEST_S = sum(route.PAUSES_S) + 2 * route.LIMIT_S * len(route.PAUSES_S)
"""Pauses, and in each round the host itself, then the others."""


@pytest.fixture
def refusing() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, refusing: int) -> None:
    """Nobody answers, wherever the tests run; rounds follow each other at once."""
    monkeypatch.setattr(route, "WITNESSES", (f"http://127.0.0.1:{refusing}",))
    monkeypatch.setattr(route, "PAUSES_S", (0.0, 0.01))
    monkeypatch.setattr(route, "_reached", set())
    monkeypatch.setattr(download, "FIRST_PAUSE_S", 0.0)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def fetched(tmp_path: Path, address: str) -> None:
    origin = Origin(sources=[{"kind": "http", "url": address, "file": "a.nii", "optional": True}])
    options = FetchOptions(dataset_name="toy", origin=origin, images=("*.nii",))
    fetch.run(options, output=tmp_path / "toy" / ".fetched.json")


MESSAGE = (
    r"^this node has no way to the internet: {} cannot be reached \(.+\), nor any other host; .*"
    r"snakemake --profile local --until fetch weights -- all.*fetch: {{slurm_partition: transfer}}"
)


def test_host_without_a_name_or_a_listener(tmp_path: Path, refusing: int) -> None:
    for host in (NOWHERE, f"127.0.0.1:{refusing}"):
        name = host.partition(":")[0]
        with pytest.raises(route.NoRoute, match=MESSAGE.format(name)) as error:
            fetched(tmp_path, f"http://{host}/a.nii")
        assert "\n" not in str(error.value)


def test_proxy_without_a_name_or_a_listener(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusing: int
) -> None:
    for proxy in (f"{NOWHERE}:3128", f"127.0.0.1:{refusing}"):
        monkeypatch.setenv("https_proxy", f"http://user:secret@{proxy}")
        with pytest.raises(route.NoRoute, match=MESSAGE.format(f"the proxy {proxy}")) as error:
            fetched(tmp_path, "https://zenodo.org/a.nii")
        assert "secret" not in str(error.value)


def test_weights_say_it_too(tmp_path: Path) -> None:
    options = WeightsOptions(url=f"https://{NOWHERE}/w.pth")
    with pytest.raises(route.NoRoute, match=MESSAGE.format(NOWHERE)):
        weights.run(options, output=tmp_path / "w.pth")


def test_command_line_prints_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = f'{{"url": "https://{NOWHERE}/w.pth", "kind": "dinov3"}}'
    output = str(tmp_path / "w.pth")
    assert main(["weights", "--options", options, "--output", output]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("meddino weights: this node has no way to")


def test_clients_that_cannot_connect(monkeypatch: pytest.MonkeyPatch, refusing: int) -> None:
    calls = []

    def unreachable() -> None:
        calls.append("asked")
        try:
            raise OSError(errno.ENETUNREACH, "Network is unreachable")
        except OSError as error:
            raise ValueError("the client's own words") from error

    with pytest.raises(route.NoRoute, match="no way to the internet"):
        clients.patiently(unreachable, "a file", "see home")
    assert calls == ["asked"]

    def broken() -> None:
        raise ConnectionError("broke off")

    with pytest.raises(MeddinoError, match=r"cannot get a file: ConnectionError: broke off"):
        clients.patiently(broken, "a file", "see home")


@pytest.fixture
def listener() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_dead_server_is_no_lack_of_a_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listener: str
) -> None:
    monkeypatch.setattr(route, "WITNESSES", (listener,))
    with pytest.raises(MeddinoError, match=f"cannot download http://{NOWHERE}") as error:
        download.download(f"http://{NOWHERE}/a", tmp_path / "a", resume=False)
    assert not isinstance(error.value, route.NoRoute)


def test_answer_that_never_comes_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "LIMIT_S", 0.05)

    def silence(*_: object, **__: object) -> None:
        time.sleep(0.5)
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", silence)
    begin = time.monotonic()
    with pytest.raises(route.NoRoute, match="no answer"):
        route.ensure("https://zenodo.org/a")
    assert time.monotonic() - begin < 2


def test_the_search_takes_no_more_than_a_minute() -> None:
    assert LONGEST_S < 60
