"""Let torchvision load without its compiled operators: `python envs/torchvision_python.py`.

The torchvision of PyPI is compiled for CUDA, and its operators do not load beside the CPU build of
torch. Its Python part, which is all that timm and transformers import, expects that everywhere but
in one module: this describes two operators without asking whether they exist, and `import
torchvision` fails. Here it asks, as it does for the others. `envs/setup.sh` runs this where no
index offers the CPU build of torchvision.
"""

import importlib.util
import re
from pathlib import Path

DESCRIBED = re.compile(r"^@torch\.library\.register_fake\(", flags=re.MULTILINE)
GUARD = """
def _register_fake(operator):  # written by envs/torchvision_python.py of meddino
    if torchvision.extension._has_ops():
        return torch.library.register_fake(operator)
    return lambda describe: describe

"""
BEFORE = "\n@functools.lru_cache"


def guarded(source: str) -> str:
    """Return torchvision/_meta_registrations.py with every description under the guard.

    Raises ValueError where it is not the module that this was written for.
    """
    source, count = DESCRIBED.subn("@_register_fake(", source)
    if not count or BEFORE not in source:
        raise ValueError("torchvision/_meta_registrations.py is another one than expected")
    return source.replace(BEFORE, GUARD + BEFORE, 1)


def main() -> None:
    """Rewrite the module of the torchvision that is installed beside this Python."""
    package = importlib.util.find_spec("torchvision")
    assert package and package.origin, "torchvision is not installed"
    path = Path(package.origin).with_name("_meta_registrations.py")
    path.write_text(guarded(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
