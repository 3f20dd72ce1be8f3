"""How an algorithm of Stable-Baselines3 learns from designs that it did not make: those a search starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy

from nasenv.history import Outcome
from nasenv.search import Search
from nasenv.spaces.space import Architecture
from nasenv.vector import ArchitectureVectorEnv

_IMITATED = 8  # the best of the designs
_CLONING_STEPS = 100  # at most
_CLONED = 0.6  # mean probability of their actions at which designs are imitated: above, there would be no others


@dataclass(frozen=True)
class _Episodes:
    """What would have been seen and done on the way to n designs.

    Args:
        observations: (T, n, D), before each decision.
        actions: (T, n).
        masks: (T, n, C), which actions were valid.
    """

    observations: NDArray[np.float32]
    actions: NDArray[np.int64]
    masks: NDArray[np.bool_]


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
            _imitate(model.policy, _episodes(search, best))
    elif isinstance(model, OffPolicyAlgorithm):
        _remember(model, _episodes(search, _architectures(search.history)), rewards)


def _architectures(outcomes: Sequence[Outcome]) -> list[Architecture]:
    return [o.architecture for o in outcomes]


def _episodes(search: Search, designs: Sequence[Architecture]) -> _Episodes:
    """Return the episodes of n designs; the last action is not taken, as it would propose them."""
    env = ArchitectureVectorEnv(search, len(designs))
    actions = np.array(designs, dtype=np.int64).T
    observations, masks = [env.reset()[0]], [env.action_masks()]
    for taken in actions[:-1]:
        observations.append(env.step(taken)[0])
        masks.append(env.action_masks())
    return _Episodes(np.stack(observations), actions, np.stack(masks))


def _imitate(policy: ActorCriticPolicy, episodes: _Episodes) -> None:
    """Raise the log-probability of the actions where there was something to choose: behaviour cloning."""
    observations, actions, masks = (  # one episode after the other
        np.concatenate(list(steps.swapaxes(0, 1)))
        for steps in (episodes.observations, episodes.actions, episodes.masks)
    )
    chosen = torch.from_numpy(masks.sum(axis=1) > 1)
    more: dict[str, Any] = {}
    if isinstance(policy, MaskableActorCriticPolicy):
        more["action_masks"] = masks
    elif isinstance(policy, RecurrentActorCriticPolicy):
        lstm, n = policy.lstm_actor, episodes.actions.shape[1]
        zeros = torch.zeros(lstm.num_layers, n, lstm.hidden_size)
        more = {"lstm_states": RNNStates((zeros, zeros), (zeros, zeros)), "episode_starts": torch.zeros(len(actions))}
    policy.set_training_mode(True)
    for _ in range(_CLONING_STEPS):
        _, log_probs, _ = policy.evaluate_actions(torch.from_numpy(observations), torch.from_numpy(actions), **more)
        loss = -log_probs[chosen].mean()
        if not loss > -np.log(_CLONED):  # also where there is nothing to choose, and the loss is nan
            break
        policy.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        policy.optimizer.step()


def _remember(model: OffPolicyAlgorithm, episodes: _Episodes, rewards: NDArray[np.float64]) -> None:
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
