"""The `convert` verb: a labelled data set in nnU-Net's raw layout, with its cross-validation.

The folds are drawn over all labelled cases, as nnU-Net would draw them from the intact data set.
Cases that cannot be used or are excluded are taken out afterwards: drawn over the others alone, the
folds would be other ones, and no figure could be compared (without one case in the middle, fold 0
of AMOS22 keeps 40 of its 72 validation cases).
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import KFold

from meddino.core.files import write_json
from meddino.core.progress import track
from meddino.datasets.cases import EXCLUDE, Case
from meddino.datasets.fetch import raw_root
from meddino.finetune import usable
from meddino.finetune.options import REST, Benchmark, ConvertOptions
from meddino.finetune.usable import Rejected
from meddino.volumes import reader, writer

SPLIT_SEED = 12345  # nnU-Net's
ENDING = ".nii.gz"

Folds = list[dict[str, list[str]]]
"""nnU-Net's `splits_final.json`: for each fold its cases, `train` and `val`."""


def run(options: ConvertOptions, *, raw: Path, output: Path) -> None:
    """Convert one benchmark.

    Volumes are oriented to LPS, so that the first array axis runs from foot to head: nnU-Net's
    slices are then axial. They are not resampled.

    Args:
        options: the benchmark, and how its data set is laid out.
        raw: the manifest `.fetched.json` of the fetched data set.
        output: `DatasetNNN_x/dataset.json`, written last; beside it appear `imagesTr`, `labelsTr`,
            `splits_final.json` and `quarantine.json` (cases left out: case, path, reason, and the
            fold that they would validate; remarks on the others: case, remark).

    Raises:
        MeddinoError: fewer usable cases than folds.
    """
    benchmark, folder = options.benchmark, output.parent
    labelled = usable.labelled(options, raw_root(raw))
    cases = [case for case in labelled if case.id not in options.dataset.exclude_cases]
    converted: list[str] = []
    rejected: list[Rejected] = []
    remarks: list[dict[str, str]] = []
    for case in track(cases, f"{benchmark.label}: converting", len(cases)):
        outcome = _convert(case, benchmark, folder)
        if isinstance(outcome, Rejected):
            rejected.append(outcome)
            print(f"{benchmark.label}: {case.id} left out: {outcome.reason}", file=sys.stderr)
        else:
            converted.append(case.id)
            remarks += [{"case": case.id, "remark": remark} for remark in outcome]
    drawn = split([case.id for case in labelled], benchmark.folds)
    quarantined = [
        {**problem._asdict(), "fold": _validation_fold(problem.case, drawn)} for problem in rejected
    ]
    # Without remarks as before there were any, so that no finished benchmark looks changed.
    write_json(
        folder / "quarantine.json",
        {"benchmark": benchmark.label, "quarantined": quarantined}
        | ({"remarks": remarks} if remarks else {}),
    )
    name = folder.name.partition("_")[2] or benchmark.label
    usable.refuse_too_few(options, raw_root(raw), name, len(converted), rejected)
    folds = keep(drawn, set(converted))
    _report(benchmark.label, drawn, folds)
    write_json(folder / "splits_final.json", folds)
    write_json(output, _dataset_json(benchmark, converted))


def _convert(case: Case, benchmark: Benchmark, folder: Path) -> Rejected | tuple[str, ...]:
    """Convert one case; return remarks on it, or the reason if it is left out."""
    pair = _read(case)
    if isinstance(pair, Rejected):
        return pair
    volume, label = pair
    files = _paths(case.id)
    try:
        mapped = map_labels(label.array, benchmark)
        writer.check_grid(volume.image(), folder / files["images"])
    except reader.BadVolume as error:
        return Rejected(case.id, str(case.label), error.advised(EXCLUDE))
    writer.write(volume.image(), folder / files["images"])
    writer.write(replace(label, array=mapped).image(), folder / files["labels"])
    return volume.remarks + label.remarks


