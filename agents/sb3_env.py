"""A search as Stable-Baselines3 sees it: a vector environment, its view of the reward, and a place to log."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.logger import KVWriter
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from nasenv.history import Outcome
from nasenv.search import Search
from nasenv.vector import ArchitectureVectorEnv

Shaping: TypeAlias = Callable[[Sequence[Outcome]], NDArray[np.float64]]
"""What an algorithm is paid for n outcomes, (n,)."""


class RankReward:
    """Pays a design its rank among the distinct designs seen so far, from -1 (worst) to 1 (best); ties share a rank.

    Ranks keep the pressure up when all designs have become good and their accuracies differ by hardly anything.
    """

    def __init__(self) -> None:
        self._seen: list[float] = []  # sorted

    def __call__(self, outcomes: Sequence[Outcome]) -> NDArray[np.float64]:
        """Return the rewards, (n,), of a batch; all of it is taken in before any is ranked."""
        for outcome in outcomes:
            if not outcome.repeat:
                bisect.insort(self._seen, outcome.reward)
        return np.array([self._rank(o.reward) for o in outcomes])

    def _rank(self, reward: float) -> float:
        below = bisect.bisect_left(self._seen, reward)
        not_above = bisect.bisect_right(self._seen, reward)
        return (below + not_above) / len(self._seen) - 1.0


def raw_reward(outcomes: Sequence[Outcome]) -> NDArray[np.float64]:
    """Return the rewards, (n,), as the objective pays them."""
    return np.array([o.reward for o in outcomes])


class SearchVecEnv(VecEnv):
    """`ArchitectureVectorEnv` as Stable-Baselines3 wants a vector environment, with its own view of the reward."""

    def __init__(self, search: Search, num_envs: int, shape: Shaping, repeat_penalty: float) -> None:
        self._env = ArchitectureVectorEnv(search, num_envs)
        self._shape, self._penalty = shape, repeat_penalty
        self._actions: NDArray[Any] = np.zeros(num_envs, dtype=np.int64)
        super().__init__(num_envs, self._env.single_observation_space, self._env.single_action_space)

    def pay(self, outcomes: Sequence[Outcome]) -> NDArray[np.float64]:
        """Return what the algorithm is paid for n designs, (n,)."""
        return self._shape(outcomes) - self._penalty * np.array([o.repeat for o in outcomes])

    def reset(self) -> NDArray[Any]:
        """Begin num_envs designs and return the first observations, (num_envs, D)."""
        observations, _ = self._env.reset()
        return observations

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep the actions, (num_envs,), for ``step_wait``."""
        self._actions = actions

    def step_wait(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], list[dict[str, Any]]]:
        """Return observations, rewards, ends and infos, with what Stable-Baselines3 looks for at an end."""
        observations, rewards, dones, _, info = self._env.step(self._actions)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if dones.any():
            outcomes = self._env.outcomes
            rewards = self.pay(outcomes)
            for i, outcome in enumerate(outcomes):
                infos[i]["terminal_observation"] = info["final_obs"][i]
                infos[i]["TimeLimit.truncated"] = False
                infos[i]["episode"] = {"r": outcome.reward, "l": self._env.search.space.num_decisions, "t": 0.0}
        return observations, rewards.astype(np.float32), dones, infos

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Return the action masks, which MaskablePPO asks for; there is no other method."""
        if method_name != "action_masks":
            raise AttributeError(f"the environments of a search have no method {method_name}")
        masks = self._env.action_masks()
        return [masks[i] for i in self._get_indices(indices)]

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute once for each environment: they share it."""
        return [getattr(self._env, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refuse."""
        raise AttributeError(f"the environments of a search are not to be changed, but {attr_name} was to be set")

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: Any = None
    ) -> list[bool]:
        """Say that a Monitor is there."""
        return [wrapper_class is Monitor] * len(list(self._get_indices(indices)))  # infos carry "episode" already

    def close(self) -> None:
        """Leave everything open: the search belongs to whoever made it."""


class SearchWriter(KVWriter):
    """Carries what an algorithm logs into the search's TensorBoard, with steps counted in evaluations."""

    def __init__(self, search: Search) -> None:
        self._search = search

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Write the numbers that are meant for TensorBoard."""
        wanted = (k for k in key_values if "tensorboard" not in (key_excluded.get(k) or ()))
        self._search.log(
            {k: float(key_values[k]) for k in wanted if isinstance(key_values[k], int | float | np.number)}
        )

    def close(self) -> None:
        """The search closes its TensorBoard itself."""
