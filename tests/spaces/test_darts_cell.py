from fractions import Fraction
from itertools import permutations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from nasenv.errors import InputError
from nasenv.spaces.darts_cell import OPERATIONS, PAIRS, DARTSCell
from nasenv.training.trainer import count_costs
from tests.fakes import TASK

# Genotypes as published, and the parameters (millions) and multiply-adds (millions) that are said of the network of 20
# cells of 36 channels on CIFAR-10: darts: github.com/quark0/darts, README, and FairDARTS; pc_darts, p_darts, mde_nas,
# snas, fair_darts: github.com/xiaomi-automl/FairDARTS, fairdarts/genotypes.py; sgas: github.com/lightaime/sgas,
# cnn/genotypes.py, Cri1_CIFAR_1, Cri1_CIFAR_3, Cri2_CIFAR_3. The order of a node's inputs is the published one.
PUBLISHED = {
    "darts": (
        "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
        "('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], "
        "normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), "
        "('max_pool_3x3', 1), ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], "
        "reduce_concat=[2, 3, 4, 5])",
        3.349,
        528,
    ),
    "pc_darts": (
        "Genotype(normal=[('sep_conv_3x3', 1), ('skip_connect', 0), ('sep_conv_3x3', 0), ('dil_conv_3x3', 1), "
        "('sep_conv_5x5', 0), ('sep_conv_3x3', 1), ('avg_pool_3x3', 0), ('dil_conv_3x3', 1)], "
        "normal_concat=range(2, 6), reduce=[('sep_conv_5x5', 1), ('max_pool_3x3', 0), ('sep_conv_5x5', 1), "
        "('sep_conv_5x5', 2), ('sep_conv_3x3', 0), ('sep_conv_3x3', 3), ('sep_conv_3x3', 1), ('sep_conv_3x3', 2)], "
        "reduce_concat=range(2, 6))",
        3.63,
        558,
    ),
    "p_darts": (
        "Genotype(normal=[('skip_connect', 0), ('dil_conv_3x3', 1), ('skip_connect', 0),('sep_conv_3x3', 1), "
        "('sep_conv_3x3', 1), ('sep_conv_3x3', 3), ('sep_conv_3x3',0), ('dil_conv_5x5', 4)], "
        "normal_concat=range(2, 6), reduce=[('avg_pool_3x3', 0), ('sep_conv_5x5', 1), ('sep_conv_3x3', 0), "
        "('dil_conv_5x5', 2), ('max_pool_3x3', 0), ('dil_conv_3x3', 1), ('dil_conv_3x3', 1), ('dil_conv_5x5', 3)], "
        "reduce_concat=range(2, 6))",
        3.43,
        532,
    ),
    "mde_nas": (
        "Genotype(normal=[('sep_conv_5x5', 1), ('sep_conv_3x3', 0), ('skip_connect', 0), ('sep_conv_5x5', 1), "
        "('sep_conv_5x5', 3), ('sep_conv_3x3', 1), ('dil_conv_5x5', 3), ('max_pool_3x3', 4)], "
        "normal_concat=range(2, 6), reduce=[('max_pool_3x3', 0), ('sep_conv_5x5', 1), ('skip_connect', 0), "
        "('skip_connect', 1), ('sep_conv_3x3', 3), ('skip_connect', 2), ('dil_conv_3x3', 3), ('sep_conv_5x5', 0)], "
        "reduce_concat=range(2, 6))",
        3.78,
        599,
    ),
    "snas": (
        "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('skip_connect', 0), ('dil_conv_3x3', 1), "
        "('skip_connect', 1), ('skip_connect', 0), ('skip_connect',0),  ('sep_conv_3x3', 1)], "
        "normal_concat=range(2, 6), reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('max_pool_3x3', 1), "
        "('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), ('dil_conv_5x5', 2)], "
        "reduce_concat=range(2, 6))",
        2.66,
        422,
    ),
    "sgas": (
        "Genotype(normal=[('skip_connect', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_5x5', 1), "
        "('sep_conv_3x3', 1), ('sep_conv_3x3', 2), ('dil_conv_5x5', 2), ('dil_conv_3x3', 3)], "
        "normal_concat=range(2, 6), reduce=[('max_pool_3x3', 0), ('dil_conv_3x3', 1), ('sep_conv_3x3', 0), "
        "('sep_conv_5x5', 2), ('max_pool_3x3', 1), ('skip_connect', 2), ('skip_connect', 2), ('skip_connect', 3)], "
        "reduce_concat=range(2, 6))",
        3.75,
        None,
    ),
    "sgas, criterion 1, the best": (
        "Genotype(normal=[('sep_conv_3x3', 0), ('dil_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
        "('sep_conv_5x5', 1), ('sep_conv_5x5', 3), ('skip_connect', 0), ('dil_conv_5x5', 2)], "
        "normal_concat=range(2, 6), reduce=[('max_pool_3x3', 0), ('dil_conv_5x5', 1), ('sep_conv_3x3', 0), "
        "('skip_connect', 2), ('sep_conv_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 0), ('max_pool_3x3', 1)], "
        "reduce_concat=range(2, 6))",
        3.80,
        None,
    ),
    "sgas, criterion 2, the best": (
        "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 2), "
        "('max_pool_3x3', 0), ('sep_conv_3x3', 3), ('sep_conv_3x3', 2), ('sep_conv_3x3', 3)], "
        "normal_concat=range(2, 6), reduce=[('sep_conv_3x3', 0), ('max_pool_3x3', 1), ('dil_conv_3x3', 0), "
        "('max_pool_3x3', 1), ('max_pool_3x3', 0), ('sep_conv_3x3', 2), ('max_pool_3x3', 0), ('sep_conv_5x5', 2)], "
        "reduce_concat=range(2, 6))",
        4.09,
        None,
    ),
}
DARTS = PUBLISHED["darts"][0]
SPACE = DARTSCell(channels=2, task=TASK)
WIRINGS = list(product(range(3), range(6), range(10)))


