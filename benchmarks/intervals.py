"""Do the tables' intervals cover, and is their test right? `python benchmarks/intervals.py`.

Draws cases whose DSC is skewed, bounded and in part missing, as of organs and of lesions, and
prints how often the tables' 95 % interval and those of three bootstraps hold the true mean. Then it
draws tables of methods without any difference, and counts those that show one; and pairs of methods
whose differences are symmetric or skewed, and counts the significant ones, also those against the
sign of the mean. "Before" are signed-rank tests with Holm's correction within a column, "now" the
tests of the tables. With --trainings it does the first and the last with methods that are trained
several times.
"""

import argparse
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from meddino.evaluate import statistics
from meddino.evaluate.statistics import Trainings

Floats = npt.NDArray[np.float64]

CASES = (3, 6, 10, 30, 100)
DRAWS = 1000
SHARED = 0.5
"""Of the variance on the scale of logits, what a case's structures have in common."""
STRUCTURES = {
    "organs": [
        *((0.95, 0.5, 0, 1), (0.94, 0.6, 0, 1), (0.93, 0.6, 0.01, 0.97), (0.92, 0.7, 0.01, 1)),
        *((0.90, 0.5, 0, 1), (0.88, 0.6, 0, 1), (0.85, 0.8, 0.02, 1), (0.82, 0.9, 0.05, 0.85)),
        *((0.80, 0.9, 0.02, 1), (0.75, 0.9, 0.03, 1), (0.70, 0.9, 0.05, 0.98)),
        *((0.68, 0.8, 0.05, 0.98), (0.65, 0.8, 0.05, 0.95)),
    ],
    "lesions": [(0.95, 0.6, 0, 1), (0.65, 1.3, 0.15, 0.9), (0.3, 1.5, 0.4, 0.5)],
    "one of five rare": [
        *((0.95, 0.6, 0, 1), (0.9, 0.6, 0, 1), (0.85, 0.8, 0.02, 1), (0.8, 0.8, 0.02, 1)),
        (0.7, 1.0, 0.1, 1 / 6),
    ],
    "one of two rare": [(0.95, 0.6, 0, 1), (0.65, 1.3, 0.15, 1 / 6)],
}
"""Median DSC, spread on the scale of logits, share of misses (0), share of cases that have it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--intervals", type=int, default=1000, help="of each kind")
    parser.add_argument("--tables", type=int, default=200)
    parser.add_argument("--tests", type=int, default=500, help="of each kind")
    parser.add_argument(
        "--trainings", type=int, nargs="?", const=1000, help="several trainings alone: of each kind"
    )
    asked = parser.parse_args()
    if asked.trainings is not None:
        print_trainings(np.random.default_rng(0), asked.trainings)
        return
    print_coverage(np.random.default_rng(0), asked.intervals)
    print_tables(np.random.default_rng(0), asked.tables)
    print_directions(np.random.default_rng(0), asked.tests)


def draw(rng: np.random.Generator, kind: str, cases: int) -> Floats:
    """DSC in %, (cases, structures), NaN where a case lacks the structure."""
    present = rng.random((cases, len(STRUCTURES[kind]))) < np.array(STRUCTURES[kind])[:, 3]
    return np.where(present, draw_present(rng, kind, cases), np.nan)


def draw_present(rng: np.random.Generator, kind: str, cases: int) -> Floats:
    """DSC in % of cases that have all structures, (cases, structures)."""
    median, spread, missed, _ = np.array(STRUCTURES[kind]).T
    own = rng.standard_normal((cases, len(median)))
    normal = np.sqrt(SHARED) * rng.standard_normal((cases, 1)) + np.sqrt(1 - SHARED) * own
    values = 100 * special.expit(special.logit(median) + spread * normal)
    values[rng.random(values.shape) < missed] = 0
    return values


def true_means(kind: str, further: float = 0.0) -> Floats:
    """Mean of each structure over all cases, (structures,).

    Args:
        kind: a key of `STRUCTURES`.
        further: variance on the scale of logits beside that of the cases.
    """
    median, spread, missed, _ = np.array(STRUCTURES[kind]).T
    quantiles = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)[:, None]
    spread = np.sqrt(spread**2 + further)
    of_logits = special.expit(special.logit(median) + spread * quantiles).mean(axis=0)
    return np.asarray(100 * (1 - missed) * of_logits)


def bootstraps(rng: np.random.Generator, values: Floats) -> dict[str, tuple[float, float]]:
    """Intervals by three bootstraps over cases; the first one is the tables' former one."""

    def means(cases: npt.NDArray[np.int64], axis: int = -1) -> Floats:
        with np.errstate(invalid="ignore"):
            return np.nanmean(_structure_means(values[cases]), axis=-1)

    cases = (np.arange(len(values)),)
    sampled = stats.bootstrap(
        cases, means, n_resamples=DRAWS, method="percentile", vectorized=True, rng=rng
    )
    corrected = stats.bootstrap(
        cases, means, n_resamples=0, method="BCa", bootstrap_result=sampled, rng=rng
    )
    draws = values[rng.integers(0, len(values), (DRAWS, len(values)))]
    centre = np.nanmean(_structure_means(values))
    with np.errstate(invalid="ignore", divide="ignore"):
        differences = np.nanmean(_structure_means(draws), axis=-1) - centre
    errors, error = standard_error(draws), standard_error(values)
    varied = errors > 1e-9 * error  # a draw of one case alone has no error
    ends = np.quantile(differences[varied] / errors[varied], [0.975, 0.025])
    return {
        "percentile": tuple(sampled.confidence_interval),
        "BCa": tuple(corrected.confidence_interval),
        "bootstrap-t": tuple(centre - ends * error),
    }


