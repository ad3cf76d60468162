"""Maps of an image by several backbones: similarity to a patch, and components as colours."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from meddino.core.files import atomic
from meddino.core.progress import track
from meddino.finetune.failures import explained
from meddino.models.backbones import Backbone
from meddino.models.device import choose
from meddino.report.figures import dense
from meddino.report.figures.dense import Array
from meddino.report.figures.scenes import Point, Scene


@dataclass(frozen=True)
class Maps:
    """The maps of one model at one size of the input.

    Attributes:
        model: name of the model.
        size_px: height and width of the input.
        patch: row and column of the chosen patch.
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
        point: a point in the chosen patch.
        device: auto, cpu or cuda.

    Returns:
        Maps by size, then model.

    Raises:
        MeddinoError: memory does not suffice, or the machine has no GPU and `device` is cuda.
    """
    target = choose(device)
    inputs = [(model, size) for size in sizes_px for model in models]
    remedy = "take a smaller --size, or --device cpu"
    with explained(remedy):
        tokens = [
            dense.patch_tokens(model, scene, size, target)
            for model, size in track(inputs, "features", len(inputs))
        ]
    # One basis for each model, of its smallest input: a colour that changes with the size is then
    # a feature that changes.
    bases = dense.consistent([[first] for first in tokens[: len(models)]], [scene])
    maps = []
    for number, (own, (model, size)) in enumerate(zip(tokens, inputs, strict=True)):
        patch = dense.patch_at(point, own.shape[:2])
        colours = bases[number % len(models)].colours(own)
        maps.append(Maps(model.name, size, patch, dense.similarity(own, patch), colours))
    return maps


def write(maps: Sequence[Maps], point: Point, path: Path) -> None:
    """Write all numbers of a figure as .npz: `models`, `sizes_px`, `point`, and the maps.

    The maps are `similarity_<model>_<size>` and `components_<model>_<size>`, where models and sizes
    are counted from 0.
    """
    sizes = list(dict.fromkeys(entry.size_px for entry in maps))
    models = list(dict.fromkeys(entry.model for entry in maps))
    arrays: dict[str, Any] = {
        f"{kind}_{number % len(models)}_{number // len(models)}": values
        for number, entry in enumerate(maps)
        for kind, values in (("similarity", entry.similarity), ("components", entry.colours))
    }
    arrays |= {"models": np.array(models), "sizes_px": np.array(sizes), "point": np.array(point)}
    with atomic(path) as temporary:
        np.savez_compressed(temporary, **arrays)
