"""What has become of the places that datasets are fetched from: asked without downloading.

Servers are asked for headers, and hubs and Zenodo for what they keep of their files.
"""

import base64
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPMessage
from typing import Any, Literal, NamedTuple, get_args
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from meddino.core.errors import MeddinoError
from meddino.core.progress import track
from meddino.core.secrets import hidden
from meddino.datasets import clients, idc, route
from meddino.datasets.archives import is_archive
from meddino.datasets.download import HEADERS, PASSING
from meddino.datasets.options import Dataset, Place
from meddino.datasets.pins import COMMIT
from meddino.datasets.sources import LOCAL, hub_names, local_path

State = Literal["agrees", "reachable", "by hand", "moved", "needs a login", "changed", "dead"]
"""From the best to the worst. `agrees`: its size or a checksum is the expected one; `reachable`: it
is there, and nothing tells whether it is the same; `moved`: there, under another address."""
STATES: tuple[State, ...] = get_args(State)
BAD: tuple[State, ...] = ("changed", "dead")
"""What somebody must mend."""
ZENODO = "https://zenodo.org/api/records/{record}"
SYNAPSE = "https://repo-prod.prod.sagebase.org/repo/v1/entity/{id}"
NBIA = "https://services.cancerimagingarchive.net/nbia-api/services/v1/getSeries?Collection={id}"
DRIVE = "https://drive.google.com/uc?id={id}&export=download"
TERMS = "accept its terms on huggingface.co, then `hf auth login`"
AT_A_TIME = 8
TIMEOUT_S = 20.0
GATED = {401, 403}
ENCRYPTION = "x-amz-server-side-encryption"
PAUSES_S = (2.0, 8.0)
"""Pauses after answers that may soon be different, such as those to too many questions."""
HEAD_REFUSED = {400, 405, 501}
"""Statuses of servers that know no HEAD; they are asked for the first byte instead."""


class Finding(NamedTuple):
    """What one place of a dataset's file, or of several, is like now."""

    dataset: str
    file: str
    place: str
    state: State
    detail: str


class Outcome(NamedTuple):
    """State of a place, and what it rests on."""

    state: State
    detail: str


@dataclass
class Answer:
    """What a server says of a file: headers by name in small letters, also those on the way."""

    url: str
    headers: dict[str, str]
    redirects: list[int]
    """Statuses of the redirects that led there."""

    @property
    def size(self) -> int | None:
        """Size of the file in bytes, if it is said."""
        whole = self.headers.get("content-range", "").rpartition("/")[2]
        size = self.headers.get("x-linked-size") or whole or self.headers.get("content-length", "")
        return int(size) if size.isdigit() else None

    @property
    def digests(self) -> dict[str, str]:
        """Checksums of the file by their kind, from headers that surely are such."""
        headers = self.headers
        linked = headers.get("x-linked-etag", "").strip('"')  # of Hugging Face
        digests = {"sha256": linked} if re.fullmatch("[0-9a-f]{64}", linked) else {}
        google = re.search(r"md5=([\w+/=]+)", headers.get("x-goog-hash", ""))
        stored = google[1] if google else headers.get("content-md5", "")
        if stored and "content-range" not in headers:
            digests["md5"] = base64.b64decode(stored).hex()
        # The tag of S3, unless the file was uploaded in parts; elsewhere a tag may mean anything.
        tag = headers.get("etag", "").strip('"')
        of_s3 = "x-amz-request-id" in headers and "kms" not in headers.get(ENCRYPTION, "")
        if of_s3 and re.fullmatch("[0-9a-f]{32}", tag):
            digests["md5"] = tag
        return digests


def check(datasets: Mapping[str, Dataset]) -> Iterator[Finding]:
    """Ask every place of every dataset, a few at a time, in order, and show progress.

    Raises:
        NoRoute: nothing answers, as this machine has no way to the internet.
    """
    items = [(name, *item) for name, entry in datasets.items() for item in _items(entry)]
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        yield from track(pool.map(lambda item: _finding(*item), items), "check", len(items))


def _items(entry: Dataset) -> Iterator[tuple[str, str, Callable[[], Outcome]]]:
    """What there is to ask of a dataset: a file's name, its place, and how it is asked."""
    if entry.root is not None:
        yield "", str(entry.root), lambda: Outcome("by hand", "a folder of yours")
        return
    if entry.mirror is not None:
        url = f"{entry.mirror.rstrip('/')}/SHA256SUMS"
        listing = Place(kind="http", url=url, file="SHA256SUMS")
        yield listing.file, url, lambda: _http(listing, entry)
        return
    for source in entry.sources:
        for place in (source, *source.mirrors):
            name = place.file or f"{place.id}/*"
            yield name, _named(place), _asking(place, entry)


