"""Random shares of named things: the same on every machine, and each within the next larger one."""

import hashlib
from collections.abc import Iterable


def share_of(count: int, percent: int) -> int:
    """How many of `count` things a share (1 to 100 %) is, rounded up."""
    return -(-count * percent // 100)


def nested_subset(names: Iterable[str], percent: int, seed: int) -> list[str]:
    """A share of some names, drawn at random.

    Names are ordered by a digest of seed and name, and the first ones are taken. So a smaller share
    lies within a larger one, and a name that comes or goes changes the place of no other.

    Args:
        names: all of them, in any order.
        percent: how many are taken, 1 to 100 %, rounded up to a whole name.
        seed: another one draws other names.

    Returns:
        The names that are taken, sorted.
    """
    ordered = sorted(names, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    return sorted(ordered[: share_of(len(ordered), percent)])
