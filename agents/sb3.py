"""Algorithms of Stable-Baselines3 and sb3-contrib with settings that suit episodes of some ten decisions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import sb3_contrib
import stable_baselines3
from stable_baselines3.common.base_class import BaseAlgorithm

from nasenv.agents.agent import flag, positive, share, weight
from nasenv.agents.sb3_guidance import Guidance, Revision
from nasenv.agents.sb3_networks import NETWORKS, network_settings
from nasenv.agents.stable_baselines import StableBaselines
from nasenv.errors import InputError
from nasenv.search.budget import integer
from nasenv.search.search import Search
from nasenv.spaces.space import is_positive_integer

_ADAM = {"eps": 1e-5, "fused": True}  # the library's eps; all parameters in one call take a fraction of the time
_REPLAYED = 1_000  # designs that DQN's replay buffer holds


class PPO(StableBaselines):
    """Proximal policy optimisation (Schulman et al. 2017, https://arxiv.org/abs/1707.06347) by Stable-Baselines3.

    An update learns from ``num_envs`` whole designs as one batch.

    Args:
        learning_rate: of Adam.
        num_envs: number of designs an update; they are evaluated side by side. auto: see `StableBaselines`.
        n_epochs: passes over them an update.
        ent_coef: weight of the policy's entropy in the loss; keeps the policy from collapsing onto one design.
        clip_range: how far an update may move the probability ratio from 1.
        gamma: discount of the reward at the end of an episode for each decision before it.
        gae_lambda: trade-off of bias and variance of generalised advantage estimation.
        net_arch: widths of the hidden layers of policy and value network.
        reward: rank pays a design its rank among those seen so far, in [-1, 1]; raw pays the objective's reward.
        repeat_penalty: what a design that was proposed before is paid less.
        replace_repeats: whether a design that was proposed before, or is the same network as one that was, gives way
            to a random neighbour that is new.
        mutation_share: probability that a design gives way to such a neighbour of one of the best (elite replay).
        imitation_steps: of the optimiser, before each rollout, that make the eight best designs so far likelier
            (self-imitation, Oh et al. 2018, https://arxiv.org/abs/1806.05635; of a priority queue, Abolafia et al.
            2018, https://arxiv.org/abs/1801.03526).
        relabelling: whether the update learns from the designs that were evaluated, as if the policy had drawn them
            (off-policy relabelling: the gradient is that of a mixture of the policy and its neighbourhood, and biased);
            without it the policy is paid for what its own design was turned into.
        network: what reads the decisions taken, in front of the hidden layers: nothing (mlp), an LSTM or self-attention
            over their sequence (`nasenv.agents.sb3_networks`).
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
        reward: Literal["rank", "raw"] = "rank",
        repeat_penalty: float = 1.0,
        replace_repeats: bool = True,
        mutation_share: float = 0.25,
        imitation_steps: int = 3,
        relabelling: bool = True,
        network: Literal["mlp", "lstm", "attention"] = "mlp",
    ) -> None:
        if network not in NETWORKS:
            raise InputError(f"network must be one of {', '.join(NETWORKS)}, got {network!r}")
        self.network = network
        settings = {
            "learning_rate": positive("learning_rate", learning_rate),
            "n_epochs": _count("n_epochs", n_epochs),
            "ent_coef": weight("ent_coef", ent_coef),
            "clip_range": positive("clip_range", clip_range),
            "gamma": share("gamma", gamma),
            "gae_lambda": share("gae_lambda", gae_lambda),
            "policy_kwargs": {"net_arch": list(net_arch), "optimizer_kwargs": _ADAM},
        }
        algorithm, policy = type(self).implementation, type(self).policy_name
        super().__init__(algorithm, policy, settings, num_envs, reward, repeat_penalty)
        self.replace_repeats = flag("replace_repeats", replace_repeats)
        self.mutation_share = share("mutation_share", mutation_share)
        self.imitation_steps = integer("imitation_steps", imitation_steps, least=0)
        self.relabelling = flag("relabelling", relabelling)

    def settings_for(self, search: Search) -> dict[str, Any]:
        """Return the arguments of the algorithm: rollouts of one episode an environment, learnt from as one batch."""
        episode = search.space.num_decisions
        policy = self.settings["policy_kwargs"] | network_settings(self.network, search.space)
        return {
            **self.settings,
            "n_steps": episode,
            "batch_size": episode * self.designs_at_once(search),
            "policy_kwargs": policy,
        }

    def guidance_for(self, search: Search) -> Guidance:
        """Return what the options say of repeats, mutation, imitation and relabelling."""
        revision = Revision(search, self.replace_repeats, self.mutation_share)
        return Guidance(search, revision, self.imitation_steps, self.relabelling)


class MaskablePPO(PPO):
    """`PPO` that gives invalid choices no probability (Huang and Ontañón 2020, https://arxiv.org/abs/2006.14171).

    The arguments are those of `PPO`.
    """

    implementation = sb3_contrib.MaskablePPO


class RecurrentPPO(PPO):
    """`PPO` whose policy and value network each read the episode by an LSTM, by sb3-contrib.

    The other arguments are those of `PPO`.

    Args:
        lstm_hidden_size: units of each LSTM.
        net_arch: widths of the hidden layers behind the LSTMs.
    """

    implementation = sb3_contrib.RecurrentPPO
    policy_name = "MlpLstmPolicy"

    def __init__(
        self,
        learning_rate: float = 3e-3,
        num_envs: int | Literal["auto"] = 8,
        n_epochs: int = 10,
        ent_coef: float = 0.01,
        clip_range: float = 0.2,
        gamma: float = 1.0,
        gae_lambda: float = 1.0,
        lstm_hidden_size: int = 64,
        net_arch: Sequence[int] = (),
        reward: Literal["rank", "raw"] = "rank",
        repeat_penalty: float = 1.0,
        replace_repeats: bool = True,
        mutation_share: float = 0.25,
        imitation_steps: int = 3,
        relabelling: bool = True,
    ) -> None:
        super().__init__(
            learning_rate,
            num_envs,
            n_epochs,
            ent_coef,
            clip_range,
            gamma,
            gae_lambda,
            net_arch,
            reward,
            repeat_penalty,
            replace_repeats,
            mutation_share,
            imitation_steps,
            relabelling,
        )
        self.settings["policy_kwargs"]["lstm_hidden_size"] = _count("lstm_hidden_size", lstm_hidden_size)


class A2C(StableBaselines):
    """Advantage actor critic (Mnih et al. 2016, https://arxiv.org/abs/1602.01783) by Stable-Baselines3.

    An update is one step, by Adam, on ``num_envs`` whole designs.

    Args:
        learning_rate: of Adam.
        num_envs: number of designs an update; they are evaluated side by side. auto: see `StableBaselines`.
        ent_coef: weight of the policy's entropy in the loss; keeps the policy from collapsing onto one design.
        gamma: discount of the reward at the end of an episode for each decision before it.
        gae_lambda: trade-off of bias and variance of generalised advantage estimation.
        net_arch: widths of the hidden layers of policy and value network.
        reward: rank pays a design its rank among those seen so far, in [-1, 1]; raw pays the objective's reward.
        repeat_penalty: what a design that was proposed before is paid less.
    """

    def __init__(
        self,
        learning_rate: float = 7e-3,
        num_envs: int | Literal["auto"] = 4,
        ent_coef: float = 0.05,
        gamma: float = 1.0,
        gae_lambda: float = 1.0,
        net_arch: Sequence[int] = (64, 64),
        reward: Literal["rank", "raw"] = "rank",
        repeat_penalty: float = 1.0,
    ) -> None:
        settings = {
            "learning_rate": positive("learning_rate", learning_rate),
            "ent_coef": weight("ent_coef", ent_coef),
            "gamma": share("gamma", gamma),
            "gae_lambda": share("gae_lambda", gae_lambda),
            "normalize_advantage": True,
            "use_rms_prop": False,
            "policy_kwargs": {"net_arch": list(net_arch)},
        }
        super().__init__(stable_baselines3.A2C, "MlpPolicy", settings, num_envs, reward, repeat_penalty)

    def settings_for(self, search: Search) -> dict[str, Any]:
        """Return the arguments of the algorithm: rollouts of one episode an environment."""
        return {**self.settings, "n_steps": search.space.num_decisions}


class DQN(StableBaselines):
    """Deep Q-network (Mnih et al. 2015, https://doi.org/10.1038/nature14236) by Stable-Baselines3.

    Returns are those of whole episodes (as many steps as there are decisions), so a reward reaches the first decision
    at once. After each round of ``num_envs`` designs it learns from ``gradient_steps`` batches out of the replay
    buffer.

    Args:
        learning_rate: of Adam.
        num_envs: number of designs a round; they are evaluated side by side. auto: see `StableBaselines`.
        gradient_steps: number of batches learnt from after each round.
        batch_size: decisions in a batch.
        random_designs: number of designs made at random, or to start from, before it learns.
        exploration_fraction: share of the budget over which the probability of a random choice falls.
        exploration_final_eps: the probability of a random choice from then on.
        net_arch: widths of the hidden layers.
        reward: rank pays a design its rank among those seen so far, in [-1, 1]; raw pays the objective's reward.
        repeat_penalty: what a design that was proposed before is paid less.
    """

    def __init__(
        self,
        learning_rate: float = 1e-3,
        num_envs: int | Literal["auto"] = 4,
        gradient_steps: int = 8,
        batch_size: int = 64,
        random_designs: int = 16,
        exploration_fraction: float = 0.5,
        exploration_final_eps: float = 0.1,
        net_arch: Sequence[int] = (64, 64),
        reward: Literal["rank", "raw"] = "rank",
        repeat_penalty: float = 1.0,
    ) -> None:
        settings = {
            "learning_rate": positive("learning_rate", learning_rate),
            "gradient_steps": _count("gradient_steps", gradient_steps),
            "batch_size": _count("batch_size", batch_size),
            "exploration_fraction": share("exploration_fraction", exploration_fraction),
            "exploration_final_eps": share("exploration_final_eps", exploration_final_eps),
            "gamma": 1.0,
            "policy_kwargs": {"net_arch": list(net_arch)},
        }
        super().__init__(stable_baselines3.DQN, "MlpPolicy", settings, num_envs, reward, repeat_penalty)
        self.random_designs = _count("random_designs", random_designs)

    def settings_for(self, search: Search) -> dict[str, Any]:
        """Return the arguments of the algorithm, its steps counted in episodes."""
        episode = search.space.num_decisions
        return {
            **self.settings,
            "n_steps": episode,
            "train_freq": episode,
            "learning_starts": max(0, self.random_designs - len(search.history)) * episode,
            "target_update_interval": episode * self.designs_at_once(search),
            "buffer_size": _REPLAYED * episode,
        }


def _count(name: str, value: int) -> int:
    if not is_positive_integer(value):
        raise InputError(f"{name} must be an integer of 1 or more, got {value!r}")
    return int(value)
