import json
import os
from collections import defaultdict
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from nasenv.errors import InputError
from nasenv.spaces.nas_bench_macro import NASBenchMacro
from tests.fakes import TASK

REPOSITORY = Path(__file__).resolve().parents[2]
ARCHITECTURES = list(product(range(3), repeat=8))
STAGE_STARTS = (0, 2, 5)
WIDTHS_IN = (32, 64, 64, 128, 128, 128, 256, 256)


@pytest.fixture(scope="module")
def published():
    folder = Path(os.environ.get("NASENV_BENCHMARKS", REPOSITORY.parent / "shared" / "benchmarks"))
    file = folder / "nas-bench-macro_cifar10.json"
    if not file.exists():
        pytest.skip(f"the published table is not there: {file} (NASENV_BENCHMARKS names its folder)")
    return json.loads(file.read_text())


def formula_params(architecture):
    """Count weights, and two numbers a channel for each batch norm, by hand."""
    total = 3 * 9 * 32 + 2 * 32 + (256 * 1280 + 2 * 1280) + (1280 * 10 + 10)
    for layer, (choice, width_in) in enumerate(zip(architecture, WIDTHS_IN, strict=True)):
        width_out = 2 * width_in if layer in STAGE_STARTS else width_in
        if choice:
            expansion, kernel = ((3, 3), (6, 5))[choice - 1]
            hidden = expansion * width_in
            total += hidden * (width_in + 2) + hidden * (kernel**2 + 2) + width_out * (hidden + 2)
        elif layer in STAGE_STARTS:
            total += width_out * (width_in + 2)
    return total


def built_params(space, architecture):
    with torch.device("meta"):
        return sum(p.numel() for p in space.build(architecture).parameters())


def test_formula_gives_the_published_parameters_of_every_architecture(published):
    space = NASBenchMacro()
    assert {space.from_text(text) for text in published} == set(ARCHITECTURES)
    wrong = [t for t, row in published.items() if formula_params(space.from_text(t)) != row["params"]]
    assert wrong == []


def test_networks_have_the_parameters_of_the_formula():
    # a layer's module depends on nothing but its place and its choice: every pair of them is met here
    space = NASBenchMacro()
    alone = [tuple(c if i == layer else 0 for i in range(8)) for layer in range(8) for c in range(3)]
    for architecture in {*alone, (1,) * 8, (2,) * 8, *space.sample(40, np.random.default_rng(0))}:
        assert built_params(space, architecture) == formula_params(architecture)


def test_classes_are_the_published_ones(published):
    # its authors trained one member of a class and copied the figures to the others
    space = NASBenchMacro()
    figures = defaultdict(set)
    for text, row in published.items():
        figures[space.canonical(space.from_text(text))].add(json.dumps(row))
    assert len(figures) == 3_969
    assert all(len(rows) == 1 for rows in figures.values())
    assert len(set.union(*figures.values())) == 3_969


def test_members_of_a_class_are_one_network():
    space = NASBenchMacro(channels=4, features=8, task=TASK)
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for architecture in [(1, 0, 0, 0, 1, 2, 0, 1), (0, 2, 2, 0, 2, 0, 0, 2)]:
        one, other = space.build(architecture).eval(), space.build(space.canonical(architecture)).eval()
        for mine, theirs in zip(other.state_dict().values(), one.state_dict().values(), strict=True):
            mine.copy_(theirs)
        torch.testing.assert_close(one(x), other(x))
    first_is_something = space.build((0, 1, *[0] * 6)), space.build((1, 0, *[0] * 6))
    assert len({str([p.shape for p in network.parameters()]) for network in first_is_something}) == 2


def test_a_small_network_learns_digits():
    space = NASBenchMacro(channels=4, features=32, task=TASK)
    digits = load_digits()
    x = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32)
    y = torch.tensor(digits.target)
    torch.manual_seed(0)
    network = space.build(space.from_text("12100200"))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for start in 4 * list(range(0, 1_200, 60)):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(x[start : start + 60]), y[start : start + 60]).backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = (network.eval()(x[1_200:]).argmax(1) == y[1_200:]).float().mean()
    assert accuracy > 0.5, accuracy


def test_pictures_show_what_each_layer_does():
    space = NASBenchMacro()
    nodes = space.diagram(space.from_text("02012100")).nodes
    assert len(nodes) == 13
    assert nodes[2] == "conv 1x1\n64 channels, half the map"
    assert nodes[3] == "mb6_k5\n64 channels"
    assert nodes[4] == "conv 1x1\n128 channels, half the map"
    assert nodes[9] == "identity\n256 channels"
    assert len(space.diagram((1, 2)).nodes) == 4


@pytest.mark.parametrize("text", ["0201210", "020121000", "0201210\uff13", "3" * 8, "0,2,0,1,2,1,0,0"])
def test_text_of_another_form_is_refused(text):
    with pytest.raises(InputError, match="expected 8 digits, such as 02012100"):
        NASBenchMacro().from_text(text)


@pytest.mark.parametrize("wrong", [{"channels": 0}, {"features": 2.5}, {"channels": "many"}])
def test_sizes_must_be_positive_integers(wrong):
    with pytest.raises(InputError, match="must be an integer of 1 or more"):
        NASBenchMacro(**wrong)
