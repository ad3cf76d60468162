"""Verb `fetch`: bring one dataset's files into its folder and verify them.

The folder `.fetch` beside them holds what a rerun needs: downloads and archives under way, and one
record for every file of the origin that is in place, with its checksum and what came out of it.
"""

import hashlib
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote

from meddino.core.errors import MeddinoError
from meddino.core.files import UNWRITABLE, atomic, read_json, write_json
from meddino.core.progress import track
from meddino.datasets.archives import is_archive, merge, unpack
from meddino.datasets.cases import matches
from meddino.datasets.download import download, read_json_pages, read_text
from meddino.datasets.options import FetchOptions, Origin, Source

ZENODO = "https://zenodo.org/records/{record}/files/{file}?download=1"
HUB = "https://huggingface.co/datasets/{repo}/resolve/{revision}/{file}"
HUB_LIST = "https://huggingface.co/api/datasets/{repo}/tree/{revision}?recursive=true"
LOCAL = "file:"
DOWNLOADS, UNPACKED = "downloads", "unpacked"


@dataclass(frozen=True)
class Remote:
    """One file to get: where it is, its name in the dataset's folder, what is known of it."""

    url: str
    file: str
    sha256: str | None = None
    md5: str | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class Record:
    """A file of the origin that is in place: its address, SHA-256, size, and what became of it."""

    url: str
    file: str
    sha256: str
    bytes: int
    members: list[str]


def run(options: FetchOptions, *, output: Path) -> None:
    """Bring a dataset's files into the folder of `output`, and write the manifest there last.

    Files that are in place and verified are not fetched again; files of an earlier state of the
    origin are removed.

    Args:
        options: the dataset's origin, and patterns that its images match.
        output: `<folder>/.fetched.json`, with `dataset`, `root` (the folder with the extracted
            files, relative to the manifest's) and `files` (name, SHA-256 and bytes of each).

    Raises:
        MeddinoError: a file cannot be had or is not the expected one, or no image is there.
    """
    origin, root = options.origin, output.parent
    output.unlink(missing_ok=True)
    if origin.folder is not None:
        root, records = Path(origin.folder).expanduser().resolve(), []
    else:
        records = _fetch_all(list(_remotes(options.dataset_name, origin)), root)
    if not root.is_dir() or next(matches(root, options.images), None) is None:
        raise MeddinoError(
            f"empty dataset folder: no file under {root} matches {' or '.join(options.images)};"
            f" check `folder`, `mirror`, `sources` and `images` of datasets.{options.dataset_name}"
        )
    files = [{"file": r.file, "sha256": r.sha256, "bytes": r.bytes} for r in records]
    place = "." if root == output.parent else str(root)
    write_json(output, {"dataset": options.dataset_name, "root": place, "files": files})


def raw_root(manifest: Path) -> Path:
    """The folder with the extracted dataset that a manifest of `fetch` stands for."""
    return manifest.parent / str(read_json(manifest).get("root", "."))


def _fetch_all(remotes: list[Remote], root: Path) -> list[Record]:
    try:
        return _fetch(remotes, root)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise MeddinoError(
            f"cannot write under {root}: {error.strerror}; free space (twice the archives' size is"
            " needed for a while) or permit writing there, then rerun to go on where it stopped"
        ) from error


def _fetch(remotes: list[Remote], root: Path) -> list[Record]:
    records = root / ".fetch" / "records"
    wanted = {f"{remote.file}.json" for remote in remotes}
    for path in records.glob("**/*.json"):
        if path.relative_to(records).as_posix() not in wanted:
            _forget(path, root)
    progress = track(remotes, f"fetch {root.name}", len(remotes))
    placed = [_place(remote, root, records / f"{remote.file}.json") for remote in progress]
    for leftover in (DOWNLOADS, UNPACKED):
        shutil.rmtree(root / ".fetch" / leftover, ignore_errors=True)
    return placed


def _place(remote: Remote, root: Path, record_path: Path) -> Record:
    """Have one file in the dataset's folder, unpacked if it is an archive."""
    if (record := _in_place(remote, root, record_path)) is not None:
        return record
    _forget(record_path, root)
    path = _obtain(remote, root / ".fetch" / DOWNLOADS / remote.file)
    digest, size = _verify(remote, path)
    archive, unpacked = is_archive(remote.file), root / ".fetch" / UNPACKED
    members = unpack(path, unpacked) if archive else [remote.file]
    record = Record(remote.url, remote.file, digest, size, members)
    # First the record, so that a run killed on the way leaves no file without an owner.
    write_json(record_path, asdict(record))
    if archive:
        merge(unpacked, root)
    else:
        with atomic(root / remote.file) as temporary:
            shutil.copyfile(path, temporary)
    if not remote.url.startswith(LOCAL):
        path.unlink()
    return record


def _in_place(remote: Remote, root: Path, record_path: Path) -> Record | None:
    """The record of a file that need not be fetched again, or None."""
    if not record_path.exists():
        return None
    record = Record(**read_json(record_path))
    same = record.sha256 == remote.sha256 if remote.sha256 else record.url == remote.url
    complete = all((root / member).exists() for member in record.members)
    return record if same and complete else None


