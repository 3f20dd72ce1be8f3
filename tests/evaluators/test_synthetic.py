"""The synthetic landscape: its optimum is the best of all architectures, found without a list of them."""

import numpy as np
import pytest

from nasenv.agents.random_search import RandomSearch
from nasenv.cluster.ray_evaluator import RayEvaluator
from nasenv.comparison.problem import Problem
from nasenv.errors import InputError
from nasenv.evaluators.synthetic import SyntheticEvaluator
from nasenv.objectives import ScoreWithinCost
from nasenv.search.budget import Budget
from nasenv.search.search import Search
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.spaces.nas_bench_201 import NASBench201
from nasenv.spaces.space import to_architectures
from nasenv.spaces.synthetic import SyntheticSpace
from nasenv.trial import Trial

SMALL = SyntheticSpace(layers=3, operations=("a", "b", "c"), widths=(1, 2, 4, 9))
SCORES = [0.5428762864810759, 0.7284735184114375, 0.520838448627059]
NOISY = [0.5794493168467927, 0.7355577926673172, 0.4954650998932609]


def accuracies(evaluator, architectures):
    return np.array([m.score for m in evaluator.measure(list(map(Trial, architectures)))])


@pytest.mark.parametrize("order", [1, 2, 3, 5, 6, 9])
@pytest.mark.parametrize("space", [SMALL, NASBench201()], ids=lambda space: type(space).__name__)
def test_the_best_is_the_best_of_all_and_the_worst_guesses(space, order):
    architectures = to_architectures(space.all_architectures())
    for seed in range(4):
        evaluator = SyntheticEvaluator(space, seed=seed, order=order)
        values = accuracies(evaluator, architectures)
        assert architectures[int(values.argmax())] == evaluator.best
        assert (values.max(), (values == 1.0).sum()) == (1.0, 1)
        assert values.min() == pytest.approx(1 / space.task.outputs)


def test_scores_are_these_on_every_machine():
    space = SyntheticSpace()
    architectures = [(0,) * 30, (1, 2) * 15, (4, 3) * 15]
    assert accuracies(SyntheticEvaluator(space), architectures).tolist() == SCORES
    assert accuracies(SyntheticEvaluator(space, seed=1, noise=0.1), architectures).tolist() == NOISY


def test_a_decision_interacts_with_its_neighbours_alone():
    """What changing a decision brings depends on those within order - 1 of it, and on no other."""
    space = SyntheticSpace()
    evaluator = SyntheticEvaluator(space, order=3)
    base = np.array(space.sample(1, np.random.default_rng(0))[0])
    base[:] = 0

    def gain(other):
        rows = np.tile(base, (2, 1))
        rows[:, other] = 1
        rows[1, 14] = 1
        low, high = accuracies(evaluator, to_architectures(rows))
        return high - low

    alone = gain(0)
    interacting = [t for t in range(30) if t != 14 and abs(gain(t) - alone) > 1e-9]
    assert interacting == [12, 13, 15, 16]


def test_widths_have_diminishing_returns():
    space = SyntheticSpace()
    evaluator = SyntheticEvaluator(space)
    for architecture in space.sample(20, np.random.default_rng(0)):
        for t in range(1, 30, 2):
            widths = [(*architecture[:t], c, *architecture[t + 1 :]) for c in range(4)]
            assert (np.diff(accuracies(evaluator, widths), n=2) <= 1e-6).all()


def test_there_are_local_optima_with_interactions_and_none_without():
    space = SyntheticSpace(layers=6)

    def climbed(evaluator, architecture):
        while True:
            around = space.neighbours(architecture)
            values = accuracies(evaluator, around)
            if values.max() <= accuracies(evaluator, [architecture])[0]:
                return architecture
            architecture = around[int(values.argmax())]

    starts = space.sample(5, np.random.default_rng(0))
    assert {climbed(SyntheticEvaluator(space, order=1), s) for s in starts} == {SyntheticEvaluator(space, order=1).best}
    assert len({climbed(SyntheticEvaluator(space, order=4), s) for s in starts}) > 1


def test_a_search_of_thirty_decisions_is_charged_and_lists_nothing(monkeypatch):
    monkeypatch.setattr(SyntheticSpace, "all_architectures", lambda self: pytest.fail("listed"))
    space = SyntheticSpace()
    evaluator = SyntheticEvaluator(space)
    search = Search(space, evaluator, RandomSearch(), Budget(evaluations=200), seed=0)
    search.run()
    values = np.array([o.measurement.score for o in search.history])
    assert 0.55 < values.mean() < 0.7
    assert min(o.measurement.train_seconds for o in search.history) >= 2.0
    assert space.size == 20**15


def test_noise_is_of_the_search_alone_and_an_architectures_own():
    space = SyntheticSpace()
    noisy, exact = SyntheticEvaluator(space, noise=0.05), SyntheticEvaluator(space)
    architectures = space.sample(400, np.random.default_rng(0))
    errors = accuracies(noisy, architectures) - accuracies(exact, architectures)
    assert errors.std() == pytest.approx(0.05, rel=0.15)
    assert abs(errors.mean()) < 0.01
    assert accuracies(noisy, architectures[::-1]).tolist() == accuracies(noisy, architectures)[::-1].tolist()
    confirmed = noisy.measure([Trial(d, purpose="confirm") for d in architectures])
    assert confirmed == exact.measure([Trial(d, purpose="confirm", seed=1) for d in architectures])  # whatever the seed
    (tested,) = noisy.measure([Trial(architectures[0], purpose="test", seed=1)])
    assert tested.score == accuracies(exact, architectures[:1])[0]


def test_a_comparison_knows_its_optimum():
    evaluator = SyntheticEvaluator(SMALL)
    assert Problem(SMALL, evaluator).optimum == 1.0
    assert Problem(SMALL, RayEvaluator(SMALL, evaluator)).optimum == 1.0
    assert Problem(SMALL, SyntheticEvaluator(SMALL, noise=0.1)).optimum is None
    assert Problem(SMALL, evaluator, ScoreWithinCost("params", 1000)).optimum is None


def test_landscapes_have_fingerprints_of_their_own():
    of = [{}, {"seed": 1}, {"order": 2}, {"noise": 0.1}]
    assert len({SyntheticEvaluator(SMALL, **arguments).fingerprint() for arguments in of}) == len(of)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"seed": -1}, "seed"), ({"order": 0}, "order"), ({"noise": -0.1}, "noise"), ({"order": 12}, "lower order")],
)
def test_arguments_that_make_no_landscape_are_refused(arguments, said):
    with pytest.raises(InputError, match=said):
        SyntheticEvaluator(SyntheticSpace(), **arguments)


def test_what_it_cannot_score_is_refused():
    with pytest.raises(InputError, match="has constraints"):
        SyntheticEvaluator(ChainCNN())
    with pytest.raises(InputError, match="no networks"):
        SMALL.build((0,) * 6)
    with pytest.raises(InputError, match="decisions"):
        SyntheticEvaluator(SMALL).measure([Trial((0,) * 5)])


def test_it_has_the_full_training_alone():
    evaluator = SyntheticEvaluator(SMALL)
    assert [evaluator.fidelity(wanted) for wanted in (0.01, 0.5, 1.0)] == [1.0] * 3


@pytest.mark.parametrize(
    "arguments",
    [{"layers": 0}, {"operations": ("a", "a")}, {"operations": ("a|b",)}, {"widths": (8, 4)}, {"widths": ()}],
)
def test_a_space_that_cannot_be_is_refused(arguments):
    with pytest.raises(InputError, match=next(iter(arguments))):
        SyntheticSpace(**arguments)
