"""The `feature_figures` verb: dense features along the chain of pretraining (Figs. 1, 3, 4)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from meddino.core.files import read_json, write_json
from meddino.core.progress import track
from meddino.finetune.failures import explained
from meddino.models import backbones
from meddino.models.device import choose
from meddino.report.figures import dense
from meddino.report.figures.dense import Array
from meddino.report.figures.panels import scale, show_colours, show_image, show_similarity
from meddino.report.figures.scenes import Point, Scene, innermost
from meddino.report.options import FeatureOptions, FigureOptions
from meddino.report.style import Figure, figure
from meddino.volumes import reader

SECTION = "Features"
PANEL = (1.9, 2.0)
"""Width and height of a panel (inches)."""


class View(NamedTuple):
    """A slice of a validation case, and the patch that is compared with all others."""

    case: str
    structure: str
    scene: Scene
    point: Point


def run(
    options: FeatureOptions, *, dataset: Path, splits: Path, checkpoints: list[Path], output: Path
) -> None:
    """Draw the features of the checkpoints of a chain on some validation cases.

    Cases are spread evenly over the sorted ones of the fold. Of each, the slice is shown on which
    the reference labels most voxels, and the patch is where the largest structure is deepest.

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
    sizes = sorted(options.features.sizes_px)
    tokens = _tokens(options, views, checkpoints, sizes)
    entries = [
        _similarities(options, views, tokens, output.with_name("similarity.png")),
        _components(options, views, tokens, output.with_name("components.png")),
    ]
    if len(checkpoints) > 1:
        view = views[len(views) // 2]
        path = output.with_name("resolution.png")
        entries.append(_resolutions(options, view, len(views) // 2, tokens, path))
    write_json(output, [entry._asdict() for entry in entries])


def read_view(dataset: Path, case: str, spacing_mm: float) -> View:
    """Choose slice and patch of a case by its reference.

    Raises:
        MeddinoError: image or label cannot be used.
    """
    description = read_json(dataset)
    files = description["dataset"][case]
    volume, label = reader.read_labelled(
        dataset.parent / files["images"][0], dataset.parent / files["label"]
    )
    number = int(np.argmax((label > 0).sum(axis=(1, 2))))
    values = volume.array[number][None].astype(np.float32)
    scene = Scene(values, volume.spacing_mm[1:], spacing_mm)
    counts = np.bincount(label[number].ravel())
    counts[0] = 0
    if not counts.any():
        return View(case, "the body", scene, scene.centre())
    largest = int(counts.argmax())
    names = {value: name for name, value in description["labels"].items()}
    return View(case, names[largest], scene, innermost(label[number] == largest))


def _spread(length: int, count: int) -> list[int]:
    """At most `count` of the numbers below `length`, evenly spread."""
    steps = (np.arange(min(count, length)) + 0.5) * length / min(count, length)
    return steps.astype(int).tolist()


Tokens = dict[tuple[int, int, int], Array]
"""Of a model, a view and a size: (rows, columns, C)."""


def _tokens(
    options: FeatureOptions, views: list[View], checkpoints: list[Path], sizes: Sequence[int]
) -> Tokens:
    """All tokens that the figures show; one model is in memory at a time."""
    device = choose(options.features.device)
    tokens: Tokens = {}
    last = len(checkpoints) - 1
    for number, path in enumerate(track(checkpoints, "features", len(checkpoints))):
        model = backbones.load(path)
        inputs = [(view, sizes[-1]) for view in range(len(views))]
        if number >= last - 1:
            inputs += [(len(views) // 2, size) for size in sizes[:-1]]
        for view, size in inputs:
            with explained("take smaller features.sizes_px, or features.device: cpu"):
                tokens[number, view, size] = dense.patch_tokens(
                    model, views[view].scene, size, device
                )
    return tokens


def _similarities(options: FeatureOptions, views: list[View], tokens: Tokens, path: Path) -> Figure:
    names, size = options.models, max(options.features.sizes_px)
    maps = {
        (row, column): dense.similarity(
            tokens[column, row, size],
            dense.patch_at(view.point, tokens[column, row, size].shape[:2]),
        )
        for row, view in enumerate(views)
        for column in range(len(names))
    }
    lowest = min(float(values.min()) for values in maps.values())
    with _grid(options.figures, views, names, path, marked=True) as axes:
        for (row, column), values in maps.items():
            axis, view = axes[row, 1 + column], views[row]
            mapped = show_similarity(axis, view.scene, values, view.point, lowest)
        scale(mapped, list(axes[:, -1]))
    caption = (
        f"Cosine similarity of one patch (cross) with all others, in the last layer, at"
        f" {size} x {size} px. {_rule(views)} All maps share one scale. As the paper's Figs. 1"
        " and 4."
    )
    return Figure(path.name, SECTION, "Similarity of patches along the chain", caption)


def _components(options: FeatureOptions, views: list[View], tokens: Tokens, path: Path) -> Figure:
    names, size = options.models, max(options.features.sizes_px)
    maps = [
        [tokens[column, row, size] for row in range(len(views))] for column in range(len(names))
    ]
    bases = dense.consistent(maps, [view.scene for view in views])
    with _grid(options.figures, views, names, path, marked=False) as axes:
        for column, (basis, own) in enumerate(zip(bases, maps, strict=True)):
            for row, view in enumerate(views):
                show_colours(axes[row, 1 + column], view.scene, basis.colours(own[row]))
    caption = (
        f"The first three principal components of patch tokens of the body as red, green and blue,"
        f" in the last layer, at {size} x {size} px. Components of each model are of all slices"
        " shown, and turned onto those of the first model (orthogonal Procrustes): where two models"
        " agree, so do colours, in all panels. As the paper's Fig. 4."
    )
    return Figure(path.name, SECTION, "Dense features along the chain", caption)


def _resolutions(
    options: FeatureOptions, view: View, number: int, tokens: Tokens, path: Path
) -> Figure:
    """The last two models at all sizes, in colours of the smallest one."""
    sizes = sorted(options.features.sizes_px)
    last = len(options.models) - 1
    pair = (last - 1, last)
    bases = dense.consistent([[tokens[model, number, sizes[0]]] for model in pair], [view.scene])
    with figure(options.figures, path, 2, 1 + len(sizes), PANEL) as axes:
        show_image(axes[0, 0], view.scene, None, options.figures, view.case)
        axes[1, 0].set_axis_off()
        for row, (model, basis) in enumerate(zip(pair, bases, strict=True)):
            for column, size in enumerate(sizes, 1):
                axis = axes[row, column]
                show_colours(axis, view.scene, basis.colours(tokens[model, number, size]))
                if row == 0:
                    axis.set_title(f"{size} x {size} px")
            axes[row, 1].set_ylabel(options.models[model])
    caption = (
        f"Dense features before ({options.models[pair[0]]}) and after ({options.models[pair[1]]})"
        f" the last stage of pretraining, at growing sizes of the input; case {view.case}. The"
        f" first three principal components at {sizes[0]} px as red, green and blue, the second"
        " row's turned onto the first's; larger inputs are shown by the same components, so that a"
        " colour that changes is a feature that changes. As the paper's Fig. 3."
    )
    return Figure(path.name, SECTION, "Dense features at growing resolution", caption)


@contextmanager
def _grid(
    look: FigureOptions, views: list[View], names: Sequence[str], path: Path, *, marked: bool
) -> Iterator[Any]:
    """Panels: a row for each view, its image first, then a column for each model.

    The chosen patch is `marked` in the image, or not.
    """
    with figure(look, path, len(views), 1 + len(names), PANEL) as axes:
        for row, view in zip(axes, views, strict=True):
            show_image(row[0], view.scene, view.point if marked else None, look, view.case)
        for axis, name in zip(axes[0, 1:], names, strict=True):
            axis.set_title(name)
        yield axes


def _rule(views: list[View]) -> str:
    """How cases, slices and patches were chosen, in words."""
    return (
        "Validation cases are spread evenly over all of them; slices are those with most labelled"
        " voxels; the patch is where the slice's largest structure is deepest ("
        + ", ".join(f"{view.structure} in {view.case}" for view in views)
        + ")."
    )
