import contextlib
import copy
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from nasenv.agents import PPO, Agent, MaskablePPO, RandomSearch
from nasenv.cache.cache import Cache
from nasenv.commands.cli import main
from nasenv.errors import AgentError, BudgetExhausted, InputError
from nasenv.objectives import Score, ScoreWithinCost
from nasenv.search.search import Budget, Search
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.trial import Measurement, Trial
from tests.fakes import Hashed

pytestmark = pytest.mark.usefixtures("without_pictures")
SPACE = ChainCNN(max_layers=2)
RNG_ARCHITECTURES = list(dict.fromkeys(SPACE.sample(200, np.random.default_rng(0))))
ARCHITECTURES = [a for a in RNG_ARCHITECTURES if SPACE.canonical(a) == a][:30]  # each a network of its own
PLAIN = SPACE.from_text("conv3x8")
PADDED = SPACE.from_text("conv3x8|identity")  # the same network


class Scripted(Agent):
    """Proposes what it is given, batch by batch, and keeps the answers."""

    def __init__(self, batches):
        super().__init__()
        self.batches, self.answers = batches, []

    def config(self):
        return {"class_path": "Scripted", "init_args": {}}

    def run(self, search):
        for batch in self.batches:
            self.answers.append(search.evaluate(batch))


def make(agent=None, evaluations=100, evaluator=None, **options):
    budget = options.pop("budget", None) or Budget(evaluations=evaluations)
    return Search(SPACE, evaluator or Hashed(SPACE), agent, budget, **options)


def journal(folder):
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()][1:]


def without(entries, *keys):
    return [{k: v for k, v in entry.items() if k not in keys} for entry in entries]


def trained(evaluator):
    return [a for call in evaluator.calls for a in call]


# What one call answers


def test_outcomes_come_in_order_and_repeats_are_free_and_counted(tmp_path):
    a, b, c = ARCHITECTURES[:3]
    with make(run_dir=tmp_path) as search:
        first = search.evaluate([b, a, b])
        second = search.evaluate([a, c])
    assert [(o.architecture, o.repeat) for o in first] == [(b, False), (a, False), (b, True)]
    assert [(o.architecture, o.repeat) for o in second] == [(a, True), (c, False)]
    assert [o.proposal for o in [*first, *second]] == [1, 2, 3, 4, 5]
    assert [o.evaluation for o in [*first, *second]] == [1, 2, 1, 2, 3]
    assert (len(search.history), search.history.repeats, search.remaining) == (3, 2, 97)
    assert [tuple(e["architecture"]) for e in journal(tmp_path)] == [b, a, c]
    for outcome in [*first, *second]:
        measurement = Hashed(SPACE).figure(outcome.architecture)
        assert outcome.measurement == measurement
        assert outcome.reward == (-1.0 if measurement.error else measurement.score)


def test_budget_reached_in_mid_batch(tmp_path):
    told = []
    evaluator = Hashed(SPACE)
    a, b, c, d = ARCHITECTURES[:4]
    with make(evaluations=3, evaluator=evaluator, run_dir=tmp_path) as search:
        search.callbacks.append(lambda _, outcome: told.append(outcome.architecture))
        search.evaluate([a])
        with pytest.raises(BudgetExhausted, match="budget of 3 evaluations is used up"):
            search.evaluate([b, a, c, d, a])
        assert trained(evaluator) == [a, b, c]
        assert [tuple(e["architecture"]) for e in journal(tmp_path)] == [a, b, c]
        assert told == [a, b, a, c]
        assert search.remaining == 0
        for batch in ([a], [d]):
            with pytest.raises(BudgetExhausted, match="used up"):
                search.evaluate(batch)
    assert trained(evaluator) == [a, b, c]
    assert len(journal(tmp_path)) == 3


def test_a_batch_that_uses_the_budget_up_is_answered_whole():
    search = make(evaluations=2)
    assert len(search.evaluate(ARCHITECTURES[:2])) == 2
    with pytest.raises(BudgetExhausted):
        search.evaluate(ARCHITECTURES[:1])


