"""README.md of the folder of shards: read by a person, and by Hugging Face `datasets`."""

import re
from pathlib import Path
from typing import Any

import ct3m_data as data
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from places import ROOT

from meddino.ct3m import codec, shards
from meddino.report.cards.card import describe_shards
from meddino.report.options import CardOptions, FigureOptions

SIZES_PX = (32, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of two datasets in two sizes, and their README."""
    root = tmp_path_factory.mktemp("ct3m")
    for seed, name in enumerate(("one", "two")):
        data.save(root / f"scans/{name}/a.nii.gz", data.body(seed))
        data.run(root / f"scans/{name}", root / f"shards/{name}", sizes_px=SIZES_PX)
    describe_shards(root / "shards", CardOptions(figures=FigureOptions(), sizes_px=SIZES_PX))
    return root / "shards"


def decoded(recipe: str, cell: bytes, side: int) -> dict[str, Any]:
    names: dict[str, Any] = {"cell": cell, "side": side}
    exec(recipe, names)
    return names


def test_its_head_names_the_files_of_each_size(folder: Path) -> None:
    front = yaml.safe_load((folder / "README.md").read_text("utf-8").split("---\n")[1])
    assert [config["config_name"] for config in front["configs"]] == ["32px", "64px"]
    for config, side in zip(front["configs"], SIZES_PX, strict=True):
        files = sorted(folder.glob(config["data_files"]))
        assert [path.parent.name for path in files] == ["one", "two"]
        for path in files:
            assert shards.slice_size_px(shards.open_shard(path)) == side
            assert len(pq.read_table(path, columns=["pixels"])) == 10


def test_its_recipe_and_that_of_each_file_decode_the_files(folder: Path) -> None:
    text = (folder / "README.md").read_text("utf-8")
    recipe = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[-1]
    for path in folder.glob("*/*.parquet"):
        table = pq.read_table(path)
        metadata = table.schema.metadata
        assert metadata[b"decode"].decode() == recipe == codec.RECIPE
        side = int(metadata[b"size_px"])
        for cell, expected in zip(table["pixels"], shards.read_slices(path), strict=True):
            image = decoded(recipe, cell.as_py(), side)
            np.testing.assert_array_equal(image["hu"], expected)
            grey = np.clip((expected.astype(float) + 160) / 400, 0, 1) * 255
            assert image["grey"].dtype == np.uint8
            assert np.abs(image["grey"] - grey).max() < 1


def test_the_page_on_curation_has_the_same_recipe() -> None:
    assert f"```python\n{codec.RECIPE}```" in (ROOT / "docs/curation.md").read_text("utf-8")
