"""Algorithms of Stable-Baselines3 and sb3-contrib as agents, with settings for episodes of about ten decisions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import sb3_contrib
import stable_baselines3
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv

from nasenv.agents.agent import Agent
from nasenv.agents.sb3_env import RankReward, SearchVecEnv, SearchWriter
from nasenv.agents.sb3_guidance import Guidance, Revision, learn_from_start
from nasenv.agents.sb3_policy import NETWORKS, network_settings, policy_of
from nasenv.configuration import flag, integer, one_of, positive, share, weight
from nasenv.errors import InputError
from nasenv.search.layer import SearchLike
from nasenv.training import one_thread

_ARCHITECTURES = 16  # at a time, at least, where that follows the evaluator: an update learns from them
_ENDLESS = 1_000_000  # evaluations that an algorithm plans for where the budget has no limit
_ADAM = {"eps": 1e-5, "fused": True}  # the library's eps; all parameters in one call take a fraction of the time
_REPLAYED = 1_000  # architectures that DQN's replay buffer holds


class StableBaselines(Agent):
    """Runs any algorithm of Stable-Baselines3 or sb3-contrib, given its class.

    The algorithm is the unmodified class, on the CPU under one thread: its networks are too small for more, and a
    search repeats exactly. The policies that are a perceptron for actor and critic choose as the library's do, by fewer
    calls (`nasenv.agents.sb3_policy`). A reward is paid at the end of an episode. Where the search was given
    architectures to start from, an on-policy algorithm first imitates the best of them, and an off-policy one replays
    them.

    Args:
        algorithm: the class, such as sb3_contrib.TRPO.
        policy: the policy's name as the algorithm knows it.
        settings: further arguments of the algorithm, such as {gamma: 1.0}.
        num_envs: number of architectures made at a time; they are evaluated side by side. auto follows the evaluator:
            of the multiples of how many it works on when the search begins, the least that is 16 or more. A search that
            goes on keeps to it.
        reward: rank pays an architecture its rank among those seen so far, in [-1, 1]; raw pays the objective's reward.
        repeat_penalty: deduction from the reward of an architecture that was proposed before.

    Raises:
        InputError: settings that the algorithm does not take, or a reward that is neither rank nor raw.

    References: Raffin et al. 2021, https://jmlr.org/papers/v22/20-1364.html
    """

    has_policy = True

    def __init__(
        self,
        algorithm: type[BaseAlgorithm],
        policy: str = "MlpPolicy",
        settings: dict[str, Any] | None = None,
        num_envs: int | Literal["auto"] = 16,
        reward: Literal["rank", "raw"] = "rank",
        repeat_penalty: float = 1.0,
    ) -> None:
        super().__init__(batch_size=_ARCHITECTURES if num_envs == "auto" else num_envs)
        self.num_envs = num_envs
        if not (isinstance(algorithm, type) and issubclass(algorithm, BaseAlgorithm)):
            raise InputError(f"algorithm must be a class of Stable-Baselines3 or sb3-contrib, got {algorithm!r}")
        self.algorithm, self.policy, self.settings = algorithm, policy, settings or {}
        self.reward = one_of("reward", reward, ("rank", "raw"))
        self.repeat_penalty = weight("repeat_penalty", repeat_penalty)

    def run(self, search: SearchLike) -> None:
        """Run the algorithm until the budget is used up."""
        shape = RankReward() if self.reward == "rank" else lambda answers: answers.rewards
        guidance = self.guidance_for(search)
        revise = guidance.revise if guidance is not None else None
        env = SearchVecEnv(search, self.architectures_at_once(search), shape, self.repeat_penalty, revise)
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

    def architectures_at_once(self, search: SearchLike) -> int:
        """Return how many architectures are made at a time in this search."""
        return math.ceil(_ARCHITECTURES / search.slots) * search.slots if self.num_envs == "auto" else self.batch_size

    def settings_for(self, search: SearchLike) -> dict[str, Any]:
        """Return the constructor arguments of the algorithm for one search."""
        return self.settings

    def guidance_for(self, search: SearchLike) -> Guidance | None:
        """Return the callback that revises and imitates architectures in a search; None for none."""
        return None

    def _make(self, env: VecEnv, search: SearchLike) -> BaseAlgorithm:
        settings = self.settings_for(search)
        policy = policy_of(self.algorithm, self.policy)
        try:
            return self.algorithm(policy, env, seed=search.seed, device="cpu", **settings)
        except (AssertionError, TypeError, ValueError) as error:  # Stable-Baselines3 asserts what it was given
            raise InputError(
                f"{self.algorithm.__name__} cannot be made with {settings}: {' '.join(str(error).split())}"
            ) from error


_CHECKS: dict[Callable[[str, Any], float], tuple[str, ...]] = {
    positive: ("learning_rate", "clip_range"),
    weight: ("ent_coef",),
    share: ("gamma", "gae_lambda", "exploration_fraction", "exploration_final_eps"),
    integer: ("n_epochs", "gradient_steps", "batch_size"),
}


def _settings(net_arch: Sequence[int], **settings: Any) -> dict[str, Any]:
    """Return arguments of an algorithm; those with a range are checked."""
    for check, names in _CHECKS.items():
        settings.update({name: check(name, settings[name]) for name in names if name in settings})
    return {**settings, "policy_kwargs": {"net_arch": list(net_arch)}}


class PPO(StableBaselines):
    """Runs proximal policy optimisation (Schulman et al. 2017, https://arxiv.org/abs/1707.06347) by Stable-Baselines3.

    An update learns from ``num_envs`` whole architectures as one batch. The other arguments are those of
    `StableBaselines`.

    Args:
        learning_rate: learning rate of Adam.
        num_envs: number of architectures an update; they are evaluated side by side. auto: see `StableBaselines`.
        n_epochs: passes over them an update.
        ent_coef: weight of the policy's entropy in the loss; keeps the policy from collapsing onto one architecture.
        clip_range: how far an update may move the probability ratio from 1.
        gamma: discount of the reward at the end of an episode for each decision before it.
        gae_lambda: trade-off of bias and variance of generalised advantage estimation.
        net_arch: widths of the hidden layers of policy and value network.
        replace_repeats: whether an architecture that was proposed before, or is the same network as one that was, gives
            way to a random neighbour that is new.
        mutation_share: probability that an architecture gives way to such a neighbour of one of the best (elite
            replay).
        imitation_steps: optimiser steps, before each rollout, that make the eight best architectures so far likelier
            (self-imitation, Oh et al. 2018, https://arxiv.org/abs/1806.05635; of a priority queue, Abolafia et al.
            2018, https://arxiv.org/abs/1801.03526).
        relabelling: whether the update learns from the architectures that were evaluated, as if the policy had drawn
            them (off-policy relabelling: the gradient is that of a mixture of the policy and its neighbourhood, and
            biased); without it the policy is paid for what its own architecture was turned into.
        network: feature extractor before the hidden layers: none (mlp), or an LSTM or self-attention
            over their sequence (`nasenv.agents.sb3_policy`).
    """

    implementation: ClassVar[type[BaseAlgorithm]] = stable_baselines3.PPO
    policy_name: ClassVar[str] = "MlpPolicy"

    def __init__(
        self,
        learning_rate: float = 3e-3,
        num_envs: int | Literal["auto"] = 8,
        n_epochs: int = 10,
        ent_coef: float = 0.01,
        clip_range: float = 0.2,
        gamma: float = 1.0,
        gae_lambda: float = 1.0,
        net_arch: Sequence[int] = (64, 64),
        replace_repeats: bool = True,
        mutation_share: float = 0.25,
        imitation_steps: int = 3,
        relabelling: bool = True,
        network: Literal["mlp", "lstm", "attention"] = "mlp",
        **kwargs: Any,
    ) -> None:
        settings = _settings(
            net_arch,
            learning_rate=learning_rate,
            n_epochs=n_epochs,
            ent_coef=ent_coef,
            clip_range=clip_range,
            gamma=gamma,
            gae_lambda=gae_lambda,
        )
        settings["policy_kwargs"]["optimizer_kwargs"] = _ADAM
        super().__init__(type(self).implementation, type(self).policy_name, settings, num_envs, **kwargs)
        self.replace_repeats = flag("replace_repeats", replace_repeats)
        self.mutation_share = share("mutation_share", mutation_share)
        self.imitation_steps = integer("imitation_steps", imitation_steps, least=0)
        self.relabelling = flag("relabelling", relabelling)
        self.network = one_of("network", network, tuple(NETWORKS))

    def settings_for(self, search: SearchLike) -> dict[str, Any]:
        """Return the arguments of the algorithm: rollouts are one episode an environment, learnt from as one batch."""
        episode = search.space.num_decisions
        policy = self.settings["policy_kwargs"] | network_settings(self.network, search.space)
        batch = {"n_steps": episode, "batch_size": episode * self.architectures_at_once(search)}
        return self.settings | batch | {"policy_kwargs": policy}

    def guidance_for(self, search: SearchLike) -> Guidance:
        """Return the callback for repeats, mutation, imitation and relabelling, as the options say."""
        revision = Revision(search, self.replace_repeats, self.mutation_share)
        return Guidance(search, revision, self.imitation_steps, self.relabelling)


class MaskablePPO(PPO):
    """Runs `PPO` with invalid choices masked (Huang and Ontañón 2020, https://arxiv.org/abs/2006.14171).

    The arguments are those of `PPO`.
    """

    implementation = sb3_contrib.MaskablePPO


class RecurrentPPO(PPO):
    """Runs `PPO` whose policy and value network each read the episode by an LSTM, by sb3-contrib.

    The other arguments are those of `PPO`.

    Args:
        lstm_hidden_size: units of each LSTM.
        net_arch: widths of the hidden layers behind the LSTMs.
    """

    implementation = sb3_contrib.RecurrentPPO
    policy_name = "MlpLstmPolicy"

    def __init__(self, lstm_hidden_size: int = 64, net_arch: Sequence[int] = (), **kwargs: Any) -> None:
        super().__init__(net_arch=net_arch, network="mlp", **kwargs)
        self.settings["policy_kwargs"]["lstm_hidden_size"] = integer("lstm_hidden_size", lstm_hidden_size)


class A2C(StableBaselines):
    """Runs advantage actor critic (Mnih et al. 2016, https://arxiv.org/abs/1602.01783) by Stable-Baselines3.

    An update is one step, by Adam, on ``num_envs`` whole architectures. The other arguments are those of
    `StableBaselines`.

    Args:
        learning_rate: learning rate of Adam.
        num_envs: number of architectures an update; they are evaluated side by side. auto: see `StableBaselines`.
        ent_coef: weight of the policy's entropy in the loss; keeps the policy from collapsing onto one architecture.
        gamma: discount of the reward at the end of an episode for each decision before it.
        gae_lambda: trade-off of bias and variance of generalised advantage estimation.
        net_arch: widths of the hidden layers of policy and value network.
    """

    def __init__(
        self,
        learning_rate: float = 7e-3,
        num_envs: int | Literal["auto"] = 4,
        ent_coef: float = 0.05,
        gamma: float = 1.0,
        gae_lambda: float = 1.0,
        net_arch: Sequence[int] = (64, 64),
        **kwargs: Any,
    ) -> None:
        settings = _settings(
            net_arch, learning_rate=learning_rate, ent_coef=ent_coef, gamma=gamma, gae_lambda=gae_lambda
        )
        settings |= {"normalize_advantage": True, "use_rms_prop": False}
        super().__init__(stable_baselines3.A2C, "MlpPolicy", settings, num_envs, **kwargs)

    def settings_for(self, search: SearchLike) -> dict[str, Any]:
        """Return the arguments of the algorithm: rollouts are one episode an environment."""
        return {**self.settings, "n_steps": search.space.num_decisions}


class DQN(StableBaselines):
    """Runs a deep Q-network (Mnih et al. 2015, https://doi.org/10.1038/nature14236) by Stable-Baselines3.

    Returns are those of whole episodes (as many steps as there are decisions), so a reward reaches the first decision
    at once. After each round of ``num_envs`` architectures it learns from ``gradient_steps`` batches out of the replay
    buffer. The other arguments are those of `StableBaselines`.

    Args:
        learning_rate: learning rate of Adam.
        num_envs: number of architectures a round; they are evaluated side by side. auto: see `StableBaselines`.
        gradient_steps: number of batches learnt from after each round.
        batch_size: decisions in a batch.
        random_architectures: number of architectures made at random, or to start from, before it learns.
        exploration_fraction: share of the budget over which the probability of a random choice falls.
        exploration_final_eps: the probability of a random choice from then on.
        net_arch: widths of the hidden layers.
    """

    def __init__(
        self,
        learning_rate: float = 1e-3,
        num_envs: int | Literal["auto"] = 4,
        gradient_steps: int = 8,
        batch_size: int = 64,
        random_architectures: int = 16,
        exploration_fraction: float = 0.5,
        exploration_final_eps: float = 0.1,
        net_arch: Sequence[int] = (64, 64),
        **kwargs: Any,
    ) -> None:
        settings = _settings(
            net_arch,
            learning_rate=learning_rate,
            gradient_steps=gradient_steps,
            batch_size=batch_size,
            exploration_fraction=exploration_fraction,
            exploration_final_eps=exploration_final_eps,
            gamma=1.0,
        )
        super().__init__(stable_baselines3.DQN, "MlpPolicy", settings, num_envs, **kwargs)
        self.random_architectures = integer("random_architectures", random_architectures)

    def settings_for(self, search: SearchLike) -> dict[str, Any]:
        """Return the arguments of the algorithm; its steps are counted in episodes."""
        episode = search.space.num_decisions
        return {
            **self.settings,
            "n_steps": episode,
            "train_freq": episode,
            "learning_starts": max(0, self.random_architectures - len(search.history)) * episode,
            "target_update_interval": episode * self.architectures_at_once(search),
            "buffer_size": _REPLAYED * episode,
        }
