"""PPO whose architectures are screened by a Gaussian process before they are evaluated."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nasenv.agents.sb3 import MaskablePPO
from nasenv.agents.sb3_guidance import Guidance, Revision
from nasenv.configuration import integer, weight
from nasenv.search.layer import SearchLike
from nasenv.surrogates.gaussian_process import Surrogate
from nasenv.trial import Architecture

_UNSCREENED = 10  # first architectures, of which there is nothing to learn from yet


class Screening(Revision):
    """Replaces each drawn architecture by the most promising new one among itself and some of its neighbours.

    Args:
        search: the search, whose history is learnt from.
        mutation_share: see `Revision`.
        neighbours: number of random neighbours of each architecture that are compared.
        beta: weight of the standard deviation in the upper confidence bound by which they are compared.
    """

    def __init__(self, search: SearchLike, mutation_share: float, neighbours: int, beta: float) -> None:
        super().__init__(search, True, mutation_share)
        self._neighbours, self._beta = neighbours, beta
        self._surrogate, self._observed = Surrogate(search.space), 0

    def __call__(self, drawn: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the n architectures to evaluate, (n, T), instead of those drawn, (n, T)."""
        history = self.search.history
        first, self._observed = self._observed, len(history)
        if first < len(history):
            new = np.arange(first, len(history))
            self._surrogate.observe(history.architectures[first:], history.rewards(new))
        return super().__call__(drawn)

    def revised(self, architecture: Architecture) -> Architecture:
        """Return the most promising new architecture near the drawn one, or near one of the best."""
        if self._observed < _UNSCREENED:
            return super().revised(architecture)
        architecture = self.parent() or architecture
        neighbours = self.neighbours_of(architecture)
        some = self.rng.permutation(len(neighbours))[: self._neighbours].tolist()
        candidates = [d for d in (architecture, *(neighbours[i] for i in some)) if d not in self.seen]
        if not candidates:
            return super().revised(architecture)
        best: Architecture = candidates[int(self._surrogate.ucb(candidates, self._beta).argmax())]
        self._surrogate.believe([best])
        return best


class ModelAssistedPPO(MaskablePPO):
    """Runs `MaskablePPO`, but evaluates the most promising of each drawn architecture and its neighbours.

    A Gaussian process of all evaluations predicts what is promising (`Surrogate`). The policy learns from what was
    evaluated, as if it had drawn it. Related: DyNA-PPO (Angermueller et al. 2020,
    https://openreview.net/forum?id=HklxbgBKvr) trains the policy on a model's rewards too; BANANAS (White et al. 2021,
    https://arxiv.org/abs/1910.11858) and NPENAS (Wei et al. 2020, https://arxiv.org/abs/2003.12857) screen the mutants
    of evolution by networks; WeakNAS (Wu et al. 2021, https://arxiv.org/abs/2102.10490) the whole space by one weak
    predictor after another.

    The other arguments are those of `PPO`.

    Args:
        neighbours: number of random neighbours that each architecture is held against.
        beta: weight of the standard deviation in the upper confidence bound; 0 takes the expected score.
        num_envs: number of architectures an update; they are evaluated side by side. auto: see `StableBaselines`.
        n_epochs: passes over them an update.
        imitation_steps: optimiser steps, before each rollout, that make the eight best architectures so far likelier.
    """

    def __init__(
        self,
        neighbours: int = 23,
        beta: float = 1.0,
        num_envs: int | Literal["auto"] = 4,
        n_epochs: int = 4,
        imitation_steps: int = 2,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_envs=num_envs,
            n_epochs=n_epochs,
            imitation_steps=imitation_steps,
            replace_repeats=True,
            relabelling=True,
            **kwargs,
        )
        self.neighbours, self.beta = integer("neighbours", neighbours), weight("beta", beta)

    def guidance_for(self, search: SearchLike) -> Guidance:
        """Return the callback that screens the architectures."""
        screening = Screening(search, self.mutation_share, self.neighbours, self.beta)
        return Guidance(search, screening, self.imitation_steps, self.relabelling)
