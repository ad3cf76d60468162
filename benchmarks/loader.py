"""Shuffled slices on one core: meddino's loader, .npy files, WebDataset and Hugging Face datasets.

    pip install webdataset datasets
    python benchmarks/loader.py [--slices 8192]

All read the same slices of noise-like phantoms: meddino and Hugging Face from the same Parquet
shards, WebDataset from tars of .npy, and the simplest loader from a .npy a slice. Each gives
batches of int16 tensors in shuffled order. "Cold" means that the operating system was asked to drop
the files from its cache first. Prints a Markdown table.
"""

import argparse
import io
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from phantoms import indexed, scanned

from meddino.ct3m import codec
from meddino.ct3m.loader import SliceLoader

SIZE_PX, BATCH, PER_SHARD = 256, 64, 1024
Batches = Iterator[torch.Tensor]


def main() -> None:
    """Write the data in all forms, read each warm and cold, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=8192)
    parser.add_argument("--folder", type=Path, help="where the data go (default: a temporary one)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
        folder = Path(scratch)
        images = _images(given.slices)
        forms: dict[str, tuple[Callable[[Path], Batches], Path]] = {
            "meddino": (_meddino, indexed(folder / "parquet", images, PER_SHARD).parent),
            ".npy a slice": (_npy, _write_npy(folder / "npy", images)),
            "WebDataset": (_webdataset, _write_tars(folder / "tar", images)),
            "Hugging Face, same Parquet": (_hugging_face, folder / "parquet"),
        }
        print("| loader | warm, slices/s | cold, slices/s | bytes / int16 |")
        print("|---|---:|---:|---:|")
        for name, (read, path) in forms.items():
            files = [file for file in path.rglob("*") if file.is_file()]
            share = sum(file.stat().st_size for file in files) / images.nbytes
            cold = _speed(partial(read, path), len(images), lambda files=files: _drop(files))
            warm = _speed(partial(read, path), len(images), lambda: None)
            print(f"| {name} | {warm:,.0f} | {cold:,.0f} | {share:.2f} |", flush=True)


def _speed(read: Callable[[], Batches], count: int, prepare: Callable[[], None]) -> float:
    """Slices a second, best of three passes over the data."""
    best = 0.0
    for _ in range(3):
        prepare()
        start, seen = time.perf_counter(), 0
        for batch in read():
            seen += len(batch)
            if seen >= count:
                break
        best = max(best, seen / (time.perf_counter() - start))
    return best


def _drop(files: list[Path]) -> None:
    """Ask the system to forget cached pages of files."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _images(count: int) -> np.ndarray:
    """Slices of a phantom, each with noise of its own: int16 (count, size, size)."""
    rng = np.random.default_rng(0)
    patients = [scanned(SIZE_PX, 64, rng).image for _ in range(-(-min(count, 512) // 64))]
    some = np.concatenate(patients)
    repeats = -(-count // len(some))
    shifted = [np.roll(some, 3 * number, axis=2) for number in range(repeats)]
    return np.concatenate(shifted)[:count]


def _write_npy(folder: Path, images: np.ndarray) -> Path:
    folder.mkdir()
    for number, image in enumerate(images):
        np.save(folder / f"{number:06d}.npy", image)
    return folder


def _write_tars(folder: Path, images: np.ndarray) -> Path:
    folder.mkdir()
    for number, first in enumerate(range(0, len(images), PER_SHARD)):
        with tarfile.open(folder / f"{number:04d}.tar", "w") as tar:
            for row, image in enumerate(images[first : first + PER_SHARD], start=first):
                buffer = io.BytesIO()
                np.save(buffer, image)
                entry = tarfile.TarInfo(f"{row:06d}.npy")
                entry.size = buffer.tell()
                buffer.seek(0)
                tar.addfile(entry, buffer)
    return folder


def _meddino(folder: Path) -> Batches:
    loader = SliceLoader(folder / f"index.{SIZE_PX}.parquet", batch_size=BATCH, seed=0)
    step = 0
    while True:
        yield loader.batch(step)
        step += 1


def _npy(folder: Path) -> Batches:
    paths = sorted(folder.glob("*.npy"))
    order = np.random.default_rng(0).permutation(len(paths))
    for start in range(0, len(order), BATCH):
        picked = [np.load(paths[i]) for i in order[start : start + BATCH]]
        yield torch.from_numpy(np.stack(picked))


def _webdataset(folder: Path) -> Batches:
    import webdataset

    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    data = webdataset.WebDataset(urls, shardshuffle=len(urls), seed=0).shuffle(1024).decode()
    for batch in data.to_tuple("npy").batched(BATCH):
        yield torch.from_numpy(np.stack(batch[0]))


def _hugging_face(folder: Path) -> Batches:
    import datasets

    files = sorted(str(path) for path in folder.glob(f"[0-9]*.{SIZE_PX}.parquet"))
    data = datasets.load_dataset(
        "parquet", data_files=files, split="train", streaming=True, columns=["pixels"]
    )
    for batch in data.shuffle(seed=0, buffer_size=1024).batch(BATCH):
        yield torch.from_numpy(codec.decode(batch["pixels"], (SIZE_PX, SIZE_PX)))


if __name__ == "__main__":
    main()
