"""REINFORCE with one softmax for each decision: the simplest policy gradient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nasenv.agents.agent import Agent
from nasenv.configuration import positive, share
from nasenv.spaces.space import SearchSpace, to_architectures
from nasenv.trial import Architecture, Outcome

_INITIAL_STD = 1e-3
_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8


class Reinforce(Agent):
    """Runs REINFORCE (Williams 1992) as NAS-Bench-201 does (Dong & Yang 2020, https://arxiv.org/abs/2001.00326).

    The policy is a table of logits, (T, C): the decisions are independent, but for the masks. Each architecture is one
    update, by Adam, of its log-probability times its advantage over an exponential mean of the rewards; there is no
    entropy bonus. Architectures that the search was given to start from are learnt from as if the policy had drawn
    them.

    Args:
        learning_rate: learning rate of Adam; 0.01 as in NATS-Bench, 0.5 as in NAS-Bench-201.
        baseline_decay: share in [0, 1] of the baseline that is kept with each architecture.
        batch_size: number of architectures drawn between updates; they are evaluated side by side.

    Raises:
        InputError: a learning rate that is not positive, a decay outside [0, 1].
    """

    has_policy = True

    def __init__(self, learning_rate: float = 0.01, baseline_decay: float = 0.9, batch_size: int = 1) -> None:
        super().__init__(batch_size)
        self.learning_rate = positive("Reinforce: learning_rate", learning_rate)
        self.baseline_decay = share("Reinforce: baseline_decay", baseline_decay)

    def begin(self, space: SearchSpace, rng: np.random.Generator) -> None:
        """Initialise the logits with small random values."""
        self._space, self._rng = space, rng
        self._logits = _INITIAL_STD * rng.standard_normal((space.num_decisions, space.max_choices))
        self._adam = _Adam(self._logits, self.learning_rate)
        self._reward_sum = self._weight_sum = 0.0  # their ratio is the baseline

    def ask(self, n: int) -> list[Architecture]:
        """Return n architectures drawn from the policy; invalid choices have probability 0."""
        noise = self._rng.gumbel(size=(n, *self._logits.shape))  # the largest logit + Gumbel noise is a draw
        rows = np.zeros((n, self._space.num_decisions), dtype=np.int64)
        for t, logits in enumerate(self._logits):
            mask = self._space.mask(rows[:, :t])
            rows[:, t] = np.where(mask, logits + noise[:, t], -np.inf).argmax(axis=1)
        return to_architectures(rows)

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Update the policy with each architecture in turn."""
        for outcome in outcomes:
            decay = self.baseline_decay
            self._reward_sum = decay * self._reward_sum + (1 - decay) * outcome.reward
            self._weight_sum = decay * self._weight_sum + (1 - decay)
            advantage = outcome.reward - self._reward_sum / self._weight_sum
            self._adam.ascend(advantage * self._score(outcome.architecture))

    def _score(self, architecture: Architecture) -> NDArray[np.float64]:
        """Return the gradient (T, C) of the architecture's log-probability: one-hot choices minus probabilities."""
        row = np.array([architecture])
        masks = np.concatenate([self._space.mask(row[:, :t]) for t in range(len(architecture))])  # (T, C)
        exponentials = np.exp(self._logits - self._logits.max(axis=1, keepdims=True)) * masks
        score: NDArray[np.float64] = -exponentials / exponentials.sum(axis=1, keepdims=True)
        score[np.arange(len(architecture)), architecture] += 1.0
        return score


class _Adam:
    """Implements Adam (Kingma & Ba 2015, https://arxiv.org/abs/1412.6980) on one array, ten times as fast as torch."""

    def __init__(self, parameters: NDArray[np.float64], learning_rate: float) -> None:
        self._parameters, self._learning_rate = parameters, learning_rate
        self._mean, self._square = np.zeros_like(parameters), np.zeros_like(parameters)
        self._steps = 0

    def ascend(self, gradient: NDArray[np.float64]) -> None:
        """Move the parameters, in place, along the gradient."""
        self._steps += 1
        self._mean += (1 - _BETA_1) * (gradient - self._mean)
        self._square += (1 - _BETA_2) * (gradient**2 - self._square)
        mean = self._mean / (1 - _BETA_1**self._steps)
        square = self._square / (1 - _BETA_2**self._steps)
        self._parameters += self._learning_rate * mean / (np.sqrt(square) + _EPSILON)