def _asking(place: Place, entry: Dataset) -> Callable[[], Outcome]:
    return lambda: KINDS[place.kind](place, entry)


def _named(place: Place) -> str:
    where = place.url or place.repo or place.id or place.record
    return f"{place.kind}:{where}" if where and not place.url else str(where or place.kind)


def _finding(dataset: str, file: str, place: str, ask: Callable[[], Outcome]) -> Finding:
    try:
        outcome = _patiently(ask)
    except HTTPError as error:
        gated = error.code in GATED
        outcome = Outcome("needs a login" if gated else "dead", f"{error.code} {error.reason}")
    except route.NoRoute:
        raise
    except MeddinoError as error:
        outcome = Outcome("dead", hidden(str(error)))
    # What clients raise is not theirs alone: any of their dependencies' errors gets through.
    except Exception as error:
        route.ensure_after(error)
        reason = error.reason if isinstance(error, URLError) else error
        outcome = Outcome("dead", hidden(str(reason) or type(error).__name__))
    return Finding(dataset, file, place, *outcome)


def _patiently(ask: Callable[[], Outcome]) -> Outcome:
    for pause in PAUSES_S:
        try:
            return ask()
        except HTTPError as error:
            if error.code not in PASSING:
                raise
        time.sleep(pause)
    return ask()


class _Redirects(HTTPRedirectHandler):
    """Follows redirects with the same method, and keeps what each says of the file."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.headers: dict[str, str] = {}

    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        self.codes.append(code)
        lowered = {key.lower(): value for key, value in headers.items()}
        self.headers |= {key: lowered[key] for key in lowered if key.startswith("x-linked")}
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None:
            following.method = req.get_method()
        return following


def ask(url: str, method: str = "HEAD") -> Answer:
    """The headers of a file on the web.

    Raises:
        HTTPError: the server refuses it.
        OSError: no server answers.
    """
    redirects = _Redirects()
    extra = {"Range": "bytes=0-0"} if method == "GET" else {}
    request = Request(url, headers=HEADERS | extra, method=method)
    try:
        with build_opener(redirects).open(request, timeout=TIMEOUT_S) as answer:
            headers = {key.lower(): value for key, value in answer.headers.items()}
            return Answer(answer.url, redirects.headers | headers, redirects.codes)
    except HTTPError as error:
        if error.code in HEAD_REFUSED and method == "HEAD":
            return ask(url, "GET")
        raise


def _read(url: str) -> bytes:
    with build_opener().open(Request(url, headers=HEADERS), timeout=TIMEOUT_S) as answer:
        body: bytes = answer.read()
    return body


def compared(place: Place, size: int | None, digests: Mapping[str, str]) -> Outcome:
    """Whether what a server says of a file is what its entry expects."""
    pairs = [
        ("size", place.bytes, size),
        ("MD5", place.md5, digests.get("md5")),
        ("SHA-256", place.sha256, digests.get("sha256")),
    ]
    known = [pair for pair in pairs if pair[1] is not None and pair[2] is not None]
    for name, expected, actual in known:
        if expected != actual:
            return Outcome("changed", f"{name} is {actual}, expected {expected}")
    held = "" if size is None else f"{size / 1e9:.2f} GB"
    if known:
        names = " and ".join(name for name, _, _ in known)
        return Outcome("agrees", ", ".join(filter(None, [held, f"same {names}"])))
    return Outcome("reachable", ", ".join(filter(None, [held, "nothing to compare"])))


def _http(place: Place, _entry: Dataset) -> Outcome:
    """One file; of numbered ones, the first and the last."""
    if not place.ids:
        return _at(str(place.url), place)
    numbers = place.numbers()
    urls = [str(place.url).format(id=number) for number in (numbers[0], numbers[-1])]
    worst = max((_at(url, place) for url in urls), key=lambda outcome: STATES.index(outcome.state))
    return worst._replace(detail=f"{worst.detail} (2 of {len(numbers)} were asked)")


def _at(url: str, place: Place) -> Outcome:
    if url.startswith(LOCAL):
        path = local_path(url)
        there = path.is_file()
        return (
            compared(place, path.stat().st_size, {}) if there else Outcome("dead", "no such file")
        )
    answer = ask(url)
    page = answer.headers.get("content-type", "").startswith("text/html")
    if page and is_archive(place.file):
        return Outcome("changed", f"a web page, not the file ({answer.url})")
    outcome = compared(place, answer.size, answer.digests)
    if outcome.state not in BAD and answer.redirects:
        codes = ", ".join(map(str, answer.redirects))
        return Outcome("moved", f"{codes} to {answer.url} ({outcome.state}: {outcome.detail})")
    return outcome


def _zenodo(place: Place, _entry: Dataset) -> Outcome:
    record = json.loads(_read(ZENODO.format(record=place.record)))
    files = {file["key"]: file for file in record.get("files", [])}
    if place.file not in files:
        return Outcome("dead", f"the record holds {', '.join(sorted(files)) or 'no public file'}")
    kind, _, digest = files[place.file].get("checksum", "").partition(":")
    return compared(place, files[place.file].get("size"), {kind: digest})


def _s3(place: Place, entry: Dataset) -> Outcome:
    parts = urlsplit(str(place.url))
    return _at(f"{idc.BUCKET.format(bucket=parts.netloc)}/{quote(parts.path.lstrip('/'))}", place)


def _huggingface(place: Place, _entry: Dataset) -> Outcome:
    """A commit's files cannot change: it is enough that it is there."""
    from huggingface_hub import HfApi, errors

    repo = str(place.repo)
    try:
        info = HfApi().dataset_info(repo, revision=place.revision)
        commit, pattern = str(info.sha), "*" if place.path else place.file
        everything = clients.hub_files(repo, commit, pattern)
    except errors.GatedRepoError:
        return Outcome("needs a login", TERMS)
    except errors.RepositoryNotFoundError:
        return Outcome("dead", "there is no such dataset, or it is private")
    except errors.RevisionNotFoundError:
        return Outcome("dead", f"it has no revision {place.revision}")
    files = hub_names(place, everything, f"{repo} at {place.revision}").values()
    size = f"{len(files)} files, {sum(file.bytes for file in files) / 1e9:.2f} GB"
    if info.gated:
        return Outcome("needs a login", f"{size}; {TERMS}")
    only = next(iter(files))
    if place.sha256 or place.bytes:
        return compared(place, only.bytes, {"sha256": only.sha256} if only.sha256 else {})
    if COMMIT.fullmatch(place.revision):
        return Outcome("agrees", f"{size}, at the pinned commit")
    return Outcome("reachable", f"{size}; {place.revision} is {info.sha}, the first fetch keeps it")


