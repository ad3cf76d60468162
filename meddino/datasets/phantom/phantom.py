"""Verb `phantom`: a made-up dataset in the raw layout of a real one, as a mirror for `fetch`."""

import shutil
import sys
import time
import zlib
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from meddino.core.files import atomic, sha256, write_text
from meddino.core.progress import track
from meddino.datasets.phantom.options import LayoutName, PhantomOptions
from meddino.datasets.phantom.raw_layouts import (
    MR_FIRST_ID,
    RAW_LAYOUTS,
    TarStore,
    ZipStore,
    archives,
    case_ids,
    put_case,
)
from meddino.datasets.phantom.scanner import Protocol, scan

SCRATCH = ".tmp-case"
"""Folder beside the archives for the files of one case."""


def run(options: PhantomOptions, *, output: Path) -> None:
    """Make a dataset of made-up patients.

    The same options give the same bytes (on the same numpy and SimpleITK).

    Args:
        options: which dataset, how many cases, how large, and the seed.
        output: `<mirror>/SHA256SUMS`, written last; the archives go beside it.
    """
    start = time.monotonic()
    names = archives(options.dataset)
    output.unlink(missing_ok=True)
    scratch = output.parent / SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)  # of a job that was killed
    scratch.mkdir(parents=True)
    with ExitStack() as stack:
        paths = {name: stack.enter_context(atomic(output.parent / name)) for name in names}
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        stores = {
            name: TarStore(path) if name.endswith(".tar") else ZipStore(path)
            for name, path in paths.items()
        }
        ids = case_ids(options.dataset, options.cases)
        progress = track(ids, f"phantom {options.dataset}", len(ids))
        for rank, number in enumerate(progress):
            _make_case(options, rank, number, stores, scratch)
        for store in stores.values():
            store.close()
    lines = (f"{sha256(output.parent / name)}  {name}\n" for name in sorted(names))
    write_text(output, "".join(lines))
    seconds = time.monotonic() - start
    print(f"phantom {options.dataset}: {len(ids)} cases in {seconds:.1f} s", file=sys.stderr)


def _make_case(
    options: PhantomOptions,
    rank: int,
    number: int,
    stores: dict[str, TarStore | ZipStore],
    scratch: Path,
) -> None:
    """Make and store one case; it depends on the seed, the dataset and its own rank alone."""
    patient, layout = _patient(options, rank), RAW_LAYOUTS[options.dataset]
    home, rng = RAW_LAYOUTS[patient.dataset], patient.generator()
    mr = options.dataset == "amos22" and number >= MR_FIRST_ID
    protocol = Protocol(
        size_px=options.size_px,
        slices=options.slices,
        noise_hu=options.noise_hu,
        field_mm=options.field_mm,
        bottom_mm=home.bottoms_mm[patient.rank % len(home.bottoms_mm)],
        padding=None if mr else home.paddings[patient.rank % len(home.paddings)],
        mr=mr,
        lesions=home.lesions,
    )
    draw = int(rng.integers(len(home.orientations)))  # the same draws wherever a patient appears
    code = layout.orientations[draw % len(layout.orientations)]
    damaged = rank >= options.cases - options.damaged
    put_case(stores, options.dataset, number, scan(protocol, rng), code, scratch, damaged)


@dataclass(frozen=True)
class Patient:
    """Who is scanned: a rank among the patients of a phantom."""

    dataset: LayoutName
    seed: int
    rank: int

    def generator(self) -> np.random.Generator:
        """What all that is random of the patient and of the scan is drawn from."""
        return np.random.default_rng([self.seed, zlib.crc32(self.dataset.encode()), self.rank])


def _patient(options: PhantomOptions, rank: int) -> Patient:
    """The patient of a case: one of this phantom's own, or one that it has from another."""
    copies = options.copies
    if copies is not None and rank < len(copies.ranks):
        return Patient(copies.dataset, copies.seed, copies.ranks[rank])
    return Patient(options.dataset, options.seed, rank)
