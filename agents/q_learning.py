"""MetaQNN: tabular Q-learning of the decisions, with experience replay."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nasenv.agents.agent import Agent
from nasenv.configuration import integer, number, share
from nasenv.search.layer import SearchLike
from nasenv.spaces.space import SearchSpace
from nasenv.trial import Architecture, Outcome

# Table 2 of the paper: (epsilon, number of architectures trained at it)
SCHEDULE = (*[(1.0, 1500)], *[(e, 100) for e in (0.9, 0.8, 0.7)], *[(e / 10, 150) for e in range(6, 0, -1)])
_ARCHITECTURES = sum(architectures for _, architectures in SCHEDULE)
_INITIAL_Q = 0.5

_State = tuple[int, ...]


@dataclass(frozen=True)
class _Step:
    """Holds one decision of an architecture: its state, the valid choices, and the one taken."""

    state: _State
    valid: tuple[int, ...]
    choice: int


class QLearning(Agent):
    """Runs MetaQNN (Baker et al. 2017, https://arxiv.org/abs/1611.02167): epsilon-greedy tabular Q-learning.

    The state is all the choices before a decision, or the last ``memory`` of them and how many there were, as the
    paper's is a layer and its depth. What a state forgets gets no credit, as values are passed on from state to state.
    Each new architecture goes to the replay memory; then ``replays`` architectures are drawn from that, and each of
    their steps, the last first, moves ``Q(s, u)`` towards the best Q of the next state, or at the end towards the
    reward. The paper's schedule of epsilon, from 1 to 0.1 over 2,700 architectures, is scaled to the budget's
    evaluations. Architectures that the search was given to start from go to the replay memory.

    Args:
        learning_rate: alpha in the paper, in (0, 1]; it is 0.01 there, for thousands of architectures.
        discount: gamma in the paper, in [0, 1].
        replays: number of architectures drawn from the replay memory for each one proposed.
        memory: number of earlier choices that a state holds; None for all.
        evaluations: number of distinct evaluations that the schedule of epsilon takes; None for the budget, in seconds
            where it is in seconds, and for the paper's 2,700 where it has no limit.
        batch_size: number of architectures at a time; they are evaluated side by side.

    Raises:
        InputError: a value outside its range.
    """

    def __init__(
        self,
        learning_rate: float = 0.1,
        discount: float = 1.0,
        replays: int = 100,
        memory: int | None = None,
        evaluations: int | None = None,
        batch_size: int = 1,
    ) -> None:
        super().__init__(batch_size)
        self.learning_rate = number(
            "QLearning: learning_rate", learning_rate, lambda v: 0.0 < v <= 1.0, "a number in (0, 1]"
        )
        self.discount = share("QLearning: discount", discount)
        self.replays = integer("QLearning: replays", replays)
        self.memory = None if memory is None else integer("QLearning: memory", memory)
        self.evaluations = None if evaluations is None else integer("QLearning: evaluations", evaluations)

    def run(self, search: SearchLike) -> None:
        """Search, with the schedule of epsilon spread over the budget."""
        self._search = search
        super().run(search)

    def begin(self, space: SearchSpace, rng: np.random.Generator) -> None:
        """Reset the Q values and the replay memory."""
        self._space, self._rng = space, rng
        self._q: dict[_State, list[float]] = defaultdict(lambda: [_INITIAL_Q] * space.max_choices)
        self._episodes: list[tuple[list[_Step], float]] = []  # with their rewards

    def ask(self, n: int) -> list[Architecture]:
        """Return n architectures; each choice is random with probability epsilon, else the best known."""
        return [self._architecture(epsilon(self._share_spent())) for _ in range(n)]

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Add the architectures to the replay memory, and learn from some drawn from it."""
        for outcome in outcomes:
            self._episodes.append((self._steps(outcome.architecture), outcome.reward))
            for i in self._rng.integers(len(self._episodes), size=self.replays).tolist():
                self._learn(*self._episodes[i])

    def _share_spent(self) -> float:
        """Return the share of the schedule that is spent; it exceeds 1 after its end."""
        history, budget = self._search.history, self._search.budget
        planned = self.evaluations or budget.evaluations
        if planned is None and budget.charged_seconds is not None:
            return history.charged_seconds / budget.charged_seconds
        return history.evaluations / (planned or _ARCHITECTURES)

    def _architecture(self, exploration: float) -> Architecture:
        row: Architecture = ()
        explore = (self._rng.random(self._space.num_decisions) < exploration).tolist()
        for random in explore:
            valid, q = self._valid(row), self._q[self._state(row)]
            best = max(q[c] for c in valid)
            candidates = valid if random else [c for c in valid if q[c] == best]
            row += (candidates[int(self._rng.integers(len(candidates)))],)
        return row

    def _learn(self, steps: Sequence[_Step], reward: float) -> None:
        """Move the Q value of each step, the last first, towards the value of the next state."""
        target = reward
        for step in reversed(steps):
            q = self._q[step.state]
            q[step.choice] += self.learning_rate * (target - q[step.choice])
            target = self.discount * max(q[c] for c in step.valid)

    def _steps(self, row: Architecture) -> list[_Step]:
        prefixes = [row[:t] for t in range(len(row))]
        return [_Step(self._state(p), self._valid(p), c) for p, c in zip(prefixes, row, strict=True)]

    def _state(self, prefix: Architecture) -> _State:
        return (len(prefix), *prefix[-self.memory :]) if self.memory else prefix

    def _valid(self, prefix: Architecture) -> tuple[int, ...]:
        mask = self._space.mask(np.array([prefix], dtype=np.int64))[0]
        return tuple(np.flatnonzero(mask).tolist())


def epsilon(share: float) -> float:
    """Return the paper's epsilon after this share of the search; 0.1 from its end on.

    >>> [epsilon(s) for s in (0.0, 0.5, 0.56, 0.7, 1.0)]
    [1.0, 1.0, 0.9, 0.6, 0.1]
    """
    architectures = share * _ARCHITECTURES
    for value, count in SCHEDULE:
        if architectures < count:
            return value
        architectures -= count
    return SCHEDULE[-1][0]
