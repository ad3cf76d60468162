"""Checkpoints of a stage: what it starts from, what it resumes from, and what it leaves."""

import copy
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from meddino.core.errors import MeddinoError
from meddino.core.files import atomic, sha256
from meddino.models import loading
from meddino.models.architectures import Architecture, named
from meddino.pretrain.options import PretrainOptions

FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


class Source(NamedTuple):
    """A checkpoint that the stage starts from, read once."""

    path: Path
    content: dict[str, Any]

    def without_qkv_bias(self) -> "Source":
        """The same without a bias of queries and values, in the ViTs of teacher and student."""
        return self._replace(content=_without_qkv_bias(self.content))

    def origin(self) -> dict[str, Any]:
        """Stage, iteration and SHA-256, which the snapshots of the stage will record."""
        meta = self.content.get("meta", {})
        return {**{k: meta.get(k) for k in ("stage", "iteration")}, "sha256": sha256(self.path)}


def _without_qkv_bias(content: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_qkv_bias(value) if key in ("teacher", "student") else value
        for key, value in content.items()
        if not key.endswith((".qkv.bias", ".qkv.bias_mask"))
    }


def expected(reference: str | None, path: Path | None, flag: str) -> Source | None:
    """Read what a stage starts from.

    Args:
        reference: `stage@iteration`, the name of published weights, or None.
        path: the file.
        flag: `init` or `gram_teacher`.

    Raises:
        MeddinoError: it is missing, or of another stage or iteration.
    """
    if (reference is None) != (path is None):
        state = "given" if path else "missing"
        raise MeddinoError(f"{flag}: the stage says {reference}, but a file is {state}")
    if reference is None or path is None:
        return None
    source = Source(path, loading.read(path))
    if "@" in reference:
        stage, _, iteration = reference.partition("@")
        meta = source.content.get("meta", {})
        recorded = (meta.get("stage"), meta.get("iteration"))
        if recorded != (stage, int(iteration)):
            raise MeddinoError(
                f"{path} is iteration {recorded[1]} of stage {recorded[0]}, but {flag} asks for "
                f"{reference}; give the right checkpoint"
            )
    return source


def architecture_of(options: PretrainOptions, init: Source | None) -> Architecture:
    """Choose the architecture of the backbone's name, or of a checkpoint of the same size.

    Raises:
        MeddinoError: it is of another size.
    """
    if init is None:
        usual = named(options.backbone)
        return usual if options.qkv_bias is None else replace(usual, qkv_bias=options.qkv_bias)
    architecture = loading.architecture_of(init.content, str(init.path))
    loading.check_size(architecture, options.backbone, str(init.path), "pretrain.backbone")
    return architecture


def gathered(student: nn.Module, teacher: nn.Module) -> dict[str, Any]:
    """Copies of student and teacher, whole and on the CPU. All processes call it."""
    networks = {
        "student": get_model_state_dict(student, options=FULL),
        "teacher": get_model_state_dict(teacher, options=FULL),
    }
    return _copied(networks, student)


def gathered_optimizer(student: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A copy of the optimiser's state by name of parameter. All processes call it."""
    return _copied(get_optimizer_state_dict(student, optimizer, options=FULL), student)


def _copied(gathered: dict[str, Any], network: nn.Module) -> dict[str, Any]:
    """Copy what torch did not: from a GPU it copies, on a CPU it gives the very parameters."""
    on_gpu = next(network.parameters()).device.type != "cpu"
    return gathered if on_gpu else copy.deepcopy(gathered)


def restore(
    saved: dict[str, Any],
    student: nn.Module,
    teacher: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Undo `gathered` and `gathered_optimizer`, in any number of processes."""
    for part, module in (("student", student), ("teacher", teacher)):
        set_model_state_dict(module, saved[part], options=FULL)
    set_optimizer_state_dict(student, optimizer, saved["optimizer"], options=FULL)


def publish(path: Path, output: Path) -> None:
    """Put a finished snapshot where the study looks for it; `path` stays, in case of a rerun."""
    with atomic(output) as temporary:
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)
