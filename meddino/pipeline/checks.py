"""What is checked before the first job of a study starts."""

import sys
from collections.abc import Iterable
from pathlib import Path

from meddino.core.errors import MeddinoError
from meddino.study.jobs.finetune import convert_options
from meddino.study.model import Study

REMARK = "remark: "
"""How a line begins that `study` shows of all that Snakemake prints."""
LOGS = Path("logs/check")
"""Where reasons stay, also after Snakemake has removed what a failed job made."""


def check_benchmarks(study: Study, names: Iterable[str]) -> None:
    """Read the labels of benchmarks in folders of yours, and say which cases would be left out.

    Args:
        study: the configuration.
        names: benchmarks that are about to be converted.

    Raises:
        MeddinoError: a benchmark has too few cases; nothing that takes long has run by then.
    """
    problems = []
    for name in names:
        root = study.dataset(study.benchmarks[name].dataset).root
        if root is None:
            continue
        log = LOGS / f"{name}.log"
        try:
            _check(study, name, root, log)
        except MeddinoError as error:
            listed = log.exists() and log.stat().st_size
            where = "" if name in str(error).partition(":")[0] else f"benchmarks.{name}: "
            problems.append(f"{where}{error}{f' (all in {log})' if listed else ''}")
    if problems:
        raise MeddinoError("\n".join(problems))


def _check(study: Study, name: str, root: Path, log: Path) -> None:
    from meddino.finetune import usable  # loads NumPy and SimpleITK

    if rejected := usable.check(convert_options(study, name), root, name, log):
        print(
            f"{REMARK}benchmarks.{name}: {len(rejected)} labelled cases will be left out:"
            f" {usable.grouped(rejected)} (all in {log})",
            file=sys.stderr,
        )
