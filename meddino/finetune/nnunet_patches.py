"""Replacements inside nnU-Net, for what it offers no hook or argument for.

They rely on names and call sites of nnU-Net 2.8.1, which `pyproject.toml` pins, and refuse any
other version: had its call sites moved, they would silently do nothing. Raise `FITS` only after
reading the places that each docstring names.
"""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from multiprocessing.pool import ThreadPool
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from meddino.core.errors import MeddinoError
from meddino.finetune.properties import load_pickle

FITS = "2.8.1"
"""The version of nnU-Net that the replacements were written for."""


def check_version() -> None:
    """Refuse a version of nnU-Net that the replacements may not fit.

    Raises:
        MeddinoError: another version than `FITS` is installed.
    """
    installed = version("nnunetv2")
    if installed != FITS:
        raise MeddinoError(
            f"nnU-Net {installed} is installed, but meddino replaces functions inside nnU-Net"
            f" {FITS}; run `pip install nnunetv2=={FITS}`"
        )


def read_pickles_safely() -> None:
    """Let training read the `.pkl` of each preprocessed case without running code in it.

    Why: nnU-Net unpickles whatever the file holds, and preprocessed folders are passed around. Its
    dataset classes call `load_pickle` of their own module, `nnunet_dataset`, and take no other
    reader as an argument. The replacement stays for the life of the process, since the processes
    that augment are forked from it.

    Raises:
        MeddinoError: nnU-Net has another version.
    """
    check_version()
    from nnunetv2.training.dataloading import nnunet_dataset

    nnunet_dataset.load_pickle = load_pickle


@contextmanager
def any_network_in_any_process(device: torch.device) -> Iterator[None]:
    """Let `nnUNetTrainer.initialize` share each of the study's networks, also among CPU processes.

    Why: it wraps the network in `DDP(network, device_ids=[rank])`, which assumes a GPU for each
    process, and a loss that reaches all parameters. The loss does not reach a ViT's mask token,
    since finetuning masks nothing. Before that it converts batch norms to SyncBatchNorm, which
    exists on GPUs only.

    Raises:
        MeddinoError: nnU-Net has another version.
    """
    check_version()
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as trainer_module

    on_gpu = device.type == "cuda"

    def wrap(network: nn.Module, device_ids: list[int]) -> nn.Module:
        gpus = device_ids if on_gpu else None
        return DistributedDataParallel(network, device_ids=gpus, find_unused_parameters=True)

    def keep_norms(network: nn.Module) -> nn.Module:
        return network

    with _replaced(trainer_module, "DDP", wrap):
        if on_gpu:
            yield
        else:
            with _replaced(nn.SyncBatchNorm, "convert_sync_batchnorm", keep_norms):
                yield


@contextmanager
def pools(num_processes: int) -> Iterator[None]:
    """Let nnU-Net's process pools be a thread of this process if one worker is asked for.

    Why: the fingerprint extractor and the preprocessor call
    `multiprocessing.get_context("spawn").Pool` for one worker too. A spawned process takes seconds
    to import torch, longer than a small data set takes altogether.

    Raises:
        MeddinoError: nnU-Net has another version.
    """
    if num_processes > 1:
        yield
        return
    check_version()
    get_context = multiprocessing.get_context

    def threads_for_spawn(method: str | None = None) -> Any:
        return SimpleNamespace(Pool=ThreadPool) if method == "spawn" else get_context(method)

    with _replaced(multiprocessing, "get_context", threads_for_spawn):
        yield


@contextmanager
def _replaced(
    owner: ModuleType | type, name: str, replacement: Callable[..., Any]
) -> Iterator[None]:
    # From __dict__, so that a class method is put back as one.
    original = vars(owner)[name]
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, original)
