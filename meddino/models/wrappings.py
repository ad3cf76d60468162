"""What people wrap a ViT's tensors in: dictionaries, prefixes of keys, shards; and what is no file.

The first tensor of a ViT tells where it begins, whatever stands before it: `state_dict`, `model`,
`module.`, `_orig_mod.`, `teacher.backbone.`, in any order.
"""

import argparse
import codecs
import json
import pathlib
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray
from torch import Tensor

from meddino.core.errors import MeddinoError

FIRST = (
    "patch_embed.proj.weight",
    "patch_embed_2D.proj.weight",
    "embeddings.patch_embeddings.weight",
    "embeddings.patch_embeddings.projection.weight",
    "embeddings.patch_embedding.weight",
    "patch_embed.projection.weight",
    "ln_pre.weight",
)
"""The tensor with which a ViT begins, in each layout of keys."""
TRANSPARENT = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What compilation, FSDP and checkpointing put between the names of modules."""
INDEX = ".index.json"
_SHARD = re.compile(r"(.+)-\d+-of-\d+(\.safetensors|\.bin)")
_GLOBAL = re.compile(r"(?:GLOBAL|Unsupported class) ([\w.]+)")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
HARMLESS: list[Any] = [
    argparse.Namespace, pathlib.PosixPath, pathlib.PurePosixPath, np.ndarray, np.dtype,
    *(type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdU"), codecs.encode,
    *((getattr(multiarray, name), f"numpy.{core}.multiarray.{name}")
      for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
]  # fmt: skip
"""Kinds of objects beside tensors that hold values and run nothing when they are unpickled."""


def tensors(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint's ViT, without what they are wrapped in.

    Of several ViTs the teacher's are taken, with a remark; where none begins as one of `FIRST`, all
    tensors at the top.

    Raises:
        MeddinoError: there are no tensors, or several ViTs and no teacher.
    """
    flat = {TRANSPARENT.sub("", key): value for key, value in _flat(content)}
    if not flat:
        kinds = ", ".join(f"{key} ({type(value).__name__})" for key, value in content.items())
        raise MeddinoError(
            f"it holds no tensors, but {kinds or 'nothing'}; save the state dict of its ViT alone"
        )
    ends = {key.removesuffix(end) for key in flat for end in FIRST if key.endswith(end)}
    starts = [start for start in ends if start in ("",) or start.endswith(".")]
    starts = [start for start in starts if "optim" not in start]
    if not starts:
        return flat
    start = _preferred(starts)
    return {key.removeprefix(start): v for key, v in flat.items() if key.startswith(start)}


def _flat(content: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors of nested dictionaries, keys joined by dots."""
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield f"{above}{key}", value
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")


def _preferred(starts: list[str]) -> str:
    """Which of several ViTs is meant, by what stands before its keys."""

    def rank(start: str) -> int:
        parts = start.split(".")
        if "teacher" in parts:
            return 0
        if any("ema" in re.split(r"[_]", part) for part in parts):
            return 1
        return 3 if "student" in parts else 2

    best = min(map(rank, starts))
    chosen = sorted(start for start in starts if rank(start) == best)
    if len(chosen) > 1:
        names = ", ".join(start.rstrip(".") or "the top" for start in chosen)
        raise MeddinoError(f"it holds several ViTs ({names}); save the one that is meant alone")
    if len(starts) > 1:
        others = ", ".join(s.rstrip(".") or "the top" for s in sorted(starts) if s != chosen[0])
        name = chosen[0].rstrip(".") or "the top"
        print(f"of several ViTs {name} is read, not {others}", file=sys.stderr)
    return chosen[0]


def read(path: Path) -> Any:
    """What a file of torch or safetensors holds, or all shards that an index names.

    Raises:
        MeddinoError: it is of a kind that is not read; says which, and what to do.
        Exception: it is damaged, in the words of its library.
    """
    if path.name.endswith(INDEX):
        names = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
        return {k: v for name in names for k, v in read(path.with_name(Path(name).name)).items()}
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(path))
    _refuse_others(path)
    try:
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        message = _COLOURS.sub("", str(error))
        if "TorchScript" in message:
            raise MeddinoError(
                f"{path} is a program of TorchScript; save its state_dict()"
            ) from error
        if match := _GLOBAL.search(message):
            raise MeddinoError(
                f"{path} holds a pickled {match[1].rstrip('.')} beside tensors, which is not read,"
                " since that may run code; if you trust the file, open it with"
                " torch.load(..., weights_only=False), and save its tensors alone by torch.save"
            ) from error
        if "Unsupported operand" in message:
            raise MeddinoError(
                f"{path} is not a checkpoint that can be read safely: it is pickled otherwise than"
                " torch.save does; if you trust it, load it where it was made, and save its tensors"
                " alone by torch.save"
            ) from error
        raise ValueError(message.splitlines()[0] if message else type(error).__name__) from error


def place(path: Path, names: tuple[str, ...]) -> Path | None:
    """The file that stands for a folder's weights, or for one shard; None if there is none.

    Args:
        path: a file or a folder.
        names: how the weights of a folder are called, the better one first.

    Raises:
        MeddinoError: the folder is of a kind that is not read.
    """
    if path.is_dir():
        if (path / ".metadata").is_file():
            raise MeddinoError(
                f"{path} is a folder of torch.distributed.checkpoint (DCP); make one file of it:"
                f" python -m torch.distributed.checkpoint.format_utils dcp_to_torch {path} FILE.pth"
            )
        files = [path / name for n in names for name in (n, f"{n}{INDEX}")]
        return next((file for file in files if file.is_file()), None)
    match = _SHARD.fullmatch(path.name)
    index = path.with_name(f"{match[1]}{match[2]}{INDEX}") if match else path
    return index if index.exists() else path


def _refuse_others(path: Path) -> None:
    """Name files that are no checkpoints, though they are called so."""
    with path.open("rb") as file:
        head = file.read(64).lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        raise MeddinoError(f"{path} is a pointer of Git LFS, not the file; run `git lfs pull`")
    if head.startswith((b"<!doctype", b"<html")):
        raise MeddinoError(
            f"{path} is a web page, as a site gives one that wants a login; download it by hand"
        )
