"""The `worst_cases` verb: each method's worst cases, reference beside prediction."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import SimpleITK as sitk
from PIL import Image

from meddino.core.files import atomic, read_json, write_json
from meddino.core.progress import track
from meddino.evaluate.scores import read_scores
from meddino.report.figures import layers
from meddino.report.figures.overlays import clear
from meddino.report.options import WorstOptions
from meddino.volumes import reader

NAMED = 3
"""Structures with the lowest DSC that a case names."""
QUALITY = 75
"""Of the pictures, which mix grey and colours."""


def run(
    options: WorstOptions,
    *,
    dataset: Path,
    predictions: list[Path],
    scores: list[Path],
    output: Path,
) -> None:
    """Draw the cases of lowest DSC, the mean over structures, of each run of a benchmark.

    A case is drawn on the slice with most voxels that reference and prediction do not agree on.

    Args:
        options: how many cases, and the size of the pictures.
        dataset: nnU-Net's raw `dataset.json` of the benchmark, beside its images and labels.
        predictions: `.../<method>/fold<k>/done.json` of its runs, beside the segmentations.
        scores: scores of its runs.
        output: a JSON of `structures` (name and colour) and `cases`, worst first by method, beside
            the pictures: `method`, `case`, `dsc` (%), `lowest` (structures with their DSC),
            `slice`, `slices`, and the names of the files `reference` and `predicted`.

    Raises:
        MeddinoError: no run has scores, or a file is missing or damaged.
    """
    description = read_json(dataset)
    labels = {name: value for name, value in description["labels"].items() if value}
    colours = layers.colours(options.colours, sorted(labels, key=labels.__getitem__))
    chosen = worst(read_scores(scores), options.worst)
    clear(output.parent)
    cases = []
    for number, row in enumerate(track(chosen, f"{dataset.parent.name}: worst cases", len(chosen))):
        done = next(
            path
            for path in predictions
            if path.parts[-3] == row["method"] and row["case"] in read_json(path)["cases"]
        )
        image, reference = layers.read_case(dataset, description, row["case"])
        predicted = reader.read_made(done.with_name(f"{row['case']}.nii.gz"), done)
        maps = [sitk.GetArrayViewFromImage(i) for i in (image, reference, predicted)]
        z = wrongest_slice(maps[1], maps[2])
        spacing = (image.GetSpacing()[1], image.GetSpacing()[0])
        size = layers.fitted((maps[0].shape[1], maps[0].shape[2]), spacing, options.size_px)
        grey = layers.images(maps[0][[z]], options.window_hu, size)
        values = [labels[name] for name in colours]
        files = {}
        for side, array in (("reference", maps[1]), ("predicted", maps[2])):
            drawn = layers.overlaid(
                Image.open(io.BytesIO(grey)),
                Image.open(io.BytesIO(layers.label_maps(array[[z]], values, size))),
                list(colours.values()),
                options.size_px,
            )
            # Names of cases come from strangers.
            files[side] = f"{number:04d}.{side}{layers.SUFFIX}"
            with atomic(output.with_name(files[side])) as temporary:
                temporary.write_bytes(layers.encoded(drawn, QUALITY))
        cases.append({**row, "slice": z + 1, "slices": len(maps[0]), "size_px": size, **files})
    structures = [{"name": name, "colour": colour} for name, colour in colours.items()]
    write_json(output, {"structures": structures, "cases": cases})


def worst(scores: pd.DataFrame, most: int) -> list[dict[str, Any]]:
    """The cases of lowest DSC of each method, and the structures that are worst in them.

    Cases without a DSC are left out.

    Args:
        scores: rows of `evaluate` of one benchmark.
        most: largest number of cases of a method.
    """
    rows = []
    for method, of_run in scores.groupby("method", sort=False):
        table = of_run.pivot(index="case", columns="structure", values="dsc_paper")
        means = table.mean(axis=1).dropna().sort_index(kind="stable").sort_values(kind="stable")
        for case, mean in zip(map(str, means.index[:most]), means, strict=False):
            own = of_run[(of_run["case"] == case) & of_run["dsc_paper"].notna()]
            lowest = own.sort_values("dsc_paper", kind="stable").head(NAMED)
            pairs = zip(lowest["structure"], lowest["dsc_paper"], strict=True)
            named = [[str(name), 100 * float(value)] for name, value in pairs]
            rows.append({"method": method, "case": case, "dsc": 100 * float(mean), "lowest": named})
    return rows


def wrongest_slice(reference: npt.NDArray[Any], predicted: npt.NDArray[Any]) -> int:
    """The slice (z) with most voxels whose labels differ; the first of several."""
    wrong = np.count_nonzero(reference != predicted, axis=(1, 2))
    return int(wrong.argmax())
