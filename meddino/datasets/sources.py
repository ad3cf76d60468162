"""The files that an origin consists of: where each is, what is known of it, and who brings it."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from threading import Lock
from urllib.parse import quote, unquote

from meddino.core.errors import MeddinoError
from meddino.datasets import clients, idc
from meddino.datasets.download import download, read_text
from meddino.datasets.meter import Meter
from meddino.datasets.options import Origin, Place, Source
from meddino.datasets.pins import Pins
from meddino.datasets.route import NoRoute

ZENODO = "https://zenodo.org/records/{record}/files/{file}?download=1"
LOCAL = "file:"
Bring = Callable[[Path, Meter], None]


@dataclass(frozen=True)
class Remote:
    """One file to get: its identity, its name in the dataset's folder, what is known of it."""

    url: str
    file: str
    sha256: str | None = None
    md5: str | None = None
    bytes: int | None = None
    into: str = "."
    """Folder, in the dataset's, that an archive is unpacked into."""
    bring: Bring | None = None
    """Brings the file to a path; None where it is local, or only a person can get it."""
    optional: bool = False
    """Whether the dataset can do without."""
    elsewhere: "Mirrors | None" = None
    """Other places of the file."""

    def places(self) -> "Iterator[Remote]":
        """The file here, then at each other place that has it."""
        yield self
        if self.elsewhere is not None:
            yield from self.elsewhere.of(self.file)


@dataclass(frozen=True)
class Context:
    """What listing a source needs beside it."""

    remedy: str
    """What a person can do where a client fails."""
    pins: Pins
    """Commits of branches."""
    lacking: list[str] = field(default_factory=list)
    """Optional sources that could not be listed, by what names them best; filled on the way."""


class Mirrors:
    """Other places of the files of a source, each listed when it is needed first."""

    def __init__(self, places: Sequence[Place], context: Context) -> None:
        """Name the places, in the order in which they are tried."""
        self._places, self._context, self._lock = list(places), context, Lock()
        self._listed: dict[int, dict[str, Remote]] = {}

    def of(self, file: str) -> Iterator[Remote]:
        """One file at each place that has it; places that cannot be listed are named and left."""
        for number in range(len(self._places)):
            with self._lock:
                files = self._files(number)
            if file in files:
                yield files[file]

    def _files(self, number: int) -> dict[str, Remote]:
        if number not in self._listed:
            try:
                listing = _listing(self._places[number], self._context)
                files = {remote.file: remote for remote in listing}
            except NoRoute:
                raise
            except MeddinoError as error:
                print(error, file=sys.stderr, flush=True)
                files = {}
            self._listed[number] = files
        return self._listed[number]


def remotes(name: str, origin: Origin, context: Context) -> Iterator[Remote]:
    """All files of an origin, those of a mirror if one is given.

    Args:
        name: key of the dataset.
        origin: where it comes from.
        context: what listing needs; told of optional sources that cannot be listed.

    Raises:
        MeddinoError: there is no origin, or what it consists of cannot be listed.
    """
    if origin.mirror is not None:
        yield from _mirrored(origin.mirror.rstrip("/"))
        return
    for source in origin.sources:
        yield from _anywhere(source, context)
    if not origin.sources:
        raise MeddinoError(
            f"datasets.{name}: no origin; give datasets.{name}.folder, .mirror or .sources"
        )


def _anywhere(source: Source, context: Context) -> Iterator[Remote]:
    """The files of a source, as the first of its places lists them that can be listed."""
    places = [source, *source.mirrors]
    failures: list[str] = []
    for number, place in enumerate(places):
        if failures:
            print(f"{failures[-1]}; trying {place.kind}", file=sys.stderr, flush=True)
        elsewhere = Mirrors(places[number + 1 :], context) if places[number + 1 :] else None
        try:
            files = _listing(place, context)
        except NoRoute:
            raise
        except MeddinoError as error:
            failures.append(str(error))
            continue
        for file in files:
            yield replace(file, optional=source.optional, elsewhere=elsewhere)
        return
    if not source.optional:
        raise MeddinoError("; ".join(failures))
    what = source.file or str(source.id)
    print(f"warning: goes without {what}: {'; '.join(failures)}", file=sys.stderr, flush=True)
    context.lacking.append(what)


def by_hand(name: str, origin: Origin, incoming: Path) -> str:
    """What a person does about files that no program can get, as part of a message."""
    terms = f" (its terms: {origin.licence})" if origin.licence else ""
    # A source without a suffix is a folder; those of TCIA are many.
    single = any(Path(source.file).suffix for source in origin.sources)
    handover = f"put the files as they come into {incoming} and rerun, or " if single else ""
    return (
        f"{origin.how or 'see ' + origin.home}{terms}. Then {handover}give the folder with the"
        f" extracted files as datasets.{name}.folder, or the address of a folder with the archives"
        f" and their SHA256SUMS as datasets.{name}.mirror"
    )


def local_path(url: str) -> Path:
    """The path that a `file:` address names; relative ones start at the working directory."""
    path = unquote(url.removeprefix(LOCAL))
    return Path(path[2:] if path.startswith("//") else path)


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
        url = f"{mirror}/{quote(file)}"
        bring = None if mirror.startswith(LOCAL) else partial(_over_http, url, True)
        yield Remote(url, file, sha256=digest.lower(), bring=bring)


