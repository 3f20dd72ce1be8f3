"""Counts of architectures and networks, against spaces whose numbers are known."""

import math
import time

import numpy as np
import pytest

from nasenv.inspection.counting import (
    Count,
    count_architectures,
    count_networks,
    estimate_architectures,
    networks_at_least,
)
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.spaces.choice_space import ChoiceSpace
from nasenv.spaces.nas_bench_201 import NASBench201
from nasenv.spaces.nas_bench_graph import NASBenchGraph
from nasenv.spaces.nas_bench_macro import NASBenchMacro
from nasenv.spaces.space import Decision, SearchSpace
from tests.fakes import TASK


def never_built(task, **choices):
    raise AssertionError


def conditional():
    """Return a space of 5^6 combinations of which a constraint leaves a part."""
    return ChoiceSpace(
        {f"x{i}": (0, 1, 2, 3, 4) for i in range(6)},
        build=never_built,
        constraints=[lambda x0, x1: x0 + x1 <= 3, lambda x4, x5: x4 <= x5],
        task=TASK,
    )


class Vast(SearchSpace):
    """A space of 10^400 architectures, whose size is not given."""

    def __init__(self):
        super().__init__([Decision(f"x{i}", tuple(range(10))) for i in range(400)], TASK)

    size = None

    def build(self, architecture):
        raise AssertionError


SPACES = {
    "ChainCNN": lambda: ChainCNN(max_layers=4, widths=(8, 16)),
    "larger ChainCNN": lambda: ChainCNN(max_layers=6),
    "ChoiceSpace": conditional,
    "NASBenchGraph": NASBenchGraph,
}


@pytest.mark.parametrize("name", SPACES)
def test_the_interval_of_the_estimate_holds_the_truth_in_about_95_of_100_repetitions(name):
    space = SPACES[name]()
    counts = [estimate_architectures(space, np.random.default_rng(seed), 2_000) for seed in range(100)]
    held = sum(count.low <= space.size <= count.high for count in counts)
    assert 88 <= held <= 100  # with 95 %, fewer or more come once in 500 times
    assert any(count.low > 0.5 * space.size for count in counts)  # an interval of everything holds the truth, too


def test_the_estimate_is_exact_where_all_descents_are_alike():
    space = NASBench201()
    count = estimate_architectures(space, np.random.default_rng(0), 10)
    assert count.value == pytest.approx(15_625)
    assert count.low == pytest.approx(count.high)


def test_what_a_space_knows_is_not_estimated():
    size = ChainCNN().size
    assert count_architectures(ChainCNN(), np.random.default_rng(0)) == Count(size, size, size)


def test_a_size_beyond_all_floats_is_estimated():
    count = count_architectures(Vast(), np.random.default_rng(0))
    assert count.value == math.inf
    assert "more than 10^308" in str(count)


@pytest.mark.parametrize(("space", "networks"), [(NASBench201, 6_466), (NASBenchMacro, 3_969)])
def test_different_networks_are_counted_in_published_spaces(space, networks):
    assert count_networks(space(), np.random.default_rng(0)) == Count(networks, networks, networks)


@pytest.mark.parametrize(("space", "networks"), [(NASBench201, 6_466), (NASBenchMacro, 3_969)])
def test_the_lower_bound_is_hardly_ever_above_the_truth_and_says_something(space, networks):
    made = space()
    bounds = [networks_at_least(made, np.random.default_rng(seed), 2_000) for seed in range(100)]
    assert sum(bound > networks for bound in bounds) <= 5
    assert np.median(bounds) > networks / 2


def test_the_bound_holds_where_every_architecture_is_another_network():
    bounds = [networks_at_least(NASBenchGraph(), np.random.default_rng(seed), 2_000) for seed in range(20)]
    truth = len({NASBenchGraph().canonical(a) for a in map(tuple, NASBenchGraph().all_architectures().tolist())})
    assert sum(bound > truth for bound in bounds) <= 2
    assert min(bounds) >= 1_800  # those that were met


def test_a_space_too_large_to_list_gets_a_bound():
    count = count_networks(ChainCNN(), np.random.default_rng(0))
    assert not count.is_exact
    assert str(count).startswith("at least ")
    assert count.low <= ChainCNN().size


def test_counts_are_repeated_by_the_seed():
    first, again, other = (count_networks(ChainCNN(), np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first == again != other


def test_no_more_is_counted_than_time_allows():
    over = time.monotonic() - 1.0
    assert count_networks(NASBench201(), np.random.default_rng(0), over).high == math.inf
    counts = [estimate_architectures(ChainCNN(), np.random.default_rng(0), n, over) for n in (500, 20_000)]
    assert counts[0] == counts[1]
    assert networks_at_least(ChainCNN(), np.random.default_rng(0), 20_000, over) < 10_000
