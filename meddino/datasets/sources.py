"""The files that an origin consists of: where each is, what is known of it, and who brings it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote

from meddino.core.errors import MeddinoError
from meddino.datasets import clients
from meddino.datasets.download import download, read_text
from meddino.datasets.meter import Meter
from meddino.datasets.options import Origin, Source

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


def remotes(name: str, origin: Origin, remedy: str) -> Iterator[Remote]:
    """All files of an origin, those of a mirror if one is given.

    Args:
        name: key of the dataset.
        origin: where it comes from.
        remedy: what a person can do where a client fails.

    Raises:
        MeddinoError: there is no origin, or what it consists of cannot be listed.
    """
    if origin.mirror is not None:
        yield from _mirrored(origin.mirror.rstrip("/"))
        return
    for source in origin.sources:
        yield from KINDS[source.kind](source, remedy)
    if not origin.sources:
        raise MeddinoError(
            f"datasets.{name}: no origin; give datasets.{name}.folder, .mirror or .sources"
        )


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


def _one(source: Source, url: str, bring: Bring | None) -> Iterator[Remote]:
    """The one file of a source, with all that its entry says of it."""
    yield Remote(url, source.file, source.sha256, source.md5, source.bytes, bring=bring)


def _over_http(url: str, resume: bool, target: Path, meter: Meter) -> None:
    download(url, target, resume=resume, meter=meter)


def _manual(source: Source, _remedy: str) -> Iterator[Remote]:
    yield from _one(source, f"manual:{source.file}", None)


def _http(source: Source, _remedy: str) -> Iterator[Remote]:
    if not source.ids:
        url = str(source.url)
        local = url.startswith(LOCAL)
        yield from _one(source, url, None if local else partial(_over_http, url, source.checked))
    for number in source.numbers():
        url = str(source.url).format(id=number)
        bring = partial(_over_http, url, False)
        yield Remote(url, source.file.format(id=number), bring=bring)


def _zenodo(source: Source, _remedy: str) -> Iterator[Remote]:
    url = ZENODO.format(record=source.record, file=quote(source.file))
    yield from _one(source, url, partial(_over_http, url, source.checked))


def _s3(source: Source, remedy: str) -> Iterator[Remote]:
    url = str(source.url)
    bring = partial(clients.from_s3, url, source.checked)
    yield from _one(source, url, _patient(bring, url, remedy))


def _synapse(source: Source, remedy: str) -> Iterator[Remote]:
    url = f"synapse:{source.id}"
    bring = partial(clients.from_synapse, str(source.id))
    yield from _one(source, url, _patient(bring, url, remedy))


def _google_drive(source: Source, remedy: str) -> Iterator[Remote]:
    url = f"google_drive:{source.id}"
    bring = partial(clients.from_google_drive, str(source.id))
    yield from _one(source, url, _patient(bring, url, remedy))


def _huggingface(source: Source, remedy: str) -> Iterator[Remote]:
    repo, revision = str(source.repo), source.revision
    place = f"huggingface.co/datasets/{repo} at {revision}"
    listing = partial(clients.hub_files, repo, revision, source.file)
    files = clients.patiently(listing, place, remedy)
    if not files:
        raise MeddinoError(
            f"{place} holds no {source.file}; mend `file` or `revision` of this source"
        )
    for file in files:
        url = f"huggingface:{repo}@{revision}/{file.name}"
        bring = _patient(partial(clients.from_hub, repo, revision, file.name), url, remedy)
        yield Remote(
            url, file.name, source.sha256 or file.sha256, source.md5, file.bytes, bring=bring
        )


def _tcia(source: Source, remedy: str) -> Iterator[Remote]:
    """A zip for each series, unpacked to `<collection>/<patient>/<series>`."""
    collection = str(source.id)
    place = f"the collection {collection} of TCIA"
    for series in clients.patiently(partial(clients.tcia_series, collection), place, remedy):
        url, folder = f"tcia:{series.uid}", f"{collection}/{series.patient}/{series.uid}"
        bring = _patient(partial(clients.from_tcia, series.uid), url, remedy)
        yield Remote(url, f"{folder}.zip", into=folder, bring=bring)


def _patient(bring: Bring, what: str, remedy: str) -> Bring:
    return lambda target, meter: clients.patiently(lambda: bring(target, meter), what, remedy)


KINDS: dict[str, Callable[[Source, str], Iterator[Remote]]] = {
    "http": _http,
    "zenodo": _zenodo,
    "s3": _s3,
    "huggingface": _huggingface,
    "synapse": _synapse,
    "tcia": _tcia,
    "google_drive": _google_drive,
    "manual": _manual,
}
