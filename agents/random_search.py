"""Random search: the baseline for every other agent."""

from __future__ import annotations

import numpy as np

from nasenv.agents.agent import Agent
from nasenv.spaces.space import SearchSpace
from nasenv.trial import Architecture


class RandomSearch(Agent):
    """Proposes random architectures: at each decision, every valid choice is equally likely.

    Li and Talwalkar 2019 (https://arxiv.org/abs/1902.07638) show how strong a baseline it is.

    Args:
        batch_size: number of architectures proposed at a time.
        asynchronous: see `Agent`.
    """

    def begin(self, space: SearchSpace, rng: np.random.Generator) -> None:
        """Store space and generator."""
        self._space, self._rng = space, rng

    def ask(self, n: int) -> list[Architecture]:
        """Return n random architectures."""
        return self._space.sample(n, self._rng)
