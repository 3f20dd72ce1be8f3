"""Stable-Baselines3 and sb3-contrib algorithms as agents, unmodified, on `ArchitectureVectorEnv`."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import gymnasium
import numpy as np
import sb3_contrib
import stable_baselines3
import torch
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from nasenv.agents.agent import Agent
from nasenv.errors import InputError
from nasenv.fitting import one_thread
from nasenv.history import Outcome
from nasenv.search import Search
from nasenv.spaces.space import is_positive_integer
from nasenv.vector import ArchitectureVectorEnv

_Shaping = Callable[[Sequence[Outcome]], NDArray[np.float64]]

_ENDLESS = 1_000_000  # evaluations that an algorithm plans for where the budget has no limit


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


def _raw(outcomes: Sequence[Outcome]) -> NDArray[np.float64]:
    return np.array([o.reward for o in outcomes])


class StableBaselines(Agent):
    """Any algorithm of Stable-Baselines3 or sb3-contrib, by its class.

    The algorithm is the unmodified class, on the CPU under one thread: its networks are too small for more, and a
    search repeats exactly. A reward is paid at the end of an episode.

    Args:
        algorithm: the class, such as sb3_contrib.TRPO.
        policy: the policy's name as the algorithm knows it.
        settings: further arguments of the algorithm, such as {gamma: 1.0}.
        num_envs: number of designs made at a time; they are evaluated side by side.
        reward: rank pays a design its rank among those seen so far, in [-1, 1]; raw pays the objective's reward.
        repeat_penalty: what a design that was proposed before is paid less.

    Raises:
        InputError: settings that the algorithm does not take, or a reward that is neither rank nor raw.

    References: Raffin et al. 2021, https://jmlr.org/papers/v22/20-1364.html
    """

    def __init__(
        self,
        algorithm: type[BaseAlgorithm],
        policy: str = "MlpPolicy",
        settings: dict[str, Any] | None = None,
        num_envs: int = 16,
        reward: Literal["rank", "raw"] = "rank",
        repeat_penalty: float = 1.0,
    ) -> None:
        super().__init__(batch_size=num_envs)
        if not (isinstance(algorithm, type) and issubclass(algorithm, BaseAlgorithm)):
            raise InputError(f"algorithm must be a class of Stable-Baselines3 or sb3-contrib, got {algorithm!r}")
        if reward not in ("rank", "raw"):
            raise InputError(f"reward must be rank or raw, got {reward!r}")
        if not 0.0 <= repeat_penalty < math.inf:
            raise InputError(f"repeat_penalty must be a number of 0 or more, got {repeat_penalty!r}")
        self.algorithm, self.policy, self.settings = algorithm, policy, settings or {}
        self.reward, self.repeat_penalty = reward, repeat_penalty

    def run(self, search: Search) -> None:
        """Let the algorithm learn until the budget is used up."""
        env = _SearchVecEnv(
            search, self.batch_size, RankReward() if self.reward == "rank" else _raw, self.repeat_penalty
        )
        steps = (search.budget.evaluations or _ENDLESS) * search.space.num_decisions
        with one_thread(torch.device("cpu")):
            model = self._make(env, search)
            model.set_logger(Logger(None, [_SearchWriter(search)]))
            model.learn(steps)
            while True:  # repeats are free, so there may be more episodes than evaluations in the budget
                model.learn(steps, reset_num_timesteps=False)

    def settings_for(self, search: Search) -> dict[str, Any]:
        """Return the arguments of the algorithm for one search."""
        return self.settings

    def _make(self, env: VecEnv, search: Search) -> BaseAlgorithm:
        settings = self.settings_for(search)
        try:
            return self.algorithm(self.policy, env, seed=search.seed, device="cpu", **settings)
        except (AssertionError, TypeError, ValueError) as error:  # Stable-Baselines3 asserts what it was given
            raise InputError(
                f"{self.algorithm.__name__} cannot be made with {settings}: {' '.join(str(error).split())}"
            ) from error


class PPO(StableBaselines):
    """Proximal policy optimisation (Schulman et al. 2017, https://arxiv.org/abs/1707.06347) by Stable-Baselines3.

    An update learns from ``num_envs`` whole designs as one batch.

    Args:
        learning_rate: of Adam.
        num_envs: number of designs an update; they are evaluated side by side.
        n_epochs: passes over them an update.
        ent_coef: weight of the policy's entropy in the loss; keeps the policy from collapsing onto one design.
        clip_range: how far an update may move the probability ratio from 1.
        gamma: discount of the reward at the end of an episode for each decision before it.
        gae_lambda: trade-off of bias and variance of generalised advantage estimation.
        net_arch: widths of the hidden layers of policy and value network.
        reward: rank pays a design its rank among those seen so far, in [-1, 1]; raw pays the objective's reward.
        repeat_penalty: what a design that was proposed before is paid less.
    """

    implementation: ClassVar[type[BaseAlgorithm]] = stable_baselines3.PPO

    def __init__(
        self,
        learning_rate: float = 3e-3,
        num_envs: int = 16,
        n_epochs: int = 10,
        ent_coef: float = 0.05,
        clip_range: float = 0.2,
        gamma: float = 1.0,
        gae_lambda: float = 1.0,
        net_arch: Sequence[int] = (64, 64),
        reward: Literal["rank", "raw"] = "rank",
        repeat_penalty: float = 1.0,
    ) -> None:
        if not is_positive_integer(n_epochs) or not 0.0 < learning_rate < math.inf:
            raise InputError(
                f"n_epochs must be 1 or more and learning_rate positive, got {n_epochs!r} and {learning_rate!r}"
            )
        settings = {
            "learning_rate": learning_rate,
            "n_epochs": n_epochs,
            "ent_coef": ent_coef,
            "clip_range": clip_range,
            "gamma": gamma,
            "gae_lambda": gae_lambda,
            "policy_kwargs": {"net_arch": list(net_arch)},
        }
        super().__init__(type(self).implementation, "MlpPolicy", settings, num_envs, reward, repeat_penalty)

    def settings_for(self, search: Search) -> dict[str, Any]:
        """Return the arguments of the algorithm: rollouts of one episode an environment, learnt from as one batch."""
        episode = search.space.num_decisions
        return {**self.settings, "n_steps": episode, "batch_size": episode * self.batch_size}


class MaskablePPO(PPO):
    """`PPO` that gives invalid choices no probability (Huang and Ontañón 2020, https://arxiv.org/abs/2006.14171).

    The arguments are those of `PPO`.
    """

    implementation = sb3_contrib.MaskablePPO


class _SearchVecEnv(VecEnv):
    """`ArchitectureVectorEnv` as Stable-Baselines3 wants a vector environment, with its own view of the reward."""

    def __init__(self, search: Search, num_envs: int, shape: _Shaping, repeat_penalty: float) -> None:
        self._env = ArchitectureVectorEnv(search, num_envs)
        self._shape, self._penalty = shape, repeat_penalty
        self._actions: NDArray[Any] = np.zeros(num_envs, dtype=np.int64)
        super().__init__(num_envs, self._env.single_observation_space, self._env.single_action_space)

    def reset(self) -> NDArray[Any]:
        observations, _ = self._env.reset()
        return observations

    def step_async(self, actions: NDArray[Any]) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], list[dict[str, Any]]]:
        observations, rewards, dones, _, info = self._env.step(self._actions)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if dones.any():
            outcomes = self._env.outcomes
            rewards = self._shape(outcomes) - self._penalty * np.array([o.repeat for o in outcomes])
            for i, outcome in enumerate(outcomes):
                infos[i]["terminal_observation"] = info["final_obs"][i]
                infos[i]["TimeLimit.truncated"] = False
                infos[i]["episode"] = {"r": outcome.reward, "l": self._env.search.space.num_decisions, "t": 0.0}
        return observations, rewards.astype(np.float32), dones, infos

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        if method_name != "action_masks":
            raise AttributeError(f"the environments of a search have no method {method_name}")
        masks = self._env.action_masks()
        return [masks[i] for i in self._get_indices(indices)]

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self._env, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(f"the environments of a search are not to be changed, but {attr_name} was to be set")

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: Any = None
    ) -> list[bool]:
        return [wrapper_class is Monitor] * len(list(self._get_indices(indices)))  # infos carry "episode" already

    def close(self) -> None:
        """Leave everything open: the search belongs to whoever made it."""


class _SearchWriter(KVWriter):
    """Carries what an algorithm logs into the search's TensorBoard, with steps counted in evaluations."""

    def __init__(self, search: Search) -> None:
        self._search = search

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        wanted = (k for k in key_values if "tensorboard" not in (key_excluded.get(k) or ()))
        self._search.log(
            {k: float(key_values[k]) for k in wanted if isinstance(key_values[k], int | float | np.number)}
        )

    def close(self) -> None:
        """The search closes its TensorBoard itself."""
