"""Verbs that nnU-Net works in, and those that write volumes, on a disk that becomes full."""

import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from full_disk import CAUSE, SHARES, contents, full_after
from test_finetune import BENCHMARK, LAYOUT, write_case

from meddino.core.errors import Unwritable
from meddino.core.files import writing
from meddino.datasets.phantom import phantom
from meddino.datasets.phantom.options import PhantomOptions
from meddino.finetune import convert, plan, preprocess
from meddino.finetune.options import ConvertOptions, Planning, PlanOptions, PreprocessOptions

NAME = "Dataset901_blobs"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five cases, converted and planned."""
    root = tmp_path_factory.mktemp("made")
    for number in range(5):
        write_case(root / "scans", number, None)
    (root / "scans/.fetched.json").write_text('{"root": "."}')
    run_convert(root, root / "convert")
    run_plan(root, root / "plan")
    return root


def run_convert(made: Path, work: Path) -> None:
    options = ConvertOptions(benchmark=BENCHMARK, dataset=LAYOUT)
    output = work / NAME / "dataset.json"
    convert.run(options, raw=made / "scans/.fetched.json", output=output)


def run_plan(made: Path, work: Path) -> None:
    planning = Planning(
        patch_px=64,
        spacing_mm=4.0,
        batch_size=2,
        features_per_stage=[4, 4, 4, 4],
        foreground_samples=10_000,
    )
    dataset = made / "convert" / NAME / "dataset.json"
    plan.run(
        PlanOptions(planning=planning), dataset=dataset, output=work / NAME / "nnUNetPlans.json"
    )


def run_preprocess(made: Path, work: Path) -> None:
    plans = work / NAME / "nnUNetPlans.json"
    preprocess.run(
        PreprocessOptions(configuration="2d"), plans=plans, output=work / NAME / "2d.json"
    )


def run_phantom(made: Path, work: Path) -> None:
    options = PhantomOptions(dataset="pancreas_ct", cases=1, size_px=48, slices=16, seed=0)
    phantom.run(options, output=work / "SHA256SUMS")


@pytest.mark.parametrize("verb", [run_convert, run_plan, run_preprocess, run_phantom])
def test_a_verb_leaves_whole_files_or_none(made: Path, verb: Callable[[Path, Path], None]) -> None:
    def prepared(name: str) -> Path:
        work = made / f"{verb.__name__}-{name}"
        if verb is run_preprocess:
            shutil.copytree(made / "plan", work)
        return work

    complete = prepared("complete")
    before = contents(complete)
    verb(made, complete)
    whole = contents(complete)
    largest = max(len(content) for name, content in whole.items() if name not in before)
    for share in SHARES:
        work = prepared(str(share))
        with (
            full_after(share * largest),
            pytest.raises(Unwritable, match=f"cannot write .*: {CAUSE}; free space"),
        ):
            verb(made, work)
        left = contents(work) if work.exists() else {}
        assert left.items() <= whole.items() and len(left) < len(whole)


def fill(path: str) -> None:
    with Path(path).open("wb") as file:
        np.zeros(1 << 16).tofile(file)


def test_what_a_worker_process_meets_is_told(tmp_path: Path) -> None:
    """NumPy says how many bytes it wrote; that the disk is full, only a trial tells."""
    with (
        full_after(1 << 16),
        pytest.raises(Unwritable, match=f"cannot write {tmp_path}: {CAUSE}"),
        writing(tmp_path, tmp_path),
        multiprocessing.get_context("fork").Pool(1) as pool,
    ):
        pool.map(fill, [str(tmp_path / "a")])
