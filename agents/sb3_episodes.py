"""Episodes that make given designs, and how an on-policy algorithm learns from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.recurrent.buffers import RecurrentRolloutBuffer
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from nasenv.envs.env import Episodes
from nasenv.spaces.space import SearchSpace
from nasenv.trial import Architecture


@dataclass(frozen=True)
class Recorded:
    """What is seen and done on the way to n designs of T decisions.

    Args:
        observations: (T, n, D), before each decision.
        actions: (T, n).
        masks: (T, n, C), which actions are valid.
    """

    observations: NDArray[np.float32]
    actions: NDArray[np.int64]
    masks: NDArray[np.bool_]


def recorded(space: SearchSpace, designs: Sequence[Architecture]) -> Recorded:
    """Return the episodes that make n designs."""
    episodes, actions = Episodes(space, len(designs)), np.array(designs, dtype=np.int64).T
    observations, masks = [], []
    for taken in actions:
        observations.append(episodes.observations.copy())
        masks.append(episodes.mask)
        episodes.take(taken)
    return Recorded(np.stack(observations), actions, np.stack(masks))


def judged(policy: ActorCriticPolicy, episodes: Recorded) -> tuple[Tensor, Tensor]:
    """Return a policy's values and the log-probabilities of the actions, both (n, T)."""
    n = episodes.actions.shape[1]
    observations, actions, masks = (  # one episode after the other
        np.concatenate(list(steps.swapaxes(0, 1)))
        for steps in (episodes.observations, episodes.actions, episodes.masks)
    )
    more: dict[str, Any] = {}
    if isinstance(policy, MaskableActorCriticPolicy):
        more["action_masks"] = masks
    elif isinstance(policy, RecurrentActorCriticPolicy):
        zeros = _no_memory(policy.lstm_actor, n)
        more = {"lstm_states": RNNStates(zeros, zeros), "episode_starts": torch.zeros(len(actions))}
    values, log_probs, _ = policy.evaluate_actions(torch.from_numpy(observations), torch.from_numpy(actions), **more)
    return values.reshape(n, -1), log_probs.reshape(n, -1)


def imitate(policy: ActorCriticPolicy, episodes: Recorded, steps: int, enough: float = 1.0) -> None:
    """Raise the log-probability of the actions where there was something to choose: behaviour cloning.

    Args:
        policy: is changed.
        episodes: are imitated.
        steps: of the policy's optimiser, at most.
        enough: mean probability of the actions at which they are imitated.
    """
    chosen = torch.from_numpy(episodes.masks.sum(axis=2).T > 1)
    policy.set_training_mode(True)
    for _ in range(steps):
        _, log_probs = judged(policy, episodes)
        loss = -log_probs[chosen].mean()
        if not loss > -np.log(enough):  # also where there is nothing to choose, and the loss is nan
            break
        policy.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        policy.optimizer.step()


def relabel(model: OnPolicyAlgorithm, episodes: Recorded, places: NDArray[np.int64]) -> None:
    """Put episodes into a full rollout buffer in the place of those that were drawn, for the rewards that are there.

    Args:
        model: its rollouts are one episode an environment, and are about to be learnt from.
        episodes: n of them.
        places: (n,), the environments whose episodes they replace.
    """
    buffer, policy = model.rollout_buffer, model.policy
    with torch.no_grad():
        values, log_probs = judged(policy, episodes)
        if isinstance(buffer, RecurrentRolloutBuffer) and isinstance(policy, RecurrentActorCriticPolicy):
            _relabel_memory(buffer, policy, episodes, places)
    buffer.observations[:, places] = episodes.observations
    buffer.actions[:, places] = episodes.actions[:, :, np.newaxis]
    buffer.values[:, places], buffer.log_probs[:, places] = values.T.numpy(), log_probs.T.numpy()
    if isinstance(buffer, MaskableRolloutBuffer):
        buffer.action_masks[:, places] = episodes.masks
    buffer.compute_returns_and_advantage(torch.zeros(buffer.n_envs), np.ones(buffer.n_envs))


def _relabel_memory(
    buffer: RecurrentRolloutBuffer, policy: RecurrentActorCriticPolicy, episodes: Recorded, places: NDArray[np.int64]
) -> None:
    """Put what the LSTMs remember before each decision into the buffer."""
    remember = [(policy.lstm_actor, ("hidden_states_pi", "cell_states_pi"))]
    if policy.lstm_critic is not None:
        remember.append((policy.lstm_critic, ("hidden_states_vf", "cell_states_vf")))
    for lstm, kept in remember:
        memory = _no_memory(lstm, len(places))
        for t, observations in enumerate(torch.from_numpy(episodes.observations)):
            for name, state in zip(kept, memory, strict=True):
                getattr(buffer, name)[t][:, places] = state.numpy()
            _, memory = lstm(observations.unsqueeze(0), memory)


def _no_memory(lstm: nn.LSTM, n: int) -> tuple[Tensor, Tensor]:
    zeros = torch.zeros(lstm.num_layers, n, lstm.hidden_size)
    return zeros, zeros
