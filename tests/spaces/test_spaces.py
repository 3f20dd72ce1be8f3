"""The contract that every search space keeps; what is particular to one space has a test file of its own."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nasenv.errors import InputError
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.spaces.choice_space import ChoiceSpace
from nasenv.spaces.darts_cell import DARTSCell
from nasenv.spaces.define_by_run import FunctionSpace
from nasenv.spaces.encoder import Encoder
from nasenv.spaces.grammar import Grammar
from nasenv.spaces.mobile_net import MobileNet
from nasenv.spaces.nas_bench_201 import NASBench201
from nasenv.spaces.nas_bench_graph import NASBenchGraph
from nasenv.spaces.nas_bench_macro import NASBenchMacro
from nasenv.spaces.res_net import ResNet
from nasenv.spaces.space import Decision, SearchSpace
from nasenv.spaces.synthetic import SyntheticSpace
from nasenv.task import Images, Task
from tests.fakes import TASK

Shape = tuple[int, int, int]


class Plain(SearchSpace):
    """A space that writes nothing but `build`."""

    def __init__(self, task: Task) -> None:
        super().__init__([Decision("width", (2, 4, 8)), Decision("bias", (False, True))], task)

    def build(self, architecture):
        width, bias = (d.choices[c] for d, c in zip(self.decisions, architecture, strict=True))
        size = int(np.prod(self.task.shape))
        return nn.Sequential(nn.Flatten(), nn.Linear(size, width, bias), nn.ReLU(), nn.Linear(width, self.task.outputs))


def build_perceptron(task: Task, width: int, divisor: int) -> nn.Module:
    size, hidden = int(np.prod(task.shape)), width // divisor
    return nn.Sequential(nn.Flatten(), nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, task.outputs))


def choice_space(task: Task) -> ChoiceSpace:
    return ChoiceSpace(
        {"width": (8, 9, 12), "divisor": (1, 2, 3)},
        build=build_perceptron,
        constraints=[lambda width, divisor: width % divisor == 0],
        reference={"width": 12, "divisor": 1},
        task=task,
    )


def build_by_run(choose, task):
    channels, side, layers = task.shape[0], min(task.shape[1:]), []
    for i in range(choose("depth", (0, 1, 2, 3))):
        width = choose(f"width{i}", (2, 4), allowed=(2, 4) if i == 0 or channels == 4 else (2,))
        if choose(f"operation{i}", ("conv", "identity")) == "conv":
            kernel = choose(f"kernel{i}", (1, 3, 5), allowed=[k for k in (1, 3, 5) if k <= side])
            layers += [nn.Conv2d(channels, width, kernel, padding="same"), nn.BatchNorm2d(width)]
            channels = width
        if choose(f"pool{i}", (False, True), allowed=(False, True) if side > 3 else (False,)):
            layers, side = [*layers, nn.MaxPool2d(2)], side // 2
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, task.outputs))


def without_idle_widths(answers):
    idle = [f"width{i}" for i in range(answers["depth"]) if answers[f"operation{i}"] == "identity"]
    return answers | dict.fromkeys(idle, 2)


build_by_run.canonical = without_idle_widths
build_by_run.reference = {"depth": 1, "width0": 4, "operation0": "conv", "kernel0": 3, "pool0": False}


# To put a space under the contract, add a line: a name, and how to make it for a task: 5 classes of small images.
SPACES: dict[str, Callable[[Task], SearchSpace]] = {
    "Plain": Plain,
    "ChainCNN": lambda task: ChainCNN(max_layers=4, widths=(4, 8), task=task),
    "DARTSCell": lambda task: DARTSCell(channels=2, task=task),
    "Encoder": lambda task: Encoder(task=task),
    "MobileNet": lambda task: MobileNet(task=task),
    "NASBench201": lambda task: NASBench201(channels=2, cells=1, task=task),
    "NASBenchMacro": lambda task: NASBenchMacro(channels=2, features=4, task=task),
    "NASBenchGraph": lambda task: NASBenchGraph(task=task),
    "ResNet": lambda task: ResNet(task=task),
    "SyntheticSpace": lambda task: SyntheticSpace(layers=2, widths=(4, 8), task=task),
    "ChoiceSpace": choice_space,
    "Grammar": lambda task: Grammar(channels=2, task=task),
    "FunctionSpace": lambda task: FunctionSpace(build_by_run, task),
}
TABLE_ONLY = {"NASBenchGraph", "SyntheticSpace"}  # their `build` refuses
SHAPES: list[Shape] = [(1, 4, 4), (3, 5, 9), (1, 8, 8), (3, 32, 32)]
CASES = [(name, shape) for name in SPACES for shape in SHAPES]

needs_networks = pytest.mark.parametrize(
    "case", [(name, shape) for name, shape in CASES if name not in TABLE_ONLY], ids=str, indirect=True
)


def images(shape: Shape) -> Task:
    return Task(Images(shape), outputs=5)


@dataclass
class Case:
    space: SearchSpace
    twin: SearchSpace  # made the same way
    other: SearchSpace  # of another input shape
    architectures: list[tuple[int, ...]]


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request):
    name, shape = request.param
    make = SPACES[name]
    space = make(images(shape))
    architectures = space.sample(24, np.random.default_rng(7)) + ([space.reference()] if space.reference() else [])
    return Case(space, make(images(shape)), make(images((2, 6, 6))), architectures)


def valid_choices(space: SearchSpace, prefix: tuple[int, ...]) -> list[int]:
    mask = space.mask(np.array(prefix, dtype=np.int64).reshape(1, -1))
    return [int(c) for c in np.flatnonzero(mask[0])]


def test_a_mask_has_a_valid_choice_and_none_beyond_the_decisions_choices(case):
    rows = np.array(case.architectures)
    for t, decision in enumerate(case.space.decisions):
        mask = case.space.mask(rows[:, :t])
        assert mask.shape == (len(rows), case.space.max_choices)
        assert mask.dtype == bool
        assert mask.any(axis=1).all()
        assert not mask[:, len(decision.choices) :].any()
        assert mask[np.arange(len(rows)), rows[:, t]].all()


def test_a_row_of_a_mask_does_not_depend_on_its_neighbours(case):
    rows = np.array(case.architectures)
    for t in range(case.space.num_decisions):
        one_by_one = np.concatenate([case.space.mask(row[None, :t]) for row in rows])
        np.testing.assert_array_equal(case.space.mask(rows[:, :t]), one_by_one)
        assert case.space.mask(rows[:0, :t]).shape == (0, case.space.max_choices)


def test_masks_are_the_callers_to_change(case):
    prefixes = np.array(case.architectures)[:, : case.space.num_decisions - 1]
    before = case.space.mask(prefixes).copy()
    case.space.mask(prefixes)[:] = False
    np.testing.assert_array_equal(case.space.mask(prefixes), before)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_row_of_actions_means_a_valid_architecture(case, data):
    space = case.space
    actions = data.draw(st.lists(st.integers(-9, 99), min_size=space.num_decisions, max_size=space.num_decisions))
    expected: tuple[int, ...] = ()
    for action in actions:
        valid = valid_choices(space, expected)
        expected += (action if action in valid else valid[action % len(valid)],)
    assert space.complete(actions) == [expected]
    assert space.check(expected) == expected
    assert space.check(space.canonical(expected)) == space.canonical(expected)
    assert space.canonical(space.canonical(expected)) == space.canonical(expected)
    assert space.from_text(space.to_text(expected)) == expected


def test_samples_are_valid_and_follow_from_the_generator(case):
    assert all(case.space.check(a) == a for a in case.architectures)
    again = case.space.sample(24, np.random.default_rng(7))
    assert again == case.architectures[:24]
    assert len(set(case.space.sample(24, np.random.default_rng(8)))) > 1
    assert case.space.sample(0, np.random.default_rng(7)) == []


def test_texts_differ_where_architectures_do(case):
    texts = {case.space.to_text(a) for a in case.architectures}
    assert len(texts) == len(set(case.architectures))
    assert all("\n" not in text for text in texts)


@pytest.mark.parametrize("text", ["", "nonsense", "a=1,a=2", "|||", "£"])
def test_a_text_of_another_form_is_an_input_error(case, text):
    with pytest.raises(InputError) as error:
        case.space.from_text(text)
    assert "\n" not in str(error.value)


def test_words_leave_out_what_had_one_valid_choice(case):
    for architecture in case.architectures:
        for t in range(case.space.num_decisions + 1):
            taken = [
                (d.name, d.choices[c])
                for i, (d, c) in enumerate(zip(case.space.decisions, architecture[:t], strict=False))
                if len(valid_choices(case.space, architecture[:i])) > 1
            ]
            assert case.space._meaningful(architecture[:t]) == taken


def test_neighbours_are_valid_distinct_and_reached_by_mutation(case):
    rng = np.random.default_rng(0)
    for architecture in case.architectures[:4]:
        neighbours = case.space.neighbours(architecture)
        assert neighbours
        assert len(set(neighbours)) == len(neighbours)
        assert architecture not in neighbours
        assert all(case.space.check(a) == a for a in neighbours)
        assert {case.space.mutate(architecture, rng) for _ in range(10)} <= set(neighbours)


@needs_networks
def test_every_architecture_builds_and_trains_a_step(case):
    torch.manual_seed(0)
    images_nchw = torch.randn(3, *case.space.task.shape)
    labels = torch.tensor([0, 1, 2])
    for architecture in [*case.architectures[:8], *case.architectures[24:]]:
        network = case.space.build(architecture).to(memory_format=torch.channels_last)
        logits = network(images_nchw.to(memory_format=torch.channels_last))
        assert logits.shape == (3, 5)
        nn.functional.cross_entropy(logits, labels).backward()
        assert torch.isfinite(logits).all()
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        assert gradients
        assert all(torch.isfinite(g).all() for g in gradients)


@needs_networks
def test_a_network_does_not_look_at_the_rest_of_the_batch(case):
    images_nchw = torch.randn(3, *case.space.task.shape, generator=torch.Generator().manual_seed(0))
    for architecture in case.architectures[:4]:
        network = case.space.build(architecture).eval()
        with torch.no_grad():
            torch.testing.assert_close(network(images_nchw)[:1], network(images_nchw[:1]))


def test_fingerprints_tell_spaces_apart(case):
    assert case.space.fingerprint() == case.twin.fingerprint()
    assert case.space.fingerprint() != case.other.fingerprint()


def test_a_space_travels_to_a_worker_process(case):
    copy = pickle.loads(pickle.dumps(case.space))
    assert copy.fingerprint() == case.space.fingerprint()
    assert copy.sample(24, np.random.default_rng(7)) == case.architectures[:24]
    assert copy.config() == case.space.config()


def test_check_refuses_what_is_no_architecture_of_the_space(case):
    good = case.architectures[0]
    too_large = [(*good[:t], case.space.max_choices, *good[t + 1 :]) for t in range(len(good))]
    wrong = [good[:-1], (*good, 0), (-1, *good[1:]), (2**70, *good[1:]), (0.5, *good[1:]), None, "x" * len(good)]
    invalid = [
        (*good[:t], c, *good[t + 1 :])
        for t in range(len(good))
        for c in set(range(case.space.max_choices)) - set(valid_choices(case.space, good[:t]))
    ]
    for row in [*wrong, *too_large, *invalid]:
        with pytest.raises(InputError) as error:
            case.space.check(row)
        assert "\n" not in str(error.value)
    assert case.space.check(np.array(good)) == good
    assert all(type(c) is int for c in case.space.check(np.array(good)))


def test_diagrams_hold_together_at_every_step(case):
    for architecture in case.architectures[:4]:
        for t in range(len(architecture) + 1):
            diagram = case.space.diagram(architecture[:t])
            assert diagram.nodes
            assert all(0 <= a < b < len(diagram.nodes) for a, b, _ in diagram.edges)


@pytest.mark.parametrize("shape", [(8, 8), (1, 0, 8), (1, 8, 2.5), "abc"])
def test_a_shape_that_is_not_three_positive_integers_is_refused(shape):
    with pytest.raises(InputError, match=r"the shape of images is \(channels, height, width\), got"):
        Images(shape)
    with pytest.raises(InputError, match=r"Plain: task must be a nasenv\.Task"):
        Plain(shape)


def test_decisions_need_distinct_names_and_choices():
    with pytest.raises(InputError, match="distinct"):
        Decision("width", (8, 8))
    with pytest.raises(InputError, match="distinct"):
        Decision("width", ())

    class Twice(Plain):
        def __init__(self):
            SearchSpace.__init__(self, [Decision("a", (1,)), Decision("a", (2,))], TASK)

    with pytest.raises(InputError, match="distinct names"):
        Twice()


def test_size_of_a_space_without_formula_counts_its_architectures():
    assert Plain(TASK).size == 6
