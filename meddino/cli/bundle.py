"""The `bundle` verb: a finetuned model as a folder to give away.

The folder holds the weights and a model card for Hugging Face, a MONAI bundle, nnU-Net's folder of
results, the records of all jobs behind the model, and the terms under which it may be passed on.
Start the command in the folder of the study, whose records say what the model was made of.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from meddino.core.errors import MeddinoError
from meddino.pipeline.recorder import recorded


def main(arguments: Sequence[str]) -> None:
    """Make a bundle from the command line.

    Raises:
        MeddinoError: the licences do not permit it or may not, the model or its records are
            missing, or the folder exists.
    """
    flags = _parser().parse_args(arguments)
    output: Path = flags.output
    if output.exists():
        raise MeddinoError(f"{output} exists; name another folder, or remove it")
    from meddino.bundle import bundle  # torch: after what can fail at once

    origin = bundle.trace(flags.model)
    accepted = tuple(flags.accept_licence)
    judgements = bundle.permitted(origin, accepted)
    options = bundle.BundleOptions(authors=flags.authors, version=flags.release, accepted=accepted)
    texts = dict(map(_named_file, flags.licence_text))
    inputs = {"model": origin.weights, "scores": origin.scores, "output": output / bundle.CARD}
    try:
        with recorded("bundle", options, inputs):
            bundle.write(options, origin, judgements, texts, output)
        bundle.add_provenance(origin, output)
    except BaseException:
        shutil.rmtree(output, ignore_errors=True)  # whole or absent
        raise
    print((output / "NOTICE").read_text(encoding="utf-8"))
    print(
        f"{output} holds the model. Before you publish it, read {output / bundle.CARD}; and"
        f" {output / 'provenance.json'}, which has the names of files that it was made of"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m meddino bundle",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model", type=Path, required=True, metavar="PATH",
        help="model.safetensors of a finetuning of the study, or its folder",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="a new folder for the bundle"
    )
    parser.add_argument("--authors", default="not named", help="who gives the model away")
    parser.add_argument(
        "--release", default="1.0.0", metavar="VERSION", help="version of the bundle (1.0.0)"
    )
    parser.add_argument(
        "--accept-licence", nargs="+", default=[], metavar="NAME",
        help="data or weights whose terms are not known, and whose owners permit you to pass the"
        " model on",
    )  # fmt: skip
    parser.add_argument(
        "--licence-text", action="append", default=[], metavar="NAME=FILE",
        help="the text of a licence that has to go with the model",
    )  # fmt: skip
    return parser


def _named_file(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise MeddinoError(f"--licence-text {text}: write NAME=FILE, as in dinov3=LICENSE.md")
    return name, Path(path)