@pytest.mark.parametrize("batches", [[[PLAIN, PADDED]], [[PLAIN], [PADDED]], [[PADDED, PLAIN, PADDED]]])
def test_equivalent_architectures_are_two_evaluations_and_one_training(batches):
    assert PLAIN != PADDED
    evaluator = Hashed(SPACE)
    search = make(evaluator=evaluator)
    outcomes = [o for batch in batches for o in search.evaluate(batch) if not o.repeat]
    assert trained(evaluator) == [PLAIN]  # the canonical one
    assert [o.evaluation for o in outcomes] == [1, 2]
    assert [o.cached for o in outcomes] == [False, True]
    assert outcomes[0].measurement == outcomes[1].measurement
    assert search.history.cached == 1


def test_a_second_search_on_the_same_cache_trains_nothing(tmp_path):
    evaluators = [Hashed(SPACE) for _ in range(4)]
    with Cache(tmp_path / "cache.db") as cache:
        searches = [make(evaluator=e, cache=cache) for e in evaluators[:2]]
        answers = [s.evaluate(ARCHITECTURES) for s in searches]
    plain = make(evaluator=evaluators[2]).evaluate(ARCHITECTURES)
    succeeded = [a for a in ARCHITECTURES if Hashed(SPACE).figure(a).error is None]
    assert set(succeeded) < set(ARCHITECTURES)
    assert trained(evaluators[0]) == ARCHITECTURES
    assert trained(evaluators[1]) == []
    assert [o.measurement for o in answers[0]] == [o.measurement for o in answers[1]] == [o.measurement for o in plain]
    assert all(o.cached for o in answers[1])
    assert not any(o.cached for o in [*answers[0], *plain])
    assert searches[1].history.train_seconds == 0


def test_a_cached_architecture_uses_budget():
    with Cache(":memory:") as cache:
        make(cache=cache).evaluate(ARCHITECTURES[:3])
        search = make(cache=cache, evaluations=2)
        with pytest.raises(BudgetExhausted):
            search.evaluate(ARCHITECTURES[:3])
        assert len(search.history) == 2


def test_numpy_and_lists_are_architectures():
    a, b = ARCHITECTURES[:2]
    search = make()
    outcomes = search.evaluate([np.array(a), list(b), tuple(np.int64(c) for c in a)])
    assert [(o.architecture, o.repeat) for o in outcomes] == [(a, False), (b, False), (a, True)]
    assert all(type(c) is int for o in outcomes for c in o.architecture)
    json.dumps([o.architecture for o in outcomes])


def test_failures_get_their_reward_and_the_search_goes_on(tmp_path):
    failing = next(a for a in RNG_ARCHITECTURES if Hashed(SPACE).figure(SPACE.canonical(a)).error)
    with make(objective=Score(failure_reward=-1.0), run_dir=tmp_path) as search:
        outcomes = search.evaluate([failing, ARCHITECTURES[1]])
    assert outcomes[0].reward == -1.0
    assert outcomes[0].measurement.error == "diverged"
    assert outcomes[1].measurement.error is None
    assert search.history.best == outcomes[1]
    assert [e["error"] for e in journal(tmp_path)] == ["diverged", None]


def test_callbacks_hear_every_answer_in_order():
    heard = []
    search = make(callbacks=[lambda s, o: heard.append((len(s.history), o))])
    answers = search.evaluate([ARCHITECTURES[0], ARCHITECTURES[0], ARCHITECTURES[1]])
    assert [o for _, o in heard] == list(answers)
    assert [n for n, _ in heard] == [1, 1, 2]


# How a search ends


def test_an_agent_that_only_repeats_is_stopped():
    class Stuck(Agent):
        def ask(self, n):
            return [ARCHITECTURES[0]] * n

        def tell(self, outcomes):
            pass

    search = make(Stuck(), budget=Budget(evaluations=4, repeats_per_evaluation=10))
    search.run()
    assert search.ended is not None
    assert search.ended.startswith("the agent proposes what it proposed before: ")
    assert len(search.history) == 1
    assert 40 <= search.history.repeats < 40 + 16


def test_without_a_limit_repeats_end_it_too():
    search = make(Scripted([[ARCHITECTURES[0]]] * 1000), budget=Budget(evaluations=None, repeats_per_evaluation=5))
    search.run()
    assert str(search.ended).endswith("distinct evaluation")
    assert search.history.repeats == 5
    assert search.remaining is None


