"""Fetching a dataset: whole, verified, safe, and repaired after interruptions."""

import errno
import hashlib
import re
import sys
import tarfile
import threading
import tomllib
import types
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from places import ROOT
from pydantic import ValidationError
from serving import Handler, digest, tar_of, zip_of

from meddino.core.errors import MeddinoError
from meddino.core.files import read_json
from meddino.datasets import archives, clients, download, fetch, meter
from meddino.datasets.options import FetchOptions, Origin, Source

IMAGES = ("**/img*.nii",)
PYPROJECT = ROOT / "pyproject.toml"


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
    (folder / "deep" / "more.txt").write_bytes(b"kept")
    list_sums(folder)
    output = run(tmp_path, mirror=url)
    root = fetch.raw_root(output)
    assert {p.name: p.read_bytes() for p in root.rglob("img*.nii")} == {
        "img1.nii": b"one",
        "img2.nii": b"two",
        "img3.nii": b"three",
    }
    assert (root / "deep" / "more.txt").read_bytes() == b"kept"
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
    Handler.cut_after = [100_000]
    output = run(tmp_path, mirror=url)
    assert (output.parent / "img1.nii").read_bytes() == data
    assert ("/img1.nii", "bytes=100000-") in Handler.log


def test_connection_that_drops_often_still_arrives(
    served: tuple[str, Path], tmp_path: Path
) -> None:
    """Only failures without progress count: a large archive may break off more than six times."""
    url, folder = served
    data = bytes(range(256)) * 2000
    (folder / "img1.nii").write_bytes(data)
    list_sums(folder)
    Handler.cut_after = [40_000] * 10
    output = run(tmp_path, mirror=url)
    assert (output.parent / "img1.nii").read_bytes() == data
    assert len(Handler.log) > download.ATTEMPTS


@pytest.mark.parametrize("broken", ["ignores ranges", "shifts ranges"])
def test_server_that_resumes_wrongly_does_no_harm(
    served: tuple[str, Path], tmp_path: Path, broken: str
) -> None:
    url, folder = served
    data = bytes(range(256)) * 2000
    (folder / "img1.nii").write_bytes(data)
    Handler.cut_after = [100_000]
    if broken == "ignores ranges":
        Handler.ranges = False
        output = run(tmp_path, sources=kinds((f"{url}/img1.nii", "img1.nii")))
        assert (output.parent / "img1.nii").read_bytes() == data
        return
    Handler.shift = 7
    with pytest.raises(MeddinoError, match="asked for bytes from 100000 on, got bytes 99993-"):
        run(tmp_path, sources=kinds((f"{url}/img1.nii", "img1.nii")))


