import csv
import gzip
import os
import pickle
import time
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from nasenv.errors import InputError
from nasenv.spaces.nas_bench_201 import EDGES, NAMES, OPERATIONS, NASBench201
from nasenv.task import Images, Task

REPOSITORY = Path(__file__).resolve().parents[2]
ALL_CELLS = list(product(range(5), repeat=6))
FREE_OPERATIONS = [OPERATIONS.index(o) for o in ("none", "skip_connect", "avg_pool_3x3")]


def published_params(cell, classes=10):
    counts = Counter(OPERATIONS[c] for c in cell)
    return 73_306 + 65 * (classes - 10) + 28_000 * counts["nor_conv_1x1"] + 243_040 * counts["nor_conv_3x3"]


def built_params(space, cell):
    with torch.device("meta"):
        return sum(p.numel() for p in space.build(cell).parameters())


@pytest.fixture(scope="module")
def table():
    folder = Path(os.environ.get("NASENV_BENCHMARKS", REPOSITORY.parent / "shared" / "benchmarks"))
    file = folder / "nas_bench_201.csv.gz"
    if not file.exists():
        pytest.skip(f"the published table is not there: {file} (NASENV_BENCHMARKS names its folder)")
    with gzip.open(file, "rt") as lines:
        return list(csv.DictReader(lines))


def test_classes_are_the_published_ones_on_every_row(table):
    space = NASBench201()
    cells = [space.from_text(row["architecture"]) for row in table]
    assert len(set(cells)) == len(cells) == space.size == 15_625
    pairs = {(space.canonical(c), row["isomorphism_class"]) for c, row in zip(cells, table, strict=True)}
    # as many pairs as names on either side: the two partitions are the same
    assert len(pairs) == len({ours for ours, _ in pairs}) == len({theirs for _, theirs in pairs}) == 6_466


def test_formula_gives_the_published_parameters_of_every_row(table):
    space = NASBench201()
    for row in table:
        cell = space.from_text(row["architecture"])
        assert int(row["cifar10_params"]) == published_params(cell)
        assert int(row["cifar100_params"]) == published_params(cell, classes=100)


def test_networks_have_the_parameters_of_the_formula():
    # `build` gives edge e of a cell a module that depends on nothing but its operation, and none, skip and pooling
    # own no parameters: checking every operation at every edge, and every pair of counts of the two convolutions,
    # leaves no cell whose sum could be another.
    space = NASBench201()
    for edge, operation in product(range(6), range(5)):
        cell = [0] * 6
        cell[edge] = operation
        assert built_params(space, tuple(cell)) == published_params(cell)
    rng = np.random.default_rng(0)
    for ones, threes in [(i, j) for i in range(7) for j in range(7 - i)]:
        free = rng.choice(FREE_OPERATIONS, 6 - ones - threes).tolist()
        cell = rng.permutation([2] * ones + [3] * threes + free)
        assert built_params(space, tuple(cell.tolist())) == published_params(cell)
    of_100 = NASBench201(task=Task(Images((3, 32, 32)), outputs=100))
    assert built_params(of_100, (0,) * 6) == published_params((0,) * 6, classes=100)


def test_representative_is_the_first_member_of_its_class():
    space = NASBench201()
    seen = set()
    for cell in ALL_CELLS:
        representative = space.canonical(cell)
        assert space.canonical(representative) == representative == space.check(representative)
        assert representative == cell or representative in seen
        seen.add(representative)
    assert len(seen) == 6_466


def test_canonical_form_is_cheap_and_travels_light():
    space = NASBench201()
    space.canonical((0,) * 6)
    start = time.perf_counter()
    for cell in ALL_CELLS[:2_000]:
        space.canonical(cell)
    assert (time.perf_counter() - start) / 2_000 < 50e-6
    assert len(pickle.dumps(space)) < 5_000


def published_cell(cell, network_cell, x):
    """Compute a cell the long way: every edge, zeros for none, and for a convolution of nothing."""
    nodes = [x, *(torch.zeros_like(x) for _ in range(3))]
    for e, (i, j) in enumerate(EDGES):
        if cell[e] != 0 and nodes[i].any():
            nodes[j] = nodes[j] + network_cell.edges[NAMES[e]](nodes[i])
    return nodes[3]


def test_leaving_out_edges_that_bring_nothing_changes_no_output():
    space = NASBench201(channels=2, cells=1, task=Task(Images((1, 6, 6)), outputs=10))
    for cell in space.sample(150, np.random.default_rng(1)):
        network_cell = space.build(cell)[2].eval()
        x = torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(network_cell(x), published_cell(cell, network_cell, x))


@pytest.mark.parametrize("cell", [(3, 4, 1, 0, 3, 4), (3, 0, 0, 0, 0, 3), (0,) * 6], ids=["whole", "dead", "empty"])
@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 1, 1), (2, 5, 3), (3, 32, 32)], ids=str)
def test_every_shape_trains(cell, shape):
    space = NASBench201(channels=3, cells=1, task=Task(Images(shape), outputs=4))
    network = space.build(cell)
    logits = network(torch.randn(2, *shape))
    assert logits.shape == (2, 4)
    logits.sum().backward()
    assert network[-1].weight.grad is not None


def test_reference_is_the_residual_network_of_the_paper():
    space = NASBench201()
    cell = space.reference()
    assert space.check(cell) == cell
    assert space.to_text(cell) == "|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|skip_connect~2|"
    diagram = space.diagram(cell)
    assert len(diagram.nodes) == 4
    assert diagram.edges == (
        (0, 1, "nor_conv_3x3"),
        (1, 2, "nor_conv_3x3"),
        (0, 3, "skip_connect"),
        (2, 3, "skip_connect"),
    )
    assert space.diagram(cell[:2]).edges == ((0, 1, "nor_conv_3x3"),)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected a cell written as"),
        ("|none~0|", "expected a cell written as"),
        ("|none~0|+|none~0|none~0|+|none~0|none~1|none~2|", "expected a cell written as"),
        ("|none~0|+|none~0|none~1|+|none~0|none~1|nor_conv_7x7~2|", "got 'nor_conv_7x7'"),
    ],
)
def test_text_of_another_form_is_refused(text, reason):
    with pytest.raises(InputError, match=reason):
        NASBench201().from_text(text)


@pytest.mark.parametrize("wrong", [{"channels": 0}, {"cells": -1}])
def test_sizes_must_be_positive(wrong):
    with pytest.raises(InputError, match="must be an integer of 1 or more"):
        NASBench201(**wrong)
