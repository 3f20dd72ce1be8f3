import ast
import re
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import sb3_contrib
from scipy.stats import rankdata

import nasenv.agents.testing
import nasenv.envs.env
from nasenv.agents import (
    A2C,
    DQN,
    PPO,
    TPE,
    Agent,
    GaussianProcess,
    LocalSearch,
    LSTMReinforce,
    MaskablePPO,
    ModelAssistedPPO,
    QLearning,
    RandomSearch,
    RecurrentPPO,
    RegularizedEvolution,
    Reinforce,
    StableBaselines,
)
from nasenv.agents.sb3_env import RankReward
from nasenv.agents.testing import AgentContract
from nasenv.errors import AgentError
from nasenv.search.budget import Budget
from nasenv.search.search import Search
from nasenv.spaces.chain_cnn import ChainCNN
from tests.fakes import Hashed, HiddenArchitecture

SPACE = ChainCNN(max_layers=2)
LEARNERS = {
    "RegularizedEvolution": RegularizedEvolution,
    "LocalSearch": LocalSearch,
    "LocalSearch, best": lambda: LocalSearch("best"),
    "Reinforce": lambda: Reinforce(learning_rate=0.05),
    "LSTMReinforce": LSTMReinforce,
    "QLearning": lambda: QLearning(evaluations=50),
    "TPE": TPE,
    "GaussianProcess": lambda: GaussianProcess(candidates=50, batch_size=10),
    "PPO": PPO,
    "MaskablePPO": MaskablePPO,
    "RecurrentPPO": RecurrentPPO,
    "A2C": A2C,
    "DQN": DQN,
}
SLOW = {"LSTMReinforce", "QLearning", "RecurrentPPO", "A2C", "DQN"}  # to learn
STARTED = {
    "RegularizedEvolution": lambda: RegularizedEvolution(population_size=15),
    "LocalSearch": LocalSearch,
    "Reinforce": lambda: Reinforce(learning_rate=0.2),
    "QLearning": lambda: QLearning(evaluations=10),
    "TPE": TPE,
    "GaussianProcess": GaussianProcess,
    "PPO": PPO,
    "MaskablePPO": MaskablePPO,
    "RecurrentPPO": RecurrentPPO,
    "A2C": A2C,
    "DQN": lambda: DQN(exploration_fraction=0.01, gradient_steps=30),
}  # with settings that have it learn at once


class TestRandomSearch(AgentContract):
    def make(self):
        return RandomSearch(batch_size=5)


class TestRegularizedEvolution(AgentContract):
    def make(self):
        return RegularizedEvolution(population_size=6, sample_size=2)


class TestRegularizedEvolutionInBatches(AgentContract):
    def make(self):
        return RegularizedEvolution(population_size=6, sample_size=3, batch_size=5)


class TestLocalSearch(AgentContract):
    def make(self):
        return LocalSearch()


class TestLocalSearchInBatches(AgentContract):
    def make(self):
        return LocalSearch("best", batch_size=5)


class TestReinforce(AgentContract):
    def make(self):
        return Reinforce(batch_size=2)


class TestLSTMReinforce(AgentContract):
    def make(self):
        return LSTMReinforce(batch_size=5, layers=2)


class TestQLearning(AgentContract):
    def make(self):
        return QLearning(replays=5, evaluations=20)


class TestTPE(AgentContract):
    def make(self):
        pytest.importorskip("optuna")
        return TPE(startup_trials=5, batch_size=2)


class TestGaussianProcess(AgentContract):
    def make(self):
        return GaussianProcess(startup_trials=5)


class TestGaussianProcessInBatches(AgentContract):
    def make(self):
        return GaussianProcess(startup_trials=3, batch_size=5)


class StableBaselinesContract(AgentContract):
    touches_global_state = True  # Stable-Baselines3 seeds them itself


class TestPPO(StableBaselinesContract):
    def make(self):
        return PPO(num_envs=5)


class TestMaskablePPO(StableBaselinesContract):
    def make(self):
        return MaskablePPO(num_envs=5)


class TestModelAssistedPPO(StableBaselinesContract):
    def make(self):
        return ModelAssistedPPO(num_envs=5)


class TestRecurrentPPO(StableBaselinesContract):
    def make(self):
        return RecurrentPPO(num_envs=5, n_epochs=2)


class TestA2C(StableBaselinesContract):
    def make(self):
        return A2C(num_envs=5)


class TestDQN(StableBaselinesContract):
    def make(self):
        return DQN(num_envs=2, random_architectures=5, gradient_steps=2)

    def test_goes_the_same_way_with_a_smaller_budget(self):
        """Its exploration is planned by the budget."""


