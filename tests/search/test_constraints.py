"""Constraints on what a network may cost: what breaks one is looked at, not trained, and ranks below the others."""

import csv
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from nasenv.agents import GaussianProcess, LocalSearch, MaskablePPO, RandomSearch, RegularizedEvolution, Reinforce
from nasenv.agents.sb3_env import RankReward
from nasenv.agents.testing import AnyOrder
from nasenv.cache.cache import Cache
from nasenv.commands.cli import main
from nasenv.commands.parser import Parser
from nasenv.comparison.problem import Problem
from nasenv.envs.vector_env import ArchitectureVectorEnv
from nasenv.errors import BudgetExhausted, InputError
from nasenv.evaluators.table import TableEvaluator
from nasenv.evaluators.training import TrainingEvaluator
from nasenv.objectives import Rewards, Score
from nasenv.records.replay import CompletionOrder
from nasenv.records.tensorboard import TensorBoardWriter
from nasenv.results.conclude import conclude
from nasenv.results.result import RESULT, Result, table
from nasenv.results.verdict import verdict
from nasenv.search.budget import Budget
from nasenv.search.constraints import Constraint, parse_constraints
from nasenv.search.layer import Layer
from nasenv.search.search import Search
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.trial import Measurement, Outcome
from tests.fakes import Hashed

SPACE = ChainCNN(max_layers=2)
TABLE_SPACE = ChainCNN(max_layers=3, widths=[16])
LIMIT = 106.0  # of 100 + the sum of the choices
CONSTRAINTS = [f"params<={LIMIT:g}"]
_CANONICAL = [a for a in dict.fromkeys(SPACE.sample(300, np.random.default_rng(0))) if SPACE.canonical(a) == a]
KEEPING = [a for a in _CANONICAL if 100 + sum(a) <= LIMIT and Hashed(SPACE).figure(a).error is None]
BREAKING = [a for a in _CANONICAL if 100 + sum(a) > LIMIT]


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch):
    """Drawing them takes most of the time of searches as short as these."""
    monkeypatch.setattr(TensorBoardWriter, "choice_shares", lambda *_: None)
    monkeypatch.setattr(TensorBoardWriter, "best_architecture", lambda *_: False)


class Priced(Hashed):
    """Knows beforehand the params that its measurements report; counts how often it is asked for them."""

    def __init__(self, space=SPACE):
        super().__init__(space)
        self.asked = []

    def costs(self, architecture):
        self.asked.append(architecture)
        return {"params": 100.0 + sum(architecture)}


class PricedAnyOrder(AnyOrder):
    """Answers in any order; its costs are as those of `Priced`."""

    def costs(self, architecture):
        return {"params": 100.0 + sum(architecture)}


class Boundless(Score):
    """The score, whose lowest value nobody knows."""

    def lowest(self, lowest_score):
        return None


def make(evaluations=100, evaluator=None, agent=None, constraints=CONSTRAINTS, **options):
    budget = options.pop("budget", None) or Budget(evaluations)
    return Search(SPACE, evaluator or Priced(), agent, budget, constraints=constraints, **options)


def table_search(agent=None, budget=None, constraints="params<=3000, flops<=1e5", **options):
    evaluator = TableEvaluator(TABLE_SPACE, "chain_cnn_digits")
    return Search(TABLE_SPACE, evaluator, agent, budget or Budget(30), constraints=constraints, **options)


def journal(folder):
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()][1:]


def rows(history):
    return [(o.architecture, o.reward, o.measurement, o.violation, o.proposal) for o in history]


def violation(architecture):
    return (100 + sum(architecture) - LIMIT) / LIMIT


# Constraints as texts


@pytest.mark.parametrize(
    "given",
    [
        "[params<=1e5, flops>=2e7]",
        "params <= 1e5,flops >= 2e7",
        ["params<=100000", "flops>=20_000_000"],
        ["[params<=1e5, flops>=2e7]", "params<=1e5"],
        [Constraint("params", "<=", 1e5), "flops>=2e7"],
    ],
)
def test_constraints_are_read_from_texts(given):
    assert parse_constraints(given) == (Constraint("params", "<=", 1e5), Constraint("flops", ">=", 2e7))
    assert [str(limit) for limit in parse_constraints(given)] == ["params<=100000", "flops>=20000000"]


