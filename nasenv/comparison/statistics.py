"""Statistics over the runs of agents: pure functions on arrays.

Intervals are percentile bootstrap intervals, as in https://arxiv.org/abs/2108.13264: on tables many runs end at the
very same value, and then the acceleration of the BCa interval is nought divided by nought.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

RESAMPLES = 2_000
COVERAGE = 0.95
_EXACT = 100  # up to so many differences, p is found by all their signs; above, by the normal curve
_DRAWS = 1_000  # samples that a power is estimated from

_Floats = NDArray[np.float64]
_Counts = NDArray[np.int16]  # how often each run is drawn
_Interval = tuple[_Floats, _Floats]


def step_function_at(x: _Floats, y: _Floats, grid: _Floats) -> _Floats:
    """Return the step function y (n,) of ascending x (n,) at the grid, (g,); nan before the first x."""
    before = np.concatenate([[np.nan], y])
    return before[np.searchsorted(x, grid, side="right")]


def interquartile_mean(values: _Floats) -> _Floats:
    """Return the mean (...) of the middle half of n values, (n, ...); https://arxiv.org/abs/2108.13264.

    floor(n / 4) values are cut off at each end, none in part, as in that paper's code; so it is the mean for n < 4.
    """
    cut = len(values) // 4
    ascending = np.sort(values, axis=0)
    lowest = ascending[0]  # means of what is above it: equal values have exactly their own mean
    return np.asarray(lowest + (ascending - lowest)[cut : len(values) - cut].mean(axis=0))


def interquartile_interval(values: _Floats, seed: int) -> _Interval:
    """Return bootstrap bounds (low, high), (...) each, of the interquartile mean of n values (n, ...).

    Which of the sorted values a resample keeps does not depend on the values, so one matrix product serves all
    columns, such as the points of a curve.
    """
    n = len(values)
    ascending = np.sort(values, axis=0)
    lowest = ascending[0]
    low, high = _middle_of(_kept(n, seed) @ (ascending - lowest) / (n - 2 * (n // 4)))
    return lowest + low, lowest + high


def mean_interval(values: _Floats, seed: int) -> tuple[float, float, float]:
    """Return (mean, low, high): the mean of n values, (n,), and its bootstrap interval."""
    low, high = _middle_of(_resamples(len(values), seed) @ values / len(values))
    return float(values.mean()), float(low), float(high)


def wilson(rate: float | _Floats, n: int | NDArray[np.int64]) -> _Interval:
    """Return bounds (low, high), (...) each, of Wilson's 95 % interval for rates out of n.

    https://doi.org/10.1080/01621459.1927.10502953
    """
    z = ndtri(0.5 + COVERAGE / 2)
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return np.where(rate == 0, 0.0, centre - half)[()], np.where(rate == 1, 1.0, centre + half)[()]


def median_time(times: _Floats, met: NDArray[np.bool_]) -> float | None:
    """Return the Kaplan-Meier median of n times, (n,); those whose event was not met, (n,), are censored.

    It is the first time by which half have met it, https://doi.org/10.1080/01621459.1958.10501452; None where
    fewer have.
    """
    distinct, surviving = survival(times, met, _once(len(times)))
    by_then = distinct[surviving[0] <= 0.5 + 1e-9]
    return float(by_then[0]) if len(by_then) else None


def mean_time(times: _Floats, met: NDArray[np.bool_], seed: int) -> tuple[float, float, float]:
    """Return (mean, low, high) of n times, (n,), restricted to the longest; times not met are censored.

    It is the area under the Kaplan-Meier curve: the plain mean where all the censored ones are equally long.
    """

    def area(weights: _Counts) -> _Floats:  # (R, n) -> (R,)
        distinct, surviving = survival(times, met, weights)
        before = np.column_stack([np.ones(len(weights)), surviving[:, :-1]])
        return np.asarray(before @ np.diff(distinct, prepend=0.0))

    low, high = _middle_of(area(_resamples(len(times), seed)))
    return float(area(_once(len(times)))[0]), float(low), float(high)


def improvement(x: _Floats, y: _Floats, seed: int) -> tuple[float, float, float]:
    """Return (probability, low, high) that a value of x (n,) exceeds one of y (m,); ties count half.

    As in https://arxiv.org/abs/2108.13264, over all n m pairs; the two are resampled independently.
    """
    x, y = np.sort(x), np.sort(y)
    below, up_to = np.searchsorted(x, y, side="left"), np.searchsorted(x, y, side="right")

    def share(x_weights: _Counts, y_weights: _Counts) -> _Floats:  # (R, n), (R, m) -> (R,)
        drawn = np.zeros((len(x_weights), len(x) + 1), dtype=np.int32)
        np.cumsum(x_weights, axis=1, out=drawn[:, 1:])
        twice = 2 * len(x) - drawn[:, below] - drawn[:, up_to]
        return np.asarray(np.einsum("rm,rm->r", twice, y_weights, dtype=np.float64) / (2 * len(x) * len(y)))

    low, high = _middle_of(share(_resamples(len(x), seed), _resamples(len(y), seed, stream=1)))
    return float(share(_once(len(x)), _once(len(y)))[0]), float(low), float(high)


def signed_rank(differences: _Floats) -> tuple[float, float]:
    """Return (share, p) of Wilcoxon's two-sided signed-rank test of paired differences, (n,).

    share is that of the rank sum which is the positive differences': 1 where all are positive, 0.5 where neither
    sign prevails. Differences of nought are dropped, as Wilcoxon did (scipy's default, ``zero_method="wilcox"``);
    (0.5, 1.0) where all are. Up to 100 others, p is exact with ties too, by the distribution over all signs: few
    seeds cannot feign significance. Above, it is the normal approximation with ties, without continuity correction.
    """
    largest = np.abs(differences).max()
    if largest == 0.0:
        return 0.5, 1.0
    digits = np.round(differences / largest, 9)  # 0.3 - 0.2 and 0.2 - 0.1 are ties
    moved = digits[digits != 0.0]
    ranks = _ranks(np.abs(moved))
    positive = float(ranks[moved > 0].sum())
    share = positive / float(ranks.sum())
    if len(moved) <= _EXACT:
        return share, _exact_p(ranks, positive)
    z = (2 * positive - ranks.sum()) / math.sqrt(float(ranks @ ranks))
    return share, float(2 * ndtr(-abs(z)))


def _ranks(values: _Floats) -> _Floats:
    """Return the ranks along the last axis, from 1; ties share their mean rank."""
    from scipy.stats import rankdata  # which takes half a second to import

    return np.asarray(rankdata(values, axis=-1))


def holm(p_values: _Floats) -> _Floats:
    """Return the p-values (m,) with Holm's correction for m tests, https://www.jstor.org/stable/4615733."""
    order = np.argsort(p_values)
    steps = np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(p_values[order] * steps), 1.0)
    return corrected


