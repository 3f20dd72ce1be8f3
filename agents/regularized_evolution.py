"""Regularized evolution: tournaments in a population from which the oldest architecture is removed."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from nasenv.agents.agent import Agent
from nasenv.configuration import integer
from nasenv.spaces.space import SearchSpace
from nasenv.trial import Architecture, Outcome


class RegularizedEvolution(Agent):
    """Runs aging evolution (Real et al. 2019, https://arxiv.org/abs/1802.01548, algorithm 1).

    The population starts with random architectures. Then, again and again: draw a sample of the population, mutate the
    best of the sample in one decision, add the child to the population and let the oldest die. Architectures that the
    search was given to start from are its first members.

    Args:
        population_size: number of architectures alive, P in the paper.
        sample_size: number of architectures in a tournament, S in the paper, drawn with replacement.
        batch_size: number of children at a time; they are evaluated side by side, and none is the parent of another.
        asynchronous: see `Agent`; children of architectures in flight are then born later, as in the paper's own runs.

    Raises:
        InputError: a size that is not positive, or a sample larger than the population.
    """

    def __init__(
        self, population_size: int = 50, sample_size: int = 10, batch_size: int = 1, asynchronous: bool = False
    ) -> None:
        super().__init__(batch_size, asynchronous)
        self.sample_size = integer("RegularizedEvolution: sample_size", sample_size)
        name = "RegularizedEvolution: population_size (no less than sample_size)"
        self.population_size = integer(name, population_size, self.sample_size)

    def begin(self, space: SearchSpace, rng: np.random.Generator) -> None:
        """Start with an empty population."""
        self._space, self._rng = space, rng
        self._population: deque[Outcome] = deque(maxlen=self.population_size)  # the oldest first

    def ask(self, n: int) -> list[Architecture]:
        """Return n random architectures until the population is complete, then n mutated children."""
        if len(self._population) < self.population_size:
            return self._space.sample(n, self._rng)
        return [self._space.mutate(self._parent(), self._rng) for _ in range(n)]

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Add the children to the population, and remove as many of the oldest."""
        self._population.extend(outcomes)

    def _parent(self) -> Architecture:
        members = self._rng.integers(self.population_size, size=self.sample_size).tolist()
        return max((self._population[i] for i in members), key=_order).architecture


def _order(outcome: Outcome) -> tuple[int, float]:
    return outcome.order
