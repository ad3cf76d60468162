"""Names of nnU-Net's folders."""

from pathlib import Path


def benchmark_of(file: Path) -> str:
    """The benchmark that a file in a folder `DatasetNNN_<benchmark>` is of."""
    return file.parent.name.partition("_")[2]
