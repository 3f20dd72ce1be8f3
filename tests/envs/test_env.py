import itertools
import math
import operator
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as check_env_sb3
from torch import nn

import nasenv
from nasenv.cache.keys import ProblemKey
from nasenv.envs.env import ArchitectureEnv
from nasenv.errors import BudgetExhausted, InputError
from nasenv.objectives import ScoreWithinCost
from nasenv.search.search import Budget, Search
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.spaces.choice_space import ChoiceSpace
from nasenv.spaces.nas_bench_201 import NASBench201
from nasenv.task import Images, Task
from tests.fakes import TASK, Hashed

IDS = {"nasenv/ChainCNN-v0": ChainCNN, "nasenv/NASBench201-v0": NASBench201}


def build_nothing(task, **choices):
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(task.shape), task.outputs))


def pairs():
    """A space in which what is valid depends on what was chosen before; every prefix's mask is said below."""
    return ChoiceSpace(
        {"a": (1, 2, 3), "b": (1, 2, 3, 4), "c": (1, 2)},
        build=build_nothing,
        constraints=[lambda a, b: b >= a, lambda b, c: b != 3 or c == 2],
        task=Task(Images((1, 4, 4)), outputs=2),
    )


def mask_of_pairs(prefix):
    """Which of the four choices are valid next, derived from the constraints by hand."""
    if len(prefix) == 0:
        return [True, True, True, False]
    if len(prefix) == 1:
        return [b >= prefix[0] for b in range(4)]
    if len(prefix) == 2:
        return [prefix[1] != 2, True, False, False]
    return [True] * 4


def observation_of_pairs(prefix):
    """One-hot of what is decided, one-hot of the decision that is next."""
    sizes, bits = (3, 4, 2), []
    for t, size in enumerate(sizes):
        bits += [float(t < len(prefix) and prefix[t] == c) for c in range(size)]
    return bits + [float(t == len(prefix)) for t in range(len(sizes))]


def env_of(space, **options):
    return ArchitectureEnv(Search(space, Hashed(space), **options))


# The registered ids


@pytest.fixture
def make():
    """gymnasium.make without training anything."""

    def made(name, **options):
        space = IDS[name](task=TASK)
        return gymnasium.make(name, evaluator=Hashed(space), **options)

    return made


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("check", [check_env, check_env_sb3])
def test_checkers_have_nothing_to_say(make, name, check, recwarn):
    warnings.simplefilter("error")
    check(make(name).unwrapped)


@pytest.mark.parametrize("name", IDS)
def test_checker_of_gymnasium_has_nothing_to_say_of_real_training_and_pictures(name, recwarn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"max_layers": 1} if name == "nasenv/ChainCNN-v0" else {"channels": 4, "cells": 1}
    warnings.simplefilter("error")
    env = gymnasium.make(name, render_mode="rgb_array", **options)
    check_env(env.unwrapped)
    env.close()
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize("name", IDS)
def test_frames_of_an_episode_make_a_film(make, name):
    env = make(name, render_mode="rgb_array")
    env.reset()
    frames, done = [env.render()], False
    while not done:
        done = env.step(1)[2]
        frames.append(env.render())
    assert {(f.shape, f.dtype) for f in frames} == {(frames[0].shape, np.dtype(np.uint8))}
    assert frames[0].ndim == 3
    assert not np.array_equal(frames[0], frames[-1])


def test_text_says_what_was_chosen(make):
    env = make("nasenv/NASBench201-v0", render_mode="ansi")
    env.reset()
    assert env.render() == ""
    env.step(3)
    decision = env.unwrapped.search.space.decisions[0]
    assert env.render() == f"{decision.name}: {decision.choices[3]}\n"


