"""Spaces defined by run; ChainCNN and NASBench201, written as functions, are the classes."""

import numpy as np
import pytest
from torch import nn

from nasenv.spaces import chain_cnn, nas_bench_201
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.spaces.define_by_run import FunctionSpace
from nasenv.spaces.nas_bench_201 import NASBench201
from nasenv.task import Images, Task

# The same spaces as functions


def chain(choose, task, max_layers=6, widths=(8, 16, 32)):
    side, before, last = min(task.shape[1:]), task.shape[0], task.shape[0]
    layers, shortcuts, has_pool, changes = nn.ModuleDict(), nn.ModuleDict(), False, True
    for i in range(1, choose("depth", range(1, max_layers + 1)) + 1):
        fits = {o: [k for k in kernels if k <= 2 * side - 1] for o, kernels in chain_cnn.KERNELS_OF.items()}
        operation = choose(f"layer{i}.operation", chain_cnn.OPERATIONS, [o for o in fits if fits[o]])
        kernel = choose(f"layer{i}.kernel", chain_cnn.KERNELS, fits[operation])
        width = choose(f"layer{i}.width", widths) if operation in ("conv", "sep_conv") else last
        skip = choose(f"layer{i}.skip", ("no", "yes"), ("no", "yes") if i > 1 and changes else ("no",))
        if skip == "yes":
            shortcuts[f"layer{i}"] = chain_cnn._shortcut(before, last, stride=2 if has_pool else 1)
        layers[f"layer{i}"] = chain_cnn._operation(operation, kernel, last, width)
        changes = operation != "identity" or skip == "yes"
        before, last, has_pool = last, width, operation.endswith("_pool")
        side = (side + 1) // 2 if has_pool else side
    return chain_cnn.ChainNetwork(layers, shortcuts, nn.Linear(last, task.outputs))


def without_identities(answers):
    layers = [
        {
            part: answers[f"layer{i}.{part}"]
            for part in ("operation", "kernel", "width", "skip")
            if f"layer{i}.{part}" in answers
        }
        for i in range(1, answers["depth"] + 1)
    ]
    kept = [layer for layer in layers if layer["operation"] != "identity" or layer["skip"] == "yes"] or layers[:1]
    return {"depth": len(kept)} | {
        f"layer{i}.{part}": a for i, layer in enumerate(kept, 1) for part, a in layer.items()
    }


def short_chain(choose, task):
    return chain(choose, task, 3, (16,))


def thin_chain(choose, task):
    return chain(choose, task, 2, (4, 8))


chain.canonical = short_chain.canonical = thin_chain.canonical = without_identities


def cell(choose, task, channels=4, cells=1):
    operations = [choose(name, nas_bench_201.OPERATIONS) for name in nas_bench_201.NAMES]
    space = NASBench201(channels, cells, task)
    return space.build(tuple(map(nas_bench_201.OPERATIONS.index, operations)))


def first_of_class(answers):
    row = tuple(map(nas_bench_201.OPERATIONS.index, answers.values()))
    representative = nas_bench_201._representatives()[row]
    return dict(zip(answers, (nas_bench_201.OPERATIONS[c] for c in representative), strict=True))


def cell_of_three_edges(choose, task):
    fixed = {name: "none" for name in nas_bench_201.NAMES[3:]}
    return cell(lambda name, choices: fixed.get(name) or choose(name, choices), task)


cell.canonical = first_of_class


def images(*shape):
    return Task(Images(shape), outputs=5)


@pytest.mark.parametrize(
    ("function", "space"),
    [
        (short_chain, ChainCNN(3, (16,), images(1, 4, 4))),
        (thin_chain, ChainCNN(2, (4, 8), images(3, 5, 9))),
        (thin_chain, ChainCNN(2, (4, 8), images(3, 1, 1))),
    ],
)
def test_a_chain_as_a_function_has_the_masks_and_canonical_sets_of_the_class(function, space):
    ours = FunctionSpace(function, space.task)
    assert ours.decisions == space.decisions
    rows = space.all_architectures()
    np.testing.assert_array_equal(ours.all_architectures(), rows)
    assert ours.size == space.size
    np.testing.assert_array_equal(ours.masks(rows), space.masks(rows))
    architectures = list(map(tuple, rows.tolist()))
    assert list(map(ours.canonical, architectures)) == list(map(space.canonical, architectures))


@pytest.mark.parametrize(("function", "kind"), [(chain, ChainCNN), (cell, NASBench201)])
def test_a_large_space_as_a_function_is_the_class(function, kind):
    space = kind(task=images(3, 8, 8))
    ours = FunctionSpace(function, space.task)
    assert ours.decisions == space.decisions
    assert ours.size is None
    architectures = space.sample(150, np.random.default_rng(0))
    rows = np.array(architectures)
    for t in range(space.num_decisions):
        np.testing.assert_array_equal(ours.mask(rows[:, :t]), space.mask(rows[:, :t]))
    np.testing.assert_array_equal(ours.masks(rows), space.masks(rows))
    assert list(map(ours.canonical, architectures)) == list(map(space.canonical, architectures))
    actions = np.random.default_rng(1).integers(-9, 99, rows.shape)
    assert ours.complete(actions) == space.complete(actions)
