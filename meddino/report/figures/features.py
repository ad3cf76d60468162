"""The `features` verb: the dense features of an image by several backbones, side by side.

For each model: how similar each patch is to a chosen one (cosine of their tokens), and the first
three principal components of all tokens as colours, which mean the same for all models.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meddino.core.errors import MeddinoError
from meddino.models import backbones
from meddino.models.backbones import Backbone
from meddino.report.figures import dense
from meddino.report.figures.maps import Maps, maps_of, write
from meddino.report.figures.panels import scale, show_colours, show_image, show_similarity
from meddino.report.figures.scenes import Point, Scene, read_scene
from meddino.report.options import FigureOptions
from meddino.report.style import figure

SIZES_PX = (16, 2048)
"""Smallest and largest input (px)."""
DEFAULT_SIZE_PX = 512


def draw(scene: Scene, maps: Sequence[Maps], point: Point, path: Path, look: FigureOptions) -> None:
    """Draw the image, and two rows a size: similarity and colours, a column for each model.

    Args:
        scene: the image.
        maps: from `maps_of`.
        point: a point in the chosen patch.
        path: a PNG; a PDF is written beside it.
        look: resolution and window.
    """
    sizes = list(dict.fromkeys(entry.size_px for entry in maps))
    models = len(maps) // len(sizes)
    lowest = min(float(entry.similarity.min()) for entry in maps)
    height, width = scene.values.shape[1:]
    # As high as the image, within what keeps labels and titles legible.
    tall = 1.75 * min(max(scene.aspect * height / width, 0.7), 2.0) + 0.15
    with figure(look, path, 2 * len(sizes), 1 + models, (2.1, tall)) as axes:
        show_image(axes[0, 0], scene, [point], look, "image")
        for axis in axes[1:, 0]:
            axis.set_axis_off()
        for number, entry in enumerate(maps):
            row, column = 2 * (number // models), 1 + number % models
            if row == 0:
                axes[0, column].set_title(entry.model)
            mapped = show_similarity(axes[row, column], scene, entry.similarity, point, lowest)
            show_colours(axes[row + 1, column], scene, entry.colours)
            if column == 1:
                axes[row, 1].set_ylabel(f"similarity, {entry.size_px} px")
                axes[row + 1, 1].set_ylabel(f"components, {entry.size_px} px")
        scale(mapped, list(axes[::2, -1]))


def main(arguments: Sequence[str]) -> None:
    """Draw the features of an image from the command line.

    Raises:
        MeddinoError: image, model, patch or size cannot be used.
    """
    flags = _parser().parse_args(arguments)
    sizes = _sizes(flags.size or [DEFAULT_SIZE_PX])
    output = flags.output or Path(f"{_stem(flags.image)}.features")
    files = [output.with_name(f"{output.name}.{kind}") for kind in ("png", "pdf", "npz")]
    if flags.image.resolve() in [file.resolve() for file in files]:
        raise MeddinoError(f"{flags.image} would be replaced; name another --output")
    scene = read_scene(flags.image, flags.slice)
    for remark in scene.remarks:
        print(f"{flags.image}: {remark}", file=sys.stderr)
    models = _named([_model(text) for text in flags.model])
    patch_px = models[0].vit.patch_size
    point = _point(flags, scene, dense.side_px(sizes[0], patch_px) // patch_px)
    maps = maps_of(scene, models, sizes, point, flags.device)
    draw(scene, maps, point, files[0], FigureOptions(dpi=flags.dpi))
    write(maps, point, files[2])
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
        "--model", action="append", required=True, metavar="[NAME=]PATH",
        help="checkpoint of a backbone, drawn under this name; repeat it to compare several",
    )  # fmt: skip
    parser.add_argument(
        "--slice", type=int, metavar="N",
        help="of a volume, from the feet on, counted from 0; by default the one with most body",
    )  # fmt: skip
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--patch", metavar="ROW,COLUMN",
        help="the chosen patch, counted from 0 in the first model at the first size; by default"
        " the one at the centre of the body, or of a picture",
    )  # fmt: skip
    chosen.add_argument(
        "--at", metavar="Y,X", help="the same as shares of height and width, such as 0.4,0.6"
    )
    parser.add_argument(
        "--size", type=int, action="append", metavar="PX",
        help="side of the input (px), up to 2048; by default 512; repeat it to compare several",
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
    name = Path(os.path.abspath(path)).name
    return name if path.is_dir() else name.removesuffix(".gz").rpartition(".")[0] or name


def _sizes(sizes_px: Sequence[int]) -> list[int]:
    low, high = SIZES_PX
    if outside := [size for size in sizes_px if not low <= size <= high]:
        raise MeddinoError(f"--size {outside[0]}: must be from {low} to {high} px")
    return list(dict.fromkeys(sizes_px))


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


def _point(flags: argparse.Namespace, scene: Scene, side: int) -> Point:
    """A point in the chosen patch; `side` patches make a row and a column."""
    if flags.patch is not None:
        row, column = _pair("--patch", flags.patch, int, side, "12,20")
        return (row + 0.5) / side, (column + 0.5) / side
    if flags.at is not None:
        y, x = _pair("--at", flags.at, float, 1, "0.4,0.6")
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