def mean_ranks(values: _Floats) -> _Floats:
    """Return the mean rank of each agent, (agents,), for values (seeds, agents); 1 is the highest, ties share."""
    return np.asarray(_ranks(-values).mean(axis=0))


def fewest_seeds(alpha: float) -> int:
    """Return the smallest number of seeds for which the signed-rank test's p can be below alpha.

    With n differences of one sign p is 2 ** (1 - n), and it cannot be lower.
    """
    return math.floor(1 - math.log2(alpha)) + 1


def seeds_needed(differences: _Floats, alpha: float, power: float = 0.8) -> int | None:
    """Return roughly how many seeds the signed-rank test needs to detect such differences, (n,).

    Noether's formula, https://doi.org/10.1080/01621459.1987.10478478, m = (z_alpha/2 + z_power)^2 / 3 (p' - 1/2)^2,
    with p' the share of the rank sum that is the positive differences'. Since differences of nought are dropped
    from the test, it counts the others, and all seeds in the proportion seen. It takes the seen differences for the
    true ones: from few seeds it is a rough figure. None where neither sign prevails.
    """
    share, _ = signed_rank(differences)
    if share == 0.5:
        return None
    noether = float(ndtri(1 - alpha / 2) + ndtri(power)) ** 2 / (3 * (share - 0.5) ** 2)
    return math.ceil(max(noether, fewest_seeds(alpha)) / float(np.mean(differences != 0.0)))


