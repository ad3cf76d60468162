"""What has become of the places that datasets are downloaded from; nothing is downloaded.

Each is asked whether it is there, whether its size or checksum is still the expected one, and
whether it needs a login. The exit status is 1 where a place is dead or has changed.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from meddino.core import layers
from meddino.core.errors import MeddinoError
from meddino.datasets import check, registry
from meddino.datasets.options import Dataset

STYLES: dict[check.State, str] = {
    "agrees": "green",
    "reachable": "green",
    "moved": "yellow",
    "needs a login": "yellow",
    "changed": "bold red",
    "dead": "bold red",
}


class NotAsExpected(MeddinoError):
    """Places that are dead or have changed."""

    status = 1


def main(arguments: Sequence[str]) -> None:
    """Ask the places of all datasets, or of those that are named, and print what they are like.

    Raises:
        NotAsExpected: a place is dead or has changed.
        MeddinoError: no such dataset is known, or this machine has no way to the internet.
    """
    options = flags().parse_intermixed_args(arguments)
    entries = _entries(options.datasets, options.config)
    findings = list(check.check(entries))
    if options.json:
        json.dump([finding._asdict() for finding in findings], sys.stdout, indent=1)
        print()
    else:
        _print(findings)
    if bad := [finding for finding in findings if finding.state in check.BAD]:
        names = ", ".join(dict.fromkeys(finding.dataset for finding in bad))
        raise NotAsExpected(
            f"{len(bad)} of {len(findings)} places are dead or have changed ({names}); until the"
            " entry is mended, give `folder`, `mirror` or other `sources` under `datasets` of the"
            " configuration"
        )


def flags() -> argparse.ArgumentParser:
    """The parser of its flags."""
    parser = argparse.ArgumentParser(prog="python -m meddino fetch --check", description=__doc__)
    parser.add_argument("datasets", nargs="*", metavar="DATASET", help="(default: all)")
    parser.add_argument(
        "--config", nargs="+", default=[], type=Path, metavar="FILE",
        help="configurations with `datasets` of your own, or with other places of known ones",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def _entries(names: Sequence[str], config: Sequence[Path]) -> Mapping[str, Dataset]:
    """Entries of the registry, those of a configuration laid over them."""
    section = layers.read(config).get("datasets") or {}
    known = dict.fromkeys([*registry.entries(), *section])
    if unknown := [name for name in names if name not in known]:
        raise MeddinoError(
            f"no dataset {', '.join(unknown)} is known; known: {', '.join(known)}; name a file that"
            " describes it by --config"
        )
    return {name: registry.resolve(name, section.get(name) or {}) for name in names or known}


def _print(findings: Sequence[check.Finding]) -> None:
    table = Table()
    for head in ("dataset", "file", "state", "of", "which says"):
        table.add_column(head, overflow="fold", no_wrap=head in ("dataset", "state"))
    for dataset, file, place, state, detail in findings:
        style = STYLES.get(state, "")
        table.add_row(dataset, Text(file), Text(state, style), Text(place), Text(detail))
    console = Console()
    console.print(table)
    counts = ", ".join(f"{count} {state}" for state, count in check.summary(findings).items())
    console.print(counts, highlight=False)
