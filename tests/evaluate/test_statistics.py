"""Intervals and tests: of the mean that tables show, right where it can be worked out otherwise."""

import numpy as np
import pytest
from scipy import stats

from meddino.evaluate import statistics

NAN = float("nan")


def test_the_mean_is_over_cases_then_over_structures() -> None:
    values = np.array([[90.0, 20.0], [70.0, NAN], [NAN, NAN]])
    assert statistics.mean(values) == pytest.approx((80 + 20) / 2)
    assert statistics.mean(np.concatenate([values, np.full((3, 1), NAN)], axis=1)) == 50
    assert np.isnan(statistics.mean(np.empty((0, 0))))


def test_with_all_values_the_interval_is_students_of_the_means_of_cases() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(50, 10, (20, 1)) + rng.normal(0, 0.1, (20, 3))
    by_case = values.mean(axis=1)
    expected = stats.t.interval(0.95, 19, by_case.mean(), stats.sem(by_case))
    assert statistics.interval(values) == pytest.approx(expected)
    absent = np.concatenate([values, np.full((5, 3), NAN)])
    assert statistics.interval(absent) == pytest.approx(expected), "cases without values"
    absent = np.concatenate([values, np.full((20, 2), NAN)], axis=1)
    assert statistics.interval(absent) == pytest.approx(expected), "structures without values"


def test_few_cases_of_a_structure_that_varies_widen_the_interval() -> None:
    values = np.random.default_rng(0).normal(80, 2, (30, 2))
    narrow = np.ptp(statistics.interval(values))
    values[:, 1] = NAN
    values[:2, 1] = 40, 60  # Student's t of two cases: 12.7 standard errors instead of 2
    low, high = statistics.interval(values)
    assert high - low == pytest.approx(2 * 12.7 * 10 / 2, rel=0.05) and high - low > 10 * narrow


def test_a_structure_that_one_case_has_leaves_no_interval() -> None:
    values = np.random.default_rng(0).uniform(0, 100, (6, 2))
    values[1:, 1] = NAN
    assert np.isnan(statistics.interval(values)).all()
    assert np.isnan(statistics.interval(values[:1])).all()
    assert np.isnan(statistics.interval(np.empty((0, 0)))).all()
    compared = statistics.contrast(values, values + 1)
    assert compared.difference == -1 and np.isnan(compared.low) and compared.p == 2 / 2**6


@pytest.mark.parametrize("cases", [3, 10])
def test_the_interval_covers(cases: int) -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(600):
        values = rng.normal(50, 5, (cases, 1)) + rng.normal(0, 5, (cases, 4))
        low, high = statistics.interval(values)
        covered += low <= 50 <= high
    assert covered / 600 == pytest.approx(0.95, abs=0.03)


def test_a_comparison_is_of_the_two_means_that_tables_show() -> None:
    rng = np.random.default_rng(0)
    first = rng.uniform(0, 100, (25, 3))
    second = first + rng.normal(2, 5, first.shape)
    compared = statistics.contrast(first, second)
    by_case = (first - second).mean(axis=1)
    expected = stats.t.interval(0.95, 24, by_case.mean(), stats.sem(by_case))
    assert compared[:3] == pytest.approx((by_case.mean(), *expected))
    second[3:9, 1] = NAN  # a structure that only one method has a distance for
    compared = statistics.contrast(first, second)
    assert compared.difference == statistics.mean(first) - statistics.mean(second)
    assert compared.low < compared.difference < compared.high


def test_the_test_is_the_exact_permutation_test_of_the_difference() -> None:
    rng = np.random.default_rng(0)
    first = rng.uniform(0, 100, (9, 3))
    second = first + rng.normal(4, 10, first.shape)
    compared = statistics.contrast(first, second)
    signs = 1 - 2 * ((np.arange(2**9)[:, None] >> np.arange(9)) & 1)
    sums = signs @ (first - second).mean(axis=1)
    assert compared.p == pytest.approx((np.abs(sums) >= abs(sums[0]) - 1e-9).mean())
    assert statistics.contrast(second, first).p == pytest.approx(compared.p)
    assert statistics.contrast(first, first) == (0, 0, 0, 1)
    assert statistics.contrast(first, np.full_like(first, NAN)) is statistics.UNKNOWN


def test_many_cases_are_permuted_at_random_but_the_same_each_time() -> None:
    rng = np.random.default_rng(0)
    first = rng.uniform(0, 100, (30, 2))
    second = first + rng.normal(1, 3, first.shape)
    p = statistics.contrast(first, second).p
    by_case = (first - second).mean(axis=1)
    assert p == statistics.contrast(first, second).p
    assert p == pytest.approx(stats.ttest_1samp(by_case, 0).pvalue, abs=0.02)


def test_no_test_calls_a_method_worse_whose_mean_is_better() -> None:
    other = np.full((20, 1), 67.0)
    better_on_two = other + np.where(np.arange(20) < 2, 30, -1.0)[:, None]
    assert stats.wilcoxon((better_on_two - other)[:, 0]).pvalue < 0.05, "ranks say worse"
    compared = statistics.contrast(better_on_two, other)
    assert compared.difference > 0 and compared.p > 0.05


def test_no_p_below_the_fewest_cases_for_a_test() -> None:
    first = np.arange(6.0)[:, None]
    assert statistics.contrast(first, first - 10).p == 2 / 2**6
    assert np.isnan(statistics.contrast(first[:5], first[:5] - 10).p)
    empty = np.full((4, 1), NAN)  # cases without values are none
    few = np.concatenate([first[:5], empty]), np.concatenate([first[:5] - 10, empty])
    assert np.isnan(statistics.contrast(*few).p)


def test_holm_steps_down() -> None:
    corrected = statistics.holm(np.array([0.04, NAN, 0.01, 0.03, 0.9]))
    np.testing.assert_allclose(corrected, [0.09, NAN, 0.04, 0.09, 0.9])
