"""Fetching a dataset: whole, verified, safe, and repaired after interruptions."""

import errno
import hashlib
import io
import json
import re
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from meddino.core.errors import MeddinoError
from meddino.core.files import read_json
from meddino.datasets import download, fetch
from meddino.datasets.options import FetchOptions, Origin

IMAGES = ("**/img*.nii",)


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder with byte ranges; can break connections and answer with errors."""

    log: ClassVar[list[tuple[str, str | None]]] = []
    cut_after: ClassVar[int | None] = None
    failures: ClassVar[list[int]] = []

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        type(self).log.append((self.path, asked))
        if self.failures:
            self.send_error(self.failures.pop())
            return
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        start = int(re.findall(r"\d+", asked)[0]) if asked else 0
        if start >= len(data) and start:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.end_headers()
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        body = data[start:]
        if self.cut_after is not None and len(body) > self.cut_after:
            body = body[: self.cut_after]
            type(self).cut_after = None
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    monkeypatch.setattr(download, "FIRST_PAUSE_S", 0.0)
    folder = tmp_path / "served"
    folder.mkdir()
    Handler.log, Handler.cut_after, Handler.failures = [], None, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    thread.join()
    server.server_close()


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def zip_of(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)


def tar_of(path: Path, members: dict[str, bytes | tarfile.TarInfo]) -> None:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as file:
        for name, data in members.items():
            if isinstance(data, tarfile.TarInfo):
                file.addfile(data)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))


def list_sums(folder: Path) -> None:
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "SHA256SUMS"]
    lines = [f"{digest(p)}  {p.relative_to(folder).as_posix()}\n" for p in files]
    (folder / "SHA256SUMS").write_text("".join(lines))


def run(tmp_path: Path, **origin: Any) -> Path:
    options = FetchOptions(dataset_name="toy", origin=Origin(**origin), images=IMAGES)
    output = tmp_path / "raw" / "toy" / ".fetched.json"
    fetch.run(options, output=output)
    return output


def kinds(*pairs: tuple[str, str], **known: Any) -> list[dict[str, Any]]:
    return [{"kind": "http", "url": url, "file": file, **known} for url, file in pairs]


def test_mirror_over_http_holds_archives_and_plain_files(
    served: tuple[str, Path], tmp_path: Path
) -> None:
    url, folder = served
    zip_of(folder / "a b.zip", {"Batch 1/img1.nii": b"one"})
    tar_of(folder / "c.tgz", {"Batch 1/img2.nii": b"two"})
    (folder / "deep").mkdir()
    (folder / "deep" / "img3.nii").write_bytes(b"three")
    (folder / "deep" / "more.7z").write_bytes(b"kept")
    list_sums(folder)
    output = run(tmp_path, mirror=url)
    root = fetch.raw_root(output)
    assert {p.name: p.read_bytes() for p in root.rglob("img*.nii")} == {
        "img1.nii": b"one",
        "img2.nii": b"two",
        "img3.nii": b"three",
    }
    assert (root / "deep" / "more.7z").read_bytes() == b"kept"
    manifest = read_json(output)
    assert manifest["dataset"] == "toy" and manifest["root"] == "."
    assert {f["file"]: f["sha256"] for f in manifest["files"]}["c.tgz"] == digest(folder / "c.tgz")
    assert not list(root.rglob("*.part")) and not list(root.rglob("a b.zip"))


def test_second_run_fetches_only_what_changed(served: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = served
    zip_of(folder / "a.zip", {"img1.nii": b"one", "img2.nii": b"two"})
    zip_of(folder / "b.zip", {"img3.nii": b"three"})
    list_sums(folder)
    root = run(tmp_path, mirror=url).parent
    zip_of(folder / "a.zip", {"img1.nii": b"ONE"})
    list_sums(folder)
    Handler.log.clear()
    run(tmp_path, mirror=url)
    assert [path for path, _ in Handler.log] == ["/SHA256SUMS", "/a.zip"]
    assert sorted(p.name for p in root.glob("img*")) == ["img1.nii", "img3.nii"]
    (folder / "b.zip").unlink()
    list_sums(folder)
    run(tmp_path, mirror=url)
    assert [p.read_bytes() for p in root.glob("img*")] == [b"ONE"]


def test_lost_file_is_restored(served: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = served
    zip_of(folder / "a.zip", {"img1.nii": b"one", "img2.nii": b"two"})
    list_sums(folder)
    root = run(tmp_path, mirror=url).parent
    (root / "img2.nii").unlink()
    run(tmp_path, mirror=url)
    assert (root / "img2.nii").read_bytes() == b"two"


def test_dropped_connection_is_resumed(served: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = served
    data = bytes(range(256)) * 2000
    (folder / "img1.nii").write_bytes(data)
    list_sums(folder)
    Handler.cut_after = 100_000
    output = run(tmp_path, mirror=url)
    assert (output.parent / "img1.nii").read_bytes() == data
    assert ("/img1.nii", "bytes=100000-") in Handler.log


@pytest.mark.parametrize("have", [300, 1000])
def test_part_of_a_killed_run_is_continued(
    served: tuple[str, Path], tmp_path: Path, have: int
) -> None:
    url, folder = served
    data = bytes(1000)
    (folder / "img1.nii").write_bytes(data)
    list_sums(folder)
    part = tmp_path / "raw" / "toy" / ".fetch" / "downloads" / "img1.nii.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(data[:have])
    output = run(tmp_path, mirror=url)
    assert (output.parent / "img1.nii").read_bytes() == data
    assert ("/img1.nii", f"bytes={have}-") in Handler.log


def test_part_longer_than_the_file_is_dropped(served: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = served
    (folder / "img1.nii").write_bytes(b"short")
    list_sums(folder)
    part = tmp_path / "raw" / "toy" / ".fetch" / "downloads" / "img1.nii.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(99))
    assert (run(tmp_path, mirror=url).parent / "img1.nii").read_bytes() == b"short"


def test_passing_errors_are_retried_and_lasting_ones_reported(
    served: tuple[str, Path], tmp_path: Path
) -> None:
    url, folder = served
    (folder / "img1.nii").write_bytes(b"one")
    Handler.failures = [503, 429]
    run(tmp_path, sources=kinds((f"{url}/img1.nii", "img1.nii")))
    assert len(Handler.log) == 3
    with pytest.raises(MeddinoError, match=r"absent\.nii.*404.*`folder` or `mirror`"):
        run(tmp_path, sources=kinds((f"{url}/absent.nii", "img1.nii")))
    Handler.failures = [503] * 50
    with pytest.raises(MeddinoError, match="503"):
        run(tmp_path, sources=kinds((f"{url}/other.nii", "img2.nii")))


def test_checksum_mismatch_names_both_and_leaves_nothing(
    served: tuple[str, Path], tmp_path: Path
) -> None:
    url, folder = served
    (folder / "img1.nii").write_bytes(b"one")
    (folder / "SHA256SUMS").write_text(f"{'0' * 64}  img1.nii\n")
    with pytest.raises(MeddinoError) as error:
        run(tmp_path, mirror=url)
    for part in ("img1.nii", "0" * 64, digest(folder / "img1.nii"), "rerun"):
        assert part in str(error.value)
    assert not list((tmp_path / "raw").rglob("img1.nii"))
    assert not (tmp_path / "raw" / "toy" / ".fetched.json").exists()


@pytest.mark.parametrize("known", [{"md5": "0" * 32}, {"bytes": 7}, {"sha256": "1" * 64}])
def test_announced_facts_are_checked(
    served: tuple[str, Path], tmp_path: Path, known: dict[str, Any]
) -> None:
    url, folder = served
    (folder / "img1.nii").write_bytes(b"one")
    with pytest.raises(MeddinoError, match="expected"):
        run(tmp_path, sources=kinds((f"{url}/img1.nii", "img1.nii"), **known))


def test_ids_stand_for_many_files(served: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = served
    for number in (0, 1, 7):
        (folder / f"i_{number:03d}").write_bytes(b"%d" % number)
    source = {"kind": "http", "url": f"{url}/i_{{id:03d}}", "file": "c_{id:02d}/img.nii"}
    output = run(tmp_path, sources=[source | {"ids": ["0-1", "7"]}])
    assert sorted(p.parent.name for p in output.parent.glob("*/img.nii")) == [
        "c_00",
        "c_01",
        "c_07",
    ]


def test_hub_patterns_and_zenodo_records(
    served: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = served
    monkeypatch.setattr(fetch, "HUB", url + "/{repo}-{revision}-{file}")
    monkeypatch.setattr(fetch, "HUB_LIST", url + "/{repo}-{revision}.json")
    monkeypatch.setattr(fetch, "ZENODO", url + "/{record}-{file}")
    names = ("img1.nii", "img2.nii", "README.md")
    (folder / "o").mkdir()
    (folder / "o" / "r-main.json").write_text(
        json.dumps([{"type": "file", "path": name} for name in names])
    )
    for name in names:
        (folder / "o" / f"r-main-{name}").write_bytes(name.encode())
    zip_of(folder / "12-z.zip", {"img3.nii": b"z"})
    output = run(
        tmp_path,
        sources=[
            {"kind": "huggingface", "repo": "o/r", "file": "img*.nii"},
            {"kind": "zenodo", "record": 12, "file": "z.zip"},
        ],
    )
    assert sorted(p.name for p in output.parent.glob("*")) == [
        ".fetch",
        ".fetched.json",
        "img1.nii",
        "img2.nii",
        "img3.nii",
    ]


def test_file_mirror_is_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m").mkdir()
    zip_of(tmp_path / "m" / "a.zip", {"img1.nii": b"one"})
    (tmp_path / "m" / "img 2.nii").write_bytes(b"two")
    list_sums(tmp_path / "m")
    monkeypatch.chdir(tmp_path)
    root = run(tmp_path, mirror="file:m").parent
    assert (root / "img1.nii").read_bytes() == b"one"
    assert (root / "img 2.nii").read_bytes() == b"two"
    assert (tmp_path / "m" / "a.zip").exists()
    run(tmp_path / "again", mirror=f"file://{tmp_path}/m")
    with pytest.raises(MeddinoError, match="sha256sum"):
        run(tmp_path, mirror="file:absent")


@pytest.mark.parametrize("line", ["x  img1.nii", f"{'0' * 64}  ../img1.nii", f"{'0' * 64}  /i.nii"])
def test_mirror_cannot_name_files_outside(tmp_path: Path, line: str) -> None:
    (tmp_path / "SHA256SUMS").write_text(line + "\n")
    with pytest.raises(MeddinoError, match="mend the mirror"):
        run(tmp_path, mirror=f"file:{tmp_path}")


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("name", "members"),
    [
        ("a.zip", {"../evil.nii": b"x"}),
        ("a.zip", {"/evil.nii": b"x"}),
        ("a.zip", {"d\\..\\..\\evil.nii": b"x"}),
        ("a.tar", {"../evil.nii": b"x"}),
        ("a.tar.gz", {"/evil.nii": b"x"}),
        ("a.tar", {"l": link("l", "/etc")}),
        ("a.tar", {"l": link("l", "../..")}),
        ("a.tar", {"l": link("l", "../../secret", tarfile.LNKTYPE)}),
        ("a.tar", {"l": link("l", "", tarfile.CHRTYPE)}),
    ],
)
def test_hostile_archives_are_refused(tmp_path: Path, name: str, members: dict[str, Any]) -> None:
    mirror = tmp_path / "m"
    mirror.mkdir()
    good = {"img1.nii": b"one"}
    (zip_of if name.endswith("zip") else tar_of)(mirror / name, good | members)
    list_sums(mirror)
    with pytest.raises(MeddinoError, match="not safe to unpack"):
        run(tmp_path, mirror=f"file:{mirror}")
    assert not list(tmp_path.rglob("evil.nii"))
    assert not list((tmp_path / "raw" / "toy").glob("*.nii"))


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz"])
def test_truncated_archive_is_reported_and_mended_by_a_rerun(tmp_path: Path, name: str) -> None:
    mirror = tmp_path / "m"
    mirror.mkdir()
    write = zip_of if name.endswith("zip") else tar_of
    members = {f"img{i}.nii": bytes(range(256)) * 40 * i for i in range(1, 4)}
    write(mirror / name, members)  # type: ignore[operator]
    whole = (mirror / name).read_bytes()
    (mirror / name).write_bytes(whole[: len(whole) // 2])
    list_sums(mirror)
    with pytest.raises(MeddinoError, match="damaged or cut off"):
        run(tmp_path, mirror=f"file:{mirror}")
    assert not list((tmp_path / "raw" / "toy").glob("*.nii"))
    (mirror / name).write_bytes(whole)
    list_sums(mirror)
    root = run(tmp_path, mirror=f"file:{mirror}").parent
    assert {p.name: p.read_bytes() for p in root.glob("*.nii")} == members


def test_run_killed_while_files_are_moved_is_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = tmp_path / "m"
    mirror.mkdir()
    zip_of(mirror / "a.zip", {"img1.nii": b"one", "img2.nii": b"two"})
    list_sums(mirror)

    def killed(folder: Path, root: Path) -> None:
        (folder / "img1.nii").rename(root / "img1.nii")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetch, "merge", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, mirror=f"file:{mirror}")
    root = run(tmp_path, mirror=f"file:{mirror}").parent
    assert sorted(p.name for p in root.rglob("*.nii")) == ["img1.nii", "img2.nii"]


def test_full_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = tmp_path / "m"
    mirror.mkdir()
    zip_of(mirror / "a.zip", {"img1.nii": b"one"})
    list_sums(mirror)

    def full(*_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetch, "unpack", full)
    with pytest.raises(MeddinoError, match=r"No space left.*rerun"):
        run(tmp_path, mirror=f"file:{mirror}")


def test_folder_is_used_where_it_is(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "img1.nii").write_bytes(b"one")
    output = run(tmp_path, folder=str(mine))
    assert fetch.raw_root(output) == mine
    assert read_json(output)["files"] == []
    assert list(output.parent.iterdir()) == [output]


@pytest.mark.parametrize("make", [True, False])
def test_empty_folder_is_an_error(tmp_path: Path, make: bool) -> None:
    if make:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "._img1.nii").write_bytes(b"junk")
    with pytest.raises(MeddinoError, match="empty dataset folder"):
        run(tmp_path, folder=str(tmp_path / "mine"))
    assert not list((tmp_path / "raw").rglob(".fetched.json"))


def test_manual_source_tells_how(tmp_path: Path) -> None:
    sources = [{"kind": "manual", "file": "RawData.zip"}]
    with pytest.raises(MeddinoError) as error:
        run(tmp_path, sources=sources, how="create an account")
    for part in ("RawData.zip", "create an account", "datasets.toy.folder", "datasets.toy.mirror"):
        assert part in str(error.value)
    with pytest.raises(MeddinoError, match="no origin"):
        run(tmp_path)
