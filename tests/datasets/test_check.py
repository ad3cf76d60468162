"""`fetch --check`: places that are dead, have moved or changed, or want a login, told apart."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import serving
import yaml
from serving import COMMITS, Handler, Hub, digest

from meddino.cli.main import main
from meddino.datasets import check, idc, registry
from meddino.datasets.options import Dataset

LAYOUT = {"images": ["*.nii"], "case": "(?P<case>.*)"}
Config = Callable[..., str]
Checked = Callable[..., tuple[int, dict[str, tuple[str, str]]]]
http = partial(serving.http, file="img.zip")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Writes a configuration with datasets, each of sources."""
    monkeypatch.setattr(check, "PAUSES_S", (0.0, 0.0))

    def write(**datasets: list[dict[str, Any]]) -> str:
        entries = {name: {**LAYOUT, "sources": sources} for name, sources in datasets.items()}
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({"datasets": entries}))
        return str(path)

    return write


@pytest.fixture
def checked(config: Config, capsys: pytest.CaptureFixture[str]) -> Checked:
    """Asks about datasets; gives the exit status, and each one's state and what it rests on."""

    def ask(**datasets: list[dict[str, Any]]) -> tuple[int, dict[str, tuple[str, str]]]:
        status = main(["fetch", "--check", *datasets, "--json", "--config", config(**datasets)])
        rows = json.loads(capsys.readouterr().out)
        return status, {row["dataset"]: (row["state"], row["detail"]) for row in rows}

    return ask


def test_places_are_told_apart(served: tuple[str, Path], checked: Checked) -> None:
    url, folder = served
    (folder / "img.zip").write_bytes(b"0123456789")
    (folder / "page.html").write_bytes(b"<html>Log in</html>")
    Handler.statuses = {"/gated": 403, "/private": 401, "/broken": 503}
    Handler.moved = {"/old": (301, "/img.zip"), "/for-now": (302, "/img.zip"), "/lost": (301, "/x")}
    status, outcomes = checked(
        same=[http(f"{url}/img.zip", bytes=10)],
        unknown=[http(f"{url}/img.zip")],
        dead=[http(f"{url}/absent.zip")],
        broken=[http(f"{url}/broken")],
        moved=[http(f"{url}/old", bytes=10)],
        elsewhere=[http(f"{url}/for-now")],
        lost=[http(f"{url}/lost")],
        larger=[http(f"{url}/img.zip", bytes=9)],
        after_a_move=[http(f"{url}/old", bytes=9)],
        page=[http(f"{url}/page.html")],
        gated=[http(f"{url}/gated")],
        private=[http(f"{url}/private")],
        by_hand=[{"kind": "manual", "file": "a.zip"}],
    )
    assert status == 1
    assert outcomes == {
        "same": ("agrees", "0.00 GB, same size"),
        "unknown": ("reachable", "0.00 GB, nothing to compare"),
        "dead": ("dead", "404 Not Found"),
        "broken": ("dead", "503 Service Unavailable"),
        "moved": ("moved", f"301 to {url}/img.zip (agrees: 0.00 GB, same size)"),
        "elsewhere": ("moved", f"302 to {url}/img.zip (reachable: 0.00 GB, nothing to compare)"),
        "lost": ("dead", "404 Not Found"),
        "larger": ("changed", "size is 10, expected 9"),
        "after_a_move": ("changed", "size is 10, expected 9"),
        "page": ("changed", f"a web page, not the file ({url}/page.html)"),
        "gated": ("needs a login", "403 Forbidden"),
        "private": ("needs a login", "401 Unauthorized"),
        "by_hand": ("by hand", "no page is known"),
    }