def cell(wiring, operations):
    """Return the decisions of a cell."""
    (w3, w4, w5), o = wiring, operations
    return (*o[:2], w3, *o[2:4], w4, *o[4:6], w5, *o[6:])


def published_network(text):
    space = DARTSCell(channels=36, cells=20, stem_stride=1)
    with torch.device("meta"):
        return space.build(space.from_text(text))


def edges(decisions):
    """Return a cell as a set of (node, input, operation)."""
    pairs = {2: (0, 1), 3: PAIRS[3][decisions[2]], 4: PAIRS[4][decisions[5]], 5: PAIRS[5][decisions[8]]}
    return {(j, i, decisions[3 * (j - 2) + k]) for j, pair in pairs.items() for k, i in enumerate(pair)}


def orbit(decisions):
    """Return a cell under all numberings of its nodes, also those in which a node stands before its input."""
    for order in permutations((2, 3, 4, 5)):
        number = dict(zip((0, 1, 2, 3, 4, 5), (0, 1, *order), strict=True))
        yield tuple(sorted((number[j], number[i], o) for j, i, o in edges(decisions)))


@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_have_the_published_parameters(name):
    text, millions, _ = PUBLISHED[name]
    params = sum(p.numel() for p in published_network(text).parameters())
    assert round(params / 1e6, max(2, len(str(millions)) - 2)) == millions


def test_networks_have_the_published_multiply_adds():
    text, _, multiply_adds = PUBLISHED["darts"]
    costs = count_costs(published_network(text), (3, 32, 32), torch.device("meta"))
    assert costs["flops"] / 2e6 == pytest.approx(multiply_adds, abs=1)


def test_the_space_has_the_published_size():
    assert SPACE.size == (180 * 7**8) ** 2
    assert SPACE.num_decisions == 22
    assert len(WIRINGS) == 180


def test_classes_of_cells_with_two_operations_are_those_of_the_numbering_of_nodes():
    rng = np.random.default_rng(0)
    first = {}
    for wiring in WIRINGS:
        for operations in [(0,) * 8, (1,) * 8, (0, 1) * 4, *rng.integers(2, size=(4, 8)).tolist()]:
            decisions = cell(wiring, operations)
            found = SPACE.canonical((*decisions, *decisions))[:11]
            assert first.setdefault(min(orbit(decisions)), found) == found
            assert edges(found) in [set(o) for o in orbit(decisions)]
    assert len(set(first.values())) == len(first)


