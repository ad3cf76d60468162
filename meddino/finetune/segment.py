"""The `segment` verb: segment your own CT (or MR) volumes with a trained model.

Labels lie on the grid of their input. Beside a file, OUTPUT.labels.json names their values and the
model; in a folder, OUTPUT/labels.json does. It also says which input each volume comes from, and
what is doubtful about that input.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk

from meddino.core.errors import MeddinoError, Unwritable
from meddino.core.files import read_json, sha256, write_json
from meddino.core.formats import volume_ending
from meddino.finetune.options import Prediction
from meddino.volumes import writer
from meddino.volumes.errors import BadVolume
from meddino.volumes.inputs import RECORD, find, names
from meddino.volumes.reader import Volume

LEAVE_OUT = "leave it out"
"""What one can do about a volume that cannot be segmented."""


def main(arguments: Sequence[str]) -> None:
    """Segment volumes from the command line.

    Raises:
        MeddinoError: model, inputs or outputs are not usable, or a volume could not be segmented;
            the others are.
    """
    flags = _parser().parse_intermixed_args(arguments)
    inputs = find(flags.inputs, flags.output)
    # Missing ones too, so that names stay the same once they are there.
    jobs = plan_outputs([*inputs.volumes, *inputs.missing], flags.output)
    for remark in inputs.remarks():
        print(remark, file=sys.stderr)
    from meddino.finetune.model import find as find_model  # torch: after what can fail at once

    weights = find_model(flags.model)
    # Load first when replacing: a model that cannot be used must not cost the old segmentations.
    segmenter = _load(weights, flags) if flags.overwrite else None
    record, todo = _open({path: jobs[path] for path in inputs.volumes}, flags, weights)
    failed = [
        f"{path} {problem}, or {LEAVE_OUT}"
        for path, problem in inputs.missing.items()
        if jobs[path].name not in record.content["volumes"]
    ]
    count = len(todo) + len(failed)
    if todo:
        failed += _segment(segmenter or _load(weights, flags), todo, record)
    if failed:
        raise MeddinoError(
            f"{len(failed)} of {count} volumes were not segmented:\n  " + "\n  ".join(failed)
        )
    if not todo:
        print(f"all {len(jobs)} segmentations are in {flags.output}; --overwrite makes them anew")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m meddino segment",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "inputs", nargs="+", type=Path, metavar="INPUT",
        help="a volume (NIfTI, MHA, MHD, NRRD), the folder of a DICOM series, or a folder of those,"
        " at any depth",
    )  # fmt: skip
    parser.add_argument(
        "output", type=Path, metavar="OUTPUT",
        help=f"a file ({', '.join(writer.WRITTEN)}) for one volume, otherwise a folder",
    )  # fmt: skip
    parser.add_argument(
        "--model", type=Path, required=True, metavar="PATH",
        help="model.safetensors with model.json beside it, or their folder",
    )  # fmt: skip
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--tta", action=argparse.BooleanOptionalAction, default=True,
        help="average over mirrored images: four times the work (in 3D eight), a little better"
        " (default)",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    return parser


def plan_outputs(volumes: Sequence[Path], output: Path) -> dict[Path, Path]:
    """Choose the output file of each volume.

    Returns:
        Volume -> the file of its segmentation.

    Raises:
        MeddinoError: several volumes go to one file, or a format is unknown.
    """
    if volume_ending(output):
        writer.check_format(output)
        if len(volumes) > 1:
            raise MeddinoError(f"{output} is one file for {len(volumes)} volumes; name a folder")
        return {volumes[0]: output}
    if output.is_file():
        raise MeddinoError(f"{output} is a file; name a folder, or end it in {writer.WRITTEN[0]}")
    return {volume: output / f"{name}.nii.gz" for volume, name in names(volumes).items()}


def _load(weights: Path, flags: argparse.Namespace) -> Any:
    from meddino.finetune.segmenter import Segmenter

    return Segmenter(weights, Prediction(tta=flags.tta, device=flags.device))


class Record(NamedTuple):
    """The JSON beside segmentations: labels, model, settings, and `volumes` by their file's name.

    An entry is there before its volume, so that no segmentation is without one.
    """

    path: Path
    content: dict[str, Any]

    def located(self, source: Path) -> str:
        """An input as the record has it: relative to the record's folder, so that both may move."""
        return os.path.relpath(source, self.path.parent)

    def add(self, source: Path, target: Path, volume: Volume) -> None:
        """Describe a volume whose segmentation is about to be written."""
        entry = {"input": self.located(source), "remarks": list(volume.remarks)}
        if volume.modality is not None:
            entry["modality"] = volume.modality
        self.content["volumes"][target.name] = entry
        write_json(self.path, self.content)

    def remove(self, target: Path) -> None:
        """Forget a volume that could not be segmented; without any, there is nothing to record."""
        volumes = self.content["volumes"]
        removed = volumes.pop(target.name, None)
        with suppress(Unwritable, OSError):
            if not volumes:
                self.path.unlink(missing_ok=True)
            elif removed:
                write_json(self.path, self.content)