def test_without_an_agent_and_a_limit_it_is_never_over():
    space = ChainCNN(max_layers=1)
    search = Search(space, Hashed(space), budget=Budget(evaluations=None, repeats_per_evaluation=1))
    architectures, repeats = space.all_architectures(), 3 * space.size
    search.evaluate(architectures)
    assert search.evaluate([*architectures] * 3).repeats.all()
    stream = search.stream(lambda: architectures[:1])
    assert [next(stream)[0].repeat for _ in range(repeats)] == [True] * repeats
    assert search.ended is None


def test_without_an_agent_a_limit_ends_it_on_repeats():
    space = ChainCNN(max_layers=1)
    search = Search(space, Hashed(space), budget=Budget(evaluations=None, wall_seconds=600.0, repeats_per_evaluation=1))
    one = space.all_architectures()[:1]
    with search:
        search.evaluate(one)
        search.evaluate(one)
        with pytest.raises(BudgetExhausted, match="proposes what it proposed before"):
            search.evaluate(one)


def test_the_whole_space_ends_it():
    space = ChainCNN(max_layers=1)
    search = Search(space, Hashed(space), RandomSearch(), Budget(evaluations=None))
    search.run()
    assert len(search.history) == space.size
    assert search.ended == f"all {space.size} architectures of the space are evaluated"


def test_an_agent_may_stop_by_itself():
    search = make(Scripted([ARCHITECTURES[:2]]))
    search.run()
    assert search.ended == "agent Scripted stopped by itself"
    with pytest.raises(BudgetExhausted):
        search.evaluate(ARCHITECTURES[:1])


def test_the_evaluator_is_out_of_reach_until_the_end():
    reached = []

    class Cheat(Scripted):
        def run(self, search):
            reached.append(search.evaluator.measure([Trial(ARCHITECTURES[0], purpose="test")]))

    search = make(Cheat([]))
    with pytest.raises(AgentError, match="agent Cheat: the evaluator is not to be used"):
        search.run()
    assert reached == []
    search = make(Scripted([ARCHITECTURES[:1]]))
    search.run()
    assert isinstance(search.evaluator, Hashed)


# What an agent may get wrong

BAD = {
    "none": None,
    "empty": [],
    "number": 3,
    "generator": (a for a in ARCHITECTURES),
    "text": "conv3x8",
    "texts": ["conv3x8"],
    "one bare architecture": ARCHITECTURES[0],
    "none inside": [None],
    "empty architecture": [()],
    "too short": [ARCHITECTURES[0][:-1]],
    "too long": [(*ARCHITECTURES[0], 0)],
    "floats": [tuple(map(float, ARCHITECTURES[3]))],
    "negative": [(-1, *ARCHITECTURES[0][1:])],
    "too large": [(2**70, *ARCHITECTURES[0][1:])],
    "unhashable": [([0],) * SPACE.num_decisions],
    "set": {ARCHITECTURES[0]},
    "float array": [np.full(SPACE.num_decisions, np.nan)],
    "second is bad": [ARCHITECTURES[1], (99, *ARCHITECTURES[0][1:])],
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_what_is_no_architecture_is_the_agents_error(bad, tmp_path):
    with (
        make(Scripted([ARCHITECTURES[:1], bad]), run_dir=tmp_path) as search,
        pytest.raises(AgentError, match=r"^agent Scripted: proposed .*; after 1 evaluation$") as refusal,
    ):
        search.run()
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 600
    assert [tuple(e["architecture"]) for e in journal(tmp_path)] == ARCHITECTURES[:1]


def test_an_invalid_choice_is_named():
    bad = (SPACE.num_choices[0], *PLAIN[1:])
    with pytest.raises(AgentError, match="'depth' of ChainCNN; valid here"):
        make().evaluate([bad])


def test_an_agent_that_raises_is_named_with_the_line(tmp_path):
    class Broken(Scripted):
        def run(self, search):
            super().run(search)
            raise KeyError("two\nlines")

    with (
        make(Broken([ARCHITECTURES[:2]]), run_dir=tmp_path) as search,
        pytest.raises(AgentError, match=r"agent Broken raised KeyError: .*test_search.py.*after 2 evalu") as caught,
    ):
        search.run()
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, KeyError)
    assert len(journal(tmp_path)) == 2


@pytest.mark.parametrize("answer", [None, []])
def test_ask_that_returns_nothing(answer):
    class Silent(Agent):
        def ask(self, n):
            return answer

    with pytest.raises(AgentError, match="agent Silent: proposed"):
        make(Silent()).run()


