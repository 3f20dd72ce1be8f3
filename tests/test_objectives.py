import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nasenv.agents.random_search import RandomSearch
from nasenv.errors import InputError
from nasenv.objectives import Objective, Rewards, Score, ScoreWithinCost
from nasenv.search.budget import Budget
from nasenv.search.search import Search
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.trial import Measurement
from tests.fakes import Hashed

accuracies = st.floats(0, 1)
costs = st.floats(1e-3, 1e9)


@given(accuracies)
def test_a_score_is_paid_as_it_is(accuracy):
    assert Score().reward(Measurement(accuracy)) == accuracy


@given(accuracies, costs, costs, st.floats(-3, -0.01))
def test_within_cost_pays_in_full_up_to_the_target_and_less_above(accuracy, cost, target, exponent):
    reward = ScoreWithinCost("params", target, exponent).reward(Measurement(accuracy, metrics={"params": cost}))
    if cost <= target:
        assert reward == accuracy
    else:
        expected = math.exp(exponent * (math.log(cost) - math.log(target))) * accuracy
        assert reward == pytest.approx(expected, rel=1e-9, abs=1e-300)
        assert reward <= accuracy


@given(accuracies, costs, costs)
def test_a_costlier_architecture_is_never_paid_more(accuracy, one, other):
    objective = ScoreWithinCost("flops", 1000.0)
    rewards = [objective.reward(Measurement(accuracy, metrics={"flops": c})) for c in sorted((one, other))]
    assert rewards[0] >= rewards[1]


@pytest.mark.parametrize("objective", [Score(-2.5), ScoreWithinCost("params", 1.0, failure_reward=-2.5)])
def test_failure_is_paid_the_failure_reward(objective):
    assert Rewards(objective, lowest_score=0.0).pay(Measurement(None, error="diverged")) == -2.5


def test_an_unknown_metric_names_the_known_ones():
    with pytest.raises(InputError, match="no metric 'latency'; it reports params, flops"):
        ScoreWithinCost("latency", 1.0).reward(Measurement(0.5, metrics={"params": 1, "flops": 2}))
    with pytest.raises(InputError, match="it reports none"):
        ScoreWithinCost("latency", 1.0).reward(Measurement(0.5))


NO_SCORES = [None, "high", np.ones(2), torch.ones(2), torch.ones(0), 1j, 10**400, [0.5]]


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, *NO_SCORES], ids=repr)
def test_a_score_that_is_not_finite_or_no_number_is_refused(score):
    class Mine(Objective):
        def value(self, measurement):
            return score

    got = re.escape(" ".join(repr(score)[:20].split()))
    with pytest.raises(InputError, match=f"objective Mine: expected a finite reward, a number, got {got}"):
        Mine().reward(Measurement(0.5))


@pytest.mark.parametrize(
    "bad",
    [
        {"target": 0},
        {"target": -1},
        {"target": math.nan},
        {"target": math.inf},
        {"exponent": 0},
        {"exponent": 1},
        {"exponent": -math.inf},
        {"exponent": math.nan},
        {"failure_reward": math.nan},
        {"failure_reward": math.inf},
    ],
    ids=str,
)
def test_bad_arguments(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        ScoreWithinCost(**{"metric": "params", "target": 1.0, **bad})


# What is paid where there is no score

scores = st.floats(-1e6, 1e6)
measurements = st.lists(st.one_of(st.none(), scores), max_size=20)


def paid(objective, lowest_score, found):
    rewards = Rewards(objective, lowest_score)
    return [rewards.pay(Measurement(s) if s is not None else Measurement(None, "diverged")) for s in found]


@given(st.lists(st.one_of(st.none(), accuracies)))
def test_a_failure_under_an_accuracy_is_paid_one_less_than_the_worst_there_can_be(found):
    assert paid(Score(), 0.0, found) == [-1.0 if score is None else score for score in found]


@given(measurements)
def test_a_failure_is_paid_less_than_all_that_succeeded_before(found):
    rewards = paid(Score(), None, found)
    worst = math.inf
    for score, reward in zip(found, rewards, strict=True):
        assert reward == score if score is not None else reward < worst or worst == math.inf
        worst = worst if score is None else min(worst, score)


def test_without_a_lowest_value_a_failure_is_paid_the_worst_so_far_less_the_spread():
    found = [None, -3.0, None, -1.0, None, -7.0, None]
    assert paid(Score(), None, found) == [-1.0, -3.0, -4.0, -1.0, -5.0, -7.0, -13.0]


@given(measurements, scores)
def test_a_reward_of_failure_that_is_given_is_paid_for_failures_alone(found, failure_reward):
    for lowest in (0.0, None):
        expected = [failure_reward if score is None else score for score in found]
        assert paid(Score(failure_reward), lowest, found) == expected


def test_a_negative_score_is_lowered_by_its_cost_and_has_no_lowest_value():
    objective = ScoreWithinCost("params", 100.0)
    within, above = (Measurement(-2.0, metrics={"params": params}) for params in (100, 400))
    assert [objective.reward(m) for m in (within, above)] == [-2.0, -8.0]
    assert [objective.lowest(lowest) for lowest in (None, 0.0, -1.0)] == [None, 0.0, None]
    rewards = Rewards(objective, lowest_score=-1.0)
    assert [rewards.pay(m) for m in (within, above, Measurement(None, "diverged"))] == [-2.0, -8.0, -14.0]


def test_what_was_paid_is_journaled_and_replayed_where_there_is_no_lowest_value(tmp_path):
    class NoLowest(Score):
        def lowest(self, lowest_score):
            return None

    space = ChainCNN(max_layers=2)
    rewards = []
    for _ in range(2):
        agent = RandomSearch(batch_size=4)
        with Search(space, Hashed(space), agent, Budget(60), NoLowest(), run_dir=tmp_path) as search:
            search.run()
            rewards.append(search.history.answers.rewards.tolist())
            failed = [o.reward for o in search.history if o.measurement.error]
    assert rewards[0] == rewards[1]
    assert len(set(failed)) > 1, "what is paid for a failure follows what was seen before"
    assert search.history.best.measurement.error is None
