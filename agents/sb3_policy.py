"""The policies called MlpPolicy by Stable-Baselines3, with fewer calls where a rollout asks for the next choices.

A rollout asks at every decision, for a handful of designs: there, the networks take less time than the objects and the
checks around them. What is asked, and what is answered, is the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, nn
from torch.nn import functional

from nasenv.errors import AgentError

_IMPOSSIBLE = -1e8  # the logit of an invalid choice, as sb3-contrib has it


class _Layers:
    """The networks of a policy, layer by layer: called as modules of modules, the calls take longer than the layers."""

    def __init__(self, policy: ActorCriticPolicy | MaskableActorCriticPolicy) -> None:
        self._actor = [_function(layer) for layer in (*policy.mlp_extractor.policy_net, policy.action_net)]
        self._critic = [_function(layer) for layer in (*policy.mlp_extractor.value_net, policy.value_net)]

    def logits(self, observations: Tensor) -> Tensor:
        """Return the logits, (n, C), of observations, (n, D), their exponentials adding up to 1."""
        for layer in self._actor:
            observations = layer(observations)
        return _normalised(observations)

    def values(self, observations: Tensor) -> Tensor:
        """Return the values, (n, 1), of observations, (n, D)."""
        for layer in self._critic:
            observations = layer(observations)
        return observations


class LeanPolicy(ActorCriticPolicy):
    """`ActorCriticPolicy` that draws from the networks' logits itself, where it is asked for vectors and one choice.

    Elsewhere, or where features are extracted by a class of the user's, it is the standard policy.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._layers = _Layers(self) if _suits(self) else None

    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Return actions, (n,), values, (n, 1), and the actions' log-probabilities, (n,), of observations, (n, D)."""
        if deterministic or self._layers is None:
            return super().forward(obs, deterministic)
        actions, log_probs = _draw(self._layers.logits(obs))
        return actions, self._layers.values(obs), log_probs

    def evaluate_actions(self, obs: PyTorchObs, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return values, (n, 1), the actions' log-probabilities and the entropies, (n,), of observations, (n, D)."""
        if self._layers is None or isinstance(obs, dict):
            return super().evaluate_actions(obs, actions)
        return self._layers.values(obs), *_told(self._layers.logits(obs), actions)


class LeanMaskablePolicy(MaskableActorCriticPolicy):
    """`MaskableActorCriticPolicy`, as `LeanPolicy` is `ActorCriticPolicy`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._layers = _Layers(self) if _suits(self) else None

    def forward(
        self, obs: Tensor, deterministic: bool = False, action_masks: NDArray[np.bool_] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return actions, (n,), values, (n, 1), and log-probabilities, (n,); masks, (n, C), say what is valid."""
        if deterministic or action_masks is None or self._layers is None:
            return super().forward(obs, deterministic, action_masks)
        logits = self._layers.logits(obs)
        valid = torch.as_tensor(action_masks, dtype=torch.bool, device=logits.device)
        actions, log_probs = _draw(_normalised(torch.where(valid, logits, _IMPOSSIBLE)))
        return actions, self._layers.values(obs), log_probs

    def evaluate_actions(
        self, obs: Tensor, actions: Tensor, action_masks: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return values, (n, 1), log-probabilities and entropies, (n,), of actions, (n,); masks, (n, C), as above."""
        if action_masks is None or self._layers is None:
            return super().evaluate_actions(obs, actions, action_masks)
        logits = self._layers.logits(obs)
        valid = torch.as_tensor(action_masks, dtype=torch.bool, device=logits.device)
        return self._layers.values(obs), *_told(_normalised(torch.where(valid, logits, _IMPOSSIBLE)), actions)


_LEAN: dict[type[BasePolicy], type[BasePolicy]] = {
    ActorCriticPolicy: LeanPolicy,
    MaskableActorCriticPolicy: LeanMaskablePolicy,
}


def policy_of(algorithm: type[BaseAlgorithm], name: str) -> str | type[BasePolicy]:
    """Return the lean policy in the place of the one that an algorithm knows by this name; the name if there is none.

    >>> from stable_baselines3 import DQN, PPO
    >>> policy_of(PPO, "MlpPolicy").__name__, policy_of(PPO, "CnnPolicy"), policy_of(DQN, "MlpPolicy")
    ('LeanPolicy', 'CnnPolicy', 'MlpPolicy')
    """
    standard = algorithm.policy_aliases.get(name)
    return name if standard is None else _LEAN.get(standard, name)


def _suits(policy: ActorCriticPolicy | MaskableActorCriticPolicy) -> bool:
    """Return whether features are the observations as they are, and an action is one choice."""
    observations = policy.observation_space
    vectors = isinstance(observations, spaces.Box) and observations.dtype == np.float32 and len(observations.shape) == 1
    plain = type(policy.features_extractor) is FlattenExtractor
    return vectors and plain and isinstance(policy.action_space, spaces.Discrete)


def _function(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return what a layer does, on the parameters that it has: optimisers change them in place."""
    if type(layer) is nn.Linear:
        return partial(functional.linear, weight=layer.weight, bias=layer.bias)
    return torch.tanh if type(layer) is nn.Tanh else layer.forward


def _normalised(logits: Tensor) -> Tensor:
    return logits - logits.logsumexp(dim=-1, keepdim=True)


def _told(log_probs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities of actions, and the entropies, both (n,), from all log-probabilities, (n, C).

    Raises:
        AgentError: they are not numbers any more.
    """
    if log_probs.isnan().any():
        raise AgentError("the policy's networks have become nan; a smaller learning_rate mends that")
    entropies = -(log_probs * torch.softmax(log_probs, dim=-1)).sum(-1)
    return log_probs.gather(-1, actions.long().unsqueeze(-1)).squeeze(-1), entropies


def _draw(log_probs: Tensor) -> tuple[Tensor, Tensor]:
    """Return n choices, drawn as `torch.distributions.Categorical` draws them, and their log-probabilities, (n,).

    It is the race of exponentials that `torch.multinomial` draws one choice by, without its checks of probabilities,
    which take longer; a policy that has become nan is refused when it is trained.
    """
    probs = torch.softmax(log_probs, dim=-1)
    actions = torch.argmax(probs.div_(torch.empty_like(probs).exponential_()), dim=-1)
    return actions, log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
