"""What stands between an agent and a search: nothing changes unless it does, and what it asks for bears its name."""

import json

import numpy as np
import pytest

from nasenv.agents import PPO, Agent, RandomSearch, RegularizedEvolution
from nasenv.agents.gaussian_process import GaussianProcess
from nasenv.agents.local_search import LocalSearch
from nasenv.agents.lstm_reinforce import LSTMReinforce
from nasenv.agents.tpe import TPE
from nasenv.errors import InputError
from nasenv.search.budget import Budget
from nasenv.search.layer import Layer, SearchLike
from nasenv.search.search import Search
from nasenv.spaces.chain_cnn import ChainCNN
from tests.fakes import Hashed

pytestmark = pytest.mark.usefixtures("without_pictures")
SPACE = ChainCNN(max_layers=2)
SAMPLED = list(dict.fromkeys(SPACE.sample(200, np.random.default_rng(0))))
ARCHITECTURES, OTHERS = SAMPLED[:50], SAMPLED[50:100]
AGENTS = {
    "RandomSearch": lambda: RandomSearch(batch_size=5),
    "RegularizedEvolution": lambda: RegularizedEvolution(8, 3),
    "LSTMReinforce": lambda: LSTMReinforce(batch_size=8),
    "TPE": lambda: TPE(startup_trials=4, batch_size=4),
    "PPO": lambda: PPO(num_envs=8),
    "asynchronous LocalSearch": lambda: LocalSearch(asynchronous=True),
    "asynchronous GaussianProcess": lambda: GaussianProcess(startup_trials=4, asynchronous=True),
}


def journal(folder, *without):
    entries = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()[1:]]
    return [{k: v for k, v in entry.items() if k not in ("seconds", *without)} for entry in entries]


def run(folder, agent, *layers, seed=3, **options):
    with Search(SPACE, Hashed(SPACE), agent, Budget(24), seed=seed, run_dir=folder, layers=layers, **options) as search:
        search.run()
        return search.ended


@pytest.mark.parametrize("agent", AGENTS)
def test_layers_that_give_everything_on_change_nothing(tmp_path, agent):
    ended = [run(tmp_path / "plain", AGENTS[agent]()), run(tmp_path / "layers", AGENTS[agent](), Layer, Layer)]
    assert ended[0] == ended[1]
    assert journal(tmp_path / "plain") == journal(tmp_path / "layers")


def test_a_layer_looks_like_the_search(tmp_path):
    with Search(SPACE, Hashed(SPACE), budget=Budget(9), seed=4, run_dir=tmp_path) as search:
        layer = Layer(search)
        answers = layer.evaluate(SPACE.sample(2, np.random.default_rng(0)))
        names = [name for name in dir(SearchLike) if not name.startswith("_")]
        values = {name: getattr(search, name) for name in names if not callable(getattr(search, name))}
        assert {name: getattr(layer, name) for name in values} == values
        assert set(names) - set(values) == {"evaluate", "stream", "representative", "log"}
        assert list(answers) == list(search.history)
        assert layer.representative(answers[0].architecture) == search.representative(answers[0].architecture)


class InTurn(Agent):
    """Proposes each architecture once, four at a time."""

    def begin(self, space, rng):
        self.left = list(ARCHITECTURES)

    def ask(self, n):
        asked, self.left = self.left[:4], self.left[4:]
        return asked


class Doubts(Layer):
    """Looks at one architecture of its own after every answer."""

    name = "doubts"

    def evaluate(self, architectures, fidelity=1.0, *, by="agent"):
        answers = super().evaluate(architectures, fidelity, by=by)
        self.search.evaluate([OTHERS[len(self.history)]], by=self.name)
        return answers


def test_what_a_layer_asks_for_is_journaled_under_its_name_and_replayed(tmp_path):
    start = OTHERS[-3:]
    run(tmp_path / "whole", InTurn(), Doubts, start=start)
    whole = journal(tmp_path / "whole")
    assert [entry["by"] for entry in whole] == ["start"] * 3 + (["agent"] * 4 + ["doubts"]) * 4 + ["agent"]
    lines = (tmp_path / "whole" / "journal.jsonl").read_text().splitlines(keepends=True)
    for kept in (2, 6, 10, 24):
        folder = tmp_path / str(kept)
        folder.mkdir()
        (folder / "journal.jsonl").write_text("".join(lines[: kept + 1]))
        run(folder, InTurn(), Doubts, start=start)
        assert journal(folder) == whole
        concluded = tmp_path / f"{kept} concluded"
        concluded.mkdir()
        (concluded / "journal.jsonl").write_text("".join(lines[: kept + 1]))
        run(concluded, InTurn(), Doubts, start=start, resume="conclude")
        assert journal(concluded) == whole[:kept]


def test_a_row_that_another_asked_for_is_not_repeated(tmp_path, monkeypatch):
    run(tmp_path, InTurn(), Doubts)
    monkeypatch.setattr(Doubts, "name", "believes")
    before = journal(tmp_path)
    said = "evaluation 5 was .*, asked for by doubts, now it is .*, asked for by believes"
    with pytest.raises(InputError, match=said):
        run(tmp_path, InTurn(), Doubts)
    assert journal(tmp_path) == before


def test_the_layers_belong_to_the_configuration(tmp_path):
    run(tmp_path, InTurn(), Doubts)
    with pytest.raises(InputError, match="belongs to another configuration: layers is"):
        run(tmp_path, InTurn())


class Halved(Layer):
    """Gives on half of what is asked for; the other half is not evaluated."""

    def evaluate(self, architectures, fidelity=1.0, *, by="agent"):
        return super().evaluate(architectures[: (len(architectures) + 1) // 2], fidelity, by=by)


def test_the_first_layer_stands_on_the_search_and_the_agent_is_given_the_last(tmp_path):
    run(tmp_path, InTurn(), Doubts, Halved)
    assert [entry["by"] for entry in journal(tmp_path)][:6] == ["agent", "agent", "doubts"] * 2
