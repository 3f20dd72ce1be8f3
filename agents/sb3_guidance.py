"""What helps an on-policy algorithm in a search: no design twice, neighbours of good ones, and good ones to imitate."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from nasenv.agents.novelty import Elite, Seen, unseen
from nasenv.agents.sb3_episodes import imitate, recorded, relabel
from nasenv.search.search import Search
from nasenv.spaces.space import to_architectures
from nasenv.trial import Architecture

_IMITATED = 8  # the best designs so far
_ENOUGH = 0.6  # mean probability of their actions at which they are imitated: above, there would be no others
_PARENTS = 20  # the best designs so far
_PRESSURE = 0.5  # probability that the best of them is the parent; else, that the second is; ...
_WARM_UP = 16  # designs before one is taken for good
_NEIGHBOURHOODS = 1024  # kept: the same parents are mutated again and again


class Revision:
    """Puts other designs in the place of some that a policy has drawn, before they are evaluated.

    Args:
        search: which designs are new to it, and which are good.
        replace_repeats: whether a design that was proposed before, or is the same network as one that was, gives way to
            a neighbour that is new.
        mutation_share: probability that a design gives way to a new neighbour of one of the best so far.

    Attributes:
        designs: (n, T), as they were returned last.
        seen: what is not new.
    """

    designs: NDArray[np.int64]

    def __init__(self, search: Search, replace_repeats: bool, mutation_share: float) -> None:
        self.search, self.rng = search, np.random.default_rng(search.seed)
        self._replace, self._share = replace_repeats, mutation_share
        self.seen, self._elite = Seen(search), Elite(search.history, _PARENTS)
        self._parents: list[Architecture] = []
        self.neighbours_of = lru_cache(_NEIGHBOURHOODS)(search.space.neighbours)

    def __call__(self, drawn: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the n designs to be evaluated, (n, T), in the place of those that were drawn, (n, T)."""
        self.seen.catch_up()
        self._parents = self._elite.best() if len(self.search.history) >= _WARM_UP else []
        designs = to_architectures(drawn)
        for i, design in enumerate(designs):
            designs[i] = self.revised(design)
            self.seen.add(designs[i])
        self.designs = np.array(designs, dtype=np.int64)
        return self.designs

    def revised(self, design: Architecture) -> Architecture:
        """Return what is evaluated for one design."""
        parent = self.parent()
        if parent is None and not (self._replace and design in self.seen):
            return design
        return unseen(self.neighbours_of, parent or design, self.seen, self.rng)

    def parent(self) -> Architecture | None:
        """Return one of the best designs, if one is to be mutated now."""
        if not self._parents or self.rng.random() >= self._share:
            return None
        return self._parents[min(int(self.rng.geometric(_PRESSURE)), len(self._parents)) - 1]


class Guidance(BaseCallback):
    """Lets an on-policy algorithm learn from the designs that were evaluated, whoever made them, and from the best.

    Args:
        search: where the best designs are.
        revise: the designs that the algorithm draws.
        imitation_steps: of imitation before each rollout.
        relabelling: whether the algorithm is told what was evaluated in the place of what it drew.
    """

    model: OnPolicyAlgorithm

    def __init__(self, search: Search, revise: Revision, imitation_steps: int, relabelling: bool) -> None:
        super().__init__()
        self._space, self.revise = search.space, revise
        self._steps, self._relabelling = imitation_steps, relabelling
        self._elite = Elite(search.history, _IMITATED)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        best = self._elite.best() if self._steps else []
        if best:
            imitate(self.model.policy, recorded(self._space, best), self._steps, _ENOUGH)

    def _on_rollout_end(self) -> None:
        designs, drawn = self.revise.designs, self.model.rollout_buffer.actions[:, :, 0].T
        places = np.flatnonzero((designs != drawn).any(axis=1))
        if self._relabelling and len(places):
            relabel(self.model, recorded(self._space, to_architectures(designs[places])), places)
