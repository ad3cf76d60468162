"""How a check ends that does not simply give figures."""

from typing import Any

Figures = dict[str, Any]


class Skip(Exception):
    """A check does not apply here; the message says why."""


class Missed(Exception):
    """A figure is not what it should be; the others are told all the same."""

    def __init__(self, message: str, figures: Figures) -> None:
        super().__init__(message)
        self.figures = figures
