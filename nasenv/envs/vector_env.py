"""A vector environment whose episodes end together, with one evaluation for all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from nasenv.configuration import integer
from nasenv.envs.env import (
    Episodes,
    check_render_mode,
    decisions_as_text,
    describe,
    make_search,
    picture,
    single_spaces,
)
from nasenv.envs.spec import SpecificationOf
from nasenv.search.history import Answers
from nasenv.search.search import Search
from nasenv.spaces.space import SearchSpace
from nasenv.trial import Outcome

_Array = NDArray[Any]


class ArchitectureVectorEnv(VectorEnv[_Array, _Array, _Array]):
    """Runs ``num_envs`` copies of `ArchitectureEnv` in step; all architectures are evaluated together.

    Spaces and rewards are those of `ArchitectureEnv`, batched. Autoreset is SAME_STEP: the step that ends the episodes
    returns the first observations of the next ones, and in its info ``final_obs``, an array of num_envs observations,
    and ``final_info``. All is as `gymnasium.vector.SyncVectorEnv` would return it.

    Args:
        search: evaluates the architectures; its budget, where it sets a limit, ends a step with `BudgetExhausted`.
        num_envs: number of architectures at once.
        render_mode: rgb_array returns a picture of each architecture, ansi its decisions.

    Attributes:
        outcomes: those of the last architectures that were finished, one an environment.

    Raises:
        InputError: a number of architectures that is not positive, an unknown render mode, or actions that are not one
            whole number for each.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012, as Gymnasium declares it
        "render_modes": ["ansi", "rgb_array"],
        "render_fps": 4,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }
    spec: Any = SpecificationOf()

    def __init__(self, search: Search, num_envs: int, render_mode: str | None = None) -> None:
        self.search, self.num_envs = search, integer("num_envs", num_envs)
        self.render_mode = check_render_mode(render_mode, self.metadata)
        self.single_observation_space, self.single_action_space = single_spaces(search.space)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.outcomes: Sequence[Outcome] = ()
        self._episodes = Episodes(search.space, num_envs)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[_Array, dict[str, Any]]:
        """Start ``num_envs`` architectures; a seed has no effect, since nothing is random."""
        super().reset(seed=seed if isinstance(seed, int) else None)
        self._episodes.restart()
        return self._episodes.observations.copy(), self._info()

    def step(self, actions: _Array) -> tuple[_Array, _Array, _Array, _Array, dict[str, Any]]:
        """Take one decision for each architecture; the last one evaluates them all and starts the next ones."""
        done = self._episodes.take(actions)
        rewards, final = np.zeros(self.num_envs), {}
        if done:
            answers = self.search.evaluate(self._episodes.choices)
            self.outcomes, rewards, final = answers, answers.rewards, self._final_info(answers)
            self._episodes.restart()
        ends = np.full(self.num_envs, done)
        return self._episodes.observations.copy(), rewards, ends, np.zeros_like(ends), self._info() | final

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions are valid now, (num_envs, C)."""
        return self._episodes.mask.copy()

    def render(self) -> tuple[Any, ...] | None:
        """Return the architectures so far, one an environment, as pictures or text."""
        space = self.search.space
        prefixes = [self._episodes.prefix(i) for i in range(self.num_envs)]
        if self.render_mode == "ansi":
            return tuple(decisions_as_text(space, p) for p in prefixes)
        if self.render_mode == "rgb_array":
            return tuple(picture(space, p) for p in prefixes)
        return None

    def close_extras(self, **kwargs: Any) -> None:
        """Close the search."""
        self.search.close()

    def _info(self) -> dict[str, Any]:
        return self._with_flags({"action_mask": self._episodes.mask.astype(np.int8)})

    def _final_info(self, answers: Answers) -> dict[str, Any]:
        said = {"action_mask": self._episodes.mask.astype(np.int8)} | describe(answers)
        observations = np.fromiter(self._episodes.observations, dtype=object, count=self.num_envs)
        return self._with_flags({"final_obs": observations, "final_info": self._with_flags(said)})

    def _with_flags(self, info: dict[str, Any]) -> dict[str, Any]:
        """Return the info with Gymnasium's flag ``_key`` for each key: all environments have it."""
        return info | {f"_{key}": np.ones(self.num_envs, dtype=np.bool_) for key in info}


def make_vec_env(
    space: type[SearchSpace] | SearchSpace | str, num_envs: int = 1, render_mode: str | None = None, **parts: Any
) -> ArchitectureVectorEnv:
    """Return the vector environment of a registered id; ``parts`` are the arguments of `make_search`."""
    return ArchitectureVectorEnv(make_search(space, **parts), num_envs, render_mode)
