"""Searches that keep their workers busy: no waiting for a batch, and the same again after a stop."""

import json
from collections import deque

import numpy as np
import pytest

from nasenv.agents.agent import Agent
from nasenv.agents.random_search import RandomSearch
from nasenv.agents.regularized_evolution import RegularizedEvolution
from nasenv.agents.tpe import TPE
from nasenv.budget import Budget
from nasenv.cache import Cache
from nasenv.errors import AgentError, InputError
from nasenv.evaluators.evaluator import Evaluator, Measurement
from nasenv.replay import Course
from nasenv.search import Search
from nasenv.spaces.chain_cnn import ChainCNN

SPACE = ChainCNN(max_layers=3, widths=(8, 16))
AGENTS = {
    "RandomSearch": lambda: RandomSearch(asynchronous=True),
    "RegularizedEvolution": lambda: RegularizedEvolution(8, 3, asynchronous=True),
    "TPE": lambda: TPE(startup_trials=4, asynchronous=True),
}


class PowerCut(BaseException):
    """The end of a process, as the code in it sees it."""


class Slots(Evaluator):
    """Trains on so many slots, in pretence; which training ends first is drawn from a generator of its own."""

    indifferent = ("slots", "order", "cut_after")

    def __init__(self, space, slots=3, order=0, cut_after=None):
        super().__init__(space)
        self._slots, self._order, self._cut_after = slots, np.random.default_rng(order), cut_after
        self.began, self.at_once = [], []

    @property
    def slots(self):
        return self._slots

    def fingerprint(self):
        return "slots"

    def evaluate(self, architectures, fidelity=1.0):
        return [Measurement((hash(a) % 997) / 997, train_seconds=1.0) for a in architectures]

    def confirm(self, architectures, seeds):
        return [self.evaluate([a] * len(seeds)) for a in architectures]

    test = confirm

    def stream(self, trials, stopped=lambda: False):
        queue, at_work = trials if isinstance(trials, deque) else deque(trials), []
        while True:
            while queue and len(at_work) < self._slots and not stopped():
                at_work.append(queue.popleft())
                self.began.append(at_work[-1].architecture)
            if not at_work:
                return
            self.at_once.append(len(at_work))
            if self._cut_after is not None and len(self.began) >= self._cut_after:
                raise PowerCut
            trial = at_work.pop(self._order.integers(len(at_work)))
            yield trial, *self.evaluate([trial.architecture])


def search(folder, agent, evaluator, evaluations=40, **options):
    return Search(SPACE, evaluator, agent, Budget(evaluations), seed=5, run_dir=folder, **options)


def run(folder, agent, evaluator, **options):
    with search(folder, agent, evaluator, **options) as made:
        made.run()
    return journal(folder)


def journal(folder):
    _, *lines = (folder / "journal.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


@pytest.mark.parametrize("agent", AGENTS)
def test_workers_are_kept_busy_and_the_budget_is_exact(tmp_path, agent):
    evaluator = Slots(SPACE)
    assert len(run(tmp_path, AGENTS[agent](), evaluator)) == 40
    assert len(set(evaluator.began)) == len(evaluator.began) > 30  # networks, of which some designs are the same
    assert set(evaluator.at_once[:-2]) == {3}  # until the budget does not reach for another


def test_a_synchronous_search_waits_for_its_batch(tmp_path):
    evaluator = Slots(SPACE)
    run(tmp_path, RegularizedEvolution(8, 3, batch_size=3), evaluator)
    assert set(evaluator.at_once) == {1, 2, 3}


@pytest.mark.parametrize("cut_after", [1, 4, 17, 33])
@pytest.mark.parametrize("agent", AGENTS)
def test_after_a_power_cut_it_goes_on_and_trains_nothing_twice(tmp_path, agent, cut_after):
    first = Slots(SPACE, order=1, cut_after=cut_after)
    with pytest.raises(PowerCut):
        run(tmp_path, AGENTS[agent](), first)
    before = journal(tmp_path)
    second = Slots(SPACE, slots=7, order=2)  # on another machine
    after = run(tmp_path, AGENTS[agent](), second)
    assert after[: len(before)] == before
    assert len(after) == 40
    _, *lines = (tmp_path / "trials.jsonl").read_text().splitlines()
    ended = [tuple(json.loads(line)["architecture"]) for line in lines]
    assert len(set(ended)) == len(ended)
    assert set(ended) == {SPACE.canonical(tuple(entry["architecture"])) for entry in after}
    assert max(second.at_once) <= 7  # what was in flight before, and then what this machine has
    assert not {SPACE.canonical(tuple(entry["architecture"])) for entry in before} & set(second.began)


@pytest.mark.parametrize("agent", AGENTS)
def test_the_same_course_is_the_same_search(tmp_path, agent):
    once = run(tmp_path / "once", AGENTS[agent](), Slots(SPACE, order=1))
    course = Course.read(tmp_path / "once" / "journal.jsonl")
    again = run(tmp_path / "again", AGENTS[agent](), Slots(SPACE, slots=2, order=2), course=course)
    assert again == once
    if agent != "RandomSearch":  # what it proposes does not depend on the answers
        other = run(tmp_path / "other", AGENTS[agent](), Slots(SPACE, order=2))
        assert [e["architecture"] for e in other] != [e["architecture"] for e in once]


def test_a_stop_keeps_what_is_in_flight(tmp_path):
    evaluator = Slots(SPACE)
    with search(tmp_path, RandomSearch(asynchronous=True), evaluator) as made:
        made.listeners.append(lambda s, outcome: s.stop("enough") if outcome.evaluation == 10 else None)
        made.run()
        assert made.stopped == "enough"
        assert len(made.trials.answers) == len(evaluator.began)
    second = Slots(SPACE, order=3)
    assert len(run(tmp_path, RandomSearch(asynchronous=True), second)) == 40
    assert not set(evaluator.began) & set(second.began)


def test_what_a_cache_knows_is_not_trained(tmp_path):
    cache = Cache(tmp_path / "cache.db")
    run(tmp_path / "first", RandomSearch(asynchronous=True), Slots(SPACE), cache=cache)
    second = Slots(SPACE)
    entries = run(tmp_path / "second", RandomSearch(asynchronous=True), second, cache=cache)
    assert second.began == []
    assert all(entry["cached"] for entry in entries)


class Greedy(Agent):
    """Asked for one, proposes two."""

    def begin(self, space, rng):
        self.space, self.rng = space, rng

    def ask(self, n):
        return self.space.sample(2, self.rng)


def test_an_agent_that_proposes_more_than_it_was_asked_for_is_told(tmp_path):
    said = "proposed 2 designs, was asked for one"
    with search(tmp_path, Greedy(asynchronous=True), Slots(SPACE)) as made, pytest.raises(AgentError, match=said):
        made.run()


def test_asynchronous_is_true_or_false():
    with pytest.raises(InputError, match="asynchronous must be true or false, got 'yes'"):
        RandomSearch(asynchronous="yes")
