"""Files of runs, by benchmark and method."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path


def by_benchmark(paths: Sequence[Path]) -> dict[str, dict[str, Path]]:
    """Files of runs, `.../<benchmark>/<method>/fold<k>/<file>`, by benchmark and method.

    Of several folds, the first one counts.
    """
    runs: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in paths:
        benchmark, method = path.parts[-4:-2]
        runs[benchmark].setdefault(method, path)
    return dict(runs)
