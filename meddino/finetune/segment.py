"""The `segment` verb: segment your own CT (or MR) volumes with a trained model."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from meddino.core.errors import MeddinoError
from meddino.core.files import atomic, read_json, sha256, write_json
from meddino.finetune.options import Prediction

VOLUMES = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".nhdr")
"""File name endings of volumes; other files in a folder are taken for DICOM."""
WRITTEN = (".nii.gz", ".nii", ".mha", ".nrrd")
"""Output formats: those of a single file, so that no half-written segmentation stays behind."""
LABELS = "labels.json"


def main(arguments: Sequence[str]) -> None:
    """Segment volumes from the command line.

    Raises:
        MeddinoError: model, inputs or outputs are not usable, or a volume could not be segmented;
            the others are.
    """
    flags = _parser().parse_intermixed_args(arguments)
    jobs = plan_outputs(flags.inputs, flags.output)
    from meddino.finetune.model import find  # torch and nnU-Net: after what can fail at once

    weights = find(flags.model)
    # Load first when replacing: a model that cannot be used must not cost the old segmentations.
    segmenter = _load(weights, flags) if flags.overwrite else None
    todo = _open(jobs, flags, weights)
    if not todo:
        print(f"all {len(jobs)} segmentations are in {flags.output}; --overwrite makes them anew")
        return
    failed = _segment(segmenter or _load(weights, flags), todo)
    if failed:
        raise MeddinoError(
            f"{len(failed)} of {len(todo)} volumes were not segmented:\n  " + "\n  ".join(failed)
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m meddino segment", description=__doc__)
    parser.add_argument(
        "inputs", nargs="+", type=Path, metavar="INPUT",
        help="a volume (NIfTI, MHA, MHD, NRRD), the folder of a DICOM series, or a folder of those",
    )  # fmt: skip
    parser.add_argument(
        "output", type=Path, metavar="OUTPUT",
        help=f"a file ({', '.join(WRITTEN)}) for one volume, otherwise a folder",
    )  # fmt: skip
    parser.add_argument(
        "--model", type=Path, required=True, metavar="PATH",
        help="model.safetensors with model.json beside it, or their folder",
    )  # fmt: skip
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--tta", action=argparse.BooleanOptionalAction, default=True,
        help="average over mirrored images: four times the work, a little better (default)",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    return parser


def plan_outputs(inputs: Sequence[Path], output: Path) -> dict[Path, Path]:
    """Choose the output file of each volume.

    Returns:
        Volume -> the file of its segmentation.

    Raises:
        MeddinoError: an input holds no volume, several go to one file, or a format is unknown.
    """
    volumes = [volume for path in inputs for volume in find_volumes(path)]
    if _ending(output, VOLUMES):
        if not _ending(output, WRITTEN):
            raise MeddinoError(f"{output}: this format is not written; use {', '.join(WRITTEN)}")
        if len(volumes) > 1:
            raise MeddinoError(f"{output} is one file for {len(volumes)} volumes; name a folder")
        return {volumes[0]: output}
    if output.is_file():
        raise MeddinoError(f"{output} is a file; name a folder, or end it in {WRITTEN[0]}")
    jobs: dict[Path, Path] = {}
    for volume in dict.fromkeys(volumes):
        target = output / f"{_stem(volume)}.nii.gz"
        if target in jobs.values():
            raise MeddinoError(f"two inputs are called {_stem(volume)}; segment them one by one")
        jobs[volume] = target
    return jobs


def find_volumes(path: Path) -> list[Path]:
    """Find volumes: the file itself, those in a folder, or a folder as one DICOM series.

    Raises:
        MeddinoError: there is none.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise MeddinoError(f"{path} does not exist; name a volume or a folder")
    inside = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    volumes = [entry for entry in inside if entry.is_file() and _ending(entry, VOLUMES)]
    if volumes:
        return volumes
    if any(entry.is_file() for entry in inside):
        return [path]
    series = [folder for folder in inside if any(entry.is_file() for entry in folder.iterdir())]
    if not series:
        raise MeddinoError(f"{path} holds neither volumes ({', '.join(VOLUMES)}) nor DICOM files")
    return series


def _load(weights: Path, flags: argparse.Namespace) -> Any:
    from meddino.finetune.segmenter import Segmenter

    return Segmenter(weights, Prediction(tta=flags.tta, device=flags.device))


def _open(jobs: dict[Path, Path], flags: argparse.Namespace, weights: Path) -> dict[Path, Path]:
    """Write the names of the labels, and skip what an earlier run has finished.

    Raises:
        MeddinoError: a file exists that must not be replaced.
    """
    (first, *_) = jobs.values()
    single = first == flags.output
    record = first.with_name(f"{_stem(first)}.{LABELS}" if single else LABELS)
    description = read_json(weights.with_name("model.json"))
    origin = {
        "labels": description["dataset_json"]["labels"],
        "model": sha256(weights),
        "tta": flags.tta,
    }
    existing = [target for target in jobs.values() if target.exists()]
    inputs = [source for source in jobs if source.resolve() in {t.resolve() for t in existing}]
    if inputs:
        raise MeddinoError(f"{inputs[0]} is an input, and would be replaced; name another OUTPUT")
    if existing and not flags.overwrite:
        if single:
            raise MeddinoError(f"{first} is there already; --overwrite replaces it")
        if not record.exists() or read_json(record) != origin:
            raise MeddinoError(
                f"{flags.output} holds segmentations of other volumes, models or settings, such as"
                f" {existing[0].name}; name another folder, or replace them with --overwrite"
            )
        jobs = {source: target for source, target in jobs.items() if target not in existing}
    elif existing:
        # Before the record changes: a killed run must leave none that the record misdescribes.
        for target in existing:
            target.unlink()
    write_json(record, origin)
    return jobs


def _segment(segmenter: Any, jobs: dict[Path, Path]) -> list[str]:
    """Segment the volumes one by one; return the messages of those that failed."""
    failed = []
    with _display(len(jobs)) as (say, advance):
        for source, target in jobs.items():
            start = time.monotonic()
            try:
                image = segmenter(source, advance)
                with atomic(target) as temporary:
                    sitk.WriteImage(image, str(temporary), useCompression=True)
            except MeddinoError as error:
                failed.append(str(error))
                say(f"{source.name}: failed")
                continue
            present = np.unique(sitk.GetArrayViewFromImage(image))
            names = [name for name, value in segmenter.labels.items() if value and value in present]
            seconds = time.monotonic() - start
            say(f"{source.name}: {', '.join(names) or 'nothing found'}; {seconds:.1f} s")
    return failed


@contextmanager
def _display(count: int) -> Iterator[tuple[Callable[[str], None], Callable[[int, int], None]]]:
    """Bars for volumes and slices in a terminal; the lines alone in a log."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(file=sys.stderr)
    columns = (
        TextColumn("{task.description:8}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        volumes, slices = bars.add_task("volumes", total=count), bars.add_task("slices", total=None)

        def say(line: str) -> None:
            console.print(line, highlight=False, markup=False, soft_wrap=True)
            bars.reset(slices, total=None)
            bars.advance(volumes)

        yield say, lambda done, total: bars.update(slices, completed=done, total=total)


def _ending(path: Path, endings: Sequence[str]) -> str | None:
    return next((end for end in endings if path.name.lower().endswith(end)), None)


def _stem(path: Path) -> str:
    """The name of a volume without its ending; of a folder, all of it."""
    name = path.resolve().name
    ending = None if path.is_dir() else _ending(path, VOLUMES)
    return name[: -len(ending)] if ending else name