def _forget(record_path: Path, root: Path) -> None:
    """Remove what an earlier run put in place under this record."""
    if record_path.exists():
        for member in read_json(record_path)["members"]:
            (root / member).unlink(missing_ok=True)
        record_path.unlink()


def _obtain(remote: Remote, target: Path) -> Path:
    """The file on this machine: in a local mirror where it is, else downloaded to `target`."""
    if remote.url.startswith(LOCAL):
        path = local_path(remote.url)
        if not path.is_file():
            raise MeddinoError(f"{path} is listed in SHA256SUMS but absent; complete the mirror")
        return path
    if not target.exists():
        known = remote.sha256 is not None or remote.md5 is not None
        print(f"downloading {remote.url}", file=sys.stderr, flush=True)
        download(remote.url, target, resume=known)
    return target


def _verify(remote: Remote, path: Path) -> tuple[str, int]:
    """SHA-256 and size of a file that is what was announced; remove a download that is not."""
    found_bytes = path.stat().st_size
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            sha256.update(piece)
            if remote.md5 is not None:
                md5.update(piece)
    checks = [
        ("bytes", remote.bytes, found_bytes),
        ("SHA-256", remote.sha256, sha256.hexdigest()),
        ("MD5", remote.md5, md5.hexdigest()),
    ]
    for name, expected, found in checks:
        if expected not in (None, found):
            if not remote.url.startswith(LOCAL):
                path.unlink()
            raise MeddinoError(
                f"{remote.file} from {remote.url} is not the expected file: {name} expected"
                f" {expected}, found {found}; rerun to fetch it anew; if it stays so, its owners"
                " changed it or the mirror is damaged: compare the checksum with theirs"
            )
    return sha256.hexdigest(), found_bytes


def _remotes(name: str, origin: Origin) -> Iterator[Remote]:
    """All files of an origin."""
    if origin.mirror is not None:
        yield from _mirrored(origin.mirror.rstrip("/"))
        return
    for source in origin.sources:
        if source.kind == "manual":
            raise MeddinoError(
                f"datasets.{name}: {source.file} cannot be downloaded by a program:"
                f" {origin.how or 'see ' + origin.home}. Then give the folder with the extracted"
                f" files as datasets.{name}.folder, or the address of a folder with the archives"
                f" and their SHA256SUMS as datasets.{name}.mirror"
            )
    for source in origin.sources:
        yield from _announced(source)
    if not origin.sources:
        raise MeddinoError(
            f"datasets.{name}: no origin; give datasets.{name}.folder, .mirror or .sources"
        )


def _mirrored(mirror: str) -> Iterator[Remote]:
    address = f"{mirror}/SHA256SUMS"
    if mirror.startswith(LOCAL):
        if not local_path(address).is_file():
            raise MeddinoError(
                f"{local_path(address)} does not exist; make it in the mirror's folder with"
                " `sha256sum * > SHA256SUMS`, or mend `mirror` of this dataset"
            )
        text = local_path(address).read_text(encoding="utf-8")
    else:
        text = read_text(address)
    for line in text.splitlines():
        digest, _, file = line.partition(" ")
        file = file.lstrip(" ").removeprefix("*").removeprefix("./")
        path = PurePosixPath(file)
        if len(digest) != 64 or not file or path.is_absolute() or ".." in path.parts:
            raise MeddinoError(f"{address}: {line!r} is not '<sha256>  <file>'; mend the mirror")
        yield Remote(f"{mirror}/{quote(file)}", file, sha256=digest.lower())


def _announced(source: Source) -> Iterator[Remote]:
    """The files of one source."""
    known = {"sha256": source.sha256, "md5": source.md5, "bytes": source.bytes}
    if source.kind == "zenodo":
        url = ZENODO.format(record=source.record, file=quote(source.file))
        yield Remote(url, source.file, **known)  # type: ignore[arg-type]
    elif source.kind == "huggingface":
        for file in _hub_files(source):
            url = HUB.format(repo=source.repo, revision=source.revision, file=quote(file))
            yield Remote(url, file, **known)  # type: ignore[arg-type]
    elif source.ids:
        for number in source.numbers():
            yield Remote(str(source.url).format(id=number), source.file.format(id=number))
    else:
        yield Remote(str(source.url), source.file, **known)  # type: ignore[arg-type]


def _hub_files(source: Source) -> list[str]:
    """Names in a dataset of the hub that match the source's pattern."""
    if not any(sign in source.file for sign in "*?["):
        return [source.file]
    entries = read_json_pages(HUB_LIST.format(repo=source.repo, revision=source.revision))
    names = sorted(entry["path"] for entry in entries if entry["type"] == "file")
    found = [name for name in names if fnmatch(name, source.file)]
    if not found:
        raise MeddinoError(
            f"huggingface.co/datasets/{source.repo} at {source.revision} holds no {source.file};"
            " mend `file` or `revision` of this source"
        )
    return found


def local_path(url: str) -> Path:
    """The path that a `file:` address names; relative ones start at the working directory."""
    path = unquote(url.removeprefix(LOCAL))
    return Path(path[2:] if path.startswith("//") else path)
