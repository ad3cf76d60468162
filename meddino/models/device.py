"""The device that a job runs on."""

import ctypes
import fcntl
import os
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch

from meddino.core.errors import MeddinoError

GRANTS = (
    *("SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE", "CUDA_VISIBLE_DEVICES"),
    *("GPU_DEVICE_ORDINAL", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"),
)
"""Variables by which a scheduler or a person gives a job its GPUs, the plainest first."""
NONE = {"", "-1", "NoDevFiles"}
"""What they hold where there are none; SLURM_GPUS_ON_NODE counts, so that 0 is none, too."""
HELD: dict[torch.device, int] = {}
"""The GPU that this process holds, and the descriptor of its lock."""
CONTAINERS = ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER")
DRIVER = Path("/proc/driver/nvidia/version")
FLOORS = {"11": 450, "12": 525, "13": 580}
"""Oldest branch of NVIDIA's Linux driver for each major release of CUDA (CUDA Compatibility,
"minor version compatibility")."""
ON_PURPOSE = "; `device: cpu` (or `--device cpu`, where a command takes it) uses CPUs on purpose"


def choose(name: str) -> torch.device:
    """The device called `name` for a job on one device; `auto` takes a GPU if there is one.

    Where this process sees several GPUs, it takes the first that no other job of this user holds,
    and holds it until it ends.

    Raises:
        MeddinoError: as `kind`.
    """
    device = kind(name)
    several = device.type == "cuda" and torch.cuda.device_count() > 1
    return _hold_one() if several else device


def kind(name: str) -> torch.device:
    """The device called `name`, whichever GPU it is; `auto` is a GPU if there is one.

    Raises:
        MeddinoError: a GPU is asked for where there is none, or the job was given GPUs and torch
            sees none of them: it would hold them for days and train on a CPU.
    """
    if name == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if grant := granted(os.environ):
        reason = obstacle(os.environ)
        raise MeddinoError(f"this job was given GPUs ({grant}), and {reason}{ON_PURPOSE}")
    if name == "cuda":
        raise MeddinoError("device: cuda is asked for, but torch sees no GPU; use auto or cpu")
    return torch.device("cpu")


def _hold_one() -> torch.device:
    """A GPU for this process; the first where others hold all."""
    if HELD:
        return next(iter(HELD))
    for number in range(torch.cuda.device_count()):
        name = f"meddino-{os.getuid()}-{torch.cuda.get_device_properties(number).uuid}.gpu"
        # The system lets go of the lock when the process ends, however it does.
        descriptor = os.open(Path(tempfile.gettempdir()) / name, os.O_RDWR | os.O_CREAT, 0o600)
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            HELD[torch.device("cuda", number)] = descriptor
            torch.cuda.set_device(number)
            return torch.device("cuda", number)
        os.close(descriptor)
    return torch.device("cuda", 0)


def granted(environment: Mapping[str, str]) -> str:
    """The variable that gives this job GPUs, as `NAME=value`; empty where none does.

    Whoever sets CUDA_VISIBLE_DEVICES to nothing hides GPUs on purpose.
    """
    if environment.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return ""
    for name in GRANTS:
        value = environment.get(name, "")
        if value not in NONE and (name, value) != ("SLURM_GPUS_ON_NODE", "0"):
            return f"{name}={value}"
    return ""


def obstacle(environment: Mapping[str, str]) -> str:
    """Why torch sees no GPU on this node, and the remedy."""
    cuda = torch.version.cuda
    if cuda is None and torch.version.hip is None:
        return (
            f"torch {torch.__version__} was built without CUDA; install the CUDA build:"
            " `make setup TORCH=cuda`, or in a container `make container`"
        )
    image = next(filter(None, map(environment.get, CONTAINERS)), "")
    if image and not _driver_library():
        return (
            f"the container {image} was started without NVIDIA's driver; start it with --nv"
            ' (`snakemake --apptainer-args="--nv"`, `apptainer run --nv`)'
        )
    version = driver_version(DRIVER)
    floor = FLOORS.get((cuda or "").partition(".")[0])
    if version and floor and int(version.partition(".")[0]) < floor:
        return (
            f"NVIDIA's driver {version} is too old for this torch (CUDA {cuda}, driver {floor} or"
            " newer); take a node with a newer one, or torch for an older CUDA: docs/site.md"
        )
    return f"torch sees none of them: {_words_of_torch()}; look at `nvidia-smi` on this node"


def driver_version(path: Path) -> str:
    """The version of NVIDIA's kernel module, such as 535.129.03; empty where none is loaded."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    match = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", text)
    return match[0] if match else ""


def _driver_library() -> bool:
    """Whether the driver's library, which `--nv` brings into a container, can be loaded."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _words_of_torch() -> str:
    """The first line of what torch itself says."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).partition("\n")[0].rstrip(".")
    return "it gives no reason"
