"""Parameters and operations of networks: those that one counts by hand, without computing."""

import pytest
import torch
from torch import nn

from meddino.models.architectures import named
from meddino.models.primus import Primus
from meddino.models.size import size_of
from meddino.models.vit import build


def test_a_vit_under_the_decoder_weighs_what_one_counts_by_hand() -> None:
    vit, a = build("vittiny8"), named("vittiny8")
    network = Primus(vit, a.embed_dim, a.patch_size, [0, 1, 2, 3], 5)
    total = sum(parameter.numel() for parameter in network.parameters())
    of_vit = sum(parameter.numel() for parameter in vit.parameters())
    size = size_of(network, (48, 40))
    assert size.parameters == total and size.backbone_parameters == of_vit
    patches = 6 * 5
    tokens = patches + 1 + a.storage_tokens
    products = tokens * a.block_weights + 2 * tokens**2 * a.embed_dim
    embedding = patches * 3 * a.patch_size**2 * a.embed_dim
    assert size.backbone_gflop == pytest.approx(2e-9 * (a.depth * products + embedding))
    channels, decoder = 4 * a.embed_dim, 0
    for doubling in range(3):  # of a patch of 8 px; a transposed convolution of kernel and stride 2
        decoder += patches * 4**doubling * channels * (channels // 2) * 4
        channels //= 2
    decoder += 48 * 40 * channels * 5
    assert size.gflop - size.backbone_gflop == pytest.approx(2e-9 * decoder)


def test_an_image_is_padded_to_whole_patches_and_earlier_blocks_cost_less() -> None:
    def size(blocks: list[int], shape: tuple[int, int]) -> float:
        torch.manual_seed(0)
        return size_of(Primus(build("vittiny8"), 64, 8, blocks, 2), shape).backbone_gflop

    assert size([3], (41, 40)) == size([3], (48, 40)) > size([3], (40, 40))
    assert size([3], (40, 40)) == size([0, 3], (40, 40))


def test_a_network_without_a_vit_has_no_numbers_of_one() -> None:
    size = size_of(nn.Conv2d(1, 4, 3, padding=1), (10, 20))
    assert size.parameters == 40 and size.gflop == pytest.approx(2e-9 * 200 * 9 * 4)
    assert size.backbone_gflop != size.backbone_gflop, "NaN"
