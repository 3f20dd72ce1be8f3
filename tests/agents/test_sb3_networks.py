"""Networks that read the decisions taken as a sequence: what they see, and what they are."""

import numpy as np
import pytest
import torch
from torch.nn import functional

import nasenv.envs.env
from nasenv.agents import PPO, MaskablePPO
from nasenv.agents.sb3_policy import NETWORKS
from nasenv.agents.testing import AgentContract
from nasenv.envs.env import Episodes, choice_numbers, single_spaces
from nasenv.errors import InputError
from nasenv.search.budget import Budget
from nasenv.search.search import Search
from nasenv.spaces.chain_cnn import ChainCNN
from tests.fakes import Hashed, HiddenArchitecture

SPACE = ChainCNN(max_layers=2)
READERS = [name for name, features in NETWORKS.items() if features is not None]


class NetworkContract(AgentContract):
    touches_global_state = True  # Stable-Baselines3 seeds them itself


class TestLSTM(NetworkContract):
    def make(self):
        return MaskablePPO(num_envs=5, n_epochs=2, network="lstm")


class TestAttention(NetworkContract):
    def make(self):
        return PPO(num_envs=5, n_epochs=2, network="attention")


def made(network):
    torch.manual_seed(0)
    return NETWORKS[network](single_spaces(SPACE)[0], SPACE)


def episodes(n=7):
    """Return n random architectures, (n, T), and what is seen on the way to and at the end of them, (T + 1, n, D)."""
    architectures, making = np.array(SPACE.sample(n, np.random.default_rng(0))), Episodes(SPACE, n)
    seen = [making.observations.copy()]
    for taken in architectures.T:
        making.take(taken)
        seen.append(making.observations.copy())
    return architectures, torch.from_numpy(np.stack(seen))


def test_the_choices_taken_are_read_off_observations():
    architectures, seen = episodes()
    firsts = 1 + np.cumsum(SPACE.num_choices) - SPACE.num_choices
    for t, observations in enumerate(seen.numpy()):
        expected = np.where(np.arange(SPACE.num_decisions) < t, firsts + architectures, 0)
        np.testing.assert_array_equal(observations @ choice_numbers(SPACE), expected)


@pytest.mark.parametrize("network", READERS)
def test_features_are_those_of_each_prefix_read_alone(network):
    """Whatever else is read with it: longer prefixes of the same architecture, others, itself again, in any order."""
    features, seen = made(network), episodes()[1].flatten(0, 1)
    alone = torch.cat([features(one) for one in seen.split(1)])
    for chosen in (torch.arange(len(seen)), torch.randperm(len(seen)), torch.randint(len(seen), (100,))):
        torch.testing.assert_close(features(seen[chosen]), alone[chosen], atol=1e-5, rtol=1e-4)
    prefixes, places = seen.unique(dim=0, return_inverse=True)
    assert len(alone.round(decimals=3).unique(dim=0)) == len(prefixes), "two prefixes have the same features"
    assert places.max() + 1 < len(seen), "no prefix is there twice"


def test_the_lstms_features_are_the_state_that_is_carried_from_step_to_step():
    """Against a memory cell by hand, that sees the last choice and which decision is next."""
    features, (architectures, seen) = made("lstm"), episodes()
    lstm = features.lstm
    firsts = 1 + np.cumsum(SPACE.num_choices) - SPACE.num_choices
    hidden = cell = torch.zeros(len(architectures), lstm.hidden_size)
    for t, observations in enumerate(seen):
        last = (
            torch.from_numpy(firsts[t - 1] + architectures[:, t - 1])
            if t
            else torch.zeros(len(architectures), dtype=torch.long)
        )
        gates = functional.linear(features.choice.weight[last] + features.decision.weight[t], lstm.weight_ih_l0)
        gates = gates + functional.linear(hidden, lstm.weight_hh_l0) + lstm.bias_ih_l0 + lstm.bias_hh_l0
        let_in, keep, new, show = gates.chunk(4, dim=1)
        cell = keep.sigmoid() * cell + let_in.sigmoid() * new.tanh()
        hidden = show.sigmoid() * cell.tanh()
        torch.testing.assert_close(features(observations), hidden, atol=1e-5, rtol=1e-4)


def test_attention_is_a_softmax_over_the_places_so_far():
    """Against the equations of the paper, head by head, for the last place of each prefix."""
    features, (architectures, seen) = made("attention"), episodes()
    layer, firsts = features.layer, 1 + np.cumsum(SPACE.num_choices) - SPACE.num_choices
    numbers = functional.pad(torch.from_numpy(firsts + architectures), (1, 0))  # nothing, then the choices
    places = features.choice.weight[numbers] + features.decision.weight
    for t, observations in enumerate(seen):
        so_far, attention = places[:, : t + 1], layer.self_attn
        q, k, v = functional.linear(so_far, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=2)
        heads = []
        for a, b, c in zip(*(x.chunk(attention.num_heads, dim=2) for x in (q[:, -1:], k, v)), strict=True):
            heads.append((a @ b.mT / a.shape[2] ** 0.5).softmax(dim=2) @ c)
        attended = layer.norm1(so_far[:, -1] + attention.out_proj(torch.cat(heads, dim=2)[:, 0]))
        expected = layer.norm2(attended + layer.linear2(layer.linear1(attended).relu()))
        torch.testing.assert_close(features(observations), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("network", READERS)
def test_masks_keep_invalid_choices_from_being_proposed(network, monkeypatch):
    invalid = []

    def spy(mask, actions, redirected=nasenv.envs.env.redirected):
        invalid.extend(~mask[np.arange(len(actions)), actions])
        return redirected(mask, actions)

    monkeypatch.setattr(nasenv.envs.env, "redirected", spy)
    Search(SPACE, Hashed(SPACE), MaskablePPO(num_envs=5, network=network), Budget(30)).run()
    assert len(invalid) >= 30 * SPACE.num_decisions
    assert not any(invalid)


@pytest.mark.parametrize(("agent", "network"), [(PPO, "lstm"), (MaskablePPO, "attention")])
def test_they_learn(agent, network):
    """The last 50 of 200 architectures are worth more than the first 50, by 3 standard errors of the difference."""
    hidden = SPACE.from_text("conv5x32|sep_conv5x16+skip")
    budget = Budget(200, charge_repeats=True)
    search, rewards = Search(SPACE, HiddenArchitecture(SPACE, hidden), agent(network=network), budget, seed=0), []
    search.callbacks.append(lambda _, outcome: rewards.append(outcome.reward))
    search.run()
    first, last = np.array(rewards[:50]), np.array(rewards[-50:])
    assert last.mean() > first.mean() + 3 * np.sqrt((first.var(ddof=1) + last.var(ddof=1)) / 50)


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("network", READERS)
def test_a_search_goes_on_where_it_was_cut_off(tmp_path, network):
    def run(folder):
        agent = MaskablePPO(num_envs=4, n_epochs=2, network=network)
        with Search(SPACE, Hashed(SPACE), agent, Budget(24), seed=7, run_dir=folder) as search:
            search.run()
            return search.history.architectures

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    proposed = run(whole)
    cut.mkdir()
    lines = (whole / "journal.jsonl").read_text().splitlines(keepends=True)
    (cut / "journal.jsonl").write_text("".join(lines[:12]))
    assert run(cut) == proposed


def test_an_unknown_network_is_refused():
    with pytest.raises(InputError, match="network must be mlp, lstm or attention, got 'gru'"):
        PPO(network="gru")