def standard_error(values: Floats) -> Floats:
    """Of the mean over cases, then structures, (..., cases, structures): (...,)."""
    scored = ~np.isnan(values)
    counts = scored.sum(axis=-2, keepdims=True)
    structures = (counts > 0).sum(axis=-1, keepdims=True)
    deviations = values - _structure_means(values)[..., None, :]
    with np.errstate(invalid="ignore", divide="ignore"):
        errors = deviations / (structures * np.sqrt(counts * (counts - 1)))
    return np.sqrt((np.nan_to_num(errors, posinf=0, neginf=0).sum(axis=-1) ** 2).sum(axis=-1))


def _structure_means(values: Floats) -> Floats:
    counts = (~np.isnan(values)).sum(axis=-2)
    with np.errstate(invalid="ignore"):
        return np.nansum(values, axis=-2) / counts


def print_coverage(rng: np.random.Generator, runs: int) -> None:
    print("| coverage, % (median width) | cases | t | percentile | BCa | bootstrap-t | no t |")
    print("|---|---:|---:|---:|---:|---:|---:|", flush=True)
    for kind in STRUCTURES:
        for cases in CASES:
            print(
                f"| {kind} | {cases} | {' | '.join(coverage(rng, kind, cases, runs))} |", flush=True
            )


def coverage(rng: np.random.Generator, kind: str, cases: int, runs: int) -> list[str]:
    """Of runs with a t interval: coverage and width of each kind of interval; share of others."""
    ends, truths, without = [], list[float](), 0
    means = true_means(kind)
    while len(truths) < runs:
        values = draw(rng, kind, cases)
        interval = np.clip(statistics.interval(values), 0, 100)
        if np.isnan(interval).any():
            without += 1
            continue
        # Of the structures that these cases have, as the table's mean.
        truths.append(means[~np.isnan(values).all(axis=0)].mean())
        ends.append([interval, *bootstraps(rng, values).values()])
    low, high = np.moveaxis(np.array(ends), 2, 0)  # (runs, kinds of interval)
    truth = np.array(truths)[:, None]
    shares = 100 * ((low <= truth) & (truth <= high)).mean(axis=0)
    widths = np.nanmedian(high - low, axis=0)
    texts = [f"{share:.1f} ({width:.1f})" for share, width in zip(shares, widths, strict=True)]
    return [*texts, f"{100 * without / (without + runs):.0f}"]


COLUMNS = (("organs", 48), ("lesions", 24), ("lesions", 12), ("organs", 6))
"""Benchmarks of a table: their structures and cases."""
METHODS = 4


def print_tables(rng: np.random.Generator, tables: int) -> None:
    """How often a table of DSC and NSD shows a difference between methods that have none."""
    wrong = {"before": 0, "now": 0}
    for _ in range(tables):
        by_column, together = [], []
        for kind, cases in COLUMNS:
            absent = np.isnan(draw(rng, kind, cases))  # for all methods: the reference lacks it
            methods = [draw_present(rng, kind, cases) for _ in range(METHODS)]
            dsc = [np.where(absent, np.nan, values) for values in methods]
            nsd = [values * rng.uniform(0.7, 1, values.shape) for values in dsc]
            for first, *others in (dsc, nsd):
                p = np.array([signed_rank(other, first) for other in others])
                by_column.append(statistics.holm(p))
                together += [statistics.contrast(other, first).p for other in others]
        wrong["before"] += bool(np.min(by_column) < 0.05)
        wrong["now"] += bool(np.min(statistics.holm(np.array(together))) < 0.05)
    print(
        f"\nTables of {METHODS} methods without differences, {2 * len(COLUMNS)} columns: ", end=""
    )
    shares = (f"{name} {100 * count / tables:.1f} %" for name, count in wrong.items())
    print(f"a difference shows in {', '.join(shares)} of {tables}", flush=True)


