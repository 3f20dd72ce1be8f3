"""Counts the architectures of a space, and the different networks among them, exactly or from a sample."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from nasenv.errors import InputError
from nasenv.spaces.space import SearchSpace
from nasenv.trial import Architecture

_NORMAL = NormalDist()
_LEVEL = 0.95  # of the intervals and bounds
_DESCENTS = 20_000
_MOST_LISTED = 1_000_000  # architectures whose canonical forms are compared
_SAMPLE = 20_000
_BATCH = 500  # of descents or architectures, after which the clock is looked at


@dataclass(frozen=True)
class Count:
    """Holds a number and the bounds of its 95 % interval.

    Args:
        value: the number, or its estimate.
        low: lower bound; the number itself where it is exact.
        high: upper bound; infinite where only a lower bound is known.
    """

    value: float
    low: float
    high: float

    @property
    def is_exact(self) -> bool:
        """Return whether it was counted."""
        return self.low == self.high

    def __str__(self) -> str:
        if self.is_exact:
            return _number(self.value)
        if math.isinf(self.high):
            return f"at least {_number(self.low)}"
        return f"about {_number(self.value)} (95 % interval {_number(self.low)} to {_number(self.high)})"


def count_architectures(space: SearchSpace, rng: np.random.Generator, until: float = math.inf) -> Count:
    """Return the number of architectures: the space's own ``size`` where it is known, else `estimate_architectures`."""
    size = space.size
    return estimate_architectures(space, rng, until=until) if size is None else Count(size, size, size)


def estimate_architectures(
    space: SearchSpace, rng: np.random.Generator, descents: int = _DESCENTS, until: float = math.inf
) -> Count:
    """Return Knuth's estimate of the number of architectures: the mean product of valid choices along random descents.

    Knuth 1975, Estimating the efficiency of backtrack programs (https://doi.org/10.2307/2005469). The interval is that
    of the mean by the central limit theorem; it is too narrow for a space in which nearly all architectures begin with
    choices that hardly any descent takes.

    Args:
        space: the space.
        rng: draws the descents.
        descents: how many.
        until: time, on the monotonic clock, after which no more are begun; the first 500 are always made.
    """
    logs = np.concatenate([_descend(space, rng, n) for n in _batches(descents, until)])
    largest = float(logs.max())
    shares = np.exp(logs - largest)
    mean, error = float(shares.mean()), float(shares.std(ddof=1)) / math.sqrt(len(shares))
    half = _NORMAL.inv_cdf(0.5 + _LEVEL / 2) * error
    return Count(*(_scaled(part, largest) for part in (mean, max(0.0, mean - half), mean + half)))


def _descend(space: SearchSpace, rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Return the logarithms of the products of valid choices along n random descents, (n,); products overflow."""
    rows = np.zeros((n, space.num_decisions), dtype=np.int64)
    logs: NDArray[np.float64] = np.zeros(n)
    for t in range(space.num_decisions):
        mask = space.mask(rows[:, :t])
        logs += np.log(mask.sum(axis=1))
        rows[:, t] = np.where(mask, rng.random(mask.shape), -1.0).argmax(axis=1)
    return logs


def _batches(total: int, until: float) -> Iterator[int]:
    """Yield the sizes of batches that add up to a total, or to less, if the time is up; there is one at least."""
    for done in range(0, total, _BATCH):
        if done and time.monotonic() > until:
            return
        yield min(_BATCH, total - done)


def count_networks(space: SearchSpace, rng: np.random.Generator, until: float = math.inf) -> Count:
    """Return the number of different networks: of canonical forms, counted up to a million architectures.

    In a larger space, or if the time is up before all are counted, it is a lower bound: see `networks_at_least`.
    """
    distinct = _count_canonical(space, until) if (space.size or math.inf) <= _MOST_LISTED else None
    if distinct is not None:
        return Count(distinct, distinct, distinct)
    low = networks_at_least(space, rng, until=until)
    return Count(low, low, math.inf)


def _count_canonical(space: SearchSpace, until: float) -> int | None:
    """Return the number of canonical forms; None if the space cannot be listed, or the time is up before."""
    try:
        rows = space.all_architectures()
    except InputError:  # its size is a formula
        return None
    found: set[Architecture] = set()
    done = 0
    for n in _batches(len(rows), until):
        found.update(map(space.canonical, map(tuple, rows[done : done + n].tolist())))
        done += n
    return len(found) if done == len(rows) else None


def networks_at_least(
    space: SearchSpace, rng: np.random.Generator, sample: int = _SAMPLE, until: float = math.inf
) -> int:
    """Return a number that is below the number of different networks at a level of 95 %, from a sample.

    Chao's estimate of the number of classes is a lower bound whatever their sizes are; of its log-normal interval this
    is the lower end, one-sided. Chao 1987 (https://doi.org/10.2307/2531532), in the form without bias where no class
    was met twice.

    Args:
        space: the space.
        rng: draws the architectures, as `SearchSpace.sample` does.
        sample: how many.
        until: time, on the monotonic clock, after which no more are drawn; the first 500 always are.
    """
    met = Counter(space.canonical(a) for n in _batches(sample, until) for a in space.sample(n, rng))
    observed, times = len(met), Counter(met.values())
    once, twice = times[1], times[2]
    if not once:
        return observed
    if twice:
        ratio = once / twice
        unseen, variance = once**2 / (2 * twice), twice * (ratio**4 / 4 + ratio**3 + ratio**2 / 2)
    else:
        unseen = once * (once - 1) / 2
        variance = unseen + once * (2 * once - 1) ** 2 / 4 - once**4 / (4 * (observed + unseen))
    if not unseen:
        return observed
    spread = math.exp(_NORMAL.inv_cdf(_LEVEL) * math.sqrt(math.log(1 + max(0.0, variance) / unseen**2)))
    return observed + int(unseen / spread)


def _scaled(value: float, log: float) -> float:
    """Return value x e^log, infinite where that is too large for a float."""
    if value == 0.0:
        return 0.0
    exponent = math.log(value) + log
    return math.exp(exponent) if exponent < math.log(np.finfo(np.float64).max) else math.inf


def _number(value: float) -> str:
    """Return a number as text: all digits up to 10^15, then two.

    >>> _number(244140625.0), _number(2.17e25)
    ('244,140,625', '2.2 x 10^25')
    """
    if value < 1e15:
        return f"{value:,.0f}"
    if math.isinf(value):
        return "more than 10^308"
    exponent = len(str(int(value))) - 1
    return f"{int(value) / 10**exponent:.1f} x 10^{exponent}"
