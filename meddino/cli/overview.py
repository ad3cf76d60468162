"""The first page of help, `python -m meddino --help`, and the answer to a mistyped verb."""

import argparse
import difflib

from meddino import __version__
from meddino.pipeline.verbs import VERBS, Group

HEADINGS: dict[Group, str] = {
    "use": "Use a trained model or a checkpoint",
    "study": "Run and watch a study",
    "stages": "Run one stage of a study by hand, as the workflow does",
}
FIRST_STEPS = """\
first steps:
  python -m meddino segment ct.nii.gz labels.nii.gz --model FOLDER
  python -m meddino study --profile profiles/demo all    # a small study, on synthetic CT
  python -m meddino VERB --help                          # what a verb does, and its flags
"""


def overview_parser() -> argparse.ArgumentParser:
    """Build the parser of `--help` and `--version`."""
    parser = argparse.ArgumentParser(
        prog="python -m meddino",
        usage="%(prog)s [-h] [--version] VERB ...",
        description="Reproduce MedDINOv3: pretrain on CT, finetune for segmentation, evaluate.",
        epilog="\n".join([*map(_listing, HEADINGS), FIRST_STEPS]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"meddino {__version__}")
    return parser


def _listing(group: Group) -> str:
    """The verbs of a group below its heading."""
    width = max(map(len, VERBS))
    lines = (
        f"  {name:{width}}  {verb.summary}\n" for name, verb in VERBS.items() if verb.group == group
    )
    return f"{HEADINGS[group]}:\n{''.join(lines)}"


def no_such_verb(name: str) -> str:
    """One line that says that `name` is no verb, and which verb it resembles."""
    close = difflib.get_close_matches(name, VERBS, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"there is no verb {name!r}; {hint}`python -m meddino --help` lists all verbs"
