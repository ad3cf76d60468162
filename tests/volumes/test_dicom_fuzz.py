"""Any bytes of a DICOM file are read or refused: no exception of another kind, no crash."""

import tempfile
from functools import cache
from pathlib import Path

import dicom_data as data
import numpy as np
import pytest
from ct3m_data import body
from dicom_data import COMPRESSIONS, group, slice_of, write

from meddino.volumes import reader
from meddino.volumes.reader import BadVolume

CT = body(0, (20, 16, 4)).T
MUTATIONS = 60


@cache
def files(form: str) -> dict[str, bytes]:
    """A small scan: its files by name."""
    with tempfile.TemporaryDirectory() as folder:
        if form == "enhanced":
            groups = [group(number) for number in range(len(CT))]
            write(Path(folder, "e.dcm"), data.enhanced(CT - data.OFFSET, groups))
        for number, image in enumerate(CT if form != "enhanced" else ()):
            dataset = slice_of(image, number)
            if form != "classic":
                dataset = data.compressed(dataset, form)
            write(Path(folder, f"{number}.dcm"), dataset)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def mutated(content: bytes, random: np.random.Generator) -> bytes:
    """Change some bytes, mostly of the header; cut some out, or repeat some, or cut the end off."""
    changed = bytearray(content)
    header = min(len(changed), 1600)
    kind = random.integers(0, 10)
    if kind < 7:
        for _ in range(random.integers(1, 5)):
            place = random.integers(0, header if kind < 6 else len(changed))
            changed[place] = random.integers(0, 256)
        return bytes(changed)
    start = int(random.integers(0, header))
    if kind == 7:
        return bytes(changed[:start])
    length = int(random.integers(1, 40))
    if kind == 8:
        del changed[start : start + length]
    else:
        changed[start:start] = changed[start : start + length]
    return bytes(changed)


@pytest.mark.parametrize("form", ["classic", "enhanced", *COMPRESSIONS])
def test_any_bytes_are_read_or_refused(tmp_path: Path, form: str) -> None:
    random = np.random.default_rng(len(form))
    scan = files(form)
    for name, content in scan.items():
        (tmp_path / name).write_bytes(content)
    assert reader.read(tmp_path).array.shape == CT.shape
    for _ in range(MUTATIONS):
        name = str(random.choice(sorted(scan)))
        (tmp_path / name).write_bytes(mutated(scan[name], random))
        try:
            volume = reader.read(tmp_path)
            assert volume.array.shape == CT.shape or volume.remarks, "a slice is gone in silence"
        except BadVolume as error:
            assert "\n" not in str(error)
        (tmp_path / name).write_bytes(scan[name])
