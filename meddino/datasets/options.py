"""A dataset as one declarative entry: where it comes from, how it is laid out, what is wrong in it.

The workflow loads this module at every start: nothing heavy is imported.
"""

import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from meddino.core.options import Options
from meddino.core.secrets import public
from meddino.datasets.cases import Case, find_cases

SCHEMES = ("file:", "http://", "https://")
BUCKET = "s3://"

Part = Literal["images", "labelled"]
"""Files of a dataset: those of all images, or of labelled cases alone, with their labels."""

NEEDED = {
    "http": "url",
    "s3": "url",
    "zenodo": "record",
    "huggingface": "repo",
    "synapse": "id",
    "tcia": "id",
    "idc": "id",
    "google_drive": "id",
}
"""The key of a source that says where its kind finds it."""
COLLECTIONS = ("tcia", "idc")
"""Kinds that bring the series of a collection, of which the collection names the files."""


def _unused(value: object) -> bool:
    """Keys that came later stay out of what Snakemake tracks where they are not used."""
    return not value


def _relative(pattern: str) -> str:
    if not pattern or pattern.startswith("/") or ".." in PurePosixPath(pattern).parts:
        raise ValueError("must be a non-empty path relative to the dataset's folder, without '..'")
    return pattern


def _relative_or_none(pattern: str) -> str:
    return _relative(pattern) if pattern else pattern


