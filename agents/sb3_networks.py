"""Policy networks that read the decisions taken so far as a sequence: an LSTM, and self-attention.

An observation holds the whole prefix of a design, so a policy need not carry a state from step to step: its features
are computed from the sequence anew, and are the state that a recurrent policy would have carried there. So they work
in the unmodified algorithms of Stable-Baselines3 and sb3-contrib, in MaskablePPO too, which has no recurrent policy,
and no state need be stored with what is learnt from.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn
from torch.nn import functional

from nasenv.envs.env import choice_numbers
from nasenv.spaces.space import SearchSpace

_WIDTH = 64  # of embeddings, states and features
_HEADS = 4


class SequenceFeatures(BaseFeaturesExtractor):
    """Features of the next decision, from the sequence of those taken.

    Place t of a sequence, from 0 to T, embeds the choice taken before it (nothing at 0) and the decision to be taken
    there (nothing at T); what is read there depends on places 0 to t alone.

    Args:
        observation_space: of the environment.
        space: whose observations are read; see `nasenv.envs.env.Episodes`.
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
        """Return what is known at each place, (m, L, F), of m embedded sequences, (m, L, F), from its left alone."""


class LSTMFeatures(SequenceFeatures):
    """The states of a long short-term memory.

    References: Hochreiter & Schmidhuber 1997, https://doi.org/10.1162/neco.1997.9.8.1735
    """

    def __init__(self, observation_space: spaces.Space[Any], space: SearchSpace, features_dim: int = _WIDTH) -> None:
        super().__init__(observation_space, space, features_dim)
        self.lstm = nn.LSTM(features_dim, features_dim, batch_first=True)

    def read(self, sequences: Tensor) -> Tensor:
        """Return the states, (m, L, F)."""
        states: Tensor = self.lstm(sequences)[0]
        return states


class AttentionFeatures(SequenceFeatures):
    """One layer of a transformer whose places attend to themselves and to their left.

    References: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762
    """

    def __init__(self, observation_space: spaces.Space[Any], space: SearchSpace, features_dim: int = _WIDTH) -> None:
        super().__init__(observation_space, space, features_dim)
        self.layer = nn.TransformerEncoderLayer(features_dim, _HEADS, 2 * features_dim, dropout=0.0, batch_first=True)

    def read(self, sequences: Tensor) -> Tensor:
        """Return what the layer says, (m, L, F)."""
        later = nn.Transformer.generate_square_subsequent_mask(sequences.shape[1], sequences.device)
        read: Tensor = self.layer(sequences, src_mask=later, is_causal=True)
        return read


NETWORKS: dict[str, type[SequenceFeatures] | None] = {"mlp": None, "lstm": LSTMFeatures, "attention": AttentionFeatures}
"""What reads the observations in front of a policy's hidden layers, by name; nothing does for mlp."""


def network_settings(network: str, space: SearchSpace) -> dict[str, Any]:
    """Return the ``policy_kwargs`` that make a policy read its observations by one of `NETWORKS`."""
    features = NETWORKS[network]
    if features is None:
        return {}
    return {"features_extractor_class": features, "features_extractor_kwargs": {"space": space}}


def _longest(prefixes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sequences, (m, L), that begin no other, and for each prefix, (n,), the one of them that it begins.

    The decisions of an episode are prefixes of one sequence, which need be read only once. In sorted order a prefix,
    filled up by zeros, comes right before a sequence that it begins.
    """
    found, places = prefixes.unique(dim=0, return_inverse=True)  # type: ignore[no-untyped-call]
    begins_next = (found[:-1] == found[1:].where(found[:-1] > 0, 0)).all(dim=1)
    longest = functional.pad(~begins_next, (0, 1), value=True)
    return found[longest], (longest.cumsum(dim=0) - longest.long())[places]
