"""Places of files: mirrors, parts that a dataset can do without, pinned commits, IDC's buckets."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from serving import COMMITS, Handler, Hub, digest, http, zip_of

from meddino.core.errors import MeddinoError
from meddino.core.files import read_json
from meddino.datasets import fetch, idc, sources
from meddino.datasets.options import FetchOptions, Origin, Source


def run(tmp_path: Path, *entries: dict[str, Any], images: str = "**/img*.nii") -> Path:
    origin = Origin(sources=tuple(Source(**entry) for entry in entries))
    options = FetchOptions(dataset_name="toy", origin=origin, images=(images,))
    output = tmp_path / "raw" / "toy" / ".fetched.json"
    fetch.run(options, output=output)
    return output


def test_dead_or_changed_place_gives_way_to_the_next(
    served: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, folder = served
    (folder / "good.nii").write_bytes(b"one")
    (folder / "changed.nii").write_bytes(b"two")
    known = {"sha256": digest(folder / "good.nii")}
    mirrors = [http(f"{url}/changed.nii", **known), http(f"{url}/good.nii", **known)]
    output = run(tmp_path, http(f"{url}/dead.nii", **known, mirrors=mirrors))
    assert (output.parent / "img1.nii").read_bytes() == b"one"
    log = capsys.readouterr().err
    assert "404: Not Found" in log and f"trying {url}/changed.nii" in log
    assert "SHA-256 expected" in log and f"trying {url}/good.nii" in log
    with pytest.raises(MeddinoError, match=r"dead\.nii.*404.*gone\.nii.*404"):
        run(
            tmp_path,
            http(f"{url}/dead.nii", "img2.nii", mirrors=[http(f"{url}/gone.nii", "img2.nii")]),
        )


def test_part_that_can_be_done_without_fails_nothing(
    served: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, folder = served
    (folder / "img1.nii").write_bytes(b"one")
    labels = http(f"{url}/labels.zip", "labels.zip", optional=True)
    by_hand = {"kind": "manual", "file": "more.zip", "optional": True}
    output = run(tmp_path, labels, http(f"{url}/img1.nii"), by_hand)
    assert read_json(output)["lacking"] == ["labels.zip", "more.zip"]
    assert [record["file"] for record in read_json(output)["files"]] == ["img1.nii"]
    assert "warning: goes without labels.zip" in capsys.readouterr().err
    zip_of(folder / "labels.zip", {"label1.nii": b"l"})
    output = run(tmp_path, labels, http(f"{url}/img1.nii"))
    assert "lacking" not in read_json(output)
    assert [record["file"] for record in read_json(output)["files"]] == ["labels.zip", "img1.nii"]
    with pytest.raises(MeddinoError, match=r"img2\.nii"):
        run(tmp_path, http(f"{url}/img2.nii", "img2.nii"), labels)


def test_hub_patterns_and_zenodo_records(
    hub: Hub, served: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = served
    monkeypatch.setattr(sources, "ZENODO", url + "/{record}-{file}")
    hub.commit(COMMITS[0], {"img1.nii": b"1", "img2.nii": b"img2.nii", "README.md": b"x"}, "main")
    zip_of(folder / "12-z.zip", {"img3.nii": b"z"})
    images = {"kind": "huggingface", "repo": "o/r", "file": "img*.nii"}
    output = run(tmp_path, images, {"kind": "zenodo", "record": 12, "file": "z.zip"})
    names = [".fetch", ".fetched.json", "img1.nii", "img2.nii", "img3.nii"]
    assert sorted(p.name for p in output.parent.glob("*")) == names
    # The hub's own checksum guards what the entry has none for.
    tree = json.loads(hub.files_of(COMMITS[0]).read_text())
    tree[2]["lfs"]["oid"] = "0" * 64
    hub.files_of(COMMITS[0]).write_text(json.dumps(tree))
    with pytest.raises(MeddinoError, match="SHA-256 expected 000"):
        run(tmp_path, {**images, "file": "img2.nii"})
    with pytest.raises(MeddinoError, match=r"o/r at main holds no absent\.zip"):
        run(tmp_path, {**images, "file": "absent.zip"})


def test_branch_stands_for_the_commit_that_was_fetched_first(hub: Hub, tmp_path: Path) -> None:
    branch = {"kind": "huggingface", "repo": "o/r", "file": "img*.nii"}
    hub.commit(COMMITS[0], {"img1.nii": b"first"}, "main")
    assert read_json(run(tmp_path, branch))["pinned"] == {"o/r@main": COMMITS[0]}
    hub.commit(COMMITS[1], {"img1.nii": b"second"}, "main")
    output = run(tmp_path, branch)  # as a job does whose manifest Snakemake has removed
    assert read_json(output)["pinned"] == {"o/r@main": COMMITS[0]}
    assert (output.parent / "img1.nii").read_bytes() == b"first"
    output = run(tmp_path, {**branch, "revision": COMMITS[1]})
    assert (output.parent / "img1.nii").read_bytes() == b"second"
    assert "pinned" not in read_json(output)


def test_numbered_files_of_the_hub_get_other_names(hub: Hub, tmp_path: Path) -> None:
    numbered = {
        "kind": "huggingface", "repo": "o/r", "revision": COMMITS[0], "ids": ["1-2"],
        "path": "images/case_{id:05d}.nii", "file": "dataset/case_{id:05d}/img.nii",
    }  # fmt: skip
    hub.commit(COMMITS[0], {f"images/case_0000{n}.nii": f"case {n}".encode() for n in (1, 2, 3)})
    output = run(tmp_path, numbered)
    images = {p.parent.name: p.read_bytes() for p in output.parent.glob("dataset/*/img.nii")}
    assert images == {"case_00001": b"case 1", "case_00002": b"case 2"}
    with pytest.raises(MeddinoError, match=r"lacks 1 of 3 files, such as images/case_00004\.nii"):
        run(tmp_path, {**numbered, "ids": ["2-4"]})


@pytest.fixture
def bucket(served: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two series of CT and one that is none, and IDC's index of them."""
    url, folder = served
    monkeypatch.setattr(idc, "INDEX", (url + "/gone/{version}", url + "/index-{version}.parquet"))
    monkeypatch.setattr(idc, "BUCKET", url + "/{bucket}")
    rows = []
    for number, modality in (1, "CT"), (2, "CT"), (3, "SEG"):
        for item in range(3):
            path = folder / f"idc-open-data/uuid-{number}/{item}.dcm"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"slice {item} of {number}".encode())
        rows.append(
            {
                "collection_id": "toy_ct", "PatientID": f"P{number}", "Modality": modality,
                "SeriesInstanceUID": f"{number}.{number}", "instanceCount": 3,
                "series_aws_url": f"s3://idc-open-data/uuid-{number}/*",
            }
        )  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), folder / "index-24.0.parquet")
    return folder


