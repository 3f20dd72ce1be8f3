"""Budgets in evaluations, in charged seconds and of charged repeats; a history in columns and as objects."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest

from nasenv.agents.agent import Agent
from nasenv.agents.random_search import RandomSearch
from nasenv.cache.cache import Cache
from nasenv.cache.keys import ProblemKey
from nasenv.errors import BudgetExhausted, InputError
from nasenv.evaluators.table import TableEvaluator
from nasenv.search.budget import Budget
from nasenv.search.search import Search
from nasenv.spaces.space import Decision, SearchSpace
from nasenv.tables.table import write_table
from nasenv.trial import Trial
from tests.fakes import TASK, Hashed

pytestmark = pytest.mark.usefixtures("without_pictures")


class Bags(SearchSpace):
    """Three digits of 0 to 2; architectures of the same digits in another order are equivalent."""

    def __init__(self):
        super().__init__([Decision(f"digit{i}", (0, 1, 2)) for i in range(3)], TASK)

    def canonical(self, architecture):
        return tuple(sorted(architecture))

    def build(self, architecture):
        raise NotImplementedError


class Priced(Hashed):
    """A training takes 1 s and one more for each digit's worth; see `price`."""

    def figure(self, architecture):
        return dataclasses.replace(super().figure(architecture), train_seconds=price(architecture))

    @property
    def trained(self):
        return [architecture for call in self.calls for architecture in call]


def price(architecture):
    return 1.0 + sum(architecture)


SPACE = Bags()
ARCHITECTURES = list(itertools.product(range(3), repeat=3))
ABOVE = ARCHITECTURES[-1]  # the dearest, 7 s


def make(evaluator=None, agent=None, cache=None, run_dir=None, seed=0, **budget):
    budget = Budget(**{"evaluations": None, **budget})
    return Search(SPACE, evaluator or Priced(SPACE), agent, budget, None, cache, seed, run_dir)


def journal(folder):
    entries = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()[1:]]
    return [{k: v for k, v in entry.items() if k != "seconds"} for entry in entries]


class Scripted(Agent):
    """Proposes what it is told to, over and over."""

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def run(self, search):
        for batch in itertools.cycle(self.batches):
            search.evaluate(batch)


def hear(search):
    """Return a list that fills with every outcome and what the search had been charged then."""
    heard = []
    search.callbacks.append(lambda search, outcome: heard.append((outcome, search.history.charged_seconds)))
    return heard


# Against a second, plain implementation


def answered(batches, evaluations, charged_seconds, charge_repeats, repeats_per_evaluation=50):
    """Return (architecture, evaluation, proposal, repeat, charged so far) of every proposal that a search answers."""
    answers, numbers, charged = [], {}, 0.0

    def is_full():
        spent = len(answers) if charge_repeats else len(numbers)
        return spent == evaluations or (charged_seconds is not None and charged >= charged_seconds)

    for batch in batches:
        repeats = len(answers) - len(numbers)
        if (
            is_full()
            or len(numbers) == len(ARCHITECTURES)
            or repeats >= repeats_per_evaluation * (evaluations or max(1, len(numbers)))
        ):
            break
        for architecture in batch:
            is_new = architecture not in numbers
            seconds_left = charged_seconds is None or charged < charged_seconds
            fits = len(answers) < evaluations if charge_repeats and evaluations else True
            fits = fits and (charge_repeats or not is_new or evaluations is None or len(numbers) < evaluations)
            if not (seconds_left and fits):
                return answers
            if is_new or charge_repeats:
                charged += price(architecture)
            numbers.setdefault(architecture, len(numbers) + 1)
            answers.append((architecture, numbers[architecture], len(answers) + 1, not is_new, charged))
    return answers


