"""Guides an on-policy algorithm: revises the architectures that it draws, and lets it learn from others.

No architecture twice, neighbours of good ones, good ones to imitate, those that a search starts from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.recurrent.buffers import RecurrentRolloutBuffer
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from nasenv.agents.novelty import Seen, unseen
from nasenv.envs.env import Episodes
from nasenv.search.history import History
from nasenv.search.layer import SearchLike
from nasenv.spaces.space import SearchSpace, to_architectures
from nasenv.trial import Architecture

_IMITATED = 8  # the best architectures so far
_ENOUGH = 0.6  # mean probability of their actions at which they are imitated: above, there would be no others
_STEPS_AT_START = 100  # of imitation, at most, of the architectures that a search starts from
_PARENTS = 20  # the best architectures so far
_PRESSURE = 0.5  # probability that the best of them is the parent; else, that the second is; ...
_WARM_UP = 16  # architectures before one is taken for good
_NEIGHBOURHOODS = 1024  # kept: the same parents are mutated again and again


class Revision:
    """Replaces some of the architectures that a policy has drawn, before they are evaluated.

    Args:
        search: the search, by which architectures are new or good.
        replace_repeats: whether an architecture that was proposed before, or is the same network as one that was, gives
            way to a neighbour that is new.
        mutation_share: probability that an architecture gives way to a new neighbour of one of the best so far.

    Attributes:
        architectures: (n, T), as they were returned last.
        seen: the architectures that are not new.
    """

    architectures: NDArray[np.int64]

    def __init__(self, search: SearchLike, replace_repeats: bool, mutation_share: float) -> None:
        self.search, self.rng = search, np.random.default_rng(search.seed)
        self._replace, self._share = replace_repeats, mutation_share
        self.seen = Seen(search)
        self._parents: list[Architecture] = []
        self.neighbours_of = lru_cache(_NEIGHBOURHOODS)(search.space.neighbours)

    def __call__(self, drawn: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the n architectures to evaluate, (n, T), instead of those drawn, (n, T)."""
        self.seen.catch_up()
        history = self.search.history
        self._parents = best(history, _PARENTS) if len(history) >= _WARM_UP else []
        architectures = to_architectures(drawn)
        for i, architecture in enumerate(architectures):
            architectures[i] = self.revised(architecture)
            self.seen.add(architectures[i])
        self.architectures = np.array(architectures, dtype=np.int64)
        return self.architectures

    def revised(self, architecture: Architecture) -> Architecture:
        """Return the architecture to evaluate instead of a drawn one."""
        parent = self.parent()
        if parent is None and not (self._replace and architecture in self.seen):
            return architecture
        return unseen(self.neighbours_of, parent or architecture, self.seen, self.rng)

    def parent(self) -> Architecture | None:
        """Return one of the best architectures, with the probability of a mutation; else None."""
        if not self._parents or self.rng.random() >= self._share:
            return None
        return self._parents[min(int(self.rng.geometric(_PRESSURE)), len(self._parents)) - 1]


class Guidance(BaseCallback):
    """Trains an on-policy algorithm also on evaluated architectures that it did not draw, and on the best ones.

    Args:
        search: the search, whose history has the best architectures.
        revise: replaces architectures that the algorithm draws.
        imitation_steps: optimiser steps of imitation before each rollout.
        relabelling: whether the algorithm is told what was evaluated in the place of what it drew.
    """

    model: OnPolicyAlgorithm

    def __init__(self, search: SearchLike, revise: Revision, imitation_steps: int, relabelling: bool) -> None:
        super().__init__()
        self._search, self.revise = search, revise
        self._steps, self._relabelling = imitation_steps, relabelling

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self._steps:
            _imitate_best(self.model, self._search, self._steps)

    def _on_rollout_end(self) -> None:
        architectures, drawn = self.revise.architectures, self.model.rollout_buffer.actions[:, :, 0].T
        places = np.flatnonzero((architectures != drawn).any(axis=1))
        if self._relabelling and len(places):
            relabel(self.model, episode_batch(self._search.space, to_architectures(architectures[places])), places)


def best(history: History, k: int) -> list[Architecture]:
    """Return the k measured architectures with the highest rewards, best first, the earlier first among equals."""
    return [outcome.architecture for outcome in history.top(k)]


def _imitate_best(model: OnPolicyAlgorithm, search: SearchLike, steps: int) -> None:
    """Train a policy to imitate the best architectures of a search so far, for at most so many steps."""
    if architectures := best(search.history, _IMITATED):
        imitate(model.policy, episode_batch(search.space, architectures), steps, _ENOUGH)


