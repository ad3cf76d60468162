"""A study within a quota: one download at a time, freed arrays, and nothing done twice."""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from places import ROOT
from processes import preloaded, run_snakemake

from meddino.cli.snakemake import Run, read_log
from meddino.core import receipts
from meddino.core.files import read_json
from meddino.ct3m.shards import METADATA

pytestmark = pytest.mark.study
RESULTS = "results/chaos"
ARRAYS = f"{RESULTS}/nnunet/preprocessed/Dataset701_amos22"
INDEX = f"{RESULTS}/ct3m/index.64.parquet"
RAW = "resources/chaos/raw"
STUDY: dict[str, Any] = {
    "weights": {"dinov3": {"snapshot": "natural@12", "file": None, "standin": None}},
    "pretrain": {"stages": {"natural": {"init": None}}},
    "training": {"epochs": 2},
    "tables": {
        "table1": {"rows": ["nnunet"], "compare_with": None},
        "table2": None,
        "table3": None,
    },
}
QUOTA = {"keep_raw": False, "keep_preprocessed": False}


def snakemake(folder: Path, changes: dict[str, Any], *words: str) -> str:
    (folder / "changes.yaml").write_text(yaml.safe_dump({**STUDY, **changes}))
    layers = ["profiles/demo/study.yaml", "profiles/chaos/study.yaml"]
    configs = [*(str(ROOT / layer) for layer in layers), "changes.yaml"]
    arguments = ["--cores", "2", "--nolock", "--configfile", *configs, *words]
    done = run_snakemake(arguments, folder, {} if "--dry-run" in words else preloaded())
    logs = "".join(log.read_text()[-400:] for log in (folder / "logs").rglob("*.log"))
    assert done.returncode == 0, done.stdout[-3000:] + logs[-3000:]
    return done.stdout


def planned(folder: Path, changes: dict[str, Any], *targets: str) -> Run:
    return read_log(snakemake(folder, changes, "--dry-run", "--", *targets).splitlines())


def scans(folder: Path) -> dict[str, int]:
    """Bytes of raw data that lie in each folder of a download."""
    sizes: dict[str, int] = {}
    for parent, _, names in os.walk(folder / RAW):  # which minds no folder that has just gone
        for name in names:
            with suppress(FileNotFoundError):
                if name.endswith((".nii.gz", ".dcm")):
                    dataset = Path(parent).relative_to(folder / RAW).parts[0]
                    size = Path(parent, name).stat().st_size
                    sizes[dataset] = sizes.get(dataset, 0) + size
    return sizes


@contextmanager
def watched(folder: Path) -> Iterator[list[dict[str, int]]]:
    """What lies on the disk, asked for again and again."""
    samples: list[dict[str, int]] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            samples.append(scans(folder))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study within a quota, up to its index and the arrays' end."""
    folder = tmp_path_factory.mktemp("quota")
    shutil.copy(ROOT / "config.yaml", folder)
    with watched(folder) as samples:
        snakemake(folder, QUOTA, "--", INDEX, f"{ARRAYS}/.freed.2d.json")
    held = [sizes for sizes in samples if sizes]
    assert {name for sizes in held for name in sizes} == {
        "amos22.0",
        "amos22.for_amos22",
        "pancreas_ct.0",
    }
    assert max(map(len, held)) == 1, "one download at a time"
    return folder


def test_it_takes_less_and_gives_the_same_slices(finished: Path, tmp_path: Path) -> None:
    assert scans(finished) == {} and not (finished / ARRAYS / "nnUNetPlans_2d").exists()
    slips = list(receipts.find([finished]))
    assert len(slips) == 4
    shutil.copy(ROOT / "config.yaml", tmp_path)
    shutil.copytree(finished / "resources/chaos/phantom", tmp_path / "resources/chaos/phantom")
    snakemake(tmp_path, {}, "--", INDEX)
    kept = scans(tmp_path)
    largest = max(read_json(slip)["bytes"] for slip in slips if RAW in str(slip))
    assert largest < sum(kept.values()), "the peak of one is below all that is kept"
    tables = [
        pd.read_parquet(folder / INDEX)[[*METADATA.names[:3], "sha"]]
        .astype(str)
        .sort_values(["dataset", "case", "slice"], ignore_index=True)
        for folder in (finished, tmp_path)
    ]
    pd.testing.assert_frame_equal(*tables)


def test_what_is_done_stays_done(finished: Path) -> None:
    targets = [INDEX, f"{ARRAYS}/.freed.2d.json"]
    assert planned(finished, QUOTA, *targets).rules.total() == 0
    kept = {**QUOTA, "keep_preprocessed": True}
    model = f"{RESULTS}/finetune/amos22/nnunet/fold0/model.safetensors"
    assert planned(finished, kept, INDEX, model).rules.total() == 0, "kept from now on"


def test_what_is_needed_again_is_fetched_again_and_nothing_else(finished: Path) -> None:
    curation = {**QUOTA, "ct3m": {"spacing_mm": 0.9}}
    plan = planned(finished, curation, INDEX, f"{ARRAYS}/.freed.2d.json")
    assert plan.rules == {"slices_and_free": 2, "index": 1}
    tables = {"table1": {"rows": ["nnunet", "segformer"], "compare_with": None}}
    more = {**QUOTA, "tables": {**STUDY["tables"], **tables}}
    plan = planned(finished, more, INDEX, f"{ARRAYS}/.freed.2d.json")
    assert plan.rules == {"finetune": 1, "free_preprocessed": 1}, "and nnU-Net is not trained anew"