class TestAnyOfStableBaselines(StableBaselinesContract):
    def make(self):
        return StableBaselines(sb3_contrib.TRPO, settings={"n_steps": 9, "batch_size": 45}, num_envs=5)

    def make_again(self, config):
        module, _, name = config["init_args"]["algorithm"].rpartition(".")
        return StableBaselines(**config["init_args"] | {"algorithm": getattr(import_module(module), name)})


class Broken(AgentContract):
    """An agent that breaks what the contract says, to see that it is noticed."""

    class Agent(RandomSearch):
        def begin(self, space, rng):
            self._space, self._rng = space, np.random  # the global one

    def make(self):
        return self.Agent(batch_size=5)


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ("test_repeats_itself_by_its_seed_alone", "not all randomness is seeded"),
        ("test_leaves_the_global_generators_alone", "used the global random generator of NumPy"),
        ("test_starts_fresh_in_a_second_search", "another way than its first"),
    ],
)
def test_the_contract_notices_an_agent_that_uses_the_global_generators(test, message):
    with pytest.raises(AssertionError, match=f"{message}.* search.ended: 'the budget of 23 evaluations is used up'"):
        getattr(Broken(), test)()


class Neighbours(Agent):
    """Climbs to neighbours; where none of them is new, it does as it is told."""

    def __init__(self, stuck):
        super().__init__(batch_size=1)
        self.stuck = stuck

    def begin(self, space, rng):
        self.space, self.rng, self.rewards, self.here = space, rng, {}, None

    def ask(self, n):
        if self.here is None:
            return self.space.sample(1, self.rng)
        new = [a for a in self.space.neighbours(self.here) if a not in self.rewards]
        return new[:1] or {"repeats": [self.here], "stops": [], "restarts": self.space.sample(1, self.rng)}[self.stuck]

    def tell(self, outcomes):
        self.rewards.update((o.architecture, o.reward) for o in outcomes)
        self.here = max(self.rewards, key=self.rewards.__getitem__)


class NeighboursContract(AgentContract):
    def __init__(self, stuck):
        self.make = lambda: Neighbours(stuck)


def test_the_contract_says_why_and_what_to_do_where_no_neighbour_is_new():
    NeighboursContract("restarts").test_survives_equal_rewards()
    with pytest.raises(AssertionError) as caught:
        NeighboursContract("repeats").test_survives_equal_rewards()
    said = str(caught.value)
    assert re.search(r"search\.ended: 'the agent proposes what it proposed before: .*' after \d+ evaluations\. ", said)
    assert "proposes a random architecture, space.sample(1, rng)[0]" in said
    with pytest.raises(AgentError, match=r"proposed \[\], expected one or more architectures, any if none is new"):
        NeighboursContract("stops").test_survives_equal_rewards()


