"""Running a stage of the study by hand: its flags, help and options.

The flags of a stage are the parameters of its `run` function, and their help is the Args section of
its docstring, so that neither can drift apart.
"""

import argparse
import inspect
import re
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from meddino.core.errors import MeddinoError
from meddino.core.files import writing
from meddino.pipeline.options import parse_options, select, selectors
from meddino.pipeline.recorder import recorded
from meddino.pipeline.verbs import VERBS

CHECK = "--check"
"""The flag that hands over to the verb's `check`; see `meddino.cli.main`."""
_SECTION = re.compile(r"^(Args|Returns|Raises|Yields|Attributes):$", re.MULTILINE)
_ARGUMENT = re.compile(r"^    (\w+): (.*(?:\n {5,}.*)*)", re.MULTILINE)


class Description(NamedTuple):
    """What a docstring in Google's style tells a person: not which errors it raises."""

    summary: str
    details: str
    arguments: dict[str, str]


def run_stage(name: str, run: Callable[..., None], arguments: Sequence[str]) -> None:
    """Parse a stage's flags, read its options, run it and record what it made.

    Raises:
        MeddinoError: the options are not valid, flags are missing that select them, or results or
            their record cannot be written, also where a library or a worker process met that.
    """
    flags = vars(stage_parser(name, run).parse_args(arguments))
    json_options, config = flags.pop("options"), flags.pop("config")
    names = {key: flags.pop(key) for key in selectors(name)}
    if json_options is not None:
        options = parse_options(typing.get_type_hints(run)["options"], json_options)
    else:
        options = _from_configuration(name, config, names)
    output = flags["output"]
    with writing(output, output.parent), recorded(name, options, flags):
        run(options, **flags)


def _from_configuration(name: str, config: list[str], names: dict[str, str | None]) -> Any:
    """The part of the configuration that the names pick."""
    from meddino.study.model import load

    if missing := [f"--{key}" for key, value in names.items() if value is None]:
        flags = ", ".join(missing)
        raise MeddinoError(f"say {flags}: which part of {' + '.join(config)} this run is for")
    return select(load(config), name, **{k: v for k, v in names.items() if v is not None})


def stage_parser(name: str, run: Callable[..., None]) -> argparse.ArgumentParser:
    """Build the parser of a stage from the signature and the docstring of its `run`."""
    description = describe(inspect.getdoc(run) or VERBS[name].summary)
    parser = argparse.ArgumentParser(
        prog=f"python -m meddino {name}",
        description=description.summary,
        epilog=description.details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if VERBS[name].check:
        parser.add_argument(
            CHECK, action="store_true", default=argparse.SUPPRESS,
            help=f"do something else: see python -m meddino {name} {CHECK} --help",
        )  # fmt: skip
    _add_options(parser, name, description.arguments.get("options", ""))
    files = parser.add_argument_group("files")
    hints = typing.get_type_hints(run)
    for key, parameter in list(inspect.signature(run).parameters.items())[1:]:
        several = typing.get_origin(hints[key]) in (list, tuple)
        optional = parameter.default is not inspect.Parameter.empty
        files.add_argument(
            f"--{key.replace('_', '-')}",
            type=Path,
            nargs="*" if several else None,
            required=not optional,
            default=parameter.default if optional else None,
            metavar="PATH",
            help=_escaped(description.arguments.get(key, "")) + (" (optional)" if optional else ""),
        )
    return parser


def _add_options(parser: argparse.ArgumentParser, name: str, meaning: str) -> None:
    """Add the flags from which the options come: a configuration, or JSON."""
    names = selectors(name)
    replaced = ["--config", *(f"--{key}" for key in names)]
    group = parser.add_argument_group("settings, from a configuration or as JSON", meaning)
    group.add_argument(
        "--config", nargs="+", default=["config.yaml"], metavar="FILE",
        help="the configuration; each file is laid over those before it (default: config.yaml)",
    )  # fmt: skip
    for key in names:
        group.add_argument(f"--{key}", metavar="NAME", help=f"which {key} of the configuration")
    group.add_argument(
        "--options", metavar="JSON", help=f"all settings, in place of {', '.join(replaced)}"
    )


def describe(docstring: str) -> Description:
    """Split a docstring into its first paragraph, further prose, and its arguments."""
    prose, *sections = _SECTION.split(docstring)
    summary, _, details = prose.strip().partition("\n\n")
    texts = dict(zip(sections[::2], sections[1::2], strict=True))
    arguments = {
        key: " ".join(text.split()).removesuffix(".")
        for key, text in _ARGUMENT.findall(texts.get("Args", ""))
    }
    return Description(summary, details, arguments)


def _escaped(text: str) -> str:
    """Text that argparse prints as it is: to argparse, `%` begins a placeholder."""
    return text.replace("%", "%%")
