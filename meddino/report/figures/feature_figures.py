"""The `feature_figures` verb: dense features along the chain of pretraining.

The paper's Fig. 1 is `resolution` (its last row) and `similarity`, Fig. 3 is `resolution`, and
Fig. 4 is `similarity`.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from meddino.core.files import read_json, write_json
from meddino.core.progress import track
from meddino.finetune.failures import explained
from meddino.models import backbones
from meddino.models.device import choose
from meddino.report.figures import dense
from meddino.report.figures.dense import Array
from meddino.report.figures.layers import telling_slice
from meddino.report.figures.panels import scale, show_colours, show_image, show_similarity
from meddino.report.figures.scenes import Point, Scene, innermost
from meddino.report.options import FeatureOptions
from meddino.report.style import Figure, figure
from meddino.volumes import reader

SECTION = "Features"
PANEL = (1.9, 2.0)
"""Width and height of a panel (inches)."""
MOST_POINTS = 8
"""Most marked points of a slice, as many as in the paper's Fig. 4."""


class Mark(NamedTuple):
    """A point whose patch is compared with all others, and the structure that it stands for."""

    structure: str
    point: Point


class View(NamedTuple):
    """A slice of a validation case, and its marked points."""

    case: str
    scene: Scene
    marks: list[Mark]


def run(
    options: FeatureOptions, *, dataset: Path, splits: Path, checkpoints: list[Path], output: Path
) -> None:
    """Draw the features of the checkpoints of a chain on some validation cases.

    Cases are spread evenly over the sorted ones of the fold. The slice of a case is the one on
    which the reference shows most structures. `similarity` and `resolution` show the case whose
    slice has most structures; `components` shows all cases.

    Args:
        options: how many cases, which sizes, and the names of the models.
        dataset: `dataset.json` of a converted benchmark, beside its images and labels.
        splits: its `splits_final.json`.
        checkpoints: along the chain, those with the published weights first.
        output: `figures.json`, written last: a list of file, section, title, caption.

    Raises:
        MeddinoError: a checkpoint or a volume cannot be used, or memory does not suffice.
    """
    cases = sorted(read_json(splits)[options.fold]["val"])
    chosen = [cases[i] for i in _spread(len(cases), options.features.images)]
    views = [read_view(dataset, case, options.spacing_mm) for case in chosen]
    focus = max(range(len(views)), key=lambda number: len(views[number].marks))
    tokens = _tokens(options, views, focus, checkpoints)
    entries = [
        _similarities(options, views[focus], focus, tokens, output.with_name("similarity.png")),
        _components(options, views, tokens, output.with_name("components.png")),
    ]
    if len(checkpoints) > 1:
        path = output.with_name("resolution.png")
        entries.append(_resolutions(options, views[focus], focus, tokens, path))
    write_json(output, [entry._asdict() for entry in entries])


def read_view(dataset: Path, case: str, spacing_mm: float) -> View:
    """Choose the slice of a case, and a point in each of its structures, by the reference.

    The slice has most structures, and of such slices most labelled voxels. Of more than
    `MOST_POINTS` structures, the largest on the slice are marked; in each, the point farthest from
    its border. A case without labels is marked at the centre of the body.

    Args:
        dataset: `dataset.json` of a converted benchmark.
        case: name of the case.
        spacing_mm: in-plane spacing that the slice is resampled to for a model.

    Raises:
        MeddinoError: image or label cannot be used.
    """
    description = read_json(dataset)
    files = description["dataset"][case]
    volume, label = reader.read_labelled(
        dataset.parent / files["images"][0], dataset.parent / files["label"]
    )
    number = telling_slice(label)
    values = volume.array[number][None].astype(np.float32)  # (1, y, x)
    scene = Scene(values, volume.spacing_mm[1:], spacing_mm)
    labels, counts = np.unique(label[number][label[number] > 0], return_counts=True)
    largest = sorted(labels[np.argsort(-counts, kind="stable")][:MOST_POINTS].tolist())
    names = {value: name for name, value in description["labels"].items()}
    marks = [Mark(names[value], innermost(label[number] == value)) for value in largest]
    return View(case, scene, marks or [Mark("the body", scene.centre())])


def _spread(length: int, count: int) -> list[int]:
    """At most `count` of the numbers below `length`, evenly spread."""
    steps = (np.arange(min(count, length)) + 0.5) * length / min(count, length)
    return steps.astype(int).tolist()


Tokens = dict[tuple[int, int, int], Array]
"""Of a model, a view and a size: (rows, columns, C)."""


def _tokens(
    options: FeatureOptions, views: list[View], focus: int, checkpoints: list[Path]
) -> Tokens:
    """All tokens that the figures show; one model is in memory at a time."""
    device, sizes = choose(options.features.device), sorted(options.features.sizes_px)
    tokens: Tokens = {}
    last = len(checkpoints) - 1
    for number, path in enumerate(track(checkpoints, "features", len(checkpoints))):
        model = backbones.load(path)
        inputs = [(view, sizes[-1]) for view in range(len(views))]
        if number >= last - 1:  # before and after the last stage, also at smaller sizes
            inputs += [(focus, size) for size in sizes[:-1]]
        for view, size in inputs:
            with explained("take smaller features.sizes_px, or features.device: cpu"):
                tokens[number, view, size] = dense.patch_tokens(
                    model, views[view].scene, size, device
                )
    return tokens


