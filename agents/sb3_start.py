"""How an algorithm of Stable-Baselines3 learns from designs that it did not make: those a search starts from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from nasenv.agents.sb3_episodes import Recorded, imitate, recorded
from nasenv.search.search import Search

_IMITATED = 8  # the best of the designs
_CLONING_STEPS = 100  # at most
_CLONED = 0.6  # mean probability of their actions at which designs are imitated: above, there would be no others


def learn_from_start(model: BaseAlgorithm, search: Search, rewards: NDArray[np.float64]) -> None:
    """Let an algorithm learn, before it makes its first design, from those that the search has evaluated.

    An on-policy algorithm cannot learn from what another policy did: it imitates the best designs for a few steps.
    An off-policy one takes all of them into its replay buffer. Any other starts as if there were none.

    Args:
        model: about to learn.
        search: with evaluations in its history.
        rewards: (n,), what the algorithm is paid for each of them.
    """
    if isinstance(model, OnPolicyAlgorithm):
        best = [o.architecture for o in search.history.top(_IMITATED)]
        if best:
            imitate(model.policy, recorded(search.space, best), _CLONING_STEPS, _CLONED)
    elif isinstance(model, OffPolicyAlgorithm):
        _remember(model, recorded(search.space, search.history.architectures), rewards)


def _remember(model: OffPolicyAlgorithm, episodes: Recorded, rewards: NDArray[np.float64]) -> None:
    """Add the episodes to the replay buffer, as many at a time as there are environments; some twice in the last."""
    t, n = episodes.actions.shape
    buffer = model.replay_buffer
    assert buffer is not None  # made with the algorithm
    for first in range(0, n, model.n_envs):
        some = np.arange(first, first + model.n_envs) % n
        for i in range(t):
            last = i == t - 1
            buffer.add(
                episodes.observations[i, some],
                episodes.observations[0 if last else i + 1, some],  # nothing is expected after an end
                episodes.actions[i, some],
                rewards[some] if last else np.zeros(len(some)),
                np.full(len(some), last),
                [{}] * len(some),
            )