def test_the_number_of_classes_is_the_stated_one():
    # Burnside: for each wiring the sum, over numberings that leave it as it is, of 7^cycles; a class of wirings is met
    # once for each of its numberings that is possible, so that each wiring counts for the share that it is of its class
    total = Fraction(0)
    for wiring in WIRINGS:
        plain = edges(cell(wiring, (0,) * 8))
        possible, fixed = set(), []
        for order in permutations((2, 3, 4, 5)):
            number = dict(zip((0, 1, 2, 3, 4, 5), (0, 1, *order), strict=True))
            moved = {(number[j], number[i]): (j, i) for j, i, _ in plain}
            if all(j > i for j, i in moved):
                possible.add(frozenset(moved))
            if set(moved) == {(j, i) for j, i, _ in plain}:
                fixed.append(moved)
        cycles = [len({min(_cycle(moved, edge)) for edge in moved}) for moved in fixed]
        total += Fraction(sum(7**c for c in cycles), len(fixed) * len(possible))
    assert total == 382_128_166
    assert f"{float(total**2):.3g}" == "1.46e+17"
    assert "1.46 x 10^17 classes" in DARTSCell.__doc__


def _cycle(moved, edge):
    cycle = [edge]
    while moved[cycle[-1]] != edge:
        cycle.append(moved[cycle[-1]])
    return cycle


def test_members_of_a_class_have_as_many_parameters_and_the_same_features():
    rng = np.random.default_rng(0)
    moved = [a for a in SPACE.sample(200, rng) if SPACE.canonical(a) != a]
    assert len(moved) > 100
    for a in moved[:5]:
        one, other = (sum(p.numel() for p in SPACE.build(x).parameters()) for x in (a, SPACE.canonical(a)))
        assert one == other
        np.testing.assert_array_equal(SPACE.features([a]), SPACE.features([SPACE.canonical(a)]))


def test_nodes_that_change_places_change_no_output():
    # nodes 2 and 3 of both cells read 0 and 1 alone: their numbers can be exchanged
    a = SPACE.from_text(DARTS.replace("('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0)", "X", 1).replace(
        "X", "('sep_conv_5x5', 0), ('skip_connect', 1), ('avg_pool_3x3', 0)"
    ))  # fmt: skip
    b = (a[3], a[4], a[2], a[0], a[1], *a[5:])
    b = (*b[:8], PAIRS[5].index((0, 3)), *b[9:])  # node 5 reads node 2, which is now 3
    assert SPACE.canonical(a) == SPACE.canonical(b)
    torch.manual_seed(0)
    one, other = SPACE.build(a).eval(), SPACE.build(b).eval()
    weights = one.state_dict()
    swapped = {"node2": "node3", "node3": "node2"}
    for name, value in other.state_dict().items():
        parts = name.split(".")
        normal = "normal" in parts
        source = ".".join(swapped.get(p, p) if normal else p for p in parts)
        value.copy_(weights[source])
    for i, preprocess in ((1, "preprocess1"), (2, "preprocess0")):  # which read the normal cell's output
        conv = [m for m in getattr(other.cells[i], preprocess).modules() if isinstance(m, torch.nn.Conv2d)]
        for m in conv:
            m.weight.data = torch.cat([m.weight.data[:, k : k + 2] for k in (2, 0, 4, 6)], dim=1)
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(one(x), other(x))


