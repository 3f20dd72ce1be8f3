"""Spaces defined by run; ChainCNN and NASBench201, written as functions, are the classes."""

import importlib
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from nasenv.errors import InputError
from nasenv.evaluators.training import TrainingEvaluator
from nasenv.search.budget import Budget
from nasenv.search.search import Search
from nasenv.spaces import chain_cnn, nas_bench_201, questions
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.spaces.define_by_run import FunctionSpace
from nasenv.spaces.nas_bench_201 import NASBench201
from nasenv.task import Images, Table, Task
from tests.fakes import TASK

DATA = (np.random.default_rng(0).random((60, 1, 8, 8), dtype=np.float32), np.arange(60) % 10)

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
        {name.partition(".")[2]: answer for name, answer in answers.items() if name.startswith(f"layer{i}.")}
        for i in range(1, answers["depth"] + 1)
    ]
    kept = [layer for layer in layers if layer["operation"] != "identity" or layer["skip"] == "yes"] or layers[:1]
    shorter = {f"layer{i}.{part}": answer for i, layer in enumerate(kept, 1) for part, answer in layer.items()}
    return {"depth": len(kept)} | shorter


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


cell.canonical = first_of_class


def images(*shape):
    return Task(Images(shape), outputs=5)


@pytest.mark.parametrize(
    ("function", "space"),
    [
        (short_chain, ChainCNN(3, (16,), images(1, 2, 2))),
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
    architectures = space.sample(100, np.random.default_rng(0))
    rows = np.array(architectures)
    for t in range(space.num_decisions):
        np.testing.assert_array_equal(ours.mask(rows[:, :t]), space.mask(rows[:, :t]))
    np.testing.assert_array_equal(ours.masks(rows), space.masks(rows))
    assert list(map(ours.canonical, architectures)) == list(map(space.canonical, architectures))
    actions = np.random.default_rng(1).integers(-9, 99, rows.shape)
    assert ours.complete(actions) == space.complete(actions)


def plain_chain(choose, task):
    return chain(choose, task)  # nothing is met when the space is made, since there is no canonical form to check


def test_room_is_made_for_whatever_is_met(monkeypatch):
    monkeypatch.setattr(questions, "_FIRST_ROOM", 1)
    kind = ChainCNN()
    ours = FunctionSpace(plain_chain)
    architecture = kind.sample(1, np.random.default_rng(0))[0]
    for t in range(kind.num_decisions + 1):  # one question more each
        assert ours._meaningful(architecture[:t]) == kind._meaningful(architecture[:t])


# Runs


RUNS = []  # the answers of each run so far, in order; "end" where it came to its end


def counted_runs(choose, task):
    RUNS.append([])
    for i in range(choose("depth", (0, 1, 2, 3))):
        RUNS[-1].append(choose(f"width{i}", (2, 4, 8)))
    RUNS[-1].append("end")
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(task.outputs))


def test_a_run_ends_at_the_first_question_without_an_answer_and_what_it_finds_is_kept():
    space = FunctionSpace(counted_runs, images(1, 2, 2))
    RUNS.clear()
    for _ in range(2):
        masks = space.mask(np.array([[2, 1], [2, 1], [0, 0]])).tolist()
        assert masks == [[True, True, True, False]] * 2 + [[True, False, False, False]]
        assert RUNS == [[4], ["end"]]
    RUNS.clear()
    rows = np.array([[3, 0, 1, 2], [3, 0, 2, 1], [1, 1, 9, 9], [3, 0, 1, 2]])
    assert space.complete(rows) == [(3, 0, 1, 2), (3, 0, 2, 1), (1, 1, 0, 0), (3, 0, 1, 2)]
    assert RUNS == [[2, 4], [4, "end"], [2, 8]]  # one run a row, which ends at the last decision at the latest
    space.masks(np.array(space.complete(rows)))
    assert len(RUNS) == 3


def test_names_are_found_with_few_runs():
    RUNS.clear()
    assert [d.name for d in FunctionSpace(counted_runs).decisions] == ["depth", "width0", "width1", "width2"]
    assert len(RUNS) < 100


def test_a_copy_for_a_worker_process_is_small():
    space = FunctionSpace(counted_runs)
    before = len(pickle.dumps(space))
    assert space.size == 1 + 3 + 9 + 27
    copy = pickle.loads(pickle.dumps(space))
    assert len(pickle.dumps(space)) == before
    assert copy.fingerprint() == space.fingerprint()
    np.testing.assert_array_equal(copy.all_architectures(), space.all_architectures())


def test_size_is_known_up_to_a_limit_which_is_no_part_of_the_identity():
    space, same = FunctionSpace(counted_runs, most_listed=39), FunctionSpace(counted_runs, most_listed=40)
    assert (space.size, same.size) == (None, 40)
    assert space.fingerprint() == same.fingerprint()
    with pytest.raises(InputError, match="FunctionSpace has too many architectures to list, more than 39"):
        space.all_architectures()


# What depends on more than names


def looks_at_numbers(choose, task):
    width = choose("width", (2, 4, 8))
    rates = [float(rate) for rate in torch.linspace(0, 0.5, width)]  # fails on the meta device
    choose("rate", (0.1, rates[-1]))
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(width), nn.Dropout(rates[-1]), nn.Linear(width, task.outputs))