def test_wrong_bytes_are_fetched_anew_by_a_rerun(served: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = served
    (folder / "img1.nii").write_bytes(b"right")
    list_sums(folder)
    (folder / "img1.nii").write_bytes(b"wrong")
    with pytest.raises(MeddinoError, match="SHA-256 expected"):
        run(tmp_path, mirror=url)
    (folder / "img1.nii").write_bytes(b"right")
    assert (run(tmp_path, mirror=url).parent / "img1.nii").read_bytes() == b"right"


def test_web_page_instead_of_an_archive_is_not_kept(
    served: tuple[str, Path], tmp_path: Path
) -> None:
    """Where no checksum is published, a login page with status 200 passes for the file."""
    url, folder = served
    (folder / "a.zip").write_bytes(b"\n<!DOCTYPE html><html>Quota exceeded</html>")
    with pytest.raises(MeddinoError, match=r"a\.zip is a web page.*rerun"):
        run(tmp_path, sources=kinds((f"{url}/a.zip", "a.zip")))
    zip_of(folder / "a.zip", {"img1.nii": b"one"})
    output = run(tmp_path, sources=kinds((f"{url}/a.zip", "a.zip")))
    assert (output.parent / "img1.nii").read_bytes() == b"one"


def test_server_decides_how_long_to_wait(
    served: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = served
    (folder / "img1.nii").write_bytes(b"one")
    pauses: list[float] = []
    monkeypatch.setattr(download.time, "sleep", pauses.append)
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    Handler.failures = [(429, "7"), (503, soon), (503, "in a while")]
    run(tmp_path, sources=kinds((f"{url}/img1.nii", "img1.nii")))
    assert pauses[0] == 0 and 80 < pauses[1] < 91 and pauses[2] == 7
    Handler.failures = [(429, "86400")]
    with pytest.raises(MeddinoError, match=r"429.*asks to wait 86400 s.*rerun"):
        run(tmp_path, sources=kinds((f"{url}/again.nii", "img2.nii")))


def test_files_are_downloaded_at_the_same_time(served: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = served
    names = [f"img{number}.nii" for number in range(fetch.CONNECTIONS)]
    for name in names:
        (folder / name).write_bytes(name.encode())
    Handler.together = threading.Barrier(len(names))
    output = run(tmp_path, sources=kinds(*((f"{url}/{name}", name) for name in names)))
    assert [record["file"] for record in read_json(output)["files"]] == names


def test_a_file_that_fails_ends_the_others(served: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = served
    (folder / "img2.nii").write_bytes(b"")
    Handler.endless = "/img2.nii"
    with pytest.raises(MeddinoError, match="404"):
        run(tmp_path, sources=kinds((f"{url}/absent", "a"), (f"{url}/img2.nii", "img2.nii")))


def test_progress_is_told_in_bytes(
    served: tuple[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, folder = served
    monkeypatch.setattr(meter, "LOG_EVERY_SECONDS", 0.0)
    (folder / "img1.nii").write_bytes(bytes(20_000_000))
    run(tmp_path, sources=kinds((f"{url}/img1.nii", "img1.nii")))
    lines = capsys.readouterr().err
    assert re.search(r"fetch toy: 0/1 files, 0\.01 of 0\.02 GB begun, [\d.]+ MB/s, \d+ s", lines)
    assert "fetch toy: 1/1 files, 0.02 of 0.02 GB" in lines


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


@pytest.mark.parametrize(
    ("name", "members", "ratio"),
    [
        ("a.zip", {"img1.nii": bytes(40 << 20)}, 200),
        ("a.tar.gz", {"img1.nii": bytes(40 << 20)}, 200),
        ("a.tgz", {f"img{number}.nii": b"" for number in range(2000)}, 20),
    ],
)
def test_bombs_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    members: dict[str, bytes],
    ratio: int,
) -> None:
    monkeypatch.setattr(archives, "HARMLESS_BYTES", 1 << 20)
    monkeypatch.setattr(archives, "MAX_RATIO", ratio)
    mirror = tmp_path / "m"
    mirror.mkdir()
    (zip_of if name.endswith("zip") else tar_of)(mirror / name, members)  # type: ignore[operator]
    list_sums(mirror)
    with pytest.raises(
        MeddinoError, match=rf"{name} is not safe.*more than {ratio} times its size"
    ):
        run(tmp_path, mirror=f"file:{mirror}")
    assert not list((tmp_path / "raw" / "toy").glob("*.nii"))


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [(6, 1, r"a\.zip is encrypted.*password"), (8, 9, r"a\.zip cannot be unpacked.*7-Zip")],
)
def test_zips_that_python_cannot_open_say_what_to_do(
    tmp_path: Path, offset: int, value: int, message: str
) -> None:
    mirror = tmp_path / "m"
    mirror.mkdir()
    zip_of(mirror / "a.zip", {"img1.nii": b"one"})
    data = bytearray((mirror / "a.zip").read_bytes())
    for start, skip in ((data.index(b"PK\x03\x04"), 0), (data.index(b"PK\x01\x02"), 2)):
        data[start + offset + skip] = value  # flags and method: of the entry, and of the directory
    (mirror / "a.zip").write_bytes(data)
    list_sums(mirror)
    with pytest.raises(MeddinoError, match=message):
        run(tmp_path, mirror=f"file:{mirror}")


def test_7z_without_its_package_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = tmp_path / "m"
    mirror.mkdir()
    (mirror / "Mask.7z").write_bytes(b"7z")
    list_sums(mirror)
    monkeypatch.setitem(sys.modules, "py7zr", None)
    with pytest.raises(MeddinoError, match=r"Mask\.7z.*needs.*py7zr.*pip install '\.\[7z\]'"):
        run(tmp_path, mirror=f"file:{mirror}")


def test_7z_is_unpacked_as_carefully(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    py7zr = pytest.importorskip("py7zr")
    mirror, scratch = tmp_path / "m", tmp_path / "scratch"
    mirror.mkdir()
    scratch.mkdir()
    (scratch / "zeros").write_bytes(bytes(40 << 20))
    (scratch / "link").symlink_to("/etc")
    monkeypatch.setattr(archives, "HARMLESS_BYTES", 1 << 20)

    def fetch_7z(member: str, source: str | bytes, **how: Any) -> Path:
        with py7zr.SevenZipFile(mirror / "a.7z", "w", **how) as file:
            if isinstance(source, bytes):
                file.writestr(source, member)
            else:
                file.write(scratch / source, member)
        list_sums(mirror)
        return run(tmp_path, mirror=f"file:{mirror}").parent

    assert (fetch_7z("d/img1.nii", b"one") / "d" / "img1.nii").read_bytes() == b"one"
    with pytest.raises(MeddinoError, match="200 times its size"):
        fetch_7z("img1.nii", "zeros")
    with pytest.raises(MeddinoError, match=r"not safe to unpack.*link"):
        fetch_7z("img1.nii", "link")
    with pytest.raises(MeddinoError, match="encrypted"):
        fetch_7z("img1.nii", b"one", password="secret")
    (mirror / "a.7z").write_bytes((mirror / "a.7z").read_bytes()[:40])
    list_sums(mirror)
    with pytest.raises(MeddinoError, match="damaged or cut off"):
        run(tmp_path, mirror=f"file:{mirror}")


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
    listed = {"file": "img1.nii", "bytes": 3, "mtime_ns": (mine / "img1.nii").stat().st_mtime_ns}
    assert read_json(output)["files"] == [listed]
    assert list(output.parent.iterdir()) == [output]


@pytest.mark.parametrize("make", [True, False])
def test_empty_folder_is_an_error(tmp_path: Path, make: bool) -> None:
    if make:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "._img1.nii").write_bytes(b"junk")
    with pytest.raises(MeddinoError, match="it has none" if make else "cannot be read"):
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


def test_file_put_in_place_by_a_person_is_used(tmp_path: Path) -> None:
    incoming = tmp_path / "raw" / "toy.incoming"
    incoming.mkdir(parents=True)
    zip_of(incoming / "RawData.zip", {"img1.nii": b"one"})
    good = digest(incoming / "RawData.zip")
    source = {"kind": "manual", "file": "RawData.zip", "sha256": "0" * 64}
    with pytest.raises(MeddinoError, match=r"toy\.incoming/RawData\.zip is not the expected file"):
        run(tmp_path, sources=[source])
    assert (incoming / "RawData.zip").exists()
    output = run(tmp_path, sources=[source | {"sha256": good}])
    assert (output.parent / "img1.nii").read_bytes() == b"one"
    assert read_json(output)["files"][0]["sha256"] == good
    # Once it is unpacked, the archive may go.
    (incoming / "RawData.zip").unlink()
    assert run(tmp_path, sources=[source | {"sha256": good}]).exists()


def test_file_put_in_place_saves_the_download(served: tuple[str, Path], tmp_path: Path) -> None:
    url, _ = served
    incoming = tmp_path / "raw" / "toy.incoming"
    incoming.mkdir(parents=True)
    (incoming / "img1.nii").write_bytes(b"mine")
    output = run(tmp_path, sources=kinds((f"{url}/img1.nii", "img1.nii")))
    assert (output.parent / "img1.nii").read_bytes() == b"mine"
    assert not Handler.log


def test_person_is_told_everything_at_once(tmp_path: Path) -> None:
    sources = [{"kind": "manual", "file": f"part{number}.zip"} for number in (1, 2)]
    with pytest.raises(MeddinoError) as error:
        run(tmp_path, sources=sources, how="sign the agreement", licence="research only")
    for part in ("part1.zip, part2.zip", "sign the agreement", "research only", "toy.incoming"):
        assert part in str(error.value)


def pretend(monkeypatch: pytest.MonkeyPatch, module: str, **members: Any) -> None:
    """Install a made-up client package."""
    made = types.ModuleType(module)
    made.__dict__.update(members)
    parent, _, _ = module.partition(".")
    if parent != module and parent not in sys.modules:
        monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
    monkeypatch.setitem(sys.modules, module, made)


def test_s3_objects_are_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/img1.nii", b"0123456789")
    asked: list[bool] = []
    pretend(monkeypatch, "s3fs", S3FileSystem=lambda anon: asked.append(anon) or Bucket(memory))
    source = {"kind": "s3", "url": "s3://bucket/img1.nii", "file": "img1.nii"}
    assert (run(tmp_path, sources=[source]).parent / "img1.nii").read_bytes() == b"0123456789"
    assert asked == [True]
    part = tmp_path / "again/raw/toy/.fetch/downloads/img1.nii.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"0123")
    sha = hashlib.sha256(b"0123456789").hexdigest()
    output = run(tmp_path / "again", sources=[source | {"sha256": sha}])
    assert (output.parent / "img1.nii").read_bytes() == b"0123456789"


class Bucket:
    """An in-memory store under the addresses of S3."""

    def __init__(self, memory: Any) -> None:
        self.memory = memory

    def info(self, url: str) -> Any:
        return self.memory.info(url.removeprefix("s3:/"))

    def open(self, url: str, mode: str) -> Any:
        return self.memory.open(url.removeprefix("s3:/"), mode)


def test_synapse_file_is_read_with_the_users_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    class Synapse:
        def __init__(self, silent: bool) -> None: ...

        def login(self, silent: bool) -> None:
            if not calls:
                calls.append("refused")
                raise ValueError("no credentials")

    def get(entity: str, *, file_options: Any, synapse_client: Any) -> Any:
        calls.append(entity)
        path = Path(file_options["download_location"]) / "RawData.zip"
        zip_of(path, {"img1.nii": b"one"})
        return types.SimpleNamespace(path=str(path))

    pretend(monkeypatch, "synapseclient", Synapse=Synapse)
    pretend(monkeypatch, "synapseclient.operations", get=get, FileOptions=dict)
    monkeypatch.setattr(clients, "FIRST_PAUSE_S", 0.0)
    source = {"kind": "synapse", "id": "syn1", "file": "RawData.zip"}
    monkeypatch.setattr(clients, "ATTEMPTS", 1)
    with pytest.raises(MeddinoError, match=r"synapse:syn1:.*no credentials; join it"):
        run(tmp_path, sources=[source], how="join it")
    output = run(tmp_path, sources=[source])
    assert (output.parent / "img1.nii").read_bytes() == b"one"
    assert calls == ["refused", "syn1"]
    assert not (output.parent / ".fetch" / "downloads").exists()


def test_tcia_series_go_to_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = ["2.2"]

    def download_series(uids: list[str], *, input_type: str, path: str, as_zip: bool) -> None:
        assert input_type == "list" and as_zip
        if uids[0] in failures:
            failures.remove(uids[0])  # as the real client does: says nothing, brings nothing
            return
        zip_of(Path(path) / f"{uids[0]}.zip", {"1-1.nii": uids[0].encode(), "LICENSE": b"x"})

    pretend(
        monkeypatch,
        "tcia_utils.nbia",
        getSeries=lambda collection: [
            {"PatientID": f"P{n}", "SeriesInstanceUID": f"{n}.{n}"} for n in (2, 1)
        ],
        downloadSeries=download_series,
    )
    monkeypatch.setattr(clients, "FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr(sys.modules[__name__], "IMAGES", ("C/*/*/*.nii",))
    root = run(tmp_path, sources=[{"kind": "tcia", "id": "C"}]).parent
    assert {p.relative_to(root).as_posix(): p.read_bytes() for p in root.glob("C/**/*.nii")} == {
        "C/P1/1.1/1-1.nii": b"1.1",
        "C/P2/2.2/1-1.nii": b"2.2",
    }
    assert (root / "C/P2/2.2/LICENSE").exists()


def test_google_drive_file_or_the_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def drive(*, id: str, output: str, quiet: bool, resume: bool) -> str | None:
        if id != "good":
            return None
        Path(output).write_bytes(b"one")
        return output

    pretend(monkeypatch, "gdown", download=drive)
    monkeypatch.setattr(clients, "FIRST_PAUSE_S", 0.0)
    source = {"kind": "google_drive", "id": "good", "file": "img1.nii"}
    assert (run(tmp_path, sources=[source]).parent / "img1.nii").read_bytes() == b"one"
    with pytest.raises(MeddinoError, match=r"google_drive:spent.*quota spent; see home"):
        run(tmp_path / "2", sources=[source | {"id": "spent"}], home="home")


@pytest.mark.parametrize(
    ("source", "module", "extra"),
    [
        ({"kind": "s3", "url": "s3://b/k", "file": "img1.nii"}, "s3fs", "s3"),
        ({"kind": "synapse", "id": "syn1", "file": "img1.nii"}, "synapseclient", "synapse"),
        ({"kind": "tcia", "id": "C"}, "tcia_utils.nbia", "tcia"),
        ({"kind": "google_drive", "id": "1", "file": "img1.nii"}, "gdown", "google-drive"),
    ],
)
def test_missing_client_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Any, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    message = rf"needs.*{module}.*pip install '\.\[{extra}\]'.* Or else: join it"
    with pytest.raises(MeddinoError, match=message):
        run(tmp_path, sources=[source], how="join it")
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    assert any(module.partition(".")[0] in package.replace("-", "_") for package in extras[extra])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"kind": "s3", "file": "a"}, "kind s3 needs `url`"),
        ({"kind": "synapse", "file": "a"}, "kind synapse needs `id`"),
        ({"kind": "tcia", "id": "C", "file": "a"}, "unless its kind is tcia"),
        ({"kind": "zenodo", "record": 1}, "needs `file`"),
        ({"kind": "http", "url": "ftp://x/a", "file": "a"}, "must start with"),
        ({"kind": "http", "url": "s3://x/a", "file": "a"}, "and the kind s3 go together"),
        ({"kind": "s3", "url": "https://x/a", "file": "a"}, "and the kind s3 go together"),
    ],
)
def test_source_that_lacks_something_is_refused(source: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Source(**source)


def test_mirror_is_a_folder_or_a_web_address() -> None:
    with pytest.raises(ValidationError, match="must start with"):
        Origin(mirror="s3://bucket/folder")