def signed_rank(first: Floats, second: Floats) -> float:
    """The tables' former test, of each case's mean over structures."""
    return float(stats.wilcoxon(np.nanmean(first - second, axis=1)).pvalue)


RARE_GAINS = {"symmetric, mean 0": 0.0, "skewed, mean 0": 36.0, "skewed, mean +4": 76.0}
"""What a method gains in one of ten cases (% DSC); in the others it loses 4 where skewed."""


def print_directions(rng: np.random.Generator, runs: int) -> None:
    """How often single tests are significant, and how often against the sign of the mean."""
    heads = "before | before, against the mean | now | now, against the mean"
    print(f"\n| p < 0.05, % of runs | cases | {heads} |")
    print("|---|---:|---:|---:|---:|---:|", flush=True)
    for name, rare_gain in RARE_GAINS.items():
        for cases in (6, 10, 20, 50):
            counts = np.zeros(4)
            for _ in range(runs):
                rare = rng.random((cases, 1)) < 0.1
                usual = 0 if name.startswith("symmetric") else -4
                gain = np.where(rare, rare_gain, usual) + rng.normal(0, 3, (cases, 1))
                base = rng.uniform(4, 20, (cases, 1))
                now = statistics.contrast(base + gain, base)
                significant = np.array([signed_rank(base + gain, base), now.p]) < 0.05
                ranks = stats.rankdata(np.abs(gain)) @ np.sign(gain)
                against = np.array([ranks[0], now.difference]) * gain.mean() < 0
                counts += np.stack([significant, significant & against], axis=1).ravel()
            shares = " | ".join(f"{100 * count / runs:.1f}" for count in counts)
            print(f"| {name} | {cases} | {shares} |", flush=True)


# ---- several trainings --------------------------------------------------------------------------

SCATTER = {"none": (0.0, 0.2), "some": (0.1, 0.2), "much": (0.3, 0.4)}
"""Spread of trainings, and of what each does to single values, on the scale of logits. A
method's mean then has a standard deviation over trainings of 0, 1.5 and 3.8 % DSC for organs; for
lesions, of 0, 0.9 and 2.7."""
SEEDS, SHOWN = (2, 3, 5), 3
TRAINED = ((6, 1), (10, 1), (30, 1), (30, 5))
"""Cases, and the folds that they are divided among."""


class Patients(NamedTuple):
    """What cases are like, whichever method segments them: all (cases, structures).

    Attributes:
        difficulty: of unit variance.
        missed: whether a structure gets 0.
        absent: whether the reference lacks it.
    """

    difficulty: Floats
    missed: npt.NDArray[np.bool_]
    absent: npt.NDArray[np.bool_]


def draw_patients(rng: np.random.Generator, kind: str, cases: int) -> Patients:
    """Cases of which each structure is in two at least."""
    _, _, missed, share = np.array(STRUCTURES[kind]).T
    while True:
        absent = rng.random((cases, len(share))) >= share
        if ((~absent).sum(axis=0) >= 2).all():
            break
    own = rng.standard_normal(absent.shape)
    difficulty = np.sqrt(SHARED) * rng.standard_normal((cases, 1)) + np.sqrt(1 - SHARED) * own
    return Patients(difficulty, rng.random(absent.shape) < missed, absent)


def train(
    rng: np.random.Generator, kind: str, patients: Patients, scatter: str, seeds: int, folds: int
) -> Trainings:
    """DSC in % of a method's trainings, those of each fold by themselves."""
    median, spread, _, _ = np.array(STRUCTURES[kind]).T
    cases = len(patients.difficulty)
    fold = np.arange(cases) % folds
    of_training, of_value = SCATTER[scatter]
    logits = special.logit(median) + spread * patients.difficulty
    logits = logits + of_training * rng.standard_normal((seeds, folds))[:, fold, None]
    logits = logits + of_value * rng.standard_normal((seeds, *patients.difficulty.shape))
    values = np.where(patients.missed, 0, 100 * special.expit(logits))
    return Trainings(np.where(patients.absent, np.nan, values), fold)


