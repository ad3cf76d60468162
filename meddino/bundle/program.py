"""A network as a TorchScript program, which runs without the code that it was built by."""

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from meddino.core.errors import MeddinoError

TOLERANCE = 1e-3
"""By how much logits of program and network may differ, relative to the largest logit."""


class OneByOne(nn.Module):
    """Applies a traced network to the images of a batch one after another, as nnU-Net does.

    A trace keeps the size of the batch that it was made with.
    """

    def __init__(self, network: nn.Module) -> None:
        """Hold the traced network."""
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, 1, H, W) to logits (B, classes, H, W)."""
        return torch.cat([self.network(image) for image in x.split(1)])


def program(network: nn.Module, patch_px: tuple[int, int]) -> Any:
    """Compile a network for images of one size, on any device and in batches of any size.

    Args:
        network: from images (B, 1, H, W) to logits (B, classes, H, W); on a CPU, set to evaluate.
        patch_px: height and width of the images.

    Returns:
        A `torch.jit.ScriptModule` with the same weights.

    Raises:
        MeddinoError: the program does not give what the network gives.
    """
    generator = torch.Generator().manual_seed(0)
    image, others = (torch.randn(n, 1, *patch_px, generator=generator) for n in (1, 2))
    with torch.no_grad(), warnings.catch_warnings():
        # What a trace takes for constant is constant here: sizes and positions of one input size.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = torch.jit.trace(network, image, check_trace=False)
        _follow_input(traced)
        script = torch.jit.script(OneByOne(traced))
        _compare(_reloaded(script)(others), network(others))
    return script


def save(script: Any, path: Path, files: Mapping[str, bytes]) -> None:
    """Write a program, with further files in its archive."""
    with warnings.catch_warnings():
        # torch points to torch.export, whose programs MONAI cannot load.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(script, str(path), _extra_files=dict(files))


def _follow_input(traced: Any) -> None:
    """Make what a trace creates on the device it was made on follow the input's device.

    A trace has `torch.arange(..., device="cpu")` where the network has the device of a weight.
    """
    graph = traced.graph
    torch._C._jit_pass_inline(graph)
    *_, image = graph.inputs()
    device = graph.create("prim::device", [image])
    device.output().setType(torch._C.DeviceObjType.get())
    graph.prependNode(device)
    for constant in list(graph.findAllNodes("prim::Constant")):
        if constant.output().type().kind() == "DeviceObjType":
            constant.output().replaceAllUsesWith(device.output())
        elif _is_array(constant):
            _move(graph, constant, device)


def _is_array(constant: Any) -> bool:
    """Whether a constant is a tensor with axes: numbers go with tensors of any device."""
    is_tensor = constant.output().type().kind() == "TensorType"
    return is_tensor and constant.t("value").dim() > 0


def _move(graph: Any, constant: Any, device: Any) -> None:
    """Send a constant tensor to a device before its first use."""
    graph.setInsertPoint(constant)
    none, no = graph.insertConstant(None), graph.insertConstant(False)
    # aten::to.prim_Device(Tensor self, Device? device, int? dtype, bool non_blocking, bool copy)
    moved = graph.create("aten::to", [constant.output(), device.output(), none, no, no])
    moved.insertAfter(constant)
    constant.output().replaceAllUsesWith(moved.output())
    moved.replaceInput(0, constant.output())


def _reloaded(script: Any) -> Any:
    """The program as others will load it."""
    return torch.jit.load(io.BytesIO(script.save_to_buffer()))


def _compare(ours: Tensor, expected: Tensor) -> None:
    scale = expected.abs().max().clamp(min=1e-6)
    deviation = float((ours - expected).abs().max() / scale)
    if not deviation <= TOLERANCE:
        raise MeddinoError(
            f"this network cannot be written as TorchScript: its logits differ by {deviation:.1g}"
            " of the largest; please report which backbone it has"
        )
