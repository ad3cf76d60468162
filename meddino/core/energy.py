"""Energy that the processors of this machine use, where Linux lets one read it (RAPL)."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ZONES = Path("/sys/class/powercap")
EVERY_SECONDS = 60.0
"""Counters start again after some 260 kJ, which a large processor uses in ten minutes."""


class Energy:
    """Adds up what the processors use while the block runs: all their work, not this job's alone.

    `joules` is None where there is no counter or it may not be read, as in most containers.
    """

    def __init__(self, zones: Path = ZONES) -> None:
        """Look for counters of whole packages; those of their parts would count twice."""
        self._zones = list(_readable(zones))
        self._last = self._read()
        self._total, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    @property
    def joules(self) -> float | None:
        """What was used so far (J)."""
        return self._total / 1e6 if self._zones else None

    def __enter__(self) -> "Energy":
        """Begin."""
        if self._zones:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Read the counters for the last time."""
        self._stop.set()
        if self._zones:
            self._thread.join()

    def _follow(self) -> None:
        stopped = False
        while not stopped:
            stopped = self._stop.wait(EVERY_SECONDS)
            now = self._read()
            for (_, span), before, after in zip(self._zones, self._last, now, strict=True):
                self._total += (after - before) % span
            self._last = now

    def _read(self) -> list[int]:
        return [int((zone / "energy_uj").read_text()) for zone, _ in self._zones]


def _readable(zones: Path) -> Iterator[tuple[Path, int]]:
    for zone in sorted(zones.glob("*")):
        with suppress(OSError, ValueError):
            if (zone / "name").read_text().startswith("package"):
                int((zone / "energy_uj").read_text())
                yield zone, int((zone / "max_energy_range_uj").read_text()) + 1
