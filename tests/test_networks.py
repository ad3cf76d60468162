"""Segmentation networks: shapes, gradients, and agreement with slow or public references."""

import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from meddino.models.adapter import Adapter
from meddino.models.deformable import DeformableAttention, centres, sample_and_sum
from meddino.models.dino_unet import DinoUNet, FidelityProjection, UNetDecoder
from meddino.models.primus import Primus, PrimusDecoder, num_doublings
from meddino.models.segformer import SegFormer

WIDTH, PATCH = 32, 8


class TinyViT(nn.Module):
    """A stand-in with a ViT's interface and the least that can show a mistake."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.blocks = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 1) for _ in range(4))
        self.drop = nn.Dropout(0.5)

    def get_intermediate_layers(self, x: Tensor, n: list[int], **_: Any) -> list[Tensor]:
        x, found = self.embed(x), []
        for index, block in enumerate(self.blocks):
            x = self.drop(x + block(x))
            if index in n:
                found.append(x)
        return found


def dino_unet() -> DinoUNet:
    widths = [8, 16, 16, 16]
    return DinoUNet(
        TinyViT(),
        PATCH,
        [0, 1, 2, 3],
        Adapter(WIDTH, 4, prior_width=8, heads=4, drop_path=0.3),
        FidelityProjection(WIDTH, 16, widths),
        UNetDecoder(widths, num_convs=2, classes=5),
    )


def networks() -> dict[str, nn.Module]:
    return {
        "primus": Primus(TinyViT(), WIDTH, PATCH, [0, 1, 2, 3], 5),
        "primus_last": Primus(TinyViT(), WIDTH, PATCH, [3], 5),
        "segformer": SegFormer(5, [1, 2, 1, 1], [8, 16, 24, 32], [1, 2, 3, 4], 32, drop_path=0.1),
        "dino_unet": dino_unet(),
    }


@pytest.mark.parametrize("size", [(64, 64), (72, 104), (70, 45)])
@pytest.mark.parametrize("name", networks())
def test_logits_have_the_size_of_the_image(name: str, size: tuple[int, int]) -> None:
    logits = networks()[name](torch.randn(2, 1, *size))
    assert logits.shape == (2, 5, *size)


@pytest.mark.parametrize("name", networks())
def test_gradient_reaches_every_trained_parameter(name: str) -> None:
    torch.manual_seed(0)
    network = networks()[name].eval()  # so that neither drop path nor dropout hides a parameter
    for parameter in network.parameters():  # offsets start at zero, which hides what feeds them
        parameter.data += 0.02 * torch.randn_like(parameter)
    network(torch.randn(2, 1, 64, 64)).square().mean().backward()
    silent = [
        key
        for key, parameter in network.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]
    assert not silent


def test_frozen_backbone_has_no_gradient_and_stays_deterministic_in_training() -> None:
    network = dino_unet().train()
    assert not any(parameter.requires_grad for parameter in network.backbone.parameters())
    assert not network.backbone.training and network.adapter.training
    image = torch.randn(1, 3, 64, 64)
    first, second = (network.backbone.get_intermediate_layers(image, n=[3]) for _ in range(2))
    assert torch.equal(first[0], second[0])


def slow_sample_and_sum(
    value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """The definition, one sample at a time."""
    batch, _, heads, channels = value.shape
    out = torch.zeros(batch, locations.shape[1], heads, channels, dtype=value.dtype)
    for b, q, m, level, p in torch.cartesian_prod(*map(torch.arange, locations.shape[:5])).tolist():
        height, width = shapes[level]
        start = sum(h * w for h, w in shapes[:level])
        x = float(locations[b, q, m, level, p, 0]) * width - 0.5
        y = float(locations[b, q, m, level, p, 1]) * height - 0.5
        for row in (int(y // 1), int(y // 1) + 1):
            for column in (int(x // 1), int(x // 1) + 1):
                if 0 <= row < height and 0 <= column < width:
                    share = (1 - abs(y - row)) * (1 - abs(x - column))
                    token = value[b, start + row * width + column, m]
                    out[b, q, m] += weights[b, q, m, level, p] * share * token
    return out.flatten(2)


def test_deformable_sampling_equals_its_definition() -> None:
    torch.manual_seed(0)
    shapes = [(4, 6), (3, 2)]
    value = torch.randn(2, 30, 2, 3, dtype=torch.float64)
    locations = torch.rand(2, 5, 2, 2, 3, 2, dtype=torch.float64) * 1.4 - 0.2  # some outside
    weights = torch.rand(2, 5, 2, 2, 3, dtype=torch.float64)
    fast = sample_and_sum(value, shapes, locations, weights)
    assert torch.allclose(fast, slow_sample_and_sum(value, shapes, locations, weights))


def test_deformable_gradient_is_that_of_finite_differences() -> None:
    torch.manual_seed(0)
    value = torch.randn(1, 6, 1, 2, dtype=torch.float64, requires_grad=True)
    locations = (torch.rand(1, 2, 1, 1, 2, 2, dtype=torch.float64) * 0.7 + 0.1).requires_grad_()
    weights = torch.rand(1, 2, 1, 1, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda v, x, w: sample_and_sum(v, [(2, 3)], x, w), (value, locations, weights)
    )


def test_deformable_attention_without_offsets_is_interpolation() -> None:
    attention = DeformableAttention(dim=4, heads=2, levels=1, points=3, ratio=1.0)
    nn.init.zeros_(attention.offsets.bias)
    feature = torch.randn(1, 4, 5, 5)
    tokens = feature.flatten(2).transpose(1, 2)
    query = torch.randn(1, 100, 4)
    out = attention(query, centres([(10, 10)], query), tokens, [(5, 5)])
    expected = F.grid_sample(
        attention.value(tokens).transpose(1, 2).unflatten(-1, (5, 5)),
        2 * centres([(10, 10)], query).view(1, 10, 10, 2) - 1,
        align_corners=False,
    )
    assert torch.allclose(out, attention.out(expected.flatten(2).transpose(1, 2)), atol=1e-5)


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="3 heads do not divide"):
        DeformableAttention(dim=32, heads=3, levels=1, points=4, ratio=0.5)


def test_decoder_of_the_paper_has_25_million_parameters() -> None:
    decoder = PrimusDecoder(4 * 768, 16, classes=16)  # 25.1 M, counted in the authors' code
    assert sum(parameter.numel() for parameter in decoder.parameters()) / 1e6 == pytest.approx(
        25.1, abs=0.1
    )


@pytest.mark.parametrize("patch_px", [0, 1])
def test_patch_that_cannot_be_doubled_is_refused(patch_px: int) -> None:
    with pytest.raises(ValueError, match=f"not {patch_px}"):
        num_doublings(patch_px)


def test_segformer_b2_has_its_published_size() -> None:
    network = SegFormer(150, [3, 4, 6, 3], [64, 128, 320, 512], [1, 2, 5, 8], 768)
    # transformers' B2 with 150 classes: 27,462,... parameters (27.5 M in SegFormer's Table 1).
    assert sum(parameter.numel() for parameter in network.parameters()) / 1e6 == pytest.approx(
        27.5, abs=0.1
    )


PARITY = """
import sys
sys.modules["torchvision"] = None  # transformers would import it, and it may not fit this torch
import torch
from transformers.models.segformer.configuration_segformer import SegformerConfig
from transformers.models.segformer.modeling_segformer import SegformerForSemanticSegmentation
from meddino.models.segformer import SegFormer

