"""One verb of the command line, and what is printed where it fails."""

import argparse
import inspect
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

from meddino.cli.overview import no_such_verb, overview_parser
from meddino.cli.stages import CHECK, run_stage
from meddino.core.errors import MeddinoError
from meddino.core.files import obstacle, unwritten
from meddino.pipeline.verbs import VERBS

EXTRAS = {"altair": "report", "submitit": "slurm", "vl_convert": "report"}
"""Packages that only some verbs need, and the extra of this project that installs each."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; return 0, or another status after printing an error that a user can mend."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0].startswith("-"):
        overview_parser().parse_args(arguments or ["--help"])
    name, *rest = arguments
    if name not in VERBS:
        return _fail("meddino", no_such_verb(name), MeddinoError.status)
    try:
        _run(name, rest)
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        return _fail(f"meddino {name}", _install(error.name), MeddinoError.status)
    except MeddinoError as error:
        return _fail(f"meddino {name}", str(error), error.status)
    except BrokenPipeError:
        return 1
    except Exception as error:
        cause = obstacle(error)
        if cause is None:
            raise
        place = getattr(error, "filename", None) or "what the verb makes"
        return _fail(f"meddino {name}", str(unwritten(place, cause)), MeddinoError.status)
    return 0


def _run(name: str, arguments: list[str]) -> None:
    verb = VERBS[name]
    if verb.check and CHECK in arguments:
        import_module(verb.check).main([part for part in arguments if part != CHECK])
        return
    module = import_module(verb.module)
    if verb.options is not None:
        run_stage(name, module.run, arguments)
        return
    if verb.usage and arguments[:1] in (["-h"], ["--help"]):
        _snakemake_help(name, inspect.getdoc(module)).parse_args(["--help"])
    module.main(arguments)


def _snakemake_help(name: str, description: str | None) -> argparse.ArgumentParser:
    """The help of a tool that hands its arguments to Snakemake, whose help says nothing of it."""
    return argparse.ArgumentParser(
        prog=f"python -m meddino {name}",
        usage=f"%(prog)s [-h] {VERBS[name].usage}",
        description=description,
        epilog="snakemake --help lists Snakemake's arguments, such as --profile and --configfile.",
    )


def _install(module: str) -> str:
    return f"needs {module}, which is not installed: pip install 'meddino[{EXTRAS[module]}]'"


def _fail(program: str, message: str, status: int) -> int:
    with suppress(OSError):  # where the log lies on the disk that is full
        print(f"{program}: {message}", file=sys.stderr)
    return status
