"""A web server for tests of downloads, and a hub on it."""

import importlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from serving import Handler, Hub

from meddino.datasets import clients, download


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    monkeypatch.setattr(download, "FIRST_PAUSE_S", 0.0)
    folder = tmp_path / "served"
    folder.mkdir()
    Handler.log, Handler.cut_after, Handler.failures = [], [], []
    Handler.ranges, Handler.shift, Handler.together, Handler.endless = True, 0, None, ""
    Handler.statuses, Handler.moved = {}, {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def hub(served: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> Hub:
    url, folder = served
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace("https://huggingface.co", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(clients, "FIRST_PAUSE_S", 0.0)
    return Hub(folder)
