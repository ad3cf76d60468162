"""Panels of a figure of dense features: the image, similarities, components, and their scale."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from meddino.report.figures.dense import Array
from meddino.report.figures.scenes import Point, Scene
from meddino.report.options import FigureOptions
from meddino.report.style import MUTED, bare

MARK = "#ffffff"
HIDDEN = 0.93
"""Grey of patches that do not show the patient."""


def show_image(
    axis: Any, scene: Scene, points: Sequence[Point], look: FigureOptions, title: str
) -> None:
    """Show the image, and a mark at each point; several marks are numbered from 1 on."""
    axis.imshow(scene.shown(look.window_hu), aspect=scene.aspect)
    for count, point in enumerate(points, 1):
        mark(axis, scene, point, str(count) if len(points) > 1 else "")
    axis.set_title(title, color=MUTED)
    bare(axis)


def show_similarity(axis: Any, scene: Scene, values: Array, point: Point, lowest: float) -> Any:
    """Show cosines on a scale from `lowest` to 1, and a mark in the chosen patch."""
    mapped = axis.imshow(
        values, **_placed(scene), vmin=lowest, vmax=1, cmap="viridis", interpolation="nearest"
    )
    mark(axis, scene, point)
    bare(axis)
    return mapped


def show_colours(axis: Any, scene: Scene, colours: Array) -> None:
    """Show components as colours, and patches outside the patient in grey."""
    covered = scene.covered(colours.shape[:2])[..., None]
    masked = np.where(covered, colours, np.float32(HIDDEN))
    axis.imshow(masked, **_placed(scene), interpolation="nearest")
    bare(axis)


def mark(axis: Any, scene: Scene, point: Point, label: str = "") -> None:
    """Mark a point of the image with a cross that stands out on dark and on bright.

    Args:
        axis: the panel.
        scene: the image, whose pixels are the units of the panel.
        point: the place.
        label: text beside the cross.
    """
    from matplotlib import patheffects

    height, width = scene.values.shape[1:]
    x, y = point[1] * width - 0.5, point[0] * height - 0.5
    axis.plot([x], [y], "+", color="#000000", ms=9, mew=3)
    axis.plot([x], [y], "+", color=MARK, ms=8, mew=1.4)
    if label:
        axis.annotate(
            label, (x, y), (4, 3), textcoords="offset points", color=MARK, fontsize=8,
            path_effects=[patheffects.withStroke(linewidth=2, foreground="#000000")],
        )  # fmt: skip


def scale(mapped: Any, axes: list[Any]) -> None:
    """Draw the scale of similarities beside `axes`."""
    bar = mapped.figure.colorbar(mapped, ax=axes, fraction=0.08, pad=0.04)
    bar.set_label("cosine similarity", color=MUTED, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)


def _placed(scene: Scene) -> dict[str, Any]:
    """Arguments of `imshow` that lay a map of the whole image over the image's pixels."""
    height, width = scene.values.shape[1:]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    return {"extent": extent, "aspect": scene.aspect}
