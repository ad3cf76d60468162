"""Segmentation networks: shapes, gradients, and agreement with slow or public references."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from places import GOLDEN
from safetensors.torch import load_file
from torch import Tensor, nn

from meddino.core.errors import MeddinoError
from meddino.finetune.networks import build_network
from meddino.finetune.options import Method, Training
from meddino.finetune.settings import Settings
from meddino.finetune.vit import read_start, start_of
from meddino.models.adapter import Adapter
from meddino.models.deformable import DeformableAttention, centres, sample_and_sum
from meddino.models.dino_unet import DinoUNet, FidelityProjection, UNetDecoder
from meddino.models.loading import load_strictly
from meddino.models.options import WeightsOptions
from meddino.models.primus import Primus, PrimusDecoder, num_doublings
from meddino.models.segformer import SegFormer, encoder_state
from meddino.models.weights import run as fetch_weights

WIDTH, PATCH = 32, 8
GOLDEN_NETWORKS = GOLDEN / "meddinov3/networks.safetensors"


class TinyViT(nn.Module):
    """A stand-in with a ViT's interface and the least that can show a mistake."""

    def __init__(self, patch: int = PATCH) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, patch, patch)
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


def segformer(**changes: Any) -> SegFormer:
    return SegFormer(5, [1, 2, 1, 1], [8, 16, 24, 32], [1, 2, 3, 4], 32, **changes)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "primus": lambda: Primus(TinyViT(), WIDTH, PATCH, [0, 1, 2, 3], 5),
    "primus_last": lambda: Primus(TinyViT(), WIDTH, PATCH, [3], 5),
    "primus_14": lambda: Primus(TinyViT(14), WIDTH, 14, [0, 3], 5),
    "segformer": lambda: segformer(drop_path=0.1),
    "segformer_authors": lambda: segformer(authors=True),
    "dino_unet": dino_unet,
}


