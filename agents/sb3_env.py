"""Adapts a search to Stable-Baselines3: a vector environment, shaped rewards, and a logger."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.logger import KVWriter
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from nasenv.envs.env import Episodes, single_spaces
from nasenv.search.history import Answers
from nasenv.search.layer import SearchLike

_Rewards: TypeAlias = NDArray[np.float64]

Shaping: TypeAlias = Callable[[Answers], _Rewards]
"""Maps n answers to the rewards of the algorithm, (n,)."""

Revise: TypeAlias = Callable[[NDArray[np.int64]], NDArray[np.int64]]
"""Maps n architectures that an algorithm made, (n, T), to those that are evaluated, (n, T)."""


class RankReward:
    """Maps each reward to its rank among distinct architectures so far, from -1 (worst) to 1 (best); ties share one.

    Ranks keep the pressure up when all architectures have become good and their accuracies differ by hardly anything.
    Failed architectures rank below infeasible ones, and these below those that have a score.
    """

    def __init__(self) -> None:
        self._seen = [np.zeros(0) for _ in range(3)]  # by status, each sorted

    def __call__(self, answers: Answers) -> _Rewards:
        """Return the ranks of a batch's rewards, (n,), all of which are added before any is ranked."""
        rewards, new, statuses = answers.rewards, ~answers.repeats, answers.statuses
        for status, seen in enumerate(self._seen):
            added = np.sort(rewards[new & (statuses == status)])
            self._seen[status] = np.insert(seen, seen.searchsorted(added), added)
        ranks, lower = np.zeros(len(rewards)), 0
        for status, seen in enumerate(self._seen):
            those = statuses == status
            below, not_above = (seen.searchsorted(rewards[those], side) for side in ("left", "right"))
            ranks[those] = 2 * lower + below + not_above
            lower += len(seen)
        return ranks / lower - 1.0


class SearchVecEnv(VecEnv):
    """Wraps a search's vector environment for Stable-Baselines3, and shapes its rewards.

    Observations, actions and masks are those of `nasenv.envs.vector_env.ArchitectureVectorEnv`.

    Args:
        search: evaluates the architectures; its budget ends a step with `BudgetExhausted`.
        num_envs: number of architectures at once.
        shape: maps rewards to what the algorithm is paid.
        repeat_penalty: deduction for an architecture that was proposed before.
        revise: changes the architectures that it makes; None leaves them as they are.
    """

    render_mode: str | None = None

    def __init__(
        self, search: SearchLike, num_envs: int, shape: Shaping, repeat_penalty: float, revise: Revise | None = None
    ) -> None:
        self.search = search
        self._episodes = Episodes(search.space, num_envs)
        self._shape, self._penalty, self._revise = shape, repeat_penalty, revise
        self._actions: NDArray[Any] = np.zeros(num_envs, dtype=np.int64)
        super().__init__(num_envs, *single_spaces(search.space))

    def pay(self, answers: Answers) -> _Rewards:
        """Return the rewards that the algorithm is paid for n architectures, (n,)."""
        return self._shape(answers) - self._penalty * answers.repeats

    def reset(self) -> NDArray[Any]:
        """Start num_envs architectures and return their first observations, (num_envs, D)."""
        self._episodes.restart()
        return self._episodes.observations.copy()

    def step_async(self, actions: NDArray[Any]) -> None:
        """Store the actions, (num_envs,), for ``step_wait``."""
        self._actions = actions

    def step_wait(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], list[dict[str, Any]]]:
        """Return observations, rewards, dones and infos, with the keys that Stable-Baselines3 reads."""
        done = self._episodes.take(self._actions)
        rewards = np.zeros(self.num_envs, dtype=np.float32)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if done:
            made = self._episodes.choices
            answers = self.search.evaluate(made if self._revise is None else self._revise(made))
            rewards, infos = self.pay(answers).astype(np.float32), self._said(answers)
            self._episodes.restart()
        return self._episodes.observations.copy(), rewards, np.full(self.num_envs, done), infos

    def _said(self, answers: Answers) -> list[dict[str, Any]]:
        steps, ends = self.search.space.num_decisions, self._episodes.observations
        return [
            {"terminal_observation": end, "TimeLimit.truncated": False, "episode": {"r": reward, "l": steps, "t": 0.0}}
            for end, reward in zip(ends, answers.rewards.tolist(), strict=True)
        ]

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions are valid now, (num_envs, C)."""
        return self._episodes.mask.copy()

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Return the action masks, which MaskablePPO asks for; there is no other method."""
        if method_name != "action_masks":
            raise AttributeError(f"the environments of a search have no method {method_name}")
        masks = self.action_masks()
        return [masks[i] for i in self._get_indices(indices)]

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute once for each environment; they share it."""
        return [getattr(self, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Raise AttributeError."""
        raise AttributeError(f"the environments of a search are not to be changed, but {attr_name} was to be set")

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: Any = None
    ) -> list[bool]:
        """Return, for each environment, whether the wrapper is Monitor, whose infos it returns itself."""
        return [wrapper_class is Monitor] * len(list(self._get_indices(indices)))  # infos carry "episode" already

    def close(self) -> None:
        """Leave the search open, since it belongs to whoever made it."""


class SearchWriter(KVWriter):
    """Writes an algorithm's logs to the search's TensorBoard, with steps counted in evaluations."""

    def __init__(self, search: SearchLike) -> None:
        self._search = search

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Write the numbers that are not excluded from TensorBoard."""
        wanted = (k for k in key_values if "tensorboard" not in (key_excluded.get(k) or ()))
        self._search.log(
            {k: float(key_values[k]) for k in wanted if isinstance(key_values[k], int | float | np.number)}
        )

    def close(self) -> None:
        """Do nothing, since the search closes its TensorBoard."""
