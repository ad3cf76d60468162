"""Within a quota: only what is read is unpacked, piece by piece, and is freed safely."""

import hashlib
import shutil
import tarfile
import zipfile
from dataclasses import asdict
from io import BytesIO
from pathlib import Path

import pandas as pd
import pytest

from meddino.core import receipts
from meddino.core.errors import MeddinoError
from meddino.core.files import read_json, write_json
from meddino.ct3m import index, slices
from meddino.ct3m.options import Curation, IndexOptions, SliceOptions
from meddino.ct3m.shards import METADATA
from meddino.datasets import fetch, free
from meddino.datasets.fetch import Record
from meddino.datasets.members import readable
from meddino.datasets.options import FetchOptions, FolderLayout, FreeOptions, Origin
from meddino.datasets.phantom import phantom
from meddino.datasets.phantom.options import PhantomOptions

IMAGES, LABELS = ("**/img*.nii.gz",), ("**/label*.nii.gz",)
FILES = {
    "a/img1.nii.gz": b"one",
    "a/img2.nii.gz": b"two",
    "a/label1.nii.gz": b"label",
    "a/masks/liver.nii.gz": b"mask",
    "meta.csv": b"id",
}


def list_sums(mirror: Path) -> None:
    files = sorted(path for path in mirror.iterdir() if path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (mirror / "SHA256SUMS").write_text("".join(lines))


def zipped(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def tarred(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, BytesIO(content))


def bring(
    root: Path,
    mirror: Path,
    images: tuple[str, ...] = IMAGES,
    labels: tuple[str, ...] = (),
    piece: tuple[int, int] | None = None,
) -> Path:
    """Fetch from a folder of archives; return the manifest."""
    list_sums(mirror)
    origin = Origin(mirror=f"file:{mirror}")
    output = root / ".fetched.json"
    options = FetchOptions(
        dataset_name="toy", origin=origin, images=images, labels=labels, piece=piece
    )
    fetch.run(options, output=output)
    return output


def visible(root: Path) -> set[str]:
    files = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return {path.as_posix() for path in files if not path.parts[0].startswith(".")}


@pytest.mark.parametrize(("name", "pack"), [("a.zip", zipped), ("a.tgz", tarred)])
def test_only_what_patterns_match_is_unpacked(name: str, pack: object, tmp_path: Path) -> None:
    assert callable(pack)
    pack(tmp_path / "mirror" / name, FILES)
    bring(tmp_path / "toy", tmp_path / "mirror")
    assert visible(tmp_path / "toy") == {"a/img1.nii.gz", "a/img2.nii.gz"}


def test_a_pattern_that_comes_later_is_unpacked_too(tmp_path: Path) -> None:
    zipped(tmp_path / "mirror/a.zip", FILES)
    bring(tmp_path / "toy", tmp_path / "mirror")
    bring(tmp_path / "toy", tmp_path / "mirror", labels=LABELS)
    wanted = {"a/img1.nii.gz", "a/img2.nii.gz", "a/label1.nii.gz"}
    assert visible(tmp_path / "toy") == wanted
    (tmp_path / "mirror/a.zip").unlink()
    zipped(tmp_path / "mirror/a.zip", FILES)
    bring(tmp_path / "toy", tmp_path / "mirror")
    assert visible(tmp_path / "toy") == wanted, "in place, with more than is asked for"


def test_a_record_from_before_there_were_patterns_holds_everything(tmp_path: Path) -> None:
    zipped(tmp_path / "mirror/a.zip", FILES)
    manifest = bring(tmp_path / "toy", tmp_path / "mirror", images=("**/*",))
    record = manifest.parent / ".fetch/records/a.zip.json"
    write_json(record, {k: v for k, v in read_json(record).items() if k != "patterns"})
    before = record.read_bytes()
    bring(tmp_path / "toy", tmp_path / "mirror", labels=LABELS)
    assert record.read_bytes() == before and visible(tmp_path / "toy") == set(FILES)


@pytest.mark.parametrize(
    ("pattern", "read", "not_read"),
    [
        ("**/ct.nii.gz", ["ct.nii.gz", "x/ct.nii.gz"], ["x/ct.nii.gz.txt", "x/seg/liver.nii.gz"]),
        ("**/CT/*/anon/*.dcm", ["a/CT/1/anon/i.dcm", "CT/2/anon/README"], ["a/MR/1/anon/i.dcm"]),
        ("**/scan*.mhd", ["p/scan1.mhd", "p/scan1.raw"], ["p/other.nii.gz", "q.nii.gz"]),
        ("patients/*", ["patients/1/2/IM0001", "patients/1"], ["others/1/IM0001"]),
        ("img/img*.nii", ["img/img1.nii"], ["x/img/img1.nii", "img/label1.nii", "img/a.json"]),
    ],
)
def test_patterns_find_in_archives_what_they_find_in_folders(
    pattern: str, read: list[str], not_read: list[str]
) -> None:
    test = readable([pattern])
    assert [name for name in read if not test(name)] == []
    assert [name for name in not_read if test(name)] == []


# ---- pieces -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms of LiTS, in three archives."""
    folder = tmp_path_factory.mktemp("lits")
    options = PhantomOptions(dataset="lits", cases=5, size_px=48, slices=16, seed=0)
    phantom.run(options, output=folder / "made/SHA256SUMS")
    with zipfile.ZipFile(folder / "made/Training_Batch1.zip") as whole:
        for number, member in enumerate(whole.namelist()):
            part = folder / f"mirror/part{number // 2 % 3}.zip"
            part.parent.mkdir(exist_ok=True)
            with zipfile.ZipFile(part, "a") as archive:
                archive.writestr(member, whole.read(member))
    return folder / "mirror"


VOLUMES = ("**/volume-[0-9]*.nii",)
LAYOUT = FolderLayout(images=VOLUMES, case=r"volume-(?P<case>\d+)\.nii")


def rows(folder: Path, raws: list[Path], alone: bool) -> pd.DataFrame:
    """The index of what is cut from some downloads, a chunk from each."""
    reports = []
    for chunk, raw in enumerate(raws):
        reports.append(folder / f"shards/lits/{chunk}.json")
        options = SliceOptions(
            dataset_name="lits",
            dataset=LAYOUT,
            chunk=chunk,
            chunks=len(raws),
            alone=alone,
            curation=Curation(datasets=("lits",), sizes_px=(64,)),
        )
        slices.run(options, raw=raw, output=reports[-1])
    output = folder / "index.64.parquet"
    index.run(IndexOptions(size_px=64), reports=reports, output=output)
    table = pd.read_parquet(output)
    return table.sort_values(["dataset", "case", "slice"], ignore_index=True)


def test_pieces_give_the_slices_of_the_whole(archives: Path, tmp_path: Path) -> None:
    """Of three archives in four pieces; the last one is empty."""
    whole = bring(tmp_path / "raw/lits", archives, VOLUMES)
    expected = rows(tmp_path / "whole", [whole, whole], alone=False)
    pieces = [bring(tmp_path / f"raw/lits.{n}", archives, VOLUMES, piece=(n, 4)) for n in range(4)]
    assert [len(read_json(manifest)["files"]) for manifest in pieces] == [1, 1, 1, 0]
    actual = rows(tmp_path / "pieces", pieces, alone=True)
    assert len(actual) > 40
    same = [name for name in METADATA.names if name in actual]
    assert {"dataset", "case", "slice", "sha"} <= set(same)
    pd.testing.assert_frame_equal(actual[same], expected[same], check_categorical=False)


def test_a_piece_with_files_and_no_image_is_an_error(tmp_path: Path) -> None:
    zipped(tmp_path / "mirror/a.zip", {"a/label1.nii.gz": b"x"})
    zipped(tmp_path / "mirror/b.zip", FILES)
    with pytest.raises(MeddinoError, match=r"no file under .* matches"):
        bring(tmp_path / "toy.0", tmp_path / "mirror", piece=(0, 2))


def test_pieces_share_what_a_person_has_put_beside_the_dataset(tmp_path: Path) -> None:
    assert fetch.incoming_folder(tmp_path / "toy.3") == tmp_path / "toy.incoming"
    assert fetch.incoming_folder(tmp_path / "toy") == tmp_path / "toy.incoming"


# ---- freeing ------------------------------------------------------------------------------------


def free_toy(root: Path) -> dict[str, object]:
    output = root / receipts.RAW
    free.run(FreeOptions(dataset_name="toy"), output=output)
    return receipts.read(output)


@pytest.fixture
def fetched(tmp_path: Path) -> Path:
    zipped(tmp_path / "mirror/a.zip", FILES)
    bring(tmp_path / "toy", tmp_path / "mirror")
    return tmp_path / "toy"


def test_what_was_fetched_goes_and_nothing_else(fetched: Path) -> None:
    (fetched / "mine.nii.gz").write_bytes(b"mine")
    (fetched / "a/mine.nii.gz").write_bytes(b"mine")
    incoming = fetched.with_name("toy.incoming")
    zipped(incoming / "a.zip", FILES)
    receipt = free_toy(fetched)
    assert visible(fetched) == {"mine.nii.gz", "a/mine.nii.gz"}
    assert (incoming / "a.zip").exists() and (fetched.with_name("mirror") / "a.zip").exists()
    assert not (fetched / ".fetched.json").exists()
    names = [Path(file["path"]).name for file in receipt["files"]]  # type: ignore[attr-defined]
    assert names == [".fetched.json", "img1.nii.gz", "img2.nii.gz"]
    assert receipt["origin"][0]["file"] == "a.zip"  # type: ignore[index]


def test_what_was_freed_comes_back_and_can_be_freed_again(fetched: Path) -> None:
    for _ in range(2):
        free_toy(fetched)
        assert visible(fetched) == set()
        bring(fetched, fetched.with_name("mirror"))
        assert visible(fetched) == {"a/img1.nii.gz", "a/img2.nii.gz"}


@pytest.mark.parametrize("kills", range(3))
def test_a_kill_while_freeing_loses_nothing(
    kills: int, fetched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the receipt, the manifest, or a file: freeing goes on, and so does fetching."""

    class Killed(BaseException):
        pass

    unlink, gone = Path.unlink, []

    def killed(path: Path, missing_ok: bool = False) -> None:
        if path.name.startswith(".tmp-"):
            return unlink(path, missing_ok)
        if len(gone) == kills:
            raise Killed
        gone.append(path)
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(Killed):
            free_toy(fetched)
    assert receipts.read(fetched / receipts.RAW)["files"]
    copy = fetched.with_name("copy")
    shutil.copytree(fetched, copy)
    free_toy(fetched)
    assert visible(fetched) == set()
    bring(copy, fetched.with_name("mirror"))
    assert visible(copy) == {"a/img1.nii.gz", "a/img2.nii.gz"}


def test_what_no_program_can_get_again_stays(
    fetched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = fetched / ".fetch/records/a.zip.json"
    write_json(record, {**read_json(record), "url": "manual:a.zip"})
    assert free_toy(fetched)["kept"]
    assert visible(fetched) == {"a/img1.nii.gz", "a/img2.nii.gz"}
    assert "no program could get it again" in capsys.readouterr().err
    zipped(fetched.with_name("toy.incoming") / "a.zip", FILES)
    assert not free_toy(fetched)["kept"]
    assert visible(fetched) == set()


def test_a_folder_of_yours_is_never_deleted(tmp_path: Path) -> None:
    own = tmp_path / "scans"
    (own / "a").mkdir(parents=True)
    (own / "a/img1.nii.gz").write_bytes(b"mine")
    manifest = tmp_path / "raw/toy/.fetched.json"
    options = FetchOptions(dataset_name="toy", origin=Origin(folder=str(own)), images=IMAGES)
    fetch.run(options, output=manifest)
    with pytest.raises(MeddinoError, match="folder of yours"):
        free_toy(manifest.parent)
    with pytest.raises(MeddinoError, match="nothing is deleted"):
        free_toy(own)
    assert (own / "a/img1.nii.gz").exists()


def test_forged_records_and_links_that_lead_out_delete_nothing(fetched: Path) -> None:
    outside = fetched.with_name("outside")
    outside.mkdir()
    (outside / "img1.nii.gz").write_bytes(b"mine")
    record = Record("file:x", "b.zip", "0" * 64, 1, ["../outside/img1.nii.gz"])
    path = fetched / ".fetch/records/b.zip.json"
    for members in (["../outside/img1.nii.gz"], [str(outside / "img1.nii.gz")], ["l/img1.nii.gz"]):
        (fetched / "b.zip").touch()
        write_json(path, {**asdict(record), "members": members, "url": "http://x/b.zip"})
        if not (fetched / "l").exists():
            (fetched / "l").symlink_to(outside)
        with pytest.raises(MeddinoError, match="nothing is deleted"):
            free_toy(fetched)
    assert (outside / "img1.nii.gz").exists() and "a/img1.nii.gz" in visible(fetched)
    assert not (fetched / receipts.RAW).exists()


def test_receipts_tell_what_is_gone_what_is_left_and_what_came_back(
    fetched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fetched.parent)
    slip = fetched / receipts.RAW
    free_toy(fetched)
    assert len(receipts.freed([slip])) == 3 and not receipts.left([slip])
    assert "downloads of toy" in receipts.summary(receipts.find([fetched.parent]))
    leftover = fetched / "a/img1.nii.gz"
    leftover.parent.mkdir()
    leftover.write_bytes(b"one")
    write_json(slip, {**read_json(slip), "freed": "1999-01-01T00:00:00+00:00"})
    assert not receipts.left([slip]), "it came back"
    write_json(slip, {**read_json(slip), "freed": "2999-01-01T00:00:00+00:00"})
    assert list(receipts.left([slip])) == ["toy/a/img1.nii.gz"]
