"""The section of checkpoints: snapshots of all stages, and the checkpoints they began from."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from meddino.core.errors import MeddinoError
from meddino.core.files import sha256
from meddino.report.options import ReportOptions
from meddino.report.page.names import stage_label


def snapshots(options: ReportOptions, histories: Iterable[Path]) -> list[dict[str, Any]]:
    """The checkpoints beside the histories of stages.

    Args:
        options: names of stages.
        histories: `pretrain/<stage>/history.jsonl`, in order.

    Raises:
        MeddinoError: a checkpoint is damaged.
    """
    entries = []
    for path in [p for h in histories for p in sorted(h.parent.glob("[0-9]*.pth"))]:
        origin = _meta(path)["origin"]
        entries.append(
            {
                "stage": stage_label(options, path.parent.name),
                "iteration": int(path.stem),
                "init": _origin(options, origin["init"]),
                "gram_teacher": _origin(options, origin["gram_teacher"]),
                "megabytes": path.stat().st_size / 1e6,
                "sha256": sha256(path),
            }
        )
    return entries


def _meta(path: Path) -> dict[str, Any]:
    """The metadata of a stage's checkpoint; its tensors stay on the disk."""
    import torch  # takes seconds, which a report without checkpoints need not spend

    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        meta: dict[str, Any] = content["meta"]
    except Exception as error:  # torch raises nearly anything for a damaged file
        raise MeddinoError(
            f"{path} is no checkpoint of a stage ({error}); delete it and rerun"
        ) from error
    return meta


def _origin(options: ReportOptions, entry: dict[str, Any] | None) -> str:
    """A checkpoint that another started from, by stage, iteration and the start of its SHA-256."""
    if entry is None:
        return "none"
    stage = stage_label(options, entry["stage"])
    place = f"{stage} at {entry['iteration']:,}" if stage else "published weights"
    return f"{place} ({entry['sha256'][:8]})"
