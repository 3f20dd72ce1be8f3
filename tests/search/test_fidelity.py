"""Trials at a share of the full training: each fidelity is a trial of its own, and costs its share."""

import json

import numpy as np
import pytest

from nasenv.agents.agent import Agent
from nasenv.agents.random_search import RandomSearch
from nasenv.cache.cache import Cache
from nasenv.configuration import digest
from nasenv.errors import BudgetExhausted, InputError
from nasenv.results.conclude import conclude
from nasenv.search.budget import Budget
from nasenv.search.layer import Layer
from nasenv.search.search import Search
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.trial import Measurement, Trial
from tests.fakes import Formula

pytestmark = pytest.mark.usefixtures("without_pictures")
SPACE = ChainCNN(max_layers=2)
SMALL = ChainCNN(max_layers=1, widths=(8, 16, 32))  # 20 architectures
NINTH = 1 / 9
ARCHITECTURES = list(dict.fromkeys(map(SPACE.canonical, SPACE.sample(99, np.random.default_rng(0)))))


class Ninths(Formula):
    """Each trial has a figure of its own; it can do whole ninths of the full training."""

    def __init__(self, space=SPACE):
        super().__init__(space)
        self.trained = []

    def config(self):
        return {"class_path": "Ninths", "init_args": {}}

    def fidelity(self, wanted):
        return max(1, round(9 * wanted)) / 9

    def figure(self, architecture):
        raise NotImplementedError

    def measure(self, trials):
        self.trained += [trial for trial in trials if trial.purpose == "search"]
        return [figure(trial) for trial in trials]


def figure(trial):
    return Measurement(int(digest([trial.architecture, trial.fidelity]), 16) / 16**16, train_seconds=trial.fidelity)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]


def fidelities(path):
    return [(tuple(entry["architecture"]), entry["fidelity"]) for entry in lines(path)]


def test_two_fidelities_of_an_architecture_are_two_trials(tmp_path):
    a, b = ARCHITECTURES[:2]
    evaluator = Ninths()
    with Search(SPACE, evaluator, run_dir=tmp_path) as search:
        early = search.evaluate([a, b, a], 0.1)
        full = search.evaluate([a])
        again = search.evaluate([a, b], NINTH)
        history = search.history
    asked = [(a, NINTH), (b, NINTH), (a, 1.0)]
    assert [(trial.architecture, trial.fidelity) for trial in evaluator.trained] == asked
    assert fidelities(tmp_path / "journal.jsonl") == asked
    assert fidelities(tmp_path / "trials.jsonl") == asked
    assert [o.measurement for o in history] == [figure(Trial(*key)) for key in asked]
    assert [(o.fidelity, o.cost, o.evaluation, o.repeat) for o in [*early, *full, *again]] == [
        *[(NINTH, NINTH, 1, False), (NINTH, NINTH, 2, False), (NINTH, NINTH, 1, True)],
        *[(1.0, 1.0, 3, False), (NINTH, NINTH, 1, True), (NINTH, NINTH, 2, True)],
    ]
    assert [entry["cost"] for entry in lines(tmp_path / "journal.jsonl")] == [NINTH, NINTH, 1.0]
    assert history.find(a).measurement == full[0].measurement
    assert history.find(a, NINTH).measurement == early[0].measurement
    assert (history.find(b), history.has(b), history.has(b, NINTH)) == (None, False, True)
    assert history.fidelities.tolist() == [NINTH, NINTH, 1.0]
    assert (history.evaluations, history.full_evaluations, history.repeats) == (3, 1, 3)


def test_a_trial_at_a_low_fidelity_is_not_given_back_as_the_full_one_after_a_restart(tmp_path):
    (a,) = ARCHITECTURES[:1]
    with Search(SPACE, Ninths(), run_dir=tmp_path) as search:
        search.evaluate([a], 0.1)
    journal = tmp_path / "journal.jsonl"
    journal.write_text(journal.read_text().splitlines(keepends=True)[0])  # killed before it was journaled
    evaluator = Ninths()
    with Search(SPACE, evaluator, run_dir=tmp_path) as search:
        (full,) = search.evaluate([a])
        (early,) = search.evaluate([a], 0.1)
    assert evaluator.trained == [Trial(a)], "the other is in trials.jsonl"
    assert full.measurement == figure(Trial(a))
    assert early.measurement == figure(Trial(a, NINTH))
    assert (full.measurement.score, full.repeat) != (early.measurement.score, True)