@pytest.mark.parametrize("given", [None, [], "[]"])
def test_there_may_be_none(given):
    assert parse_constraints(given) == ()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("params<1e5", "expected metric<=number or metric>=number, such as params<=1e5, got 'params<1e5'"),
        ("params<=many", "got 'params<=many'"),
        ("__import__('os')<=1", "knows no cost __import__"),
        ("params<=100,000", "got '000'"),
        ("params<=0", "must be a positive number, got 0"),
        ("params<=nan", "must be a positive number, got nan"),
        ("params<=inf", "must be a positive number, got inf"),
        ("params<=1, params<=2", "params has 2 limits <=; give one"),
        ("params<=1, params>=2", "no network keeps both params<=1 and params>=2"),
        ("", "got ''"),
        ([3], "expected texts such as params<=1e5, got 3"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_line(given, said):
    with pytest.raises(InputError) as raised:
        make(constraints=given)
    assert str(raised.value).startswith("constraints: ")
    assert said in str(raised.value)


def test_a_constraint_made_in_python_is_checked():
    with pytest.raises(InputError, match="expected <= or >= after params, got '<'"):
        Constraint("params", "<", 3.0)
    assert math.isfinite(Constraint("params", "<=", 1e-300).excess(1e300))


def test_excess_is_a_share_of_the_limit_on_either_side():
    most, least = Constraint.parse("params<=200"), Constraint.parse("params>=200")
    assert [most.excess(v) for v in (100, 200, 300)] == [0.0, 0.0, 0.5]
    assert [least.excess(v) for v in (100, 200, 300)] == [0.5, 0.0, 0.0]


@pytest.mark.parametrize(
    ("text", "value", "said"),
    [
        ("params<=1e5", 120_000, "params 120,000 > 100,000"),
        ("params<=100000", 100_001, "params 100,001 > 100,000"),
        ("latency_ms>=2.5", 0.125, "latency_ms 0.125 < 2.5"),
        ("memory_mb<=1", 1.00000001, "memory_mb 1.00000001 > 1"),
        ("flops<=2e9", 12_345_678_901, "flops 12,345,678,901 > 2,000,000,000"),
    ],
)
def test_the_reason_shows_that_the_limit_is_broken(text, value, said):
    assert Constraint.parse(text).broken(value) == said


# What a look is


def test_a_network_over_the_limit_is_looked_at_and_not_trained(tmp_path):
    evaluator, (good, other), (bad, worse) = Priced(), KEEPING[:2], BREAKING[:2]
    with make(evaluator=evaluator, run_dir=tmp_path) as search:
        outcomes = search.evaluate([bad, good, bad, worse, other])
        assert search.remaining == 98
    looks = [outcomes[0], outcomes[3]]
    assert evaluator.calls == [[good, other]]
    assert [o.status for o in outcomes] == ["infeasible", "feasible", "infeasible", "infeasible", "feasible"]
    assert [o.repeat for o in outcomes] == [False, False, True, False, False]
    for outcome, architecture in zip(looks, (bad, worse), strict=True):
        params = 100 + sum(architecture)
        assert outcome.measurement == Measurement(None, f"params {params} > 106", metrics={"params": params})
        assert outcome.violation == pytest.approx(violation(architecture))
        assert outcome.reward == pytest.approx(0.0 - outcome.violation / (1 + outcome.violation))
        assert outcome.cost == 0.0
    history = search.history
    assert (history.looks, history.evaluations, len(history), history.spent) == (2, 2, 4, 2.0)
    assert (history.proposals, history.repeats) == (5, 1)
    assert [(tuple(e["architecture"]), e["cost"], e.get("violation")) for e in journal(tmp_path)] == [
        (bad, 0.0, looks[0].violation),
        (good, 1.0, None),
        (worse, 0.0, looks[1].violation),
        (other, 1.0, None),
    ]


def test_the_costs_of_what_would_be_trained_decide_and_are_counted_once():
    plain, padded = SPACE.from_text("conv3x8"), SPACE.from_text("conv3x8|identity")
    evaluator = Priced()
    search = make(evaluator=evaluator, constraints=[f"params<={99.0 + sum(padded)}"])
    evaluator.asked.clear()
    assert 100 + sum(plain) < 100 + sum(padded)
    assert [o.status != "infeasible" for o in search.evaluate([padded, plain])] == [True, True]
    search.evaluate([plain, padded])
    assert len(evaluator.asked) == len(set(evaluator.asked))
    assert padded not in evaluator.asked


def test_without_constraints_nobody_asks_for_costs():
    evaluator = Priced()
    make(evaluator=evaluator, constraints=None).evaluate(BREAKING[:4])
    assert evaluator.asked == []


def test_costs_that_cannot_be_counted_are_a_failure_that_is_free():
    class Broken(Priced):
        def costs(self, architecture):
            if architecture in BREAKING:
                raise RuntimeError("sizes do\nnot match")
            return super().costs(architecture)

    evaluator = Broken()
    search = make(evaluator=evaluator)
    outcomes = search.evaluate([BREAKING[0], KEEPING[0]])
    assert outcomes[0].measurement.error == "its costs cannot be counted: RuntimeError: sizes do not match"
    assert [(o.status, o.reward, o.cost) for o in outcomes[:1]] == [("failed", -1.0, 0.0)]
    assert evaluator.calls == [[KEEPING[0]]]
    assert search.history.looks == 1


@pytest.mark.parametrize("kind", [int, float, np.int64, np.float32])
def test_costs_may_be_numbers_of_any_kind(tmp_path, kind):
    class Kinds(Priced):
        def costs(self, architecture):
            return {"params": kind(super().costs(architecture)["params"])}

    for _ in range(2):  # the second is answered from the journal
        with make(evaluator=Kinds(), run_dir=tmp_path) as search:
            (outcome,) = search.evaluate(BREAKING[:1])
        assert outcome.violation == violation(BREAKING[0])
        assert outcome.measurement.error == f"params {100 + sum(BREAKING[0])} > 106"


def test_costs_that_are_no_numbers_or_end_the_program_are_failures():
    class Odd(Priced):
        def costs(self, architecture):
            if architecture == BREAKING[0]:
                raise SystemExit(0)
            return {"params": "many"} if architecture == BREAKING[1] else super().costs(architecture)

    outcomes = make(evaluator=Odd()).evaluate(BREAKING[:2])
    assert [o.status for o in outcomes] == ["failed", "failed"]
    assert [o.measurement.error.split(": ")[1] for o in outcomes] == ["SystemExit", "ValueError"]


def test_a_cost_that_one_architecture_lacks_is_a_failure_of_that_one():
    class Gaps(Priced):
        def costs(self, architecture):
            return {"flops": 1.0} if architecture in BREAKING else super().costs(architecture)

    (outcome,) = make(evaluator=Gaps()).evaluate(BREAKING[:1])
    assert (outcome.status, outcome.measurement.error) == ("failed", "Gaps does not know params of this architecture")
    assert outcome.measurement.metrics == {"flops": 1.0}


# Rewards, and what is best


def test_the_nearer_to_the_limit_the_higher_the_reward_below_all_feasible_and_above_all_failed():
    failing = next(a for a in _CANONICAL if 100 + sum(a) <= LIMIT and Hashed(SPACE).figure(a).error)
    outcomes = make().evaluate([*KEEPING[:5], failing, *BREAKING[:10]])
    feasible, failed, infeasible = outcomes[:5], outcomes[5], outcomes[6:]
    assert failed.status == "failed"
    assert failed.reward < min(o.reward for o in infeasible)
    assert max(o.reward for o in infeasible) < min(o.reward for o in feasible)
    assert sorted(infeasible, key=lambda o: o.violation) == sorted(infeasible, key=lambda o: -o.reward)
    assert len({o.reward for o in infeasible}) > 3


def test_without_a_lowest_reward_the_worst_so_far_and_the_spread_so_far_stand_for_it():
    rewards = Rewards(Score(), lowest_score=None)
    failed, good = Measurement(None, "diverged"), [Measurement(v) for v in (-3.0, -1.0, -7.0)]
    assert rewards.pay(failed, 1.0) == -0.5  # before any
    assert rewards.pay(good[0]) == -3.0
    assert rewards.pay(failed, 1.0) == -3.5  # all are equal
    assert rewards.pay(good[1]) == -1.0
    assert rewards.pay(failed, 3.0) == -3.0 - 2.0 * 0.75
    assert rewards.pay(failed) == -5.0
    assert rewards.pay(good[2]) == -7.0
    assert rewards.pay(failed, 1.0) == -10.0


def test_a_failure_reward_is_paid_for_failures_alone():
    rewards = Rewards(Score(failure_reward=0.5), lowest_score=0.0)
    failed = Measurement(None, "diverged")
    assert (rewards.pay(failed), rewards.pay(failed, 1.0)) == (0.5, -0.5)
    boundless = Rewards(Score(failure_reward=0.5), lowest_score=None)
    assert [boundless.pay(Measurement(v)) for v in (2.0, 4.0)] == [2.0, 4.0]
    assert boundless.pay(failed, 1.0) == 1.0


def test_a_feasible_network_beats_an_infeasible_one_whatever_the_numbers():
    class Low(Priced):
        def figure(self, architecture):
            return Measurement(-5.0 - sum(architecture), metrics=self.costs(architecture))

    search = make(evaluator=Low(), objective=Boundless())
    outcomes = search.evaluate([BREAKING[0], BREAKING[1], KEEPING[0]])
    assert outcomes[0].reward > outcomes[2].reward
    assert search.history.best.architecture == KEEPING[0]
    assert [o.architecture for o in search.history.top(9)] == [KEEPING[0]]
    assert max(outcomes, key=lambda o: o.order).architecture == KEEPING[0]
    paid = [o.reward for o in search.history]
    search.evaluate(KEEPING[1:6])
    assert [o.reward for o in search.history][:3] == paid  # and never change


def test_ranks_go_by_status_first():
    rank = RankReward()
    rewards, statuses = np.array([0.3, 5.0, -1.0, 7.0, 0.2]), np.array([2, 1, 1, 0, 2])
    answers = SimpleNamespace(rewards=rewards, repeats=np.zeros(5, bool), statuses=statuses)
    np.testing.assert_allclose(rank(answers), [0.8, 0.0, -0.4, -0.8, 0.4])
    again = SimpleNamespace(rewards=rewards[:1], repeats=np.ones(1, bool), statuses=statuses[:1])
    np.testing.assert_allclose(rank(again), [0.8])


@pytest.mark.parametrize("agent", [RegularizedEvolution(20, 20), LocalSearch()])
def test_agents_that_compare_outcomes_go_by_status_first(agent):
    agent.begin(SPACE, np.random.default_rng(0))
    look = Outcome(BREAKING[0], Measurement(None, "params 120 > 106"), 5.0, 1, 1, violation=0.1)
    agent.tell([look, Outcome(KEEPING[0], Measurement(0.1), 0.1, 2, 2)] * 10)
    parent = agent._parent() if isinstance(agent, RegularizedEvolution) else agent._here
    assert parent == KEEPING[0]


# Budget


def test_a_batch_is_not_cut_short_by_looks_which_are_free(tmp_path):
    a, b, c, d = KEEPING[:4]
    w, x, y, z = BREAKING[:4]
    search, told = make(evaluations=3, callbacks=[lambda _, o: told.append(o.architecture)]), []
    with pytest.raises(BudgetExhausted, match="budget of 3 evaluations is used up"):
        search.evaluate([w, a, x, b, w, y, c, z, a, d, w])
    assert told == [w, a, x, b, w, y, c, z, a]  # up to the first that is not paid
    assert (search.history.evaluations, search.history.looks) == (3, 4)


def test_repeated_looks_are_free_where_repeats_are_charged():
    a, x = KEEPING[0], BREAKING[0]
    search = make(budget=Budget(3, charge_repeats=True))
    assert len(search.evaluate([x, x, a, x, a])) == 5
    assert search.remaining == 1
    with pytest.raises(BudgetExhausted, match="3 proposals"):
        search.evaluate([x, a, x, a])
    assert search.history.spent == 3


@pytest.mark.parametrize("size", [1, 4, 30])
def test_after_five_looks_for_each_evaluation_the_search_is_over_and_says_so(size):
    search = make(evaluations=2)
    search.evaluate(KEEPING[:1])
    for first in range(0, 10 - 10 % size, size):
        search.evaluate(BREAKING[first : first + size])
    with pytest.raises(BudgetExhausted, match=r"looks .* used up: 10, 5 for each .* beside 1 distinct evaluation"):
        search.evaluate(BREAKING[-size:])
    assert (search.history.looks, search.history.evaluations) == (10, 1)
    assert "used up: 10" in search.ended


def test_the_number_of_looks_is_an_option():
    search = make(budget=Budget(2, looks_per_evaluation=None))
    search.evaluate(BREAKING[:30])
    assert (search.history.looks, search.ended) == (30, None)
    with pytest.raises(BudgetExhausted):
        make(budget=Budget(2, looks_per_evaluation=1)).evaluate(BREAKING[:3])
    with pytest.raises(InputError, match="looks_per_evaluation"):
        Budget(2, looks_per_evaluation=0)


def test_a_look_is_one_at_each_fidelity_and_free_at_any():
    evaluator = TableEvaluator(TABLE_SPACE, "chain_cnn_digits", fidelities={0.25: "val_accuracy"})
    search = Search(TABLE_SPACE, evaluator, None, Budget(1), constraints=["params<=1000"])
    small, large = map(TABLE_SPACE.from_text, ("avg_pool3", "conv5x16|conv5x16|conv5x16"))
    (look,) = search.evaluate([large], 0.25)
    assert (look.fidelity, look.cost, look.status) == (0.25, 0.0, "infeasible")
    assert [o.status for o in search.evaluate([large, small], 0.25)] == ["infeasible", "feasible"]
    assert search.evaluate([large])[0].repeat is False
    assert (search.history.looks, search.history.spent, search.history.best.fidelity) == (2, 0.25, 0.25)


def test_a_space_whose_members_are_all_answered_is_over():
    space = ChainCNN(max_layers=1, widths=(8, 16))
    search = Search(space, Priced(space), None, Budget(1000), constraints=["params<=104"])
    everything = list(map(tuple, space.all_architectures().tolist()))
    search.evaluate(everything)
    assert 0 < search.history.looks < len(everything)
    with pytest.raises(BudgetExhausted, match="are evaluated or break constraints"):
        search.evaluate(everything[:1])


# With every agent, and with what is around


@pytest.mark.parametrize(
    "agent", [RandomSearch(), RegularizedEvolution(8, 3), MaskablePPO(), Reinforce(), GaussianProcess(startup_trials=5)]
)
def test_every_kind_of_agent_has_its_whole_budget_for_networks_within_the_limits(agent):
    search = table_search(agent, constraints="params<=1500, flops<=6e4")
    search.run()
    assert search.ended == "the budget of 30 evaluations is used up"
    assert search.history.evaluations == 30
    evaluated = [o for o in search.history if o.violation is None]
    assert all(o.measurement.metrics["params"] <= 1500 and o.measurement.metrics["flops"] <= 6e4 for o in evaluated)
    assert search.history.looks >= 2
    assert conclude(search).winner.params <= 1500


def test_layers_and_callbacks_are_told_of_looks():
    class Noting(Layer):
        def evaluate(self, architectures, fidelity=1.0, *, by="agent"):
            seen.extend(answers := super().evaluate(architectures, fidelity, by=by))
            return answers

    seen, called = [], []
    options = {"layers": [Noting], "callbacks": [lambda _, o: called.append(o)]}
    search = table_search(RandomSearch(), constraints="params<=500", **options)
    search.run()
    assert any(o.status == "infeasible" for o in seen)
    assert [o.architecture for o in called][: len(seen)] == [o.architecture for o in seen]


def test_the_environments_pay_looks_and_go_on_where_there_is_no_budget():
    search = table_search(budget=Budget(evaluations=None))
    env, n = ArchitectureVectorEnv(search, 64), 0
    rng = np.random.default_rng(0)
    env.reset()
    while search.history.looks <= 5:
        for _ in range(TABLE_SPACE.num_decisions):
            _, rewards, ends, _, info = env.step(rng.integers(0, 6, 64))
        assert ends.all()
        for i, outcome in enumerate(env.outcomes):
            assert rewards[i] == outcome.reward
            assert info["final_info"]["error"][i] == outcome.measurement.error
            n += outcome.status == "infeasible"
    assert n > 5
    assert (rewards < 0).any()


def test_the_cache_is_shared_and_holds_no_looks():
    with Cache(":memory:") as cache:
        limited, free = Priced(), Priced()
        make(evaluator=limited, cache=cache).evaluate([KEEPING[0], BREAKING[0]])
        outcomes = make(evaluator=free, constraints=None, cache=cache).evaluate([KEEPING[0], BREAKING[0]])
    assert [o.cached for o in outcomes] == [True, False]
    assert free.calls == [[BREAKING[0]]]
    assert limited.fingerprint() == free.fingerprint()


def test_tensorboard_shows_the_share_of_looks(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with make(run_dir=tmp_path) as search:
        search.evaluate([BREAKING[0], KEEPING[0], BREAKING[1], KEEPING[1]])
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [round(e.value, 3) for e in events.Scalars("search/infeasible_share")] == [1.0, 0.5, 0.667, 0.5]
    assert [e.value for e in events.Scalars("measurement/failed")] == [0.0] * 4
    assert [e.step for e in events.Scalars("evaluation/val_accuracy")] == [2, 4]
    mean = [e.value for e in events.Scalars("search/mean_reward_32")]
    scores = [Hashed(SPACE).figure(a).score for a in KEEPING[:2]]
    assert mean == pytest.approx([scores[0], scores[0], np.mean(scores)])


# Before a search


def test_an_evaluator_without_costs_is_refused():
    with pytest.raises(
        InputError, match=r"^constraints: Hashed does not know .*; they need an evaluator that knows costs"
    ):
        make(evaluator=Hashed(SPACE))


def test_costs_that_take_longer_are_found_only_where_they_are_limited():
    class Slow(Priced):
        def further_costs(self):
            return {"latency_ms": lambda architecture: timed.append(architecture) or 1.0 + sum(architecture)}

    timed = []
    make(evaluator=Slow()).evaluate([BREAKING[0], KEEPING[0]])
    assert timed == []
    (outcome,) = make(evaluator=Slow(), constraints="latency_ms<=7").evaluate(BREAKING[:1])
    assert outcome.measurement.error == f"latency_ms {1 + sum(BREAKING[0])} > 7"
    assert outcome.measurement.metrics == {"params": 100 + sum(BREAKING[0]), "latency_ms": 1 + sum(BREAKING[0])}
    assert len(timed) == len(set(timed)) > 0
    with pytest.raises(InputError, match="knows no cost latency; nearest: latency_ms"):
        make(evaluator=Slow(), constraints="latency<=7")


def test_an_unknown_cost_is_refused_with_those_that_are_near():
    with pytest.raises(InputError, match="constraints: Priced knows no cost parms; nearest: params"):
        make(constraints="parms<=1e5")


def test_a_limit_that_nothing_keeps_is_refused_before_the_search():
    with pytest.raises(InputError) as raised:
        table_search(constraints="params<=19")
    assert "no architecture of ChainCNN was found that keeps params<=19" in str(raised.value)
    assert "the nearest has params 20 > 19" in str(raised.value)


def test_a_limit_that_only_few_keep_is_found_to_be_kept():
    space = ChainCNN(max_layers=8)
    evaluator = Priced(space)
    Search(space, evaluator, constraints=["params<=101"])  # one in a million has a sum of one at most
    assert len(evaluator.asked) < 700
    start = [space.canonical((0,) * space.num_decisions)]
    evaluator.asked.clear()
    Search(space, evaluator, start=start, constraints=["params<=101"])
    assert len(evaluator.asked) == 1


# Going on


def cut(folder, entries):
    path = folder / "journal.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[: 1 + entries]))


@pytest.mark.parametrize("left", [0, 1, 7, 20, 33])
def test_an_interrupted_search_goes_on_from_its_journal(tmp_path, left):
    with table_search(RegularizedEvolution(6, 3), run_dir=tmp_path) as search:
        search.run()
        whole, entries, ended = rows(search.history), journal(tmp_path), search.ended
    assert search.history.looks > 2
    cut(tmp_path, left)
    with table_search(RegularizedEvolution(6, 3), run_dir=tmp_path) as again:
        assert again.replayed == min(left, len(entries))
        again.run()
    assert (rows(again.history), again.ended) == (whole, ended)
    assert [{k: v for k, v in e.items() if k != "seconds"} for e in journal(tmp_path)] == [
        {k: v for k, v in e.items() if k != "seconds"} for e in entries
    ]


def test_a_search_concluded_early_has_its_looks(tmp_path):
    with table_search(RegularizedEvolution(6, 3), run_dir=tmp_path) as search:
        search.run()
        whole = rows(search.history)
    cut(tmp_path, 20)
    with table_search(RegularizedEvolution(6, 3), run_dir=tmp_path, resume="conclude") as again:
        again.run()
        result = conclude(again)
    assert rows(again.history) == whole[:20]
    assert (result.looks, result.evaluations) == (again.history.looks, 20 - again.history.looks)
    assert result.looks > 0


def test_looks_in_the_journal_are_not_counted_again(tmp_path):
    proposals = [*BREAKING[:6], KEEPING[0]]
    with make(run_dir=tmp_path) as search:
        search.evaluate(proposals)
    evaluator = Priced()
    with make(evaluator=evaluator, run_dir=tmp_path) as again:
        evaluator.asked.clear()
        again.evaluate(proposals)
    assert evaluator.asked in ([], [KEEPING[0]])
    assert evaluator.calls == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"violation": 0.5}, "the costs of architectures have changed .* evaluation 1 was 0.5 over the constraints"),
        ({"reward": -0.25}, "the objective has changed"),
        ({"metrics": {"params": 101.0}}, "evaluation 1 was .* over the constraints, now it is evaluated"),
    ],
)
def test_a_look_that_is_another_now_is_refused(tmp_path, changed, said):
    with make(run_dir=tmp_path) as search:
        search.evaluate(BREAKING[:2])
    path = tmp_path / "journal.jsonl"
    header, first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([header, json.dumps(json.loads(first) | changed), *rest]) + "\n")
    with make(run_dir=tmp_path) as again, pytest.raises(InputError, match=said):
        again.evaluate(BREAKING[:2])