@pytest.mark.parametrize("size", [(64, 64), (72, 104), (70, 45)])
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_have_the_size_of_the_image(name: str, size: tuple[int, int]) -> None:
    logits = NETWORKS[name]()(torch.randn(2, 1, *size))
    assert logits.shape == (2, 5, *size)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradient_reaches_every_trained_parameter(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()  # so that neither drop path nor dropout hides a parameter
    for parameter in network.parameters():  # offsets start at zero, which hides what feeds them
        parameter.data += 0.02 * torch.randn_like(parameter)
    for key, parameter in network.named_parameters():
        if key.endswith("gate.1.bias"):  # of few ReLUs, which may all be dead
            parameter.data += 1
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


@torch.no_grad()
def test_segformer_equals_that_of_transformers() -> None:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    size = {"depths": [1, 2, 1, 1], "hidden_sizes": [8, 16, 24, 32]}
    heads = [1, 2, 3, 4]
    config = SegformerConfig(
        **size, num_attention_heads=heads, decoder_hidden_size=20, num_labels=5
    )
    torch.manual_seed(0)
    theirs = SegformerForSemanticSegmentation(config).eval()
    ours = SegFormer(5, size["depths"], size["hidden_sizes"], heads, 20).eval()
    ours.stages.load_state_dict(encoder_state(theirs.state_dict(), "transformers"))
    decoder = {}
    for key, value in theirs.decode_head.state_dict().items():
        for old, new in (
            ("linear_projections", "projections"),
            (".proj.", "."),
            ("linear_fuse", "fuse"),
            ("batch_norm", "norm"),
        ):
            key = key.replace(old, new)
        decoder[key] = value.view_as(ours.state_dict()[key])
    assert not ours.load_state_dict(decoder, strict=False).unexpected_keys
    image = torch.randn(2, 1, 64, 96)
    logits = theirs(image.expand(-1, 3, -1, -1)).logits
    expected = F.interpolate(logits, (64, 96), mode="bilinear")
    torch.testing.assert_close(ours(image), expected, rtol=1e-5, atol=1e-5)


def test_deformable_core_is_that_of_transformers() -> None:
    reference = pytest.importorskip("transformers.models.deformable_detr.modeling_deformable_detr")
    torch.manual_seed(0)
    shapes = [(6, 4), (3, 5), (2, 2)]
    sizes = torch.tensor(shapes)
    value = torch.randn(2, 43, 4, 8, dtype=torch.float64, requires_grad=True)
    locations = (torch.rand(2, 9, 4, 3, 4, 2, dtype=torch.float64) * 1.4 - 0.2).requires_grad_()
    shares = torch.rand(2, 9, 4, 3, 4, dtype=torch.float64, requires_grad=True)
    starts = torch.cat([sizes.new_zeros(1), sizes.prod(1).cumsum(0)[:-1]])
    ours = sample_and_sum(value, shapes, locations, shares)
    theirs = reference.MultiScaleDeformableAttention()(
        value, sizes, shapes, starts, locations, shares, 64
    )
    torch.testing.assert_close(ours, theirs)
    inputs = (value, locations, shares)
    pairs = zip(
        *(torch.autograd.grad(x.square().sum(), inputs) for x in (ours, theirs)), strict=True
    )
    for mine, other in pairs:
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_dino_unet_learns_on_every_device_with_nothing_compiled(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    torch.manual_seed(0)
    network = dino_unet().to(device)
    image = torch.randn(2, 1, 64, 64, device=device)
    target = (image[:, 0] > 0).long()
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.05, 0.9)
    losses = []
    for _ in range(8):
        loss = F.cross_entropy(network(image), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


class Patches(nn.Module):
    """What stands for the ViT in the authors' numbers: its patch embedding, times 1 to 4."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, 16, 16, 16)

    def get_intermediate_layers(self, x: Tensor, **_: Any) -> list[Tensor]:
        return [self.proj(x) * factor for factor in (1, 2, 3, 4)]


@torch.no_grad()
@pytest.mark.parametrize("name", ["dino_unet", "segformer"])
def test_logits_are_those_of_the_authors_code(name: str) -> None:
    """Numbers of a2460c2 of their repository, run with random weights on small networks."""
    golden = load_file(GOLDEN_NETWORKS)
    widths = [4, 8, 8, 16]
    classes = golden[f"{name}.logits"].shape[1]
    network: nn.Module = {
        "segformer": lambda: SegFormer(
            classes, [1, 2, 1, 1], [8, 8, 10, 8], [1, 2, 5, 8], 12, dropout=0.2, authors=True
        ),
        "dino_unet": lambda: DinoUNet(
            Patches(),
            16,
            [2, 5, 8, 11],
            Adapter(16, 4, prior_width=4, heads=4),
            FidelityProjection(16, 8, widths),
            UNetDecoder(widths, 2, classes),
        ),
    }[name]()
    prefix = f"{name}.state."
    state = {k.removeprefix(prefix): v for k, v in golden.items() if k.startswith(prefix)}
    network.load_state_dict(state)
    logits = network.eval()(golden[f"{name}.image"])
    torch.testing.assert_close(logits, golden[f"{name}.logits"], rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("names", ["of files", "in memory"])
def test_segformer_starts_from_an_encoder_of_transformers(tmp_path: Path, names: str) -> None:
    from transformers import SegformerConfig, SegformerForImageClassification

    size = {"depths": [1, 2, 1, 1], "widths": [8, 16, 24, 32], "heads": [1, 2, 3, 4]}
    config = SegformerConfig(
        depths=size["depths"], hidden_sizes=size["widths"], num_attention_heads=size["heads"]
    )
    torch.manual_seed(0)
    model = SegformerForImageClassification(config).eval()
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    if names == "of files":
        model.save_pretrained(tmp_path)
        assert "segformer.encoder.block.0.0.attention.self.query.weight" in load_file(
            tmp_path / "model.safetensors"
        )
    else:
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
        (tmp_path / "config.json").write_text(config.to_json_string())
    path = tmp_path / "weights/mit.pth"
    fetch_weights(WeightsOptions(file=str(tmp_path), kind="segformer"), output=path)
    row = Method.model_validate(
        {"label": "x", "network": "segformer", "segformer": size | {"decoder_width": 16}}
        | {"weights": "mit", "optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.0}
    )
    description, tensors = read_start(path, row)
    network = build_network(Settings(method=row, training=Training()), None, 5, False).eval()
    load_strictly(start_of(network), tensors, str(path))
    assert description == {}
    image = torch.randn(2, 1, 64, 96)
    expected = model.segformer(image.expand(-1, 3, -1, -1), output_hidden_states=True).hidden_states
    x = image.expand(-1, 3, -1, -1)
    for stage, feature in zip(network.stages, expected, strict=True):
        x = stage(x)
        torch.testing.assert_close(x, feature, rtol=1e-5, atol=1e-5)
    assert network(image).shape == (2, 5, 64, 96)
    wrong = row.model_copy(
        update={"segformer": row.segformer.model_copy(update={"depths": [1] * 4})}
    )
    other = build_network(Settings(method=wrong, training=Training()), None, 5, False)
    with pytest.raises(MeddinoError, match=r"it has unknown 1\.blocks\.1"):
        load_strictly(start_of(other), tensors, str(path))


def test_what_is_no_encoder_of_segformer_is_refused(tmp_path: Path) -> None:
    torch.save({"embeddings.cls_token": torch.ones(1)}, tmp_path / "w.pth")
    options = WeightsOptions(file=str(tmp_path / "w.pth"), kind="segformer")
    with pytest.raises(MeddinoError, match=r"w\.pth is no encoder of SegFormer.*nvidia/mit-b2"):
        fetch_weights(options, output=tmp_path / "weights/mit.pth")


def test_segformer_of_the_authors_adds_to_that_of_the_paper() -> None:
    paper, authors = segformer(), segformer(authors=True)
    more = {k.split(".", 1)[0] for k in authors.state_dict().keys() - paper.state_dict().keys()}
    assert more == {"stages", "up"}
    assert paper.state_dict().keys() <= authors.state_dict().keys()
    block, tokens, size = authors.stages[0].blocks[0], torch.randn(1, 16, 8), (4, 4)
    wide = block.fc1(tokens)
    mixed = block.depthwise(wide.transpose(1, 2).unflatten(-1, size)).flatten(2).transpose(1, 2)
    expected = block.fc2(F.gelu(F.layer_norm(mixed + wide, (32,))))
    torch.testing.assert_close(block._mix(tokens, size), expected)