def _regex(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from error
    return pattern


def _names_case(pattern: str) -> str:
    if "case" not in re.compile(_regex(pattern)).groupindex:
        raise ValueError("needs a named group (?P<case>...)")
    return pattern


def _url_or_bucket(address: str) -> str:
    return public(address) if address.startswith(BUCKET) else _url(address)


def _url(address: str) -> str:
    if not address.startswith(SCHEMES):
        raise ValueError(f"must start with one of {', '.join(SCHEMES)}")
    return public(address)


Glob = Annotated[str, AfterValidator(_relative)]
FileName = Annotated[str, AfterValidator(_relative_or_none)]
Regex = Annotated[str, AfterValidator(_regex)]
CaseRegex = Annotated[str, AfterValidator(_names_case)]
Url = Annotated[str, AfterValidator(_url)]
SourceUrl = Annotated[str, AfterValidator(_url_or_bucket)]


class Place(Options):
    """Where an archive or file of a dataset is, or many files of one numbered pattern."""

    kind: Literal[
        "http", "zenodo", "s3", "huggingface", "synapse", "tcia", "idc", "google_drive", "manual"
    ]
    """`s3`, `synapse`, `tcia` and `google_drive` need the extra of that name. `manual` means that
    only a person can get it: an agreement, or a client that is no Python package."""
    url: SourceUrl | None = None
    """For `http`: the address; `{id}` in it (as in Python's format) stands for each of `ids`. For
    `s3`: s3://bucket/key, in a bucket that is public."""
    id: str | None = Field(None, min_length=1, exclude_if=_unused)
    """For `synapse` and `google_drive`: the file; for `tcia` and `idc`: the collection as TCIA
    writes it, whose series go to <collection>/<patient>/<series>; of `idc` only those of CT."""
    record: int | None = Field(None, gt=0)
    """For `zenodo`: the number of the record."""
    repo: str | None = None
    """For `huggingface`: the dataset, as owner/name."""
    revision: str = "main"
    """For `huggingface`: a commit; of a branch or tag, the first fetch keeps the commit. For `idc`:
    the version of IDC's index."""
    path: FileName = Field("", exclude_if=_unused)
    """For `huggingface`: the name there of each of `ids`, where `file` is another; `{id}` as in
    `url`."""
    file: FileName = ""
    """Name under which it is stored; for `huggingface` without `path` a pattern over the dataset's
    files; `{id}` as in `url`; none for `tcia` and `idc`, which have a file for each series.
    Archives (.zip, .tar, .tar.gz, .tgz, .7z) are unpacked, anything else is kept."""
    ids: tuple[str, ...] = ()
    """Numbers and ranges, such as "0-299", that `{id}` stands for."""
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    """Expected SHA-256, where the owner or a well-kept loader publishes it; for `idc`: of the
    index."""
    md5: str | None = Field(None, pattern=r"^[0-9a-f]{32}$")
    """Expected MD5, compared as well: some owners publish nothing else."""
    bytes: int | None = Field(None, gt=0)
    """Expected size in bytes."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        needed = NEEDED.get(self.kind)
        if needed and getattr(self, needed) is None:
            raise ValueError(f"a source of kind {self.kind} needs `{needed}`")
        if bool(self.file) == (self.kind in COLLECTIONS):
            raise ValueError("a source needs `file`, unless its kind is tcia or idc, without one")
        if self.kind == "idc" and "revision" not in self.model_fields_set:
            raise ValueError("a source of kind idc needs `revision`, the version of IDC's index")
        if (self.url or "").startswith(BUCKET) != (self.kind == "s3"):
            raise ValueError(f"an address that starts with {BUCKET} and the kind s3 go together")
        if self.path and self.kind != "huggingface":
            raise ValueError("`path` is for the kind huggingface alone")
        if bool(self.ids) != ("{id" in (self.url or self.path)):
            raise ValueError("`ids` and `{id}` in `url` or `path` go together")
        for part in self.ids:
            if not re.fullmatch(r"\d+(-\d+)?", part):
                raise ValueError(f"ids: {part!r} is neither a number nor a range such as 0-299")
        return self

    @property
    def checked(self) -> bool:
        """Whether a checksum tells that a file is whole, so that an earlier run's part is safe."""
        return self.sha256 is not None or self.md5 is not None

    def numbers(self) -> list[int]:
        """All numbers of `ids`, in order."""
        ends = [tuple(map(int, part.split("-"))) for part in self.ids]
        return [number for end in ends for number in range(end[0], end[-1] + 1)]


class Source(Place):
    """One archive or file of a dataset, or many files of one numbered pattern."""

    optional: bool = Field(False, exclude_if=_unused)
    """Whether the dataset can do without: `fetch` then warns where it cannot be had."""
    mirrors: tuple[Place, ...] = Field((), exclude_if=_unused)
    """Other places of the same files, tried in order where one fails."""


class FolderLayout(Options):
    """How a dataset's folder is read: all that decides which volumes it holds."""

    images: tuple[Glob, ...] = Field(min_length=1)
    """Patterns, relative to the dataset's folder. Where DICOM files match, the folder that holds
    them is the image."""
    labels: tuple[Glob, ...] = ()
    """Patterns of one label file per image; empty where labels are absent or not one file."""
    exclude: tuple[str, ...] = ()
    """Patterns over the whole relative path (`*` crosses folders) of files to leave out."""
    case: CaseRegex
    """Regular expression, searched in an image's or a label's relative path. Its named groups,
    joined, are the case's identity, which pairs the two; one of them is `case`."""
    exclude_cases: tuple[str, ...] = ()
    """Cases to leave out: withdrawn, damaged, or copies."""
    mr_cases: Regex | None = None
    """Regular expression for the whole identity of MR cases; all others are CT."""
    label_map: dict[int, str] = {}
    """Label value -> structure."""

    @model_validator(mode="after")
    def _labels_positive(self) -> Self:
        if any(not 1 <= value <= 255 for value in self.label_map):
            raise ValueError("label_map: label values must be from 1 to 255 (0 is background)")
        return self

    def cases(self, root: Path) -> list[Case]:
        """All cases under `root`, sorted by identity (see `meddino.datasets.cases.find_cases`)."""
        return find_cases(self, root)


class Origin(Options):
    """Where a dataset comes from and how it may be had."""

    title: str = ""
    """Its name, as its owners write it."""
    home: str = ""
    """Its owners' page."""
    version: str = ""
    """The version that this entry describes."""
    licence: str = ""
    """Its licence as far as known, conflicts included."""
    access: Literal["open", "registration", "agreement"] = "open"
    """`open`: anyone may download; `registration`: an account first; `agreement`: a signed one."""
    how: str = ""
    """How a person obtains what cannot be downloaded by a program."""
    sources: tuple[Source, ...] = ()
    """What to download."""
    folder: str | None = None
    """Folder where you already have the extracted files; then nothing is downloaded."""
    mirror: Url | None = None
    """Address of a folder with the archives and their SHA256SUMS; used instead of `sources`."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.folder is not None and self.mirror is not None:
            raise ValueError("give `folder` or `mirror`, not both")
        return self

    @property
    def root(self) -> Path | None:
        """`folder` as an absolute path."""
        return None if self.folder is None else Path(self.folder).expanduser().resolve()


class Dataset(Origin, FolderLayout):
    """One dataset: origin, layout, and what is known of its contents."""

    nnunet: str | None = None
    """A folder of yours in nnU-Net's raw layout: its dataset.json says all other keys but those
    that you give, and describes a benchmark of the same name."""
    volumes: int | None = Field(None, gt=0)
    """Expected number of images (CT and MR); decides into how many chunks the work is cut."""
    pieces: int = Field(1, gt=0, le=1000)
    """Into how many pieces the download is cut where `keep_raw` is false and no benchmark reads the
    dataset: each is fetched, cut into slices and freed by itself, so that no more than that is on
    disk. Archives go to the pieces in turn; all files of a case must be in one archive."""
    contains: tuple[str, ...] = ()
    """Other datasets whose cases are in this one as copies."""
    defects: tuple[str, ...] = ()
    """What is known to be wrong in it, and what is done about it."""

    def layout(self) -> FolderLayout:
        """Only what decides how the folder is read."""
        return FolderLayout.model_validate(self.model_dump(include=set(FolderLayout.model_fields)))

    def origin(self) -> Origin:
        """Only what decides how the files are had."""
        return Origin.model_validate(self.model_dump(include=set(Origin.model_fields)))


class FreeOptions(Options):
    """Which download is freed."""

    dataset_name: str = Field(min_length=1)
    """Key of the dataset."""


class FetchOptions(Options):
    """What `fetch` needs of one dataset."""

    dataset_name: str = Field(min_length=1)
    """Key of the dataset in the configuration."""
    origin: Origin
    """Where it comes from."""
    images: tuple[Glob, ...] = Field(min_length=1)
    """Patterns of which at least one file must match once everything is in place."""
    labels: tuple[Glob, ...] = Field((), exclude_if=_unused)
    """Patterns of labels; of archives, what neither they nor `images` match is not unpacked."""
    piece: tuple[int, int] | None = Field(None, exclude_if=_unused)
    """Which of how many pieces of the download: one file in so many, from this number on."""
    layout: FolderLayout | None = Field(None, exclude_if=_unused)
    """How a folder of yours is read, whose files are listed."""
    part: Part | None = Field(None, exclude_if=_unused)
    """Which of them: those of all images, or of labelled cases alone, with the labels."""
    contents: str | None = Field(None, exclude_if=_unused)
    """Digest of their names, sizes and dates (see `meddino.datasets.listing`)."""

    @classmethod
    def of(
        cls, name: str, dataset: Dataset, part: Part = "images", contents: str | None = None
    ) -> Self:
        """Cut out of a whole entry what `fetch` needs."""
        whole = cls(dataset_name=name, origin=dataset.origin(), images=dataset.images)
        if dataset.folder is None:
            return whole.model_copy(update={"labels": dataset.labels})
        mine = {"layout": dataset.layout(), "part": part, "contents": contents}
        return whole.model_copy(update=mine)
