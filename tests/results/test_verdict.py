"""The end of a run in words: better, equal or worse, by the intervals of the final seeds and never by less."""

import numpy as np
import pytest
from scipy.stats import ttest_ind

from nasenv.results.result import Contender, Result
from nasenv.results.verdict import difference, verdict

LOW, MIDDLE, HIGH = (0.80, 0.81, 0.80), (0.96, 0.98, 0.97), (0.990, 0.991, 0.992)


def contender(role, architecture, validation, tested=None, params=100, **rewards):
    tested = validation if tested is None else tested
    return Contender(role, (architecture,), f"net{architecture}", validation, tested, params, **rewards)


def told(winner, *others, metric="accuracy", finalists=None):
    finalists = (winner, *others) if finalists is None else finalists
    return list(verdict(Result(winner, others, tuple(finalists), 0.9, metric, "", 1, 0, 0.0)))


def reference(scores, architecture=1, **options):
    return contender("hand-made reference", architecture, scores, **options)


def early(scores, architecture=2, **options):
    return contender("best of the first 16", architecture, scores, **options)


@pytest.mark.parametrize("sizes", [(3, 3), (2, 5)])
def test_the_interval_is_welchs(sizes):
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=n, scale=n).tolist() for n in sizes)
    found, low, high = difference(x, y)
    expected = ttest_ind(x, y, equal_var=False).confidence_interval(0.95)
    assert found == pytest.approx(np.mean(x) - np.mean(y))
    assert (low, high) == pytest.approx((expected.low, expected.high))


def test_without_spread_there_is_no_interval():
    assert difference([0.5, 0.5], [0.25, 0.25]) == (0.25, 0.25, 0.25)
    (sentence,) = told(contender("winner", 0, (0.5, 0.5)), reference((0.25, 0.25)))
    assert "better than the hand-made reference (+25.00 points, the same with every seed)" in sentence


def test_each_of_better_equal_and_worse_is_said_with_its_interval():
    (sentence,) = told(contender("winner", 0, MIDDLE), reference(LOW), early((0.98, 0.97, 0.97)))
    assert sentence == (
        "By test accuracy, the winner is better than the hand-made reference (+16.67 points, 95 % interval +14.62 to "
        "+18.72) and equal, as far as 3 seeds can tell, to the best of the first 16 evaluations, which stands for "
        "random sampling (-0.33 points, 95 % interval -2.38 to +1.72)."
    )
    (sentence,) = told(contender("winner", 0, HIGH, LOW), reference(MIDDLE))
    assert "the winner is worse than the hand-made reference (-16.67 points, 95 % interval " in sentence


def test_those_that_it_is_equal_to_are_named_together():
    (sentence,) = told(contender("winner", 0, MIDDLE), reference(MIDDLE), early(MIDDLE))
    assert sentence.startswith(
        "By test accuracy, the winner is equal, as far as 3 seeds can tell, to the hand-made ref"
    )
    assert " to +2.27) and the best of the first 16 evaluations, which" in sentence


def test_a_search_that_ends_below_the_hand_made_network_says_so():
    best = contender("best of the search", 0, LOW)
    winner = contender("winner", 1, MIDDLE)
    first, second = told(winner, best, reference(MIDDLE))
    assert first == (
        "The winner is the hand-made reference, not an architecture of the search: its validation accuracy is the "
        "best of all networks that were trained in full."
    )
    assert second.startswith("By test accuracy, the best of the search is worse than the hand-made reference (-16.67")


def test_one_seed_decides_nothing():
    (sentence,) = told(contender("winner", 0, (0.98,)), reference((0.5,)))
    assert sentence == (
        "One seed cannot tell which network is better: the winner has a test accuracy of 98.00 %, the hand-made "
        "reference 50.00 %. Give --budget.final_seeds 3 or more."
    )


def test_what_could_not_be_trained_is_not_compared():
    first, second = told(contender("winner", 0, MIDDLE), reference(()), early(LOW))
    assert first == "The hand-made reference could not be trained, so nothing is compared with it."
    assert "hand-made" not in second


def test_a_winner_that_is_what_it_would_be_compared_with():
    first, second = told(contender("winner", 0, MIDDLE), reference(MIDDLE, 0), early(MIDDLE, 0))
    assert first == "The winner is itself the hand-made reference."
    assert second == "The winner is itself the best of the first 16 evaluations, so the later ones gained nothing."


def test_another_metric_has_its_own_unit():
    (sentence,) = told(contender("winner", 0, HIGH), reference(MIDDLE), metric="neg_rmse")
    assert "By test neg rmse, " in sentence
    assert "(+0.0210, 95 % interval " in sentence


def test_where_rewards_are_not_the_scores_they_are_compared():
    """Its scores are higher, its rewards are lower."""
    rewards = {"validation_rewards": LOW, "test_rewards": LOW}
    winner = contender("winner", 0, HIGH, **rewards)
    (sentence,) = told(winner, reference(MIDDLE, validation_rewards=HIGH, test_rewards=HIGH), finalists=())
    assert "By test reward, the winner is worse than the hand-made reference (-0.1877, 95 % interval " in sentence


@pytest.mark.parametrize(
    ("scores", "params", "is_named"),
    [
        ((0.965, 0.97, 0.96), 99, True),  # 0.965, the winner's 0.97 less its standard error of 0.0058
        ((0.96, 0.97, 0.96), 99, False),
        ((0.97, 0.97), 99, False),  # one of its trainings failed
        ((0.97, 0.97, 0.97), 100, False),
    ],
)
def test_a_smaller_network_within_one_standard_error_is_named(scores, params, is_named):
    winner = contender("winner", 0, MIDDLE)
    small = contender("finalist", 3, scores, (), params)
    smallest = contender("finalist", 4, LOW, (), 1)
    said = told(winner, finalists=(winner, small, smallest))
    text = "A smaller network is as good on validation data, within one standard error: net3, 99 parameters against "
    assert said == [f"{text}100."] * is_named
