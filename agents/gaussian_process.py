"""Bayesian optimization: a Gaussian process decides which architecture is evaluated next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from nasenv.agents.agent import Agent
from nasenv.configuration import integer, positive, weight
from nasenv.spaces.space import SearchSpace, to_architectures
from nasenv.surrogates.gaussian_process import Surrogate
from nasenv.trial import Architecture, Outcome

_MOST_LISTED = 1 << 16  # architectures of a space
_PARENTS = 16  # of mutants


class GaussianProcess(Agent):
    """Runs Bayesian optimization with a Gaussian process (Snoek et al. 2012, https://arxiv.org/abs/1206.2944).

    The process predicts the rank of every architecture from those evaluated (`Surrogate`): architectures are alike that
    take like decisions, use options as often, or have like paths (`SearchSpace.feature_parts`). The architecture with
    the highest upper confidence bound (Srinivas et al. 2010, https://arxiv.org/abs/0912.3995) is evaluated next, and
    none twice.

    In spaces of up to 65,536 architectures all are looked at; in larger ones mutants of the best seen and random
    architectures. One that is asked for counts as worth what is predicted of it until it is told, so that those of a
    batch, or in flight, keep apart. The prediction rests on up to 1,000 observations: those of a longer search are the
    best and the latest, so that a proposal never takes longer.

    Args:
        startup_trials: number of random or given architectures before the process is used.
        beta: how many standard deviations the bound lies above what is expected. More is more exploration.
        noise: variance of an architecture's measured rank about its true one, both as normal scores: 1 over all
            architectures.
        parts: names of the features that are used, all by default.
        candidates: number of architectures looked at for one proposal in a larger space.
        batch_size: number of architectures at a time; they are evaluated side by side.
        asynchronous: see `Agent`.

    Raises:
        InputError: a number that is not positive, a negative beta; when a search starts, a part that its space lacks.
    """

    def __init__(
        self,
        startup_trials: int = 10,
        beta: float = 2.0,
        noise: float = 0.05,
        parts: Sequence[str] | None = None,
        candidates: int = 500,
        batch_size: int = 1,
        asynchronous: bool = False,
    ) -> None:
        super().__init__(batch_size, asynchronous)
        self.startup_trials = integer("GaussianProcess: startup_trials", startup_trials)
        self.candidates, self.parts = integer("GaussianProcess: candidates", candidates), parts
        self.beta = weight("GaussianProcess: beta", beta)
        self.noise = positive("GaussianProcess: noise", noise)

    def begin(self, space: SearchSpace, rng: np.random.Generator) -> None:
        """Reset the state."""
        self._space, self._rng = space, rng
        is_small = EveryArchitecture.suits(space)
        self._candidates = EveryArchitecture(space) if is_small else NearTheBest(space, self.candidates)
        self._surrogate = Surrogate(space, self._candidates.networks, self.noise, parts=self.parts)
        self._asked: set[Architecture] = set()

    def ask(self, n: int) -> list[Architecture]:
        """Return up to n architectures that are new to it; any once all architectures were asked for."""
        architectures: list[Architecture] = []
        while len(architectures) < n and (architecture := self._next()) is not None:
            self._drop([architecture])
            self._surrogate.believe([architecture])
            architectures.append(architecture)
        return architectures or self._space.sample(1, self._rng)

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Add the outcomes to the Gaussian process."""
        new = [outcome for outcome in outcomes if not outcome.repeat]
        if new:
            architectures = [outcome.architecture for outcome in new]
            self._drop(architectures)
            self._surrogate.observe(architectures, [outcome.reward for outcome in new])

    def _next(self) -> Architecture | None:
        """Return the next architecture to be evaluated."""
        if len(self._asked) < self.startup_trials:
            return self._candidates.random(self._rng)
        return self._candidates.best(self._surrogate, self.beta, self._rng)

    def _drop(self, architectures: Sequence[Architecture]) -> None:
        """Exclude architectures from further proposals."""
        self._asked.update(architectures)
        self._candidates.drop(architectures)


class EveryArchitecture:
    """Offers all architectures of a small space; equivalent ones are predicted once.

    Attributes:
        networks: the canonical architectures.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._architectures = to_architectures(space.all_architectures())
        self._places = {architecture: i for i, architecture in enumerate(self._architectures)}
        numbers: dict[Architecture, int] = {}
        self._network = np.array([numbers.setdefault(space.canonical(d), len(numbers)) for d in self._architectures])
        self._is_new = np.ones(len(self._architectures), dtype=np.bool_)
        self.networks = list(numbers)

    @staticmethod
    def suits(space: SearchSpace) -> bool:
        """Return whether the space is small enough to be listed."""
        return (space.size or _MOST_LISTED + 1) <= _MOST_LISTED

    def drop(self, architectures: Iterable[Architecture]) -> None:
        """Exclude architectures from further proposals."""
        self._is_new[[self._places[architecture] for architecture in architectures]] = False

    def best(self, surrogate: Surrogate, beta: float, rng: np.random.Generator) -> Architecture | None:
        """Return the architecture with the highest upper confidence bound, ties at random; None if none is left."""
        new = np.flatnonzero(self._is_new)
        if not len(new):
            return None
        return self._architectures[_highest(surrogate.pool_ucb(beta)[self._network[new]], new, rng)]

    def random(self, rng: np.random.Generator) -> Architecture | None:
        """Return a random architecture of those that are left; None if there is none."""
        new = np.flatnonzero(self._is_new)
        return self._architectures[rng.choice(new)] if len(new) else None


class NearTheBest:
    """Offers mutants of the best architectures (two fifths by one decision, two by two) and random ones (one fifth)."""

    networks: Sequence[Architecture] = ()

    def __init__(self, space: SearchSpace, number: int = 500) -> None:
        self._space, self._number = space, number
        self._dropped: set[Architecture] = set()

    def drop(self, architectures: Iterable[Architecture]) -> None:
        """Exclude architectures from further proposals."""
        self._dropped.update(architectures)

    def best(self, surrogate: Surrogate, beta: float, rng: np.random.Generator) -> Architecture | None:
        """Return the new candidate with the highest upper confidence bound, ties at random; None if there is none."""
        parents = np.array(surrogate.best(_PARENTS), dtype=np.int64)
        architectures = self._space.sample(self._number // 5, rng)
        if len(parents):
            rows = mutants(self._space, parents[rng.integers(len(parents), size=4 * self._number // 5)], rng)
            rows[::2] = mutants(self._space, rows[::2], rng)
            architectures += to_architectures(rows)
        new = [architecture for architecture in dict.fromkeys(architectures) if architecture not in self._dropped]
        return new[_highest(surrogate.ucb(new, beta), np.arange(len(new)), rng)] if new else None

    def random(self, rng: np.random.Generator) -> Architecture | None:
        """Return a random new architecture; None if some random ones are all excluded."""
        return next((a for a in self._space.sample(100, rng) if a not in self._dropped), None)


def mutants(space: SearchSpace, rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return a random neighbour of each of n architectures, (n, T); `SearchSpace.mutate` returns that of one."""
    every = np.arange(len(rows))
    others = space.masks(rows) & (np.arange(space.max_choices) != rows[:, :, None])  # (n, T, C)
    decisions = np.where(others.any(axis=2), rng.random(rows.shape), -1.0).argmax(axis=1)
    others = others[every, decisions]
    changed = rows.copy()
    choices = np.where(others, rng.random(others.shape), -1.0).argmax(axis=1)
    changed[every, decisions] = np.where(others.any(axis=1), choices, rows[every, decisions])
    return np.array(space.complete(changed), dtype=np.int64)


def _highest(scores: NDArray[np.floating], items: NDArray[np.int64], rng: np.random.Generator) -> int:
    """Return the item with the highest score, ties at random."""
    return int(rng.choice(items[scores == scores.max()]))
