"""Searches that keep their workers busy: no waiting for a batch, and the same again after a stop."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from nasenv.agents.agent import Agent
from nasenv.agents.gaussian_process import GaussianProcess
from nasenv.agents.local_search import LocalSearch
from nasenv.agents.random_search import RandomSearch
from nasenv.agents.regularized_evolution import RegularizedEvolution
from nasenv.agents.testing import AgentContract, AnyOrder
from nasenv.agents.tpe import TPE
from nasenv.cache.cache import Cache
from nasenv.cache.keys import ProblemKey
from nasenv.commands.cli import main
from nasenv.errors import AgentError, InputError
from nasenv.evaluators.table import TableEvaluator
from nasenv.records.replay import CompletionOrder
from nasenv.search.budget import Budget
from nasenv.search.search import Search
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.trial import Measurement, Trial

pytestmark = pytest.mark.usefixtures("without_pictures")
SPACE = ChainCNN(max_layers=3, widths=(8, 16))
SMALL = ChainCNN(max_layers=1, widths=(8, 16, 32))  # 20 architectures
AGENTS = {
    "RandomSearch": RandomSearch,
    "RegularizedEvolution": partial(RegularizedEvolution, 8, 3),
    "LocalSearch": LocalSearch,
    "TPE": partial(TPE, startup_trials=4),
    "GaussianProcess": partial(GaussianProcess, startup_trials=4),
}


class PowerCut(BaseException):
    """The end of a process, as the code in it sees it."""


class Slots(AnyOrder):
    """Trainings of a second, some of which fail; notes what was begun and how much is at work, up to a power cut."""

    excluded_from_identity = ("slots", "order", "cut_after")

    def __init__(self, space, slots=3, order=0, cut_after=None):
        super().__init__(space, 0.2, slots, order)
        self._cut_after = cut_after
        self.began, self.at_once = [], []

    def measure(self, trials):
        return [replace(m, train_seconds=1.0) for m in super().measure(trials)]

    def completed(self, stopped=lambda: False):
        for trial, measurement in super().completed(stopped):
            at_work = [t.architecture for t in (trial, *self.at_work)]
            self.began += [a for a in at_work if a not in self.began]
            self.at_once.append(len(at_work))
            if self._cut_after is not None and len(self.began) >= self._cut_after:
                raise PowerCut
            yield trial, measurement


class Listed(Agent):
    """Proposes these architectures, one after another, and then the last again and again."""

    def __init__(self, architectures):
        super().__init__(1, asynchronous=True)
        self.architectures = architectures

    def begin(self, space, rng):
        self.left = list(self.architectures)

    def ask(self, n):
        return [self.left.pop(0) if len(self.left) > 1 else self.left[0]]


def search(folder, agent, evaluator, budget=None, **options):
    return Search(evaluator.space, evaluator, agent, budget or Budget(40), seed=5, run_dir=folder, **options)


def run(folder, agent, evaluator, **options):
    with search(folder, agent, evaluator, **options) as made:
        made.run()
    return journal(folder)


def journal(folder):
    _, *lines = (folder / "journal.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def trained(folder):
    _, *lines = (folder / "trials.jsonl").read_text().splitlines()
    return [tuple(json.loads(line)["architecture"]) for line in lines]


def networks(space, entries):
    return {space.canonical(tuple(entry["architecture"])) for entry in entries}


def some_networks(n):
    architectures = SPACE.sample(100, np.random.default_rng(1))
    return list(dict.fromkeys(map(SPACE.canonical, architectures)))[:n]


@pytest.mark.parametrize(
    "agent", [name for name in AGENTS if name != "LocalSearch"]
)  # which waits at the end of a neighbourhood
def test_workers_are_kept_busy_and_the_budget_is_exact(tmp_path, agent):
    evaluator = Slots(SPACE)
    entries = run(tmp_path, AGENTS[agent](asynchronous=True), evaluator)
    assert len(entries) == 40
    assert any(entry["error"] for entry in entries)
    assert len(set(evaluator.began)) == len(evaluator.began) > 30  # networks, of which some architectures are the same
    assert np.mean(evaluator.at_once[:-2]) > 2.9  # until the budget does not reach for another


def test_a_synchronous_search_waits_for_its_batch(tmp_path):
    evaluator = Slots(SPACE)
    run(tmp_path, RegularizedEvolution(8, 3, batch_size=3), evaluator)
    assert set(evaluator.at_once) == {1, 2, 3}


@pytest.mark.parametrize(
    "evaluator",
    [partial(Slots, SPACE, slots=1), partial(TableEvaluator, ChainCNN(3, widths=(16,)), "chain_cnn_digits")],
)
@pytest.mark.parametrize("agent", AGENTS)
def test_on_one_slot_it_is_the_search_of_batches_of_one(tmp_path, agent, evaluator):
    one_by_one = run(tmp_path / "batches", AGENTS[agent](batch_size=1), evaluator())
    assert run(tmp_path / "asynchronous", AGENTS[agent](asynchronous=True), evaluator()) == one_by_one


@pytest.mark.parametrize(("cut_after", "start"), [(1, 0), (4, 6), (17, 0), (33, 6)])
@pytest.mark.parametrize("agent", AGENTS)
def test_after_a_power_cut_it_goes_on_and_trains_nothing_twice(tmp_path, agent, cut_after, start):
    starting = some_networks(start)
    first = Slots(SPACE, order=1, cut_after=cut_after)
    with pytest.raises(PowerCut):
        run(tmp_path, AGENTS[agent](asynchronous=True), first, start=starting)
    before = journal(tmp_path)
    second = Slots(SPACE, slots=7, order=2)  # on another machine
    after = run(tmp_path, AGENTS[agent](asynchronous=True), second, start=starting)
    assert after[: len(before)] == before
    assert [tuple(entry["architecture"]) for entry in after[:start]] == starting
    assert len(after) == 40
    ended = trained(tmp_path)
    assert len(set(ended)) == len(ended)
    assert set(ended) == networks(SPACE, after)
    assert max(second.at_once) <= 7  # what was in flight before, and then what this machine has
    assert not networks(SPACE, before) & set(second.began)


@pytest.mark.parametrize("agent", AGENTS)
def test_the_same_completion_order_is_the_same_search(tmp_path, agent):
    make, starting = partial(AGENTS[agent], asynchronous=True), some_networks(6)
    once = run(tmp_path / "once", make(), Slots(SPACE, order=1), start=starting)
    completion_order = CompletionOrder.read(tmp_path / "once" / "journal.jsonl")
    again = run(
        tmp_path / "again", make(), Slots(SPACE, slots=2, order=2), start=starting, completion_order=completion_order
    )
    assert again == once
    if agent != "RandomSearch":  # what it proposes does not depend on the answers
        other = run(tmp_path / "other", make(), Slots(SPACE, order=2), start=starting)
        assert [e["architecture"] for e in other] != [e["architecture"] for e in once]


def test_a_stop_keeps_what_is_in_flight(tmp_path):
    evaluator = Slots(SPACE)
    with search(tmp_path, RandomSearch(asynchronous=True), evaluator) as made:
        made.callbacks.append(lambda s, outcome: s.stop("enough") if outcome.evaluation == 10 else None)
        made.run()
        assert made.stopped == "enough"
        assert len(made.trials.measurements) == len(evaluator.began)
    second = Slots(SPACE, order=3)
    assert len(run(tmp_path, RandomSearch(asynchronous=True), second)) == 40
    assert not set(evaluator.began) & set(second.began)


@pytest.mark.parametrize(
    ("space", "budget", "ended"),
    [
        (SPACE, Budget(40, target_reward=0.9), "the target reward of 0.9 is met"),
        (SPACE, Budget(None, charged_seconds=12.5), "the budget of 12.5 charged seconds is used up"),
        (SMALL, Budget(None), "all 20 architectures of the space are evaluated"),
    ],
)
def test_whatever_ends_it_what_is_in_flight_is_kept_and_the_end_stands(tmp_path, space, budget, ended):
    first, second = Slots(space), Slots(space, order=1)
    for evaluator in (first, second):
        with search(tmp_path, RandomSearch(asynchronous=True), evaluator, budget) as made:
            made.run()
            assert made.ended == ended
    assert sorted(trained(tmp_path)) == sorted(first.began)
    assert second.began == []


@pytest.mark.parametrize("budget", [Budget(18, charge_repeats=True), Budget(None, 18.0, charge_repeats=True)])
@pytest.mark.parametrize("cut_after", [2, 9])
def test_repeats_that_are_charged_use_the_budget_up(tmp_path, budget, cut_after):
    with pytest.raises(PowerCut):
        run(tmp_path, RandomSearch(asynchronous=True), Slots(SMALL, cut_after=cut_after), budget=budget)
    with search(tmp_path, RandomSearch(asynchronous=True), Slots(SMALL, order=1), budget) as made:
        made.run()
        assert (made.history.proposals, made.history.charged_seconds) == (18, 18.0)
        assert made.history.repeats > 0
        assert "is used up" in made.ended


def test_an_agent_that_collapses_onto_one_architecture_is_ended(tmp_path):
    evaluator, architecture = Slots(SPACE), some_networks(1)
    with search(tmp_path, Listed(architecture), evaluator, Budget(40, repeats_per_evaluation=2)) as made:
        made.run()
        assert made.ended.startswith("the agent proposes what it proposed before: 80 repeats beside 1 distinct")
    assert evaluator.began == architecture


def test_what_a_cache_knows_is_not_trained(tmp_path):
    cache = Cache(tmp_path / "cache.db")
    run(tmp_path / "first", RandomSearch(asynchronous=True), Slots(SPACE), cache=cache)
    second = Slots(SPACE)
    entries = run(tmp_path / "second", RandomSearch(asynchronous=True), second, cache=cache)
    assert second.began == []
    assert all(entry["cached"] for entry in entries)


@pytest.fixture
def elsewhere(tmp_path):
    """Return an architecture that another search trains, a cache, and what ends that training with or without result"""
    cache, other = (Cache(tmp_path / "cache.db") for _ in range(2))
    architecture, problem = some_networks(1)[0], ProblemKey(SPACE.fingerprint(), Slots(SPACE).fingerprint())
    trial = Trial(architecture)
    assert other.claim(problem, [trial]) == {trial}

    def end(measured):
        if measured:
            other.add(problem, {trial: Measurement(0.5)})
        else:
            other.release(problem, [trial])

    return architecture, cache, end


@pytest.mark.parametrize("measured", [True, False])
def test_an_architecture_that_another_search_is_training_holds_up_its_own_slot_alone(tmp_path, elsewhere, measured):
    architecture, cache, end = elsewhere
    evaluator = Slots(SPACE)
    with search(tmp_path / "run", Listed(some_networks(12)), evaluator, Budget(12), cache=cache) as made:
        made.callbacks.append(lambda s, outcome: end(measured) if outcome.evaluation == 6 else None)
        made.run()
    entries = journal(tmp_path / "run")
    number = next(i for i, entry in enumerate(entries, 1) if tuple(entry["architecture"]) == architecture)
    assert number > 6
    assert set(evaluator.at_once[:6]) == {2}
    assert (architecture in evaluator.began) is not measured
    assert entries[number - 1]["cached"] is measured


def test_a_search_that_has_nothing_else_to_do_waits_for_another_in_words(tmp_path, elsewhere):
    architecture, cache, end = elsewhere
    with search(tmp_path / "run", Listed([architecture]), Slots(SPACE), Budget(1), cache=cache) as made:
        said = []
        made.on_wait = lambda text: (said.append(text), end(True))
        made.run()
    assert said == ["waiting for 1 architecture that another search on the same cache is training"]
    assert journal(tmp_path / "run")[0]["score"] == 0.5


def test_a_stop_ends_the_waiting_for_another(tmp_path, elsewhere):
    architecture, cache, _ = elsewhere
    with search(tmp_path / "run", Listed([architecture]), Slots(SPACE), Budget(1), cache=cache) as made:
        made.on_wait = lambda _: made.stop("enough")
        made.run()
        assert made.stopped == "enough"
    assert journal(tmp_path / "run") == []


def test_tpe_keeps_away_from_what_is_in_flight(monkeypatch):
    """So its estimator comes upon what was asked for before less often than where it does not know of it."""
    import optuna

    sampler = optuna.samplers.TPESampler

    def suggested_again(seed, **options):
        monkeypatch.setattr(optuna.samplers, "TPESampler", lambda **own: sampler(**own | options))
        space, agent, again = ChainCNN(max_layers=3, widths=(8, 16)), TPE(), []
        neighbours = space.neighbours
        space.neighbours = lambda architecture: (again.append(architecture), neighbours(architecture))[1]
        agent.begin(space, np.random.default_rng(seed))
        agent.tell(Search(space, AnyOrder(space, failing=0.0)).evaluate(some_networks(12)))
        agent.ask(20)
        return len(again)

    knowing = [suggested_again(seed) for seed in range(6)]
    unknowing = [suggested_again(seed, constant_liar=False) for seed in range(6)]
    assert np.mean(knowing) < 0.9 * np.mean(unknowing), (knowing, unknowing)


def test_reproduce_follows_the_completion_order_of_an_asynchronous_run(tmp_path, capsys):
    options = [
        *("--agent", "RegularizedEvolution", "--agent.asynchronous", "true", "--agent.population_size", "2"),
        *("--agent.sample_size", "2", "--space.max_layers", "1", "--evaluator.epochs", "1", "--cache", "none"),
        *("--evaluator.final_epochs", "1", "--budget.evaluations", "8", "--budget.finalists", "1"),
        *("--budget.final_seeds", "1", "--evaluator.concurrency", "2"),
    ]
    folder = tmp_path / "run"
    assert main(["train", *options, "--run_dir", str(folder)]) == 0
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("concurrency: 2", "concurrency: 0"))
    assert main(["reproduce", str(folder)]) == 0
    assert "reproduced: 8 evaluations" in capsys.readouterr().out
    assert CompletionOrder.read(tmp_path / "run-again" / "journal.jsonl").slots == 2


class Greedy(Agent):
    """Asked for one, proposes two."""

    def begin(self, space, rng):
        self.space, self.rng = space, rng

    def ask(self, n):
        return self.space.sample(2, self.rng)


def test_an_agent_that_proposes_more_than_it_was_asked_for_is_told(tmp_path):
    said = "proposed 2 architectures, was asked for one"
    with search(tmp_path, Greedy(asynchronous=True), Slots(SPACE)) as made, pytest.raises(AgentError, match=said):
        made.run()


class Wandering(AgentContract):
    """The contract of an agent that goes on with its generator from one search to the next."""

    rng = np.random.default_rng(0)

    class Agent(RandomSearch):
        def begin(self, space, rng):
            super().begin(space, Wandering.rng)

    def make(self):
        return self.Agent()


def test_the_contract_notices_an_agent_that_does_not_follow_from_its_answers():
    with pytest.raises(AssertionError, match="the same answers led to other architectures"):
        Wandering().test_asynchronous_it_follows_from_the_order_of_the_answers()


def test_asynchronous_is_true_or_false():
    with pytest.raises(InputError, match="asynchronous must be true or false, got 'yes'"):
        RandomSearch(asynchronous="yes")