def _similarities(
    options: FeatureOptions, view: View, focus: int, tokens: Tokens, path: Path
) -> Figure:
    """A row for each model and a column for each marked point of one slice."""
    names, size = options.models, max(options.features.sizes_px)
    maps = {}
    for row in range(len(names)):
        features = tokens[row, focus, size]
        for column, mark in enumerate(view.marks):
            patch = dense.patch_at(mark.point, features.shape[:2])
            maps[row, column] = dense.similarity(features, patch)
    lowest = min(float(values.min()) for values in maps.values())
    with figure(options.figures, path, len(names), 1 + len(view.marks), PANEL) as axes:
        points = [mark.point for mark in view.marks]
        show_image(axes[0, 0], view.scene, points, options.figures, view.case)
        for axis in axes[1:, 0]:
            axis.set_axis_off()
        for (row, column), values in maps.items():
            axis = axes[row, 1 + column]
            mapped = show_similarity(axis, view.scene, values, points[column], lowest)
        for axis, (number, mark) in zip(axes[0, 1:], enumerate(view.marks, 1), strict=True):
            axis.set_title(mark.structure if len(points) == 1 else f"{number} {mark.structure}")
        for axis, name in zip(axes[:, 1], names, strict=True):
            axis.set_ylabel(name)
        scale(mapped, list(axes[:, -1]))
    caption = (
        f"Cosine similarity of the marked patch with all others, in the last layer, at {size} x"
        f" {size} px: a column for each point, a row for each model. Case {view.case} has the slice"
        " with most structures of those shown; a point is where its structure is deepest"
        f" ({_listed(view)}). All maps share one scale. As the paper's Fig. 4, which marks eight"
        " points on one slice, and the similarities of its Fig. 1."
    )
    return Figure(path.name, SECTION, "Similarity of patches along the chain", caption)


def _components(options: FeatureOptions, views: list[View], tokens: Tokens, path: Path) -> Figure:
    names, size = options.models, max(options.features.sizes_px)
    maps = [
        [tokens[column, row, size] for row in range(len(views))] for column in range(len(names))
    ]
    bases = dense.consistent(maps, [view.scene for view in views])
    with figure(options.figures, path, len(views), 1 + len(names), PANEL) as axes:
        for axis, view in zip(axes[:, 0], views, strict=True):
            show_image(axis, view.scene, [], options.figures, view.case)
        for axis, name in zip(axes[0, 1:], names, strict=True):
            axis.set_title(name)
        for column, (basis, own) in enumerate(zip(bases, maps, strict=True)):
            for row, view in enumerate(views):
                show_colours(axes[row, 1 + column], view.scene, basis.colours(own[row]))
    caption = (
        f"The first three principal components of patch tokens of the body as red, green and blue,"
        f" in the last layer, at {size} x {size} px. Components of each model are of all slices"
        " shown, and turned onto those of the first model (orthogonal Procrustes): where two models"
        " agree, so do colours, in all panels. Patches outside the body are grey. Cases are spread"
        " evenly over the validation cases; slices are those with most structures."
    )
    return Figure(path.name, SECTION, "Dense features along the chain", caption)


def _resolutions(
    options: FeatureOptions, view: View, focus: int, tokens: Tokens, path: Path
) -> Figure:
    """The last two models at all sizes, in colours of the smallest one."""
    sizes = sorted(options.features.sizes_px)
    last = len(options.models) - 1
    pair = (last - 1, last)
    bases = dense.consistent([[tokens[model, focus, sizes[0]]] for model in pair], [view.scene])
    with figure(options.figures, path, 2, 1 + len(sizes), PANEL) as axes:
        show_image(axes[0, 0], view.scene, [], options.figures, view.case)
        axes[1, 0].set_axis_off()
        for row, (model, basis) in enumerate(zip(pair, bases, strict=True)):
            for column, size in enumerate(sizes, 1):
                axis = axes[row, column]
                show_colours(axis, view.scene, basis.colours(tokens[model, focus, size]))
                if row == 0:
                    axis.set_title(f"{size} x {size} px")
            axes[row, 1].set_ylabel(options.models[model])
    caption = (
        f"Dense features before ({options.models[pair[0]]}) and after ({options.models[pair[1]]})"
        f" the last stage of pretraining, at growing sizes of the input; case {view.case}. The"
        f" first three principal components at {sizes[0]} px as red, green and blue, the second"
        " row's turned onto the first's; larger inputs are shown by the same components, so that a"
        " colour that changes is a feature that changes. The foreground is the body: other patches"
        " are masked (grey), and do not count for the components. As the paper's Fig. 3; the second"
        " row as its Fig. 1."
    )
    return Figure(path.name, SECTION, "Dense features at growing resolution", caption)


def _listed(view: View) -> str:
    """The marked structures, with their numbers where there are several."""
    if len(view.marks) == 1:
        return view.marks[0].structure
    return ", ".join(f"{number} {mark.structure}" for number, mark in enumerate(view.marks, 1))
