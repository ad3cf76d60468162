"""The ViT with the public DINOv3 key names, its heads, and the segmentation networks."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meddino.models.loading import load_backbone

__all__ = ["load_backbone"]


def __getattr__(name: str) -> Any:
    """Import torch only when the loader is asked for: the workflow reads options from here."""
    if name == "load_backbone":
        from meddino.models.loading import load_backbone

        return load_backbone
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
