"""MedDINOv3's network against numbers of the authors' code, and its norm against the library's."""

import re

import pytest
import torch
from places import GOLDEN
from safetensors.torch import load_file
from torch import Tensor, nn

from meddino.models.architectures import Architecture
from meddino.models.primus import Primus, UpsamplingStage
from meddino.models.vit import VisionTransformer

RECORD = GOLDEN / "meddinov3/meddinov3.safetensors"
"""Made by `make_meddinov3.py` beside it, which says how."""
BLOCKS = [2, 5, 8, 11]
# norm_eps: the authors' ViT has 1e-6 in finetuning, as `recipe: official` sets it.
ARCHITECTURE = Architecture(
    embed_dim=16, depth=12, num_heads=2, ffn_ratio=2, qkv_bias=False, norm_eps=1e-6
)


def network(content: dict[str, Tensor], blocks: list[int]) -> Primus:
    """Our network with the recorded weights."""
    primus = Primus(VisionTransformer(ARCHITECTURE), 16, 16, blocks, classes=3)
    prefixes = {"state.dino_encoder.": "backbone.", "state.up_projection.decode.": "decoder."}
    state = {
        _our_name(new + key.removeprefix(old)): value
        for old, new in prefixes.items()
        for key, value in content.items()
        if key.startswith(old)
    }
    primus.load_state_dict(state)
    return primus.eval()


def _our_name(name: str) -> str:
    """Give the two parts of a decoder's stage, which the authors number, their names."""
    return re.sub(
        r"^(decoder\.\d)\.([01])\.", lambda m: f"{m[1]}.{('up', 'norm')[int(m[2])]}.", name
    )


@torch.no_grad()
def test_logits_are_those_of_the_authors_code() -> None:
    content = load_file(RECORD)
    logits = network(content, BLOCKS)(content["image"])
    torch.testing.assert_close(logits, content["logits"], rtol=1e-5, atol=1e-4)  # wrong: 1e-3


@torch.no_grad()
@pytest.mark.parametrize("change", ["epsilon", "order of blocks", "no last norm"])
def test_the_numbers_tell_a_wrong_network(change: str) -> None:
    content = load_file(RECORD)
    primus = network(content, BLOCKS[::-1] if change == "order of blocks" else BLOCKS)
    if change == "epsilon":
        for stage in primus.decoder:
            if isinstance(stage, UpsamplingStage):
                stage.norm.eps = 1e-5
    if change == "no last norm":
        primus.backbone.norm = nn.Identity()
    difference = (primus(content["image"]) - content["logits"]).abs().max()
    assert difference > 1e-3


@torch.no_grad()
def test_norm_of_a_stage_is_that_of_dynamic_network_architectures() -> None:
    from dynamic_network_architectures.building_blocks import patch_encode_decode

    stage, norm = UpsamplingStage(4, 2), patch_encode_decode.LayerNormNd(2)
    assert stage.norm.eps == norm.eps
    features = 1e-3 * torch.randn(2, 4, 3, 5)
    expected = nn.functional.gelu(norm(stage.up(features)))
    torch.testing.assert_close(stage(features), expected, rtol=1e-5, atol=1e-5)