def test_an_agent_without_ask_and_run():
    with pytest.raises(AgentError, match="agent Agent: Agent has neither run nor ask"):
        make(Agent()).run()


def test_no_agent_to_run():
    with pytest.raises(InputError, match="no agent"):
        make().run()


# What is ours is not blamed on the agent


def test_a_fault_of_the_evaluator_passes_through_as_it_is(tmp_path):
    class Faulty(Hashed):
        def measure(self, trials):
            if self.calls:
                raise OSError("the cable is out")
            return super().measure(trials)

    with (
        make(Scripted([ARCHITECTURES[:2], ARCHITECTURES[2:4]]), evaluator=Faulty(SPACE), run_dir=tmp_path) as search,
        pytest.raises(OSError, match="the cable is out"),
    ):
        search.run()
    assert len(journal(tmp_path)) == 2


def test_a_fault_that_the_agent_wraps_is_still_ours():
    class Faulty(Hashed):
        def measure(self, trials):
            raise OSError("the cable is out")

    class Wraps(Scripted):
        def run(self, search):
            try:
                super().run(search)
            except OSError as error:
                raise RuntimeError("my search did not work") from error

    with pytest.raises(OSError, match="the cable is out"):
        make(Wraps([ARCHITECTURES[:2]]), evaluator=Faulty(SPACE)).run()


def test_an_unknown_metric_is_the_objectives_fault():
    search = make(Scripted([ARCHITECTURES[:2]]), objective=ScoreWithinCost("latency", 1.0))
    with pytest.raises(InputError, match="no metric 'latency'; it reports params") as refusal:
        search.run()
    assert not isinstance(refusal.value, AgentError)


@pytest.mark.parametrize("kept", [0, 1])
def test_an_evaluator_of_the_wrong_length_is_not_taken(kept):
    class Short(Hashed):
        def measure(self, trials):
            return super().measure(trials)[:kept]

    with pytest.raises(ValueError, match="zip"):
        make(Scripted([ARCHITECTURES[:2]]), evaluator=Short(SPACE)).run()


def test_an_evaluator_for_another_space_is_refused():
    with pytest.raises(InputError, match="another space"):
        Search(ChainCNN(max_layers=1), Hashed(SPACE))
    Search(ChainCNN(max_layers=2), Hashed(SPACE))  # an equal one will do


@pytest.mark.parametrize(
    "bad", [{"evaluations": 0}, {"evaluations": 2.5}, {"finalists": 0}, {"final_seeds": None}, {"evaluations": "9"}]
)
def test_bad_budgets(bad):
    with pytest.raises(InputError, match=rf"budget\.{next(iter(bad))} must be"):
        Budget(**bad)


@pytest.mark.parametrize("seed", [-1, 0.5, None, "1"])
def test_bad_seeds(seed):
    with pytest.raises(InputError, match="seed must be"):
        make(seed=seed)


# An interrupted search goes on


def agents():
    return [RandomSearch(batch_size=5), PPO(num_envs=4), MaskablePPO(num_envs=4)]


@pytest.fixture(scope="module", params=range(3), ids=["RandomSearch", "PPO", "MaskablePPO"])
def whole(request, tmp_path_factory):
    """Return (which agent, folder of its uninterrupted run)."""
    folder = tmp_path_factory.mktemp("whole")
    run_again(request.param, folder)
    return request.param, folder


def run_again(which, folder, **options):
    evaluator = Hashed(SPACE)
    with make(agents()[which], evaluations=40, evaluator=evaluator, seed=7, run_dir=folder, **options) as search:
        search.run()
    return evaluator


@pytest.mark.parametrize("k", [1, 18, 40])
def test_replay_ends_with_the_same_journal(whole, k, tmp_path):
    which, folder = whole
    lines = (folder / "journal.jsonl").read_text().splitlines(keepends=True)
    torn = lines[k + 1][:25] if k < 40 else '{"evalu'
    (tmp_path / "journal.jsonl").write_text("".join(lines[: k + 1]) + torn)
    evaluator = run_again(which, tmp_path)
    assert without(journal(tmp_path), "seconds") == without(journal(folder), "seconds")
    known = {SPACE.canonical(tuple(e["architecture"])) for e in journal(folder)[:k]}
    assert not known & set(trained(evaluator))
    assert len(list(tmp_path.glob("events.out.tfevents*"))) == 1


