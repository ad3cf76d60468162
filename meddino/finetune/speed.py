"""What nnU-Net's own command does for speed on a GPU: tuned convolutions, a compiled network."""

import os
import shutil

import torch


def tune_convolutions() -> None:
    """Let cuDNN try its algorithms on each new shape and keep the fastest, for this process.

    All patches of a run have one shape.
    """
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.deterministic = False


def obstacle_to_compiling() -> str | None:
    """What keeps `torch.compile` from making kernels for this GPU; None for nothing known.

    Triton needs compute capability 7.0, and builds what launches its kernels with a C compiler.
    """
    from torch.utils._triton import has_triton

    if not has_triton():
        return "torch finds no Triton, or the GPU is older than Volta"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "there is no C compiler: CC is not set, and neither gcc nor clang is in PATH"
    return None


def survive_the_compiler() -> None:
    """Run as it is, with a warning, what `torch.compile` fails on, in this process from now on.

    Compiling is for speed alone, so a training need not end for it.
    """
    import torch._dynamo

    torch._dynamo.config.suppress_errors = True
