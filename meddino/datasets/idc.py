"""Series of NCI's Imaging Data Commons (IDC), which holds the public collections of TCIA.

Its buckets are public: plain HTTPS lists and reads them, without a client or a login. Which series
are in a collection is said by an index, a Parquet file with a version
(github.com/ImagingDataCommons/idc-index-data); an object of a bucket never changes.
"""

import hashlib
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from urllib.parse import quote
from xml.etree import ElementTree

from meddino.core.errors import MeddinoError
from meddino.core.files import sha256 as digest_of
from meddino.datasets.download import download, read_text
from meddino.datasets.meter import Meter

INDEX = (
    "https://github.com/ImagingDataCommons/idc-index-data/releases/download/{version}/idc_index.parquet",
    "https://storage.googleapis.com/idc-index-data-artifacts/{version}/release_artifacts/idc_index.parquet",
)
"""Addresses of the index: the release, and its copy."""
BUCKET = "https://{bucket}.s3.amazonaws.com"
MAIN_BUCKET = "idc-open-data"
"""Where nearly all series lie; the index says which bucket a series is in."""
COLUMNS = ["PatientID", "SeriesInstanceUID", "instanceCount", "series_aws_url"]
_AWS = re.compile(r"s3://(?P<bucket>[\w.-]+)/(?P<prefix>[\w-]+)/\*?")
_MD5 = re.compile(r"[0-9a-f]{32}")


class Series(NamedTuple):
    """A series of CT: whose, and in which folder of which bucket its objects are."""

    patient: str
    uid: str
    instances: int
    bucket: str
    prefix: str


class Item(NamedTuple):
    """An object of a bucket; its `etag` is the MD5, unless it was uploaded in parts."""

    url: str
    name: str
    bytes: int
    etag: str


def series_of(collection: str, version: str, sha256: str | None) -> list[Series]:
    """The series of CT of a collection, sorted.

    Args:
        collection: its name as TCIA writes it.
        version: of the index.
        sha256: of the index, compared if given.

    Raises:
        MeddinoError: the index cannot be had or is another one, or lists no such series.
    """
    from pyarrow import parquet

    filters = [("collection_id", "=", _identifier(collection)), ("Modality", "=", "CT")]
    with TemporaryDirectory() as folder:
        path = _index(version, sha256, Path(folder))
        rows = parquet.read_table(path, columns=COLUMNS, filters=filters).to_pylist()
    if not rows:
        raise MeddinoError(
            f"IDC's index {version} lists no CT of {collection}; mend `id` or `revision`"
        )
    return sorted(_series(row) for row in rows)


def bring(series: Series, target: Path, meter: Meter) -> None:
    """Bring a series as a zip of its files, each compared with the bucket's size and MD5.

    Args:
        series: which.
        target: the zip, which appears only when all files are in it.
        meter: told of the bytes that arrive.

    Raises:
        MeddinoError: the bucket holds other files than the index says, or one cannot be had.
    """
    items = sorted(_items(series), key=lambda item: item.name)
    if len(items) != series.instances:
        raise MeddinoError(
            f"IDC holds {len(items)} files of the series {series.uid}, not {series.instances} as"
            " its index says; take another `revision` of the index"
        )
    scratch = target.with_name(f"{target.name}.files")
    scratch.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    with zipfile.ZipFile(part, "w") as archive:
        for item in items:
            data = _bring(item, scratch / item.name, meter)
            # Without the date, so that the same files make the same zip.
            archive.writestr(zipfile.ZipInfo(item.name), data)
    os.replace(part, target)
    shutil.rmtree(scratch)


def _identifier(collection: str) -> str:
    """A collection's name in IDC: small letters, and `_` for all that is no letter or digit."""
    return re.sub(r"[^0-9a-z]+", "_", collection.lower())


def _index(version: str, sha256: str | None, folder: Path) -> Path:
    """Download the index from the first address that has it."""
    path, failures = folder / "idc_index.parquet", []
    for pattern in INDEX:
        address = pattern.format(version=version)
        try:
            download(address, path, resume=False)
        except MeddinoError as error:
            failures.append(str(error))
            continue
        if sha256 in (None, digest := digest_of(path)):
            return path
        failures.append(f"{address}: SHA-256 expected {sha256}, found {digest}")
    raise MeddinoError(f"IDC's index {version}: {'; '.join(failures)}")


def _series(row: dict[str, str]) -> Series:
    place = _AWS.fullmatch(row["series_aws_url"])
    if place is None:
        raise MeddinoError(f"IDC's index: {row['series_aws_url']!r} is no folder of a bucket")
    patient, uid = row["PatientID"], row["SeriesInstanceUID"]
    return Series(patient, uid, int(row["instanceCount"]), place["bucket"], place["prefix"])


def _items(series: Series) -> Iterator[Item]:
    """The files of a series, as the bucket lists them (S3's ListObjectsV2, page by page)."""
    bucket, token = BUCKET.format(bucket=series.bucket), ""
    while True:
        query = f"list-type=2&prefix={quote(series.prefix)}%2F" + token
        page = ElementTree.fromstring(read_text(f"{bucket}/?{query}"))
        for entry in page.iterfind("{*}Contents"):
            key, size = entry.findtext("{*}Key", ""), entry.findtext("{*}Size", "0")
            name, etag = key.rpartition("/")[2], entry.findtext("{*}ETag", "").strip('"')
            if name:
                yield Item(f"{bucket}/{quote(key)}", name, int(size), etag)
        following = page.findtext("{*}NextContinuationToken")
        if not following:
            return
        token = f"&continuation-token={quote(following, safe='')}"


def _bring(item: Item, path: Path, meter: Meter) -> bytes:
    """Have a file on this machine; return what is in it, once it is known to be the bucket's."""
    if not path.exists():
        download(item.url, path, resume=False, meter=meter)
    data = path.read_bytes()
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if len(data) != item.bytes or (_MD5.fullmatch(item.etag) and md5 != item.etag):
        path.unlink()
        raise MeddinoError(
            f"{item.url} arrived damaged: {len(data)} bytes with MD5 {md5}, expected"
            f" {item.bytes} with {item.etag}; rerun to fetch it anew"
        )
    return data