def learn_from_start(model: BaseAlgorithm, search: SearchLike, rewards: NDArray[np.float64]) -> None:
    """Train an algorithm on the architectures that the search has evaluated before its first.

    An on-policy algorithm cannot learn from what another policy did: it imitates the best architectures for a few
    steps. An off-policy one takes all of them into its replay buffer. Any other starts as if there were none.

    Args:
        model: about to learn.
        search: with evaluations in its history.
        rewards: (n,), what the algorithm is paid for each of them.
    """
    if isinstance(model, OnPolicyAlgorithm):
        _imitate_best(model, search, _STEPS_AT_START)
    elif isinstance(model, OffPolicyAlgorithm):
        _remember(model, episode_batch(search.space, search.history.architectures), rewards)


def _remember(model: OffPolicyAlgorithm, episodes: EpisodeBatch, rewards: NDArray[np.float64]) -> None:
    """Add the episodes to the replay buffer, one for each environment at a time; the last round repeats some."""
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


@dataclass(frozen=True)
class EpisodeBatch:
    """Holds the observations, actions and masks of the episodes of n architectures of T decisions.

    Args:
        observations: (T, n, D), before each decision.
        actions: (T, n).
        masks: (T, n, C), which actions are valid.
    """

    observations: NDArray[np.float32]
    actions: NDArray[np.int64]
    masks: NDArray[np.bool_]


def episode_batch(space: SearchSpace, architectures: Sequence[Architecture]) -> EpisodeBatch:
    """Return the episodes that build n architectures."""
    episodes, actions = Episodes(space, len(architectures)), np.array(architectures, dtype=np.int64).T
    observations, masks = [], []
    for taken in actions:
        observations.append(episodes.observations.copy())
        masks.append(episodes.mask)
        episodes.take(taken)
    return EpisodeBatch(np.stack(observations), actions, np.stack(masks))


def values_and_log_probs(policy: ActorCriticPolicy, episodes: EpisodeBatch) -> tuple[Tensor, Tensor]:
    """Return a policy's values and the log-probabilities of the actions, (n, T) each."""
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


def imitate(policy: ActorCriticPolicy, episodes: EpisodeBatch, steps: int, enough: float = 1.0) -> None:
    """Raise the log-probabilities of the actions by behaviour cloning, at decisions with several valid choices.

    Args:
        policy: the policy, which is changed.
        episodes: the episodes to imitate.
        steps: largest number of optimiser steps.
        enough: mean probability of the actions at which imitation ends.
    """
    chosen = torch.from_numpy(episodes.masks.sum(axis=2).T > 1)
    policy.set_training_mode(True)
    for _ in range(steps):
        _, log_probs = values_and_log_probs(policy, episodes)
        loss = -log_probs[chosen].mean()
        if not loss > -np.log(enough):  # also where there is nothing to choose, and the loss is nan
            break
        policy.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        policy.optimizer.step()


def relabel(model: OnPolicyAlgorithm, episodes: EpisodeBatch, places: NDArray[np.int64]) -> None:
    """Replace episodes of a full rollout buffer; the rewards in it are kept.

    Args:
        model: its rollouts are one episode an environment, and are about to be learnt from.
        episodes: n of them.
        places: (n,), the environments whose episodes they replace.
    """
    buffer, policy = model.rollout_buffer, model.policy
    with torch.no_grad():
        values, log_probs = values_and_log_probs(policy, episodes)
        if isinstance(buffer, RecurrentRolloutBuffer) and isinstance(policy, RecurrentActorCriticPolicy):
            _relabel_memory(buffer, policy, episodes, places)
    buffer.observations[:, places] = episodes.observations
    buffer.actions[:, places] = episodes.actions[:, :, np.newaxis]
    buffer.values[:, places], buffer.log_probs[:, places] = values.T.numpy(), log_probs.T.numpy()
    if isinstance(buffer, MaskableRolloutBuffer):
        buffer.action_masks[:, places] = episodes.masks
    buffer.compute_returns_and_advantage(torch.zeros(buffer.n_envs), np.ones(buffer.n_envs))


def _relabel_memory(
    buffer: RecurrentRolloutBuffer,
    policy: RecurrentActorCriticPolicy,
    episodes: EpisodeBatch,
    places: NDArray[np.int64],
) -> None:
    """Write the LSTM states before each decision into the buffer."""
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
