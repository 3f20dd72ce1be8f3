"""Untouched algorithms of Stable-Baselines3 and sb3-contrib on a registered environment."""

import gymnasium
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3

from nasenv.spaces.chain_cnn import ChainCNN
from tests import short_episodes
from tests.cheap_evaluators import HiddenDesign

SPACE = ChainCNN(max_layers=2)
HIDDEN = SPACE.from_text("conv5x32|sep_conv5x16+skip")
DESIGNS, PART = 200, 50


@pytest.mark.parametrize(
    ("algorithm", "policy", "settings"),
    [
        (stable_baselines3.PPO, "MlpPolicy", short_episodes.PPO),
        (stable_baselines3.A2C, "MlpPolicy", short_episodes.A2C),
        (stable_baselines3.DQN, "MlpPolicy", short_episodes.DQN),
        (sb3_contrib.MaskablePPO, "MlpPolicy", short_episodes.MASKABLE_PPO),
        (sb3_contrib.RecurrentPPO, "MlpLstmPolicy", short_episodes.RECURRENT_PPO),
        (sb3_contrib.TRPO, "MlpPolicy", short_episodes.TRPO),
        (sb3_contrib.QRDQN, "MlpPolicy", short_episodes.QRDQN),
    ],
)
def test_untouched_algorithms_learn(algorithm, policy, settings):
    """The last designs are worth more than the first, by 3 standard errors of the difference of their means."""
    env = gymnasium.make("nasenv/ChainCNN-v0", evaluator=HiddenDesign(SPACE, HIDDEN))
    rewards = []
    env.get_wrapper_attr("search").listeners.append(lambda _, outcome: rewards.append(outcome.reward))
    algorithm(policy, env, seed=0, device="cpu", **settings).learn(DESIGNS * SPACE.num_decisions)
    first, last = np.array(rewards[:PART]), np.array(rewards[-PART:])
    margin = 3 * np.sqrt((first.var(ddof=1) + last.var(ddof=1)) / PART)
    assert last.mean() > first.mean() + margin
