"""A Gaussian process on a run's evaluations: what the architectures that it has not seen may be worth."""

from __future__ import annotations

import math
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import spearmanr

from nasenv.agents.gaussian_process import mutants
from nasenv.errors import InputError, counted
from nasenv.inspection.run_evaluations import RunEvaluations
from nasenv.spaces.space import SearchSpace, to_architectures
from nasenv.surrogates.gaussian_process import Surrogate
from nasenv.trial import Architecture

LEAST = 10  # distinct evaluations that did not fail
_MOST, _FITTED = 2_000, 300  # observations of the process, and of those by which it is fitted
_LENGTHS, _NOISES = (1.0, 0.7, 0.5, 1.4), (0.05, 0.01, 0.2, 0.5)
_POOL, _PARENTS = 20_000, 20
_CANDIDATES, _DRAWS, _BETA = 1_000, 128, 2.0


class ScoreModel:
    """Predicts the rewards of a run's space, and draws functions that agree with what the run has evaluated.

    The `Surrogate`'s scores are normal scores of ranks: only the order of the rewards counts. ``in_rewards`` converts.

    Args:
        evaluations: what the run has evaluated.
        seed: seeds what is drawn.

    Raises:
        InputError: fewer than 10 architectures were evaluated without failure.
    """

    def __init__(self, evaluations: RunEvaluations, seed: int = 0) -> None:
        self.evaluations, self.space = evaluations, evaluations.space
        distinct = {a for a, f in zip(evaluations.architectures, evaluations.failed, strict=True) if not f}
        if len(distinct) < LEAST:
            found = counted(len(distinct), "architecture")
            raise InputError(f"run {evaluations.run}: {found} evaluated without failure, {LEAST} or more are needed")
        self._seed, self._rng = seed, np.random.default_rng([seed, 1])
        self.length, self.noise = _fitted(evaluations, np.random.default_rng(seed))
        self._surrogate = Surrogate(self.space, noise=self.noise, length=self.length, most=_MOST)
        self._surrogate.observe(evaluations.architectures, evaluations.rewards)

    @cached_property
    def rank_correlation(self) -> float:
        """Return Spearman's correlation of the scores with what is predicted for each from the others; 0 if all tie."""
        targets, (predicted, _) = self._surrogate.targets(), self._surrogate.left_out()
        if np.ptp(targets) == 0 or np.ptp(predicted) == 0:
            return 0.0
        return float(spearmanr(targets, predicted).statistic)

    @cached_property
    def candidates(self) -> Candidates:
        """Return the architectures that may be the best, with functions drawn from the process."""
        rng = np.random.default_rng([self._seed, 2])
        rows, is_all = _pool(self.space, self._surrogate.best(_PARENTS), rng)
        numbers: dict[Architecture, int] = {}
        canonical = map(self.space.canonical, to_architectures(rows))
        network = np.array([numbers.setdefault(architecture, len(numbers)) for architecture in canonical])
        networks = list(numbers)
        bounds = np.concatenate([self._surrogate.ucb(part, _BETA) for part in _parts(networks)])
        highest = np.argsort(-bounds, kind="stable")[:_CANDIDATES]
        place = np.full(len(networks), -1)
        place[highest] = np.arange(len(highest))
        chosen = place[network] >= 0
        scores = self._surrogate.draws([networks[i] for i in highest], _DRAWS, rng)
        return Candidates(rows[chosen], place[network[chosen]], scores, rows if is_all else None)

    def random(self, n: int, draws: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return n architectures drawn at random, (n, T), and their scores in functions drawn from it, (draws, n)."""
        architectures = self.space.sample(n, self._rng)
        rows = np.array(architectures, dtype=np.int64)
        return rows, self._surrogate.draws(architectures, draws, self._rng)

    def in_rewards(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return scores in s functions, (s, n), as rewards: those of the same rank in the run.

        For each function, the run's rewards are resampled. A failure counts as the lowest that was none.
        """
        rewards, failed = self.evaluations.rewards, self.evaluations.failed
        observed = np.where(failed, rewards[~failed].min(), rewards)
        ranks, shares = (np.arange(len(observed)) + 0.5) / len(observed), ndtr(scores)
        resampled = np.sort(self._rng.choice(observed, size=(len(scores), len(observed))), axis=1)
        return np.array([np.interp(share, ranks, values) for share, values in zip(shares, resampled, strict=True)])


def _fitted(evaluations: RunEvaluations, rng: np.random.Generator) -> tuple[float, float]:
    """Return the length scale and the noise under which each evaluation is predicted best from the others.

    Of a few of each, the pair of the highest log predictive density (Rasmussen & Williams 2006, section 5.4.2), of at
    most 300 evaluations.
    """
    rows = rng.permutation(len(evaluations.architectures))[:_FITTED]
    architectures, rewards = [evaluations.architectures[i] for i in rows], evaluations.rewards[rows]
    densities = {}
    for length, noise in product(_LENGTHS, _NOISES):
        surrogate = Surrogate(evaluations.space, noise=noise, length=length, most=len(architectures))
        surrogate.observe(architectures, rewards)
        predicted, deviation = surrogate.left_out()
        errors = (surrogate.targets() - predicted) / deviation
        densities[length, noise] = -float(np.mean(np.log(deviation) + errors**2 / 2))
    return max(densities, key=densities.__getitem__)


class Candidates:
    """Holds architectures that may be the best of a space, and their scores in functions that may be the true one.

    Args:
        rows: n architectures, (n, T).
        network: which of m networks each is, (n,).
        scores: scores of the networks in each function, (s, m).
        every: all architectures of the space, if they could be listed.
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        network: NDArray[np.int64],
        scores: NDArray[np.float64],
        every: NDArray[np.int64] | None,
    ) -> None:
        self.rows, self.network, self.scores, self.every = rows, network, scores, every

    def best(self, among: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the highest score of some of the architectures, given by a mask (n,), in each function, (s,)."""
        is_there = np.zeros(self.scores.shape[1], dtype=np.bool_)
        is_there[self.network[among]] = True
        if not is_there.any():
            return np.full(len(self.scores), -math.inf)
        best: NDArray[np.float64] = self.scores[:, is_there].max(axis=1)
        return best

    def share_with(self, t: int, choice: int) -> float:
        """Return in which share of the functions a best architecture can have a choice at decision t."""
        best = self.scores.max(axis=1)
        return float((self.best(self.rows[:, t] == choice) >= best).mean())


def _pool(space: SearchSpace, best: list[Architecture], rng: np.random.Generator) -> tuple[NDArray[np.int64], bool]:
    """Return architectures among which the best is looked for, (n, T), and whether these are all of the space.

    In a large space four fifths are random, and a fifth are mutants of the best that were evaluated.
    """
    if (space.size or math.inf) <= _POOL:
        return space.all_architectures(), True
    random = np.array(space.sample(4 * _POOL // 5, rng), dtype=np.int64)
    parents = np.array(best, dtype=np.int64)
    rows = mutants(space, parents[rng.integers(len(parents), size=_POOL // 5)], rng)
    rows[::2] = mutants(space, rows[::2], rng)
    return np.unique(np.concatenate([random, parents, rows]), axis=0), False


def _parts(networks: list[Architecture], size: int = 2_000) -> list[list[Architecture]]:
    return [networks[i : i + size] for i in range(0, len(networks), size)]
