import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
from scipy.stats import rankdata

import nasenv
from nasenv.agents import PPO, Agent, MaskablePPO, RandomSearch, StableBaselines
from nasenv.agents.sb3 import RankReward
from nasenv.errors import AgentError
from nasenv.evaluators.evaluator import Measurement
from nasenv.history import Outcome
from nasenv.search import Budget, Search
from nasenv.spaces.chain_cnn import ChainCNN
from tests.cheap_evaluators import Hashed

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


def proposals(agent, seed, n=23):
    evaluator = Hashed(SPACE)
    search = Search(SPACE, evaluator, agent, Budget(n), seed=seed)
    search.run()
    assert len(search.history) == n
    assert search.ended == f"the budget of {n} evaluations is used up"
    assert max(map(len, evaluator.calls)) <= 5
    return [o.architecture for o in search.history]


@pytest.mark.parametrize("name", AGENTS)
def test_every_agent_keeps_the_budget_and_repeats_itself_by_its_seed_alone(name):
    first, second, other = (proposals(AGENTS[name](), seed) for seed in (0, 0, 1))
    assert first == second
    assert first != other


@pytest.mark.parametrize("name", AGENTS)
def test_every_agent_ends_in_a_space_smaller_than_its_budget(name):
    space = ChainCNN(max_layers=1, widths=(4,))
    search = Search(space, Hashed(space), AGENTS[name](), Budget(100, repeats_per_evaluation=2))
    search.run()
    assert search.ended.startswith(("all 10 designs", "the agent proposes what it proposed before"))


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
    assert all(0 <= e.step <= 20 for e in events.Scalars("train/entropy_loss"))
    assert [e.step for e in events.Scalars("search/reward")] == list(range(1, 21))


def test_an_agent_with_neither_run_nor_ask_is_told_so():
    class Idle(Agent):
        pass

    search = Search(SPACE, Hashed(SPACE), Idle(), Budget(2))
    with pytest.raises(AgentError, match="neither run nor ask"):
        search.run()
    assert nasenv.__version__
