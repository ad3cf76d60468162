"""The command line: `python -m meddino VERB`.

A verb's flags are the parameters of its `run` function, so that the two cannot drift apart.
"""

import argparse
import inspect
import sys
import typing
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from meddino import __version__
from meddino.core.errors import MeddinoError
from meddino.pipeline import verbs
from meddino.pipeline.recorder import recorded
from meddino.pipeline.verbs import VERBS

EXTRAS = {"altair": "report", "submitit": "slurm", "vl_convert": "report"}
"""Packages that only some verbs need, and the extra of this project that installs each."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; return 0, or another status after printing a mendable error."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    overview = _overview()
    if not arguments or arguments[0] in ("-h", "--help", "--version"):
        overview.parse_args(arguments or ["--help"])
    try:
        name = overview.parse_args(arguments[:1]).verb
        if VERBS[name].options is None:
            module = import_module(VERBS[name].module)
            if VERBS[name].usage and arguments[1:2] in (["-h"], ["--help"]):
                _passing_parser(name, inspect.getdoc(module)).parse_args(["--help"])
            module.main(arguments[1:])
        else:
            _run(name, arguments[1:])
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        print(f"meddino {arguments[0]}: {_install(error.name)}", file=sys.stderr)
        return MeddinoError.status
    except MeddinoError as error:
        print(f"meddino {arguments[0]}: {error}", file=sys.stderr)
        return error.status
    except BrokenPipeError:
        return 1
    return 0


def _install(module: str) -> str:
    return f"needs {module}, which is not installed: pip install 'meddino[{EXTRAS[module]}]'"


def _overview() -> argparse.ArgumentParser:
    width = max(map(len, VERBS))
    lines = "\n".join(f"  {name:{width}}  {verb.summary}" for name, verb in VERBS.items())
    parser = argparse.ArgumentParser(
        prog="python -m meddino",
        description="The study's stages, each a verb that also works by hand.",
        epilog=f"verbs:\n{lines}\n\n`python -m meddino VERB --help` lists a verb's flags.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"meddino {__version__}")
    parser.add_argument("verb", metavar="VERB", choices=list(VERBS))
    return parser


def _passing_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """The parser of a tool that passes its arguments on: it only helps."""
    return argparse.ArgumentParser(
        prog=f"python -m meddino {name}",
        usage=f"%(prog)s [-h] {VERBS[name].usage}",
        description=description,
        epilog="snakemake --help lists Snakemake's arguments, such as --profile and --configfile.",
    )


def _run(name: str, arguments: list[str]) -> None:
    """Parse a stage's flags, read its options and run it."""
    run = import_module(VERBS[name].module).run
    given = vars(_stage_parser(name, run).parse_args(arguments))
    raw, config = given.pop("options"), given.pop("config")
    selectors = {key: given.pop(key) for key in verbs.selectors(name)}
    if raw is not None:
        options = verbs.parse_options(_hints(run)["options"], raw)
    else:
        from meddino.study.model import load

        missing = [key for key, value in selectors.items() if value is None]
        if missing:
            flags = ", ".join(f"--{key}" for key in missing)
            raise MeddinoError(f"say {flags}: which part of {' + '.join(config)} this run is for")
        options = verbs.select(load(config), name, **selectors)
    with recorded(name, options, given):
        run(options, **given)


def _stage_parser(name: str, run: Callable[..., Any]) -> argparse.ArgumentParser:
    """Build the parser of a stage from the signature of its `run`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m meddino {name}",
        description=inspect.getdoc(run) or VERBS[name].summary,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    which = parser.add_argument_group("options (from the configuration, or as JSON)")
    which.add_argument("--config", nargs="+", default=["config.yaml"], metavar="FILE")
    for key in verbs.selectors(name):
        which.add_argument(f"--{key}", metavar="NAME")
    which.add_argument(
        "--options", metavar="JSON", help="the verb's slice, as the workflow gives it"
    )
    files = parser.add_argument_group("files")
    hints = _hints(run)
    for key, parameter in list(inspect.signature(run).parameters.items())[1:]:
        many = typing.get_origin(hints[key]) in (list, tuple)
        optional = parameter.default is not inspect.Parameter.empty
        files.add_argument(
            f"--{key.replace('_', '-')}",
            type=Path,
            nargs="*" if many else None,
            required=not optional,
            default=parameter.default if optional else None,
            metavar="PATH",
        )
    return parser


def _hints(run: Callable[..., Any]) -> dict[str, Any]:
    return typing.get_type_hints(run)


if __name__ == "__main__":
    sys.exit(main())
