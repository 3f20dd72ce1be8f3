"""Policies: Stable-Baselines3's MlpPolicy with fewer calls, and networks that read the decisions as a sequence.

A rollout asks for the next choices at every decision, for a handful of architectures: there, the networks take less
time than the objects and the checks around them. The lean policies are asked, and answer, the same to the last bit.

An observation holds the whole prefix of an architecture, so a policy need not carry a state from step to step: the
features of a sequence are computed anew, and are the state that a recurrent policy would have carried there. So they
work in the unmodified algorithms, in MaskablePPO too, which has no recurrent policy, and no state is stored with what
is learnt.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from torch import Tensor, nn
from torch.nn import functional

from nasenv.envs.env import choice_numbers
from nasenv.errors import AgentError
from nasenv.spaces.space import SearchSpace

_IMPOSSIBLE = -1e8  # the logit of an invalid choice, as sb3-contrib has it
_WIDTH = 64  # of embeddings, states and features
_HEADS = 4

_Function = Callable[[Tensor], Tensor]


class _Lean(BasePolicy):
    """Draws actions directly from the networks' logits, if observations are vectors and the action is one choice.

    Elsewhere, or where features are extracted by a class of the user's, it is the standard policy, which comes after it
    among a class's parents.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._actor, self._critic = _layers(self)

    def forward(self, obs: Tensor, deterministic: bool = False, action_masks: Any = None) -> Any:
        """Return actions, (n,), values, (n, 1), and log-probabilities, (n,); masks, (n, C), say what is valid."""
        told = {} if action_masks is None else {"action_masks": action_masks}
        if deterministic or not self._can_answer(action_masks):
            return super().forward(obs, deterministic, **told)
        actions, log_probs = _draw(self._log_probs(obs, action_masks))
        return actions, _through(self._critic, obs), log_probs

    def evaluate_actions(self, obs: Any, actions: Tensor, action_masks: Any = None) -> Any:
        """Return values, (n, 1), log-probabilities and entropies, (n,), of actions, (n,); masks, (n, C), as above."""
        told = {} if action_masks is None else {"action_masks": action_masks}
        if not self._can_answer(action_masks):
            return super().evaluate_actions(obs, actions, **told)  # type: ignore[misc]
        return _through(self._critic, obs), *_told(self._log_probs(obs, action_masks), actions)

    def _can_answer(self, action_masks: Any) -> bool:
        return bool(self._actor) and (action_masks is not None) == isinstance(self, MaskableActorCriticPolicy)

    def _log_probs(self, observations: Tensor, action_masks: Any) -> Tensor:
        """Return the log-probabilities, (n, C), at observations, (n, D)."""
        log_probs = _normalised(_through(self._actor, observations))
        if action_masks is None:
            return log_probs
        valid = torch.as_tensor(action_masks, dtype=torch.bool, device=log_probs.device)
        return _normalised(torch.where(valid, log_probs, _IMPOSSIBLE))


class LeanPolicy(_Lean, ActorCriticPolicy):
    """Computes what `ActorCriticPolicy` does, with fewer calls."""


class LeanMaskablePolicy(_Lean, MaskableActorCriticPolicy):
    """Computes what `MaskableActorCriticPolicy` does, with fewer calls."""


_LEAN: dict[type[BasePolicy], type[BasePolicy]] = {
    ActorCriticPolicy: LeanPolicy,
    MaskableActorCriticPolicy: LeanMaskablePolicy,
}


def policy_of(algorithm: type[BaseAlgorithm], name: str) -> str | type[BasePolicy]:
    """Return the lean policy that replaces the algorithm's policy of this name; the name if there is none.

    >>> from stable_baselines3 import DQN, PPO
    >>> policy_of(PPO, "MlpPolicy").__name__, policy_of(PPO, "CnnPolicy"), policy_of(DQN, "MlpPolicy")
    ('LeanPolicy', 'CnnPolicy', 'MlpPolicy')
    """
    standard = algorithm.policy_aliases.get(name)
    return name if standard is None else _LEAN.get(standard, name)


def _layers(policy: Any) -> tuple[list[_Function], list[_Function]]:
    """Return the layers of actor and critic; empty lists unless observations are features and actions one choice.

    Called as modules of modules, the calls take longer than the layers.
    """
    observations = policy.observation_space
    vectors = isinstance(observations, spaces.Box) and observations.dtype == np.float32 and len(observations.shape) == 1
    plain = type(policy.features_extractor) is FlattenExtractor
    if not (vectors and plain and isinstance(policy.action_space, spaces.Discrete)):
        return [], []
    networks = policy.mlp_extractor
    actor, critic = (*networks.policy_net, policy.action_net), (*networks.value_net, policy.value_net)
    return [_function(layer) for layer in actor], [_function(layer) for layer in critic]