@pytest.mark.parametrize("value", [-0.5, math.inf, "far"])
def test_a_violation_that_is_none_damages_a_journal(tmp_path, value):
    with make(run_dir=tmp_path) as search:
        search.evaluate(BREAKING[:2])
    path = tmp_path / "journal.jsonl"
    header, first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([header, json.dumps(json.loads(first) | {"violation": value}), *rest]) + "\n")
    with pytest.raises(InputError, match="line 2 is damaged"):
        make(run_dir=tmp_path)


def test_a_run_directory_of_other_constraints_is_refused_and_their_order_is_none(tmp_path):
    table_search(constraints=["params<=3000", "flops<=1e5"], run_dir=tmp_path).close()
    table_search(constraints="[flops<=100000, params<=3e3]", run_dir=tmp_path).close()
    for others in ("params<=3000", None, "params<=3001, flops<=1e5"):
        with pytest.raises(InputError, match="belongs to another configuration"):
            table_search(constraints=others, run_dir=tmp_path)
    assert "constraints" not in table_search(constraints=None).identity()
    assert "looks_per_evaluation" not in table_search(constraints=None).config()["budget"]


def test_looks_are_no_measurements_of_a_search_that_starts_afresh(tmp_path):
    proposals = [BREAKING[0], KEEPING[0]]
    with make(run_dir=tmp_path) as search:
        search.evaluate(proposals)
    with make(run_dir=tmp_path, resume="continue") as again:
        assert [t.architecture for t in again.files.set_aside] == [KEEPING[0]]
        assert [o.status for o in again.evaluate(proposals)] == ["infeasible", "feasible"]


