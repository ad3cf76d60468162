"""A check in a process of its own."""

import os
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from gpu_checks.outcomes import Missed, Skip
from meddino.core.errors import MeddinoError
from meddino.core.files import write_json

LINES = 14
"""Of a traceback: the last calls and the message."""


def work(place: str, settings: dict[str, Any], result: Path, log: Path) -> None:
    """Run a check and write what comes of it.

    Args:
        place: MODULE:FUNCTION.
        settings: fields of `Bench`.
        result: JSON to write.
        log: file for all that the check prints.
    """
    os.setsid()  # so that it can be stopped with all that it starts
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    write_json(result, attempt(place, settings))


def attempt(place: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Run a check; what comes of it, whatever that is."""
    from gpu_checks.bench import Bench  # and torch, for which only the checks are to wait

    module, _, name = place.partition(":")
    try:
        check = getattr(import_module(module), name)
        return {"status": "ok", "figures": check(Bench(**settings))}
    except Skip as reason:
        return {"status": "skipped", "reason": str(reason)}
    except Missed as error:
        return {"status": "failed", "error": str(error), "figures": error.figures}
    except MeddinoError as error:
        return {"status": "failed", "error": str(error)}
    except Exception:
        lines = traceback.format_exc().strip().splitlines()
        return {"status": "failed", "error": "\n".join(lines[-LINES:])}
