"""Online signals: bounds, what they react to, and that they leave a run alone."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from meddino.models.vit import build
from meddino.pretrain import quality
from meddino.pretrain.losses import gram_loss


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_rank_of_collapsed_and_of_isotropic_features() -> None:
    one_direction = normal(50, 1) * normal(1, 8, seed=1)
    assert quality.rank_me(one_direction) == pytest.approx(1, abs=1e-3)
    assert quality.rank_me(torch.zeros(5, 3)) == 1
    assert quality.rank_me(torch.eye(6).repeat(4, 1)) == pytest.approx(6, abs=1e-6)
    assert quality.rank_me(normal(20_000, 6)) == pytest.approx(6, abs=0.01)


def test_rank_falls_as_directions_fade() -> None:
    x = normal(500, 16)
    ranks = [quality.rank_me(x * share ** torch.arange(16)) for share in (1.0, 0.8, 0.5, 0.1)]
    assert ranks == sorted(ranks, reverse=True) and ranks[-1] < 1.6


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 1000), st.floats(1e-3, 1e3))
def test_rank_is_bounded_and_blind_to_scale(n: int, d: int, seed: int, scale: float) -> None:
    x = normal(n, d, seed=seed)
    rank = quality.rank_me(x)
    assert 1 - 1e-9 <= rank <= min(n, d) + 1e-9
    assert quality.rank_me(scale * x) == pytest.approx(rank, rel=1e-5)


@pytest.mark.parametrize("wrong", [torch.ones(3), torch.ones(0, 4), torch.full((3, 2), torch.nan)])
def test_rank_refuses_what_has_none(wrong: Tensor) -> None:
    with pytest.raises(ValueError, match="finite features"):
        quality.rank_me(wrong)


def test_patches_that_say_the_same_are_similar() -> None:
    x = normal(2, 30, 16)
    assert quality.patch_similarity(x[:, :1].expand(-1, 30, -1)) == pytest.approx(1)
    assert abs(quality.patch_similarity(x)) < 0.1
    common = [quality.patch_similarity(x + size) for size in (0, 0.5, 1, 3)]
    assert common == sorted(common)


def test_consistency_is_that_of_the_structure() -> None:
    x = normal(3, 20, 16)
    rotation = torch.linalg.qr(normal(16, 16, seed=1)).Q
    assert quality.patch_consistency(x, x) == pytest.approx(1)
    assert quality.patch_consistency(5 * x @ rotation, x) == pytest.approx(1, abs=1e-5)
    assert abs(quality.patch_consistency(normal(3, 20, 16, seed=2), x)) < 0.2
    noisy = [
        quality.patch_consistency(x + s * normal(3, 20, 16, seed=3), x) for s in (0, 0.3, 1, 3)
    ]
    assert noisy == sorted(noisy, reverse=True)
    assert quality.patch_consistency(torch.ones_like(x), x) == 0


def test_less_gram_loss_is_more_consistency() -> None:
    """Steps down the Gram loss alone bring foreign features to the reference's structure."""
    reference, x = normal(2, 20, 16), normal(2, 20, 16, seed=1).requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.05)
    before = quality.patch_consistency(x.detach(), reference)
    for _ in range(60):
        optimizer.zero_grad()
        gram_loss(x, reference).backward()
        optimizer.step()
    assert quality.patch_consistency(x.detach(), reference) > max(0.9, before + 0.5)


def test_signals_of_a_backbone_leave_training_as_it_was() -> None:
    torch.manual_seed(0)
    vit, other = build("vittiny8").eval(), build("vittiny8").eval()
    slices = (300 * normal(4, 32, 32)).to(torch.int16)
    state, random = {k: v.clone() for k, v in vit.state_dict().items()}, torch.get_rng_state()
    found = quality.signals(vit, slices, reference=vit)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[key]) for key, value in vit.state_dict().items())
    assert found["patch_consistency"] == pytest.approx(1)
    assert 1 <= found["rank_patch"] <= 64 and 1 <= found["rank_cls"] <= 4
    assert all(-1 <= found[f"{name}_similarity"] <= 1 for name in ("patch", "cls"))
    assert quality.signals(vit, slices, reference=other)["patch_consistency"] < 0.99
    assert "patch_consistency" not in quality.signals(vit, slices)


def test_signals_tell_a_collapsed_backbone() -> None:
    torch.manual_seed(0)
    vit = build("vittiny8").eval()
    slices = (300 * normal(4, 32, 32)).to(torch.int16)
    before = quality.signals(vit, slices)
    with torch.no_grad():
        vit.norm.weight.zero_()
        vit.norm.bias.copy_(F.normalize(normal(64), dim=0))
    after = quality.signals(vit, slices)
    assert after["rank_patch"] < 1.01 < before["rank_patch"]
    assert before["patch_similarity"] < 0.999 < after["patch_similarity"]


def test_signals_of_patches_are_exact_under_autocast() -> None:
    ours, theirs = normal(2, 9, 8), normal(2, 9, 8, seed=1)
    exact = quality.patch_similarity(ours), quality.patch_consistency(ours, theirs)
    with torch.autocast("cpu", torch.bfloat16):
        found = quality.patch_similarity(ours), quality.patch_consistency(ours, theirs)
    assert found == exact
