"""A server of a folder that can be told to misbehave, and what it serves: archives, a hub."""

import contextlib
import hashlib
import io
import json
import re
import tarfile
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder with byte ranges; can break connections and answer with errors."""

    log: ClassVar[list[tuple[str, str | None]]] = []
    cut_after: ClassVar[list[int]] = []
    """After how many bytes the next connections break."""
    failures: ClassVar[list[int | tuple[int, str]]] = []
    """Statuses to answer with, the last one first, with Retry-After or without."""
    ranges: ClassVar[bool] = True
    shift: ClassVar[int] = 0
    """By how much ranges begin elsewhere than asked."""
    together: ClassVar[threading.Barrier | None] = None
    """Answers wait until this many are asked for."""
    endless: ClassVar[str] = ""
    """Path of a file that never ends."""
    statuses: ClassVar[dict[str, int]] = {}
    """Paths that are answered with a status alone."""
    moved: ClassVar[dict[str, tuple[int, str]]] = {}
    """Paths that are answered with a status and another path."""
    per_page: ClassVar[int] = 2
    """Objects on a page of the listing of a bucket."""

    def do_HEAD(self) -> None:
        if self.elsewhere():
            return
        path = Path(self.translate_path(self.path))
        if path.is_file():
            self.begin(200, path.stat().st_size, path)
        else:
            self.send_error(404)

    def elsewhere(self) -> bool:
        """Answer with a status alone, or with another address, where that is wanted."""
        code, target = self.moved.get(self.path, (self.statuses.get(self.path), None))
        if code is None:
            return False
        self.send_response(code)
        if target is not None:
            self.send_header("Location", target)
        self.send_header("Content-Length", "0")
        self.end_headers()
        return True

    def list_bucket(self, query: dict[str, list[str]]) -> None:
        """Answer as S3's ListObjectsV2 does."""
        root = Path(self.translate_path(self.path))
        start = int(query.get("continuation-token", ["0"])[0])
        paths = sorted((root / query.get("prefix", [""])[0]).glob("*"))
        contents = "".join(
            f"<Contents><Key>{p.relative_to(root).as_posix()}</Key><Size>{p.stat().st_size}</Size>"
            f"<ETag>&quot;{hashlib.md5(p.read_bytes()).hexdigest()}&quot;</ETag></Contents>"
            for p in paths[start : start + self.per_page]
        )
        following = start + self.per_page
        more = f"<NextContinuationToken>{following}</NextContinuationToken>"
        more = more if following < len(paths) else ""
        space = "http://s3.amazonaws.com/doc/2006-03-01/"
        body = f'<ListBucketResult xmlns="{space}">{contents}{more}</ListBucketResult>'.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        asked = self.headers.get("Range") if self.ranges else None
        type(self).log.append((self.path, asked))
        if self.elsewhere():
            return
        query = parse_qs(urlsplit(self.path).query)
        if "list-type" in query:
            self.list_bucket(query)
            return
        if self.together is not None:
            self.together.wait(timeout=20)
        if self.failures:
            failure = self.failures.pop()
            code, after = failure if isinstance(failure, tuple) else (failure, None)
            self.send_response(code)
            if after is not None:
                self.send_header("Retry-After", after)
            self.end_headers()
            return
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        if self.path == self.endless:
            self.begin(200, 1 << 50, path)
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(bytes(1 << 20))
            return
        data = path.read_bytes()
        start = int(re.findall(r"\d+", asked)[0]) - self.shift if asked else 0
        if start >= len(data) and start:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.end_headers()
            return
        body = data[start:]
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.headings(len(body), path)
        cut = self.cut_after.pop() if self.cut_after and len(body) > self.cut_after[-1] else None
        self.wfile.write(body[:cut])

    def begin(self, status: int, length: int, path: Path) -> None:
        self.send_response(status)
        self.headings(length, path)

    def headings(self, length: int, path: Path) -> None:
        self.send_header("Content-Length", str(length))
        self.send_header("Content-Type", self.guess_type(path))
        # What Hugging Face's client wants to know before it downloads.
        self.send_header("ETag", f'"{digest(path)}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


COMMITS = ("a" * 40, "b" * 40)


class Hub:
    """Datasets of Hugging Face, under a folder that is served."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.api = folder, folder / "api/datasets/o/r"
        (self.api / "tree").mkdir(parents=True)
        (self.api / "revision").mkdir()

    def commit(self, commit: str, files: dict[str, bytes], *branches: str) -> None:
        """Add a commit with large files, except for those of one byte, and move branches to it."""
        place = self.folder / "datasets/o/r/resolve" / commit
        entries: list[dict[str, Any]] = [{"type": "directory", "path": "d", "oid": "0"}]
        for name, data in files.items():
            path = place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            large = {"size": len(data), "oid": digest(path), "pointerSize": 1}
            entry = {"type": "file", "path": name, "oid": "0", "size": len(data)}
            entries.append({**entry, **({"lfs": large} if len(data) > 1 else {})})
        (self.api / "tree" / commit).write_text(json.dumps(entries))
        for name in (commit, *branches):
            (self.api / "revision" / name).write_text(json.dumps({"id": "o/r", "sha": commit}))

    def files_of(self, commit: str) -> Path:
        return self.api / "tree" / commit


def http(url: str, file: str = "img1.nii", **known: Any) -> dict[str, Any]:
    """An entry of the registry."""
    return {"kind": "http", "url": url, "file": file, **known}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def zip_of(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
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
