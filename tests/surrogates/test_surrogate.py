import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import rankdata

from nasenv.agents import GaussianProcess
from nasenv.errors import InputError
from nasenv.search.budget import Budget
from nasenv.search.search import Search
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.spaces.choice_space import ChoiceSpace
from nasenv.spaces.nas_bench_201 import NASBench201
from nasenv.spaces.nas_bench_macro import NASBenchMacro
from nasenv.surrogates.gaussian_process import Kernel, Surrogate
from tests.fakes import Hashed

SPACE = ChainCNN(max_layers=3)
NOISE = 0.05


def distinct(n, seed=0, space=SPACE):
    return list(dict.fromkeys(space.sample(2 * n, np.random.default_rng(seed))))[:n]


def rewards(n, seed=0):
    return np.random.default_rng(seed).integers(0, n // 2, n) / n  # with ties


def textbook(architectures, targets, candidates, space=SPACE):
    """Return mean and standard deviation by solving the whole system (Rasmussen & Williams 2006, 2.25 and 2.26)."""
    kernel = Kernel(space)
    seen, asked = kernel.embed(architectures), kernel.embed(candidates)
    inverse, across = np.linalg.inv(kernel(seen, seen) + NOISE * np.eye(len(architectures))), kernel(seen, asked)
    return across.T @ inverse @ targets, np.sqrt(1.0 - np.diag(across.T @ inverse @ across))


def normal_scores(values):
    return ndtri((rankdata(values) - 0.5) / len(values))


def test_the_kernel_is_the_mean_of_squared_exponentials_in_units_of_random_distances():
    architectures = distinct(30)
    kernel, parts = Kernel(SPACE, length=0.7), SPACE.feature_parts([SPACE.canonical(d) for d in architectures])
    random = SPACE.feature_parts([SPACE.canonical(d) for d in SPACE.sample(4000, np.random.default_rng(1))])
    expected = 0.0
    for name, part in parts.items():
        unit = 0.7**2 * ((random[name][:2000] - random[name][2000:]) ** 2).sum(axis=1).mean()
        squared = ((part[:, None] - part) ** 2).sum(axis=2)
        expected += np.exp(-squared / (2 * unit)) / len(parts)
    embedded = kernel.embed(architectures)
    np.testing.assert_allclose(kernel(embedded, embedded), expected, atol=0.03)  # the unit is an estimate


def test_one_by_one_in_blocks_or_believed_first_it_predicts_what_the_whole_system_does():
    architectures, values, candidates = distinct(60), rewards(60), distinct(40, seed=1)
    surrogate = Surrogate(SPACE, pool=candidates)
    for i in range(20):
        surrogate.observe(architectures[i : i + 1], values[i : i + 1])
    surrogate.believe(architectures[20:24])
    surrogate.observe(architectures[24:], values[24:])
    surrogate.observe(architectures[20:24], values[20:24])
    mean, deviation = textbook(architectures, normal_scores(values), candidates)
    np.testing.assert_allclose(surrogate.predict(candidates), [mean, deviation], atol=1e-9)
    np.testing.assert_allclose(surrogate.ucb(candidates, 1.5), mean + 1.5 * deviation, atol=1e-9)
    np.testing.assert_allclose(surrogate.pool_ucb(1.5), mean + 1.5 * deviation, atol=1e-4)


def test_a_believed_architecture_is_worth_what_was_predicted_of_it_and_is_surer():
    architectures, values = distinct(30), rewards(20)
    surrogate = Surrogate(SPACE)
    surrogate.observe(architectures[:20], values)
    before = surrogate.predict(architectures)
    surrogate.believe(architectures[20:22])
    after = surrogate.predict(architectures)
    np.testing.assert_allclose(after[0], before[0], atol=1e-9)
    assert (after[1][20:22] < before[1][20:22]).all()
    surrogate.observe(architectures[20:22], [9.0, 9.0])
    assert (surrogate.predict(architectures)[0][20:22] > after[0][20:22]).all()


def test_beyond_its_most_observations_it_rests_on_the_best_and_the_latest():
    architectures, values = distinct(100), np.random.default_rng(0).permutation(100)
    surrogate = Surrogate(SPACE, most=40)
    for i in range(91):
        surrogate.observe(architectures[i : i + 1], values[i : i + 1])
    kept = {d for d in architectures[:91] if surrogate.predict([d])[1][0] < np.sqrt(NOISE)}
    assert len(kept) <= 40
    assert {*surrogate.best(10)} <= kept
    assert {*architectures[81:91]} <= kept


def test_functions_drawn_have_the_mean_and_the_covariance_of_the_whole_system():
    architectures, values, candidates = distinct(40), rewards(40), distinct(8, seed=1)
    surrogate = Surrogate(SPACE)
    surrogate.observe(architectures, values)
    n = 40_000
    drawn = surrogate.draws(candidates, n, np.random.default_rng(0))
    mean, deviation = textbook(architectures, normal_scores(values), candidates)
    kernel = Kernel(SPACE)
    seen, asked = kernel.embed(architectures), kernel.embed(candidates)
    across = kernel(seen, asked)
    inverse = np.linalg.inv(kernel(seen, seen) + NOISE * np.eye(len(architectures)))
    covariance = kernel(asked, asked) - across.T @ inverse @ across
    assert (np.abs(drawn.mean(axis=0) - mean) < 5 * deviation / np.sqrt(n)).all()
    limit = 5 * np.outer(deviation, deviation) * np.sqrt(2 / n)
    assert (np.abs(np.cov(drawn.T) - covariance) < limit + 1e-5).all()


def test_what_is_predicted_of_each_from_the_others_is_what_one_without_it_predicts():
    architectures, values = distinct(25), rewards(25)
    surrogate = Surrogate(SPACE)
    surrogate.observe(architectures, values)
    targets = normal_scores(values)
    np.testing.assert_allclose(surrogate.targets(), targets)
    for i, (predicted, deviation) in enumerate(zip(*surrogate.left_out(), strict=True)):
        others = [*architectures[:i], *architectures[i + 1 :]]
        mean, of_truth = textbook(others, np.delete(targets, i), [architectures[i]])
        assert predicted == pytest.approx(mean[0], abs=1e-9)
        assert deviation**2 == pytest.approx(of_truth[0] ** 2 + NOISE, abs=1e-9)


def test_equal_networks_have_equal_features_and_paths_those_of_banana():
    for space in (NASBench201(), NASBenchMacro(), SPACE):
        architectures = distinct(200, space=space)
        canonical = [space.canonical(d) for d in architectures]
        np.testing.assert_array_equal(space.features(architectures), space.features(canonical))
    space = NASBench201()
    cells = space.all_architectures()[::7]
    paths = space.feature_parts(list(map(tuple, cells.tolist())))["paths"]
    own = space.feature_parts([space.canonical(tuple(c)) for c in cells.tolist()])["paths"]
    np.testing.assert_array_equal(paths, own)
    cell = space.from_text("|nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|none~1|skip_connect~2|")
    assert paths.shape[1] == 64
    assert space.feature_parts([cell])["paths"].sum() == 2  # nothing, and 3x3 then 1x1


def test_numbers_in_order_are_as_far_apart_as_the_steps_between_them_and_closed_decisions_make_no_difference():
    space = ChoiceSpace(
        {"on": (False, True), "width": (8, 16, 32, 64), "again": (8, 16, 32, 64), "kind": ("a", "b", "c")},
        build=no_network,
        constraints=[lambda on, again: on or again == 8],
    )
    parts = space.feature_parts([(1, 0, 3, 0), (1, 3, 0, 0), (0, 3, 0, 0)])
    assert {name: part.shape for name, part in parts.items()} == {"choices": (3, 13), "counts": (3, 4), "order": (3, 6)}
    assert ((parts["order"][0] - parts["order"][1]) ** 2).sum() == 6
    np.testing.assert_array_equal(parts["counts"], [[1, 0, 0, 1], [1, 0, 0, 1], [0, 0, 0, 1]])
    assert not parts["choices"][2, 6:10].any()  # again was not open


def test_it_proposes_no_architecture_twice_in_small_and_large_spaces_and_in_batches():
    for space, evaluations in ((ChainCNN(max_layers=1), 37), (ChainCNN(max_layers=6), 60)):
        size = min(space.size, evaluations)
        agent = GaussianProcess(candidates=40, batch_size=7)
        search = Search(space, Hashed(space), agent, Budget(size), seed=3)
        search.run()
        assert len(search.history) == search.history.proposals == size


def test_a_part_that_the_space_lacks_is_named():
    search = Search(SPACE, Hashed(SPACE), GaussianProcess(parts=["choices", "paths"]), Budget(5))
    with pytest.raises(InputError, match="ChainCNN has features choices, counts, order, not 'paths'"):
        search.run()


def no_network(task, **choices):
    raise NotImplementedError
