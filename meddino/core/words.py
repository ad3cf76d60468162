"""Parts of messages."""

from collections.abc import Sequence


def some(names: Sequence[str], most: int) -> str:
    """The first names of a list, and how many more there are: `a, b and 3 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
