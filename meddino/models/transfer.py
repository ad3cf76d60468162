"""Copies between the host and a GPU which the host does not wait for."""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

ALIGNMENT = 16
"""Bytes at whose multiples a tensor of any type may start."""


def packed(content: T, device: torch.device) -> Callable[[], T]:
    """Prepare tensors on the CPU for a device, to which they then go in one copy.

    Args:
        content: dataclasses, tuples and lists of tensors and of anything else, which is left as is.
        device: where the tensors are to go.

    Returns:
        What brings them there. Packing may be done in another thread, long before.
    """
    if device.type == "cpu":
        return lambda: content
    tensors = list(_tensors(content))
    spans, buffer = pack(tensors)
    # Only from pinned memory does a copy to the GPU go on beside the host's work.
    if device.type == "cuda":
        buffer = buffer.pin_memory()
    shapes = [(x.dtype, x.shape) for x in tensors]

    def unpacked() -> T:
        sent = buffer.to(device, non_blocking=True)
        pairs = zip(spans, shapes, strict=True)
        parts = (sent[span].view(dtype).view(shape) for span, (dtype, shape) in pairs)
        return _replaced(content, parts)

    return unpacked


def pack(tensors: list[Tensor]) -> tuple[list[slice], Tensor]:
    """One buffer, uint8, that holds tensors on the CPU, and the bytes of each of them."""
    spans, end = [], 0
    for x in tensors:
        start = -(-end // ALIGNMENT) * ALIGNMENT
        end = start + x.nbytes
        spans.append(slice(start, end))
    buffer = torch.empty(end, dtype=torch.uint8)
    for x, span in zip(tensors, spans, strict=True):
        buffer[span].view(x.dtype).view(x.shape).copy_(x)
    return spans, buffer


def fetched(values: Tensor) -> Callable[[], list[float]]:
    """Start to copy numbers (n,) to the host.

    Returns:
        What waits for them and returns them.
    """
    if values.device.type != "cuda":
        return values.tolist
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()

    def read() -> list[float]:
        arrived.synchronize()
        return host.tolist()

    return read


def _children(content: Any) -> list[Any] | None:
    if is_dataclass(content):
        return [getattr(content, field.name) for field in fields(content)]
    return list(content) if isinstance(content, tuple | list) else None


def _tensors(content: Any) -> Iterator[Tensor]:
    if isinstance(content, Tensor):
        yield content
    for child in _children(content) or ():
        yield from _tensors(child)


def _replaced(content: Any, tensors: Iterator[Tensor]) -> Any:
    """The same content with other tensors, in the order of `_tensors`."""
    if isinstance(content, Tensor):
        return next(tensors)
    children = _children(content)
    if children is None:
        return content
    children = [_replaced(child, tensors) for child in children]
    plain = type(content) in (tuple, list)
    return type(content)(children) if plain else type(content)(*children)
