"""The command line: `python -m meddino VERB`."""

import sys
from collections.abc import Sequence

from meddino.cli.forkserver import hand_over


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; return 0, or another status after printing an error that a user can mend."""
    # Imported here: a job that a fork takes over needs none of it.
    from meddino.cli.main import main as run

    return run(arguments)


if __name__ == "__main__":
    status = hand_over(sys.argv[1:])
    sys.exit(main() if status is None else status)
