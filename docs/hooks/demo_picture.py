"""Draw `docs/assets/demo.webp`, the picture of the README, from the results of `make demo`.

    python docs/hooks/demo_picture.py results docs/assets/demo.webp

One validation case of AMOS22's phantoms, chosen by rank: the one with the median DSC of MedDINOv3.
"""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from matplotlib import pyplot
from matplotlib.patches import Patch
from PIL import Image

from meddino.core.files import read_json
from meddino.evaluate.scores import read_scores
from meddino.models import backbones
from meddino.models.weights import STANDINS
from meddino.report.figures import dense, layers
from meddino.report.figures.predictions import OPACITY
from meddino.report.figures.scenes import Scene
from meddino.report.options import FigureOptions
from meddino.volumes import reader

RUN = Path("amos22/meddinov3/fold0")
DATASET = "nnunet/raw/Dataset701_amos22/dataset.json"
LAST_STAGE = "pretrain/stage3/000030.pth"
FEATURES_PX = 384
MARGIN_PX = 2
"""Around the body, in pixels of the image."""
PAPER, INK = "#0d1117", "#e6edf3"
"""Dark in both themes of GitHub, as a reading room is."""
QUALITY = 82


def draw(results: Path) -> bytes:
    """The picture, as WebP.

    Args:
        results: what `make demo` has written.
    """
    scores = read_scores([results / "scores.parquet"])
    runs = scores[(scores["benchmark"] == "amos22") & (scores["method"] == "meddinov3")]
    means = runs.groupby("case")["dsc_paper"].mean().sort_values()
    case, dsc = str(means.index[len(means) // 2]), float(means.iloc[len(means) // 2])

    dataset = results / DATASET
    description = read_json(dataset)
    image, reference = layers.read_case(dataset, description, case)
    done = results / "predictions" / RUN / "done.json"
    predicted = reader.read_made(done.with_name(f"{case}.nii.gz"), done)
    number = layers.telling_slice(sitk.GetArrayViewFromImage(reference))
    hu = sitk.GetArrayFromImage(image)[number]
    spacing = (image.GetSpacing()[1], image.GetSpacing()[0])

    scene = Scene(hu[None].astype(np.float32), spacing)
    look = FigureOptions()
    grey = scene.shown(look.window_hu)
    names = {value: name for name, value in description["labels"].items() if value}
    colours = layers.colours(look.colours, [names[value] for value in sorted(names)])
    painted = [
        _painted(grey, sitk.GetArrayViewFromImage(labels)[number], names, colours)
        for labels in (predicted, reference)
    ]

    panels = [("CT slice of a phantom", grey)]
    titles = ("patch features at the start", "after three stages")
    panels += list(zip(titles, _features(results, scene), strict=True))
    panels += [(f"segmentation, DSC {100 * dsc:.0f} %", painted[0]), ("reference", painted[1])]
    return _encoded(panels, scene, colours)


def _features(results: Path, scene: Scene) -> list[npt.NDArray[np.float32]]:
    """Principal components of the patch tokens as colours, (rows, columns, 3) for each model."""
    models = [backbones.load(path) for path in (STANDINS / "vittiny8", results / LAST_STAGE)]
    tokens = [
        dense.patch_tokens(model, scene, FEATURES_PX, torch.device("cpu")) for model in models
    ]
    bases = dense.consistent([[each] for each in tokens], [scene])
    paper = np.zeros(3, np.float32)
    return [
        np.where(scene.covered(each.shape[:2])[..., None], basis.colours(each), paper)
        for basis, each in zip(bases, tokens, strict=True)
    ]


def _painted(
    grey: npt.NDArray[np.float32],
    labels: npt.NDArray[Any],
    names: dict[int, str],
    colours: dict[str, str],
) -> npt.NDArray[np.float32]:
    """A slice with its labels over it, (rows, columns, 3) from 0 to 1."""
    painted = grey.copy()
    for value, name in names.items():
        colour = np.array([part / 255 for part in bytes.fromhex(colours[name][1:])], np.float32)
        inside = labels == value
        painted[inside] = (1 - OPACITY) * painted[inside] + OPACITY * colour
    return painted


def _encoded(
    panels: list[tuple[str, npt.NDArray[np.float32]]], scene: Scene, colours: dict[str, str]
) -> bytes:
    rows, columns = np.flatnonzero(scene.body.any(1)), np.flatnonzero(scene.body.any(0))
    height, width = scene.values.shape[1:]
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(12.8, 2.7), facecolor=PAPER, layout="constrained"
    )
    figure.get_layout_engine().set(h_pad=0.11)
    for axis, (title, picture) in zip(axes, panels, strict=True):
        axis.imshow(picture, extent=(0, width, height, 0), aspect=scene.aspect)
        axis.set_xlim(columns[0] - MARGIN_PX, columns[-1] + 1 + MARGIN_PX)
        axis.set_ylim(rows[-1] + 1 + MARGIN_PX, rows[0] - MARGIN_PX)
        axis.set_title(title, color=INK, fontsize=12, pad=9)
        axis.set_axis_off()
    handles = [Patch(color=colour, label=name) for name, colour in colours.items()]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), frameon=False,
        labelcolor=INK, fontsize=11,
    )  # fmt: skip
    drawn, encoded = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=125, facecolor=PAPER)
    Image.open(drawn).convert("RGB").save(encoded, format="WEBP", quality=QUALITY, method=6)
    return encoded.getvalue()


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(draw(Path(sys.argv[1])))
