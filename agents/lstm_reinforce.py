"""The LSTM controller: a recurrent network that draws one decision after the other, trained by REINFORCE."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nasenv.agents.agent import Agent
from nasenv.configuration import integer, positive, share, weight
from nasenv.search.layer import SearchLike
from nasenv.spaces.space import SearchSpace, to_architectures
from nasenv.training import one_thread, seeded
from nasenv.trial import Architecture, Outcome

_CPU = torch.device("cpu")
_INITIAL_RANGE = 0.08


class LSTMReinforce(Agent):
    """Trains an LSTM policy by REINFORCE (Zoph & Le 2017, https://arxiv.org/abs/1611.01578).

    The LSTM reads the embedding of each choice and gives the logits of the next decision; an invalid choice has no
    probability. Each batch is one update, by Adam, of the architectures' log-probabilities times their advantages: how
    far a reward is above the exponential mean, in standard deviations. The paper's controller (2 layers of 35 units,
    learning rate 6e-4, no entropy bonus, no penalty) was trained on 12,800 architectures; the defaults are for some
    hundreds. Architectures that the search was given to start from are learnt from as if the policy had drawn them.

    Args:
        learning_rate: learning rate of Adam.
        hidden_size: units of each layer, and length of an embedding.
        layers: number of layers of the LSTM.
        entropy_weight: weight of the policy's entropy, summed over the decisions, in the loss.
        repeat_penalty: deduction from the reward of an architecture that was proposed before, in deviations of the
            rewards.
        baseline_decay: share in [0, 1] of mean and variance that is kept with each batch.
        batch_size: number of architectures an update; they are evaluated side by side.

    Raises:
        InputError: a size or learning rate that is not positive, a decay outside [0, 1], a negative
            weight or penalty.
    """

    has_policy = True

    def __init__(
        self,
        learning_rate: float = 1e-2,
        hidden_size: int = 64,
        layers: int = 1,
        entropy_weight: float = 0.05,
        repeat_penalty: float = 1.0,
        baseline_decay: float = 0.9,
        batch_size: int = 8,
    ) -> None:
        super().__init__(batch_size)
        self.hidden_size = integer("LSTMReinforce: hidden_size", hidden_size)
        self.layers = integer("LSTMReinforce: layers", layers)
        self.learning_rate = positive("LSTMReinforce: learning_rate", learning_rate)
        self.entropy_weight = weight("LSTMReinforce: entropy_weight", entropy_weight)
        self.repeat_penalty = weight("LSTMReinforce: repeat_penalty", repeat_penalty)
        self.baseline_decay = share("LSTMReinforce: baseline_decay", baseline_decay)

    def run(self, search: SearchLike) -> None:
        """Search on one thread: the network is too small for more, and results are then reproducible."""
        with one_thread(_CPU):
            super().run(search)

    def begin(self, space: SearchSpace, rng: np.random.Generator) -> None:
        """Initialise the policy."""
        self._space, self._rng = space, rng
        with seeded(int(rng.integers(2**63)), _CPU):
            self._controller = _Controller(space, self.hidden_size, self.layers)
        self._optimizer = torch.optim.Adam(self._controller.parameters(), lr=self.learning_rate)
        self._told, self._mean, self._variance = False, 0.0, 0.0

    def ask(self, n: int) -> list[Architecture]:
        """Return n architectures drawn from the policy."""
        noise = self._rng.gumbel(size=(n, self._space.num_decisions, self._space.max_choices))
        return to_architectures(self._controller.sample(noise))

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Update the policy with the batch."""
        rows = np.array([o.architecture for o in outcomes])
        log_probs, entropies = self._controller(rows)
        loss = -(self._advantages(outcomes) * log_probs + self.entropy_weight * entropies).mean()
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()

    def _advantages(self, outcomes: Sequence[Outcome]) -> Tensor:
        """Return the advantages (n,): rewards minus their mean, in standard deviations, minus repeat penalties."""
        rewards = np.array([o.reward for o in outcomes])
        gain = 1 - self.baseline_decay if self._told else 1.0
        self._told = True
        self._mean += gain * (rewards.mean() - self._mean)
        self._variance += gain * (((rewards - self._mean) ** 2).mean() - self._variance)
        advantages = (rewards - self._mean) / (self._variance**0.5 + 1e-8)
        repeats = np.array([o.repeat for o in outcomes])
        return torch.from_numpy(advantages - self.repeat_penalty * repeats).float()


class _Controller(nn.Module):
    """Computes the policy: an LSTM reads the choices before, and each decision has its own output layer."""

    def __init__(self, space: SearchSpace, hidden_size: int, layers: int) -> None:
        super().__init__()
        t, c = space.num_decisions, space.max_choices
        self._space = space
        self.embedding = nn.Embedding(1 + t * c, hidden_size)  # 0 begins; choice k of decision i is 1 + i c + k
        self.lstm = nn.LSTM(hidden_size, hidden_size, layers, batch_first=True)
        self.weight, self.bias = nn.Parameter(torch.empty(t, hidden_size, c)), nn.Parameter(torch.empty(t, 1, c))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -_INITIAL_RANGE, _INITIAL_RANGE)

    def forward(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and entropies, (n,) each, of n architectures given as rows (n, T)."""
        n, t = rows.shape
        offsets = 1 + np.arange(t - 1) * self._space.max_choices
        tokens = np.concatenate([np.zeros((n, 1), dtype=np.int64), rows[:, :-1] + offsets], axis=1)
        states, _ = self.lstm(self.embedding(torch.from_numpy(tokens)))
        logits = torch.baddbmm(self.bias, states.transpose(0, 1), self.weight)  # (T, n, C)
        masks = np.stack([self._space.mask(rows[:, :i]) for i in range(t)])
        log_probs = logits.masked_fill(torch.from_numpy(~masks), -1e9).log_softmax(dim=2)
        chosen = log_probs.gather(2, torch.from_numpy(rows.T[:, :, None].copy())).sum(dim=(0, 2))
        return chosen, -(log_probs.exp() * log_probs).sum(dim=(0, 2))

    @torch.no_grad()
    def sample(self, noise: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return n architectures (n, T) drawn with Gumbel noise (n, T, C): the largest logit + noise is taken."""
        n, t, c = noise.shape
        rows, token, state = np.zeros((n, t), dtype=np.int64), np.zeros((n, 1), dtype=np.int64), None
        for i in range(t):
            hidden, state = self.lstm(self.embedding(torch.from_numpy(token)), state)
            logits = (self.bias[i] + hidden[:, 0] @ self.weight[i]).numpy()
            rows[:, i] = np.where(self._space.mask(rows[:, :i]), logits + noise[:, i], -np.inf).argmax(axis=1)
            token = 1 + i * c + rows[:, i : i + 1]
        return rows