def test_a_cache_keeps_fidelities_apart(tmp_path):
    (a,) = ARCHITECTURES[:1]
    with Cache(tmp_path / "cache.db") as cache:
        for expected in ([Trial(a, NINTH)], []):
            evaluator = Ninths()
            (early,) = Search(SPACE, evaluator, cache=cache).evaluate([a], NINTH)
            assert evaluator.trained == expected
        evaluator = Ninths()
        (full,) = Search(SPACE, evaluator, cache=cache).evaluate([a])
    assert evaluator.trained == [Trial(a)]
    assert (early.measurement, full.measurement) == (figure(Trial(a, NINTH)), figure(Trial(a)))


# The budget


def test_a_budget_of_evaluations_counts_what_trials_cost():
    with Search(SPACE, Ninths(), budget=Budget(2)) as search:
        assert len(search.evaluate(ARCHITECTURES[:9], NINTH)) == 9
        assert search.remaining == pytest.approx(1)
        search.evaluate(ARCHITECTURES[:1])
        assert search.remaining == 0, "sums of ninths are rounded"
        with pytest.raises(BudgetExhausted, match="budget of 2 evaluations is used up"):
            search.evaluate(ARCHITECTURES[:1], NINTH)
        assert search.history.spent == pytest.approx(2)


def test_of_a_batch_as_many_are_answered_as_are_paid_for():
    evaluator = Ninths()
    with Search(SPACE, evaluator, budget=Budget(1)) as search:
        with pytest.raises(BudgetExhausted):
            search.evaluate([*ARCHITECTURES[:2], ARCHITECTURES[0], *ARCHITECTURES[2:20]], 2 / 9)
        assert len(search.history) == 4
        assert search.history.repeats == 1
        assert search.ended == "the budget of 1 evaluation is used up"
    assert evaluator.trained == [Trial(a, 2 / 9) for a in ARCHITECTURES[:4]]


def test_repeats_that_are_charged_cost_their_share():
    with Search(SPACE, Ninths(), budget=Budget(1, charge_repeats=True)) as search:
        search.evaluate([ARCHITECTURES[0]] * 6, NINTH)
        assert search.remaining == pytest.approx(3 / 9)
        with pytest.raises(BudgetExhausted):
            search.evaluate([ARCHITECTURES[0]] * 4, NINTH)
        assert (len(search.history), search.history.proposals) == (1, 9)


def test_a_fraction_that_pays_for_no_full_training_ends_a_search():
    for asynchronous in (False, True):
        agent = RandomSearch(batch_size=4, asynchronous=asynchronous)
        with Search(SPACE, Ninths(), agent, Budget(3), layers=[First]) as search:
            search.run()
            assert search.ended == "the budget of 3 evaluations is used up"
            assert search.history.fidelities.tolist() == [NINTH, 1.0, 1.0]


class First(Layer):
    """Has a trial at a ninth before the agent's first."""

    def __init__(self, search):
        super().__init__(search)
        search.evaluate(ARCHITECTURES[:1], NINTH, by="first")


class All(Layer):
    """Has all architectures at a ninth before the agent's first."""

    def __init__(self, search):
        super().__init__(search)
        search.evaluate(search.space.all_architectures(), NINTH, by="all")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_space_is_evaluated_when_all_of_it_is_at_the_full_fidelity(asynchronous):
    agent = RandomSearch(batch_size=4, asynchronous=asynchronous)
    with Search(SMALL, Ninths(SMALL), agent, Budget(None), layers=[All]) as search:
        search.run()
        assert search.ended == "all 20 architectures of the space are evaluated"
        assert search.history.fidelities.tolist() == [NINTH] * 20 + [1.0] * 20


# What is best


