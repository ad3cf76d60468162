"""The `evaluate_transfer` verb: scores of a benchmark's cases by a model of another benchmark.

The model's labels are renamed to the benchmark's own, and the structures that both have are scored
as `evaluate` scores all. The model of a fold segments the validation cases of the same fold, so
that they are those that the benchmark's own model of this fold is scored on.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk

from meddino.core.errors import MeddinoError
from meddino.core.files import atomic, read_json
from meddino.core.progress import track
from meddino.evaluate.evaluate import read_case, score_case
from meddino.evaluate.options import TransferEvaluateOptions


def run(
    options: TransferEvaluateOptions,
    *,
    predictions: Path,
    description: Path,
    dataset: Path,
    output: Path,
) -> None:
    """Score the predictions of a model that was trained on another benchmark.

    Args:
        options: the run's names, the map of structures, and the tolerances of the NSD (mm).
        predictions: `done.json` of `predict`, beside the segmentations.
        description: `model.json` of the model, which names its labels.
        dataset: nnU-Net's raw `dataset.json` of the benchmark, beside the reference labels.
        output: the Parquet file: columns of `evaluate`, and `origin`, the benchmark that the model
            was trained on; rows of the mapped structures alone.

    Raises:
        MeddinoError: there are no cases, a structure of the map does not exist, or a segmentation
            is missing or lies on another grid than its reference.
    """
    cases = read_json(predictions)["cases"]
    if not cases:
        raise MeddinoError(
            f"{predictions} names no cases, so there are none of {options.benchmark} to score; give"
            " the benchmark more cases or fewer folds"
        )
    own = _values(dataset, read_json(dataset)["labels"], options.structures)
    parts = [part for parts in options.structures.values() for part in parts]
    models = _values(description, read_json(description)["dataset_json"]["labels"], parts)
    numbers = {
        models[part]: own[name] for name, parts in options.structures.items() for part in parts
    }
    run_keys = {
        "origin": options.origin,
        "benchmark": options.benchmark,
        "method": options.method,
        "fold": options.fold,
    }
    rows: list[dict[str, Any]] = []
    for case in track(cases, f"{options.benchmark}: scoring {options.method}", len(cases)):
        predicted, reference = read_case(predictions, dataset, case)
        scores = score_case(reference, renumbered(predicted, numbers), own, options)
        for structure, values in scores.items():
            case_keys = {"case": case, "label": own[structure], "structure": structure}
            rows.append({**run_keys, **case_keys, **values})
    with atomic(output) as temporary:
        pd.DataFrame(rows).to_parquet(temporary, index=False, write_page_checksum=True)


def _values(path: Path, labels: Mapping[str, int], names: Iterable[str]) -> dict[str, int]:
    """Structure -> its label, of those that are asked for.

    Raises:
        MeddinoError: one of them does not exist.
    """
    wanted = list(names)
    if absent := [name for name in wanted if name not in labels]:
        named = sorted(name for name, value in labels.items() if value != 0)
        known = ", ".join(sorted(named, key=lambda name: labels[name]))
        raise MeddinoError(
            f"{path} has no structure {absent[0]!r} ({known}); mend `structures` of transfer.pairs"
        )
    return {name: labels[name] for name in wanted}


def renumbered(image: sitk.Image, numbers: Mapping[int, int]) -> sitk.Image:
    """Labels with other numbers.

    Args:
        image: labels from 0 to 255.
        numbers: label -> its new number; those that it does not name become background.

    Returns:
        uint8 labels on the same grid.
    """
    table = np.zeros(256, np.uint8)
    for old, new in numbers.items():
        table[old] = new
    renamed = sitk.GetImageFromArray(table[sitk.GetArrayViewFromImage(image)])
    renamed.CopyInformation(image)
    return renamed
