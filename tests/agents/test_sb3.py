"""Untouched algorithms of Stable-Baselines3 and sb3-contrib on a registered environment."""

import copy

import gymnasium
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3

from nasenv.spaces.chain_cnn import ChainCNN
from tests.fakes import SHORT_EPISODES, HiddenArchitecture

SPACE = ChainCNN(max_layers=2)
HIDDEN = SPACE.from_text("conv5x32|sep_conv5x16+skip")
ARCHITECTURES, PART = 200, 50


@pytest.mark.parametrize(
    "algorithm",
    [
        stable_baselines3.PPO,
        stable_baselines3.A2C,
        stable_baselines3.DQN,
        sb3_contrib.MaskablePPO,
        sb3_contrib.RecurrentPPO,
        sb3_contrib.TRPO,
        sb3_contrib.QRDQN,
    ],
)
def test_untouched_algorithms_learn(algorithm):
    """The last architectures are worth more than the first, by 3 standard errors of the difference of their means."""
    env = gymnasium.make("nasenv/ChainCNN-v0", evaluator=HiddenArchitecture(SPACE, HIDDEN))
    rewards = []
    env.get_wrapper_attr("search").callbacks.append(lambda _, outcome: rewards.append(outcome.reward))
    policy = "MlpLstmPolicy" if algorithm is sb3_contrib.RecurrentPPO else "MlpPolicy"
    settings = copy.deepcopy(SHORT_EPISODES[algorithm.__name__])  # algorithms add to policy_kwargs
    algorithm(policy, env, seed=0, device="cpu", **settings).learn(ARCHITECTURES * SPACE.num_decisions)
    first, last = np.array(rewards[:PART]), np.array(rewards[-PART:])
    margin = 3 * np.sqrt((first.var(ddof=1) + last.var(ddof=1)) / PART)
    assert last.mean() > first.mean() + margin
