"""Clients that only some datasets need: optional packages, imported when they are used."""

import importlib
from typing import Any

from meddino.core.errors import MeddinoError


def client(module: str, extra: str, purpose: str) -> Any:
    """Import an optional package.

    Args:
        module: name of the module, such as `py7zr`.
        extra: the extra of this project that installs it.
        purpose: what it is needed for, as the beginning of the message.

    Raises:
        MeddinoError: it is not installed; the message names the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MeddinoError(
            f"{purpose} needs the Python package {module} ({error}); install it with"
            f" `pip install '.[{extra}]'` in the folder of this project, then rerun"
        ) from error
