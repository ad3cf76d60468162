"""Half precision by method and card."""

import pytest
import torch

from meddino.finetune.options import Method
from meddino.finetune.precision import autocast_to

OTHERS = {"label": "x", "optimizer": "adamw", "lr": 1e-4, "weight_decay": 0.05}
VIT = Method(network="primus", backbone="vitb16", blocks=[11], **OTHERS)
UNET = Method(network="unet", **OTHERS)


@pytest.fixture(autouse=True)
def default_kept() -> object:
    before = torch.get_autocast_dtype("cuda")
    yield
    torch.set_autocast_dtype("cuda", before)


@pytest.mark.parametrize(
    ("method", "card_has_bf16", "kind"),
    [
        (VIT, True, torch.bfloat16),
        (VIT, False, torch.float16),
        (UNET, True, torch.float16),
    ],
)
def test_vits_take_bf16_where_the_card_has_it(
    method: Method, card_has_bf16: bool, kind: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: card_has_bf16)
    assert autocast_to(method, torch.device("cuda")) == kind
    assert torch.get_autocast_dtype("cuda") == kind


def test_cpus_compute_in_fp32() -> None:
    before = torch.get_autocast_dtype("cuda")
    assert autocast_to(VIT, torch.device("cpu")) == torch.float32
    assert torch.get_autocast_dtype("cuda") == before
