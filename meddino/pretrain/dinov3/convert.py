"""Checkpoints to and from the public trainer.

Its parameters have the names of ours, so both directions go through our networks, which load
strictly. Two things change on the way. It keeps rotary periods in bf16 and computes with them so;
what comes back are those, rounded. And it starts the student from the teacher's weights.

It would also start from a `.pth` file, but not on several GPUs: recent releases of torch refuse to
copy its class token, one row, into shards. So it is given folders as it writes them itself.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from meddino.core.errors import MeddinoError
from meddino.core.files import atomic
from meddino.models import loading
from meddino.models.architectures import Architecture
from meddino.models.checkpoints import write
from meddino.models.vit import VisionTransformer
from meddino.pretrain.engine import Network
from meddino.pretrain.options import StageOptions


def write_start(
    path: Path,
    architecture: Architecture,
    stage: StageOptions,
    init: Mapping[str, Any] | None,
    source: str,
) -> None:
    """Write a folder for `student.resume_from_teacher_chkpt`: backbone and heads of a teacher.

    Heads that the checkpoint lacks, and without one the backbone, are drawn from the stage's seed.

    Raises:
        MeddinoError: the checkpoint does not fit.
    """
    torch.manual_seed(stage.seed)
    network = Network(architecture, stage)
    if init is not None and "student" in init:
        loading.load_strictly(network, init["teacher"], source)
    elif init is not None:
        loading.load_strictly(network.backbone, loading.backbone_state(init), source)
    _write_folder(path, network.state_dict())


def write_gram(
    path: Path, architecture: Architecture, content: Mapping[str, Any], source: str
) -> None:
    """Write a folder for `gram.ckpt`: a backbone.

    Raises:
        MeddinoError: the checkpoint does not fit.
    """
    backbone = VisionTransformer(architecture)
    loading.load_strictly(backbone, loading.backbone_state(content), source)
    _write_folder(path, {f"backbone.{k}": v for k, v in backbone.state_dict().items()})


def write_snapshot(
    path: Path,
    checkpoint: Path,
    architecture: Architecture,
    stage: StageOptions,
    meta: dict[str, Any],
) -> None:
    """Turn one of the trainer's checkpoints into one of a stage of ours: teacher, student, meta.

    Raises:
        MeddinoError: it is damaged, or does not fit.
    """
    content: dict[str, Any] = {"meta": meta}
    for part in ("teacher", "student"):
        network = Network(architecture, stage)
        state = read_state(checkpoint, f"model.{part}.")
        loading.load_strictly(network, state, f"{checkpoint}, {part}")
        content[part] = network.state_dict()
    write(path, content)


def read_state(checkpoint: Path, prefix: str) -> dict[str, Tensor]:
    """Whole tensors of a folder that torch.distributed.checkpoint wrote, from however many ranks.

    Args:
        checkpoint: the folder.
        prefix: what the names of the wanted tensors begin with; it is taken off.

    Raises:
        MeddinoError: the folder is absent or damaged.
    """
    try:
        reader = FileSystemReader(checkpoint)
        tensors = {
            key: torch.empty(entry.size, dtype=entry.properties.dtype)
            for key, entry in reader.read_metadata().state_dict_metadata.items()
            if isinstance(entry, TensorStorageMetadata) and key.startswith(prefix)
        }
        load(tensors, storage_reader=reader, no_dist=True)
    # torch raises nearly anything for a damaged file, and its own is not even an Exception.
    except (Exception, CheckpointException) as error:
        raise MeddinoError(
            f"{checkpoint} is not a whole checkpoint of the public trainer"
            f" ({type(error).__name__}); delete it and rerun"
        ) from error
    return {key.removeprefix(prefix): value for key, value in tensors.items()}


def _write_folder(path: Path, state: dict[str, Tensor]) -> None:
    with atomic(path) as temporary:
        content = {"iteration": 0, "model": state}
        save(content, storage_writer=FileSystemWriter(temporary), no_dist=True)