def test_table_for_people_and_status_for_jobs(
    served: tuple[str, Path],
    config: Config,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    url, folder = served
    (folder / "img.zip").write_bytes(b"0123456789")
    mirrors = [http(f"{url}/gone.zip")]
    file = config(good=[http(f"{url}/img.zip")], half=[http(f"{url}/img.zip", mirrors=mirrors)])
    assert main(["fetch", "good", "--check", "--config", file]) == 0
    assert main(["fetch", "--check", "good", "half", "--config", file]) == 1
    out, error = capsys.readouterr()
    assert "1 reachable\n" in out and "2 reachable, 1 dead\n" in out
    rows = [line for line in out.splitlines() if "gone.zip" in line]
    assert len(rows) == 1 and "half" in rows[0] and "dead" in rows[0] and "404" in rows[0]
    assert "meddino fetch: 1 of 3 places are dead or have changed (half)" in error
    assert main(["fetch", "--check", "nothing"]) == 2
    assert "no dataset nothing is known; known: abdomenatlas3, " in capsys.readouterr().err


def test_every_entry_is_asked_unless_some_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(place: Any, _: Dataset) -> check.Outcome:
        asked.append(place.kind)
        return check.Outcome("reachable", "")

    monkeypatch.setattr(check, "KINDS", dict.fromkeys(check.KINDS, answer))
    assert main(["fetch", "--check"]) == 0
    sources = [source for entry in registry.entries().values() for source in entry.sources]
    places = [place for source in sources for place in (source, *source.mirrors)]
    assert sorted(asked) == sorted(place.kind for place in places)


def test_numbered_files_are_sampled_and_the_worst_counts(
    served: tuple[str, Path], checked: Checked
) -> None:
    url, folder = served
    (folder / "1.nii").write_bytes(b"1")
    many = {"kind": "http", "url": f"{url}/{{id}}.nii", "file": "{id}.nii", "ids": ["1-3"]}
    status, outcomes = checked(many=[many])
    assert status == 1 and outcomes["many"][0] == "dead"
    (folder / "3.nii").write_bytes(b"3")
    status, outcomes = checked(many=[many])
    assert status == 0 and outcomes["many"][1].endswith("(2 of 3 were asked)")


def test_zenodo_says_size_and_md5(
    served: tuple[str, Path], checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = served
    monkeypatch.setattr(check, "ZENODO", url + "/{record}")
    held = {"key": "a.zip", "size": 7, "checksum": f"md5:{'1' * 32}"}
    (folder / "12").write_text(json.dumps({"files": [held]}))
    zenodo = {"kind": "zenodo", "record": 12, "file": "a.zip"}
    status, outcomes = checked(
        same=[{**zenodo, "md5": "1" * 32, "bytes": 7}],
        changed=[{**zenodo, "md5": "2" * 32}],
        other=[{**zenodo, "file": "b.zip"}],
        gone=[{**zenodo, "record": 13}],
    )
    assert status == 1
    assert outcomes == {
        "same": ("agrees", "0.00 GB, same size and MD5"),
        "changed": ("changed", f"MD5 is {'1' * 32}, expected {'2' * 32}"),
        "other": ("dead", "the record holds a.zip"),
        "gone": ("dead", "404 Not Found"),
    }


def test_hub_says_whether_a_commit_is_there_and_gated(hub: Hub, checked: Checked) -> None:
    hub.commit(COMMITS[0], {"img1.nii": b"one", "img2.nii": b"two"}, "main")
    entry = {"kind": "huggingface", "repo": "o/r", "file": "img*.nii"}
    sha256 = digest(hub.folder / f"datasets/o/r/resolve/{COMMITS[0]}/img1.nii")
    one = {**entry, "revision": COMMITS[0], "file": "img1.nii"}
    pinned = [{**entry, "revision": COMMITS[0]}]
    status, outcomes = checked(
        pinned=pinned,
        branch=[entry],
        same=[{**one, "sha256": sha256}],
        changed=[{**one, "sha256": "0" * 64}],
        lacks=[{**entry, "file": "*.zip"}],
        no_commit=[{**entry, "revision": COMMITS[1]}],
    )
    assert status == 1
    assert outcomes["pinned"] == ("agrees", "2 files, 0.00 GB, at the pinned commit")
    assert outcomes["branch"][0] == "reachable" and COMMITS[0] in outcomes["branch"][1]
    assert outcomes["same"] == ("agrees", "0.00 GB, same SHA-256")
    assert outcomes["changed"][0] == "changed" and outcomes["lacks"][0] == "dead"
    assert outcomes["no_commit"][0] == "dead"
    described = hub.api / "revision" / COMMITS[0]
    described.write_text(json.dumps({"id": "o/r", "sha": COMMITS[0], "gated": "auto"}))
    status, outcomes = checked(pinned=pinned)
    assert status == 0 and outcomes["pinned"][0] == "needs a login"


def test_index_and_bucket_of_idc(
    served: tuple[str, Path], checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = served
    monkeypatch.setattr(idc, "INDEX", (url + "/gone/{version}", url + "/{version}.parquet"))
    monkeypatch.setattr(idc, "BUCKET", url + "/{bucket}")
    (folder / idc.MAIN_BUCKET).mkdir()
    pq.write_table(pa.table({"a": [1]}), folder / "24.0.parquet")
    entry = {"kind": "idc", "id": "C", "revision": "24.0"}
    status, outcomes = checked(good=[entry], bad=[{**entry, "revision": "1"}])
    assert status == 1
    assert {name: state for name, (state, _) in outcomes.items()} == {
        "good": "reachable",
        "bad": "dead",
    }


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x-linked-etag": f'"{"a" * 64}"', "etag": '"x"'}, {"sha256": "a" * 64}),
        ({"etag": f'"{"b" * 32}"', "x-amz-request-id": "1"}, {"md5": "b" * 32}),
        ({"etag": f'"{"b" * 32}-7"', "x-amz-request-id": "1"}, {}),
        ({"etag": f'"{"b" * 32}"', "x-amz-request-id": "1", check.ENCRYPTION: "aws:kms"}, {}),
        ({"etag": f'"{"b" * 32}"'}, {}),
        ({"x-goog-hash": "crc32c=AAAA==,md5=AAAAAAAAAAAAAAAAAAAAAA=="}, {"md5": "0" * 32}),
    ],
)
def test_only_headers_that_are_checksums_count(
    headers: dict[str, str], expected: dict[str, str]
) -> None:
    assert check.Answer("", headers, []).digests == expected
