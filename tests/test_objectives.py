import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nasenv.errors import InputError
from nasenv.objectives import Objective, Rewards, Score, ScoreWithinCost
from nasenv.trial import Measurement

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
def test_a_costlier_design_is_never_paid_more(accuracy, one, other):
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