@pytest.mark.parametrize("slots", [1, 3])
def test_an_asynchronous_search_answers_looks_without_training_them(tmp_path, slots):
    evaluator = PricedAnyOrder(SPACE, 0.2, slots, 0)
    agent = RegularizedEvolution(6, 3, asynchronous=True)
    options = {"evaluations": 25, "agent": agent, "constraints": ["params<=104"]}
    with make(evaluator=evaluator, run_dir=tmp_path, **options) as search:
        search.run()
        whole = rows(search.history)
    assert search.history.evaluations == 25
    assert search.history.looks > 3
    trained = {t.architecture for t in search.trials.measurements}
    assert all(100 + sum(a) <= 104 for a in trained)
    entries = journal(tmp_path)
    cut(tmp_path, len(entries) // 2)
    with make(evaluator=PricedAnyOrder(SPACE, 0.2, slots, 0), run_dir=tmp_path, **options) as again:
        again.run()
    assert [row[0] for row in rows(again.history)][: len(entries) // 2] == [r[0] for r in whole][: len(entries) // 2]
    assert again.history.evaluations == 25
    order = CompletionOrder.read(tmp_path / "journal.jsonl")
    same = make(evaluator=PricedAnyOrder(SPACE, 0.2, slots, 7), completion_order=order, **options)
    same.run()
    assert rows(same.history) == rows(again.history)


# The end


def test_a_reference_over_the_limit_is_compared_and_cannot_win(tmp_path):
    class ReferenceIsBest(Priced):
        def figure(self, architecture):
            best = architecture == SPACE.canonical(SPACE.reference())
            return Measurement(0.9 if best else 0.1, metrics=self.costs(architecture))

    limit = 99 + sum(SPACE.canonical(SPACE.reference()))
    within = [a for a in _CANONICAL if 100 + sum(a) <= limit][:20]

    class Lister(RandomSearch):
        def run(self, search):
            search.evaluate([*BREAKING[:3], *within])

    options = {"agent": Lister(), "evaluator": ReferenceIsBest(), "constraints": [f"params<={limit}"]}
    with make(run_dir=tmp_path, **options) as search:
        search.run()
        result = conclude(search)
    assert result.winner.architecture in within
    assert not result.winner.infeasible
    (reference,) = (c for c in result.others if c.role == "hand-made reference")
    assert reference.infeasible == f"params {limit + 1} > {limit}"
    assert result.finalists[-1].role == "hand-made reference"
    assert (result.looks, result.evaluations) == (search.history.looks, len(within))
    assert Result.read(tmp_path / RESULT) == result
    names = [row[0] for row in table(result)[1]]
    assert "hand-made reference, over the limit" in names
    said = list(verdict(result))
    assert f"Under params<={limit}, {result.looks} architectures that the search proposed broke a constraint" in said[0]
    assert any(f"The hand-made reference is over the limit (params {limit + 1} > {limit})" in line for line in said)
    early = next(c for c in result.others if c.role == "best of the first 16")
    assert early.architecture in map(SPACE.canonical, within[:16])


def test_where_nothing_was_feasible_the_end_says_what_was_broken():
    class Lister(RandomSearch):
        def run(self, search):
            search.evaluate(BREAKING[:3])

    search = make(agent=Lister())
    search.run()
    params = 100 + sum(BREAKING[0])
    with pytest.raises(InputError, match=f"no architecture could be evaluated; .* broke constraints: params {params}"):
        conclude(search)


# The command line


def train(folder, *options, agent="RandomSearch"):
    space = ["--space", "ChainCNN", "--space.max_layers", "3", "--space.widths", "[16]"]
    parts = [*space, "--evaluator", "TableEvaluator", "--agent", agent, "--budget.evaluations", "20", "--cache", "none"]
    return main(["train", *parts, "--run_dir", str(folder), *options])


ONE = ["--constraints", "[params<=1500, flops<=6e4]"]


@pytest.mark.parametrize(
    "options",
    [ONE, ["--constraints", "params<=1500", "--constraints=flops<=6e4"], ["--constraints", "params<=1500, flops<=6e4"]],
)
def test_constraints_on_the_command_line_all_count(tmp_path, capsys, options):
    assert train(tmp_path / "run", *options) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "What breaks params<=1500, flops<=60000 is not trained: up to 100 looks beside the evaluations." in out
    assert "over the limit" in out
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["constraints"] == ["params<=1500", "flops<=60000"]
    assert (result["evaluations"], result["winner"]["params"] <= 1500, result["looks"] > 0) == (20, True, True)
    entries = journal(tmp_path / "run")
    assert [e["cost"] for e in entries].count(0.0) == result["looks"]
    assert train(tmp_path / "run", *ONE) == 0  # the same run, however they were given
    assert "is finished" in capsys.readouterr().out
    assert train(tmp_path / "run", "--constraints", "params<=1500") == 2
    assert "belongs to another configuration" in capsys.readouterr().err


def test_a_file_of_options_and_a_run_reproduced(tmp_path, capsys):
    (tmp_path / "my.yaml").write_text("constraints:\n- params<=1500\n- flops<=6e4\n")
    assert train(tmp_path / "run", "--config", str(tmp_path / "my.yaml")) == 0
    assert json.loads((tmp_path / "run/result.json").read_text())["constraints"] == ["params<=1500", "flops<=60000"]
    assert main(["reproduce", str(tmp_path / "run")]) == 0
    assert "reproduced" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (
            "params<1500",
            "constraints: expected metric<=number or metric>=number, such as params<=1e5, got 'params<1500'",
        ),
        ("{params: 1500}", "got '{params: 1500}'"),
        ("weights<=1500", "TableEvaluator knows no cost weights"),
        ("params<=3", "no architecture of ChainCNN was found that keeps params<=3"),
    ],
)
def test_bad_constraints_are_one_line(tmp_path, capsys, option, said):
    assert train(tmp_path / "run", "--constraints", option) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run/journal.jsonl").exists()


