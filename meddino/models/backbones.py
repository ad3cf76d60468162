"""Any checkpoint that this project reads, as a ViT that is asked for patch tokens."""

from pathlib import Path
from typing import Any, NamedTuple

from meddino.core.errors import MeddinoError
from meddino.core.files import read_json
from meddino.models import library_vit, loading
from meddino.models.options import DINOV3


class Backbone(NamedTuple):
    """A ViT in evaluation mode, fp32."""

    name: str
    """`stage@iteration` where the checkpoint says so, else the name of its file or folder."""
    vit: Any
    """A module with `get_intermediate_layers` and `patch_size`."""
    depth: int
    """Number of its blocks."""


def load(path: Path) -> Backbone:
    """Load the ViT of a checkpoint, whatever layout it has.

    Args:
        path: what `loading.load_backbone` takes; a file that the verb `weights` has made of a ViT
            of a library; or a folder of timm or transformers whose `config.json` names their ViT.

    Raises:
        MeddinoError: it cannot be read, or holds no plain ViT.
    """
    file = loading.file_of(path)
    beside = file.with_name("config.json")
    if path.is_dir() and (foreign := _foreign(beside)):
        description, tensors = library_vit.read_checkpoint(foreign, path)
        return _foreign_backbone(path.name, description, tensors, path)
    content = loading.read(path)
    meta = content.get("meta", {})
    if meta.get("kind", DINOV3) == DINOV3:
        try:
            vit = loading.load_backbone(content)
        except MeddinoError as error:
            raise MeddinoError(f"{path}: {error}") from error
        staged = "stage" in meta and "iteration" in meta
        name = f"{meta['stage']}@{meta['iteration']}" if staged else _name(path)
        return Backbone(name, vit, len(vit.blocks))
    if "description" not in meta:
        raise MeddinoError(f"{path} is a checkpoint for {meta['kind']}, which is no plain ViT")
    tensors = {key: value for key, value in content.items() if key != "meta"}
    return _foreign_backbone(_name(path), meta["description"], tensors, path)


def _foreign(config: Path) -> str | None:
    """The library's name of the ViT of a folder; None where it is one that has our layout."""
    values = read_json(config)
    if not isinstance(values, dict) or values.get("model_type") == "dinov3_vit":
        return None
    if "model_type" in values:
        return f"transformers:{config.parent}"
    architecture = str(values.get("architecture", ""))
    # `export` writes a DINOv3 ViT of another epsilon under the name of another model.
    rotary = (values.get("model_args") or {}).get("rope_type")
    if not architecture or "dinov3" in architecture or rotary == "dinov3":
        return None
    return f"timm:{architecture}"


def _foreign_backbone(
    name: str, description: dict[str, Any], tensors: dict[str, Any], path: Path
) -> Backbone:
    vit = library_vit.build(description)
    loading.load_strictly(vit.model, tensors, str(path))
    return Backbone(name, vit.eval(), vit.depth)


def _name(path: Path) -> str:
    return path.name if path.is_dir() else path.stem
