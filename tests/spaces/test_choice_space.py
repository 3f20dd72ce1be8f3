import importlib
import math
import os
import pickle
import subprocess
import sys
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nasenv.errors import InputError
from nasenv.spaces.choice_space import ChoiceSpace
from nasenv.task import Images, Task

TESTS = Path(__file__).parents[1]


def build_linear(task, **choices):
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(task.shape), task.outputs))


@pytest.fixture
def encoders(monkeypatch):
    monkeypatch.syspath_prepend(TESTS)
    return importlib.import_module("transformer_space").Encoders


# Constraints between decisions a, b, c, ..., each true for a random set of choices


@st.composite
def spaces_and_architectures(draw):
    """A space made of random constraints, and the architectures that a plain loop over all combinations finds."""
    names = "abcdef"[: draw(st.integers(1, 6))]
    choices = {name: tuple(range(draw(st.integers(1, 4)))) for name in names}
    constraints, checks = [], []
    for _ in range(draw(st.integers(0, 3))):
        reads = draw(st.permutations(names))[: draw(st.integers(1, 3))]
        combinations = list(product(*(choices[name] for name in reads)))
        kept = draw(st.sets(st.sampled_from(combinations)))
        constraints.append(eval(f"lambda {', '.join(reads)}: ({', '.join(reads)},) in kept", {"kept": kept}))
        checks.append((["abcdef".index(name) for name in reads], kept))
    architectures = [
        architecture
        for architecture in product(*choices.values())
        if all(tuple(architecture[t] for t in reads) in kept for reads, kept in checks)
    ]
    return choices, constraints, architectures


@settings(max_examples=150, deadline=None)
@given(spaces_and_architectures(), st.integers(0, 2**32 - 1))
def test_episodes_reach_all_architectures_that_keep_the_constraints_and_no_other(case, seed):
    choices, constraints, architectures = case
    if not architectures:
        with pytest.raises(InputError, match="no choices keep all of: constraint"):
            ChoiceSpace(choices, build_linear, constraints)
        return
    space = ChoiceSpace(choices, build_linear, constraints)
    assert space.size == len(architectures)
    reached = np.zeros((1, 0), dtype=np.int64)
    for _ in choices:
        mask = space.mask(reached)
        assert mask.shape == (len(reached), space.max_choices)
        assert mask.any(axis=1).all()  # no dead end
        rows, actions = np.nonzero(mask)
        reached = np.column_stack([reached[rows], actions])
    assert sorted(map(tuple, reached.tolist())) == sorted(architectures)
    rng = np.random.default_rng(seed)
    assert set(space.sample(5, rng)) | set(space.complete(rng.integers(-9, 9, (5, len(choices))))) <= set(architectures)


def test_masks_look_ahead_when_groups_interleave():
    space = ChoiceSpace(
        {"a": (1, 2, 3), "b": ("x", "y"), "c": (1, 2), "free": (0, 1, 2, 3, 4), "d": ("x", "z")},
        build_linear,
        [lambda c, a: a == c + 1, lambda d, b: b == d],
    )
    assert space.mask(np.zeros((2, 0), dtype=np.int64)).tolist() == [[False, True, True, False, False]] * 2
    assert space.mask(np.array([[1], [2]])).tolist() == [[True, False, False, False, False]] * 2
    assert space.mask(np.array([[1, 0], [2, 0]]))[:, :2].tolist() == [[True, False], [False, True]]
    assert space.size == 2 * 1 * 5
    with pytest.raises(InputError, match=r"'b' of ChoiceSpace; valid here: \['x'\]"):
        space.check((1, 7, 0, 0, 0))


def test_many_combinations_are_quick():
    names = [f"d{i}" for i in range(16)]
    pairs = [eval(f"lambda {x}, {y}: {x} <= {y}") for x, y in pairwise(names)]
    space = ChoiceSpace({name: (0, 1) for name in names}, build_linear, pairs)
    assert space.size == 17
    single = ChoiceSpace({n: tuple(range(18)) for n in "abcd"}, build_linear, [lambda a, b, c, d: a + b + c + d == 9])
    assert single.size == math.comb(12, 3)


# The encoders of the README


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 8, 8), (3, 5, 7)])
def test_encoders_build_and_train_on_every_shape(encoders, shape):
    space = encoders(task=Task(Images(shape), outputs=3))
    for architecture in [*space.sample(6, np.random.default_rng(0)), space.reference()]:
        assert space.from_text(space.to_text(architecture)) == space.canonical(architecture) == architecture
        logits = space.build(architecture)(torch.randn(2, *shape))
        assert logits.shape == (2, 3)
        logits.sum().backward()


def test_encoders_know_their_size(encoders):
    space = encoders()
    pairs = [(d, h) for d in (12, 16, 24, 32, 48) for h in (1, 2, 3, 4, 6, 8) if d % h == 0]
    assert space.size == 4 * len(pairs) * 2 * 3
    assert space.to_text(space.reference()) == "num_layers=2,hidden_dim=32,num_heads=4,activation=gelu,dropout=0.1"


