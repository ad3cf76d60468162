"""Curation of real CT, as its MANIFEST describes it. Skipped where the scans are absent."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from places import SHARED

from meddino.core.files import read_json
from meddino.ct3m import index, shards, slices
from meddino.ct3m.loader import SliceLoader
from meddino.ct3m.options import Curation, IndexOptions, SliceOptions
from meddino.datasets.options import FolderLayout
from meddino.volumes import reader

REALCT = SHARED / "realct"
pytestmark = pytest.mark.skipif(
    not (REALCT / "MANIFEST.json").exists(), reason=f"no real CT scans at {REALCT}"
)

LAYOUT = FolderLayout(
    images=("*/ct.nii.gz", "*/dicom/*.dcm", "*/dicom/image/*.dcm"),
    # Scans that come as NIfTI and as DICOM are two cases.
    case=r"^(?P<case>[^/]+)/(?P<form>ct|dicom)",
)
GREY = "niivue_ct_pitch"
"""Per MANIFEST: head CT with gantry pitch, stored as uint8 0-255 and NOT in HU."""


def scans() -> dict[str, Any]:
    entries = json.loads((REALCT / "MANIFEST.json").read_text()) if REALCT.exists() else []
    return {entry["name"]: entry for entry in entries if entry.get("image")}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("realct")
    raw = folder / ".fetched.json"
    raw.write_text(json.dumps({"dataset": "realct", "root": str(REALCT), "files": []}))
    curation = Curation(datasets=("realct",), sizes_px=(64,))
    for chunk in (0, 1):
        options = SliceOptions(
            dataset_name="realct", dataset=LAYOUT, chunk=chunk, chunks=2, curation=curation
        )
        slices.run(options, raw=raw, output=folder / f"shards/realct/{chunk}.json")
    index.run(
        IndexOptions(size_px=64),
        reports=sorted(folder.glob("shards/realct/*.json")),
        output=folder / "index.64.parquet",
    )
    return folder


def test_only_the_grey_scan_is_quarantined(out):
    card = read_json(out / "index.64.card.json")
    (entry,) = card["quarantined"]
    assert entry["case"] == f"{GREY}ct" and "8-bit grey values" in entry["reason"]
    cases = LAYOUT.cases(REALCT)
    assert card["volumes"] == len(cases) - 1
    assert card["slices"] + card["air_slices"] == sum(
        scans()[name]["image"]["shape_xyz"][2]
        for name in (_scan(case.id) for case in cases[:])
        if name != GREY
    )


def _scan(case: str) -> str:
    return case.removesuffix("ct").removesuffix("dicom") if case not in scans() else case


def test_the_pitch_of_the_grey_scan_is_seen():
    """Were it in HU, its tilt of 16.5 degrees alone would be within the default limit of 30."""
    path = REALCT / GREY / "ct.nii.gz"
    assert reader.read(path, hu=False).oblique_deg == pytest.approx(16.5, abs=0.1)
    with pytest.raises(reader.BadVolume, match="8-bit"):
        reader.read(path)


@pytest.mark.parametrize("name", sorted(scans()))
def test_geometry_and_values_are_those_of_the_manifest(name):
    expected = scans()[name]["image"]
    path = REALCT / name / "ct.nii.gz"
    if not path.exists():
        path = next((REALCT / name).glob("dicom/**/*.dcm")).parent
    volume = reader.read(path)
    assert volume.array.shape == tuple(expected["shape_xyz"][::-1])
    assert volume.spacing_mm == pytest.approx(expected["spacing_mm"][::-1], abs=2e-3)
    low, high = max(-1024, expected["min"]), expected["max"]
    assert (volume.array.min(), volume.array.max()) == (low, high)
    assert volume.oblique_deg == pytest.approx(0, abs=0.1)
    assert np.median(volume.array[volume.array > -500]) == pytest.approx(30, abs=150)


@pytest.mark.parametrize(
    ("name", "image", "label"),
    [
        ("ts_example_ct", "ct.nii.gz", "seg_vertebrae.nii.gz"),
        ("ts_example_ct_sm", "ct.nii.gz", "seg_total.nii.gz"),
        # Per MANIFEST the grids match only after both are oriented alike.
        ("ts_example_ct_dicom_scrubbed", "dicom", "seg*.nii.gz"),
        ("ibsi_sts_044", "ct.nii.gz", "seg_gtv.nii.gz"),
        ("ibsi_sts_037", "dicom/image", "seg_gtv.nii.gz"),
    ],
)
def test_labels_lie_on_what_they_name(name, image, label):
    volume = reader.read(REALCT / name / image)
    mask = reader.read_label(next((REALCT / name).glob(label)), volume).array
    named = scans()[name].get("labels", {})
    large = {k: v for k, v in named.items() if isinstance(v, dict) and v["voxels"] > 1000}
    for value, structure in large.items():
        inside = volume.array[mask == int(value)]
        assert len(inside) == structure["voxels"]
        assert inside.mean() == pytest.approx(structure["mean_hu"], abs=1.0)
    assert mask.any()


def test_nifti_and_dicom_of_one_scan_are_copies(out):
    rows = pq.read_table(out / "index.64.parquet").to_pylist()
    digests = {
        form: {row["sha"] for row in rows if row["case"] == f"ibsi_sts_044{form}"}
        for form in ("ct", "dicom")
    }
    assert digests["ct"] and digests["ct"] == digests["dicom"]
    # The small example is slices 82 to 111 of the large one, in other numbers types.
    small = {row["sha"] for row in rows if row["case"] == "ts_example_ct_smct"}
    large = {row["sha"]: row["slice"] for row in rows if row["case"] == "ts_example_ctct"}
    shared = [large[sha] for sha in small if sha in large]
    assert shared and set(shared) <= set(range(82, 112))


def test_the_loader_reads_them_all(out):
    loader = SliceLoader(out / "index.64.parquet", batch_size=64, seed=1)
    table = pq.read_table(out / "index.64.parquet")
    assert len(loader) == len(table)
    seen = Counter(table["case"].take(loader.indices(0)).to_pylist())
    assert len(seen) > 3, "a batch mixes scans"
    batch = loader.batch(0)
    assert batch.shape == (64, 64, 64) and batch.min() >= -1024 and batch.max() <= 3071
    assert shards.open_shard(out / "index.64.parquet").metadata.num_rows == len(table)