def crossed_bootstrap(rng: np.random.Generator, trainings: Trainings) -> tuple[float, float]:
    """Percentile bootstrap over cases and trainings."""
    cases = len(trainings.folds)
    times = rng.multinomial(cases, np.full(cases, 1 / cases), DRAWS).astype(np.float64)
    low, high = np.nanquantile(statistics.resampled_means(trainings, times, rng), [0.025, 0.975])
    return float(low), float(high)


def as_cases(trainings: Trainings) -> Floats:
    """Seeds as if they were cases."""
    return trainings.rows()


def of_means(trainings: Trainings) -> Floats:
    """Cases with their mean over seeds, as if there was one training."""
    return np.asarray(trainings.values.mean(axis=0))


def print_trainings(rng: np.random.Generator, runs: int) -> None:
    """Coverage of intervals, and how often tests of equal methods are significant."""
    measures = {
        "coverage, % (median width)": (coverage_of, ("cases alone", "bootstrap")),
        "p < 0.05, % of equal methods": (errors_of, ("cases alone", "seeds as cases")),
    }
    for title, (measure, others) in measures.items():
        seeds_heads = [f"{seeds} seeds" for seeds in SEEDS]
        heads = [title, "scatter", "cases", "folds", *seeds_heads]
        print(f"| {' | '.join([*heads, *(f'{name}, {SHOWN} seeds' for name in others)])} |")
        print(f"|---|---|{'---:|' * (len(heads) + len(others) - 2)}", flush=True)
        for kind, scatter, (cases, folds) in product(("organs", "lesions"), SCATTER, TRAINED):
            by_seeds = {s: measure(rng, (kind, scatter, cases, folds, s), runs) for s in SEEDS}
            texts = [*(values[0] for values in by_seeds.values()), *by_seeds[SHOWN][1:]]
            print(f"| {' | '.join([kind, scatter, str(cases), str(folds), *texts])} |", flush=True)
        print()


Setting = tuple[str, str, int, int, int]
"""Kind of structures, scatter, cases, folds, seeds."""


def pairs(
    rng: np.random.Generator, setting: Setting, runs: int
) -> Iterator[tuple[Trainings, Trainings]]:
    """Two equal methods on the same cases."""
    kind, scatter, cases, folds, seeds = setting
    for _ in range(runs):
        patients = draw_patients(rng, kind, cases)
        first, second = (train(rng, kind, patients, scatter, seeds, folds) for _ in range(2))
        yield first, second


def coverage_of(rng: np.random.Generator, setting: Setting, runs: int) -> list[str]:
    """Coverage of the tables' interval, of one over cases alone, and of the bootstrap."""
    truth = true_means(setting[0], float(np.square(SCATTER[setting[1]]).sum())).mean()
    ends = [
        [
            statistics.interval_over_trainings(first),
            statistics.interval(of_means(first)),
            # It takes long, and is printed for so many seeds alone.
            crossed_bootstrap(rng, first) if setting[-1] == SHOWN else (np.nan, np.nan),
        ]
        for first, _ in pairs(rng, setting, runs)
    ]
    low, high = np.moveaxis(np.clip(ends, 0, 100), 2, 0)  # (runs, kinds of interval)
    shares = 100 * ((low <= truth) & (truth <= high)).mean(axis=0)
    widths = np.median(high - low, axis=0)
    return [f"{share:.1f} ({width:.1f})" for share, width in zip(shares, widths, strict=True)]


def errors_of(rng: np.random.Generator, setting: Setting, runs: int) -> list[str]:
    """How often tests are significant: the tables', over cases alone, and of seeds as cases."""
    p_values = [
        [
            statistics.contrast_over_trainings(first, second).p,
            t_test(of_means(first), of_means(second)),
            t_test(as_cases(first), as_cases(second)),
        ]
        for first, second in pairs(rng, setting, runs)
    ]
    return [f"{share:.1f}" for share in 100 * (np.array(p_values) < 0.05).mean(axis=0)]


def t_test(first: Floats, second: Floats) -> float:
    """A paired t-test of the tables' difference over rows; it stands for their permutation test."""
    folds = np.zeros(len(first), np.int64)
    pair = (Trainings(values[None], folds) for values in (first, second))
    return statistics.contrast_over_trainings(*pair).p


if __name__ == "__main__":
    main()