def test_another_seed_is_another_search_and_the_same_seed_the_same(whole, tmp_path):
    which, folder = whole
    run_again(which, tmp_path)
    assert without(journal(tmp_path), "seconds") == without(journal(folder), "seconds")


def test_replay_of_another_proposal_is_one_clear_error(tmp_path):
    with make(Scripted([ARCHITECTURES[:4]]), run_dir=tmp_path) as search:
        search.run()
    before = (tmp_path / "journal.jsonl").read_bytes()
    with (
        make(Scripted([[*ARCHITECTURES[:2], ARCHITECTURES[9]]]), run_dir=tmp_path) as search,
        pytest.raises(InputError, match=r"evaluation 3 was .*, now it is .*resume continue") as refusal,
    ):
        search.run()
    assert not isinstance(refusal.value, AgentError)
    assert "\n" not in str(refusal.value)
    assert SPACE.to_text(ARCHITECTURES[9]) in str(refusal.value)
    assert (tmp_path / "journal.jsonl").read_bytes() == before


def test_replay_under_an_objective_that_pays_otherwise_is_refused(tmp_path, monkeypatch):
    with make(Scripted([ARCHITECTURES[:4]]), run_dir=tmp_path) as search:
        search.run()
    monkeypatch.setattr(Score, "value", lambda self, measurement: measurement.score / 2)
    with (
        make(Scripted([ARCHITECTURES[:4]]), run_dir=tmp_path) as search,
        pytest.raises(InputError, match=r"objective .*give another run_dir"),
    ):
        search.run()


def test_budget_spent_in_the_journal_is_spent(tmp_path):
    batches = [ARCHITECTURES[:3], ARCHITECTURES[3:6]]
    for _ in range(2):
        with make(Scripted(batches), evaluations=5, run_dir=tmp_path) as search:
            search.run()
            assert search.ended == "the budget of 5 evaluations is used up"
    assert [e["evaluation"] for e in journal(tmp_path)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed is 0 there, 1 here"),
        ({"evaluations": 9}, "budget.evaluations is 100 there, 9 here"),
        ({"objective": Score(-1.0)}, "failure_reward is None there, -1.0 here"),
        ({"agent": RandomSearch()}, "agent.class_path"),
    ],
    ids=["seed", "budget", "objective", "agent"],
)
def test_another_configuration_is_refused(change, named, tmp_path):
    make(Scripted([]), run_dir=tmp_path).close()
    with pytest.raises(InputError, match=named) as refusal:
        make(**{"agent": Scripted([]), **change}, run_dir=tmp_path)
    assert "\n" not in str(refusal.value)


def test_a_folder_in_use_is_refused_and_free_again_afterwards(tmp_path):
    with make(run_dir=tmp_path), pytest.raises(InputError, match="in use by a search that this program made"):
        make(run_dir=tmp_path)
    make(run_dir=tmp_path).close()


def test_a_search_that_cannot_be_opened_lets_go_of_its_folder(tmp_path):
    (tmp_path / "config.yaml").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        make(run_dir=tmp_path)
    shutil.rmtree(tmp_path / "config.yaml")
    make(run_dir=tmp_path).close()


def test_a_run_dir_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"run_dir .* cannot be made"):
        make(run_dir=tmp_path / "file")


def test_a_search_needs_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with make(RandomSearch(), evaluations=20) as search:
        search.log({"loss": 1.0})
        search.run()
    assert list(tmp_path.iterdir()) == []


def test_measurements_are_taken_from_the_journal_and_not_made_again(tmp_path):
    a, b = ARCHITECTURES[:2]
    with make(Scripted([[a, b]]), run_dir=tmp_path) as search:
        search.run()

    class Other(Hashed):
        def fingerprint(self):
            return Hashed(SPACE).fingerprint()

        def config(self):
            return Hashed(SPACE).config()

        def figure(self, architecture):
            return Measurement(1.0)

    evaluator = Other(SPACE)
    agent = Scripted([[a, b], [ARCHITECTURES[2]]])
    with make(agent, evaluator=evaluator, run_dir=tmp_path) as search:
        assert search.replayed == 2
        search.run()
    assert trained(evaluator) == [ARCHITECTURES[2]]
    assert [o.measurement for o in agent.answers[0]] == [Hashed(SPACE).figure(d) for d in (a, b)]


# nasenv train, run again

