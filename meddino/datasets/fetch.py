"""Verb `fetch`: bring one dataset's files into its folder and verify them.

The folder `.fetch` beside them holds what a rerun needs: downloads and archives under way, and one
record for every file of the origin that is in place, with its checksum and what came out of it. A
file that lies in `<folder>.incoming`, where a person put it, is used instead of a download.
"""

import hashlib
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from meddino.core.errors import MeddinoError, Unwritable
from meddino.core.files import UNWRITABLE, atomic, read_json, write_json
from meddino.core.parallel import a_few_ahead
from meddino.core.words import some
from meddino.datasets.archives import DamagedArchive, Wanted, is_archive, merge, strays, unpack
from meddino.datasets.cases import matches
from meddino.datasets.listing import Listing
from meddino.datasets.members import readable
from meddino.datasets.meter import Meter
from meddino.datasets.options import FetchOptions, FolderLayout
from meddino.datasets.pins import Pins
from meddino.datasets.route import NoRoute
from meddino.datasets.sources import LOCAL, Context, Remote, by_hand, local_path, remotes

T = TypeVar("T")
R = TypeVar("R")
CONNECTIONS = 4
"""Files that are downloaded at the same time: more is not polite to the owners' servers."""
DOWNLOADS, UNPACKED = "downloads", "unpacked"
PIECE = re.compile(r"(?<=.)\.(\d+|for_\w+)$")
"""How the name of a folder ends that holds a piece of a dataset: see `study.paths.passing`."""
NAMED = 5
"""Files that a message names."""


class Brought(NamedTuple):
    """A verified file on this machine, and whether it is a download, to be removed once used."""

    path: Path
    sha256: str
    bytes: int
    downloaded: bool


@dataclass(frozen=True)
class Record:
    """A file of the origin that is in place: its address, SHA-256, size, and what became of it."""

    url: str
    file: str
    sha256: str
    bytes: int
    members: list[str]
    patterns: list[str] | None = None
    """What members of an archive had to match to be unpacked; None where all were."""

    def holds(self, patterns: Iterable[str]) -> bool:
        """Whether all that some patterns match has been unpacked."""
        return self.patterns is None or set(patterns) <= set(self.patterns)


def run(options: FetchOptions, *, output: Path) -> None:
    """Bring a dataset's files into the folder of `output`, and write the manifest there last.

    Files that are in place and verified are not fetched again; files of an earlier state of the
    origin are removed. Files in an archive that no pattern of images and labels matches are not
    unpacked. If the dataset is a folder of yours, its files are only listed.

    Args:
        options: the dataset's origin, and patterns that its images match.
        output: `<folder>/.fetched.json`, with `dataset`, `root` (the folder with the extracted
            files, relative to the manifest's) and `files` (name, SHA-256 and bytes of each); where
            there are any, `pinned` (the commit that a branch stood for when it was fetched first)
            and `lacking` (optional files that could not be had). Of a folder of yours: name, bytes
            and `mtime_ns`, and `unmatched`, the images that no pattern finds.

    Raises:
        MeddinoError: a file cannot be had or is not the expected one, or no image is there.
        NoRoute: this machine has no way to the internet.
    """
    output.unlink(missing_ok=True)
    root = options.origin.root
    manifest = _downloaded(options, output.parent) if root is None else _listed(options, root)
    write_json(output, {"dataset": options.dataset_name, **manifest})


def _listed(options: FetchOptions, root: Path) -> dict[str, Any]:
    """Manifest of a folder of a person's own."""
    name = f"datasets.{options.dataset_name}"
    layout = options.layout or FolderLayout(images=options.images, case="(?P<case>.*)")
    listing = Listing(layout, root, name)
    if unmatched := listing.unmatched():
        print(
            f"{name}: no pattern finds {len(unmatched)} images below {root}:"
            f" {some(unmatched, NAMED)}; mend `images` or `labels`, or put what is left"
            " out on purpose under `exclude`",
            file=sys.stderr,
        )
    files = [
        {"file": file, **stamp._asdict()}
        for file, stamp in sorted(listing.files(options.part or "images").items())
    ]
    return {"root": str(root), "files": files, "unmatched": unmatched}