def _one(place: Place, url: str, bring: Bring | None) -> Iterator[Remote]:
    """The one file of a place, with all that its entry says of it."""
    yield Remote(url, place.file, place.sha256, place.md5, place.bytes, bring=bring)


def _over_http(url: str, resume: bool, target: Path, meter: Meter) -> None:
    download(url, target, resume=resume, meter=meter)


def _manual(place: Place, _context: Context) -> Iterator[Remote]:
    yield from _one(place, f"manual:{place.file}", None)


def _http(place: Place, _context: Context) -> Iterator[Remote]:
    if not place.ids:
        url = str(place.url)
        local = url.startswith(LOCAL)
        yield from _one(place, url, None if local else partial(_over_http, url, place.checked))
    for number in place.numbers():
        url = str(place.url).format(id=number)
        bring = partial(_over_http, url, False)
        yield Remote(url, place.file.format(id=number), bring=bring)


def _zenodo(place: Place, _context: Context) -> Iterator[Remote]:
    url = ZENODO.format(record=place.record, file=quote(place.file))
    yield from _one(place, url, partial(_over_http, url, place.checked))


def _s3(place: Place, context: Context) -> Iterator[Remote]:
    url = str(place.url)
    bring = partial(clients.from_s3, url, place.checked)
    yield from _one(place, url, _patient(bring, url, context))


def _synapse(place: Place, context: Context) -> Iterator[Remote]:
    url = f"synapse:{place.id}"
    bring = partial(clients.from_synapse, str(place.id))
    yield from _one(place, url, _patient(bring, url, context))


def _google_drive(place: Place, context: Context) -> Iterator[Remote]:
    url = f"google_drive:{place.id}"
    bring = partial(clients.from_google_drive, str(place.id))
    yield from _one(place, url, _patient(bring, url, context))


def _huggingface(place: Place, context: Context) -> Iterator[Remote]:
    """Files at one commit, with the SHA-256 that the hub keeps of each (Git LFS)."""
    repo, remedy = str(place.repo), context.remedy
    where = f"huggingface.co/datasets/{repo} at {place.revision}"
    asked = partial(clients.hub_commit, repo, place.revision)
    resolve = partial(clients.patiently, asked, where, remedy)
    commit = context.pins.commit(repo, place.revision, resolve)
    listing = partial(clients.hub_files, repo, commit, "*" if place.path else place.file)
    files = hub_names(place, clients.patiently(listing, where, remedy), where)
    for name, file in files.items():
        url = f"huggingface:{repo}@{commit}/{file.name}"
        bring = _patient(partial(clients.from_hub, repo, commit, file.name), url, context)
        sha256 = place.sha256 or file.sha256
        yield Remote(url, name, sha256, place.md5, file.bytes, bring=bring)


def hub_names(
    place: Place, files: Sequence[clients.HubFile], where: str
) -> dict[str, clients.HubFile]:
    """Files on the hub by the names under which they are stored.

    Raises:
        MeddinoError: there is none, or one of the numbered ones is absent.
    """
    if not place.path:
        if not files:
            raise MeddinoError(f"{where} holds no {place.file}; mend `file` or `revision` of it")
        return {file.name: file for file in files}
    held = {file.name: file for file in files}
    names = {place.file.format(id=n): place.path.format(id=n) for n in place.numbers()}
    if absent := [path for path in names.values() if path not in held]:
        raise MeddinoError(
            f"{where} lacks {len(absent)} of {len(names)} files, such as {absent[0]}; mend `path`,"
            " `ids` or `revision` of it"
        )
    return {name: held[path] for name, path in names.items()}


def _tcia(place: Place, context: Context) -> Iterator[Remote]:
    """A zip for each series, unpacked to `<collection>/<patient>/<series>`."""
    collection = str(place.id)
    where = f"the collection {collection} of TCIA"
    listing = partial(clients.tcia_series, collection)
    for series in clients.patiently(listing, where, context.remedy):
        bring = _patient(partial(clients.from_tcia, series.uid), f"tcia:{series.uid}", context)
        yield _series(collection, series.patient, series.uid, bring)


def _idc(place: Place, _context: Context) -> Iterator[Remote]:
    """The same, from the buckets of IDC."""
    collection = str(place.id)
    for series in idc.series_of(collection, place.revision, place.sha256):
        yield _series(collection, series.patient, series.uid, partial(idc.bring, series))


def _series(collection: str, patient: str, uid: str, bring: Bring) -> Remote:
    """A series, which is the same one whoever brings it: so are its address and its name."""
    folder = f"{collection}/{patient}/{uid}"
    return Remote(f"tcia:{uid}", f"{folder}.zip", into=folder, bring=bring)


def _listing(place: Place, context: Context) -> list[Remote]:
    return list(KINDS[place.kind](place, context))


def _patient(bring: Bring, what: str, context: Context) -> Bring:
    return lambda target, meter: clients.patiently(
        lambda: bring(target, meter), what, context.remedy
    )


KINDS: dict[str, Callable[[Place, Context], Iterator[Remote]]] = {
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
