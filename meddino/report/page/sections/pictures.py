"""The figures that the page shows as pictures, by section."""

import io
from pathlib import Path
from typing import Any

from PIL import Image

from meddino.core.errors import MeddinoError
from meddino.core.files import read_json
from meddino.report.figures.layers import SUFFIX, encoded
from meddino.report.page.inputs import MEDIA, data_uri, read_picture

CHARTED = ("backbones_", "pretraining", "probe", "finetuning_", "scores_", "overlap")
"""How the files of figures begin that the page draws as charts, from the same numbers."""
WIDEST = 1800
"""Largest width of a picture in the page (px); the file keeps all its pixels."""
QUALITY = 85
"""Quality of WebP at which lines and letters stay sharp."""


def pictures(paths: list[Path], *, charted: bool) -> dict[str, list[dict[str, Any]]]:
    """Figures by section, each with its picture inside, and the names of its files.

    Args:
        paths: `figures.json` of several verbs, each beside its pictures.
        charted: whether those are wanted that the page draws as charts, for readers without
            JavaScript, or the others.

    Raises:
        MeddinoError: a picture is missing or damaged.
    """
    sections: dict[str, list[dict[str, Any]]] = {}
    for path in paths:
        for entry in read_json(path):
            if entry["file"].startswith(CHARTED) != charted:
                continue
            image = _embedded(read_picture(path.parent / entry["file"], path))
            names = [entry["file"], str(Path(entry["file"]).with_suffix(".pdf"))]
            files = [name for name in names if (path.parent / name).exists()]
            sections.setdefault(entry["section"], []).append({**entry, **image, "files": files})
    return sections


def _embedded(png: bytes) -> dict[str, Any]:
    """A picture for the page: `uri`, `width`, `height`; in the smallest form.

    Raises:
        MeddinoError: it is no picture.
    """
    try:
        picture = Image.open(io.BytesIO(png)).convert("RGB")
    except OSError as error:
        raise MeddinoError(f"a figure is damaged ({error}); run `figures` again") from error
    fits = picture.width <= WIDEST
    if not fits:
        height = round(picture.height * WIDEST / picture.width)
        picture = picture.resize((WIDEST, height), Image.Resampling.LANCZOS)
    forms = {MEDIA[SUFFIX]: encoded(picture, QUALITY)}
    if fits:
        forms["image/png"] = png
    media_type, content = min(forms.items(), key=lambda item: len(item[1]))
    uri = data_uri(content, media_type)
    return {"uri": uri, "width": picture.width, "height": picture.height}
