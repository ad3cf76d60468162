"""Files that come through a client of their owners' service instead of plain HTTP.

Every function brings one file to `target`, which appears only when all bytes are there. Packages
that only some datasets need are extras of this project, imported when they are used.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from meddino.core.errors import MeddinoError
from meddino.core.files import UNWRITABLE
from meddino.core.secrets import hidden, warn_if_shared
from meddino.datasets import route
from meddino.datasets.download import PIECE_BYTES
from meddino.datasets.extras import client
from meddino.datasets.meter import DownloadStopped, Meter

T = TypeVar("T")
ATTEMPTS = 3
"""Most clients try again by themselves; this is for those that do not."""
FIRST_PAUSE_S = 2.0


class HubFile(NamedTuple):
    """A file of a dataset on Hugging Face; `sha256` is None for small files, kept in git."""

    name: str
    bytes: int
    sha256: str | None


class Series(NamedTuple):
    """A DICOM series of a TCIA collection."""

    patient: str
    uid: str


def patiently(action: Callable[[], T], what: str, remedy: str) -> T:
    """Repeat what a client does until it succeeds, a few times.

    Args:
        action: the call.
        what: what it brings, for messages.
        remedy: what a person can do instead.

    Raises:
        MeddinoError: it failed every time, or its package is not installed.
        NoRoute: this machine has no way to the internet.
    """
    for attempt in range(ATTEMPTS):
        try:
            return action()
        except (DownloadStopped, route.NoRoute):
            raise
        except MeddinoError as error:
            raise MeddinoError(f"{error}. Or else: {remedy}") from error
        # What clients raise is not theirs alone: any of their dependencies' errors gets through.
        except Exception as error:
            if isinstance(error, OSError) and error.errno in UNWRITABLE:
                raise
            route.ensure_after(error)
            if attempt == ATTEMPTS - 1:
                message = hidden(f"{type(error).__name__}: {error}")
                # Without its cause: a traceback would show what was hidden.
                raise MeddinoError(f"cannot get {what}: {message}; {remedy}") from None
            print(hidden(f"{what}: {error}; trying again"), file=sys.stderr, flush=True)
            time.sleep(FIRST_PAUSE_S * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


def hub() -> Any:
    """The client of Hugging Face, once its host is known to be within reach.

    Raises:
        NoRoute: this machine has no way to the internet; the client would try for long.
    """
    from huggingface_hub import HfApi, constants

    route.ensure(constants.ENDPOINT)
    return HfApi()


def hub_files(repo: str, revision: str, pattern: str) -> list[HubFile]:
    """The files of a dataset on Hugging Face that match a pattern, sorted by name."""
    from huggingface_hub import constants
    from huggingface_hub.hf_api import RepoFile

    warn_if_shared([Path(constants.HF_TOKEN_PATH)])
    tree = hub().list_repo_tree(repo, recursive=True, revision=revision, repo_type="dataset")
    return sorted(
        HubFile(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else None)
        for entry in tree
        if isinstance(entry, RepoFile) and fnmatch(entry.path, pattern)
    )


def hub_commit(repo: str, revision: str) -> str:
    """The commit that a branch or tag of a dataset on Hugging Face stands for now."""
    return str(hub().dataset_info(repo, revision=revision).sha)


def from_hub(repo: str, revision: str, file: str, target: Path, meter: Meter) -> None:
    """Bring a file of a dataset on Hugging Face; the client resumes, and knows your login."""
    scratch = _scratch(target)
    path = hub().hf_hub_download(
        repo, file, repo_type="dataset", revision=revision, local_dir=scratch
    )
    _adopt(Path(path), target, scratch, meter)


def from_s3(url: str, resume: bool, target: Path, meter: Meter) -> None:
    """Bring an object of a public bucket (s3://bucket/key), going on where a part ends."""
    store = client("s3fs", "s3", url).S3FileSystem(anon=True)
    part = target.with_name(f"{target.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    have = part.stat().st_size if resume and part.exists() else 0
    meter.announce(store.info(url)["size"] - have)
    with store.open(url, "rb") as source, part.open("ab" if have else "wb") as file:
        source.seek(have)
        while piece := source.read(PIECE_BYTES):
            file.write(piece)
            meter.add(len(piece))
    os.replace(part, target)


def from_synapse(entity: str, target: Path, meter: Meter) -> None:
    """Bring a file on Synapse.

    The client takes your token from SYNAPSE_AUTH_TOKEN or ~/.synapseConfig.
    """
    purpose = f"{target.name} ({entity} on Synapse)"
    synapse = client("synapseclient", "synapse", purpose)
    operations = client("synapseclient.operations", "synapse", purpose)
    warn_if_shared([Path.home() / ".synapseConfig"])
    scratch = _scratch(target)
    login = synapse.Synapse(silent=True)
    login.login(silent=True)
    file = operations.get(
        entity,
        file_options=operations.FileOptions(
            download_location=str(scratch), if_collision="overwrite.local"
        ),
        synapse_client=login,
    )
    _adopt(Path(file.path), target, scratch, meter)


def tcia_series(collection: str) -> list[Series]:
    """The DICOM series of a collection of The Cancer Imaging Archive, sorted."""
    series = _nbia(collection).getSeries(collection=collection)
    if not series:
        raise ConnectionError(f"TCIA lists no series of the collection {collection}")
    return sorted(Series(entry["PatientID"], entry["SeriesInstanceUID"]) for entry in series)


def from_tcia(uid: str, target: Path, meter: Meter) -> None:
    """Bring a DICOM series of The Cancer Imaging Archive as a zip of its files."""
    scratch = _scratch(target)
    _nbia(uid).downloadSeries([uid], input_type="list", path=str(scratch), as_zip=True)
    # The client prints what went wrong, and returns as if nothing had.
    if not (scratch / f"{uid}.zip").exists():
        raise ConnectionError("the client brought nothing")
    _adopt(scratch / f"{uid}.zip", target, scratch, meter)


def from_google_drive(number: str, target: Path, meter: Meter) -> None:
    """Bring a file that Google Drive shares with everyone; the client resumes."""
    gdown = client("gdown", "google-drive", f"Google Drive file {number}")
    scratch = _scratch(target)
    path = gdown.download(id=number, output=str(scratch / target.name), quiet=True, resume=True)
    if path is None:
        raise ConnectionError(
            "the client brought nothing: the file is not shared, or its quota spent"
        )
    _adopt(Path(path), target, scratch, meter)


def _nbia(purpose: str) -> Any:
    return client("tcia_utils.nbia", "tcia", f"{purpose} of TCIA")


def _scratch(target: Path) -> Path:
    """A folder of its own beside a target, kept between runs for clients that resume."""
    folder = target.with_name(f"{target.name}.client")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _adopt(file: Path, target: Path, scratch: Path, meter: Meter) -> None:
    """Give what a client brought its name."""
    meter.announce(file.stat().st_size)
    meter.add(file.stat().st_size)
    os.replace(file, target)
    shutil.rmtree(scratch)