@pytest.mark.parametrize(
    ("line", "merged"),
    [
        (["--constraints", "a<=1"], ["--constraints", "a<=1"]),
        (["--constraints=a<=1", "--constraints"], ["--constraints=a<=1", "--constraints"]),
        (
            ["--constraints", "a<=1", "--seed", "1", "--constraints", "[b<=1]"],
            ["--constraints=[a<=1, b<=1]", "--seed", "1"],
        ),
        (["--constraints=a<=1,b<=2", "--constraints=[]"], ["--constraints=[a<=1,b<=2]"]),
    ],
)
def test_a_repeated_option_is_one_option(line, merged):
    assert Parser()._with_constraints(line) == merged


# Comparisons


def test_a_comparison_counts_evaluations_alone_and_knows_the_best_within_the_limits(tmp_path):
    folder = tmp_path / "compared"
    options = ["--seeds", "2", "--budget.evaluations", "20", "--workers", "0", "--run_dir", str(folder)]
    agents = ["--agents.random", "RandomSearch", "--agents.evolution", "RegularizedEvolution"]
    limits = ["--constraints", "params<=1500", "--constraints", "flops<=6e4"]
    assert main(["compare", *agents, *options, *limits]) == 0
    with open(folder / "results.csv", encoding="utf-8") as file:
        results = list(csv.DictReader(file))
    assert len(results) == 2 * 2 * 20
    evaluator = TableEvaluator(TABLE_SPACE, "chain_cnn_digits")
    costs = [evaluator.costs(TABLE_SPACE.from_text(row["architecture"])) for row in results]
    assert all(c["params"] <= 1500 and c["flops"] <= 6e4 for c in costs)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["problems"]["chain_cnn_digits"]["constraints"] == ["params<=1500", "flops<=60000"]
    assert main(["compare", "--config", str(folder / "config.yaml"), "--run_dir", str(folder), "--workers", "0"]) == 0