def _read(case: Case) -> tuple[reader.Volume, reader.Volume] | Rejected:
    """Image and label of a case: of several DICOM series the one on whose grid the label lies."""
    assert case.label is not None, "only labelled cases are converted"
    problems: list[tuple[Path, reader.BadVolume]] = []
    for volume in reader.read_all(case.images, hu=case.modality == "CT", pick_one=True):
        if isinstance(volume, reader.BadVolume):
            problems.append((case.image, volume))
            continue
        try:
            return volume, reader.read_label(case.label, volume)
        except reader.BadVolume as error:
            problems.append((case.label, error))
    path, problem = problems[0]
    return Rejected(case.id, str(path), problem.advised(EXCLUDE))


def map_labels(
    values: npt.NDArray[np.unsignedinteger], benchmark: Benchmark
) -> npt.NDArray[np.uint8]:
    """Replace label values by nnU-Net's consecutive numbers, in the order of `benchmark.names`.

    Args:
        values: reference label, whole numbers of any dtype.
        benchmark: its label map; structures that do not count become background.

    Returns:
        uint8 of the same shape.

    Raises:
        BadVolume: a value is neither 0 nor in the label map.
    """
    usable.refuse_unknown(np.unique(values).tolist(), benchmark)
    named = [0, *benchmark.values]
    mapped = np.zeros(values.shape, np.uint8)
    for number, name in enumerate(benchmark.names, start=1):
        ids = benchmark.labels[name]
        mapped[np.isin(values, named, invert=True) if ids == REST else np.isin(values, ids)] = (
            number
        )
    return mapped


def split(cases: list[str], folds: int) -> Folds:
    """nnU-Net's own cross-validation: shuffled with its seed over the sorted cases.

    Args:
        cases: identities in any order. Python sorts them by code points, as nnU-Net does, so that
            neither the file system's order nor the locale matters.
        folds: number of folds, at most that of the cases.
    """
    ordered = sorted(cases)
    if len(ordered) < folds:
        return []
    kfold = KFold(n_splits=folds, shuffle=True, random_state=SPLIT_SEED)
    return [
        {"train": [ordered[i] for i in train], "val": [ordered[i] for i in val]}
        for train, val in kfold.split(ordered)
    ]


def keep(folds: Folds, usable: set[str]) -> Folds:
    """Take the cases out of the folds that cannot be used; the others stay in theirs."""
    return [
        {part: [case for case in cases if case in usable] for part, cases in fold.items()}
        for fold in folds
    ]


def _validation_fold(case: str, folds: Folds) -> int | None:
    """The fold that a case validates; None where there are too few cases for folds."""
    return next((number for number, fold in enumerate(folds) if case in fold["val"]), None)


def _report(label: str, drawn: Folds, folds: Folds) -> None:
    """Say how many cases each fold has, and which ones have lost some."""
    total = len(drawn[0]["train"]) + len(drawn[0]["val"])
    print(f"{label}: folds drawn over {total} labelled cases", file=sys.stderr)
    for number, (before, after) in enumerate(zip(drawn, folds, strict=True)):
        lost = [case for case in before["val"] if case not in after["val"]]
        if lost:
            print(
                f"{label}: fold {number} validates on {len(after['val'])} of {len(before['val'])}"
                f" cases, without {', '.join(lost)}"
                + ("; it cannot be trained or scored" if not after["val"] else ""),
                file=sys.stderr,
            )


def _paths(case: str) -> dict[str, str]:
    return {"images": f"imagesTr/{case}_0000{ENDING}", "labels": f"labelsTr/{case}{ENDING}"}


def _dataset_json(benchmark: Benchmark, cases: list[str]) -> dict[str, object]:
    numbers = {name: number for number, name in enumerate(benchmark.names, start=1)}
    return {
        "channel_names": {"0": benchmark.channel},
        "labels": {"background": 0, **numbers},
        "numTraining": len(cases),
        "file_ending": ENDING,
        "overwrite_image_reader_writer": "SimpleITKIO",
        # Named one by one, since nnU-Net would otherwise start processes to list the folder.
        "dataset": {
            case: {"images": [_paths(case)["images"]], "label": _paths(case)["labels"]}
            for case in sorted(cases)
        },
    }
