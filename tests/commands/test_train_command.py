"""``nasenv train``: what a run is called, what it says, and that the same command goes on or shows the result."""

import json
import os
import re
import shutil

import numpy as np
import pytest
from rich.console import Console

from nasenv.agents import PPO, Agent, RandomSearch
from nasenv.cache.cache import Cache
from nasenv.cache.keys import ProblemKey
from nasenv.commands.terminal import SearchProgress
from nasenv.commands.train import coverage, run_name, starting_architectures, train
from nasenv.errors import AgentError, InputError
from nasenv.evaluators.training import TrainingEvaluator
from nasenv.objectives import Score
from nasenv.search.search import Budget, Search
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.spaces.space import Decision, SearchSpace
from nasenv.trial import Trial
from tests.fakes import TASK, Hashed

pytestmark = pytest.mark.usefixtures("without_pictures")
SPACE = ChainCNN(max_layers=2)


class Bits(SearchSpace):
    """2^n architectures, or as many as it is told to say."""

    said = 0

    def __init__(self, n):
        super().__init__([Decision(f"bit{i}", (0, 1)) for i in range(n)], TASK)

    @property
    def size(self):
        return self.said if self.said != 0 else super().size

    def build(self, architecture):
        raise NotImplementedError


class Interrupted(Hashed):
    """Ctrl-C arrives in its third call."""

    def measure(self, trials):
        if len(self.calls) == 2:
            raise KeyboardInterrupt
        return super().measure(trials)

    def config(self):
        return Hashed(self.space).config()

    def fingerprint(self):
        return Hashed(self.space).fingerprint()


class Shorter(Hashed):
    def fidelity(self, wanted):
        return wanted


class Breaks(Agent):
    def ask(self, n):
        return [(9,) * SPACE.num_decisions]


def run(folder=None, evaluator=None, agent=None, budget=None, cache="none", seed=0, **options):
    evaluator = evaluator or Hashed(SPACE)
    budget = budget or Budget(evaluations=20, final_seeds=1)
    agent = agent or RandomSearch(batch_size=4)
    run_dir = None if folder is None else str(folder)
    train(SPACE, evaluator, agent, Score(), budget, seed=seed, run_dir=run_dir, cache=cache, **options)
    return evaluator


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the folder of a finished run, which tests copy."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    run(folder)
    return folder


@pytest.fixture
def copied(finished, tmp_path):
    """Return a copy of the folder of a finished run."""
    return shutil.copytree(finished, tmp_path / "run")


def timeless(folder):
    lines = (folder / "journal.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in ("seconds", "started")} for line in lines]


def test_what_a_finished_run_has_trained_enters_a_cache_that_lacks_it(copied, tmp_path):
    evaluator = run(copied, cache=str(tmp_path / "cache.db"))
    assert evaluator.calls == []
    trained = {SPACE.canonical(tuple(entry["architecture"])) for entry in timeless(copied)[1:]}
    repeatable = {Trial(architecture) for architecture in trained if evaluator.figure(architecture).repeatable}
    assert repeatable
    with Cache(tmp_path / "cache.db") as cache:
        found = cache.find(ProblemKey(SPACE.fingerprint(), evaluator.fingerprint()), map(Trial, trained))
        assert found.keys() == repeatable


# Its name


def name_of(dataset="digits", agent=None, seed=0, space=SPACE, **options):
    evaluator = TrainingEvaluator(space, "digits", concurrency=0, **options)
    config = Search(space, evaluator, agent or PPO(), Budget(), None, None, seed).config()
    config["data"]["source"] = dataset
    return run_name(config)


def test_a_name_says_what_is_searched_by_whom():
    assert re.fullmatch(r"chaincnn-digits-ppo-s0-[0-9a-f]{6}", name_of())
    assert re.fullmatch(r"chaincnn-mnist5k-randomsearch-s12-[0-9a-f]{6}", name_of("mnist5k", RandomSearch(), 12))


def test_the_same_configuration_has_the_same_name_and_another_one_another():
    names = [
        name_of(),
        name_of(seed=1),
        name_of(agent=PPO(learning_rate=1e-4)),
        name_of(agent=RandomSearch()),
        name_of(epochs=1),
        name_of(space=ChainCNN(max_layers=3)),
        name_of("npz:a.npz"),
        name_of("npz:A.npz"),
    ]
    assert len({name.lower() for name in names}) == len(names)
    assert name_of() == names[0]


@pytest.mark.parametrize(
    "dataset",
    [
        "npz:/home/ü ser/../x/some file.npz",
        "folder:C:\\data\\",
        "hub:org/name#config",
        "npz:" + "d/" * 300 + "x.npz",
        "/",
    ],
)
def test_a_name_is_one_folder_on_every_file_system(dataset, tmp_path):
    name = name_of(dataset)
    assert re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,150}", name)
    (tmp_path / name).mkdir()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_evaluator_without_data_gives_its_own_name():
    config = Search(SPACE, Hashed(SPACE), RandomSearch()).config()
    assert run_name(config).startswith("chaincnn-hashed-randomsearch-s0-")