def test_the_incumbent_is_the_best_of_the_highest_fidelity():
    ranked = sorted(ARCHITECTURES[:12], key=lambda a: figure(Trial(a, NINTH)).score)
    low = min(ARCHITECTURES[:12], key=lambda a: figure(Trial(a)).score)
    search = Search(SPACE, Ninths())
    search.evaluate(ranked, NINTH)
    assert search.history.best.architecture == ranked[-1]
    assert [o.architecture for o in search.history.top(3)] == ranked[:-4:-1]
    (full,) = search.evaluate([low])
    assert full.reward < search.history[-2].reward
    assert (search.history.best, search.history.best_reward) == (full, full.reward)
    assert search.history.top(3) == [full]
    search.evaluate(ARCHITECTURES[12:20], NINTH)
    assert search.history.best == full
    better = search.evaluate(ARCHITECTURES[:12])
    assert search.history.best == max([full, *better], key=lambda o: o.reward)
    assert {o.fidelity for o in search.history.top(99)} == {1.0}


def test_a_failure_at_the_full_fidelity_is_no_incumbent():
    class Fails(Ninths):
        def measure(self, trials):
            return [figure(t) if t.fidelity < 1 else Measurement(None, "diverged") for t in trials]

    search = Search(SPACE, Fails())
    (early,) = search.evaluate(ARCHITECTURES[:1], NINTH)
    search.evaluate(ARCHITECTURES[:1])
    assert search.history.best == early


# Replay


class Rising(Agent):
    """Looks at four at a ninth, and at the best of them in full."""

    fidelity = NINTH

    def config(self):
        return {"class_path": "Rising", "init_args": {}}

    def run(self, search):
        rng = np.random.default_rng(search.seed)
        while True:
            found = search.evaluate(search.space.sample(4, rng), self.fidelity)
            search.evaluate([max(found, key=lambda o: o.reward).architecture])


def journaled(folder):
    return [{k: v for k, v in entry.items() if k != "seconds"} for entry in lines(folder / "journal.jsonl")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of a search at two fidelities."""
    folder = tmp_path_factory.mktemp("whole")
    with Search(SPACE, Ninths(), Rising(), Budget(6), run_dir=folder) as search:
        search.run()
    return folder


@pytest.mark.parametrize("kept", [1, 5, 7, 15])
def test_a_search_at_several_fidelities_is_replayed(whole, kept, tmp_path):
    text = (whole / "journal.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "journal.jsonl").write_text("".join(text[: kept + 1]))
    evaluator = Ninths()
    with Search(SPACE, evaluator, Rising(), Budget(6), run_dir=tmp_path) as search:
        search.run()
        assert search.ended == "the budget of 6 evaluations is used up"
    assert journaled(tmp_path) == journaled(whole)
    known = {(tuple(e["architecture"]), e["fidelity"]) for e in journaled(whole)[:kept]}
    assert not known & {(trial.architecture, trial.fidelity) for trial in evaluator.trained}


def test_an_agent_that_asks_for_another_fidelity_does_not_repeat_itself(whole, tmp_path, monkeypatch):
    (tmp_path / "journal.jsonl").write_text((whole / "journal.jsonl").read_text())
    monkeypatch.setattr(Rising, "fidelity", 2 / 9)
    said = r"1 was .* at fidelity 0\.111111, now it is .* at fidelity 0\.222222"
    with (
        Search(SPACE, Ninths(), Rising(), Budget(6), run_dir=tmp_path) as search,
        pytest.raises(InputError, match=said),
    ):
        search.run()


def test_what_a_journal_holds_at_several_fidelities_is_concluded(whole, tmp_path):
    (tmp_path / "journal.jsonl").write_text((whole / "journal.jsonl").read_text())
    with Search(SPACE, Ninths(), Rising(), Budget(6), run_dir=tmp_path, resume="conclude") as search:
        search.run()
        full = [o.architecture for o in search.history if o.fidelity == 1.0]
        assert conclude(search).winner.architecture in {SPACE.canonical(a) for a in full}
    assert journaled(tmp_path) == journaled(whole)


def test_measurements_set_aside_keep_their_fidelities(whole, tmp_path):
    for name in ("journal.jsonl", "trials.jsonl"):
        (tmp_path / name).write_text((whole / name).read_text())
    evaluator = Ninths()
    with Search(SPACE, evaluator, Rising(), Budget(6), run_dir=tmp_path, resume="continue") as search:
        search.run()
    assert evaluator.trained == []
    assert [{**e, "cached": None} for e in journaled(tmp_path)] == [{**e, "cached": None} for e in journaled(whole)]