def test_the_optimum_of_a_problem_is_that_of_the_feasible_and_its_identity_names_the_constraints():
    evaluator = TableEvaluator(TABLE_SPACE, "chain_cnn_digits")
    free = Problem(TABLE_SPACE, evaluator)
    limited = Problem(TABLE_SPACE, evaluator, constraints="params<=1500")
    within = [m.score for m in evaluator.all_measurements() if m.metrics["params"] <= 1500]
    assert limited.optimum == max(within) < free.optimum
    assert limited.identity() != free.identity()
    assert "looks_per_evaluation" not in free.identity()["budget"]
    with pytest.raises(InputError, match="knows no cost weights"):
        Problem(TABLE_SPACE, evaluator, constraints="weights<=3")


# With networks


def test_networks_over_the_limit_are_not_trained(tmp_path):
    space = ChainCNN(max_layers=2, widths=(4, 8))
    evaluator = TrainingEvaluator(space, "digits", epochs=1, final_epochs=1, concurrency=0, devices="cpu")
    texts = ["conv3x4", "conv5x8|conv5x8", "conv1x4|max_pool3"]
    small, large, pooled = map(space.from_text, texts)
    limits = ["params<=500", "memory_mb<=0.01"]
    with Search(space, evaluator, None, Budget(2), run_dir=tmp_path, constraints=limits) as search:
        outcomes = search.evaluate([large, small, pooled])
        costs = [evaluator.costs(space.canonical(a)) for a in (large, small, pooled)]
        trained = [t.architecture for t in search.trials.measurements]
    assert [o.status for o in outcomes] == ["infeasible", "feasible", "feasible"]
    memory = evaluator.further_costs()["memory_mb"](space.canonical(large))
    assert dict(outcomes[0].measurement.metrics) == {**costs[0], "memory_mb": memory}
    assert f"memory_mb {memory:.6g} > 0.01" in outcomes[0].measurement.error
    assert [dict(o.measurement.metrics) for o in outcomes[1:]] == [dict(c) for c in costs[1:]]
    assert sorted(trained) == sorted(map(space.canonical, (small, pooled)))
