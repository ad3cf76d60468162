"""Which copies are found, by what was done to them: `python benchmarks/copies.py [SCAN ...]`.

Each kind of copy is planted once for each scan given (files or folders of DICOM) and for as many
phantoms. Then hundreds of different phantoms are searched, and scans of the same patient that are
no copies. Prints tables in Markdown.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from kinds import FURTHER, KINDS, Kind, Scan, another_scan, changed
from phantoms import scanned

from meddino.ct3m import duplicates, slices
from meddino.ct3m.options import Curation, DuplicatesOptions, SliceOptions
from meddino.datasets.options import FolderLayout
from meddino.volumes import reader

LAYOUT = FolderLayout(images=("*.nii",), case=r"^(?P<case>[^.]+)")
MOVED_MM = (0.0, 1.0, 2.0, 3.0, 5.0, 8.0)


class Bench:
    """A folder in which data sets are cut into slices and searched."""

    def __init__(self, folder: Path, size_px: int) -> None:
        self.folder, self.size_px = folder, size_px

    def cut(self, dataset: str, scans: Iterable[tuple[str, Scan]]) -> Path:
        """Cut scans into slices; gives the report."""
        root = self.folder / "raw" / dataset
        root.mkdir(parents=True)
        for name, (array, spacing) in scans:
            affine = np.diag([-spacing[2], -spacing[1], spacing[0], 1.0])
            nib.save(nib.Nifti1Image(array.transpose(2, 1, 0), affine), root / f"{name}.nii")
        manifest = self.folder / f"{dataset}.json"
        manifest.write_text(json.dumps({"dataset": dataset, "root": str(root), "files": []}))
        curation = Curation(datasets=(dataset,), sizes_px=(self.size_px,), min_slices=4)
        options = SliceOptions(
            dataset_name=dataset, dataset=LAYOUT, chunk=0, chunks=1, curation=curation
        )
        report = self.folder / "shards" / dataset / "0.json"
        slices.run(options, raw=manifest, output=report)
        for file in root.iterdir():
            file.unlink()
        return report

    def search(self, reports: list[Path]) -> pd.DataFrame:
        """Pairs of volumes that are copies."""
        output = self.folder / "duplicates.parquet"
        duplicates.run(DuplicatesOptions(size_px=self.size_px), reports=reports, output=output)
        return pd.read_parquet(output)


def planted(
    bench: Bench, scans: dict[str, Scan], originals: Path, kinds: dict[str, Kind], title: str
) -> None:
    """Print how many copies of each kind are found."""
    real = sum(not name.startswith("phantom") for name in scans)
    print(f"\n| {title} | of {real} scans | of {len(scans) - real} phantoms | least | false |")
    print("|---|---:|---:|---:|---:|")
    for number, (name, kind) in enumerate(kinds.items()):
        copies = ((case, changed(kind, scan)) for case, scan in scans.items())
        pairs = bench.search([originals, bench.cut(f"{title}_{number}", copies)])
        own = pairs["case_a"] == pairs["case_b"]
        of_phantoms = pairs["case_a"].str.startswith("phantom") & own
        least = pairs.loc[own, "correlation"].min() if "correlation" in pairs else np.nan
        counts = f"{int((own & ~of_phantoms).sum())} | {int(of_phantoms.sum())}"
        print(f"| {name} | {counts} | {least:.2f} | {int((~own).sum())} |", flush=True)


def different(bench: Bench, scans: dict[str, Scan], count: int) -> None:
    """Print how many pairs of different scans are taken for copies."""
    phantoms = ((f"other{seed}", phantom(seed)) for seed in range(len(scans), len(scans) + count))
    reports = [bench.cut("different", phantoms), bench.folder / "shards/originals/0.json"]
    start = time.monotonic()
    pairs = bench.search(reports)
    volumes = count + len(scans)
    print(
        f"\n{volumes} different volumes, {volumes * (volumes - 1) // 2:,} pairs:"
        f" {len(pairs)} taken for copies ({time.monotonic() - start:.0f} s)"
    )


def phantom(seed: int) -> Scan:
    made = scanned(128, 24, np.random.default_rng(seed))
    return made.image, made.spacing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scans", nargs="*", type=Path)
    parser.add_argument("--size-px", type=int, default=128)
    parser.add_argument("--different", type=int, default=300)
    options = parser.parse_args()
    print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {platform.machine()}")
    read = [reader.read(path) for path in options.scans]
    scans: dict[str, Scan] = {f"scan{n}": (v.array, v.spacing_mm) for n, v in enumerate(read)}
    scans |= {f"phantom{seed}": phantom(seed) for seed in range(max(4, len(read)))}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options.size_px)
        originals = bench.cut("originals", scans.items())
        planted(bench, scans, originals, KINDS, "kind")
        planted(bench, scans, originals, FURTHER, "further")
        again = {
            f"tissue moved by {mm:g} mm": another_scan(mm, seed=round(10 * mm)) for mm in MOVED_MM
        }
        planted(bench, scans, originals, again, "another scan")
        different(bench, scans, options.different)


if __name__ == "__main__":
    main()
