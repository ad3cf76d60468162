"""Copies between host and device."""

from dataclasses import dataclass

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meddino.models import transfer
from meddino.models.vit import Branch, Noise

TYPES = (torch.bool, torch.uint8, torch.int16, torch.int64, torch.float32, torch.bfloat16)
SHAPES = st.lists(st.integers(0, 3), max_size=3)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(TYPES), SHAPES), max_size=6))
def test_a_buffer_holds_tensors_of_any_type_and_shape(
    kinds: list[tuple[torch.dtype, list[int]]],
) -> None:
    tensors = [torch.randint(0, 2, shape).to(dtype) for dtype, shape in kinds]
    spans, buffer = transfer.pack(tensors)
    for x, span in zip(tensors, spans, strict=True):
        assert span.start % transfer.ALIGNMENT == 0
        assert torch.equal(buffer[span].view(x.dtype).view(x.shape), x)


@dataclass(frozen=True)
class Content:
    name: str
    noise: list[Noise]
    none: None = None


def test_content_arrives_as_it_was_but_for_the_device() -> None:
    """On a device of torch that keeps types and shapes, and no numbers."""
    branches = [(Branch(torch.arange(3), 1.5), Branch(torch.arange(2), 0.0))]
    content = Content("a", [Noise(branches, torch.ones(2)), Noise(None, None)])
    arrived = transfer.packed(content, torch.device("meta"))()
    assert (arrived.name, arrived.none) == ("a", None)
    noise, empty = arrived.noise
    assert empty == Noise(None, None)
    ((attention, mlp),) = noise.branches or ()
    assert (attention.scale, mlp.scale) == (1.5, 0.0)
    for x, dtype, shape in (
        (attention.images, torch.int64, (3,)),
        (mlp.images, torch.int64, (2,)),
        (noise.rescale, torch.float32, (2,)),
    ):
        assert x is not None and (x.device.type, x.dtype, x.shape) == ("meta", dtype, shape)


def test_nothing_is_copied_on_the_cpu() -> None:
    x = torch.ones(2)
    assert transfer.packed([x], torch.device("cpu"))()[0] is x
    assert transfer.fetched(x)() == [1.0, 1.0]
