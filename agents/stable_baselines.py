"""Stable-Baselines3 and sb3-contrib algorithms as agents, unmodified."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv

from nasenv.agents.agent import Agent, weight
from nasenv.agents.sb3_env import RankReward, SearchVecEnv, SearchWriter, raw_reward
from nasenv.agents.sb3_guidance import Guidance
from nasenv.agents.sb3_policy import policy_of
from nasenv.agents.sb3_start import learn_from_start
from nasenv.errors import InputError
from nasenv.search.search import Search
from nasenv.training import one_thread

_DESIGNS = 16  # at a time, at least, where that follows the evaluator: an update learns from them
_ENDLESS = 1_000_000  # evaluations that an algorithm plans for where the budget has no limit


class StableBaselines(Agent):
    """Any algorithm of Stable-Baselines3 or sb3-contrib, by its class.

    The algorithm is the unmodified class, on the CPU under one thread: its networks are too small for more, and a
    search repeats exactly. The policies that are a perceptron for actor and critic choose as the library's do, by fewer
    calls (`nasenv.agents.sb3_policy`). A reward is paid at the end of an episode. Where the search was given designs to
    start from, an on-policy algorithm first imitates the best of them, and an off-policy one replays them.

    Args:
        algorithm: the class, such as sb3_contrib.TRPO.
        policy: the policy's name as the algorithm knows it.
        settings: further arguments of the algorithm, such as {gamma: 1.0}.
        num_envs: number of designs made at a time; they are evaluated side by side. auto follows the evaluator: of
            the multiples of how many it works on when the search begins, the least that is 16 or more. A search that
            goes on keeps to it.
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
        num_envs: int | Literal["auto"] = 16,
        reward: Literal["rank", "raw"] = "rank",
        repeat_penalty: float = 1.0,
    ) -> None:
        super().__init__(batch_size=_DESIGNS if num_envs == "auto" else num_envs)
        self.num_envs = num_envs
        if not (isinstance(algorithm, type) and issubclass(algorithm, BaseAlgorithm)):
            raise InputError(f"algorithm must be a class of Stable-Baselines3 or sb3-contrib, got {algorithm!r}")
        if reward not in ("rank", "raw"):
            raise InputError(f"reward must be rank or raw, got {reward!r}")
        self.algorithm, self.policy, self.settings = algorithm, policy, settings or {}
        self.reward, self.repeat_penalty = reward, weight("repeat_penalty", repeat_penalty)

    def run(self, search: Search) -> None:
        """Let the algorithm learn until the budget is used up."""
        shape = RankReward() if self.reward == "rank" else raw_reward
        guidance = self.guidance_for(search)
        revise = guidance.revise if guidance is not None else None
        env = SearchVecEnv(search, self.designs_at_once(search), shape, self.repeat_penalty, revise)
        steps = math.ceil(search.remaining or _ENDLESS) * search.space.num_decisions
        with one_thread(torch.device("cpu")):
            model = self._make(env, search)
            model.set_logger(Logger(None, [SearchWriter(search)]))
            more: dict[str, Any] = {"callback": guidance}
            if not search.is_logged:
                more["log_interval"] = None
            if len(search.history):
                learn_from_start(model, search, env.pay(search.history.answers))
            model.learn(steps, **more)
            while True:  # repeats are free, so there may be more episodes than evaluations in the budget
                model.learn(steps, reset_num_timesteps=False, **more)

    def designs_at_once(self, search: Search) -> int:
        """Return how many designs are made at a time in this search."""
        return math.ceil(_DESIGNS / search.slots) * search.slots if self.num_envs == "auto" else self.batch_size

    def settings_for(self, search: Search) -> dict[str, Any]:
        """Return the arguments of the algorithm for one search."""
        return self.settings

    def guidance_for(self, search: Search) -> Guidance | None:
        """Return what revises the algorithm's designs in a search, and what it learns from; None for nothing."""
        return None

    def _make(self, env: VecEnv, search: Search) -> BaseAlgorithm:
        settings = self.settings_for(search)
        policy = policy_of(self.algorithm, self.policy)
        try:
            return self.algorithm(policy, env, seed=search.seed, device="cpu", **settings)
        except (AssertionError, TypeError, ValueError) as error:  # Stable-Baselines3 asserts what it was given
            raise InputError(
                f"{self.algorithm.__name__} cannot be made with {settings}: {' '.join(str(error).split())}"
            ) from error