def test_what_a_contract_says_does_not_depend_on_pytest():
    """Outside of a test file pytest does not show the values that an assertion compares."""
    tree = ast.parse(Path(nasenv.agents.testing.__file__).read_text())
    messages = [ast.unparse(node.msg) if node.msg else "" for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    of_config = [message for message in messages if "_ends(" not in message]
    assert len(messages) > 5
    assert of_config == ["f'made from {config}, its config() is {again.config()}'"]


@pytest.mark.parametrize("name", LEARNERS)
def test_agents_do_better_than_random_search(name):
    """The mean reward of 2 seeds' evaluations is above random search's by 4 standard errors of the difference."""
    if name == "TPE":
        pytest.importorskip("optuna")
    evaluations = 140 if name in SLOW else 100
    random, ours = (
        np.concatenate([run_on_hidden_architecture(make(), seed, evaluations=evaluations) for seed in range(2)])
        for make in (RandomSearch, LEARNERS[name])
    )
    assert ours.mean() - random.mean() > 4 * np.sqrt(ours.var() / ours.size + random.var() / random.size)


def run_on_hidden_architecture(agent, seed, start=(), evaluations=200):
    """Return the rewards of the evaluations; an agent that has found the architecture may come to repeat itself."""
    space = ChainCNN(max_layers=4)
    hidden = space.sample(1, np.random.default_rng(7))[0]
    budget = Budget(evaluations, repeats_per_evaluation=2)
    search = Search(space, HiddenArchitecture(space, hidden), agent, budget, seed=seed, start=start)
    search.run()
    return np.array([o.reward for o in search.history])


@pytest.mark.parametrize("name", STARTED)
def test_agents_learn_from_the_architectures_that_a_search_starts_from(name):
    """What follows ten good and ten random architectures is better than random, by 3 standard errors."""
    if name == "TPE":
        pytest.importorskip("optuna")
    space = ChainCNN(max_layers=4)
    hidden = space.sample(1, np.random.default_rng(7))[0]
    rng = np.random.default_rng(0)
    followers = []
    for seed in range(2):
        good = [space.mutate(space.mutate(hidden, rng), rng) for _ in range(10)]
        start = list(dict.fromkeys(good + space.sample(10, rng)))
        rewards = run_on_hidden_architecture(STARTED[name](), seed, start, evaluations=len(start) + 40)
        followers += list(rewards[len(start) :])
    random = run_on_hidden_architecture(RandomSearch(), 0)
    margin = 3 * np.sqrt(np.var(followers) / len(followers) + np.var(random) / len(random))
    assert np.mean(followers) > np.mean(random) + margin


@pytest.mark.parametrize(("agent", "wasted"), [(PPO, True), (MaskablePPO, False)])
def test_masks_keep_invalid_choices_from_being_proposed(agent, wasted, monkeypatch):
    invalid = []

    def spy(mask, actions, redirected=nasenv.envs.env.redirected):
        invalid.extend(~mask[np.arange(len(actions)), actions])
        return redirected(mask, actions)

    monkeypatch.setattr(nasenv.envs.env, "redirected", spy)
    Search(SPACE, Hashed(SPACE), agent(num_envs=5), Budget(30)).run()
    assert any(invalid) == wasted


def test_rank_rewards_are_mid_ranks_among_the_distinct_architectures():
    rng = np.random.default_rng(0)
    values, repeats = rng.integers(0, 900, 2000) / 900, rng.random(2000) < 0.3
    rank = RankReward()
    feasible = np.full(40, 2)
    for first in range(0, 2000, 40):
        last = first + 40
        seen = values[:last][~repeats[:last]]
        expected = [(rankdata([*seen, v])[-1] - 1) / len(seen) * 2 - 1 for v in values[first:last]]
        np.testing.assert_allclose(
            rank(SimpleNamespace(rewards=values[first:last], repeats=repeats[first:last], statuses=feasible)),
            expected,
            atol=1e-12,
        )


def test_what_an_algorithm_logs_is_in_the_searchs_own_event_file(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Search(SPACE, Hashed(SPACE), PPO(num_envs=5), Budget(20), run_dir=tmp_path) as search:
        search.run()
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1
    events = EventAccumulator(str(tmp_path)).Reload()
    tags = events.Tags()["scalars"]
    assert {"search/reward", "train/entropy_loss", "rollout/ep_rew_mean"} <= set(tags)
    assert all(0 < e.step <= 20 for e in events.Scalars("train/entropy_loss"))
    assert [e.step for e in events.Scalars("search/reward")] == list(range(1, 21))


def test_an_agent_with_neither_run_nor_ask_is_told_so():
    class Idle(Agent):
        pass

    search = Search(SPACE, Hashed(SPACE), Idle(), Budget(2))
    with pytest.raises(AgentError, match="neither run nor ask"):
        search.run()


def test_an_agent_with_ask_and_tell_hears_of_its_architectures_in_their_order():
    class Told(Agent):
        def __init__(self, batch_size=16):
            super().__init__(batch_size)
            self.asked, self.heard = [], []

        def begin(self, space, rng):
            self.space, self.rng = space, rng

        def ask(self, n):
            self.asked.append(self.space.sample(n, self.rng))
            return self.asked[-1]

        def tell(self, outcomes):
            self.heard.append([o.architecture for o in outcomes])

    agent = Told(batch_size=4)
    search = Search(SPACE, Hashed(SPACE), agent, Budget(10))
    search.run()
    assert agent.asked[:-1] == agent.heard
    assert len(search.history) == 10


def test_an_agent_with_run_alone_brings_its_own_loop():
    class Once(Agent):
        def run(self, search):
            search.evaluate(search.space.sample(3, np.random.default_rng(search.seed)))

    search = Search(SPACE, Hashed(SPACE), Once(), Budget(10))
    search.run()
    assert len(search.history) == 3
    assert search.ended == "agent Once stopped by itself"


def test_an_agent_may_propose_an_array():
    class Rows(Agent):
        def begin(self, space, rng):
            self.space, self.rng = space, rng

        def ask(self, n):
            return np.array(self.space.sample(n, self.rng))

    search = Search(SPACE, Hashed(SPACE), Rows(), Budget(20))
    search.run()
    assert len(search.history) == 20


@pytest.mark.parametrize("nothing", [[], None, np.empty((0, 9), dtype=np.int64)])
def test_an_agent_that_proposes_nothing_is_named(nothing):
    class Silent(Agent):
        def ask(self, n):
            return nothing

    with pytest.raises(AgentError, match=r"agent Silent: proposed .* expected one or more architectures"):
        Search(SPACE, Hashed(SPACE), Silent(), Budget(20)).run()
