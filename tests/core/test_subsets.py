"""Random shares of names: nested, whole, and independent of order and of other names."""

import random
from itertools import pairwise

import pytest

from meddino.core.subsets import nested_subset

NAMES = [f"case_{number:03d}" for number in range(29)]


def test_a_smaller_share_lies_within_a_larger_one() -> None:
    parts = [nested_subset(NAMES, percent, seed=3) for percent in (1, 5, 10, 25, 50, 99, 100)]
    assert [len(part) for part in parts] == [1, 2, 3, 8, 15, 29, 29], "rounded up"
    assert all(set(small) <= set(large) for small, large in pairwise(parts))
    assert parts[-1] == NAMES
    assert nested_subset(["only"], 1, seed=0) == ["only"] and nested_subset([], 50, seed=0) == []


def test_order_and_other_names_change_no_place() -> None:
    shuffled = random.Random(0).sample(NAMES, len(NAMES))
    assert nested_subset(shuffled, 25, seed=3) == nested_subset(NAMES, 25, seed=3)
    half = nested_subset(NAMES, 50, seed=3)
    fewer = [name for name in NAMES if name != half[0]]
    assert set(half[1:]) <= set(nested_subset(fewer, 50, seed=3)), "one comes in its place"


def test_seeds_draw_other_names_and_all_alike() -> None:
    draws = [nested_subset(NAMES, 25, seed) for seed in range(400)]
    assert len({tuple(draw) for draw in draws}) > 390
    share = sum(NAMES[0] in draw for draw in draws) / len(draws)
    assert share == pytest.approx(8 / 29, abs=4 * (8 / 29 * 21 / 29 / 400) ** 0.5)