def _open(
    jobs: dict[Path, Path], flags: argparse.Namespace, weights: Path
) -> tuple[Record, dict[Path, Path]]:
    """Begin the record, or go on with it, and skip what an earlier run has finished.

    Raises:
        MeddinoError: a file exists that must not be replaced, or nothing can be written there.
    """
    output: Path = flags.output
    single = volume_ending(output)
    origin = {
        "labels": read_json(weights.with_name("model.json"))["dataset_json"]["labels"],
        "model": sha256(weights),
        "tta": flags.tta,
    }
    path = output.with_name(f"{output.name}.{RECORD}") if single else output / RECORD
    before = read_json(path) if path.exists() else {}
    same = {**before, "volumes": {}} == {**origin, "volumes": {}}
    record = Record(path, {**origin, "volumes": before.get("volumes", {}) if same else {}})
    existing = {source: target for source, target in jobs.items() if target.exists()}
    replaced = {target.resolve() for target in existing.values()}
    inputs = [source for source in jobs if source.resolve() in replaced]
    if inputs:
        raise MeddinoError(f"{inputs[0]} is an input, and would be replaced; name another OUTPUT")
    if existing and not flags.overwrite:
        if single:
            raise MeddinoError(f"{output} is there already; --overwrite replaces it")
        for source, target in existing.items():
            entry = record.content["volumes"].get(target.name, {})
            if entry.get("input") != record.located(source):
                raise MeddinoError(
                    f"{output} holds segmentations of other volumes, models or settings, such"
                    f" as {target.name}; name another folder, or replace them with --overwrite"
                )
        jobs = {source: target for source, target in jobs.items() if source not in existing}
    # Before the record changes: a killed run must leave none that the record misdescribes.
    for target in existing.values() if flags.overwrite else ():
        target.unlink()
    write_json(path, record.content)
    return record, jobs


def _segment(segmenter: Any, jobs: dict[Path, Path], record: Record) -> list[str]:
    """Segment the volumes one by one; return the messages of those that failed.

    Raises:
        Unwritable: the disk is full, say; no volume is to blame, and the others would not fit.
    """
    failed: list[str] = []
    with _display(len(jobs)) as display:
        for done, (source, target) in enumerate(jobs.items()):
            start = time.monotonic()
            try:
                image = _label(segmenter, source, target, record, display)
            except Unwritable as error:
                record.remove(target)
                if len(jobs) == 1:
                    raise
                ready = f"{done - len(failed)} of {len(jobs)} volumes are segmented"
                raise Unwritable(f"{error} ({ready})") from error
            except Exception as error:
                record.remove(target)
                failed.append(_line(source, error))
                display.finish(f"{source}: failed")
                continue
            values = set(np.unique(sitk.GetArrayViewFromImage(image))) - {0}
            structures = [name for name, value in segmenter.labels.items() if value in values]
            seconds = time.monotonic() - start
            display.finish(f"{source}: {', '.join(structures) or 'nothing found'}; {seconds:.1f} s")
    return failed


def _label(
    segmenter: Any, source: Path, target: Path, record: Record, display: "Display"
) -> sitk.Image:
    """Segment one volume, and write its labels."""
    volume = segmenter.read(source)
    for remark in volume.remarks:
        display.say(f"{source}: {remark}")
    try:
        writer.check_grid(volume.as_stored(np.zeros(volume.array.shape, np.uint8)), target)
    except BadVolume as error:
        raise MeddinoError(f"{source}: {error.advised(LEAVE_OUT)}") from error
    image = segmenter.label(volume, str(source), display.advance)
    record.add(source, target, volume)
    writer.write(image, target)
    return image


def _line(source: Path, error: Exception) -> str:
    """One line of why a volume failed: no fault of one ends the work on the others."""
    if isinstance(error, MeddinoError):
        return str(error)
    lines = str(error).splitlines() or ["no details"]
    return f"{source}: {type(error).__name__}: {lines[-1]}; please report this, or {LEAVE_OUT}"


class Display(NamedTuple):
    """Bars for volumes and slices in a terminal; the lines alone in a log."""

    console: Any
    bars: Any
    volumes: Any
    slices: Any

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def finish(self, line: str) -> None:
        """Say what became of a volume, and begin with the next."""
        self.say(line)
        self.bars.reset(self.slices, total=None)
        self.bars.advance(self.volumes)

    def advance(self, done: int, total: int) -> None:
        """Show how many slices of a volume are done."""
        self.bars.update(self.slices, completed=done, total=total)


@contextmanager
def _display(count: int) -> Iterator[Display]:
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
        yield Display(console, bars, volumes, slices)
