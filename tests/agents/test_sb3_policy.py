"""The lean policies choose as the standard ones do: same choices, same numbers, same searches."""

import gymnasium
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
import torch
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor

from nasenv.agents import StableBaselines
from nasenv.agents.sb3_policy import LeanMaskablePolicy, LeanPolicy, policy_of
from nasenv.search.budget import Budget
from nasenv.search.search import Search
from nasenv.spaces.chain_cnn import ChainCNN
from tests.fakes import Hashed

SPACE = ChainCNN(max_layers=2)
STANDARD = {"LeanPolicy": ActorCriticPolicy, "LeanMaskablePolicy": MaskableActorCriticPolicy}


class Doubling(FlattenExtractor):
    """Features that are not the observations."""

    def forward(self, observations):
        return 2 * super().forward(observations)


def made(kind, observation_shape=(30,), **settings):
    torch.manual_seed(0)
    box = gymnasium.spaces.Box(0.0, 1.0, observation_shape, np.float32)
    policy = kind(box, gymnasium.spaces.Discrete(6), lambda _: 1e-3, ortho_init=False, **settings)
    policy.set_training_mode(False)
    return policy


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"net_arch": {"pi": [8], "vf": []}, "activation_fn": torch.nn.ReLU},
        {"share_features_extractor": False},
        {"features_extractor_class": Doubling},
        {"observation_shape": (5, 6)},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [LeanPolicy, LeanMaskablePolicy])
def test_answers_are_the_standard_policys(kind, settings):
    ours, standard = made(kind, **settings), made(STANDARD[kind.__name__], **settings)
    rng = np.random.default_rng(0)
    masks = rng.random((50, 6)) < 0.5
    masks[:, 3] = True
    for masked in [{}, {"action_masks": masks}] if kind is LeanMaskablePolicy else [{}]:
        for deterministic in (False, True):
            observations = torch.from_numpy(rng.random((50, *ours.observation_space.shape), dtype=np.float32))
            state = torch.get_rng_state()
            expected = standard(observations, deterministic, **masked)
            torch.set_rng_state(state)
            for got, wanted in zip(ours(observations, deterministic, **masked), expected, strict=True):
                assert got.shape == wanted.shape
                assert torch.equal(got, wanted)
            if masked:
                assert masks[np.arange(50), expected[0]].all()


def histories(algorithm, settings):
    """Return the architectures of two searches: with our policy, and with the standard one under another class."""

    class Renamed(algorithm.policy_aliases["MlpPolicy"]):
        pass

    class Standard(algorithm):
        policy_aliases = {"MlpPolicy": Renamed}  # noqa: RUF012, as the library declares it

    for kind in (algorithm, Standard):
        agent, budget = StableBaselines(kind, settings=settings, num_envs=4), Budget(120, charge_repeats=True)
        search = Search(SPACE, Hashed(SPACE), agent, budget, seed=3)
        search.run()
        yield search.history.architectures, search.history.proposal_numbers.tolist()


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        (stable_baselines3.PPO, {"n_steps": 9, "batch_size": 36, "n_epochs": 3, "learning_rate": 1e-2}),
        (stable_baselines3.A2C, {"n_steps": 9}),
        (sb3_contrib.MaskablePPO, {"n_steps": 9, "batch_size": 36, "n_epochs": 3, "learning_rate": 1e-2}),
    ],
)
def test_searches_are_those_of_the_standard_policy(algorithm, settings):
    assert policy_of(algorithm, "MlpPolicy") in (LeanPolicy, LeanMaskablePolicy)
    ours, standard = histories(algorithm, settings)
    assert ours == standard
