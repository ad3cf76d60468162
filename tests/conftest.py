"""Shared paths of the tests."""

import locale
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from places import ROOT

LOCALE = locale.setlocale(locale.LC_ALL)


@pytest.fixture(autouse=True)
def same_locale() -> None:
    """Writing DICOM (SimpleITK 2.5) leaves a process in the locale C, where text is ASCII."""
    locale.setlocale(locale.LC_ALL, LOCALE)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Matrices as small as those of the tests only lose by more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def libraries() -> Iterator[None]:
    """Let torchvision, which timm and transformers import, load beside any torch.

    Where it was made for another one, its package fails for want of these two operators, which
    nothing here uses.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    yield  # while the library lives, so do its operators
