"""Local search: climbs from a random architecture to better neighbours until there are none, and restarts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Literal

import numpy as np

from nasenv.agents.agent import Agent
from nasenv.configuration import one_of
from nasenv.spaces.space import SearchSpace
from nasenv.trial import Architecture, Outcome


class LocalSearch(Agent):
    """Runs hill climbing with restarts (White et al. 2021, https://arxiv.org/abs/2005.02960, algorithm 1).

    Neighbours, the architectures that differ in one decision, are asked for in random order. An architecture that was
    evaluated before is not proposed again as a neighbour: its reward is remembered. Where the search was given
    architectures to start from, it first climbs from the best of them.

    Args:
        improvement: first moves as soon as a neighbour is better (the paper's "query until lower"); best looks at all
            neighbours before it moves.
        batch_size: number of neighbours, or of random architectures to start from, at a time; a neighbourhood's last
            batch can be smaller.
        asynchronous: see `Agent`; neighbours are evaluated ahead, but it moves in their order, and nothing is asked for
            while the last of a neighbourhood are in flight.

    Raises:
        InputError: an improvement that is neither first nor best.
    """

    def __init__(
        self, improvement: Literal["first", "best"] = "first", batch_size: int = 1, asynchronous: bool = False
    ) -> None:
        super().__init__(batch_size, asynchronous)
        self.improvement = one_of("LocalSearch: improvement", improvement, ("first", "best"))

    def begin(self, space: SearchSpace, rng: np.random.Generator) -> None:
        """Reset the state, without a current architecture."""
        self._space, self._rng = space, rng
        self._orders: dict[Architecture, tuple[int, float]] = {}  # what outcomes are compared by
        self._here: Architecture | None = None
        self._neighbours: list[Architecture] = []  # of where it stands
        self._awaited: set[Architecture] = set()  # neighbours of where it stands, or stood, that are not answered yet

    def ask(self, n: int) -> list[Architecture]:
        """Return up to n new neighbours of the current architecture, or n random architectures if there is none."""
        if self._here is None:
            return self._space.sample(n, self._rng)
        asked = [a for a in self._neighbours if a not in self._orders and a not in self._awaited][:n]
        self._awaited.update(asked)
        return asked

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Store the rewards, and move to better neighbours as far as they are known."""
        self._orders.update((o.architecture, o.order) for o in outcomes)
        starts = [o for o in outcomes if o.architecture not in self._awaited]
        self._awaited.difference_update(o.architecture for o in outcomes)
        if self._here is None and starts:
            self._stand_on(max(starts, key=lambda o: o.order).architecture)
        self._climb()

    def _climb(self) -> None:
        """Move to better neighbours until one's reward is unknown; a local optimum is left for a restart."""
        while self._here is not None:
            here = self._orders[self._here]
            known = list(takewhile(self._orders.__contains__, self._neighbours))
            higher = [a for a in known if self._orders[a] > here]
            if higher and self.improvement == "first":
                self._stand_on(higher[0])
            elif len(known) < len(self._neighbours):
                return
            elif higher:
                self._stand_on(max(higher, key=self._orders.__getitem__))
            else:
                self._here = None

    def _stand_on(self, architecture: Architecture) -> None:
        self._here = architecture
        neighbours = self._space.neighbours(architecture)
        self._neighbours = [neighbours[i] for i in self._rng.permutation(len(neighbours)).tolist()]