SERIES = "Toy-CT/*/*/*.dcm"


def test_series_of_ct_come_from_the_buckets_of_idc(bucket: Path, tmp_path: Path) -> None:
    known = digest(bucket / "index-24.0.parquet")
    source = {"kind": "idc", "id": "Toy-CT", "revision": "24.0", "sha256": known}
    root = run(tmp_path, source, images=SERIES).parent
    files = {p.relative_to(root).as_posix(): p.read_bytes() for p in root.glob(SERIES)}
    assert files == {
        f"Toy-CT/P{n}/{n}.{n}/{i}.dcm": f"slice {i} of {n}".encode()
        for n in (1, 2)
        for i in range(3)
    }
    Handler.log.clear()
    run(tmp_path, source, images=SERIES)
    assert [path for path, _ in Handler.log] == ["/gone/24.0", "/index-24.0.parquet"]
    with pytest.raises(MeddinoError, match=r"gone.*404.*SHA-256 expected 000"):
        run(tmp_path, {**source, "sha256": "0" * 64}, images=SERIES)
    with pytest.raises(MeddinoError, match="lists no CT of Other"):
        run(tmp_path, {**source, "id": "Other"}, images=SERIES)


def test_series_that_idc_does_not_hold_whole_comes_from_tcia(
    bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bucket / "idc-open-data/uuid-2/1.dcm").unlink()
    source = {"kind": "idc", "id": "Toy-CT", "revision": "24.0"}
    with pytest.raises(MeddinoError, match=r"IDC holds 2 files of the series 2\.2, not 3"):
        run(tmp_path, source, images=SERIES)

    def download(uids: list[str], *, input_type: str, path: str, as_zip: bool) -> None:
        zip_of(Path(path) / f"{uids[0]}.zip", {"0.dcm": b"of TCIA"})

    nbia = types.ModuleType("tcia_utils.nbia")
    listed = [{"PatientID": f"P{n}", "SeriesInstanceUID": f"{n}.{n}"} for n in (1, 2)]
    nbia.__dict__.update(getSeries=lambda collection: listed, downloadSeries=download)
    monkeypatch.setitem(sys.modules, "tcia_utils", types.ModuleType("tcia_utils"))
    monkeypatch.setitem(sys.modules, "tcia_utils.nbia", nbia)
    both = {**source, "mirrors": [{"kind": "tcia", "id": "Toy-CT"}]}
    root = run(tmp_path, both, images=SERIES).parent
    assert (root / "Toy-CT/P1/1.1/2.dcm").read_bytes() == b"slice 2 of 1"
    assert (root / "Toy-CT/P2/2.2/0.dcm").read_bytes() == b"of TCIA"
    # Where IDC cannot even be listed, the same series are in place already.
    (bucket / "index-24.0.parquet").unlink()
    files = read_json(run(tmp_path, both, images=SERIES))["files"]
    assert [file["file"] for file in files] == ["Toy-CT/P1/1.1.zip", "Toy-CT/P2/2.2.zip"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"kind": "idc", "id": "C"}, "kind idc needs `revision`"),
        (
            {"kind": "idc", "revision": "24", "id": "C", "file": "a"},
            "unless its kind is tcia or idc",
        ),
        (
            {"kind": "http", "url": "http://x/a", "path": "a", "file": "a"},
            "for the kind huggingface",
        ),
        (
            {"kind": "huggingface", "repo": "o/r", "path": "a{id}", "file": "a{id}"},
            "`ids` and `{id}` in `url` or `path`",
        ),
    ],
)
def test_place_that_lacks_something_is_refused(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Source(**entry)