def test_a_function_that_looks_at_numbers_runs_on_the_cpu_and_leaves_the_generator_alone():
    state = torch.random.get_rng_state()
    space = FunctionSpace(looks_at_numbers)
    assert [d.name for d in space.decisions] == ["width", "rate"]
    assert space.size == 6
    assert torch.equal(torch.random.get_rng_state(), state)


def fails_when_wide(choose, task):
    width = choose("width", (2, 4, 8))
    layer = nn.MultiheadAttention(width, choose("heads", (1, 2, 3)))  # 3 heads divide none
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Linear(layer.embed_dim, task.outputs))


def test_what_the_function_raises_fails_that_architecture():
    space = FunctionSpace(fails_when_wide)
    assert space.size == 9
    assert space.build((1, 1))
    with pytest.raises(AssertionError, match="divisible"):
        space.build((1, 2))


def misses_a_name(choose, task):
    digits = [choose(f"digit{i}", range(10)) for i in range(6)]
    if digits == [9] * 6:
        choose("rare", (1, 2))
    if digits == [8] * 6:
        choose("digit7", (1, 2))
        choose("digit0", range(9))
    return nn.Sequential(nn.Flatten(), nn.Linear(64, task.outputs))


def test_a_name_that_first_appears_later_fails_that_trial_and_says_how_to_declare_it():
    space = FunctionSpace(misses_a_name, TASK)
    assert space.num_decisions == 6
    search = Search(space, TrainingEvaluator(space, DATA, epochs=1, concurrency=0), budget=Budget(evaluations=3))
    first, late, last = search.evaluate([(1,) * 6, (9,) * 6, (2,) * 6])
    assert first.measurement.error is None
    assert last.measurement.error is None
    assert (
        "misses_a_name asks for 'rare' after digit0=9,digit1=9,digit2=9,digit3=9,digit4=9,digit5=9, which no run did "
        "that looked for the decisions; ask for it in every run, always at the same place, and where it does not "
        "matter with one choice: choose('rare', (1, 2), allowed=(1,))"
    ) in late.measurement.error
    with pytest.raises(InputError, match="asks for 'digit7' after"):
        space.build((8,) * 6)


def declares_it(choose, task):
    digits = [choose(f"digit{i}", range(10)) for i in range(6)]
    choose("rare", (1, 2), allowed=(1, 2) if digits == [9] * 6 else (1,))
    return nn.Sequential(nn.Flatten(), nn.Linear(64, task.outputs))


def test_a_name_that_is_declared_so_is_a_decision():
    space = FunctionSpace(declares_it, TASK)
    assert space.mask(np.array([[9] * 6, [9] * 5 + [8]]))[:, :2].tolist() == [[True, True], [True, False]]
    assert space.build((9,) * 6 + (1,))


def asks_twice(choose, task):
    width = choose("width", (2, 4, 8))
    assert choose("width", (2, 4, 8)) == width
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(task.outputs))


def test_a_name_asked_for_again_has_the_same_answer():
    assert FunctionSpace(asks_twice).size == 3


def changes_its_mind(choose, task):
    RUNS.append([])
    choose("a", (1, 2))
    choose(f"b{len(RUNS) // 200}", (1, 2))
    return nn.Flatten()


def test_a_function_that_asks_for_something_else_each_time_is_refused():
    RUNS.clear()
    space = FunctionSpace(changes_its_mind)
    RUNS.extend([[]] * 400)
    assert space.mask(np.array([[0]])).sum() == 1
    with pytest.raises(InputError, match="asks for 'b2' after a=1"):
        space.build((0, 0))


# What a user can get wrong


def nothing(choose, task):
    return nn.Flatten()


def never_works(choose, task):
    raise ZeroDivisionError("by zero") if choose("a", (1, 2)) else None


def both_orders(choose, task):
    first, second = ("a", "b") if choose("c", (1, 2)) == 1 else ("b", "a")
    return choose(first, (1, 2)) + choose(second, (1, 2))


def other_choices(choose, task):
    depth = choose("depth", (1, 2))
    choose("width", (8, 16)[:depth])
    return nn.Flatten()


def asks_for_a_text(choose, task):
    choose("a", "relu")


def asks_for_classes(choose, task):
    choose("a", (nn.ReLU, nn.GELU))