def test_keyword_arguments_replace_the_parts():
    space = ChainCNN(task=TASK, max_layers=2)
    cache = nasenv.Cache(":memory:")
    objective = ScoreWithinCost("params", target=1.0)
    env = gymnasium.make(
        "nasenv/ChainCNN-v0", evaluator=Hashed(space), objective=objective, budget=Budget(evaluations=3), cache=cache
    )
    search = env.unwrapped.search
    assert (search.space, search.objective, search.budget.evaluations) == (space, objective, 3)
    env.reset()
    for _ in range(space.num_decisions):
        *_, info = env.step(1)
    paid = search.history[0].measurement
    assert search.history[0].reward == objective.reward(paid)
    problem = ProblemKey(space.fingerprint(), Hashed(space).fingerprint())
    trial = nasenv.Trial(space.canonical(info["architecture"]))
    assert cache.find(problem, [trial]) == {trial: paid}


def test_data_set_and_space_options_are_passed_on(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", x=rng.integers(0, 255, (90, 6, 6, 3), dtype=np.uint8), y=np.arange(90) % 3)
    env = gymnasium.make("nasenv/ChainCNN-v0", data=f"npz:{tmp_path / 'd.npz'}", max_layers=2)
    space = env.unwrapped.search.space
    task = Task(Images((3, 6, 6)), outputs=3)
    assert space.task == task
    assert space.num_decisions == ChainCNN(task=task, max_layers=2).num_decisions


def test_space_made_already_and_data_in_memory_replace_the_defaults():
    space = NASBench201(channels=4, cells=1, task=TASK)
    env = gymnasium.make("nasenv/NASBench201-v0", space=space, data=nasenv.load_dataset("digits"))
    assert env.unwrapped.search.space is space
    env.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_layer": 2}, "no option 'max_layer'; the nearest: max_layers"),
        ({"evaluater": 2}, "no option 'evaluater'; the nearest: evaluator"),
        ({"data": "digit"}, "did you mean digits"),
        ({"data": 3}, "data must be a source"),
        ({"budget": 200}, "budget must be a nasenv.Budget, got 200"),
        ({"evaluator": Hashed}, "evaluator must be a nasenv.Evaluator"),
        ({"evaluator": Hashed(ChainCNN()), "max_layers": 2}, "leave out max_layers"),
        ({"evaluator": Hashed(ChainCNN()), "data": "digits"}, "leave out data"),
        ({"evaluator": Hashed(NASBench201())}, "made for NASBench201, not for ChainCNN"),
        ({"space": ChainCNN(max_layers=2), "evaluator": Hashed(ChainCNN())}, "made for another space"),
        ({"space": ChainCNN(), "max_layers": 2}, "leave out max_layers"),
        ({"render_mode": "film"}, "render_mode must be ansi or rgb_array, or None, got 'film'"),
    ],
)
@pytest.mark.parametrize("make", [gymnasium.make, gymnasium.make_vec])
def test_keyword_argument_that_cannot_be_followed_is_one_line(make, options, message):
    with pytest.raises(InputError, match=message) as caught:
        make("nasenv/ChainCNN-v0", **options)
    assert "\n" not in str(caught.value)


# An episode


def test_space_of_the_tests_is_as_derived_by_hand():
    space = pairs()
    for t in range(3):
        for prefix in itertools.product(*(range(k) for k in (3, 4, 2)[:t])):
            if all(mask_of_pairs(prefix[:i])[c] for i, c in enumerate(prefix)):
                assert space.mask(np.array([prefix], dtype=np.int64).reshape(1, t))[0].tolist() == mask_of_pairs(prefix)