def test_genotypes_are_read_in_all_published_forms():
    architecture = SPACE.from_text(DARTS)
    assert SPACE.to_text(architecture) == DARTS.replace(
        "('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0)",
        "('skip_connect', 0), ('sep_conv_3x3', 1), ('skip_connect', 0)",
    ).replace(
        "('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), "
        "('max_pool_3x3', 1)",
        "('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 0), ('skip_connect', 2), ('max_pool_3x3', 1), "
        "('skip_connect', 2)",
    )
    assert SPACE.from_text(SPACE.to_text(architecture)) == architecture
    two_by_two = "Genotype(normal=[{}], normal_concat=range(2, 6), reduce=[{}], reduce_concat=(2, 3, 4, 5))"
    halves = [DARTS.split("[")[k].split("]")[0].split("), ") for k in (1, 3)]
    halves = [", ".join(f"[{a}), {b.rstrip(')')})]" for a, b in zip(h[::2], h[1::2], strict=True)) for h in halves]
    assert SPACE.from_text(two_by_two.format(*halves)) == architecture
    assert SPACE.from_text(DARTS.replace("[2, 3, 4, 5]", "range(2,6)").replace("'", '"')) == architecture


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=22, max_size=22), st.randoms())
def test_the_order_in_which_a_genotype_lists_a_nodes_inputs_means_nothing(choices, random):
    architecture = SPACE.complete(choices)[0]
    fields = SPACE.to_text(architecture).split("[")
    for k in (1, 3):
        inner, rest = fields[k].split("]")
        pairs = [p + ")" for p in inner.rstrip(")").split("), ")]
        nodes = [pairs[i : i + 2] for i in range(0, 8, 2)]
        for node in nodes:
            random.shuffle(node)
        fields[k] = ", ".join(p for node in nodes for p in node) + "]" + rest
    assert SPACE.from_text("[".join(fields)) == architecture


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("'skip_connect', 2", "'none', 2", "operations of max_pool_3x3"),
        ("'skip_connect', 2", "'skip_connect', 3", "two on different earlier nodes"),
        ("('skip_connect', 2), ", "", "8 pairs"),
        ("'dil_conv_3x3', 2", "'dil_conv_3x3', 0", "two on different earlier nodes"),
        ("'dil_conv_3x3', 2", "'dil_conv_3x3', '2'", "two on different earlier nodes"),
        ("[2, 3, 4, 5]", "[4, 5]", "concatenates nodes 2 to 5"),
        ("[2, 3, 4, 5]", "range(10**9)", "expected a genotype"),
        ("reduce_concat", "concat", "expected a genotype"),
        ("Genotype", "print", "expected a genotype"),
        ("('skip_connect', 2)", "__import__('os')", "expected a genotype"),
        (")", "", "expected a genotype"),
        ("Genotype", 3_000 * "(" + "Genotype", "expected a genotype"),
        ("Genotype", 3_000 * "-" + "Genotype", "expected a genotype"),
        ("Genotype", 30_000 * "-" + "Genotype", "expected a genotype"),
        ("reduce_concat", "\0", "expected a genotype"),
    ],
)
def test_text_of_another_form_is_refused(old, new, message):
    with pytest.raises(InputError, match=message) as error:
        SPACE.from_text(DARTS.replace(old, new))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_a_small_network_learns_digits():
    space = DARTSCell(channels=4, task=TASK)
    digits = load_digits()
    x, y = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32), torch.tensor(digits.target)
    torch.manual_seed(0)
    network = space.build(space.reference())
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for start in 2 * list(range(0, 1_200, 100)):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(x[start : start + 100]), y[start : start + 100]).backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = (network(x[1_200:]).argmax(1) == y[1_200:]).float().mean()  # with the statistics of these pictures
    assert accuracy > 0.4, accuracy


def test_features_count_operations_and_follow_paths():
    parts = SPACE.feature_parts([SPACE.reference(), SPACE.from_text(DARTS)])
    assert {name: part.shape for name, part in parts.items()} == {
        "edges": (2, 196),
        "counts": (2, 14),
        "paths": (2, 14),
    }
    skip, convolution = OPERATIONS.index("skip_connect"), OPERATIONS.index("sep_conv_3x3")
    assert parts["counts"][0].nonzero()[0].tolist() == [skip, convolution, 7 + skip, 7 + convolution]
    # node 2: 1/2 of each; 3: 1/2 + 1/4; 4: 1/2 + (1/2 + 3/4) / 2; 5: 1/2 + (3/4 + 9/8) / 2
    assert parts["paths"][0, skip] == 0.5 + 0.75 + 1.125 + 1.4375
    assert parts["edges"].sum(axis=1).tolist() == [16, 16]


def test_pictures_show_both_cells():
    diagram = SPACE.diagram(SPACE.from_text(DARTS))
    assert len(diagram.nodes) == 14
    assert diagram.nodes[5] == "normal 5\nskip_connect of 0\ndil_conv_3x3 of 2"
    assert (0, 5, "") in diagram.edges
    assert (2, 5, "") in diagram.edges
    assert len(SPACE.diagram(SPACE.reference()[:4]).nodes) == 4


def test_a_large_picture_is_halved_by_the_stem():
    assert [DARTSCell(task=task).stem_stride for task in (TASK, DARTSCell().task)] == [1, 2]
    assert DARTSCell(stem_stride=1).stem_stride == 1


@pytest.mark.parametrize("wrong", [{"channels": 0}, {"cells": 2}, {"stem_stride": 0}, {"cells": "many"}])
def test_sizes_that_mean_nothing_are_refused(wrong):
    with pytest.raises(InputError, match="must be an integer of"):
        DARTSCell(**wrong)
