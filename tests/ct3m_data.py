"""Small CT volumes for the tests of the curation, and what it takes to run the stage on them."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from meddino.core.files import read_json
from meddino.ct3m import slices
from meddino.ct3m.options import Curation, SliceOptions
from meddino.datasets.options import FolderLayout

SPACING = (0.9, 0.8, 2.5)  # x, y, z
LPS = np.diag([-1.0, -1.0, 1.0])
LAYOUT = FolderLayout(images=("*.nii.gz", "*.nii", "*/*.dcm"), case=r"^(?P<case>[^./]+)")


def body(seed: int = 0, shape: tuple[int, int, int] = (40, 36, 10)) -> np.ndarray:
    """A noisy elliptic body with a lung in air: int16 HU (x, y, z), LPS."""
    generator = np.random.default_rng(seed)
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    array = np.full(shape, -1000.0)
    array[x**2 + y**2 < 0.8] = 40
    array[(x - 0.3) ** 2 + y**2 < 0.05] = -850
    return np.clip(np.rint(array + generator.normal(0, 15, shape)), -1024, 3000).astype(np.int16)


def affine(spacing: tuple[float, ...] = SPACING, rotation: np.ndarray | None = None) -> np.ndarray:
    """A NIfTI affine (RAS) of LPS-ordered voxels."""
    matrix = np.eye(4)
    matrix[:3, :3] = LPS @ (np.eye(3) if rotation is None else rotation) @ np.diag(spacing)
    matrix[:3, 3] = (20.0, 30.0, -400.0)
    return matrix


def save(path: Path, array: np.ndarray, matrix: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine() if matrix is None else matrix), path)
    return path


def options(**curation: Any) -> SliceOptions:
    place = {key: curation.pop(key) for key in ("chunk", "chunks", "dataset") if key in curation}
    settings = {"datasets": ("toy",), "sizes_px": (32, 64), "row_group_rows": 4, **curation}
    return SliceOptions(
        dataset_name="toy",
        dataset=place.pop("dataset", LAYOUT),
        **{"chunk": 0, "chunks": 1, **place},
        curation=Curation(**settings),
    )


def manifest(folder: Path) -> Path:
    path = folder.parent / f"{folder.name}.fetched.json"
    if not path.exists():  # several processes may run on one folder
        path.write_text(json.dumps({"dataset": "toy", "root": str(folder.resolve()), "files": []}))
    return path


def run(folder: Path, out: Path, **settings: Any) -> Any:
    """Run the stage on a folder; gives its report."""
    chosen = options(**settings)
    report = out / f"{chosen.chunk}.json"
    slices.run(chosen, raw=manifest(folder), output=report)
    return read_json(report)


def killed(*_: Any) -> None:
    """End this process as the kernel ends one where memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)
