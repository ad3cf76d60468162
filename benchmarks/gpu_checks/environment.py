"""The machine: GPUs, driver, libraries, and what a plain product reaches."""

import os
import platform
import shutil
import sys

import numpy
import pyarrow
import torch

from gpu_checks.bench import Bench
from gpu_checks.outcomes import Figures
from gpu_checks.timing import median_seconds
from meddino.models.device import DRIVER, driver_version


def environment(bench: Bench) -> Figures:
    """Versions and sizes; no name of the machine or of whoever uses it."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    figures = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "pyarrow": pyarrow.__version__,
        "system": f"{sys.platform}, {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": memory_bytes / 1e9,
        # Triton, which torch compiles with on a GPU, builds a part of itself when first used.
        "compiler": any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))),
    }
    return figures | (_gpu() if bench.gpu else {}) | {"product_tflops": _product_tflops(bench)}


def _gpu() -> Figures:
    free, total = torch.cuda.mem_get_info()
    capability = torch.cuda.get_device_capability()
    return {
        "gpus": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
        "capability": ".".join(map(str, capability)),
        "driver": driver_version(DRIVER) or "not known",
        "cuda": torch.version.cuda or f"none, HIP {torch.version.hip}",
        "cudnn": torch.backends.cudnn.version(),
        "nccl": ".".join(map(str, torch.cuda.nccl.version())),
        "gpu_memory_gb": total / 1e9,
        "gpu_memory_free_gb": free / 1e9,
    }


def _product_tflops(bench: Bench) -> float:
    """What a product of two large square matrices reaches in bf16."""
    side = 128 if bench.small else 8192
    a, b = (torch.randn(side, side, device=bench.device).bfloat16() for _ in range(2))
    return 2 * side**3 / median_seconds(lambda: a @ b, bench.device) / 1e12