def smallest_difference(n: int, alpha: float, power: float = 0.8) -> float | None:
    """Return the smallest mean of n paired differences that the signed-rank test detects with this power.

    It is in standard deviations of the differences, which are taken to be normal; None where the test detects none,
    however large. Up to 100 differences the power is that of the exact test in 1,000 samples; above, Noether's formula
    (see ``seeds_needed``) is solved for the mean d, of which p' is Phi(sqrt(2) d).
    """
    if n < fewest_seeds(alpha):
        return None
    if n > _EXACT:
        return float(ndtri(0.5 + (ndtri(1 - alpha / 2) + ndtri(power)) / math.sqrt(3 * n)) / math.sqrt(2))
    ranks = np.arange(1.0, n + 1)
    at_least = _sum_chances(ranks)[::-1].cumsum()[::-1]  # of each doubled sum of positive ranks
    critical = np.argmax(2 * at_least < alpha) / 2
    noise = np.random.default_rng(0).normal(size=(_DRAWS, n))
    low, high = 0.0, 10.0
    while high - low > 0.005:
        middle = (low + high) / 2
        drawn = noise + middle
        positive = np.take_along_axis(drawn, np.abs(drawn).argsort(axis=1), axis=1) > 0
        low, high = (low, middle) if np.mean(positive @ ranks >= critical) >= power else (middle, high)
    return high


def survival(times: _Floats, met: NDArray[np.bool_], weights: _Counts) -> _Interval:
    """Return the distinct times (k,) and the share (R, k) that survives each, for weights (R, n)."""
    order = np.argsort(times, kind="stable")
    distinct, first = np.unique(times[order], return_index=True)
    leaving = np.add.reduceat(weights[:, order], first, axis=1, dtype=np.int32)
    meeting = np.add.reduceat(weights[:, order] * met[order], first, axis=1, dtype=np.int32)
    at_risk = leaving[:, ::-1].cumsum(axis=1)[:, ::-1]
    return distinct.astype(np.float64), np.cumprod(1 - meeting / np.maximum(at_risk, 1), axis=1)


@lru_cache(maxsize=2)  # the agents of a comparison mostly have equally many runs
def _resamples(n: int, seed: int, stream: int = 0) -> _Counts:
    """Return how often each of n runs is drawn in each bootstrap resample, (RESAMPLES, n)."""
    drawn = np.random.default_rng([seed, stream]).integers(n, size=(RESAMPLES, n))
    drawn += n * np.arange(RESAMPLES)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.int16)
    counts.flags.writeable = False
    return counts


@lru_cache(maxsize=2)
def _kept(n: int, seed: int) -> _Floats:
    """Return how much of each of n sorted values lies in the middle half of each resample, (RESAMPLES, n)."""
    drawn = np.cumsum(_resamples(n, seed), axis=1, dtype=np.float64)
    kept = np.diff(np.clip(drawn, n // 4, n - n // 4), axis=1, prepend=float(n // 4))
    kept.flags.writeable = False
    return kept


def _once(n: int) -> _Counts:
    """Return the weights (1, n) that count each run once."""
    return np.ones((1, n), dtype=np.int16)


def _middle_of(values: _Floats) -> _Interval:
    """Return the bounds (low, high), (...) each, of the middle 95 % of values (R, ...)."""
    low, high = np.quantile(values, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], axis=0)
    return low, high


def _exact_p(ranks: _Floats, positive: float) -> float:
    """Return the exact two-sided p-value of the sum of positive ranks, if every rank (m,) has a random sign."""
    chances, seen = _sum_chances(ranks), round(2 * positive)
    return min(1.0, 2 * float(min(chances[: seen + 1].sum(), chances[seen:].sum())))


def _sum_chances(ranks: _Floats) -> _Floats:
    """Return the probability of each doubled sum of positive ranks, from 0 up, if every rank (m,) has a random sign."""
    doubled = np.rint(2 * ranks).astype(np.int64)  # ranks that ties share are halves
    chances = np.zeros(int(doubled.sum()) + 1)
    chances[0] = 1.0
    for rank in doubled:
        chances[rank:] += chances[:-rank].copy()
        chances /= 2
    return chances