OPTIONS = (
    "--agent RandomSearch --space.max_layers 2 --space.widths [4] --data digits --evaluator.epochs 1 "
    "--evaluator.final_epochs 1 --evaluator.concurrency 0 --evaluator.devices cpu --budget.evaluations 4 "
    "--budget.finalists 1 --budget.final_seeds 1 --cache none --run_dir run"
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the folder of a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", *OPTIONS.split()]) == 0
    return folder / "run"


def contents(folder):
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_finished_run_shows_its_result_without_working(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished.parent)
    before = contents(finished)
    monkeypatch.setattr("nasenv.training.trainer.fit", lambda *_: pytest.fail("it trains"))
    assert main(["train", *OPTIONS.split()]) == 0
    out = capsys.readouterr().out
    assert "run is finished; this is its result" in out
    assert f"{100 * json.loads((finished / 'result.json').read_text())['test_score']:.2f} %" in out
    assert contents(finished) == before


def test_a_finished_run_of_another_configuration_is_refused(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished.parent)
    before = contents(finished)
    assert main(["train", *OPTIONS.split(), "--seed", "5"]) == 2
    err = capsys.readouterr().err
    assert "belongs to another configuration: seed is 0 there, 5 here" in err
    assert err.count("\n") == 1
    assert contents(finished) == before


def test_a_run_interrupted_at_its_end_comes_to_the_same_result(finished, monkeypatch, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    monkeypatch.chdir(tmp_path)
    assert main(["train", *OPTIONS.split()]) == 0
    assert "from the journal of run: 4 evaluations" in capsys.readouterr().out
    again, first = (json.loads((folder / "result.json").read_text()) for folder in (tmp_path / "run", finished))
    assert again == first
    assert len(list((tmp_path / "run").glob("events.out.tfevents.*"))) == 1


def test_an_agent_that_exits_is_named_and_does_not_end_the_program():
    class Quits(Agent):
        def run(self, search):
            search.evaluate(ARCHITECTURES[:2])
            raise SystemExit(0)

    with pytest.raises(AgentError, match=r"agent Quits raised SystemExit: 0 .*after 2 evaluations"):
        make(Quits()).run()


@pytest.mark.parametrize("swallows", [True, False])
def test_an_evaluator_that_exits_is_said_and_does_not_end_the_program(swallows):
    class Quits(Hashed):
        def measure(self, trials):
            raise SystemExit(3)

    class Deaf(Scripted):
        def run(self, search):
            with contextlib.suppress(SystemExit if swallows else ()):
                super().run(search)

    with pytest.raises(InputError, match=r"evaluator, or what it called, raised SystemExit: 3 \(.*test_search.py"):
        make(Deaf([ARCHITECTURES[:2]]), evaluator=Quits(SPACE)).run()


def test_a_second_thread_is_refused_and_leaves_budget_and_journal_whole(tmp_path):
    inside, refused = threading.Event(), threading.Event()

    class Waits(Hashed):
        def measure(self, trials):
            inside.set()
            assert refused.wait(10)
            return super().measure(trials)

    class Threaded(Agent):
        def run(self, search):
            with ThreadPoolExecutor() as pool:
                first = pool.submit(search.evaluate, ARCHITECTURES[:2])
                assert inside.wait(10)
                second = pool.submit(search.evaluate, ARCHITECTURES[2:4])
                try:
                    second.result()
                finally:
                    refused.set()
                    first.result()

    with make(Threaded(), evaluator=Waits(SPACE), evaluations=2, run_dir=tmp_path) as search:
        with pytest.raises(AgentError, match="agent Threaded: evaluate is called from one thread at a time"):
            search.run()
        assert len(search.history) == len(journal(tmp_path)) == 2


def test_a_callback_may_evaluate_and_threads_may_take_turns():
    def callback(search, outcome):
        if len(search.history) == 1 and not outcome.repeat:
            search.evaluate([ARCHITECTURES[0]])

    search = make(callbacks=[callback])
    with ThreadPoolExecutor(1) as pool:
        pool.submit(search.evaluate, ARCHITECTURES[:1]).result()
    search.evaluate(ARCHITECTURES[1:2])
    assert (len(search.history), search.history.repeats) == (2, 1)


def test_a_search_without_files_can_be_copied():
    search = make()
    search.evaluate(ARCHITECTURES[:1])
    assert len(copy.deepcopy(search).evaluate(ARCHITECTURES[:2])) == 2
