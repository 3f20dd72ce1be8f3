from importlib import import_module

import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
from scipy.stats import rankdata

import nasenv.env
from nasenv.agents import PPO, Agent, MaskablePPO, RandomSearch, StableBaselines
from nasenv.agents.sb3 import RankReward
from nasenv.errors import AgentError
from nasenv.evaluators.evaluator import Measurement
from nasenv.history import Outcome
from nasenv.search import Budget, Search
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.spaces.choice_space import ChoiceSpace
from tests.cheap_evaluators import Hashed, HiddenDesign

SPACE = ChainCNN(max_layers=2)
SMALL_BUFFER = {"buffer_size": 500, "learning_starts": 20, "exploration_final_eps": 0.5}
AGENTS = {
    "RandomSearch": lambda: RandomSearch(batch_size=5),
    "PPO": lambda: PPO(num_envs=5),
    "MaskablePPO": lambda: MaskablePPO(num_envs=5),
    "A2C": lambda: StableBaselines(stable_baselines3.A2C, settings={"n_steps": 9}, num_envs=5),
    "TRPO": lambda: StableBaselines(sb3_contrib.TRPO, settings={"n_steps": 9, "batch_size": 45}, num_envs=5),
    "DQN": lambda: StableBaselines(stable_baselines3.DQN, settings=SMALL_BUFFER, num_envs=5),
}


def build_nothing(input_shape, num_classes, **choices):
    raise NotImplementedError


class Spied(Search):
    """Remembers how many designs each call of ``evaluate`` brought."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.batches = []

    def evaluate(self, architectures):
        self.batches.append(len(architectures))
        return super().evaluate(architectures)


def imported(path):
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def made_from(config):
    """Return the agent that the configuration describes, a class among its arguments by its path."""
    arguments = config["init_args"]
    if "algorithm" in arguments:
        arguments = arguments | {"algorithm": imported(arguments["algorithm"])}
    return imported(config["class_path"])(**arguments)


def proposals(agent, seed, n=23):
    """Return what an agent proposes in a search of n evaluations, having held it to its contract."""
    search = Spied(SPACE, Hashed(SPACE), agent, Budget(n), seed=seed)
    search.run()
    assert len(search.history) == n
    assert search.ended == f"the budget of {n} evaluations is used up"
    assert set(search.batches) == {5}
    return [o.architecture for o in search.history]


@pytest.mark.parametrize("name", AGENTS)
def test_every_agent_keeps_the_budget_and_repeats_itself_by_its_seed_alone(name):
    agent = AGENTS[name]()
    first, second, other = (proposals(agent, seed) for seed in (0, 0, 1))
    assert first == second == proposals(made_from(agent.config()), 0)
    assert first != other
    for n in (1, 4, 5, 10):  # smaller than a batch, equal to one, to two
        assert proposals(agent, 0, n) == first[:n]


@pytest.mark.parametrize("name", AGENTS)
def test_every_agent_ends_in_a_space_of_one_design(name):
    space = ChoiceSpace({"a": (1,), "b": (2,)}, build=build_nothing, input_shape=(1, 4, 4), num_classes=2)
    search = Search(space, HiddenDesign(space, (0, 0)), AGENTS[name](), Budget(100))
    search.run()
    assert search.ended == "all 1 designs of the space are evaluated"
    assert [o.architecture for o in search.history] == [(0, 0)]


@pytest.mark.parametrize("name", AGENTS)
def test_every_agent_ends_in_a_space_smaller_than_its_budget(name):
    space = ChainCNN(max_layers=1, widths=(4,))
    search = Search(space, Hashed(space), AGENTS[name](), Budget(100, repeats_per_evaluation=2))
    search.run()
    assert search.ended.startswith(("all 10 designs", "the agent proposes what it proposed before"))


@pytest.mark.parametrize("agent", [PPO, MaskablePPO])
def test_ppo_does_better_than_random_search(agent):
    """Each of 2 seeds' mean reward is above random search's by 4 standard errors of a mean of its evaluations."""
    random = run_on_hidden_design(RandomSearch(), 0)
    ours = [run_on_hidden_design(agent(), seed) for seed in range(2)]
    for rewards in ours:
        assert rewards.mean() - random.mean() > 4 * np.sqrt(rewards.var() / rewards.size + random.var() / random.size)


def run_on_hidden_design(agent, seed):
    """Return the rewards of up to 200 evaluations; an agent that has found the design may come to repeat itself."""
    space = ChainCNN(max_layers=4)
    hidden = space.sample(1, np.random.default_rng(7))[0]
    search = Search(space, HiddenDesign(space, hidden), agent, Budget(200, repeats_per_evaluation=2), seed=seed)
    search.run()
    return np.array([o.reward for o in search.history])


@pytest.mark.parametrize(("agent", "wasted"), [(PPO, True), (MaskablePPO, False)])
def test_masks_keep_invalid_choices_from_being_proposed(agent, wasted, monkeypatch):
    invalid = []

    def spy(mask, actions, redirected=nasenv.env.redirected):
        invalid.extend(~mask[np.arange(len(actions)), actions])
        return redirected(mask, actions)

    monkeypatch.setattr(nasenv.env, "redirected", spy)
    Search(SPACE, Hashed(SPACE), agent(num_envs=5), Budget(30)).run()
    assert any(invalid) == wasted


def test_rank_rewards_are_mid_ranks_among_the_distinct_designs():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 6, 40) / 5
    outcomes = [Outcome((i,), Measurement(v), float(v), i + 1, i + 1) for i, v in enumerate(values)]
    rank = RankReward()
    rank(outcomes[:20])
    expected = (rankdata(values) - 0.5) / 40 * 2 - 1
    np.testing.assert_allclose(rank(outcomes[20:]), expected[20:])


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


def test_an_agent_with_ask_and_tell_hears_of_its_designs_in_their_order():
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