@pytest.mark.parametrize("charge_repeats", [False, True])
@pytest.mark.parametrize("limits", [(None, 60.0), (12, None), (12, 45.0), (None, None)], ids=str)
def test_a_search_answers_as_a_plain_loop_would(limits, charge_repeats):
    for seed in range(25):
        rng = np.random.default_rng(seed)
        sizes = rng.integers(1, 7, size=60)
        batches = [[ARCHITECTURES[i] for i in rng.integers(len(ARCHITECTURES), size=n)] for n in sizes]
        expected = answered(batches, *limits, charge_repeats)
        agent = Scripted([*batches, *[[ABOVE] * 1000] * 9])
        search = make(agent=agent, evaluations=limits[0], charged_seconds=limits[1], charge_repeats=charge_repeats)
        heard = hear(search)
        search.run()
        got = [(o.architecture, o.evaluation, o.proposal, o.repeat, charged) for o, charged in heard]
        assert got[: len(expected)] == expected
        if limits != (None, None):
            assert len(got) == len(expected)
            assert "is used up" in search.ended
        first = [answer for answer in got if not answer[3]]
        history = search.history
        assert list(history.architectures) == [architecture for architecture, *_ in first]
        assert history.seconds.tolist() == [charged for *_, charged in first]
        assert history.proposal_numbers.tolist() == [proposal for _, _, proposal, _, _ in first]
        assert (history.proposals, history.repeats) == (len(got), len(got) - len(first))
        assert history.charged_seconds == (got[-1][-1] if got else 0.0)


def test_columns_say_what_the_outcomes_say():
    rng = np.random.default_rng(0)
    with make() as search:
        for _ in range(12):
            answers = search.evaluate([ARCHITECTURES[i] for i in rng.integers(len(ARCHITECTURES), size=5)])
            for columns, outcomes in ((answers, list(answers)), (search.history.answers, list(search.history))):
                assert columns.architectures == [o.architecture for o in outcomes]
                assert columns.rewards.tolist() == [o.reward for o in outcomes]
                assert columns.evaluations.tolist() == [o.evaluation for o in outcomes]
                assert columns.repeats.tolist() == [o.repeat for o in outcomes]
                assert columns.errors.tolist() == [o.measurement.error for o in outcomes]
                accuracies = [math.nan if (v := o.measurement.score) is None else v for o in outcomes]
                assert np.array_equal(columns.scores, accuracies, equal_nan=True)
            assert [o.proposal for o in answers] == list(
                range(search.history.proposals - 4, search.history.proposals + 1)
            )
        assert search.history.answers.repeats.sum() == 0
        errors = [o.measurement.error for o in search.history]
        assert set(errors) == {None, "diverged"}  # both kinds were among them
        best = max((o for o in search.history if o.measurement.error is None), key=lambda o: o.reward)
        assert search.history.best == best
        assert search.history.top(3)[0] == best
        assert search.history[-1] == list(search.history)[-1]
        assert search.history[1:3] == list(search.history)[1:3]


# A batch


def problem(kind, folder):
    """Return an evaluator that trains, or one that looks up the same in a table; seconds there are tenths."""
    if kind == "trained":
        return Priced(SPACE)
    accuracies = [Priced(SPACE).figure(architecture).score for architecture in ARCHITECTURES]
    columns = {
        "val_accuracy": accuracies,
        "train_seconds": [price(architecture) / 10 for architecture in ARCHITECTURES],
    }
    write_table(folder / "t.csv", [SPACE.to_text(architecture) for architecture in ARCHITECTURES], columns)
    return TableEvaluator(SPACE, str(folder / "t.csv"), test_column=None, canonical=kind == "canonical table")


