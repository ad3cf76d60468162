"""Resolve requirements.in into hash-pinned locks: `python envs/lock.py` (needs uv).

* lock.txt: everything but torch;
* lock-torch.txt: torch as the main index has it, with the CUDA libraries its Linux build needs;
* lock-torch-cpu.txt: the CPU builds of the same releases of torch and torchvision, which their
  makers publish on an index of their own. torch's local version (`+cpu`) makes pip fail at once,
  and not after a long download, where no index offers it; setup.sh then falls back to
  lock-torch.txt. torchvision may be PyPI's as well, for where only torch is offered: setup.sh then
  lets it load without its compiled operators;
* lock-torch-cu126.txt, by `python envs/lock.py cu126` (which needs pip alone): torch and
  torchvision of the same releases for an older CUDA, with its libraries, for this Python. It is not
  in the repository, since the index of torch's makers could not be reached where that was made;
  `make setup TORCH=cu126` makes it once;
* lock-tools.txt: what audits the locks and describes an image, from requirements-tools.in.

From the first two follows meddino.yaml, the environment for `--sdm conda`. Its pins stand in it,
since Snakemake copies the file elsewhere, and takes it as changed by its content alone.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

ENVS = Path(__file__).parent
INDEX = "https://download.pytorch.org/whl"
HEAD = "# Made by `make lock` from requirements.in; do not edit.\n"
TORCH = re.compile(r"^(torch==|triton==|nvidia-|cuda-)")
CPU_HASHES = {  # cp311 and cp312, manylinux_2_28_x86_64
    "torch": [
        "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",
        "4ca4a9394b0c771238a4f73590fdbbc4debad85ed0fa63d026ae1b085da7d6e2",
    ],
    "torchvision": [
        "1dad604dfc0177ecebe0891bd9701fe2c62ec3f7819a247be541b3fb6effee99",
        "b545d46f4d2f9d30381281cf22874bfe1d32a8a7b0ee8396fccde89f30c6a9d9",
    ],
}


def resolve(requirements: str) -> str:
    """Return uv's universal resolution for Python 3.11 and newer, with hashes."""
    command = ["uv", "pip", "compile", "--universal", "--python-version", "3.11"]
    command += ["--generate-hashes", "--no-annotate", "--no-header", "--quiet", requirements]
    return subprocess.run(command, cwd=ENVS, check=True, capture_output=True, text=True).stdout


def pins(name: str) -> list[str]:
    """Return the requirements of a lock without their hashes: `NAME==VERSION[ ; MARKER]`."""
    lines = (ENVS / name).read_text(encoding="utf-8").splitlines()
    return [line.removesuffix(" \\") for line in lines if re.match(r"\w", line)]


def conda() -> str:
    """Return meddino.yaml: Python from conda, all else from the locks, torch for CUDA."""
    locked = [f"      - {pin}" for name in ("lock-torch.txt", "lock.txt") for pin in pins(name)]
    head = ["name: meddino", "channels: [conda-forge, nodefaults]", "dependencies:"]
    return "\n".join(
        [HEAD + head[0], *head[1:], "  - python=3.11", "  - pip", "  - pip:", *locked, ""]
    )


def torch_for(build: str, index: str) -> str:
    """Return a lock of torch and torchvision built for a CUDA, such as cu126, as pip resolves it.

    All else that they require stands in lock.txt. Each file is that of this Python and machine.
    """
    wanted = [f"{name}=={release}+{build}" for name, release in releases().items()]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    command += ["--only-binary=:all:", "--report", "-", "--extra-index-url", index, *wanted]
    answer = subprocess.run(command, check=False, capture_output=True, text=True)
    if answer.returncode:
        sys.exit(f"pip cannot resolve {' '.join(wanted)} with {index}:\n{answer.stderr.strip()}")
    lines = []
    for part in json.loads(answer.stdout)["install"]:
        name, version = part["metadata"]["name"], part["metadata"]["version"]
        if TORCH.match(f"{name}==") or name in releases():
            digest = part["download_info"]["archive_info"]["hashes"]["sha256"]
            lines.append(f"{name}=={version} \\\n    --hash=sha256:{digest}")
    return HEAD.replace("make lock", f"envs/lock.py {build}") + "\n".join(sorted(lines)) + "\n"


def releases() -> dict[str, str]:
    """Return the releases of torch and torchvision that requirements.in pins."""
    text = (ENVS / "requirements.in").read_text(encoding="utf-8")
    return dict(re.findall(r"^(torch(?:vision)?)==(\S+)$", text, flags=re.MULTILINE))


def with_hashes(pin: str, hashes: list[str]) -> str:
    """Return a pin of a lock that also allows wheels of these SHA-256."""
    return " \\\n".join([pin, *(f"    --hash=sha256:{digest}" for digest in hashes)])


def main() -> None:
    """Write the locks and the conda environment beside this file."""
    blocks = re.split(r"\n(?=\S)", resolve("requirements.in").strip())
    torch_version = next(b.split()[0] for b in blocks if b.startswith("torch=="))
    vision = next(b for b in blocks if b.startswith("torchvision=="))
    locks = {
        "lock.txt": [b for b in blocks if not TORCH.match(b)],
        "lock-torch.txt": [b for b in blocks if TORCH.match(b)],
        "lock-torch-cpu.txt": [
            with_hashes(f"{torch_version}+cpu", CPU_HASHES["torch"]),
            with_hashes(vision, CPU_HASHES["torchvision"]),
        ],
        "lock-tools.txt": [resolve("requirements-tools.in").strip()],
    }
    for name, chosen in locks.items():
        (ENVS / name).write_text(HEAD + "\n".join(chosen) + "\n", encoding="utf-8")
    (ENVS / "meddino.yaml").write_text(conda(), encoding="utf-8")


if __name__ == "__main__":
    for build in sys.argv[1:]:
        lock = torch_for(build, f"{INDEX}/{build}")
        (ENVS / f"lock-torch-{build}.txt").write_text(lock, encoding="utf-8")
    if not sys.argv[1:]:
        main()
