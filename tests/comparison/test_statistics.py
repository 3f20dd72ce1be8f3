"""Each formula against a second derivation: enumeration, scipy's own, or simulation with a derived tolerance."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nasenv.comparison.statistics import (
    RESAMPLES,
    fewest_seeds,
    holm,
    improvement,
    interquartile_interval,
    interquartile_mean,
    mean_interval,
    mean_ranks,
    mean_time,
    median_time,
    seeds_needed,
    signed_rank,
    smallest_difference,
    step_function_at,
    wilson,
)

tied = st.integers(-4, 4).map(float)  # few distinct values: many ties


def samples(least: int, most: int, elements=tied):
    return st.integers(least, most).flatmap(lambda n: arrays(np.float64, n, elements=elements))


def assert_same_interval(ours: tuple[float, float], theirs: tuple[float, float]):
    """Two bootstraps of the same statistic may differ by their resamples.

    A quantile of B resamples has the standard error sqrt(q (1 - q) / B) / density, 0.06 standard deviations of the
    statistic at 2.5 %; each end may be off by five times that of the difference of two.
    """
    deviation = (theirs[1] - theirs[0]) / (2 * 1.96)
    error = math.sqrt(0.025 * 0.975 / RESAMPLES) / scipy.stats.norm.pdf(1.96) * deviation
    assert ours == pytest.approx(theirs, abs=5 * math.sqrt(2) * error)


# Curves


@given(samples(0, 6, st.integers(0, 9).map(float)), samples(1, 8, st.integers(-1, 10).map(float)))
def test_a_step_function_has_the_last_value_reached(x, grid):
    x, y = np.sort(x), np.arange(len(x), dtype=float)
    expected = [max((i for i in range(len(x)) if x[i] <= g), default=math.nan) for g in grid]
    np.testing.assert_array_equal(step_function_at(x, y, grid), expected)


# Interquartile mean


@given(samples(1, 30, st.floats(-1e3, 1e3)))
def test_interquartile_mean_is_the_trimmed_mean(values):
    expected = scipy.stats.trim_mean(values, 0.25)  # what the paper's code calls
    assert interquartile_mean(values) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("values", "expected"), [([9, 1, 2], 4), ([100, 1, 2, 4], 3), ([7, 100, 1, 2, 3], 4)])
def test_no_value_is_cut_off_in_part(values, expected):
    assert interquartile_mean(np.array(values, dtype=float)) == expected


def test_interquartile_interval_is_that_of_plain_resampling():
    values = np.random.default_rng(0).exponential(size=41)
    theirs = scipy.stats.bootstrap(
        (values,),
        lambda x, axis: scipy.stats.trim_mean(x, 0.25, axis=axis),
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert_same_interval(interquartile_interval(values, 0), (theirs.low, theirs.high))


def test_interquartile_intervals_cover_the_truth():
    columns = np.random.default_rng(0).normal(size=(60, 1000))
    low, high = interquartile_interval(columns, 0)
    covered = np.mean((low < 0) & (high > 0))
    assert 0.92 - 3 * math.sqrt(0.92 * 0.08 / 1000) < covered < 0.96 + 3 * math.sqrt(0.96 * 0.04 / 1000)


def test_columns_do_not_matter_to_each_other_and_seeds_repeat():
    columns = np.random.default_rng(0).normal(size=(9, 4))
    together = interquartile_interval(columns, 3)
    alone = [interquartile_interval(column, 3) for column in columns.T]
    np.testing.assert_allclose(np.transpose(together), alone, rtol=1e-12)
    assert interquartile_interval(columns[:, 0], 4) != alone[0]


@given(st.floats(-1e3, 1e3), st.integers(1, 12))
def test_equal_values_have_exactly_their_own_mean_and_no_width(value, n):
    values = np.full(n, value)
    assert interquartile_mean(values) == value
    assert interquartile_interval(values, 0) == (value, value)


# Success


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(counts):
    theirs = scipy.stats.binomtest(*counts).proportion_ci(method="wilson")
    assert wilson(counts[0] / counts[1], counts[1]) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=12))
def test_times_are_kaplan_and_meiers(runs):
    times, met = np.array([t for t, _ in runs], dtype=float), np.array([m for _, m in runs])
    surviving = scipy.stats.ecdf(scipy.stats.CensoredData(uncensored=times[met], right=times[~met])).sf
    steps = np.arange(0, times.max())  # the curve is constant between whole numbers
    by_then = [t for t in range(1, 10) if surviving.evaluate(t) <= 0.5 + 1e-9]
    assert median_time(times, met) == (by_then[0] if by_then else None)
    assert mean_time(times, met, 0)[0] == pytest.approx(surviving.evaluate(steps).sum())


def test_runs_of_one_budget_have_the_plain_mean_and_its_interval():
    times = np.minimum(np.random.default_rng(0).geometric(0.01, size=50), 150).astype(float)
    mean, *interval = mean_time(times, times < 150, 0)
    theirs = scipy.stats.bootstrap(
        (times,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert mean == pytest.approx(times.mean())
    assert_same_interval(tuple(interval), (theirs.low, theirs.high))


def test_ending_early_without_success_does_not_shorten_the_mean():
    # One of four gives up at 1. Of the others, met at 2, 4 and 6, the mean is 4: by hand, 2 + 2 * 2/3 + 2 * 1/3.
    times, met = np.array([1.0, 2.0, 4.0, 6.0]), np.array([False, True, True, True])
    assert mean_time(times, met, 0)[0] == pytest.approx(4.0)
    assert times.mean() < 4.0


def test_median_of_too_few_successes_is_not_known():
    assert median_time(np.array([3.0, 9.0, 9.0]), np.array([True, False, False])) is None
    assert median_time(np.array([3.0, 9.0]), np.array([True, False])) == 3.0


# Two agents


@given(samples(1, 12), samples(1, 12))
def test_improvement_counts_all_pairs_and_ties_half(x, y):
    expected = np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a in x for b in y])
    value, low, high = improvement(x, y, 0)
    assert value == pytest.approx(expected)
    assert 0 <= low <= high <= 1


def test_improvement_interval_is_that_of_plain_resampling():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 9, size=30) + 1.0, rng.integers(0, 9, size=30).astype(float)
    one, other = rng.choice(x, size=(RESAMPLES, 30, 1)), rng.choice(y, size=(RESAMPLES, 1, 30))
    drawn = ((one > other) + (one == other) / 2).mean(axis=(1, 2))
    assert_same_interval(improvement(x, y, 0)[1:], tuple(np.quantile(drawn, [0.025, 0.975])))


@settings(deadline=None)
@given(samples(1, 9))
def test_signed_rank_is_exact_with_ties_and_without_noughts(differences):
    moved = differences[differences != 0]
    ranks = scipy.stats.rankdata(np.abs(moved))
    seen = ranks[moved > 0].sum()
    sums = np.array([ranks[list(signs)].sum() for signs in itertools.product([False, True], repeat=len(moved))])
    expected = min(1.0, 2 * min(np.mean(sums <= seen + 1e-9), np.mean(sums >= seen - 1e-9)))
    share, p = signed_rank(differences)
    assert p == pytest.approx(expected if len(moved) else 1.0)
    assert share == pytest.approx(seen / ranks.sum() if len(moved) else 0.5)


@pytest.mark.parametrize(("n", "decimals", "method"), [(17, 9, "exact"), (100, 9, "exact"), (150, 1, "asymptotic")])
def test_signed_rank_is_scipys(n, decimals, method):
    differences = np.random.default_rng(n).normal(0.2, 1.0, size=n).round(decimals)
    theirs = scipy.stats.wilcoxon(differences, zero_method="wilcox", correction=False, method=method)
    assert signed_rank(differences)[1] == pytest.approx(theirs.pvalue, rel=1e-9)


def test_signed_rank_is_the_same_on_both_sides_of_its_change_of_method():
    differences = np.random.default_rng(0).normal(0.2, 1.0, size=101)
    asymptotic, exact = signed_rank(differences)[1], scipy.stats.wilcoxon(differences, method="exact").pvalue
    assert asymptotic == pytest.approx(exact, rel=0.1)


def test_rounding_does_not_break_ties():
    percent = np.array([10, 20, 10, -10, 30, -20, 10]) + 0.0
    fractions = np.array([0.3 - 0.2, 0.5 - 0.3, 0.8 - 0.7, 0.1 - 0.2, 0.9 - 0.6, 0.7 - 0.9, 0.2 - 0.1])
    assert len(set(np.abs(fractions))) > 3
    assert signed_rank(fractions) == signed_rank(percent)


def test_five_seeds_cannot_feign_significance():
    assert signed_rank(np.ones(5)) == (1.0, 0.0625)
    assert signed_rank(np.zeros(5)) == (0.5, 1.0)


@pytest.mark.parametrize("pairs", [1, 2, 3, 10, 66])
def test_fewest_seeds_is_where_the_test_first_comes_below_alpha(pairs):
    n = fewest_seeds(0.05 / pairs)
    assert signed_rank(np.ones(n))[1] < 0.05 / pairs <= signed_rank(np.ones(n - 1))[1]


def test_fewest_seeds_of_levels_that_are_powers_of_two():
    assert fewest_seeds(0.0625) == 6  # five seeds come to 0.0625, which is not below it


@given(samples(1, 6, st.floats(0, 1)))
def test_holm_is_closed_testing_by_bonferroni(p_values):
    everyone = range(len(p_values))
    sets = [s for k in everyone for s in itertools.combinations(everyone, k + 1)]
    expected = [max(min(1.0, len(s) * p_values[list(s)].min()) for s in sets if i in s) for i in everyone]
    np.testing.assert_allclose(holm(p_values), expected)


def test_mean_ranks_share_ties():
    np.testing.assert_array_equal(mean_ranks(np.array([[0.9, 0.9, 0.1], [0.5, 0.7, 0.6]])), [2.25, 1.25, 2.5])


@pytest.mark.parametrize("noughts", [0.0, 0.6])
@pytest.mark.parametrize(("shift", "most"), [(0.25, 0.82), (0.8, 0.93)])
def test_that_many_seeds_have_the_power(shift, most, noughts):
    def draw(n: int) -> np.ndarray:
        return np.where(rng.random(n) < noughts, 0.0, rng.normal(shift, 1.0, n))

    rng, alpha, trials = np.random.default_rng(0), 0.01, 1000
    needed = seeds_needed(draw(200_000), alpha)
    power = np.mean([signed_rank(draw(needed))[1] < alpha for _ in range(trials)])
    # The formula is for small differences; for large ones it is on the safe side: it takes the null's variance.
    assert abs(power - np.clip(power, 0.79, most)) < 3 * math.sqrt(0.16 / trials)


def test_seeds_needed_is_at_least_what_the_test_needs_and_none_without_a_direction():
    assert seeds_needed(np.array([1.0, -1.0, 2.0, -2.0]), 0.05) is None
    assert seeds_needed(np.zeros(4), 0.05) is None
    assert seeds_needed(np.ones(4), 1e-9, power=1e-9) == fewest_seeds(1e-9)


@pytest.mark.parametrize(("n", "alpha"), [(6, 0.05), (12, 0.05 / 15), (30, 0.05 / 15), (130, 0.05)])
def test_the_smallest_difference_is_detected_in_four_of_five_samples(n, alpha):
    mean, trials = smallest_difference(n, alpha), 1500
    rng = np.random.default_rng(7)
    power = np.mean([signed_rank(rng.normal(mean, 1.0, n))[1] < alpha for _ in range(trials)])
    # the mean itself was found by 1,000 samples, or by a formula
    assert abs(power - 0.8) < 3 * math.sqrt(0.16 * (1 / trials + 1 / 1000))


def test_fewer_seeds_than_the_test_needs_detect_nothing():
    for alpha in (0.05, 0.05 / 3, 0.05 / 66):
        needed = fewest_seeds(alpha)
        assert smallest_difference(needed - 1, alpha) is None
        found = [smallest_difference(n, alpha) for n in (needed, needed + 5, 90, 110, 1000)]
        assert found == sorted(found, reverse=True)


def test_the_interval_of_a_mean_is_that_of_the_normal_curve():
    values = np.random.default_rng(0).normal(3.0, 2.0, size=400)
    mean, low, high = mean_interval(values, seed=0)
    half = scipy.stats.norm.ppf(0.975) * values.std() / 20
    assert mean == values.mean()
    assert_same_interval((low, high), (mean - half, mean + half))
    assert mean_interval(np.ones(5), seed=0) == (1.0, 1.0, 1.0)
