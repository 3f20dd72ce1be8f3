import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from nasenv.envs.env import ArchitectureEnv
from nasenv.envs.vector_env import ArchitectureVectorEnv
from nasenv.errors import BudgetExhausted, InputError
from nasenv.search.search import Budget, Search
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.spaces.nas_bench_201 import NASBench201
from tests.fakes import TASK, Hashed

SPACE = ChainCNN(task=TASK, max_layers=2)
N = 3


def search(space=SPACE, **options):
    return Search(space, Hashed(space), **options)


def assert_same(one, other):
    """Hold two infos, observations or rewards to be equal, types and shapes included."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, np.ndarray) and one.dtype == object:
        assert other.dtype == object
        assert one.shape == other.shape
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    else:
        assert one == other


@given(st.integers(0, 2**32 - 1), st.sampled_from([SPACE, NASBench201(task=TASK)]))
@settings(max_examples=15, deadline=None)
def test_steps_as_a_sync_vector_env_does(seed, space):
    shared = search(space)  # one for all copies, as in the vector environment
    sync = SyncVectorEnv([lambda: ArchitectureEnv(shared)] * N, autoreset_mode=AutoresetMode.SAME_STEP)
    ours = ArchitectureVectorEnv(search(space), N)
    assert ours.metadata["autoreset_mode"] is sync.metadata["autoreset_mode"]
    assert (ours.single_observation_space, ours.single_action_space) == (
        sync.single_observation_space,
        sync.single_action_space,
    )
    assert (ours.observation_space, ours.action_space) == (sync.observation_space, sync.action_space)
    rng = np.random.default_rng(seed)
    for a, b in zip(ours.reset(seed=0), sync.reset(seed=0), strict=True):
        assert_same(a, b)
    for _ in range(2 * space.num_decisions + 1):
        actions = rng.integers(0, space.max_choices, N)  # often invalid ones
        for a, b in zip(ours.step(actions), sync.step(actions), strict=True):
            assert_same(a, b)


def test_masks_are_those_of_the_infos():
    env = ArchitectureVectorEnv(search(), N)
    _, info = env.reset()
    rng = np.random.default_rng(0)
    for _ in range(SPACE.num_decisions + 2):
        np.testing.assert_array_equal(env.action_masks(), info["action_mask"].astype(bool))
        *_, info = env.step(rng.integers(0, SPACE.max_choices, N))


def test_what_was_returned_is_not_overwritten():
    env = ArchitectureVectorEnv(search(), N)
    rng = np.random.default_rng(0)
    kept = [*env.reset()[:1]]
    copies = [kept[0].copy()]
    for _ in range(3 * SPACE.num_decisions):
        observations, rewards, ends, truncated, info = env.step(rng.integers(0, SPACE.max_choices, N))
        for array in (observations, rewards, ends, truncated, info["action_mask"], *info.get("final_obs", [])):
            kept.append(array)
            copies.append(array.copy())
    assert all(map(np.array_equal, kept, copies))


def test_what_a_caller_writes_into_its_arrays_changes_nothing():
    env, other = ArchitectureVectorEnv(search(), N), ArchitectureVectorEnv(search(), N)
    rng = np.random.default_rng(0)
    env.reset()
    other.reset()
    for _ in range(2 * SPACE.num_decisions):
        actions = rng.integers(0, SPACE.max_choices, N)
        ours, theirs = env.step(actions), other.step(actions)
        np.testing.assert_array_equal(ours[0], theirs[0])
        assert_same(ours[4]["action_mask"], theirs[4]["action_mask"])
        np.testing.assert_array_equal(ours[2], theirs[2])
        ours[0][:] = 7.0
        ours[2][:] = ~ours[2]
        env.action_masks()[:] = False
        ours[4]["_action_mask"][:] = False
        for key in ("_final_obs", "_final_info"):
            if key in ours[4]:
                ours[4][key][:] = False
    assert env.step(actions)[4]["_action_mask"].all()


def test_a_batch_is_one_evaluate_of_all_architectures():
    with search() as one:
        env = ArchitectureVectorEnv(one, 5)
        env.reset()
        rng = np.random.default_rng(0)
        for _ in range(SPACE.num_decisions):
            *_, info = env.step(rng.integers(0, SPACE.max_choices, 5))
        one.ended = "for the test"
        (call,) = one.evaluator.calls
    canonical = {SPACE.canonical(a) for a in info["final_info"]["architecture"]}
    assert set(call) == canonical
    assert [o.architecture for o in env.outcomes] == list(info["final_info"]["architecture"])


def test_budget_ends_a_step():
    env = ArchitectureVectorEnv(search(budget=Budget(evaluations=4)), N)
    rng = np.random.default_rng(0)
    env.reset()
    for _ in range(2 * SPACE.num_decisions - 1):
        env.step(rng.integers(0, SPACE.max_choices, N))
    with pytest.raises(BudgetExhausted, match="budget of 4 evaluations"):
        env.step(rng.integers(0, SPACE.max_choices, N))
    assert len(env.search.history) == 4
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(N, dtype=np.int64))


def test_wrapper_of_gymnasium_counts_episodes():
    env = gymnasium.wrappers.vector.RecordEpisodeStatistics(ArchitectureVectorEnv(search(), N))
    env.reset()
    rng = np.random.default_rng(0)
    paid = []
    for _ in range(2):
        for _ in range(SPACE.num_decisions):
            _, rewards, _, _, info = env.step(rng.integers(0, SPACE.max_choices, N))
        np.testing.assert_array_equal(info["episode"]["r"], rewards)
        np.testing.assert_array_equal(info["episode"]["l"], [SPACE.num_decisions] * N)
        paid += rewards.tolist()
    assert list(env.return_queue) == paid


@pytest.mark.parametrize("num_envs", [0, -1, 1.5, "3"])
def test_number_of_architectures_is_checked(num_envs):
    with pytest.raises(InputError, match="num_envs must be an integer of 1 or more"):
        ArchitectureVectorEnv(search(), num_envs)


def test_number_of_actions_is_checked():
    env = ArchitectureVectorEnv(search(), N)
    env.reset()
    for wrong in (np.zeros(N + 1, dtype=np.int64), np.zeros((N, 1), dtype=np.int64), np.zeros(N), 0):
        with pytest.raises(InputError, match="one for each of 3 architectures"):
            env.step(wrong)


def test_make_vec_gives_one_evaluation_for_all():
    env = gymnasium.make_vec("nasenv/ChainCNN-v0", num_envs=4, evaluator=Hashed(SPACE), render_mode="ansi")
    assert isinstance(env.unwrapped, ArchitectureVectorEnv)
    assert env.num_envs == 4
    env.reset()
    env.step(np.array([0, 1, 0, 1]))
    assert env.render() == tuple(f"depth: {depth}\n" for depth in (1, 2, 1, 2))


def test_frames_have_one_size():
    env = ArchitectureVectorEnv(search(), 2, render_mode="rgb_array")
    env.reset()
    frames = [*env.render()]
    env.step(np.array([0, 1]))
    frames += env.render()
    assert len({f.shape for f in frames}) == 1


def test_make_vec_can_make_plain_copies():
    env = gymnasium.make_vec("nasenv/ChainCNN-v0", num_envs=2, vectorization_mode="sync", evaluator=Hashed(SPACE))
    assert isinstance(env.unwrapped, SyncVectorEnv)
    env.reset()
    total = sum(env.step(np.array([1, 1]))[1] for _ in range(SPACE.num_decisions))
    assert (total >= 0.0).all()
    env.close()