def _downloaded(options: FetchOptions, root: Path) -> dict[str, Any]:
    """Manifest of a dataset that is downloaded."""
    name = options.dataset_name
    remedy = by_hand(name, options.origin, incoming_folder(root))
    context = Context(remedy, Pins(_home(root) / ".fetch" / "revisions.json"))
    records = _fetch_all(options, root, context)
    if options.piece and not records:
        print(f"{name}: fewer files than pieces; this piece has none", file=sys.stderr)
    elif next(matches(root, options.images), None) is None:
        raise MeddinoError(
            f"empty dataset folder: no file under {root} matches {' or '.join(options.images)};"
            f" check `mirror`, `sources` and `images` of datasets.{name}"
        )
    files = [{"file": r.file, "sha256": r.sha256, "bytes": r.bytes} for r in records]
    notes = {"pinned": context.pins.used, "lacking": sorted(context.lacking)}
    return {"root": ".", "files": files, **{key: note for key, note in notes.items() if note}}


def raw_root(manifest: Path) -> Path:
    """The folder with the extracted dataset that a manifest of `fetch` stands for."""
    return manifest.parent / str(read_json(manifest).get("root", "."))


def _fetch_all(options: FetchOptions, root: Path, context: Context) -> list[Record]:
    """Records of all files once they are in place; optional ones that lack are noted."""
    name, incoming = options.dataset_name, incoming_folder(root)
    patterns = [*options.images, *options.labels]
    number, pieces = options.piece or (0, 1)
    try:
        files = list(remotes(name, options.origin, context))[number::pieces]
        _refuse_strays(name, files)
        if not context.lacking:  # files of a part that cannot be listed today are still good
            _forget_others(files, root)
        in_place = {remote.file: _in_place(remote, root, patterns) for remote in files}
        absent = [remote for remote in files if in_place[remote.file] is None]
        if by_person := [r.file for r in absent if _needs_person(r, incoming)]:
            raise MeddinoError(
                f"datasets.{name}: {', '.join(by_person)} cannot be downloaded by a program:"
                f" {context.remedy}"
            )
        placed = {record.file: record for record in _fetch(absent, root, patterns)}
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise MeddinoError(
            f"cannot write under {root}: {error.strerror}; free space (twice the archives' size is"
            " needed for a while) or permit writing there, then rerun to go on where it stopped"
        ) from error
    records = {remote.file: in_place[remote.file] or placed.get(remote.file) for remote in files}
    context.lacking.extend(file for file, record in records.items() if record is None)
    return [record for record in records.values() if record is not None]


def _refuse_strays(name: str, files: list[Remote]) -> None:
    """Servers and mirrors name files, too."""
    for remote in files:
        if strays(remote.file) or strays(remote.into):
            raise MeddinoError(
                f"datasets.{name}: {remote.url} is named {remote.file!r}, which would be outside"
                " the dataset's folder, or among its records; get the files by hand, and give"
                f" their folder as datasets.{name}.folder"
            )


def incoming_folder(root: Path) -> Path:
    """Where a person puts files that no program can get: beside the dataset's folder."""
    return _home(root).with_name(f"{_home(root).name}.incoming")


def _home(root: Path) -> Path:
    """The folder of a whole dataset; those of its pieces bear its name, a dot and what they are."""
    return root.with_name(PIECE.sub("", root.name))


def _needs_person(remote: Remote, incoming: Path) -> bool:
    dispensable = remote.optional or remote.elsewhere is not None
    return _by_person(remote) and not dispensable and not (incoming / remote.file).is_file()


def _by_person(remote: Remote) -> bool:
    return remote.bring is None and not remote.url.startswith(LOCAL)


def _fetch(lacking: list[Remote], root: Path, patterns: list[str]) -> Iterator[Record]:
    """Download a few files at a time; unpack them one after another, in the origin's order."""
    with (
        ThreadPoolExecutor(CONNECTIONS) as pool,
        Meter(f"fetch {root.name}", len(lacking)) as meter,
    ):
        bring = partial(_bring, root=root, meter=meter)
        # All at once would fill the disk with archives.
        arriving = a_few_ahead(pool, bring, lacking, CONNECTIONS)
        for remote, brought in zip(lacking, arriving, strict=True):
            if brought is not None:
                yield _place(remote, brought, root, patterns)
            meter.done()
    for leftover in (DOWNLOADS, UNPACKED):
        shutil.rmtree(root / ".fetch" / leftover, ignore_errors=True)


def _bring(remote: Remote, root: Path, meter: Meter) -> Brought | None:
    """Have a file on this machine, from the first place that has the announced one.

    None stands for an optional file that no place has.
    """
    failures: list[str] = []
    for place in remote.places():
        if failures:
            print(f"{failures[-1]}; trying {place.url}", file=sys.stderr, flush=True)
        try:
            return _obtain(place, root, meter)
        except (NoRoute, Unwritable):
            raise
        except MeddinoError as error:
            failures.append(str(error))
    message = "; ".join(dict.fromkeys(failures))
    if not remote.optional:
        raise MeddinoError(message)
    print(f"warning: goes without {remote.file}: {message}", file=sys.stderr, flush=True)
    return None