def _idc(place: Place, _entry: Dataset) -> Outcome:
    """The index is compared when it is read, and so are the files."""
    for pattern in idc.INDEX:
        try:
            ask(pattern.format(version=place.revision))
            break
        except HTTPError:
            if pattern == idc.INDEX[-1]:
                raise
    _read(f"{idc.BUCKET.format(bucket=idc.MAIN_BUCKET)}/?list-type=2&max-keys=1")
    return Outcome("reachable", f"index {place.revision} and bucket; compared when fetched")


def _tcia(place: Place, _entry: Dataset) -> Outcome:
    series = json.loads(_read(NBIA.format(id=quote(str(place.id)))))
    if not series:
        return Outcome("dead", "the collection is empty")
    return Outcome("reachable", f"{len(series)} series, nothing to compare")


def _synapse(place: Place, _entry: Dataset) -> Outcome:
    _read(SYNAPSE.format(id=place.id))
    return Outcome("needs a login", "put an access token into SYNAPSE_AUTH_TOKEN")


def _google_drive(place: Place, _entry: Dataset) -> Outcome:
    ask(DRIVE.format(id=place.id))
    return Outcome("reachable", "nothing to compare")


def _manual(_place: Place, entry: Dataset) -> Outcome:
    if entry.home:
        ask(entry.home)
    return Outcome("by hand", f"{entry.home} answers" if entry.home else "no page is known")


KINDS: dict[str, Callable[[Place, Dataset], Outcome]] = {
    "http": _http,
    "zenodo": _zenodo,
    "s3": _s3,
    "huggingface": _huggingface,
    "synapse": _synapse,
    "tcia": _tcia,
    "idc": _idc,
    "google_drive": _google_drive,
    "manual": _manual,
}


def summary(findings: Iterable[Finding]) -> dict[State, int]:
    """How many places are in each state."""
    counts = dict.fromkeys(STATES, 0)
    for finding in findings:
        counts[finding.state] += 1
    return {state: count for state, count in counts.items() if count}