@given(st.lists(st.integers(0, 3), min_size=3, max_size=3))
@settings(max_examples=64, deadline=None)
def test_episode_against_a_derivation_in_plain_python(actions):
    space = PAIRS
    env = env_of(space)
    observation, info = env.reset()
    prefix = ()
    for t, action in enumerate(actions):
        assert observation.tolist() == observation_of_pairs(prefix)
        mask = mask_of_pairs(prefix)
        assert info["action_mask"].tolist() == env.action_masks().astype(int).tolist() == [int(m) for m in mask]
        valid = [c for c in range(4) if mask[c]]
        prefix += (action if mask[action] else valid[action % len(valid)],)
        observation, reward, terminated, truncated, info = env.step(action)
        assert (terminated, truncated) == (t == 2, False)
        assert terminated or (reward == 0.0 and "architecture" not in info)
    assert observation.tolist() == observation_of_pairs(prefix)
    assert env.action_masks().all()
    measurement = Hashed(space).figure(prefix)
    assert reward == (-1.0 if measurement.error else measurement.score)
    assert math.isnan(info["score"]) if measurement.error else info["score"] == measurement.score
    said = {k: info[k] for k in ("architecture", "error", "evaluation", "repeat")}
    assert said == {
        "architecture": prefix,
        "error": measurement.error,
        "evaluation": 1,
        "repeat": False,
    }


PAIRS = pairs()


def test_earlier_observations_stay_as_they_were():
    env = env_of(pairs())
    kept = [env.reset()[0]]
    copies = [kept[0].copy()]
    for action in (0, 1, 0):
        kept.append(env.step(action)[0])
        copies.append(kept[-1].copy())
    env.reset()
    env.step(2)
    assert all(map(np.array_equal, kept, copies))


def test_actions_outside_the_action_space_are_redirected():
    env = env_of(pairs())
    env.reset()
    for action in (-1, 1000, -7):
        *_, info = env.step(action)
    assert PAIRS.check(info["architecture"])


@pytest.mark.parametrize("action", [1.5, True, "1", None, [0], np.array([0])])
def test_action_is_one_whole_number(action):
    env = env_of(pairs())
    env.reset()
    with pytest.raises(InputError, match="whole numbers, one for each of 1 architecture,"):
        env.step(action)


def test_step_after_the_end_wants_a_reset():
    env = env_of(pairs())
    env.reset()
    for _ in range(3):
        env.step(0)
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"reset\(\)"):
        env.step(0)
    env.reset()
    *_, info = env.step(0)
    assert "architecture" not in info


def test_budget_ends_a_step():
    env = env_of(pairs(), budget=Budget(evaluations=1))
    env.reset()
    for _ in range(3):
        env.step(0)
    env.reset()
    env.step(1)
    env.step(1)
    with pytest.raises(BudgetExhausted, match="budget of 1 evaluation is"):
        env.step(1)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(1)
    assert len(env.search.history) == 1


def test_repeats_are_said_to_be_repeats():
    env = env_of(pairs())
    rewards = []
    for _ in range(2):
        env.reset()
        *_, info = [env.step(0) for _ in range(3)][-1]
        rewards.append(operator.itemgetter("evaluation", "repeat")(info))
    assert rewards == [(1, False), (1, True)]


def one_decision(k):
    return ChoiceSpace({"a": tuple(range(1, k + 1))}, build=build_nothing, task=Task(Images((1, 4, 4)), outputs=2))


@pytest.mark.parametrize("k", [1, 2])
def test_without_a_budget_repeats_are_answered_for_ever_though_all_architectures_are_known(k):
    space = one_decision(k)
    env = nasenv.envs.env.make_env(space, evaluator=Hashed(space))
    for _ in range(60 * k):
        env.reset()
        env.step(0)
    for action in range(k):
        env.reset()
        *_, info = env.step(action)
    assert (info["evaluation"], env.search.ended) == (k, None)
    check_env(env)


def test_a_budget_of_ones_own_ends_a_small_space_all_the_same():
    space = one_decision(2)
    env = nasenv.envs.env.make_env(space, evaluator=Hashed(space), budget=Budget(evaluations=5))
    for action in range(2):
        env.reset()
        env.step(action)
    env.reset()
    with pytest.raises(BudgetExhausted, match="all 2 architectures"):
        env.step(0)
