"""Replacements inside nnU-Net: they act, they end, and they refuse other versions."""

import multiprocessing
import os
import pickle
from collections.abc import Callable
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from meddino.core.errors import MeddinoError
from meddino.finetune import nnunet_patches
from meddino.finetune.nnunet import folders


class Payload:
    """A pickle that runs a command when nnU-Net's own function reads it."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, ("hacked",)


def test_nnunets_datasets_read_pickles_without_running_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nnunetv2.training.dataloading import nnunet_dataset

    monkeypatch.chdir(tmp_path)
    (tmp_path / "case.pkl").write_bytes(pickle.dumps(Payload()))
    nnunet_patches.read_pickles_safely()
    with pytest.raises(MeddinoError, match=r"case\.pkl cannot be read safely"):
        nnunet_dataset.load_pickle(str(tmp_path / "case.pkl"))
    assert not (tmp_path / "hacked").exists()


def test_sharing_among_cpu_processes_ends_with_its_block() -> None:
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as trainer_module

    before = (trainer_module.DDP, vars(nn.SyncBatchNorm)["convert_sync_batchnorm"])
    network = nn.Sequential(nn.BatchNorm2d(1))
    with nnunet_patches.any_network_in_any_process(torch.device("cpu")):
        assert before[0] is not trainer_module.DDP
        assert nn.SyncBatchNorm.convert_sync_batchnorm(network) is network
        assert isinstance(network[0], nn.BatchNorm2d)
    assert (trainer_module.DDP, vars(nn.SyncBatchNorm)["convert_sync_batchnorm"]) == before
    assert isinstance(nn.SyncBatchNorm.convert_sync_batchnorm(network)[0], nn.SyncBatchNorm)


def test_one_worker_is_a_thread_and_more_are_processes() -> None:
    with nnunet_patches.pools(1):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert isinstance(pool, ThreadPool)
        assert multiprocessing.get_context("fork").get_start_method() == "fork"
    context = multiprocessing.get_context
    with nnunet_patches.pools(2):
        assert multiprocessing.get_context is context


def test_a_failure_inside_puts_everything_back() -> None:
    context = multiprocessing.get_context
    with pytest.raises(ZeroDivisionError), nnunet_patches.pools(1):
        raise ZeroDivisionError
    assert multiprocessing.get_context is context


@pytest.mark.parametrize(
    "use",
    [
        nnunet_patches.read_pickles_safely,
        lambda: nnunet_patches.pools(1).__enter__(),
        lambda: nnunet_patches.any_network_in_any_process(torch.device("cpu")).__enter__(),
    ],
)
def test_another_version_of_nnunet_is_refused(
    use: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nnunet_patches, "version", lambda _: "2.9.0")
    with pytest.raises(MeddinoError, match=r"nnU-Net 2\.9\.0.*pip install nnunetv2==2\.8\.1"):
        use()


def test_the_pinned_version_is_the_one_that_the_replacements_fit(root: Path) -> None:
    assert f'"nnunetv2=={nnunet_patches.FITS}"' in (root / "pyproject.toml").read_text()


def test_folders_are_set_and_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_raw", "before")
    monkeypatch.delenv("nnUNet_results", raising=False)
    with folders(3, raw=tmp_path, results=tmp_path):
        inside = dict(os.environ)
    assert inside["nnUNet_raw"] == inside["nnUNet_results"] == str(tmp_path)
    assert inside["nnUNet_n_proc_DA"] == "3"
    after = dict(os.environ)
    assert after["nnUNet_raw"] == "before"
    assert "nnUNet_results" not in after
