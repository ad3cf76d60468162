"""Intervals and tests: of the mean that tables show, right where it can be worked out otherwise."""

import numpy as np
import pytest
from scipy import stats

from meddino.evaluate import statistics
from meddino.evaluate.statistics import Trainings

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


# ---- several trainings --------------------------------------------------------------------------


def trained(values: np.ndarray, folds: int = 1) -> Trainings:
    return Trainings(values, np.arange(values.shape[1]) % folds)


def two_way(
    rng: np.random.Generator, seeds: int, cases: int, of_training: float, folds: int = 1
) -> Trainings:
    """One structure: cases spread by 5, values by 2 beside, trainings of each fold as asked."""
    fold = np.arange(cases) % folds
    values = 50 + rng.normal(0, 5, (1, cases, 1)) + rng.normal(0, 2, (seeds, cases, 1))
    return Trainings(values + rng.normal(0, of_training, (seeds, folds))[:, fold, None], fold)


def test_one_training_says_what_the_functions_for_one_say() -> None:
    rng = np.random.default_rng(0)
    first = rng.uniform(0, 100, (12, 3))
    second = first + rng.normal(0, 5, first.shape)
    whole = [trained(values[None]) for values in (first, second)]
    p = statistics.contrast(first, second).p
    assert statistics.contrast_over_trainings(*whole).p == pytest.approx(p, abs=0.05), "a t-test"
    first[4:, 2] = NAN
    one = [trained(values[None]) for values in (first, second)]
    assert statistics.interval_over_trainings(one[0]) == pytest.approx(statistics.interval(first))
    several, single = statistics.contrast_over_trainings(*one), statistics.contrast(first, second)
    assert several[:3] == pytest.approx(single[:3])


def test_the_variance_is_that_of_cases_and_that_of_trainings() -> None:
    sample = two_way(np.random.default_rng(1), 4, 9, 3.0)
    by_case, by_seed = sample.values[:, :, 0].mean(axis=0), sample.values[:, :, 0].mean(axis=1)
    parts = by_case.var(ddof=1) / 9, by_seed.var(ddof=1) / 4
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 8 + parts[1] ** 2 / 3)
    expected = stats.t.interval(0.95, freedom, by_case.mean(), np.sqrt(sum(parts)))
    assert statistics.interval_over_trainings(sample) == pytest.approx(expected)


def test_trainings_are_nested_in_folds() -> None:
    sample = two_way(np.random.default_rng(2), 3, 12, 4.0, folds=4)
    by_case = sample.values[:, :, 0].mean(axis=0)
    parts, freedoms = [by_case.var(ddof=1) / 12], [11]
    for fold in range(4):
        means = sample.values[:, sample.folds == fold, 0].mean(axis=1)
        parts.append((1 / 4) ** 2 * means.var(ddof=1) / 3)
        freedoms.append(2)
    freedom = sum(parts) ** 2 / sum(v**2 / f for v, f in zip(parts, freedoms, strict=True))
    expected = stats.t.interval(0.95, freedom, by_case.mean(), np.sqrt(sum(parts)))
    assert statistics.interval_over_trainings(sample) == pytest.approx(expected)


def test_equal_trainings_add_nothing_and_equal_values_leave_no_width() -> None:
    values = np.random.default_rng(0).uniform(0, 100, (8, 2))
    repeated = trained(np.repeat(values[None], 3, axis=0))
    assert statistics.interval_over_trainings(repeated) == pytest.approx(
        statistics.interval(values)
    )
    assert statistics.contrast_over_trainings(repeated, repeated) == (0, 0, 0, 1)
    more = repeated._replace(values=repeated.values + 1)
    assert statistics.contrast_over_trainings(more, repeated).p < 1e-9
    nothing = repeated._replace(values=np.full((3, 8, 2), NAN))
    assert statistics.contrast_over_trainings(nothing, repeated) is statistics.UNKNOWN
    assert np.isnan(statistics.interval_over_trainings(nothing)).all()
    few = repeated.only(np.arange(8) < 5)
    assert np.isnan(statistics.contrast_over_trainings(few, few).p)


@pytest.mark.parametrize(("cases", "folds"), [(6, 1), (30, 1), (30, 5)])
def test_the_interval_over_trainings_covers_and_the_test_errs_as_often_as_it_says(
    cases: int, folds: int
) -> None:
    rng = np.random.default_rng(0)
    covered = wrong = naive = 0
    for _ in range(500):
        first = two_way(rng, 3, cases, 2.0, folds)
        low, high = statistics.interval_over_trainings(first)
        covered += low <= 50 <= high
        other = two_way(rng, 3, cases, 2.0, folds)
        wrong += statistics.contrast_over_trainings(first, other).p < 0.05
        alone = [trained(t.values.mean(axis=0)[None]) for t in (first, other)]
        naive += statistics.contrast_over_trainings(*alone).p < 0.05
    assert covered / 500 == pytest.approx(0.95, abs=0.035)
    assert wrong / 500 < 0.07
    assert naive >= wrong, "cases alone are sure too soon"


def test_dz_is_the_mean_difference_over_its_deviation() -> None:
    rng = np.random.default_rng(0)
    first = rng.uniform(0, 100, (2, 20, 3))
    second = first[:1] - rng.normal(3, 6, (1, 20, 3))
    by_case = (first.mean(axis=0) - second[0]).mean(axis=1)
    expected = by_case.mean() / by_case.std(ddof=1)
    assert statistics.standardised(trained(first), trained(second)) == pytest.approx(expected)
    assert np.isnan(statistics.standardised(trained(first), trained(first)))


def test_draws_have_the_mean_and_the_spread_of_what_is_drawn() -> None:
    rng = np.random.default_rng(0)
    sample = two_way(rng, 4, 15, 3.0, folds=3)
    ones = np.ones((4000, 15))
    draws = statistics.resampled_means(sample, ones, rng)
    by_fold = [sample.values[:, sample.folds == fold, 0].mean(axis=1) for fold in range(3)]
    assert draws.mean() == pytest.approx(sample.values.mean(), abs=0.1)
    assert draws.var() == pytest.approx(sum(m.var() / 4 / 9 for m in by_fold), rel=0.1)
    once = statistics.resampled_means(trained(sample.values[:1]), ones[:3], rng)
    assert once == pytest.approx(sample.values[0].mean()), "one training is drawn each time"
