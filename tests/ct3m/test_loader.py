"""The loader of slices: order, reads, memory."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from meddino.core.errors import MeddinoError
from meddino.core.files import write_json
from meddino.ct3m import index, order, shards
from meddino.ct3m.loader import SliceLoader
from meddino.ct3m.options import IndexOptions
from meddino.pretrain import leaves
from meddino.pretrain.options import LeavesOptions

SIDE, BATCH, SHARDS, PER_SHARD, GROUP = 16, 16, 4, 429, 8
SLICES = SHARDS * PER_SHARD


@pytest.fixture(autouse=True)
def windows_of_two_row_groups(monkeypatch):
    """Shuffle so few slices at a time that an epoch has many windows, as that of CT-3M has."""
    monkeypatch.setattr(order, "SHUFFLED_SLICES", 2 * GROUP * BATCH)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """An index of four shards, whose row groups have 8 slices, the last fewer."""
    folder = tmp_path_factory.mktemp("loader")
    rng = np.random.default_rng(0)
    blank = {f.name: {"string": "", "binary": b""}.get(str(f.type), 1) for f in shards.METADATA}
    reports = []
    for number in range(SHARDS):
        images = rng.integers(-1000, 1000, (PER_SHARD, SIDE, SIDE)).astype(np.int16)
        rows = [(image, {**blank, "case": str(row // 13)}) for row, image in enumerate(images)]
        shards.write(folder / f"{number}.{SIDE}.parquet", SIDE, rows, group_rows=GROUP)
        report = {"dataset": "toy", "chunk": number, "slices": len(rows), "quarantined": []}
        reports.append(folder / f"{number}.json")
        write_json(reports[-1], report)
    index.run(IndexOptions(size_px=SIDE), reports=reports, output=folder / "index.parquet")
    return folder / "index.parquet"


def epoch(loader: SliceLoader, number: int = 0) -> np.ndarray:
    """The rows of an epoch in the order that they are shown."""
    first = number * len(loader)
    steps = range(first // BATCH, (first + len(loader) - 1) // BATCH + 1)
    rows = np.concatenate([loader.indices(step) for step in steps])
    return rows[first % BATCH :][: len(loader)]


def groups(table: Path) -> np.ndarray:
    """A number for the row group of each slice."""
    rows = pq.read_table(table, columns=["shard", "group"]).to_pandas()
    return rows.groupby(["shard", "group"], observed=True).ngroup().to_numpy()


def test_each_epoch_shows_every_slice_once_in_an_order_of_its_own(table):
    loader = SliceLoader(table, batch_size=BATCH, seed=0)
    shown = [epoch(loader, number) for number in range(3)]
    shown.append(epoch(SliceLoader(table, batch_size=BATCH, seed=1)))
    for rows in shown:
        np.testing.assert_array_equal(np.sort(rows), np.arange(SLICES))
    places = np.argsort(shown)
    assert np.abs(np.corrcoef(places) - np.eye(4)).max() < 0.25
    assert np.abs(np.corrcoef(places, np.arange(SLICES))[-1, :-1]).max() < 0.25


def test_a_batch_comes_from_all_over_the_data(table):
    of_row = groups(table)
    loader = SliceLoader(table, batch_size=BATCH, seed=0)
    for step in range(len(loader) // BATCH):
        rows = loader.indices(step)
        # Two stretches may meet in a row group.
        assert max(Counter(of_row[rows]).values()) <= 2
        assert len(np.unique(of_row[rows])) >= BATCH - 2
        # Neighbours in the batch are no neighbours in the data.
        assert np.ptp(rows) > SLICES / 2


@pytest.mark.parametrize("shares", [1, 4, 16])
def test_however_many_share_a_batch_each_byte_is_read_once(table, monkeypatch, shares):
    stored = np.concatenate([images_of(table, number) for number in range(SHARDS)])
    rows = epoch(SliceLoader(table, batch_size=BATCH, seed=3))
    calls, read = Counter(), os.pread
    monkeypatch.setattr(os, "pread", lambda *where: calls.update([where[1:]]) or read(*where))
    steps, size = SLICES // BATCH, BATCH // shares
    for share in range(shares):
        loader = SliceLoader(table, batch_size=BATCH, seed=3)
        loader._ahead = 0  # what is read ahead in the end belongs to the next epoch
        places = range(share * size, (share + 1) * size)
        for step in range(steps):
            mine = rows[step * BATCH :][places.start : places.stop]
            np.testing.assert_array_equal(loader.batch(step, places), stored[mine])
    sizes = pq.read_table(table, columns=["packed_bytes"])["packed_bytes"].to_numpy()
    # Between the cells of a row group are the four bytes of their lengths.
    assert sum(length for length, _ in calls) <= sizes.sum() + 4 * SLICES
    assert sum(length for length, _ in calls) >= sizes[rows[: steps * BATCH]].sum()
    # Stretches cut some row groups in two; others are read at once.
    assert sum(calls.values()) <= groups(table).max() + 1 + BATCH


def images_of(table: Path, number: int) -> list[np.ndarray]:
    return list(shards.read_slices(table.with_name(f"{number}.{SIDE}.parquet")))


def test_little_more_is_held_than_what_is_shown(table):
    loader = SliceLoader(table, batch_size=BATCH, seed=0)
    most = 0
    for step in range(2 * SLICES // BATCH):
        loader.batch(step)
        held = [
            part for place in loader._held.values() for window in place for part in window.parts
        ]
        most = max(most, sum(map(len, held)))
    assert most < 2 * order.SHUFFLED_SLICES


def test_what_comes_is_read_ahead(table):
    loader = SliceLoader(table, batch_size=BATCH, seed=0)
    for step in range(60):
        asked = {id(part) for place in loader._held.values() for x in place for part in x.parts}
        loader.batch(step)
        # The first few steps are read when the run starts.
        shown = (loader._cell(step, place) for place in range(BATCH))
        assert step < loader._ahead or all(cell.part.done() for cell in shown)
        now = {id(part) for place in loader._held.values() for x in place for part in x.parts}
        assert step == 0 or len(now - asked) < BATCH


def test_a_batch_is_the_same_whenever_and_after_whatever_it_is_asked_for(table):
    used = SliceLoader(table, batch_size=BATCH, seed=0)
    for step in (0, 700, 3, 106, 107, 0):  # the 108th has the end of an epoch and the next's start
        assert torch.equal(
            used.batch(step), SliceLoader(table, batch_size=BATCH, seed=0).batch(step)
        )


def test_a_set_smaller_than_a_batch_is_repeated(tmp_path):
    leaves.run(LeavesOptions(count=5, size_px=32), output=tmp_path / "index.32.parquet")
    loader = SliceLoader(tmp_path / "index.32.parquet", batch_size=13, seed=0)
    rows = np.concatenate([loader.indices(step) for step in range(5)])
    for number in range(13):
        np.testing.assert_array_equal(np.sort(rows[5 * number :][:5]), np.arange(5))
    assert len({tuple(rows[5 * number :][:5]) for number in range(13)}) > 5
    assert loader.batch(4).shape == (13, 32, 32)


def test_an_index_in_another_order_gives_the_same_slices(table):
    rows = pq.read_table(table).take(np.random.default_rng(0).permutation(SLICES))
    pq.write_table(rows, table.with_name("mixed.parquet"), row_group_size=1000)
    loader = SliceLoader(table.with_name("mixed.parquet"), batch_size=64, seed=0)
    stored = [images_of(table, number) for number in range(SHARDS)]
    shown = rows.take(loader.indices(9)).to_pylist()
    for image, row in zip(loader.batch(9), shown, strict=True):
        number = int(row["shard"].split(".")[0])
        np.testing.assert_array_equal(image, stored[number][GROUP * row["group"] + row["row"]])


def test_an_index_without_slices_is_one_clear_line(table):
    empty = table.with_name("empty.parquet")
    pq.write_table(pq.read_table(table).slice(0, 0), empty)
    with pytest.raises(MeddinoError, match="holds no slices"):
        SliceLoader(empty, batch_size=1, seed=0)
    empty.write_bytes(b"PAR1")
    with pytest.raises(MeddinoError, match="cannot be read"):
        SliceLoader(empty, batch_size=1, seed=0)


def test_the_loader_names_a_damaged_shard(tmp_path):
    table = tmp_path / "index.32.parquet"
    leaves.run(LeavesOptions(count=8, size_px=32), output=table)
    shard = tmp_path / "leaves.32.parquet"
    whole, rows = shard.read_bytes(), pq.read_table(table).to_pylist()
    cells = [whole[row["offset"] :][: row["packed_bytes"]] for row in rows]
    assert cells == pq.read_table(shard)["pixels"].to_pylist()
    loaders = [SliceLoader(table, batch_size=8, seed=0) for _ in range(3)]
    broken = [whole.replace(cells[5], bytes(len(cells[5]))), whole[: rows[6]["offset"]], None]
    for loader, content in zip(loaders, broken, strict=True):
        shard.unlink() if content is None else shard.write_bytes(content)
        with pytest.raises(MeddinoError, match=r"leaves\.32\.parquet is absent or damaged.*delete"):
            loader.batch(0)