@pytest.mark.parametrize("charge_repeats", [False, True])
@pytest.mark.parametrize("kind", ["trained", "table", "canonical table"])
def test_a_batch_is_answered_as_its_architectures_are_one_by_one(kind, charge_repeats, tmp_path):
    drawn = np.random.default_rng(0).integers(3, size=(4, 15, 3))  # repeats and equivalent architectures among them
    tuples = [[tuple(row) for row in rows] for rows in drawn.tolist()]
    ways = {
        "one by one": [[architecture] for batch in tuples for architecture in batch],
        "tuples": tuples,
        "arrays": drawn,
        "in turn": [drawn[0], tuples[1], drawn[2], tuples[3]],
    }
    found = {}
    for way, batches in ways.items():
        for folder in (None, tmp_path / way):
            with make(problem(kind, tmp_path), run_dir=folder, charge_repeats=charge_repeats) as search:
                answers = [outcome for batch in batches for outcome in search.evaluate(batch)]
                history = search.history
                spent = (history.train_seconds, history.charged_seconds, history.cached, history.proposals)
                columns = [c.tolist() for c in (history.seconds, history.proposal_numbers)]
                found[way, folder] = (answers, list(history), history.best, spent, columns)
    expected = found["one by one", None]
    assert all(result == expected for result in found.values())
    assert [journal(tmp_path / way) for way in ways] == [journal(tmp_path / "one by one")] * 4
    assert {o.repeat for o in expected[0]} == {True, False}
    assert {o.cached for o in expected[0]} == ({False} if kind == "table" else {True, False})


# Charged seconds


def test_the_evaluation_that_reaches_the_limit_is_the_last_inside_a_batch_too(tmp_path):
    evaluator = Priced(SPACE)
    batch = [(0, 0, 0), (0, 0, 1), (0, 1, 1), (1, 1, 1), (2, 2, 2)]  # 1, 2, 3, 4 and 7 s
    with Cache(tmp_path / "cache.db") as cache, make(evaluator, None, cache, tmp_path, charged_seconds=5.5) as search:
        with pytest.raises(BudgetExhausted, match=r"5\.5 charged seconds is used up"):
            search.evaluate(batch)
        assert [tuple(entry["architecture"]) for entry in journal(tmp_path)] == batch[:3]
        assert (search.history.charged_seconds, search.history.proposals) == (6.0, 3)
        assert evaluator.trained == batch  # all at once, since what they cost is known afterwards
        problem, trials = ProblemKey(SPACE.fingerprint(), evaluator.fingerprint()), list(map(Trial, batch))
        assert set(cache.find(problem, trials)) == set(trials)  # so none of it is lost
        with pytest.raises(BudgetExhausted):
            search.evaluate(batch[:1])


def test_a_limit_that_is_met_exactly_by_the_last_of_a_batch_is_told_with_the_next():
    search = make(charged_seconds=3.0)
    assert len(search.evaluate([(0, 0, 0), (0, 0, 1)])) == 2
    with pytest.raises(BudgetExhausted):
        search.evaluate([(0, 0, 0)])


def test_what_a_cache_or_an_equivalent_architecture_makes_free_is_charged_too(tmp_path):
    with Cache(tmp_path / "cache.db") as cache:
        make(cache=cache).evaluate([(0, 0, 1)])
        evaluator = Priced(SPACE)
        search = make(evaluator, cache=cache, charged_seconds=6.0)
        answers = search.evaluate([(0, 0, 1), (0, 1, 0), (1, 0, 0)])  # known; equivalent to it, twice
        assert [o.cached for o in answers] == [True] * 3
        assert evaluator.trained == []
        assert (search.history.charged_seconds, search.history.train_seconds) == (6.0, 0.0)
        with pytest.raises(BudgetExhausted):
            search.evaluate([(0, 0, 0)])


class Repeating(Agent):
    """Proposes architectures at random, some of them again and again, in batches of all sizes."""

    def run(self, search):
        rng = np.random.default_rng(search.seed)
        while True:
            search.evaluate([ARCHITECTURES[i] for i in rng.integers(9, size=rng.integers(1, 6))])


