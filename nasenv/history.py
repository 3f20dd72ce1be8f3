"""What a search has seen so far."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from nasenv.evaluators.evaluator import Measurement
from nasenv.spaces.space import Architecture


@dataclass(frozen=True)
class Outcome:
    """The answer to one proposal of an agent.

    Args:
        architecture: the design that was proposed.
        measurement: what it is worth.
        reward: the objective's view of the measurement.
        evaluation: number, from 1, of the distinct evaluation that measured this design in this search.
        proposal: number, from 1, of the proposal answered; repeats count.
        repeat: whether this search had been answered on this very design before; a repeat costs no budget.
        cached: whether the measurement was known (from the cache, or from an equivalent design) and cost nothing.
    """

    architecture: Architecture
    measurement: Measurement
    reward: float
    evaluation: int
    proposal: int
    repeat: bool = False
    cached: bool = False


class History(Sequence[Outcome]):
    """The distinct evaluations of a search, in order, and how often it was asked."""

    def __init__(self) -> None:
        self.proposals = 0  # all that were answered, repeats among them
        self.train_seconds = 0.0  # paid by this search: cached measurements cost nothing
        self.cached = 0  # distinct evaluations that cost nothing
        self._outcomes: list[Outcome] = []
        self._by_architecture: dict[Architecture, Outcome] = {}
        self._best: Outcome | None = None

    def add(self, outcome: Outcome) -> None:
        """Take in an answer; a repeat is counted and not kept."""
        self.proposals += 1
        if outcome.repeat:
            return
        self._outcomes.append(outcome)
        self._by_architecture[outcome.architecture] = outcome
        self.cached += outcome.cached
        self.train_seconds += 0.0 if outcome.cached else outcome.measurement.train_seconds
        if outcome.measurement.error is None and (self._best is None or outcome.reward > self._best.reward):
            self._best = outcome

    def find(self, architecture: Architecture) -> Outcome | None:
        """Return the first answer on this design, None where it has not been proposed."""
        return self._by_architecture.get(architecture)

    @property
    def repeats(self) -> int:
        """Number of proposals that had been proposed before."""
        return self.proposals - len(self)

    @property
    def best(self) -> Outcome | None:
        """The outcome with the highest reward, the earliest among equals; None before the first success."""
        return self._best

    def top(self, k: int) -> list[Outcome]:
        """Return the k successful outcomes with the highest rewards, best first, the earlier among equals."""
        measured = (o for o in self._outcomes if o.measurement.error is None)
        return heapq.nsmallest(k, measured, key=lambda o: (-o.reward, o.evaluation))

    def mean_reward(self, last: int) -> float:
        """Return the mean reward of the last so many distinct evaluations, of fewer where there are fewer."""
        recent = self._outcomes[-last:]
        return sum(o.reward for o in recent) / len(recent)

    @overload
    def __getitem__(self, index: int) -> Outcome: ...
    @overload
    def __getitem__(self, index: slice) -> list[Outcome]: ...
    def __getitem__(self, index: int | slice) -> Outcome | list[Outcome]:
        return self._outcomes[index]

    def __len__(self) -> int:
        return len(self._outcomes)

    def __iter__(self) -> Iterator[Outcome]:
        return iter(self._outcomes)
