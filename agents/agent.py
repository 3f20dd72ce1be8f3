"""The contract of an agent, and the ask-and-tell loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasenv.configuration import Configurable, flag, integer
from nasenv.errors import AgentError
from nasenv.search.layer import SearchLike
from nasenv.spaces.space import SearchSpace
from nasenv.trial import Architecture, Outcome


class Agent(Configurable):
    """Proposes architectures and learns from their rewards: a controller, as the field also calls it.

    A subclass implements ``ask`` and ``tell`` (and ``begin``, to initialise its state), or ``run`` if it has its own
    loop. All its randomness comes from the generator, or the ``search.seed``, that it is given.

    Args:
        batch_size: number of architectures proposed at a time; they are evaluated side by side.
        asynchronous: whether ``run`` asks for one architecture whenever a worker is free and tells each outcome as it
            comes, instead of waiting for a batch. Then outcomes depend on how many architectures are in flight and on
            the order in which they end, both of which the journal keeps: the same run goes on after a stop, but another
            number of workers, or another day, is another search.

    Attributes:
        has_policy: whether architectures are sampled from a policy that is learnt, which can collapse onto a few.

    >>> class Newest(Agent):
    ...     '''Mutates whatever it saw last.'''
    ...     def begin(self, space, rng):
    ...         self.space, self.rng = space, rng
    ...         self.last = space.sample(1, rng)[0]
    ...     def ask(self, n):
    ...         return [self.space.mutate(self.last, self.rng) for _ in range(n)]
    ...     def tell(self, outcomes):
    ...         self.last = outcomes[-1].architecture
    """

    batch_size: int = 16  # also where a subclass's constructor does not call this one
    asynchronous: bool = False
    has_policy: bool = False

    def __init__(self, batch_size: int = 16, asynchronous: bool = False) -> None:
        name = type(self).__name__
        self.batch_size = integer(f"{name}: the number of architectures at a time", batch_size)
        self.asynchronous = flag(f"{name}: asynchronous", asynchronous)

    def run(self, search: SearchLike) -> None:
        """Propose and learn until the search raises `BudgetExhausted`."""
        self.begin(search.space, np.random.default_rng(search.seed))
        if len(search.history):
            self.tell(list(search.history))
        if self.asynchronous:
            for outcomes in search.stream(lambda: self.ask(1)):
                self.tell(outcomes)
        while True:
            self.tell(search.evaluate(self.ask(self.batch_size)))

    def begin(self, space: SearchSpace, rng: np.random.Generator) -> None:
        """Initialise the state for a new search."""

    def ask(self, n: int) -> Sequence[Architecture] | NDArray[np.integer[Any]]:
        """Return n architectures to be evaluated, one at least: tuples, or an integer array (n, T).

        An asynchronous agent may return none while architectures of its own are in flight: it waits for one to be told.
        """
        raise AgentError(f"{type(self).__name__} has neither run nor ask; an agent writes one of them")

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Learn from the outcomes of the architectures that ``ask`` returned, in their order.

        It is called before the first ``ask`` too where the search was given architectures to start from: with their
        outcomes.
        """
