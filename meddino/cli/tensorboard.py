"""The `tensorboard` verb: what trainings have logged, as event files that TensorBoard shows.

Trainings write no events themselves, so they do not need TensorBoard, and every training that ever
ran can be shown: from the `history.jsonl` of stages and finetunings, and from the log of a stage
that is still running, whose history appears with its last checkpoint. Results are only read.
"""

import argparse
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from meddino.core.errors import MeddinoError
from meddino.core.files import read_lines

HISTORIES = ("pretrain/*/history.jsonl", "finetune/*/*/fold*/history.jsonl")
LOGS = Path("logs/pretrain")
STEPS = ("iteration", "epoch")
"""What counts the lines of a history."""
ITERATION = re.compile(r"^iteration (\d+): (.+)$")
"""What a stage of pretraining says of an iteration."""


def main(arguments: Sequence[str]) -> None:
    """Write event files of all trainings below a folder of results.

    Raises:
        MeddinoError: nothing has been logged there, or TensorBoard is not installed.
    """
    parser = argparse.ArgumentParser(prog="python -m meddino tensorboard", description=__doc__)
    parser.add_argument("results", nargs="?", type=Path, default=Path("results"))
    parser.add_argument(
        "--output", type=Path, default=Path("logs/tensorboard"), metavar="FOLDER",
        help="where the event files go (logs/tensorboard); what is there of these runs is replaced",
    )  # fmt: skip
    parser.add_argument(
        "--every", type=float, metavar="SECONDS", help="look again so often, until interrupted"
    )
    options = parser.parse_args(arguments)
    board = Board(options.output)
    runs = dict(histories(options.results))
    if not runs and options.every is None:
        raise MeddinoError(f"{options.results}: no training has logged anything below it yet")
    board.show(runs)
    print(f"{len(runs)} runs; show them with: tensorboard --logdir {options.output}", flush=True)
    with suppress(KeyboardInterrupt):
        while options.every is not None:
            time.sleep(options.every)
            board.show(dict(histories(options.results)))


def histories(results: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The lines of each training below `results`, by its folder there."""
    folders = {path.parent for pattern in HISTORIES for path in results.glob(pattern)}
    for folder in sorted(folders):
        yield folder.relative_to(results).as_posix(), read_lines(folder / "history.jsonl")
    for log in sorted(LOGS.glob("*.log")):
        # A stage that is done has its history, which holds more digits.
        logged = [] if results / "pretrain" / log.stem in folders else list(_logged(log))
        if logged:
            yield f"pretrain/{log.stem}", logged


def _logged(log: Path) -> Iterator[dict[str, Any]]:
    """What a stage that is under way has printed: `iteration 20: loss 11.2, ...`."""
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if match := ITERATION.match(line.rpartition("\r")[2]):
            pairs = (pair.rpartition(" ") for pair in match[2].split(", "))
            yield {"iteration": int(match[1]), **{name: float(value) for name, _, value in pairs}}


def scalars(line: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a line by the names that TensorBoard groups them by; lists are counted."""
    for name, value in line.items():
        if isinstance(value, list):
            numbers = {f"{name}/{number}": part for number, part in enumerate(value)}
        else:
            numbers = {f"train/{name}": value}
        for label, number in numbers.items():
            if name not in STEPS and isinstance(number, int | float) and math.isfinite(number):
                yield label, number


class Board:
    """A folder of event files: a folder a run."""

    def __init__(self, folder: Path) -> None:
        """Begin anew with each run that will be shown.

        Raises:
            MeddinoError: TensorBoard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MeddinoError(
                f"TensorBoard is not installed ({error}): pip install 'meddino[tensorboard]'"
            ) from error
        self._folder, self._open = folder, SummaryWriter
        self._shown: dict[str, tuple[Any, int]] = {}

    def show(self, runs: Mapping[str, list[dict[str, Any]]]) -> None:
        """Add what is new of each run; one that began anew takes the place of what was there."""
        for name, lines in runs.items():
            self._show(name, lines)

    def _show(self, name: str, lines: list[dict[str, Any]]) -> None:
        writer, last = self._shown.get(name, (None, -1))
        steps = [next(line[key] for key in STEPS if key in line) for line in lines]
        if writer is None or (steps and steps[-1] < last):
            if writer is not None:
                writer.close()
            for old in (self._folder / name).glob("events.out.tfevents.*"):
                old.unlink()
            writer, last = self._open(str(self._folder / name)), -1
        for step, line in zip(steps, lines, strict=True):
            if step > last:
                for label, value in scalars(line):
                    writer.add_scalar(label, value, step)
        writer.flush()
        self._shown[name] = writer, max([last, *steps])