size = dict(depths=[1, 2, 1, 1], hidden_sizes=[8, 16, 24, 32])
heads = [1, 2, 3, 4]
config = SegformerConfig(
    **size, num_attention_heads=heads, decoder_hidden_size=20, num_labels=5
)
torch.manual_seed(0)
theirs = SegformerForSemanticSegmentation(config).eval()
ours = SegFormer(5, size["depths"], size["hidden_sizes"], heads, 20).eval()
state = {}
for key, value in theirs.state_dict().items():
    key = key.removeprefix("segformer.").removeprefix("decode_head.")
    for old, new in (
        ("patch_embeddings.proj", "embed"), ("patch_embeddings.layer_norm", "embed_norm"),
        ("layernorm_before", "attention_norm"), ("layernorm_after", "mlp_norm"),
        ("attention.sequence_reduction.sequence_reduction", "reduce"),
        ("attention.sequence_reduction.layer_norm", "reduce_norm"),
        ("attention.q_proj", "q"), ("attention.o_proj", "out"), ("mlp.dwconv.dwconv", "depthwise"),
        ("mlp.fc", "fc"), ("layer_norm", "norm"), ("linear_fuse", "fuse"), ("batch_norm", "norm"),
        ("linear_projections", "projections"), ("attention.k_proj", "k"), ("attention.v_proj", "v"),
    ):
        key = key.replace(old, new) if "embed_norm" not in key and "reduce_norm" not in key else key
    state[key.replace(".proj.", ".")] = value
for key in [key for key in state if ".k." in key]:
    k, v = state.pop(key), state.pop(key.replace(".k.", ".v."))
    state[key.replace(".k.", ".kv.")] = torch.cat([k, v])
state = {k: v.view_as(ours.state_dict()[k]) for k, v in state.items()}
ours.load_state_dict(state)
image = torch.randn(2, 1, 64, 96)
expected = theirs(image.expand(-1, 3, -1, -1)).logits
expected = torch.nn.functional.interpolate(expected, (64, 96), mode="bilinear")
difference = float((ours(image) - expected).abs().max())
assert difference < 1e-5, difference
"""


def test_segformer_equals_that_of_transformers() -> None:
    pytest.importorskip("transformers", reason="the reference implementation is not installed")
    done = subprocess.run([sys.executable, "-c", PARITY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