def allows_nothing(choose, task):
    choose("a", (1, 2), allowed=())


def allows_another(choose, task):
    choose("a", (1, 2), allowed=(2, 3))


def forgets_its_answer(choose, task):
    choose("a", (1, 2))
    choose("a", (1, 2), allowed=(2,))


def with_a_comma(choose, task):
    choose("a,b", (1, 2))


def takes_no_task(choose):
    choose("a", (1, 2))


def refuses_the_task(choose, task):
    task.check_inputs(Table, "refuses_the_task")


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (nothing, "nothing asks for nothing"),
        (never_works, r"never_works fails in line \d+ of .*test_define_by_run.py: ZeroDivisionError: by zero"),
        (both_orders, "both_orders asks for '[ab]' before '[ab]' in some runs, and after it in others"),
        (other_choices, r"asks for 'width' with the choices \(.*\), and elsewhere with \(.*\); .* allowed"),
        (asks_for_a_text, "the choices of 'a' must be a list or tuple"),
        (asks_for_classes, "name it by a text"),
        (allows_nothing, r"allowed must be some of the choices \(1, 2\) of 'a', got \(\)"),
        (allows_another, r"allowed must be some of the choices \(1, 2\) of 'a', got \(2, 3\)"),
        (forgets_its_answer, r"'a' was 1 of \(1, 2\), and is asked for again with \[2\] allowed"),
        (with_a_comma, "no , or ="),
        (takes_no_task, "network is called with choose and task, but takes_no_task: too many"),
        (refuses_the_task, "refuses_the_task reads table"),
        (lambda choose, task: None, "network must be a function, class or method that worker processes can import"),
        ("my_file.network", "network must be a function"),
    ],
)
def test_a_function_that_cannot_be_a_space_is_refused(function, reason):
    with pytest.raises(InputError, match=reason) as raised:
        FunctionSpace(function)
    assert "\n" not in str(raised.value)


def test_what_is_no_task_is_refused():
    with pytest.raises(InputError, match="FunctionSpace: task must be a"):
        FunctionSpace(pair, (1, 8, 8))


def returns_nothing(choose, task):
    choose("a", (1, 2))


def test_a_function_that_returns_no_network_is_refused():
    with pytest.raises(InputError, match=r"returns_nothing must return a torch.nn.Module, got None"):
        FunctionSpace(returns_nothing).build((0,))


def pair(choose, task):
    hidden = choose("depth", (0, 1)) and choose("width", (2, 4, 8))
    return nn.Sequential(nn.Flatten(), *([nn.LazyLinear(hidden)] if hidden else []), nn.LazyLinear(task.outputs))


@pytest.mark.parametrize(
    ("attribute", "value", "reason"),
    [
        ("reference", {"depth": 1}, r"pair.reference: expected width of \[2, 4, 8\], got None"),
        ("reference", {"depth": 3}, r"pair.reference: expected depth of \[0, 1\], got 3"),
        ("reference", {"depht": 1}, r"pair.reference must be answers by name, of depth, width; got {'depht': 1}"),
        ("reference", (1, 2), "pair.reference must be answers by name"),
        ("canonical", lambda answers: None, "pair.canonical must be answers by name"),
        (
            "canonical",
            lambda answers: {"depth": 1 - answers["depth"], "width": 2},
            "must return one of all equivalents",
        ),
    ],
)
def test_attributes_that_cannot_be_are_refused(monkeypatch, attribute, value, reason):
    monkeypatch.setattr(pair, attribute, value, raising=False)
    with pytest.raises(InputError, match=reason):
        FunctionSpace(pair)


def test_attributes_name_the_reference_and_the_representatives(monkeypatch):
    monkeypatch.setattr(pair, "reference", {"depth": 1, "width": 4}, raising=False)
    monkeypatch.setattr(pair, "canonical", lambda answers: answers | {"depth": 0}, raising=False)
    space = FunctionSpace(pair)
    assert space.to_text(space.reference()) == "depth=1,width=4"
    assert space.canonical(space.reference()) == (0, 0)  # width is in what canonical returns, and not asked for


SOURCE = """
from torch import nn

def network(choose, task):
    return nn.Linear(choose("width", (1, 2)), {outputs})

network.canonical = lambda answers: {canonical}
"""


def test_fingerprints_follow_the_source(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    prints = set()
    for i, (outputs, canonical) in enumerate([("1", "answers"), ("2", "answers"), ("1", "dict(answers)")]):
        (tmp_path / f"same{i}.py").write_text(SOURCE.format(outputs=outputs, canonical=canonical))
        network = importlib.import_module(f"same{i}").network
        network.__module__ = "same"
        prints.add(FunctionSpace(network).fingerprint())
    assert len(prints) == 3
