"""The `features` verb: what backbones make of an image, side by side.

For each model: how similar each patch is to a chosen one (cosine of their tokens), and the first
three principal components of all tokens as colours, which mean the same for all models.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from meddino.core.errors import MeddinoError
from meddino.core.files import atomic
from meddino.core.progress import track
from meddino.finetune.failures import explained
from meddino.models import backbones
from meddino.models.backbones import Backbone
from meddino.models.device import choose
from meddino.report.figures import dense
from meddino.report.figures.dense import Array, Point, Scene
from meddino.report.figures.style import MUTED, bare, figure
from meddino.report.options import FigureOptions

SIZES_PX = (16, 2048)
"""Smallest and largest input (px)."""
MARK = "#ffffff"
HIDDEN = 0.93
"""Grey of patches that do not show the patient."""


@dataclass(frozen=True)
class Maps:
    """What one model makes of an image at one size.

    Attributes:
        similarity: float32 (rows, columns), cosine with the chosen patch.
        colours: float32 (rows, columns, 3), RGB from 0 to 1.
    """

    model: str
    size_px: int
    patch: tuple[int, int]
    similarity: Array
    colours: Array


def maps_of(
    scene: Scene,
    models: Sequence[Backbone],
    sizes_px: Sequence[int],
    point: Point,
    device: str = "auto",
) -> list[Maps]:
    """Compute the maps of each model at each size.

    Args:
        scene: the image.
        models: at least one; colours are those of the first one's components at the first size.
        sizes_px: heights and widths of the input, taken to the closest multiple of a patch.
        point: where the chosen patch is.
        device: auto, cpu or cuda.

    Returns:
        Maps by size, then model.

    Raises:
        MeddinoError: memory does not suffice, or there is no GPU that is asked for.
    """
    where = choose(device)
    wanted = [(model, size) for size in sizes_px for model in models]
    remedy = "take a smaller --size, or --device cpu"
    with explained(remedy):
        tokens = [
            dense.features(model, scene, size, where)
            for model, size in track(wanted, "features", len(wanted))
        ]
    bases = dense.consistent([[first] for first in tokens[: len(models)]], [scene])
    found = []
    for number, (own, (model, size)) in enumerate(zip(tokens, wanted, strict=True)):
        patch = dense.patch_at(point, own.shape[:2])
        colours = bases[number % len(models)].colours(own)
        similar = dense.similarity(own, patch)
        found.append(Maps(model.name, size, patch, similar, colours))
    return found


def draw(scene: Scene, maps: Sequence[Maps], point: Point, path: Path, look: FigureOptions) -> None:
    """Draw the image, and two rows a size: similarity and colours, a column for each model.

    Args:
        scene: the image.
        maps: from `maps_of`.
        point: where the chosen patch is.
        path: a PNG; a PDF is written beside it.
        look: resolution and window.
    """
    sizes = list(dict.fromkeys(each.size_px for each in maps))
    models = len(maps) // len(sizes)
    lowest = min(float(each.similarity.min()) for each in maps)
    height, width = scene.values.shape[1:]
    # As high as the image, within what keeps labels and titles legible.
    tall = 1.75 * min(max(scene.aspect * height / width, 0.7), 2.0) + 0.15
    with figure(look, path, 2 * len(sizes), 1 + models, (2.1, tall)) as axes:
        show_image(axes[0, 0], scene, point, look, "image")
        for axis in axes[1:, 0]:
            axis.set_axis_off()
        for number, each in enumerate(maps):
            row, column = 2 * (number // models), 1 + number % models
            if row == 0:
                axes[0, column].set_title(each.model)
            drawn = show_similarity(axes[row, column], scene, each.similarity, point, lowest)
            show_colours(axes[row + 1, column], scene, each.colours)
            if column == 1:
                axes[row, 1].set_ylabel(f"similarity, {each.size_px} px")
                axes[row + 1, 1].set_ylabel(f"components, {each.size_px} px")
        scale(drawn, list(axes[::2, -1]))


def show_image(
    axis: Any, scene: Scene, point: Point | None, look: FigureOptions, title: str
) -> None:
    """Show the image, and a mark where the chosen patch is, if one is."""
    axis.imshow(scene.shown(look.window_hu), aspect=scene.aspect)
    if point is not None:
        mark(axis, scene, point)
    axis.set_title(title, color=MUTED)
    bare(axis)


def show_similarity(axis: Any, scene: Scene, values: Array, point: Point, lowest: float) -> Any:
    """Show cosines on a scale from `lowest` to 1, and a mark where the chosen patch is."""
    drawn = axis.imshow(
        values, **_placed(scene), vmin=lowest, vmax=1, cmap="viridis", interpolation="nearest"
    )
    mark(axis, scene, point)
    bare(axis)
    return drawn


def show_colours(axis: Any, scene: Scene, colours: Array) -> None:
    """Show components as colours, and grey where the patient is not."""
    covered = scene.covered(colours.shape[:2])[..., None]
    shown = np.where(covered, colours, np.float32(HIDDEN))
    axis.imshow(shown, **_placed(scene), interpolation="nearest")
    bare(axis)


def mark(axis: Any, scene: Scene, point: Point) -> None:
    """Mark a point of the image, so that it is seen on dark and on bright."""
    height, width = scene.values.shape[1:]
    place = ([point[1] * width - 0.5], [point[0] * height - 0.5])
    axis.plot(*place, "+", color="#000000", ms=9, mew=3)
    axis.plot(*place, "+", color=MARK, ms=8, mew=1.4)


def scale(drawn: Any, axes: list[Any]) -> None:
    """Say what the colours of similarity mean, beside the last panels of its rows."""
    bar = drawn.figure.colorbar(drawn, ax=axes, fraction=0.08, pad=0.04)
    bar.set_label("cosine similarity", color=MUTED, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)


def _placed(scene: Scene) -> dict[str, Any]:
    """Where a map of the whole image is drawn: over the pixels of the image."""
    height, width = scene.values.shape[1:]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    return {"extent": extent, "aspect": scene.aspect}


def write(scene: Scene, maps: Sequence[Maps], point: Point, path: Path) -> None:
    """Write all numbers of a figure as .npz: `models`, `sizes_px`, `point`, and the maps.

    These are `similarity_<model>_<size>` and `components_<model>_<size>`, where models and sizes
    are counted from 0.
    """
    sizes = list(dict.fromkeys(each.size_px for each in maps))
    models = list(dict.fromkeys(each.model for each in maps))
    arrays: dict[str, Any] = {
        f"{kind}_{number % len(models)}_{number // len(models)}": values
        for number, each in enumerate(maps)
        for kind, values in (("similarity", each.similarity), ("components", each.colours))
    }
    arrays |= {"models": np.array(models), "sizes_px": np.array(sizes), "point": np.array(point)}
    with atomic(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def main(arguments: Sequence[str]) -> None:
    """Draw the features of an image from the command line.

    Raises:
        MeddinoError: image, model, patch or size are not usable.
    """
    given = _parser().parse_args(arguments)
    sizes = _sizes(given.size)
    output = given.output or Path(f"{_stem(given.image)}.features")
    files = [output.with_name(f"{output.name}.{kind}") for kind in ("png", "pdf", "npz")]
    if given.image.resolve() in [file.resolve() for file in files]:
        raise MeddinoError(f"{given.image} would be replaced; name another --output")
    scene = dense.read_scene(given.image, given.slice)
    models = _named([_model(text) for text in given.model])
    patch_px = models[0].vit.patch_size
    point = _point(given, scene, dense.side_px(sizes[0], patch_px) // patch_px)
    maps = maps_of(scene, models, sizes, point, given.device)
    draw(scene, maps, point, files[0], FigureOptions(dpi=given.dpi))
    write(scene, maps, point, files[2])
    row, column = maps[0].patch
    print(
        f"patch {row},{column} of {len(maps[0].similarity)} x {len(maps[0].similarity[0])};"
        f" wrote {', '.join(map(str, files))}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m meddino features",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "image", type=Path, metavar="IMAGE",
        help="a CT volume (NIfTI, MHA, MHD, NRRD, the folder of a DICOM series), a PNG or a JPEG",
    )  # fmt: skip
    parser.add_argument(
        "--model", nargs="+", required=True, metavar="[NAME=]PATH",
        help="checkpoints of backbones, side by side under these names",
    )  # fmt: skip
    parser.add_argument(
        "--slice", type=int, metavar="N",
        help="of a volume, from the feet on, counted from 0; by default the one with most body",
    )  # fmt: skip
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--patch", metavar="ROW,COLUMN",
        help="the chosen patch, counted from 0 in the first model at the first size; by default"
        " the one at the centre of the body, or of a picture",
    )  # fmt: skip
    where.add_argument(
        "--at", metavar="Y,X", help="the same as shares of height and width, such as 0.4,0.6"
    )
    parser.add_argument(
        "--size", type=int, nargs="+", default=[512], metavar="PX",
        help="sides of the input (px), up to 2048; by default 512",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, metavar="STEM",
        help="writes STEM.png, STEM.pdf and STEM.npz; by default <name of the image>.features",
    )  # fmt: skip
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--dpi", type=int, default=150, help="of the PNG")
    return parser


def _stem(path: Path) -> str:
    """The name of an image without its ending."""
    name = path.resolve().name
    return name if path.is_dir() else name.removesuffix(".gz").rpartition(".")[0] or name


def _sizes(given: Sequence[int]) -> list[int]:
    low, high = SIZES_PX
    if wrong := [size for size in given if not low <= size <= high]:
        raise MeddinoError(f"--size {wrong[0]}: must be from {low} to {high} px")
    return list(dict.fromkeys(given))


def _model(text: str) -> Backbone:
    """Load `PATH`, or `NAME=PATH`."""
    name, equals, path = text.partition("=")
    if not equals or Path(text).exists():
        return backbones.load(Path(text))
    return backbones.load(Path(path))._replace(name=name)


def _named(models: Sequence[Backbone]) -> list[Backbone]:
    """Models of distinct names."""
    names = [model.name for model in models]
    if twice := [name for name in names if names.count(name) > 1]:
        raise MeddinoError(
            f"two models are called {twice[0]}; name them, as in --model before={twice[0]}.pth"
        )
    return list(models)


def _point(given: argparse.Namespace, scene: Scene, side: int) -> Point:
    """Where the chosen patch is; `side` patches make a row and a column."""
    if given.patch is not None:
        row, column = _pair("--patch", given.patch, int, side, "12,20")
        return (row + 0.5) / side, (column + 0.5) / side
    if given.at is not None:
        y, x = _pair("--at", given.at, float, 1, "0.4,0.6")
        return y, x
    return scene.centre()


def _pair(flag: str, text: str, kind: type, end: int, example: str) -> tuple[Any, Any]:
    """Two numbers from 0 to below `end`."""
    try:
        first, second = (kind(part) for part in text.split(","))
    except ValueError as error:
        raise MeddinoError(f"{flag} {text}: give two numbers, such as {example}") from error
    if not (0 <= first < end and 0 <= second < end):
        raise MeddinoError(f"{flag} {text}: both must be from 0 to below {end}")
    return first, second