def test_a_copy_in_another_process_is_the_same_space(encoders, tmp_path):
    space = encoders()
    file = tmp_path / "space"
    file.write_bytes(pickle.dumps(space))
    code = (
        "import pickle, sys; space = pickle.load(open(sys.argv[1], 'rb'));"
        "print(space.fingerprint(), space.size, type(space.build(space.reference())).__name__)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    command = [sys.executable, "-c", code, str(file)]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == [space.fingerprint(), str(space.size), "Sequential"]


def test_a_copy_of_a_space_used_directly_keeps_fingerprint_and_configuration():
    space = ChoiceSpace({"a": (1, 2), "b": ((1, 2), (3, 4))}, build_linear, [lambda a, b: a in b])
    copy = pickle.loads(pickle.dumps(space))
    assert copy.fingerprint() == space.fingerprint()
    assert copy.config() == space.config()
    assert copy.size == space.size == 2
    assert pickle.loads(pickle.dumps(copy)).fingerprint() == space.fingerprint()


def test_fingerprint_follows_what_constraints_allow():
    def limited(limit):
        return ChoiceSpace({"a": (1, 2, 3)}, build_linear, [lambda a: a <= limit])

    assert limited(2).fingerprint() == limited(2).fingerprint() != limited(1).fingerprint()


def test_text_keeps_choices_with_commas():
    space = ChoiceSpace({"kernel": ((1, 3), (3, 5)), "name": ("a,b=c", "d")}, build_linear)
    for architecture in product(range(2), repeat=2):
        assert space.from_text(space.to_text(architecture)) == architecture
    for wrong in ("kernel=(1, 3),name", "nonsense", "kernel=(1, 3),nonsense,name=d"):
        with pytest.raises(InputError):
            space.from_text(wrong)


# What a user can get wrong

AB = {"a": (1, 2), "b": (0, 3)}


@pytest.mark.parametrize(
    ("constraint", "reason"),
    [
        (lambda a, bee: True, r"constraint 1, <lambda>\(a, bee\), reads 'bee', which is not a decision; .* b"),
        (lambda *names: True, "must name the decisions"),
        (lambda **names: True, "must name the decisions"),
        (lambda a, *, b: True, "must name the decisions"),
        (lambda: True, "must name the decisions"),
        (lambda b, a: a % b == 0, r"raised ZeroDivisionError\(.*\) for b=0, a=1"),
        (lambda a: a - 1, "must return True or False, got 0 for a=1"),
        (lambda a: a > 2, r"no choices keep all of: constraint 1, <lambda>\(a\)"),
        ("a > b", "constraint 1 must be a function"),
        (max, "constraint 1 must be a function"),
    ],
)
def test_a_constraint_that_cannot_be_used_is_named(constraint, reason):
    with pytest.raises(InputError, match=reason) as raised:
        ChoiceSpace(AB, build_linear, [constraint])
    assert "\n" not in str(raised.value)


def test_constraints_that_contradict_each_other_are_named():
    with pytest.raises(InputError, match=r"constraint 1, .*\(a, b\); constraint 2, .*\(b\)"):
        ChoiceSpace(AB, build_linear, [lambda a, b: b > a, lambda b: b == 0])


def test_too_many_joined_combinations_are_refused():
    wide = {name: tuple(range(60)) for name in "abcd"}
    with pytest.raises(InputError, match="constraints join 4 decisions with 12,960,000 combinations"):
        ChoiceSpace(wide, build_linear, [lambda a, b: True, lambda b, c: True, lambda c, d: True])
    assert ChoiceSpace(wide, build_linear, [lambda a, b: a == b]).size == 60**3


def needs_depth(task, depth):
    return nn.Identity()


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda **_: nn.Identity(), "build must be a function, class or method that worker processes can import"),
        (nn.Identity(), "build must be a function"),
        (needs_depth, "build is called with task, a, b, but needs_depth: "),
    ],
)
def test_a_build_that_cannot_be_used_is_refused(build, reason):
    with pytest.raises(InputError, match=reason):
        ChoiceSpace(AB, build)


def build_nothing(task, a, b):
    return None


def test_a_build_that_returns_no_network_is_refused():
    with pytest.raises(InputError, match=r"build_nothing must return a torch.nn.Module, got None"):
        ChoiceSpace(AB, build_nothing).build((0, 0))


@pytest.mark.parametrize(
    ("choices", "reason"),
    [
        ({}, "one or more decisions"),
        ([("a", (1, 2))], "choices must be a dict"),
        ({"a": ()}, "one or more distinct choices"),
        ({"a": (1, True)}, "distinct choices"),
        ({"a": (1, "1")}, "must differ as text"),
        ({"a": "relu"}, "must be a list or tuple"),
        ({"a": {1, 2}}, "must be a list or tuple"),
        ({"a": (nn.ReLU, nn.GELU)}, "name it by a text"),
        ({"a": ([1], [2])}, "name it by a text"),
        ({"task": (2, 3)}, "other than task"),
        ({3: (2, 3)}, "other than task"),
        ({"a,b": (2, 3)}, "no , or =: 'a,b'"),
    ],
)
def test_choices_that_cannot_be_used_are_refused(choices, reason):
    with pytest.raises(InputError, match=reason):
        ChoiceSpace(choices, build_linear)


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ({"a": 1}, "must be a dict with a choice for each of a, b"),
        ((1, 0), "must be a dict with a choice for each of a, b"),
        ({"a": 1, "b": 0, "c": 2}, "must be a dict with a choice for each of a, b"),
        ({"a": 5, "b": 0}, r"reference's a must be of \(1, 2\), got 5"),
        ({"a": 1, "b": 0}, "breaks a constraint: choice 0 is not valid for decision 'b'"),
    ],
)
def test_a_reference_that_is_no_architecture_is_refused(reference, reason):
    with pytest.raises(InputError, match=reason):
        ChoiceSpace(AB, build_linear, [lambda a, b: b > a], reference=reference)