# What is said at the start


@pytest.mark.parametrize(
    ("n", "evaluations", "said"),
    [
        (3, 8, "Bits: 8 architectures of 3 decisions; the budget of 8 covers them all"),
        (3, 200, "Bits: 8 architectures of 3 decisions; the budget of 200 covers them all"),
        (3, 7, "the budget of 7 covers 88 % of them"),
        (14, 200, "Bits: 16,384 architectures of 14 decisions; the budget of 200 covers 1.2 % of them"),
        (3, None, "the budget has no limit"),
    ],
)
def test_coverage_says_the_share(n, evaluations, said):
    assert said in coverage(Bits(n), Budget(evaluations=evaluations))


def test_coverage_of_a_space_that_is_too_large_to_count(monkeypatch):
    monkeypatch.setattr(Bits, "said", None)
    said = "more than 10,000,000 architectures of 3 decisions; the budget of {} covers less than {} % of them"
    for evaluations, share in ((9, "0.01"), (2_000_000, "20")):
        assert said.format(f"{evaluations:,}", share) in coverage(Bits(3), Budget(evaluations))


def test_coverage_says_the_chances_of_random_search(monkeypatch):
    """Against a simulation: how often 200 draws of 100,000 architectures meet the best 1 % and 0.1 %."""
    monkeypatch.setattr(Bits, "said", 100_000)
    said = re.findall(r"with a probability of (\d+) %", coverage(Bits(3), Budget(evaluations=200)))
    draws = np.random.default_rng(0).integers(100_000, size=(4000, 200))
    simulated = [100 * np.mean((draws < best).any(axis=1)) for best in (1000, 100)]
    tolerance = 4 * 50 / np.sqrt(4000) + 0.5  # four deviations of a share of 4,000, and the rounding
    assert [int(s) for s in said] == pytest.approx(simulated, abs=tolerance)


@pytest.mark.parametrize(
    ("size", "evaluations", "said"),
    [
        (144, 36, "Random search would find one of the best 1 % with a probability of 25 %: the"),  # one of 144
        (999, 100, "find one of the best 1 % with a probability of 61 %: the"),  # nine of 999
        (50, 40, "Random search would find the best one with a probability of 80 %: the"),
        (1000, 500, "with a probability of 100 %, one of the best 0.1 % with a probability of 50 %: the"),
    ],
)
def test_coverage_says_nothing_of_less_than_one_architecture(size, evaluations, said, monkeypatch):
    monkeypatch.setattr(Bits, "said", size)
    assert said in coverage(Bits(3), Budget(evaluations))


# A run