def _function(layer: nn.Module) -> _Function:
    """Return a function that computes a layer with its current parameters."""
    if type(layer) is nn.Linear:
        return partial(functional.linear, weight=layer.weight, bias=layer.bias)
    return torch.tanh if type(layer) is nn.Tanh else layer.forward


def _through(layers: list[_Function], values: Tensor) -> Tensor:
    for layer in layers:
        values = layer(values)
    return values


def _normalised(logits: Tensor) -> Tensor:
    return logits - logits.logsumexp(dim=-1, keepdim=True)


def _told(log_probs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Return log-probabilities of actions and entropies, (n,) each, from all log-probabilities, (n, C).

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


class SequenceFeatures(BaseFeaturesExtractor):
    """Extracts features of the next decision from the sequence of those taken.

    Place t of a sequence, from 0 to T, embeds the choice taken before it (nothing at 0) and the decision to be taken
    there (nothing at T); what is read there depends on places 0 to t alone.

    Args:
        observation_space: the environment's observation space.
        space: the search space whose observations are read; see `nasenv.envs.env.Episodes`.
        features_dim: number of features, and width of the embeddings.
    """

    _numbers: Tensor

    def __init__(self, observation_space: spaces.Space[Any], space: SearchSpace, features_dim: int = _WIDTH) -> None:
        super().__init__(observation_space, features_dim)
        self.register_buffer("_numbers", torch.from_numpy(choice_numbers(space)), persistent=False)
        self.choice = nn.Embedding(1 + int(space.num_choices.sum()), features_dim)
        self.decision = nn.Embedding(space.num_decisions + 1, features_dim)

    def forward(self, observations: Tensor) -> Tensor:
        """Return the features, (n, F), of observations, (n, D)."""
        choices = (observations @ self._numbers).long()  # (n, T)
        lengths = (choices > 0).sum(dim=1)
        before = functional.pad(choices, (1, 0))[:, : int(lengths.max()) + 1]  # (n, L), before each place
        sequences, rows = _longest(before)
        embedded = self.choice(sequences) + self.decision.weight[: before.shape[1]]
        return self.read(embedded)[rows, lengths]

    @abstractmethod
    def read(self, sequences: Tensor) -> Tensor:
        """Return the outputs (m, L, F) for m embedded sequences (m, L, F); each place depends on its left only."""


class LSTMFeatures(SequenceFeatures):
    """Extracts the states of a long short-term memory.

    References: Hochreiter & Schmidhuber 1997, https://doi.org/10.1162/neco.1997.9.8.1735
    """

    def __init__(self, observation_space: spaces.Space[Any], space: SearchSpace, features_dim: int = _WIDTH) -> None:
        super().__init__(observation_space, space, features_dim)
        self.lstm = nn.LSTM(features_dim, features_dim, batch_first=True)

    def read(self, sequences: Tensor) -> Tensor:
        """Return the LSTM's states, (m, L, F)."""
        states: Tensor = self.lstm(sequences)[0]
        return states


class AttentionFeatures(SequenceFeatures):
    """Extracts features by one causal transformer layer.

    References: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762
    """

    def __init__(self, observation_space: spaces.Space[Any], space: SearchSpace, features_dim: int = _WIDTH) -> None:
        super().__init__(observation_space, space, features_dim)
        self.layer = nn.TransformerEncoderLayer(features_dim, _HEADS, 2 * features_dim, dropout=0.0, batch_first=True)

    def read(self, sequences: Tensor) -> Tensor:
        """Return the layer's outputs, (m, L, F)."""
        later = nn.Transformer.generate_square_subsequent_mask(sequences.shape[1], sequences.device)
        read: Tensor = self.layer(sequences, src_mask=later, is_causal=True)
        return read


NETWORKS: dict[str, type[SequenceFeatures] | None] = {"mlp": None, "lstm": LSTMFeatures, "attention": AttentionFeatures}
"""The feature extractors before a policy's hidden layers, by name; mlp has none."""


def network_settings(network: str, space: SearchSpace) -> dict[str, Any]:
    """Return the ``policy_kwargs`` for a policy that reads its observations by one of `NETWORKS`."""
    features = NETWORKS[network]
    if features is None:
        return {}
    return {"features_extractor_class": features, "features_extractor_kwargs": {"space": space}}


def _longest(prefixes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sequences (m, L) that are no prefix of another, and for each prefix (n,) the one that contains it.

    The decisions of an episode are prefixes of one sequence, which need be read only once. In sorted order a prefix,
    filled up by zeros, comes right before a sequence that it begins.
    """
    found, places = prefixes.unique(dim=0, return_inverse=True)  # type: ignore[no-untyped-call]
    begins_next = (found[:-1] == found[1:].where(found[:-1] > 0, 0)).all(dim=1)
    longest = functional.pad(~begins_next, (0, 1), value=True)
    return found[longest], (longest.cumsum(dim=0) - longest.long())[places]
