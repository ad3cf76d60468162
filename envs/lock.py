"""Resolve requirements.in into hash-pinned locks: `python envs/lock.py` (needs uv).

* lock.txt: everything but torch;
* lock-torch.txt: torch as the main index has it, with the CUDA libraries its Linux build needs;
* lock-torch-cpu.txt: the CPU build of the same version, which its makers publish elsewhere.
  Its local version (`+cpu`) makes pip fail at once, and not after a long download, where no
  configured index offers it; the Makefile then falls back to lock-torch.txt.
"""

import re
import subprocess
from pathlib import Path

ENVS = Path(__file__).parent
HEAD = "# Made by `make lock` from requirements.in; do not edit.\n"
TORCH = re.compile(r"^(torch==|triton==|nvidia-|cuda-)")
CPU_HASHES = [  # cp311, manylinux_2_28_x86_64
    "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",
]


def resolve() -> str:
    """Return uv's universal resolution for Python 3.11 and newer, with hashes."""
    command = ["uv", "pip", "compile", "--universal", "--python-version", "3.11"]
    command += ["--generate-hashes", "--no-annotate", "--no-header", "--quiet", "requirements.in"]
    return subprocess.run(command, cwd=ENVS, check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Write the three locks beside this file."""
    blocks = re.split(r"\n(?=\S)", resolve().strip())
    torch_version = next(b.split()[0] for b in blocks if b.startswith("torch=="))
    locks = {
        "lock.txt": [b for b in blocks if not TORCH.match(b)],
        "lock-torch.txt": [b for b in blocks if TORCH.match(b)],
        "lock-torch-cpu.txt": [
            " \\\n".join([f"{torch_version}+cpu", *(f"    --hash=sha256:{h}" for h in CPU_HASHES)])
        ],
    }
    for name, chosen in locks.items():
        (ENVS / name).write_text(HEAD + "\n".join(chosen) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