def _obtain(remote: Remote, root: Path, meter: Meter) -> Brought:
    """Have a file on this machine, and know that it is the announced one."""
    meter.add(0)
    arrived = incoming_folder(root) / remote.file
    if arrived.is_file():
        return _verify(remote, arrived, downloaded=False)
    if _by_person(remote):
        raise MeddinoError(
            f"{remote.file} cannot be downloaded by a program; put it into {arrived.parent}"
        )
    if remote.bring is None:
        path = local_path(remote.url)
        if not path.is_file():
            raise MeddinoError(f"{path} is listed in SHA256SUMS but absent; complete the mirror")
        return _verify(remote, path, downloaded=False)
    target = root / ".fetch" / DOWNLOADS / remote.file
    if not target.exists():
        print(f"downloading {remote.url}", file=sys.stderr, flush=True)
        remote.bring(target, meter)
    return _verify(remote, target, downloaded=True)


def _place(remote: Remote, brought: Brought, root: Path, patterns: list[str]) -> Record:
    """Put one file into the dataset's folder, unpacked if it is an archive."""
    _forget(_record_path(remote, root), root)
    archive, unpacked = is_archive(remote.file), root / ".fetch" / UNPACKED
    shutil.rmtree(unpacked, ignore_errors=True)
    members = [remote.file]
    if archive:
        test = readable(patterns)
        inside = _unpack(
            brought,
            unpacked / remote.into,
            lambda member: test((Path(remote.into) / member).as_posix()),
        )
        members = [(Path(remote.into) / member).as_posix() for member in inside]
    record = Record(
        remote.url,
        remote.file,
        brought.sha256,
        brought.bytes,
        members,
        patterns if archive else None,
    )
    # First the record, so that a run killed on the way leaves no file without an owner.
    write_json(_record_path(remote, root), asdict(record))
    if archive:
        merge(unpacked, root)
    else:
        with atomic(root / remote.file) as temporary:
            shutil.copyfile(brought.path, temporary)
    if brought.downloaded:
        brought.path.unlink()
    return record


def _unpack(brought: Brought, folder: Path, wanted: Wanted) -> list[str]:
    """Unpack an archive; a damaged download goes, so that a rerun does not meet it again."""
    try:
        return unpack(brought.path, folder, wanted)
    except DamagedArchive:
        if brought.downloaded:
            brought.path.unlink()
        raise


def _record_path(remote: Remote, root: Path) -> Path:
    return root / ".fetch" / "records" / f"{remote.file}.json"


def _in_place(remote: Remote, root: Path, patterns: list[str]) -> Record | None:
    """The record of a file that need not be fetched again, or None."""
    path = _record_path(remote, root)
    if not path.exists():
        return None
    record = Record(**read_json(path))
    same = record.sha256 == remote.sha256 if remote.sha256 else record.url == remote.url
    complete = all((root / member).exists() for member in record.members)
    return record if same and complete and record.holds(patterns) else None


def _forget_others(files: list[Remote], root: Path) -> None:
    """Remove the files of an earlier state of the origin."""
    records = {_record_path(remote, root) for remote in files}
    for path in (root / ".fetch" / "records").glob("**/*.json"):
        if path not in records:
            _forget(path, root)


def _forget(record_path: Path, root: Path) -> None:
    """Remove what an earlier run put in place under this record."""
    if record_path.exists():
        for member in read_json(record_path)["members"]:
            (root / member).unlink(missing_ok=True)
        record_path.unlink()


def _verify(remote: Remote, path: Path, *, downloaded: bool) -> Brought:
    """Check that a file is what was announced; remove a download that is not."""
    size_bytes = path.stat().st_size
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            sha256.update(piece)
            if remote.md5 is not None:
                md5.update(piece)
    checks = [
        ("bytes", remote.bytes, size_bytes),
        ("SHA-256", remote.sha256, sha256.hexdigest()),
        ("MD5", remote.md5, md5.hexdigest()),
    ]
    for name, expected, actual in checks:
        if expected not in (None, actual):
            if downloaded:
                path.unlink()
            place = remote.url if downloaded else path
            raise MeddinoError(
                f"{remote.file} from {place} is not the expected file: {name} expected {expected},"
                f" found {actual}; rerun to fetch it anew; if it stays so, its owners changed it or"
                " the copy is damaged: compare the checksum with theirs"
            )
    return Brought(path, sha256.hexdigest(), size_bytes, downloaded)