@pytest.mark.parametrize("charge_repeats", [False, True])
@pytest.mark.parametrize("agent", [Repeating(), RandomSearch(batch_size=5)], ids=["own", "random"])
def test_a_search_killed_anywhere_ends_with_the_same_journal(agent, charge_repeats, tmp_path):
    limits = {"charged_seconds": 31.0, "charge_repeats": charge_repeats}
    whole = Priced(SPACE)
    with make(whole, agent, run_dir=tmp_path / "whole", **limits) as search:
        search.run()
    entries, ended = journal(tmp_path / "whole"), search.ended
    lines = (tmp_path / "whole" / "journal.jsonl").read_text().splitlines(keepends=True)
    assert len(entries) > 3
    for kept in range(1, len(lines) + 1):
        folder = tmp_path / str(kept)
        folder.mkdir()
        (folder / "journal.jsonl").write_text("".join(lines[:kept]) + '{"evaluation": 9, "tor')
        evaluator = Priced(SPACE)
        with make(evaluator, agent, run_dir=folder, **limits) as again:
            again.run()
        assert (journal(folder), again.ended) == (entries, ended)
        assert (again.history.proposals, again.history.charged_seconds) == (
            search.history.proposals,
            search.history.charged_seconds,
        )
        known = {SPACE.canonical(tuple(entry["architecture"])) for entry in entries[: kept - 1]}
        assert evaluator.trained == [architecture for architecture in whole.trained if architecture not in known]


# Repeats


@pytest.mark.parametrize(
    ("budget", "evaluations", "proposals", "charged_seconds", "ended"),
    [
        ({"evaluations": 10, "charge_repeats": True}, 1, 10, 20.0, "10 proposals"),
        ({"charged_seconds": 9.0, "charge_repeats": True}, 1, 5, 10.0, "9 charged seconds"),
        ({"evaluations": 100, "charged_seconds": 9.0, "charge_repeats": True}, 1, 5, 10.0, "9 charged seconds"),
        ({"evaluations": 3, "charged_seconds": 99.0, "charge_repeats": True}, 1, 3, 6.0, "3 proposals"),
        ({"evaluations": 10}, 1, 504, 2.0, "1 distinct evaluation"),
        ({"charged_seconds": 9.0}, 1, 52, 2.0, "1 distinct evaluation"),
        ({"evaluations": 10, "repeats_per_evaluation": 1}, 1, 12, 2.0, "1 distinct evaluation"),
        ({}, 1, 52, 2.0, "1 distinct evaluation"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_an_agent_that_only_repeats_itself_comes_to_an_end(budget, evaluations, proposals, charged_seconds, ended):
    search = make(agent=Scripted([[(0, 0, 1)] * 4]), **budget)
    search.run()
    history = search.history
    assert (len(history), history.proposals, history.charged_seconds) == (evaluations, proposals, charged_seconds)
    assert ended in search.ended
    assert (search.budget.reached(history) is None) == ("distinct" in ended)
    assert "policy" not in search.ended


def test_charged_repeats_are_told_to_the_agent_in_what_remains():
    search = make(evaluations=5, charge_repeats=True)
    search.evaluate([(0, 0, 0)] * 3)
    assert search.remaining == 2
    with pytest.raises(BudgetExhausted, match="5 proposals"):
        search.evaluate([(0, 0, 0), (1, 1, 1), (2, 2, 2)])
    assert list(search.history.architectures) == [(0, 0, 0), (1, 1, 1)]


def test_the_target_ends_a_search_with_the_proposals_being_answered():
    rewards = {architecture: make().evaluate([architecture]).rewards[0] for architecture in ARCHITECTURES}
    best = max(ARCHITECTURES, key=rewards.__getitem__)
    search = make(target_reward=float(rewards[best]))
    assert len(search.evaluate([best, ARCHITECTURES[0], ARCHITECTURES[1]])) == 3
    with pytest.raises(BudgetExhausted, match="target reward"):
        search.evaluate([ARCHITECTURES[2]])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("charged_seconds", value) for value in (0, -1.0, math.inf, math.nan, "60", True)),
        *(("charge_repeats", value) for value in (None, 1, "yes")),
        *(("repeats_per_evaluation", value) for value in (0, None, 2.5)),
        ("target_reward", math.nan),
    ],
)
def test_bad_values(option, value):
    with pytest.raises(InputError, match=rf"^budget\.{option} must be .*got"):
        Budget(**{option: value})


def test_numpy_numbers_will_do():
    budget = Budget(evaluations=np.int64(3), charged_seconds=np.float64(2.5))
    assert json.loads(json.dumps(dataclasses.asdict(budget)))["charged_seconds"] == 2.5
