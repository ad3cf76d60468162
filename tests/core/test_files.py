"""Files are whole or absent, whichever library writes them and whatever it says of a full disk."""

import errno
import pickle
from collections.abc import Callable
from pathlib import Path

import ct3m_data as data
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from full_disk import CAUSE, SHARES, contents, full_after
from safetensors.torch import save_file

from meddino.__main__ import main
from meddino.core.errors import MeddinoError, Unwritable
from meddino.core.files import atomic, obstacle, write_json, writing
from meddino.ct3m import shards

NOISE = np.random.default_rng(0).integers(-1000, 1000, (12, 64, 64)).astype(np.int16)


def figure(path: Path) -> None:
    drawing, axes = plt.subplots()
    axes.imshow(NOISE[0])
    drawing.savefig(path)
    plt.close(drawing)


def array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, NOISE)


def shard(path: Path) -> None:
    row = dict.fromkeys(shards.METADATA.names, 0) | {"sha": "", "fingerprint": bytes(128)}
    with shards.ShardWriter(path, 64, group_rows=2) as writer:
        for number, pixels in enumerate(NOISE):
            place = {"dataset": "a", "case": "a", "slice": number}
            writer.add({**row, **place, **shards.packed(pixels, level=1)})


WRITERS: dict[str, Callable[[Path], object]] = {
    "a.pth": lambda path: torch.save({"a": torch.from_numpy(NOISE)}, path),
    "a.safetensors": lambda path: save_file({"a": torch.from_numpy(NOISE)}, path),
    "a.npy": array,
    "a.npz": lambda path: np.savez_compressed(path, NOISE),
    "table.parquet": lambda path: pd.DataFrame({"a": NOISE.ravel()}).to_parquet(path),
    "shard.parquet": shard,
    "a.csv": lambda path: pd.DataFrame(NOISE[0]).to_csv(path),
    "a.png": figure,
    "a.pdf": figure,
    "a.pkl": lambda path: path.write_bytes(pickle.dumps(NOISE)),
    "a.txt": lambda path: path.write_text("a line\n" * 9000),
}


@pytest.mark.parametrize("name", WRITERS)
def test_no_library_leaves_a_part_of_a_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with atomic(path) as temporary:
        WRITERS[name](temporary)
    whole = path.read_bytes()
    for share in SHARES:
        with (
            full_after(share * len(whole)),
            pytest.raises(Unwritable, match=rf"cannot write .*{name}: {CAUSE}; free space"),
            atomic(path) as temporary,
        ):
            WRITERS[name](temporary)
        assert contents(tmp_path) == {name: whole}, "what was there before"


@pytest.mark.parametrize("name", WRITERS)
def test_no_library_keeps_a_file_from_the_group(tmp_path: Path, name: str) -> None:
    (tmp_path / "plain").touch()
    with atomic(tmp_path / name) as temporary:
        WRITERS[name](temporary)
    with atomic(tmp_path / "folder") as temporary:
        temporary.mkdir()
        WRITERS[name](temporary / name)
    plain = (tmp_path / "plain").stat().st_mode
    assert (tmp_path / name).stat().st_mode == plain
    assert (tmp_path / "folder" / name).stat().st_mode == plain


def test_an_error_of_another_kind_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic(tmp_path / "a"):
        _ = 1 / 0
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "a"):
        (tmp_path / "input").read_bytes()
    with pytest.raises(ZeroDivisionError), writing(tmp_path / "a", tmp_path / "not made yet"):
        _ = 1 / 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["file/a.json", "file/folder/a.json", "n" * 300, "/proc/x/a"])
def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MeddinoError, match=r"cannot write .*\w; free space or permit"):
        write_json(tmp_path / place, 1)
    assert contents(tmp_path) == {"file": b""}


def test_the_obstacle_is_found_behind_what_it_caused() -> None:
    full = OSError(errno.ENOSPC, "")
    assert obstacle(full) == obstacle(RuntimeError("... No space left on device (os error 28)"))
    try:
        try:
            raise full
        except OSError as error:
            raise KeyError("a worker failed") from error
    except KeyError as error:
        assert obstacle(error) == "No space left on device"
    assert obstacle(OSError(errno.EACCES, "Permission denied")) is None


def test_endings_of_temporaries_are_small_since_writers_go_by_them(tmp_path: Path) -> None:
    with atomic(tmp_path / "Scan.NII.GZ") as temporary:
        assert temporary.name == ".tmp-Scan.nii.gz"
        temporary.touch()
    assert contents(tmp_path) == {"Scan.NII.GZ": b""}


def test_a_record_that_cannot_be_written_fails_its_verb(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here the result fits, and its record does not."""
    data.save(tmp_path / "scans/a.nii.gz", data.body())
    options = (
        '{"dataset_name": "mine", "images": ["*.nii.gz"],'
        f' "origin": {{"folder": "{tmp_path / "scans"}"}}}}'
    )
    output = tmp_path / "out/.fetched.json"
    command = ["fetch", "--options", options, "--output", str(output)]
    with full_after(500):
        assert main(command) == 2
    printed = capsys.readouterr().err
    assert "provenance.json: File too large" in printed and "Traceback" not in printed
    assert main(command) == 0
    assert set(contents(tmp_path / "out")) == {".fetched.json", ".fetched.json.provenance.json"}