def test_a_run_says_what_it_does_and_leaves_its_result(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run()
    (folder,) = (tmp_path / "runs").iterdir()
    said = capsys.readouterr().out
    result = json.loads((folder / "result.json").read_text())
    assert "validation_rewards" not in result["winner"]  # they are the scores
    assert f"{SPACE.size:,} architectures" in said
    best, mean = r"best validation accuracy \d\d\.\d\d %", r"mean of the last 20 evaluations \d\d\.\d\d %"
    assert re.search(rf"20 of 20 evaluations in \d+ s: {best}, {mean}", said)
    assert "the budget of 20 evaluations is used up" in said
    assert "hand-made reference" in said
    assert f"winner: {result['winner']['text']}" in said
    assert f"tensorboard --logdir {folder.parent.relative_to(tmp_path)}" in said
    assert not (tmp_path / "runs" / "cache.db").exists()


def test_what_is_said_is_what_was_spent_where_trainings_were_shorter(capsys):
    search = Search(SPACE, Shorter(SPACE), RandomSearch(), Budget(evaluations=5))
    search.callbacks.append(SearchProgress(Console(width=200), search.budget))
    architectures = SPACE.sample(4, np.random.default_rng(0))
    with search:
        search.evaluate(architectures, fidelity=0.5)
        search.evaluate(architectures[:1])
    said = [line.partition(" in ")[0] for line in capsys.readouterr().out.splitlines()]
    assert said == [
        "0.5 of 5 full trainings spent on 1 evaluation",
        "1 of 5 full trainings spent on 2 evaluations",
        "2 of 5 full trainings spent on 4 evaluations",
        "3 of 5 full trainings spent on 5 evaluations",
    ]


def test_brackets_in_names_are_printed(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "a[b]" / "c")
    run(tmp_path / "a[b]" / "c")
    assert f"files in {tmp_path}/a[b]/c:" in capsys.readouterr().out


def test_a_finished_run_is_shown_and_left_as_it_is(tmp_path, capsys):
    run(tmp_path / "run")
    first = capsys.readouterr().out
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    evaluator = run(tmp_path / "run")
    again = capsys.readouterr().out
    assert evaluator.calls == []
    assert "is finished" in again
    assert first[first.index("winner: ") :] == again[again.index("winner: ") :]
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_what_a_kill_right_after_the_result_has_left_is_cleared(copied):
    before = set(copied.iterdir())
    (copied / "partial_result.json").write_text("{}")
    (copied / "networks").mkdir()
    (copied / "networks" / "seed-0.safetensors").write_bytes(b"")
    run(copied)
    assert set(copied.iterdir()) == before


def test_what_is_to_be_typed_is_quoted(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "my runs" / "a")
    (tmp_path / "my runs" / "a" / "model").mkdir()
    run(tmp_path / "my runs" / "a")
    said = capsys.readouterr().out
    assert f"predict '{tmp_path}/my runs/a' digits" in said
    assert f"--logdir '{tmp_path}/my runs'" in said


def test_an_interrupted_run_goes_on_and_ends_as_if_it_had_not_been(finished, tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", Interrupted(SPACE))
    capsys.readouterr()
    evaluator = run(tmp_path / "run")
    assert re.search(r"resuming from the journal of .*: \d evaluations", capsys.readouterr().out)
    assert 0 < sum(map(len, evaluator.calls)) < 20
    assert timeless(tmp_path / "run") == timeless(finished)
    whole, gone_on = (json.loads((folder / "result.json").read_text()) for folder in (finished, tmp_path / "run"))
    assert gone_on == whole


def test_a_run_that_was_killed_at_its_end_concludes_without_searching_again(copied):
    result = (copied / "result.json").read_text()
    (copied / "result.json").unlink()
    evaluator = run(copied)
    assert evaluator.calls == []
    assert (copied / "result.json").read_text() == result


def test_a_second_run_takes_everything_from_the_cache(tmp_path, capsys):
    cache = str(tmp_path / "folder" / "cache.db")
    first = run(tmp_path / "a", cache=cache)
    second = run(tmp_path / "b", cache=cache)
    assert (len(first.calls) > 0, second.calls) == (True, [])
    assert "20 scores known from the cache" in capsys.readouterr().out


@pytest.mark.parametrize("is_finished", [True, False])
def test_the_folder_of_another_configuration_is_refused_and_left_alone(copied, is_finished):
    if not is_finished:
        (copied / "result.json").unlink()
    before = {path: path.read_bytes() for path in copied.iterdir()}
    with pytest.raises(InputError, match="seed is 0 there, 1 here"):
        run(copied, seed=1)
    assert {path: path.read_bytes() for path in copied.iterdir()} == before


def test_an_agent_that_breaks_its_contract_is_named_and_the_folder_is_free_again(tmp_path):
    for _ in range(2):
        with pytest.raises(AgentError, match="agent Breaks: proposed an architecture that is not one of the space"):
            run(tmp_path / "run", agent=Breaks())
    assert len(timeless(tmp_path / "run")) == 1


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"run_dir .* cannot be made"):
        run(tmp_path / "file" / "run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match=r"run_dir .* cannot be made"):
        run(tmp_path / "run")


def test_a_result_without_a_journal_is_nobodys(copied):
    (copied / "journal.jsonl").unlink()
    with pytest.raises(InputError, match=r"holds a result\.json but no journal\.jsonl"):
        run(copied)


def test_a_file_of_architectures_with_a_byte_order_mark(tmp_path):
    space = ChainCNN(max_layers=2)
    (tmp_path / "start.txt").write_text(f"{space.to_text(space.reference())}\n", encoding="utf-8-sig")
    assert starting_architectures(space, str(tmp_path / "start.txt")) == [space.reference()]
